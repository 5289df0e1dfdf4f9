"""What the report needs of a manifest, small enough for 70,000 lines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import hypot
from pathlib import Path
from sys import intern
from typing import Literal, NamedTuple

from stylekit.data.manifest import ManifestLine, stream_manifest

MEASURES = ("ita_deg", "yaw_deg", "pitch_deg", "glasses", "mouth_open", "face_px", "sharpness", "face_score", "outlier")
"""The measures of the manifest's `quality` that are reported."""


class Source(NamedTuple):
    """Where a picture comes from, and on what terms."""

    name: str
    licence: str | None
    attribution: str | None


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the manifest.

    Attributes:
        status: As in the manifest; likewise `file`, `input`, `reasons` and `person`.
        held_out: Whether it belongs to the split eval.
        source: Where it comes from.
        quality: Those of `MEASURES` that were taken.
        traits: What the prompt said of the person, such as "age=elderly".
        enlarged: How many times the face was enlarged to fill its crop; 0 if that is not known.
        shift: How far a pair's face moved, in eye distances.
        likeness: How alike a pair's faces are.
    """

    status: Literal["used", "rejected", "unreadable"]
    file: str | None
    input: str
    reasons: tuple[str, ...]
    person: str | None
    held_out: bool
    source: Source
    quality: dict[str, float]
    traits: tuple[str, ...]
    enlarged: float
    shift: float | None
    likeness: float | None


def stream_entries(manifest: Path) -> Iterator[Entry]:
    """Yield the entries of a manifest one by one.

    Raises:
        DataError: As `stream_manifest` does.
    """
    sources: dict[Source, Source] = {}
    for line in stream_manifest(manifest):
        source = _source(line)
        yield Entry(
            line.status,
            line.file,
            line.input,
            tuple(map(intern, line.reasons)),
            intern(line.person) if line.person else None,
            line.split == "eval",
            sources.setdefault(source, source),
            {name: line.quality[name] for name in MEASURES if name in line.quality},
            tuple(map(intern, _traits(line))),
            hypot(line.matrix[0][0], line.matrix[0][1]) if line.matrix else 0.0,
            line.pair.landmark_shift if line.pair else None,
            line.pair.identity if line.pair else None,
        )


def _source(line: ManifestLine) -> Source:
    made = line.generation
    name = line.asset or (f"{made.engine}: {made.model}" if made else "own pictures")
    return Source(name, line.licence, line.attribution)


def _traits(line: ManifestLine) -> list[str]:
    traits = line.generation.options.get("traits") if line.generation else None
    return traits if isinstance(traits, list) else []
