"""Pictures inside zip and tar files: where each one lies, so that it can be read without the others and without unpacking."""

from __future__ import annotations

import json
import math
import os
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, BinaryIO, Literal

from stylekit.errors import DataError
from stylekit.images import PICTURE_SUFFIXES

_MAX_JSON_BYTES = 1 << 20
_MAX_SHARDS = 1_000_000


@dataclass(frozen=True, slots=True)
class Span:
    """Where a picture lies inside an archive.

    Attributes:
        offset: In a tar file the first byte of the data, in a zip file that of the member's own header.
        stored: Bytes in the archive.
        length: Bytes of the picture.
        method: How it is kept there.
        crc: CRC-32 of the picture, as a zip file gives it.
    """

    offset: int
    stored: int
    length: int
    method: Literal["tar", "stored", "deflated"]
    crc: int = 0


class DamagedError(Exception):
    """The archive does not hold what its headers say."""


def read_span(stream: BinaryIO, span: Span) -> bytes:
    """Return the bytes of one member of an archive.

    Raises:
        DamagedError: If they are not all there, or not those that were stored; `zlib.error` and `struct.error` say the same.
    """
    stream.seek(span.offset)
    if span.method != "tar":  # APPNOTE.TXT 4.3.7: the local header ends with the lengths of the name and of the extra field
        magic, name, extra = struct.unpack("<4s22x2H", stream.read(30))
        if magic != b"PK\3\4":
            raise DamagedError
        stream.seek(name + extra, os.SEEK_CUR)
    data = stream.read(span.stored)
    if span.method == "deflated":
        data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, span.length + 1)
    if len(data) != span.length or (span.method != "tar" and zlib.crc32(data) != span.crc):
        raise DamagedError
    return data


@dataclass(frozen=True, slots=True)
class Member:
    """A picture in a zip file; `span` is None where `fault` says why it cannot be read."""

    name: str
    span: Span | None
    fault: str | None = None


def read_zip_index(path: Path) -> list[Member]:
    """Return the visible pictures of a zip file, sorted by path; of several with one name the last.

    Raises:
        DataError: If it is not a zip file, or is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir() and is_shown(info.filename)]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise DataError(f"{path} cannot be read: {error}.", "Fetch it again; a zip file ends with its list.") from error
    found = {info.filename: _member(info) for info in infos if is_picture(info.filename)}
    return sorted(found.values(), key=lambda member: member.name.split("/"))


def _member(info: zipfile.ZipInfo) -> Member:
    methods: dict[int, Literal["stored", "deflated"]] = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}
    if info.flag_bits & 1:
        return Member(info.filename, None, "it is encrypted")
    if info.compress_type not in methods:
        return Member(info.filename, None, f"its compression (method {info.compress_type}) is neither none nor deflate")
    span = Span(info.header_offset, info.compress_size, info.file_size, methods[info.compress_type], info.CRC)
    return Member(info.filename, span)


@dataclass(frozen=True)
class Sample:
    """What a webdataset shard holds under one key.

    Attributes:
        key: The part before the first dot of the members' names.
        pictures: Picture members by name.
        notes: `KEY.json`, if it is there and an object.
        fault: Why the shard cannot be read further.
    """

    key: str
    pictures: Mapping[str, Span]
    notes: Mapping[str, Any]
    fault: str | None = None


def read_shard(file: Path) -> Iterator[Sample]:
    """Yield the samples of a tar file in order, without their pictures' bytes; a damaged end becomes a last one with `fault`."""
    key, pictures, notes = "", dict[str, Span](), dict[str, Any]()
    try:
        with tarfile.open(file, "r:") as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # it would keep every one
                if not member.isreg() or member.issparse() or not is_shown(member.name):
                    continue
                folder, slash, base = member.name.rpartition("/")
                own, _, ending = base.partition(".")
                if folder + slash + own != key:
                    if pictures:
                        yield Sample(key, pictures, notes)
                    key, pictures, notes = folder + slash + own, {}, {}
                if is_picture(base):
                    pictures[member.name] = Span(member.offset_data, member.size, member.size, "tar")
                elif ending.lower() == "json" and member.size <= _MAX_JSON_BYTES and (text := archive.extractfile(member)):
                    notes = _json_object(text.read())
            end = archive.offset  # tarfile takes a header that it cannot read for the end
        with file.open("rb") as stream:
            stream.seek(end)
            if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError(f"no end mark at byte {end}")
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        if pictures:
            yield Sample(key, pictures, notes)
        yield Sample("", {}, {}, f"the shard is damaged or cut short ({str(error).rstrip('.') or type(error).__name__})")
        return
    if pictures:
        yield Sample(key, pictures, notes)


def _json_object(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def expand_braces(pattern: str) -> list[str]:
    """Return the paths of a shard pattern, as shells and webdataset do: `{00..12}` counts, `{a,b}` lists.

    Raises:
        DataError: If a range runs backwards, or there are more than a million.
    """
    pieces = re.split(r"\{([^{}]*)\}", pattern)
    choices = [[piece] if place % 2 == 0 else _alternatives(piece) for place, piece in enumerate(pieces)]
    if math.prod(map(len, choices)) > _MAX_SHARDS:
        raise DataError(f"{pattern} stands for more than a million shards.", "Name fewer, or the folder they lie in.")
    return ["".join(chosen) for chosen in product(*choices)]


def _alternatives(inside: str) -> list[str]:
    if not (found := re.fullmatch(r"(\d+)\.\.(\d+)", inside)):
        return inside.split(",") if "," in inside else ["{" + inside + "}"]
    first, last = int(found[1]), int(found[2])
    if not 0 <= last - first < _MAX_SHARDS:
        raise DataError(f"{{{inside}}} is not a range of shards.", "Write the smaller number first: {000000..000069}.")
    return [f"{number:0{len(found[1])}d}" for number in range(first, last + 1)]


def is_visible(name: str) -> bool:
    """Tell whether a file or folder counts: neither hidden nor left by a Mac's archiver."""
    return not name.startswith((".", "__MACOSX"))


def is_shown(name: str) -> bool:
    """Tell whether a path has only visible parts."""
    return all(is_visible(part) or part == "." for part in name.split("/"))


def is_picture(name: str) -> bool:
    """Tell by its suffix whether a file may be a picture."""
    return os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES  # noqa: PTH122 - called for every file of a large set
