"""A folder of photographs beside a folder of cartoons, as data sets for stylization are laid out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stylekit.errors import DataError

# ModelScope's DCT-Net data sets; CycleGAN's and U-GAT-IT's.
_LAYOUTS = (("face_photo", "face_cartoon"), ("trainA", "trainB"))
_TRAIN = "train"
_DEPTH = 3
_SHOWN = 8


@dataclass(frozen=True)
class Pair:
    """The two folders; nothing says which photograph goes with which cartoon."""

    photos: Path
    cartoons: Path


def find_pair(folder: Path, name: str | None = None) -> Pair:
    """Find `face_photo/` and `face_cartoon/`, or `trainA/` and `trainB/`, at most two folders down; `train/` comes first.

    Args:
        folder: Where to look.
        name: What error messages call it; the path itself by default.

    Raises:
        DataError: If there is no such pair, or more than one; the message says what is there instead.
    """
    level = [folder]
    for _ in range(_DEPTH):
        found = [
            Pair(place / photos, place / cartoons)
            for place in level
            for photos, cartoons in _LAYOUTS
            if (place / photos).is_dir() and (place / cartoons).is_dir()
        ]
        found = [pair for pair in found if pair.photos.parent.name == _TRAIN] or found
        if len(found) > 1:
            places = ", ".join(pair.photos.relative_to(folder).as_posix() for pair in found)
            raise DataError(f"{name or folder} holds several sets of photographs: {places}.", "Name the folder of one of them.")
        if found:
            return found[0]
        level = [child for place in level for child in _visible(place) if child.is_dir()]
    names = [child.name + "/" * child.is_dir() for child in _visible(folder)]
    there = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "") or "nothing"
    wanted = " or ".join(f"{photos}/ and {cartoons}/" for photos, cartoons in _LAYOUTS)
    raise DataError(
        f"{name or folder} holds {there}, but not {wanted}.",
        "For folders of other names: stylekit train --cartoons DIR --photos DIR",
    )


def _visible(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if not child.name.startswith((".", "__MACOSX")))
