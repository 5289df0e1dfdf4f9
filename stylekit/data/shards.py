"""Data sets as webdataset shards: tar files of pictures and their manifest lines, which stream from any disk.

`000000.tar` holds `00000000.png` and `00000000.json`, and so on. `shards.json` says what is in which shard.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import BaseModel, ConfigDict, ValidationError

from stylekit.data.archives import Span, read_shard
from stylekit.data.manifest import ManifestLine, stream_manifest
from stylekit.data.readers import Item, Part, open_source
from stylekit.errors import DataError, ImageError, Interrupted, UsageError
from stylekit.images import Rgb, read_rgb, resize
from stylekit.paths import Workspace, remove_partials, replace_if_other, sha256_file
from stylekit.progress import Bar, Progress, silent

INDEX = "shards.json"
_MANIFEST = "manifest.jsonl"
_VERSION = 1


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ShardEntry(_Record):
    """One finished shard.

    Attributes:
        file: Its name.
        samples: Pictures in it.
        bytes: Its length.
        sha256: Its digest; a shard of another one is written again when `shard` is.
        skipped: Pictures of the source that were passed over meanwhile since they cannot be read, with the reason.
    """

    file: str
    samples: int
    bytes: int
    sha256: str
    skipped: dict[str, str] = {}


class ShardIndex(_Record):
    """`shards.json`.

    Attributes:
        version: Of this form.
        source: What the shards were made of.
        key: Digest of the source's list and of the settings.
        aligned: Whether these are aligned crops with their manifest lines, ready to be trained with.
        size: Side in pixels that pictures were brought to; null if they are as they were.
        complete: Whether nothing is missing.
        shards: The finished ones.
    """

    version: int = _VERSION
    source: str
    key: str
    aligned: bool
    size: int | None
    complete: bool = False
    shards: tuple[ShardEntry, ...] = ()

    @property
    def samples(self) -> int:
        """Pictures in the finished shards."""
        return sum(entry.samples for entry in self.shards)

    @property
    def skipped(self) -> dict[str, str]:
        """Pictures that cannot be read, with the reason."""
        return {name: reason for entry in self.shards for name, reason in entry.skipped.items()}


@dataclass(frozen=True)
class ShardReport:
    """What `shard` left behind.

    Attributes:
        folder: Where the shards are.
        shards: How many there are.
        samples: Pictures in them.
        made: Shards written in this run; the others were there.
        bytes: Length of all.
        aligned: Whether training takes them as they are.
        skipped: Pictures that could not be read, with the reason.
    """

    folder: Path
    shards: int
    samples: int
    made: int
    bytes: int
    aligned: bool
    skipped: dict[str, str]


def shard(
    source: str | Path,
    output: Path | None = None,
    *,
    size: int | None = None,
    shard_mb: int = 256,
    part: Part | None = None,
    progress: Progress = silent,
) -> ShardReport:
    """Write a data set as webdataset shards.

    The same source and settings give the same bytes. Finished shards are kept: a stopped run goes on with the next one. They
    are held against their digests first, which takes about a second for a gigabyte; from the first damaged one on they are
    written again.

    Args:
        source: An aligned data set (its used crops go in, each with its manifest line), or whatever `open_source` reads.
        output: Folder to write; `<source>-shards` by default.
        size: Side that crops are brought to; of pictures that are not aligned the shorter side, which is never enlarged. By
            default the files go in as they are.
        shard_mb: Length in megabytes after which a shard is closed.
        part: Which pictures to take of a data set that holds photographs and cartoons.
        progress: Where progress is reported.

    Raises:
        UsageError: If a setting is out of its range.
        DataError: If the source cannot be read or has no pictures, or `output` holds shards of something else.
        StylekitError: If the output cannot be written.
        Interrupted: If the user stops it; finished shards are kept.
    """
    if shard_mb < 1 or (size is not None and not 16 <= size <= 4096):
        raise UsageError("A shard has at least 1 MB, and pictures are 16 to 4096 px.", "For example: --shard-mb 256 --size 256")
    path = Path(source).expanduser()
    named = path if path.name not in ("", "..") else path.resolve()
    output = output or named.parent / f"{named.name.partition('.')[0].partition('{')[0] or 'pictures'}-shards"
    if output.resolve() == path.resolve():
        raise UsageError(f"{output} is the source itself.", "Name another folder with -o.")
    aligned = (path / _MANIFEST).is_file()
    pictures = _Aligned(path) if aligned else _Others(source, part)
    settings = f"{_VERSION} {size} {shard_mb} {pictures.digest()}"
    key = hashlib.sha256(settings.encode()).hexdigest()
    index = _begin(output, ShardIndex(source=str(source), key=key, aligned=aligned, size=size))
    kept = len(index.shards)
    remove_partials(output)
    _write_index(output, index)  # before the first shard, so that a killed run knows it for its own
    try:
        with progress("Writing shards", pictures.count()) as bar:
            samples = _Samples(pictures, index, bar)
            while samples.ahead is not None:
                entry = _write_shard(output / f"{len(index.shards):06d}.tar", samples, shard_mb << 20)
                index = index.model_copy(update={"shards": (*index.shards, entry), "complete": samples.ahead is None})
                _write_index(output, index)
    except KeyboardInterrupt:
        raise Interrupted(f"Stopped after {index.samples} pictures.", "Run the same command to go on.") from None
    if not index.shards:
        raise DataError(f"No picture of {source} can be read.", next(iter(samples.skipped.values()), ""))
    length = sum(entry.bytes for entry in index.shards)
    made = len(index.shards) - kept
    return ShardReport(output, len(index.shards), index.samples, made, length, aligned, index.skipped)


def _write_index(folder: Path, index: ShardIndex) -> None:
    replace_if_other(folder / INDEX, [f"{index.model_dump_json(indent=1)}\n".encode()])


def read_index(folder: Path) -> ShardIndex:
    """Read `shards.json`.

    Raises:
        DataError: If it is missing or damaged.
    """
    try:
        return ShardIndex.model_validate_json((folder / INDEX).read_bytes())
    except OSError as error:
        raise DataError(f"Cannot read {folder / INDEX}: {error.strerror}.") from error
    except ValidationError as error:
        raise DataError(f"{folder / INDEX} is damaged.", "Delete the folder, and run stylekit data shard again.") from error


def photo_set(source: str, workspace: Workspace) -> Path:
    """Return the data set of a recipe's `photos.source`: aligned shards as they are, else the folder it is aligned into."""
    folder = Path(source).expanduser()
    return folder if is_aligned(folder) else workspace.photo_set(source)


