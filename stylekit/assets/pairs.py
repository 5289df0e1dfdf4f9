"""A folder of photographs beside a folder of cartoons, as data sets for stylization are laid out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from stylekit.errors import DataError

LAYOUTS = (("face_photo", "face_cartoon"), ("trainA", "trainB"))
"""Folders of photographs and of cartoons: ModelScope's DCT-Net data sets; CycleGAN's and U-GAT-IT's."""

_TRAIN = "train"
_DEPTH = 3
_SHOWN = 8


@dataclass(frozen=True)
class Pair:
    """The two folders; nothing says which photograph goes with which cartoon."""

    photos: Path
    cartoons: Path


def find_pairs(folders: Callable[[str], Iterable[str]]) -> list[tuple[str, str, str]]:
    """Return the pairs that lie highest in a tree, at most two folders down; where one lies in `train/`, only that.

    Args:
        folders: Gives the names of the folders in a folder of the tree; "" is the tree itself.

    Returns:
        The folder with `/`, and the names of its folders of photographs and of cartoons.
    """
    level = [""]
    for depth in range(_DEPTH):
        inside = {place: list(folders(place)) for place in level}
        found = [(place, *layout) for place in level for layout in LAYOUTS if set(layout) <= set(inside[place])]
        if found:
            return [pair for pair in found if pair[0].rpartition("/")[2] == _TRAIN] or found
        if depth + 1 < _DEPTH:
            level = [f"{place}/{child}".lstrip("/") for place in level for child in inside[place]]
    return []


def pairs_in(folder: Path) -> list[Pair]:
    """Return the pairs of folders in a folder, as `find_pairs` does."""

    def folders(place: str) -> list[str]:
        return [child.name for child in _visible(folder / place) if child.is_dir()]

    return [Pair(folder / place / photos, folder / place / cartoons) for place, photos, cartoons in find_pairs(folders)]


def find_pair(folder: Path, name: str | None = None) -> Pair:
    """Find `face_photo/` and `face_cartoon/`, or `trainA/` and `trainB/`, at most two folders down; `train/` comes first.

    Args:
        folder: Where to look.
        name: What error messages call it; the path itself by default.

    Raises:
        DataError: If there is no such pair, or more than one; the message says what is there instead.
    """
    found = pairs_in(folder)
    if len(found) > 1:
        places = ", ".join(pair.photos.relative_to(folder).as_posix() for pair in found)
        raise DataError(f"{name or folder} holds several sets of photographs: {places}.", "Name the folder of one of them.")
    if found:
        return found[0]
    names = [child.name + "/" * child.is_dir() for child in _visible(folder)]
    there = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "") or "nothing"
    wanted = " or ".join(f"{photos}/ and {cartoons}/" for photos, cartoons in LAYOUTS)
    raise DataError(
        f"{name or folder} holds {there}, but not {wanted}.",
        "For folders of other names: stylekit train --cartoons DIR --photos DIR",
    )


def _visible(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if not child.name.startswith((".", "__MACOSX")))
