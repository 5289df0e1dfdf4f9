"""Figures of every single picture: `eval_pictures.csv`, and which pictures came out worst."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from stylekit.errors import DataError
from stylekit.paths import atomic_write_text

JUDGES = {
    "id_centred": ("likeness", -1),
    "artefact_eyes": ("faults in the eyes", 1),
    "artefact_mouth": ("faults at the mouth", 1),
    "content": ("lost content", 1),
}
"""Figures that decide which pictures are worst: what they are called, and whether more (1) or less (-1) is worse."""

_TELLING = 0.8  # a figure is a reason where it is worse than that of so many of the pictures


@dataclass(frozen=True)
class Verdict:
    """How bad a picture is among its set.

    Attributes:
        index: Which picture.
        badness: Share of the pictures that are better than it, by the figure in which it stands worst.
        reasons: The figures that say so, worst first, with their values.
    """

    index: int
    badness: float
    reasons: list[str]


def worst_pictures(figures: Mapping[str, NDArray[np.float64]], count: int = 10) -> list[Verdict]:
    """Return the worst pictures of a set, worst first.

    Every picture is placed by the one of the `JUDGES` in which it stands worst among all, then by their mean. A figure that a
    picture does not have says nothing of it.

    Args:
        figures: Values [N] of every picture by figure; `id_centred` may carry its network (`id_centred/dlib-resnet@...`).
        count: How many pictures.
    """
    by_judge: dict[str, NDArray[np.float64]] = {}
    for name, values in figures.items():
        by_judge.setdefault(name.partition("/")[0], values)  # the leading network's
    judges = {name: by_judge[name] for name in JUDGES if name in by_judge}
    if not judges:
        return []
    badness = {name: _better_share(values * JUDGES[name][1]) for name, values in judges.items()}
    table = np.stack(list(badness.values()))
    order = np.lexsort((-table.mean(axis=0), -table.max(axis=0)))[:count]
    return [
        Verdict(
            index,
            float(table[:, index].max()),
            _reasons(judges, {name: float(values[index]) for name, values in badness.items()}, index),
        )
        for index in map(int, order)
    ]


def _reasons(judges: Mapping[str, NDArray[np.float64]], badness: Mapping[str, float], index: int) -> list[str]:
    names = sorted(judges, key=badness.__getitem__, reverse=True)
    telling = [name for name in names if badness[name] >= _TELLING] or names[:1]
    return [f"{JUDGES[name][0]} {judges[name][index]:.2f} (median {np.nanmedian(judges[name]):.2f})" for name in telling]


def _better_share(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return for each value the share of the others that are smaller; 0 where it is missing."""
    there = np.isfinite(values)
    share = np.zeros(len(values))
    if there.sum() > 1:
        share[there] = (rankdata(values[there], method="min") - 1) / (there.sum() - 1)
    return share


def write_pictures(path: Path, files: Sequence[str], persons: Sequence[str], figures: Mapping[str, NDArray[np.float64]]) -> None:
    """Write a table with one line a picture: `file`, `person`, and every figure in the order given; empty where there is none.

    Raises:
        StylekitError: If it cannot be written.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["file", "person", *figures])
    for index, (file, person) in enumerate(zip(files, persons, strict=True)):
        table.writerow([file, person, *(_number(float(values[index])) for values in figures.values())])
    atomic_write_text(path, text.getvalue())


def _number(value: float) -> str:
    return f"{value:.6g}" if np.isfinite(value) else ""


@dataclass(frozen=True, eq=False)
class PictureTable:
    """`eval_pictures.csv` read back.

    Attributes:
        files: Crops of the photographs.
        persons: Who is in each.
        figures: Values [N] by figure, NaN where there is none.
    """

    files: list[str]
    persons: list[str]
    figures: dict[str, NDArray[np.float64]]


def read_pictures(path: Path) -> PictureTable:
    """Read the table of `write_pictures`.

    Raises:
        DataError: If it is missing or not of this form.
    """
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            heading, *lines = csv.reader(stream)
        if heading[:2] != ["file", "person"] or any(len(line) != len(heading) for line in lines):
            raise ValueError("its columns are others")
        values = np.array([[float(cell or "nan") for cell in line[2:]] for line in lines], np.float64)
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}.", "Run: stylekit eval") from error
    except (ValueError, csv.Error) as error:
        raise DataError(f"{path} is not a table of pictures: {error}.", "Run: stylekit eval") from error
    columns = values.reshape(len(lines), len(heading) - 2).T
    figures = dict(zip(heading[2:], columns, strict=True))
    return PictureTable([line[0] for line in lines], [line[1] for line in lines], figures)