def is_aligned(folder: Path) -> bool:
    """Tell whether a folder holds shards of aligned crops, which need no `align`."""
    return (folder / INDEX).is_file() and read_index(folder).aligned


@dataclass(frozen=True)
class Crop:
    """One aligned crop in a shard; `line.file` is `SHARD/MEMBER`."""

    line: ManifestLine
    path: Path
    member: str
    span: Span


def aligned_crops(folder: Path) -> Iterator[Crop]:
    """Yield the crops of aligned shards, in order.

    Raises:
        DataError: If these are no aligned shards, one is missing or damaged, or they are not complete.
    """
    index = read_index(folder)
    again = "Run the stylekit data shard command again; finished shards are kept."
    if not index.aligned:
        raise DataError(f"{folder} holds shards of pictures that are not aligned.", f"Run: stylekit align {folder}")
    if not index.complete:
        raise DataError(f"The shards in {folder} are not complete.", again)
    for entry in index.shards:
        path = folder / entry.file
        if not path.is_file() or path.stat().st_size != entry.bytes:
            raise DataError(f"The shard {path} is missing or cut short.", again)
        for sample in read_shard(path):
            if sample.fault is not None:
                raise DataError(f"{path}: {sample.fault}.", again)
            for member, span in sample.pictures.items():
                try:
                    line = ManifestLine.model_validate({**sample.notes, "file": f"{entry.file}/{member}"})
                except ValidationError as error:
                    raise DataError(f"{path}: {sample.key}.json is not a manifest line.", again) from error
                yield Crop(line, path, member, span)


def _begin(output: Path, fresh: ShardIndex) -> ShardIndex:
    """Return the index to go on with: that of the same work, as far as its shards are there and undamaged."""
    if not (output / INDEX).is_file():
        if output.is_dir() and (others := sorted(output.glob("*.tar"))):
            raise DataError(f"{output} holds {others[0].name}, which was not made here.", "Name another folder with -o.")
        return fresh
    index = read_index(output)
    if not index.shards:
        return fresh
    if index.key != fresh.key:
        raise DataError(
            f"{output} holds shards of other pictures or settings ({index.source}).",
            "Name another folder with -o, or delete that one.",
        )
    good = 0
    for entry in index.shards:
        file = output / entry.file
        if not file.is_file() or file.stat().st_size != entry.bytes or sha256_file(file) != entry.sha256:
            break
        good += 1
    if good == len(index.shards):
        return index
    return index.model_copy(update={"shards": index.shards[:good], "complete": False})


@dataclass(frozen=True)
class _Picture:
    """A picture of the source, with what goes into its JSON file beside its own name."""

    item: Item
    notes: dict[str, Any]


