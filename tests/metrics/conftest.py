from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stylekit.assets import fetch
from stylekit.faces.align import face_matrix, warp
from stylekit.faces.finder import MeshFinder
from stylekit.images import read_rgb
from stylekit.metrics.measure import Batch

SIDE = 128


def aligned(names: tuple[str, ...]) -> Batch:
    """Return starter photographs cropped to 128 px, each as its own photograph."""
    folder, finder = fetch("starter-photos"), MeshFinder()
    pictures, landmarks = [], []
    for name in names:
        rgb = read_rgb(folder / f"{name}.jpg")
        five = finder.find(rgb)[0].landmarks_5
        matrix = face_matrix(five, "dctnet", SIDE)
        pictures.append(warp(rgb, matrix, SIDE))
        landmarks.append(five @ matrix[:, :2].T + matrix[:, 2])
    return Batch(np.stack(pictures), np.stack(landmarks).astype(np.float64), np.stack(pictures))


@pytest.fixture(scope="session")
def portraits(asset_home: Path) -> Batch:
    """Eight starter photographs: dark, tan and light skin, smiles, glances to either side."""
    names = ("bruce-mars", "kal-visuals-square", "brooke", "marie", "charles", "team-2")
    return aligned((*(f"soft-ui/{name}" for name in names), "tabler/female/12", "tabler/male/28"))


@pytest.fixture
def wretched() -> Batch:
    """Noise and a black picture with points that coincide, that are no numbers, and that lie far outside."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    noise[3] = 0
    some = np.array([(20.0, 25), (44, 25), (32, 36), (24, 46), (40, 46)])
    landmarks = np.stack([np.full((5, 2), 30.0), np.full((5, 2), np.nan), some + 500, some])
    return Batch(noise, landmarks, noise)
