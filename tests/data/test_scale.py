"""Twenty thousand pictures: aligned with flat memory, killed twice, complete. `make scale`; STYLEKIT_SCALE sets the number."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from stylekit.assets import fetch
from stylekit.data.datasets import MEMORY_BYTES, PictureSet, list_pictures
from stylekit.data.manifest import read_manifest
from stylekit.faces.align import face_matrix, warp
from stylekit.faces.detect import FaceDetector
from stylekit.faces.landmarks import FaceMesh
from stylekit.images import read_rgb

COUNT = int(os.environ.get("STYLEKIT_SCALE", "20000"))
PARENT_KB = 7  # of memory for each picture; 6.1 were measured
ALIGN = "from stylekit.cli import main; main()"


def portraits() -> list[np.ndarray]:
    """Return starter photographs as FFHQ crops of 160 px, so that any two can be blended."""
    detector, mesh = FaceDetector(), FaceMesh()
    found = []
    for path in sorted(fetch("starter-photos").rglob("*.jpg")):
        rgb = read_rgb(path)
        if faces := detector.detect(rgb):
            found.append(warp(rgb, face_matrix(mesh.mesh(rgb, faces[0]).landmarks_5, "ffhq", 160), 160))
    return found


def picture(index: int, faces: list[np.ndarray]) -> bytes:
    """Return a JPEG that depends on nothing but the index: two people blended, toned, scaled, somewhere on a soft background."""
    random = np.random.default_rng(index)
    one, other = random.choice(len(faces), 2, replace=False)
    share = random.uniform(0.2, 0.8)
    face = cv2.addWeighted(faces[one], share, faces[other], 1 - share, 0)
    if random.random() < 0.5:
        face = face[:, ::-1]
    side = int(random.integers(130, 200))
    face = cv2.resize(face, (side, side)) * random.uniform(0.85, 1.1, 3) + random.uniform(-12, 12)
    scene = cv2.resize(random.integers(0, 255, (3, 3, 3), np.uint8), (224, 224), interpolation=cv2.INTER_CUBIC)
    left, top = random.integers(0, 225 - side, 2)
    scene[top : top + side, left : left + side] = np.clip(face, 0, 255)
    buffer = io.BytesIO()
    Image.fromarray(scene).save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def family_mb(process: subprocess.Popen) -> tuple[float, float]:
    """Return the resident memory of a process and of the largest of its children, in MB."""
    own, children = 0.0, [0.0]
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        except OSError:
            continue
        memory = float(fields.get("VmRSS", "0 kB").split()[0]) / 1024
        if int(fields["Pid"]) == process.pid:
            own = memory
        elif int(fields["PPid"]) == process.pid:
            children.append(memory)
    return own, max(children)


def crops(folder: Path) -> Iterator[os.DirEntry]:
    for name in ("cropped", "rejected"):
        if (folder / name).is_dir():
            yield from (entry for entry in os.scandir(folder / name) if not entry.name.startswith("."))


@pytest.mark.scale
@pytest.mark.timeout(4 * 3600)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory from /proc")
def test_tens_of_thousands_are_aligned_with_flat_memory_and_two_kills(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source, out = tmp_path / "faces.zip", tmp_path / "out"
    faces = portraits()
    with zipfile.ZipFile(source, "w") as archive:
        for index in range(COUNT):
            archive.writestr(f"{index // 1000:02d}/{index:05d}.jpg", picture(index, faces))
    command = [
        sys.executable,
        "-c",
        ALIGN,
        "align",
        str(source),
        "--output",
        str(out),
        "--min-sharpness",
        "0",
        "--processes",
        "2",
    ]
    marks: dict[int, tuple[float, float] | None] = dict.fromkeys((COUNT // 10, COUNT // 2, COUNT))
    peak, seconds, kills = (0.0, 0.0), 0.0, [COUNT * 3 // 10, COUNT * 6 // 10]
    made: dict[str, int] = {}
    while True:
        start = time.monotonic()
        with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            while process.poll() is None:
                time.sleep(0.5)
                now = family_mb(process)
                peak = max(peak[0], now[0]), max(peak[1], now[1])
                done = sum(1 for _ in crops(out))
                reached = [mark for mark, memory in marks.items() if memory is None and done >= mark * 0.98]
                marks |= dict.fromkeys(reached, peak)
                if kills and done >= kills[0]:
                    kills.pop(0)
                    process.kill()
                    process.wait()
                    time.sleep(2)  # the workers notice
                    made |= {entry.path: entry.stat().st_mtime_ns for entry in crops(out)}
                    break
            else:
                assert process.returncode == 0, process.stderr.read().decode()
                seconds += time.monotonic() - start
                break
        seconds += time.monotonic() - start
    marks = {mark: memory or peak for mark, memory in marks.items()} | {COUNT: peak}
    lines = read_manifest(out / "manifest.jsonl")
    status = Counter(line.status for line in lines)
    files = [line.file for line in lines if line.file]
    again = sum(Path(path).is_file() and Path(path).stat().st_mtime_ns != stamp for path, stamp in made.items())
    pictures = PictureSet(list_pictures(out, "train"), 256)
    before = resident_mb()
    for index in range(len(pictures)):
        pictures[index]
    read_mb = resident_mb() - before
    with capsys.disabled():
        print(f"\n{COUNT} pictures, {status['used']} used, {seconds:.0f} s, {1000 * seconds / COUNT:.1f} ms each")
        for mark, memory in marks.items():
            print(f"peak up to {mark}: parent {memory[0]:.0f} MB, worker {memory[1]:.0f} MB")
        print(f"crops made again after a kill: {again} of {len(made)}; reading {len(pictures)}: +{read_mb:.0f} MB")
    assert [line.input for line in lines if not line.face_index] == [
        f"{source.as_posix()}/{index // 1000:02d}/{index:05d}.jpg" for index in range(COUNT)
    ]
    assert len(files) == len(set(files)) == sum(1 for _ in crops(out))
    assert status["used"] > COUNT / 2
    assert again <= max(400, COUNT // 10)  # what the last seconds before each kill had not noted yet
    assert marks[COUNT][0] < marks[COUNT // 10][0] + 40 + COUNT * PARENT_KB / 1000
    assert marks[COUNT][1] < marks[COUNT // 10][1] + 40
    kept = len(pictures) * 256 * 256 * 3
    assert read_mb < 40 + (kept / 1e6 if kept <= MEMORY_BYTES else 0)


def resident_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return float(status.partition("VmRSS:")[2].split()[0]) / 1024