class _Aligned:
    """The used crops of an aligned data set."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def digest(self) -> str:
        return sha256_file(self._folder / _MANIFEST)

    def count(self) -> int:
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[_Picture]:
        for line in stream_manifest(self._folder / _MANIFEST):
            if line.status == "used" and line.file is not None:
                # A pair's photograph is a file of its own, which does not go along.
                notes = line.model_dump(mode="json", exclude_defaults=True, exclude={"pair"})
                yield _Picture(Item(line.file, "", self._folder / line.file), notes)


class _Others:
    """The pictures of any other source."""

    def __init__(self, source: str | Path, part: Part | None) -> None:
        self._source = open_source(source, part)

    def digest(self) -> str:
        digest = hashlib.sha256()
        for item in self._source.items():
            length = item.path.stat().st_size if item.span is None else item.span.length
            digest.update(f"{item.name}\0{length}\0{item.split}\0{item.person}\n".encode("utf-8", "backslashreplace"))
        return digest.hexdigest()

    def count(self) -> int:
        return self._source.count()

    def __iter__(self) -> Iterator[_Picture]:
        for item in self._source.items():
            notes = {"input": item.name.encode("utf-8", "backslashreplace").decode(), "split": item.split, "person": item.person}
            yield _Picture(item, {name: value for name, value in notes.items() if value is not None})


@dataclass(frozen=True)
class _Sample:
    notes: dict[str, Any]
    suffix: str
    data: bytes


class _Samples:
    """The pictures of a source from one on, read and brought to size, with the next one in sight."""

    def __init__(self, pictures: _Aligned | _Others, before: ShardIndex, bar: Bar) -> None:
        self.number = before.samples
        self.skipped: dict[str, str] = {}
        self._size, self._square, self._bar = before.size, before.aligned, bar
        done = before.samples + len(before.skipped)
        self._rest = islice(pictures, done, None)
        bar.advance(done)
        self.ahead = self._next()

    def take(self) -> _Sample:
        """Return the next picture; what is passed over on the way to the one after it is noted at once."""
        sample = self.ahead
        assert sample is not None
        self.number += 1
        self._bar.advance()
        self.ahead = self._next()
        return sample

    def _next(self) -> _Sample | None:
        for picture in self._rest:
            try:
                data = picture.item.read()
                rgb = read_rgb(data, name=picture.item.name)  # whoever reads the shard can rely on it
            except ImageError as error:
                self.skipped[picture.item.name] = error.message
                self._bar.advance()
                continue
            return self._sized(picture, data, rgb)
        return None

    def _sized(self, picture: _Picture, data: bytes, rgb: Rgb) -> _Sample:
        height, width = rgb.shape[:2]
        suffix = Path(picture.item.name).suffix.lower()
        if self._size is None:
            return _Sample(picture.notes, suffix, data)
        scale = self._size / min(height, width)
        wanted = (self._size, self._size) if self._square else (round(width * min(scale, 1)), round(height * min(scale, 1)))
        if wanted == (width, height) and suffix in (".png", ".jpg"):
            return _Sample(picture.notes, suffix, data)
        buffer = io.BytesIO()
        Image.fromarray(resize(rgb, wanted)).save(buffer, "PNG")
        return _Sample(picture.notes, ".png", buffer.getvalue())


def _write_shard(path: Path, samples: _Samples, limit: int) -> ShardEntry:
    digest, length, number = hashlib.sha256(), 0, samples.number

    def chunks() -> Iterator[bytes]:
        nonlocal length
        while samples.ahead is not None and (samples.number == number or length + len(samples.ahead.data) < limit):
            key = f"{samples.number:08d}"
            sample = samples.take()
            notes = json.dumps({**sample.notes, "file": f"{key}{sample.suffix}"}, ensure_ascii=False).encode()
            for member in (*_member(f"{key}{sample.suffix}", sample.data), *_member(f"{key}.json", notes)):
                digest.update(member)
                length += len(member)
                yield member
        end = bytes(2 * tarfile.BLOCKSIZE)
        digest.update(end)
        length += len(end)
        yield end

    replace_if_other(path, chunks())
    skipped, samples.skipped = samples.skipped, {}
    return ShardEntry(file=path.name, samples=samples.number - number, bytes=length, sha256=digest.hexdigest(), skipped=skipped)


def _member(name: str, data: bytes) -> tuple[bytes, bytes, bytes]:
    """Return header, data and filling of a tar member that knows neither time nor owner."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    return info.tobuf(tarfile.USTAR_FORMAT), data, bytes(-len(data) % tarfile.BLOCKSIZE)
