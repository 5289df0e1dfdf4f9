from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from skimage.data import astronaut

from stylekit.assets import fetch
from stylekit.faces.detect import FaceDetector
from stylekit.faces.landmarks import FaceMesh
from stylekit.images import read_rgb


@pytest.fixture(scope="session")
def detector(asset_home: Path) -> FaceDetector:
    return FaceDetector()


@pytest.fixture(scope="session")
def face_mesh(asset_home: Path) -> FaceMesh:
    return FaceMesh()


@pytest.fixture(scope="session")
def portrait() -> np.ndarray:
    """512 px of Eileen Collins, her face 94 px wide around (225, 127)."""
    return np.asarray(astronaut())


@pytest.fixture(scope="session")
def starter_photos(asset_home: Path) -> dict[str, np.ndarray]:
    """The starter photographs by their path without suffix, `tabler/male/18`."""
    folder = fetch("starter-photos")
    return {path.relative_to(folder).with_suffix("").as_posix(): read_rgb(path) for path in sorted(folder.rglob("*.jpg"))}
