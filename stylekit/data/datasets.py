"""Training pictures: aligned crops by their manifest or from shards, or all pictures of a plain folder, decoded only once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stylekit.data.archives import Span
from stylekit.data.cache import RowCache, key_of
from stylekit.data.manifest import ManifestLine, Split, stream_manifest
from stylekit.data.readers import Item
from stylekit.data.shards import INDEX, aligned_crops
from stylekit.errors import DataError
from stylekit.images import list_images, read_rgb, resize
from stylekit.paths import home

MEMORY_BYTES = 2 << 30
"""A set of decoded pictures up to this size is kept in memory; a larger one goes to a cache file."""

CACHE_FOLDER = ".cache"
_MANIFEST = "manifest.jsonl"


@dataclass(frozen=True)
class PictureFile:
    """One training picture and, where it is known, whose it is.

    Attributes:
        path: The file, or the shard that holds it.
        person: Who it shows.
        member: Its name in the shard.
        span: Where it lies in the shard.
    """

    path: Path
    person: str | None = None
    member: str | None = None
    span: Span | None = None

    @property
    def name(self) -> str:
        """The name of the file, or of the shard's member."""
        return self.path.name if self.member is None else f"{self.path.name}/{self.member}"

    def length(self) -> int:
        """Return the bytes of the picture file."""
        return self.path.stat().st_size if self.span is None else self.span.length

    def read(self) -> NDArray[np.uint8]:
        """Return the picture, RGB uint8 [H, W, 3].

        Raises:
            ImageError: If it cannot be read.
        """
        if self.span is None:
            return read_rgb(self.path)
        return read_rgb(Item(self.name, "", self.path, self.span).read(), name=f"{self.path}/{self.member}")


def list_pictures(folder: Path, split: Split | None = None) -> list[PictureFile]:
    """List the usable pictures of a data set.

    Args:
        folder: A folder with `manifest.jsonl` (only lines of status `used` count), shards of such a set (`data shard`), or any
            folder of pictures.
        split: Only this part of a manifest; lines without a split belong to `train`.

    Raises:
        DataError: If the folder is missing or holds no such picture.
    """
    if not folder.is_dir():
        raise DataError(f"There is no data set at {folder}.", "Run stylekit gen-data or stylekit align first, or name a folder.")
    if is_described(folder):
        found = [file for line, file in used_crops(folder) if split is None or (line.split or "train") == split]
    else:
        found = [PictureFile(path) for path in list_images(folder)] if split != "eval" else []
    if not found:
        part = f" of the {split} split" if split else ""
        raise DataError(
            f"{folder} holds no usable picture{part}.", f"Look at {folder / 'rejected'} and the manifest for the reasons."
        )
    return found


def is_described(folder: Path) -> bool:
    """Tell whether a folder is a data set with a manifest, or shards of one."""
    return listing(folder).is_file()


def listing(folder: Path) -> Path:
    """Return the file that lists a data set's pictures: `shards.json` where it is one of shards, else `manifest.jsonl`."""
    return folder / (INDEX if (folder / INDEX).is_file() else _MANIFEST)


def used_crops(folder: Path) -> Iterator[tuple[ManifestLine, PictureFile]]:
    """Yield the used crops of a data set with a manifest, or of its shards, in order.

    Raises:
        DataError: If the manifest or a shard is missing or damaged.
    """
    if (folder / INDEX).is_file():
        for crop in aligned_crops(folder):
            yield crop.line, PictureFile(crop.path, crop.line.person, crop.member, crop.span)
        return
    for line in stream_manifest(folder / _MANIFEST):
        if line.status == "used" and line.file is not None:
            yield line, PictureFile(folder / line.file, line.person)


class PictureSet:
    """Pictures by index, at one size, decoded on first use.

    They are kept as uint8 in memory while the set fits into 2 GiB, and in a cache file (`RowCache`) beyond that: in `.cache/` of
    the data set, or below stylekit's home for files that are nobody's data set or lie where nothing can be written.

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
        self._shape = (size, size, 6 if derive else 3)
        bytes_each = int(np.prod(self._shape))
        self._memory: dict[int, NDArray[np.uint8]] | None = {}
        self._disk: RowCache | None = None
        if len(self.files) * bytes_each > MEMORY_BYTES:
            self._memory = None
            folder, instead = _cache_folders(self.files[0])
            self._disk = RowCache(folder, self._key(), len(self.files), bytes_each, instead=instead)

    def _key(self) -> str:
        derived = f"{self._derive.__module__}.{self._derive.__qualname__}" if self._derive else ""
        changed = {path: path.stat().st_mtime_ns for path in {file.path for file in self.files}}
        rows = (f"{f.name} {f.length()} {changed[f.path]} {f.span.offset if f.span else 0}" for f in self.files)
        return key_of((str(self.size), derived, *rows))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """Return [size, size, 3], or [size, size, 6] with the derived picture behind the picture.

        Raises:
            ImageError: If the file cannot be read.
        """
        if self._memory is not None and (found := self._memory.get(index)) is not None:
            return found
        if self._disk is not None and (row := self._disk.get(index)) is not None:
            return row.reshape(self._shape)
        picture = self.files[index].read()
        if picture.shape[:2] != (self.size, self.size):
            picture = resize(picture, (self.size, self.size))
        if self._derive is not None:
            picture = np.concatenate((picture, self._derive(picture)), -1)
        if self._memory is not None:
            self._memory[index] = picture
        elif self._disk is not None:
            self._disk.put(index, picture)
        return picture

    def cache_of(self, what: str, key: str, rows: int, row_bytes: int) -> RowCache:
        """Open the cache file of something that is computed from these pictures, beside that of the pictures.

        Args:
            what: What is computed, in a word; the name of its folder.
            key: What it depends on beside the pictures.
            rows: Rows there are.
            row_bytes: Bytes of each.
        """
        folder, instead = _cache_folders(self.files[0])
        name = key_of((what, key, self._key()))
        at_home = instead.with_name(f"{instead.name}-{what}")
        beside = at_home if folder == instead else folder / what
        return RowCache(beside, name, rows, row_bytes, instead=at_home, what=f"{what.capitalize()} are computed")

    def batch(self, indices: Sequence[int], pool: ThreadPoolExecutor | None = None) -> NDArray[np.uint8]:
        """Return the pictures at `indices`, [N, size, size, C]."""
        return np.stack(list(pool.map(self.__getitem__, indices) if pool else map(self.__getitem__, indices)))


def _cache_folders(file: PictureFile) -> tuple[Path, Path]:
    """Return where the cache lies, and where if that is read-only."""
    at_home = home() / "decoded" / key_of([str(file.path.parent.resolve())])
    for folder in (file.path.parent, file.path.parent.parent):
        if is_described(folder):
            return folder / CACHE_FOLDER, at_home
    return at_home, at_home
