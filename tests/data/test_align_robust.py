"""`align` as its own program: killed and started again, and on a folder of damaged files."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import zlib
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut

from stylekit.assets import fetch
from stylekit.config.schema import AlignRecipe
from stylekit.data import prepare
from stylekit.data.manifest import read_manifest
from stylekit.data.notes import Notes
from stylekit.data.prepare import align
from stylekit.errors import StylekitError

PORTRAIT = np.asarray(astronaut())
LOOSE = AlignRecipe(size=64, min_face_px=28, min_sharpness=6)
MAIN = "from stylekit.cli import main; main()"

pytestmark = pytest.mark.usefixtures("asset_home")


def crops(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = [*folder.glob("cropped/*"), *folder.glob("rejected/*")]
    whole = [path for path in files if not path.name.startswith(".")]
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in whole}


def encoded(rgb: np.ndarray, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.slow
def test_killed_twice_it_ends_as_if_never_stopped_and_does_nothing_noted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    photos = sorted(fetch("starter-photos").rglob("*.jpg"))[:60]
    for index, photo in enumerate(photos):
        (tmp_path / "in").mkdir(exist_ok=True)
        shutil.copy(photo, tmp_path / "in" / f"{index:02d}.jpg")
    command = [sys.executable, "-c", MAIN, "align", "in", "--output=out", "--processes=2", "--min-sharpness=5", "--json"]
    for least in (10, 30):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while len(crops(tmp_path / "out")) < least and process.poll() is None:
            time.sleep(0.01)
        assert process.poll() is None, "it ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(1)  # its workers notice
        assert not Path("out/manifest.jsonl").exists()
    with closing(sqlite3.connect("out/align.db")) as notes:
        ((noted,),) = notes.execute("SELECT count(*) FROM pictures").fetchall()
    last = subprocess.run(command, check=True, capture_output=True)
    assert json.loads(last.stdout)["changed"] == 60 - noted
    whole = align(Path("in"), kind="photo", output=Path("whole"), recipe=AlignRecipe(min_sharpness=5), processes=1)
    assert Path("out/manifest.jsonl").read_text() == whole.manifest.read_text()
    made, alone = crops(tmp_path / "out"), crops(tmp_path / "whole")
    assert {name: data for name, (_, data) in made.items()} == {name: data for name, (_, data) in alone.items()}
    assert not list((tmp_path / "out").rglob(".partial-*"))


def damaged_files(folder: Path, count: int, sound: list[bytes]) -> None:
    """Write files that are nearly pictures, each kind of harm in turn."""
    chance = random.Random(7)
    for index in range(count):
        data = bytearray(chance.choice(sound))
        path = folder / f"{index:04d}{chance.choice(('.jpg', '.png', '.webp', '.bmp', '.tif'))}"
        match index % 10:
            case 0 | 1:
                path.write_bytes(data[: chance.randrange(len(data))])
            case 2 | 3 | 4:
                for _ in range(chance.choice((1, 4, 60))):
                    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
                path.write_bytes(data)
            case 5:
                path.write_bytes(data[:200] + chance.randbytes(3000) + data[3200:])
            case 6:
                path.write_bytes(chance.randbytes(chance.randrange(4000)))
            case 7:
                path.write_bytes(data)  # of another kind than its suffix says
            case 8:
                path.write_bytes(huge_png(chance.choice((60_000, 2_000_000_000))))
            case 9:
                path.write_bytes(data * 2 if chance.random() < 0.5 else b"")


def huge_png(side: int) -> bytes:
    """Return a PNG that claims to be `side` px square, with a compressed stream that swells to many megabytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = side.to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    body = zlib.compress(bytes(1 << 22), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.slow
def test_a_thousand_damaged_files_are_each_accounted_for_once(tmp_path: Path):
    small = np.ascontiguousarray(PORTRAIT[:256, 100:356])
    frames = [Image.fromarray(np.roll(small, shift, 0)) for shift in (0, 9)]
    moving = [io.BytesIO(), io.BytesIO()]
    frames[0].save(moving[0], "GIF", save_all=True, append_images=frames[1:])
    frames[0].save(moving[1], "WEBP", save_all=True, append_images=frames[1:])
    sound = [encoded(small, kind) for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF")]
    sound += [encoded(small, "JPEG", progressive=True, quality=40), *(buffer.getvalue() for buffer in moving)]
    folder = tmp_path / "in"
    (folder / "x.jpg").mkdir(parents=True)
    (folder / "loop.png").symlink_to(folder / "loop.png")
    damaged_files(folder, 1000, sound)
    (folder / os.fsdecode(b"caf\xe9.jpg")).write_bytes(sound[0])
    (folder / ("n" * 240 + ".jpg")).write_bytes(sound[0])
    report = align(folder, kind="photo", output=tmp_path / "out", recipe=LOOSE, processes=2)
    lines = read_manifest(report.manifest)
    first = [line for line in lines if not line.face_index]
    assert len(first) == len({line.input for line in first}) == 1002
    assert {Path(line.input).name for line in first} >= {f"{path.name}" for path in folder.glob("[0-9]*.*")}
    assert all(line.reasons for line in lines if line.status != "used")
    files = [line.file for line in lines if line.file]
    assert len(files) == len(set(files)) == len(crops(tmp_path / "out"))
    assert report.used >= 1
    assert len(report.unreadable) > 300
    assert align(folder, kind="photo", output=tmp_path / "out", recipe=LOOSE, processes=2).changed == 0


def test_a_picture_that_kills_its_process_is_listed_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        (tmp_path / "in" / f"{name}.jpg").write_bytes(encoded(PORTRAIT, "JPEG"))
    monkeypatch.setattr(prepare, "PICTURE_LIMIT_S", 0.01)  # so that every process is killed
    report = align(tmp_path / "in", kind="photo", output=tmp_path / "out", recipe=LOOSE, processes=2)
    assert list(report.unreadable.values()) == ["could not be aligned: it was cut off after 0.01 s"] * 2
    monkeypatch.undo()
    report = align(tmp_path / "in", kind="photo", output=tmp_path / "out", recipe=LOOSE, processes=1)
    assert (report.changed, report.used, report.rejected, report.unreadable) == (2, 1, 1, {})


def test_two_at_once_do_not_write_the_same_set(tmp_path: Path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(encoded(PORTRAIT, "JPEG"))
    first = Notes(tmp_path / "out" / "align.db")
    under_way = tmp_path / "out" / "cropped" / ".partial-0"
    under_way.parent.mkdir()
    under_way.touch()
    with pytest.raises(StylekitError, match="another align is at work"):
        align(tmp_path / "in", kind="photo", output=tmp_path / "out", recipe=LOOSE)
    assert under_way.exists()
    first.close()
    assert align(tmp_path / "in", kind="photo", output=tmp_path / "out", recipe=LOOSE).used == 1


@pytest.mark.parametrize("rubbish", [b"no data base", b"SQLite format 3\0" + bytes(4096)])
def test_damaged_notes_are_begun_anew(tmp_path: Path, rubbish: bytes):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(encoded(PORTRAIT, "JPEG"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "align.db").write_bytes(rubbish)
    for changed in (1, 0):
        report = align(tmp_path / "in", kind="photo", output=tmp_path / "out", recipe=LOOSE)
        assert (report.changed, report.used) == (changed, 1)
