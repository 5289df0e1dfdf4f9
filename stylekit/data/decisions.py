"""What depends on all faces together: near-duplicates, who is who, the held-out persons, the unlike ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stylekit.data.appearance import outlier_scores
from stylekit.data.duplicates import near_duplicates
from stylekit.data.manifest import Split
from stylekit.data.notes import UsedFaces
from stylekit.data.split import split_by_person
from stylekit.faces.identity import MAYBE_SAME_DISTANCE, SAME_PERSON_DISTANCE, cluster_persons, link_persons
from stylekit.progress import Bar, Progress, silent

_LINKING_DISTANCES = (MAYBE_SAME_DISTANCE, (MAYBE_SAME_DISTANCE + SAME_PERSON_DISTANCE) / 2, SAME_PERSON_DISTANCE)
_ENOUGH = 0.5  # of the share asked for
_VERSION = 1  # of how it is decided; another number makes it be decided again
_WORTH_A_BAR = 2000  # faces; fewer take less than a second


@dataclass
class Decisions:
    """What was decided of each of N used faces.

    Attributes:
        better: int64 [N], the face that it repeats; -1 for those to keep. The lists hold None for the others.
        persons: Who it shows, named after the person's first crop.
        groups: The first of the persons that may be the same.
        splits: Which side it is on.
        outliers: How unlike the others it is, see `outlier_scores`.
    """

    better: NDArray[np.int64]
    persons: list[str | None] = field(default_factory=list)
    groups: list[str | None] = field(default_factory=list)
    splits: list[Split | None] = field(default_factory=list)
    outliers: list[float | None] = field(default_factory=list)

    def to_json(self) -> str:
        """Return what `from_json` takes."""
        return json.dumps(vars(self) | {"better": self.better.tolist()})

    @classmethod
    def from_json(cls, text: str) -> Decisions:
        """Return what `to_json` wrote."""
        said = json.loads(text)
        return cls(**said | {"better": np.array(said["better"], np.int64)})


def digest(faces: UsedFaces, kind: Literal["photo", "cartoon"], seed: int, eval_fraction: float) -> str:
    """Return a digest of all that `decide` depends on."""
    found = hashlib.sha256(json.dumps([_VERSION, kind, seed, eval_fraction]).encode())
    for each in fields(faces):
        value = getattr(faces, each.name)
        found.update(np.ascontiguousarray(value).data if isinstance(value, np.ndarray) else json.dumps(value).encode())
    return found.hexdigest()


def decide(
    faces: UsedFaces, kind: Literal["photo", "cartoon"], seed: int, eval_fraction: float, progress: Progress = silent
) -> Decisions:
    """Decide what depends on all faces; the same faces always give the same.

    The work grows with the square of their number: with one thread some 90 s for 70,000 photographs.

    Of near-duplicates the one with the greatest merit is kept. Photographs are grouped into persons, and held out by person,
    unless their data set says who they show or which side they are on. Cartoons all belong to train.

    Args:
        faces: Those that are good on their own.
        kind: What they are.
        seed: Decides who is held out.
        eval_fraction: Share of the persons held out, for photographs.
        progress: Where progress is reported, of 2,000 faces or more.
    """
    count = len(faces.inputs)
    progress = progress if count >= _WORTH_A_BAR else silent
    order = np.argsort(-faces.merits, kind="stable")
    embeddings = faces.embeddings[order] if kind == "photo" else None
    with progress("Looking for repeats", count) as bar:
        repeated = near_duplicates(faces.hashes[order], faces.colours[order], embeddings, bar.advance)
    better = np.full(count, -1)
    better[order] = np.where(repeated < 0, -1, order[repeated])
    del embeddings
    decided = Decisions(better, *([None] * count for _ in range(4)))  # type: ignore[arg-type]
    kept = np.flatnonzero(better < 0)
    if not len(kept):
        return decided
    embeddings = faces.embeddings[kept]
    for place, score in zip(kept.tolist(), outlier_scores(embeddings).tolist(), strict=True):
        decided.outliers[place] = round(score, 4)
    if kind == "cartoon":
        for place in kept.tolist():
            decided.splits[place] = "train"
        return decided
    with progress("Telling people apart", len(kept)) as bar:
        labels = _labels(embeddings, [faces.persons[place] for place in kept], bar)
    names = [faces.persons[place] or faces.stems[place] for place in kept]
    persons = _named(labels, names)
    given = [faces.splits[place] for place in kept]
    if "eval" in given and None not in given:
        groups: Sequence[str | None] = [None] * len(kept)
        sides: dict[str, Split] = {}
    else:
        groups, sides = _hold_out(embeddings, labels, persons, names, progress, eval_fraction=eval_fraction, seed=seed)
    for place, person, group in zip(kept.tolist(), persons, groups, strict=True):
        decided.persons[place], decided.groups[place] = person, group
        own = faces.splits[place] if "eval" in given else None
        decided.splits[place] = ("eval" if own == "eval" else "train") if own else sides[person]
    return decided


def _labels(embeddings: NDArray[np.float32], given: Sequence[str | None], bar: Bar) -> NDArray[np.int64]:
    """Return a person's number for each face: by the data set where it says so, else by the embeddings."""
    numbers = {name: number for number, name in enumerate(sorted({name for name in given if name}))}
    labels = np.array([numbers[name] if name else -1 for name in given], np.int64)
    unknown = labels < 0
    if unknown.any():
        labels[unknown] = cluster_persons(embeddings[unknown], advance=bar.advance) + len(numbers)
    return labels


def _named(labels: NDArray[np.int64], names: Sequence[str]) -> list[str]:
    """Name each person after their first crop.

    The name, and with it the side, stays the same when others come or go, unless a picture of the person comes that sorts before
    the first one, or the first one goes.
    """
    first: dict[int, str] = {}
    for label, name in zip(labels.tolist(), names, strict=True):
        first.setdefault(label, name)
    return [first[label] for label in labels.tolist()]


def _hold_out(
    embeddings: NDArray[np.float32],
    labels: NDArray[np.int64],
    persons: Sequence[str],
    names: Sequence[str],
    progress: Progress,
    *,
    eval_fraction: float,
    seed: int,
) -> tuple[list[str], dict[str, Split]]:
    """Return the group of each face and the side of each person.

    Among many thousand strangers some always look alike, and chains of them link nearly all into one group that cannot be
    held out. So where the groups leave too few to hold out, only nearer faces are linked.
    """
    groups: list[str] = []
    sides: dict[str, Split] = {}
    for distance in _LINKING_DISTANCES:
        with progress("Looking for people who may be the same", len(labels)) as bar:
            groups = _named(link_persons(embeddings, labels, distance, bar.advance), names)
        sides = split_by_person(persons, eval_fraction, seed, dict(zip(persons, groups, strict=True)))
        if sum(side == "eval" for side in sides.values()) >= _ENOUGH * int(eval_fraction * len(sides)):
            break
    return groups, sides
