"""Whether the photographs are still split between training and evaluation as they were when a run was trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from stylekit.data.datasets import is_described, used_crops
from stylekit.data.shards import photo_set
from stylekit.engine.checkpoint import Meta
from stylekit.engine.train import TrainingPictures
from stylekit.metrics.protocol import PictureSet
from stylekit.paths import Workspace


def split_deviations(runs: Mapping[str, Meta], held_out: PictureSet, workspace: Workspace) -> list[str]:
    """Return which runs may have seen people who are held out now, one phrase each.

    A checkpoint keeps a digest of the list of photographs it was trained with; it is held against the present list. Of a run
    whose photographs are gone, or are others than those held out, there is nothing to say.

    Args:
        runs: What the checkpoints say of themselves, by what the phrase calls them.
        held_out: The held-out photographs.
        workspace: Where the data sets lie.

    Raises:
        DataError: If a manifest is damaged.
    """
    measured = {line.input_sha256 for line in held_out.lines}
    return [
        f"split: the photographs are split otherwise than when {name} was trained; it may have seen who is held out (train anew)"
        for name, meta in runs.items()
        if "photos" in meta.data and _is_other(meta.data["photos"], photo_set(meta.recipe.photos.source, workspace), measured)
    ]


def _is_other(fingerprint: str, folder: Path, measured: set[str | None]) -> bool:
    if not is_described(folder):
        return False
    crops = list(used_crops(folder))
    if measured.isdisjoint(line.input_sha256 for line, _ in crops):
        return False
    trained = [file for line, file in crops if line.split != "eval"]
    return TrainingPictures(trained, [], []).fingerprints()["photos"] != fingerprint
