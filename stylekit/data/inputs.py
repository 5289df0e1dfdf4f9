"""The pictures to be aligned: from a data set of any layout, a list of files or a catalogue asset, each with its origin."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stylekit.assets import CATALOGUE, fetch
from stylekit.data.manifest import Origin, Partition, Split, read_origins
from stylekit.data.pairs import paired_photos
from stylekit.data.readers import Item, Part, open_source, stem_of
from stylekit.data.readers import Source as DataSet
from stylekit.errors import DataError
from stylekit.paths import sha256_bytes

_ASSET = "asset:"
_WRITTEN = frozenset({"cropped", "cartoon", "rejected", "contact_sheet.jpg"})
_SPLITS: dict[Partition, Split] = {"train": "train", "eval": "eval", "test": "eval"}
_UNSURE_NS = 3_000_000_000
_STEM_BYTES = 200  # a file name has at most 255
Source = str | Path | Sequence[Path]

CELEBA = Origin(
    file="",
    sha256="",
    asset="celeba",
    licence="CelebA: non-commercial research only; do not redistribute the pictures",
    attribution="CelebA: Liu, Luo, Wang and Tang, Deep Learning Face Attributes in the Wild, ICCV 2015",
)
"""The origin of every picture of a source in CelebA's layout; terms: the data set's own page, "Agreement"."""


@dataclass(frozen=True)
class Input:
    """One picture to be aligned; it can be pickled.

    Attributes:
        item: Where its bytes are.
        name: What the manifest calls it.
        stem: What its crops are called, different for every input.
        origin: Asset, licence, attribution and generation, where known.
        partition: Which part of its data set it belongs to, where that says so.
        person: Who it shows, where its data set says so.
    """

    item: Item
    name: str
    stem: str
    origin: Origin | None
    partition: Partition | None
    person: str | None

    @property
    def path(self) -> Path:
        """The file, or the archive that it lies in."""
        return self.item.path

    @property
    def split(self) -> Split | None:
        """The side that its data set puts it on, where it says so."""
        return _SPLITS[self.partition] if self.partition else None

    def stamp(self) -> str | None:
        """Return what stays the same while the bytes do: length and time of the file, and the place in an archive.

        None if the file is gone, or so young that it may change again without another time (file systems keep times to 2 s).
        """
        try:
            status = self.path.stat()
        except OSError:
            return None
        if time.time_ns() - status.st_mtime_ns < _UNSURE_NS:
            return None
        span = self.item.span
        return f"{status.st_size} {status.st_mtime_ns} {(span.offset, span.stored, span.crc) if span else ''}".rstrip()


class Inputs:
    """The pictures of a source: gone through as often as one likes, in the same order. Names may be in memory, pictures are not.

    Args:
        source: A folder (with `origin.jsonl` if `gen-data` filled it), zip file or shards (`readers.open_source`), a list of
            files, or `asset:NAME`.
        output: The folder of the manifest; inputs inside it are named relative to it.
        part: Which pictures to take of a data set that holds photographs and cartoons.

    Attributes:
        description: What the source was recognised as.
        notes: What else there is to say of it, one sentence each: what is not read.

    Raises:
        DataError: If there is no such source or there are no pictures in it.
        AssetError: If the asset cannot be had.
    """

    def __init__(self, source: Source, output: Path, part: Part) -> None:
        self._output = output.resolve()
        self._origins: dict[str, Origin] = {}
        self._asset: str | None = None
        if isinstance(source, str) and source.startswith(_ASSET):
            self._asset = source.removeprefix(_ASSET)
            if self._asset not in CATALOGUE and self._asset.startswith("ms:"):
                raise DataError(f"{self._asset} holds photographs and cartoons.", f"Run: stylekit data add {self._asset}")
            source = fetch(self._asset)
        if isinstance(source, str | Path):
            self._set = open_source(source, part)
            if self._set.path.is_dir():
                self._origins = {origin.file: origin for origin in read_origins(self._set.path / "origin.jsonl")}
        else:
            self._set = _listed(sorted(set(source)))
        self.description = self._set.description
        self.notes = self._set.notes
        self._root = self._set.path.resolve() if self._set.path.is_dir() else None
        self._photos = {origin.photo for origin in self._origins.values() if origin.photo}
        self._paired = paired_photos(output / "manifest.jsonl")
        if not (count := sum(1 for _ in self._items())):
            raise DataError(f"There are no pictures in {self._set.path}.", "Put JPEG, PNG, WebP, BMP or TIFF files there.")
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Input]:
        for item in self._items():
            yield Input(item, self._name(item), _short(item.stem), self._origin(item), item.split, item.person)

    def _items(self) -> Iterator[Item]:
        return (item for item in self._set.items() if item.name not in self._photos and not self._is_written(item))

    def _is_written(self, item: Item) -> bool:
        """Tell whether aligning wrote a file itself, which happens where the output holds the source."""
        if self._root is None or item.span is not None:
            return False
        whole = self._root / item.name
        if not whole.is_relative_to(self._output):
            return False
        inside = whole.relative_to(self._output)
        return inside.parts[0] in _WRITTEN or inside.as_posix() in self._paired

    def _name(self, item: Item) -> str:
        if self._asset:
            return _text(f"{_ASSET}{self._asset}/{item.name}")
        if item.span is None and self._set.layout != "shards":
            whole = self._root / item.name if self._root else item.path.resolve()
            return _text((whole.relative_to(self._output) if whole.is_relative_to(self._output) else item.path).as_posix())
        place = item.path.parent if self._set.layout == "shards" else item.path
        return _text((place / item.name).as_posix())

    def _origin(self, item: Item) -> Origin | None:
        if self._asset:
            asset = CATALOGUE[self._asset]
            return Origin(file="", sha256="", asset=self._asset, licence=asset.licence, attribution=asset.attribution)
        if self._set.layout == "celeba":
            return CELEBA
        return self._origins.get(item.name)


def _listed(files: Sequence[Path]) -> DataSet:
    """Return a list of files as a data set."""
    items: Callable[[], Iterator[Item]] = lambda: (Item(path.as_posix(), stem_of(path.name), path) for path in files)  # noqa: E731
    return DataSet(Path("the list"), "folder", "a list of pictures", (), items)


def _short(stem: str) -> str:
    """Return a stem that disks take as a file name with suffix."""
    data = stem.encode()
    return stem if len(data) <= _STEM_BYTES else f"{data[: _STEM_BYTES - 17].decode(errors='ignore')}-{sha256_bytes(data)[:16]}"


def _text(name: str) -> str:
    """Return a name that can be written as UTF-8, whatever bytes the disk holds."""
    return name.encode("utf-8", "backslashreplace").decode()
