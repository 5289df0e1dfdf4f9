"""How many photographs a second this machine aligns."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from stylekit.assets import fetch
from stylekit.config.schema import AlignRecipe
from stylekit.data.prepare import AlignReport, align
from stylekit.images import list_images
from stylekit.progress import Progress, silent
from stylekit.speed.machine import Machine, describe

_PHOTOGRAPHS = "starter-photos"


@dataclass(frozen=True)
class AlignSpeed:
    """What aligning takes.

    Attributes:
        machine: The machine; all networks but face-alignment's run on its CPU.
        landmarks: What found the faces.
        pictures: Photographs.
        crops: Crops that were made of them.
        pictures_per_s: Loading the networks and writing the crops included.
    """

    machine: Machine
    landmarks: str
    pictures: int
    crops: int
    pictures_per_s: float


def bench_align(recipe: AlignRecipe | None = None, *, count: int = 24, progress: Progress = silent) -> AlignSpeed:
    """Align starter photographs, of which nothing is kept.

    Args:
        recipe: How faces are found, cropped and judged.
        count: Photographs, at most as many as there are.
        progress: Shows how far it is.

    Raises:
        AssetError: If a network or the photographs cannot be had.
    """
    recipe = recipe or AlignRecipe()
    with aligned(count, recipe, progress) as (_, report, elapsed_s):
        return AlignSpeed(
            describe(torch.device("cpu")), recipe.landmarks, report.pictures, report.used, report.pictures / elapsed_s
        )


@contextmanager
def aligned(
    count: int, recipe: AlignRecipe | None = None, progress: Progress = silent
) -> Iterator[tuple[Path, AlignReport, float]]:
    """Align starter photographs into a folder that is there while inside; give it, the report, and the seconds it took."""
    files = list_images(fetch(_PHOTOGRAPHS))[:count]
    with tempfile.TemporaryDirectory() as scratch:
        began = time.perf_counter()
        report = align(files, kind="photo", output=Path(scratch), recipe=recipe, progress=progress)
        yield Path(scratch), report, time.perf_counter() - began
