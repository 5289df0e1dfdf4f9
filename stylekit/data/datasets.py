"""Training pictures: aligned crops by their manifest, or all pictures of a plain folder, decoded once and kept as bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stylekit.data.manifest import Split, read_manifest
from stylekit.errors import DataError
from stylekit.images import list_images, read_rgb, resize

CACHE_BYTES = 2 << 30


@dataclass(frozen=True)
class PictureFile:
    """One training picture and, where it is known, whose it is."""

    path: Path
    person: str | None = None


def list_pictures(folder: Path, split: Split | None = None) -> list[PictureFile]:
    """List the usable pictures of a data set.

    Args:
        folder: A folder with `manifest.jsonl` (only lines of status `used` count), or any folder of pictures.
        split: Only this part of a manifest; lines without a split belong to `train`.

    Raises:
        DataError: If the folder is missing or holds no such picture.
    """
    if not folder.is_dir():
        raise DataError(f"There is no data set at {folder}.", "Run stylekit gen-data or stylekit align first, or name a folder.")
    if (folder / "manifest.jsonl").is_file():
        lines = [line for line in read_manifest(folder / "manifest.jsonl") if line.status == "used" and line.file is not None]
        found = [PictureFile(folder / str(m.file), m.person) for m in lines if split is None or (m.split or "train") == split]
    else:
        found = [PictureFile(path) for path in list_images(folder)] if split != "eval" else []
    if not found:
        part = f" of the {split} split" if split else ""
        raise DataError(
            f"{folder} holds no usable picture{part}.", f"Look at {folder / 'rejected'} and the manifest for the reasons."
        )
    return found


class PictureSet:
    """Pictures by index, at one size, decoded on first use and kept as uint8 while the set fits into 2 GiB.

    Args:
        files: The pictures.
        size: Side in pixels.
        derive: What to compute from each picture once and keep beside it, for example its superpixels; uint8 in, uint8 out.
    """

    def __init__(
        self, files: Sequence[PictureFile], size: int, derive: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] | None = None
    ) -> None:
        self.files = list(files)
        self.size = size
        self._derive = derive
        bytes_each = size * size * 3 * (2 if derive else 1)
        self._keep = len(self.files) * bytes_each <= CACHE_BYTES
        self._cache: dict[int, NDArray[np.uint8]] = {}

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """Return [size, size, 3], or [size, size, 6] with the derived picture behind the picture.

        Raises:
            ImageError: If the file cannot be read.
        """
        if (found := self._cache.get(index)) is not None:
            return found
        picture = read_rgb(self.files[index].path)
        if picture.shape[:2] != (self.size, self.size):
            picture = resize(picture, (self.size, self.size))
        if self._derive is not None:
            picture = np.concatenate((picture, self._derive(picture)), -1)
        if self._keep:
            self._cache[index] = picture
        return picture

    def batch(self, indices: Sequence[int], pool: ThreadPoolExecutor | None = None) -> NDArray[np.uint8]:
        """Return the pictures at `indices`, [N, size, size, C]."""
        return np.stack(list(pool.map(self.__getitem__, indices) if pool else map(self.__getitem__, indices)))
