"""`manifest.jsonl`: one line per crop, and one per input picture that gave none."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from stylekit.errors import DataError
from stylekit.paths import replace_if_other

Kind = Literal["photo", "cartoon"]
Split = Literal["train", "eval"]
Partition = Literal["train", "eval", "test"]
Line = TypeVar("Line", bound="_Record")


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Generation(_Record):
    """What it takes to make one generated picture again."""

    engine: str
    model: str
    revision: str | None = None
    prompt: str | None = None
    negative: str | None = None
    seed: int
    scheduler: str | None = None
    steps: int | None = None
    guidance: float | None = None
    lora: tuple[str, ...] = ()
    options: dict[str, str | int | float | bool | list[str]] = {}
    versions: dict[str, str] = {}


class Origin(_Record):
    """Where a raw picture came from: written beside the raw pictures, one line each, in `raw/origin.jsonl`.

    Attributes:
        photo: The photograph that the picture was painted over, in the same frame and size, relative to the raw folder
            (`photos/<stem>.png`).
        photo_sha256: Of the photograph that `photo` was cut from.
    """

    file: str
    sha256: str
    photo: str | None = None
    photo_sha256: str | None = None
    asset: str | None = None
    licence: str | None = None
    attribution: str | None = None
    generation: Generation | None = None


class Pair(_Record):
    """The photograph's side of a cartoon crop that was painted over a photograph.

    Attributes:
        photo: The photograph's crop, cut with the cartoon's matrix, relative to the manifest's folder (`photo/<stem>.png`).
        photo_input: What that was cut from: the photograph in the raw cartoon's frame, named as `input` is.
        photo_sha256: Of the photograph itself, before it was framed.
        landmark_shift: Mean distance of the five points between photograph and cartoon, in shares of the photograph's eye
            distance; None if no face is found in the photograph.
        identity: Likeness of the two faces, 1 for the same picture and 0 for strangers (`pairs.likeness`); None likewise.
    """

    photo: str
    photo_input: str
    photo_sha256: str | None = None
    landmark_shift: float | None = None
    identity: float | None = None


class ManifestLine(_Record):
    """One face of one input picture, or one input picture that gave no face.

    Attributes:
        file: The crop (or rejected picture), relative to the manifest's folder; None if nothing was written.
        input: The picture it came from, relative to the manifest's folder where it lies inside it.
        landmarks_5: Left eye, right eye, nose, left and right mouth corner, (x, y) in pixels of the input.
        matrix: Two rows of three, input pixels -> crop pixels.
        quality: Named measurements; units are in the names.
        person: Identity cluster, for photographs.
        group: The first of the persons that may be the same as this one; they are on one side of the split.
        partition: The part of its data set that the picture belongs to, where the data set says so; `eval` is its validation.
        pair: Its photograph, for a cartoon that was painted over one.
    """

    file: str | None
    input: str
    input_sha256: str | None
    face_index: int | None = None
    status: Literal["used", "rejected", "unreadable"]
    reasons: list[str] = []
    asset: str | None = None
    licence: str | None = None
    attribution: str | None = None
    generation: Generation | None = None
    landmarks_5: list[list[float]] | None = None
    matrix: list[list[float]] | None = None
    template: str | None = None
    crop_size: int | None = None
    quality: dict[str, float] = {}
    person: str | None = None
    group: str | None = None
    split: Split | None = None
    partition: Partition | None = None
    pair: Pair | None = None


def read_manifest(path: Path) -> list[ManifestLine]:
    """Read a manifest.

    Raises:
        DataError: If it is missing, or a line is not of this form; the message names the line.
    """
    return list(_parse(path, ManifestLine))


def stream_manifest(path: Path) -> Iterator[ManifestLine]:
    """Yield the lines of a manifest one by one, whatever its length.

    Raises:
        DataError: As `read_manifest` does, when it comes to it.
    """
    return _parse(path, ManifestLine)


def read_origins(path: Path) -> list[Origin]:
    """Read `raw/origin.jsonl`; a missing file gives an empty list. A half-written last line (a killed run) is passed over."""
    return list(_parse(path, Origin, tolerate_torn_end=True)) if path.is_file() else []


def write_manifest(path: Path, lines: Iterable[ManifestLine]) -> bool:
    """Write a manifest atomically, one JSON object per line, defaults left out; return False if it already said so.

    The lines are taken one by one, so there may be any number of them.
    """
    return replace_if_other(path, (to_json_line(line).encode() for line in lines))


def to_json_line(record: _Record) -> str:
    """Return one line of JSON, newline included, without fields that hold their default."""
    return json.dumps(record.model_dump(mode="json", exclude_defaults=True), ensure_ascii=False) + "\n"


def _parse(path: Path, kind: type[Line], tolerate_torn_end: bool = False) -> Iterator[Line]:
    try:
        stream = path.open("rb")
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}.") from error
    with stream:
        for number, row in enumerate(stream, 1):
            if not row.strip():
                continue
            try:
                yield kind.model_validate_json(row.rstrip(b"\n"))
            except ValidationError as error:
                if tolerate_torn_end and not stream.read().strip():
                    return
                where = ".".join(str(part) for part in error.errors()[0]["loc"])
                raise DataError(f"{path}, line {number}: {where or 'the line'}: {error.errors()[0]['msg']}.") from error
