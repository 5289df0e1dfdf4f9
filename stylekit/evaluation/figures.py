"""From arrays to figures: what a row of a table says, with its intervals over persons and its values for every picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stylekit.metrics import artefacts, colour, expression
from stylekit.metrics.fid import fid, fid_over_persons
from stylekit.metrics.identity import Identity, disagreements, identity
from stylekit.metrics.kid import kid, kid_over_persons
from stylekit.metrics.manifold import manifold, neighbour_coverage
from stylekit.metrics.measure import Arrays
from stylekit.metrics.persons import Resampling, interval_of
from stylekit.metrics.report import Interval, metric_name

KID_SCALE = 1000  # KID is written x1000, as is usual
SHARES = frozenset({"id_recognised", "id_rank_1", "face_found", "precision"})
"""Means of values from 0 to 1 whose interval must not vanish where all pictures agree (`Resampling.share_interval`)."""

Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RowFigures:
    """The figures of one row.

    Attributes:
        values: By full name (`metric_name`).
        intervals: 95 % intervals over persons of those that have one, by full name.
        pictures: Values [N] of every picture, NaN where it has none, by short name and network (`id_centred/dlib-resnet@...`).
        kids: By extractor, KID of all pictures at once and for every draw of persons [B], not scaled.
    """

    values: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, Interval] = field(default_factory=dict)
    pictures: dict[str, Values] = field(default_factory=dict)
    kids: dict[str, tuple[float, Values]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Yardstick:
    """What every row is held against.

    Attributes:
        photo: Arrays of the photographs.
        reference: Arrays of the cartoons.
        centres: Mean embedding [E] by embedder's name.
        persons: Who is in each photograph.
        extractors: Labels of the extractors.
        embedders: Label of each embedder by its name.
        subsets: Of KID.
        seed: Of KID's subsets.
        resampling: Draws of persons.
        device: Where statistics are computed; one that knows float64.
    """

    photo: Arrays
    reference: Arrays
    centres: Mapping[str, Values]
    persons: Sequence[str]
    extractors: Sequence[str]
    embedders: Mapping[str, str]
    subsets: int
    seed: int
    resampling: Resampling
    device: str = "cpu"


class _Row:
    """A row that is being filled."""

    def __init__(self, by: Yardstick) -> None:
        self.figures = RowFigures()
        self._by = by
        self._n = len(by.persons)

    def put(self, metric: str, value: float, interval: Interval | None = None, network: str | None = None) -> None:
        """Add a figure, if it is one."""
        if np.isfinite(value):
            name = metric_name(metric, network, self._n)
            self.figures.values[name] = float(value)
            if interval is not None and np.isfinite(interval).all():
                self.figures.intervals[name] = interval

    def put_mean(self, metric: str, values: Values, network: str | None = None) -> None:
        """Add the mean of a value of every picture, and the values."""
        self.figures.pictures[f"{metric}/{network}" if network else metric] = np.asarray(values, np.float64)
        if np.isfinite(values).any():
            interval = self._by.resampling.share_interval if metric in SHARES else self._by.resampling.interval
            self.put(metric, float(np.nanmean(values)), interval(values), network)


def row_figures(row: Arrays, by: Yardstick) -> RowFigures:
    """Return the figures of a row.

    Args:
        row: Its arrays.
        by: What it is held against; a gauge that `row` has no arrays of gives no figures.
    """
    filled = _Row(by)
    for label in by.extractors:
        _distances(filled, row, label, by)
    for name, label in by.embedders.items():
        _identity(filled, row, name, label, by)
    _faces(filled, row, by)
    return filled.figures


def _distances(filled: _Row, row: Arrays, label: str, by: Yardstick) -> None:
    reference, own = by.reference[f"features/{label}"], row[f"features/{label}"]
    mean, deviation = kid(reference, own, by.subsets, by.seed, device=by.device)
    kids = kid_over_persons(reference, own, by.resampling.with_everyone(), device=by.device)
    every, draws = float(kids[0]), kids[1:]
    filled.figures.kids[label] = every, draws
    filled.put("kid_x1000", mean * KID_SCALE, _scaled(interval_of(draws, mean)), label)
    filled.put("kid_x1000_std", deviation * KID_SCALE, network=label)
    filled.put("kid_x1000_all", every * KID_SCALE, _scaled(interval_of(draws, every)), label)
    filled.put("kid_x1000_person_std", float(draws.std(ddof=1)) * KID_SCALE, network=label)
    distance = fid(reference, own)
    filled.put("fid", distance, interval_of(fid_over_persons(reference, own, by.resampling), distance, (0, np.inf)), label)
    found = manifold(reference, own, device=by.device)
    filled.put_mean("precision", found.inside.astype(np.float64), label)
    filled.put("recall", found.recall, network=label)
    filled.put("neighbour_coverage", neighbour_coverage(reference, own, device=by.device), network=label)
    covered = found.coverage_over_persons(by.resampling)
    filled.put("coverage", found.coverage, interval_of(covered, found.coverage, (0, 1)), label)


def _scaled(interval: Interval) -> Interval:
    return interval[0] * KID_SCALE, interval[1] * KID_SCALE


def _identity(filled: _Row, row: Arrays, name: str, label: str, by: Yardstick) -> None:
    found = likeness(row, name, by)
    filled.put_mean("id_centred", found.cosine_centred, label)
    filled.put("id_centred_std", found.centred_deviation, network=label)
    filled.put("id_centred_strangers", found.strangers, network=label)
    filled.put_mean("id_raw", found.cosine, label)
    filled.put_mean("id_l2", found.distance, label)
    filled.put_mean("id_recognised", found.own_among_few, label)
    filled.put_mean("id_rank_1", found.nearest_is_own_person.astype(np.float64), label)
    filled.put("id_rank_1_chance", found.chance, network=label)


def likeness(row: Arrays, name: str, by: Yardstick) -> Identity:
    """Return the likeness of a row to the photographs by the embedder of that name."""
    array = f"embedding/{name}"
    return identity(by.photo[array], row[array], by.centres[name], by.persons)


def contradictions(rows: Mapping[str, Arrays], by: Yardstick) -> list[str]:
    """Return where two embedders disagree about rows, by name, one sentence each."""
    found = {title: {name: likeness(row, name, by) for name in by.embedders} for title, row in rows.items()}
    return disagreements(found, by.resampling) if len(by.embedders) > 1 else []


def _faces(filled: _Row, row: Arrays, by: Yardstick) -> None:
    if "expression/eyes" in row:
        for metric, values in expression.agreement(by.photo, row).items():
            filled.put_mean(metric, values)
        for metric, value in expression.correlation(by.photo, row).items():
            filled.put(f"{metric}_r", value)
    if "content" in row:
        filled.put_mean("content", row["content"].astype(np.float64))
    if "colour/skin" in row:
        shifts = colour.shift(by.photo, row)
        for metric, values in shifts.items():
            filled.put_mean(metric, values)
        for tone, (value, count) in colour.by_tone(shifts["ita_shift_deg"], colour.tones(by.photo)).items():
            filled.figures.values[metric_name("ita_shift_deg", tone.replace(" ", "-"), count)] = value
    if "artefacts/eyes_specks" in row:
        for metric, values in artefacts.judge(by.reference, row, by.photo).items():
            filled.put_mean(metric, values)
