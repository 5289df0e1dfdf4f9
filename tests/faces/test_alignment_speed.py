"""`align` held against face-alignment's S3FD and FAN-4 for time, and against dlib's 68 points for finds and agreement.

Run it alone, on an idle machine, and see the figures: pytest tests/faces/test_alignment_speed.py -m scale -s
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from stylekit.assets import fetch
from stylekit.data.prepare import align
from stylekit.faces.finder import DlibFinder, FanFinder, MeshFinder
from stylekit.images import list_images, read_rgb
from tests.faces.fan import write_random_weights

PHOTOGRAPHS = 246  # each of the starter set three times, turned by a few degrees
COMPARED = 9
SIDE = 512
ROUNDS = 3


def photographs(folder: Path) -> list[Path]:
    """Write the starter photographs as JPEG of 512 px, each several times, turned by a different angle."""
    folder.mkdir()
    sources = [read_rgb(path) for path in list_images(fetch("starter-photos"))]
    files = []
    for number in range(PHOTOGRAPHS):
        rgb = sources[number % len(sources)]
        turn, source = number // len(sources), rgb[..., ::-1]
        height, width = source.shape[:2]
        scale = SIDE / max(height, width)
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), 6 * turn, scale)
        matrix[:, 2] += (SIDE - width) / 2, (SIDE - height) / 2
        files.append(folder / f"{number:04}.jpg")
        picture = cv2.warpAffine(source, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        cv2.imwrite(str(files[-1]), picture, [cv2.IMWRITE_JPEG_QUALITY, 92])
    return files


@dataclass(frozen=True)
class Cost:
    """Seconds on the clock, and of all processors."""

    wall: float
    processor: float


def cost(work: Callable[[], object]) -> Cost:
    start, before = time.perf_counter(), sum(os.times()[:4])
    work()
    return Cost(time.perf_counter() - start, sum(os.times()[:4]) - before)


@pytest.mark.scale
@pytest.mark.timeout(3600)
def test_align_is_fifty_times_faster_than_face_alignment(tmp_path, monkeypatch, asset_home):
    """Ratio of medians on the clock; the processors' seconds stand beside it, which other work on the machine does not spoil."""
    pytest.importorskip("face_alignment")
    files = photographs(tmp_path / "photos")
    write_random_weights(tmp_path / "hub" / "checkpoints", finds=False)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    cores = os.cpu_count() or 1
    torch.set_num_threads(cores)
    network = FanFinder()._network
    finder = MeshFinder()

    def box(file: Path) -> np.ndarray:
        face = finder.find(read_rgb(file))[0].face
        return np.append(face.box, face.score)

    boxes = {file: box(file) for file in files[:COMPARED]}  # random weights find no face of their own

    def theirs(file: Path) -> None:
        rgb = read_rgb(file)
        network.face_detector.detect_from_image(rgb)
        network.get_landmarks_from_image(rgb, detected_faces=[boxes[file]])

    def ours(files: list[Path], name: str) -> None:
        report = align(files, kind="photo", output=tmp_path / name, processes=cores)
        assert report.used + report.rejected >= len(files)

    theirs(files[0])  # compiles
    starts, costs, their_costs = [], [], []
    for run in range(ROUNDS):
        starts.append(cost(partial(ours, files[:2], f"start{run}")))
        costs.append(cost(partial(ours, files, f"all{run}")))
        their_costs += [cost(partial(theirs, file)) for file in files[run:COMPARED:ROUNDS]]
    ratios = []
    for measure in ("wall", "processor"):
        start, whole, theirs_each = (
            float(np.median([getattr(each, measure) for each in kind])) for kind in (starts, costs, their_costs)
        )
        each, steady = whole / len(files), (whole - start) / (len(files) - 2)
        ratios.append(theirs_each / steady)
        print(
            f"\n{measure}: face-alignment {theirs_each * 1e3:.0f} ms a photograph, align {steady * 1e3:.1f} ms after a start of"
            f" {start:.1f} s, {each * 1e3:.1f} ms with it: {theirs_each / steady:.0f} and {theirs_each / each:.0f} times"
            f" ({cores} cores, {len(files)} photographs)"
        )
    assert ratios[0] >= 50


@pytest.mark.scale
def test_finds_and_agreement_beside_dlib(tmp_path, asset_home):
    pytest.importorskip("dlib")
    ours, theirs = MeshFinder(), DlibFinder()
    found = {"mesh": 0, "dlib": 0, "both": 0}
    errors = []
    files = photographs(tmp_path / "photos")[: len(list_images(fetch("starter-photos")))]
    for file in files:
        rgb = read_rgb(file)
        mine, other = ours.find(rgb), theirs.find(rgb)
        found["mesh"] += bool(mine)
        found["dlib"] += bool(other)
        if mine and other:
            eyes = float(np.linalg.norm(other[0].landmarks_5[1] - other[0].landmarks_5[0]))
            distances = [np.linalg.norm(each.landmarks_5 - other[0].landmarks_5, axis=1).mean() / eyes for each in mine]
            if min(distances) < 1:
                found["both"] += 1
                errors.append(min(distances))
    middle, most = np.percentile(errors, [50, 90])
    print(f"\n{found} of {len(files)}; distance in eye distances: median {middle:.3f}, 90 % below {most:.3f}")
    assert found["mesh"] >= found["dlib"]
    assert np.median(errors) < 0.07
