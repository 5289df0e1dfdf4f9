"""How far a figure would move with other persons: bootstrap draws over the persons in the pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from copy import copy

import numpy as np
from numpy.typing import NDArray

from stylekit.errors import DataError, TooFewError
from stylekit.metrics.sets import Floats

_TAILS_PERCENT = (2.5, 97.5)  # of a 95% interval
_NORMAL = 1.959964  # standard deviations to either side that hold 95% of a normal distribution
_BLOCK = 2**22  # numbers held at once

Interval = tuple[float, float]


class Resampling:
    """Draws of persons with replacement, each with all the pictures of them (Efron 1979, in clusters).

    Pictures of one person are not independent, so persons are drawn and not pictures. Every statistic of one evaluation takes
    the same draws, so that two rows can be compared draw by draw.

    Args:
        persons: Who is in each picture, N names.
        resamples: How many draws, B.
        seed: Of the draws.

    Attributes:
        owner: int [N], the number of each picture's person.
        counts: uint16 [B, P], how often each person is drawn.

    Raises:
        TooFewError: If there are fewer than two persons.
    """

    def __init__(self, persons: Sequence[str], resamples: int, seed: int) -> None:
        names, owner = np.unique(list(persons), return_inverse=True)
        if len(names) < 2:
            raise TooFewError(
                f"A spread over persons needs at least two of them, not {len(names)}.", "Add photographs of more people."
            )
        self.owner: NDArray[np.intp] = owner.astype(np.intp)
        self.counts: NDArray[np.uint16] = np.empty((resamples, len(names)), np.uint16)
        random = np.random.default_rng(seed)
        pictures = np.bincount(owner)
        for row in self.counts:
            row[:] = 0
            while pictures[row > 0].sum() < 2:  # one picture allows no estimate
                row[:] = np.bincount(random.integers(0, len(names), len(names)), minlength=len(names))

    @classmethod
    def plain(cls, pictures: int) -> Resampling:
        """Return a single draw: each of so many pictures once."""
        return cls([str(index) for index in range(pictures)], 0, 0).with_everyone()

    def with_everyone(self) -> Resampling:
        """Return the same draws behind a first one that has every person once."""
        found = copy(self)
        found.counts = np.vstack([np.ones((1, self.persons), np.uint16), self.counts])
        return found

    def __len__(self) -> int:
        """Return the number of draws."""
        return len(self.counts)

    @property
    def persons(self) -> int:
        """Number of persons."""
        return int(self.counts.shape[1])

    @property
    def pictures(self) -> int:
        """Number of pictures."""
        return len(self.owner)

    @property
    def weights(self) -> Floats:
        """How often each picture is drawn, float64 [B, N]; `counts` takes less memory."""
        return self.counts[:, self.owner].astype(np.float64)

    def by_person(self, values: NDArray[np.generic]) -> Floats:
        """Return the sums of per-picture values [N] over the pictures of each person, float64 [P]."""
        if len(values) != self.pictures:
            raise DataError(f"There are {len(values)} values for {self.pictures} pictures.")
        return np.asarray(np.bincount(self.owner, np.asarray(values, np.float64), self.persons), np.float64)

    def total(self, values: NDArray[np.generic]) -> Floats:
        """Return the sums of per-picture values [N] over the pictures of each draw, float64 [B]."""
        sums = self.by_person(values)
        return np.concatenate([counts @ sums for counts in self.blocks()])

    def blocks(self) -> Iterator[Floats]:
        """Give `counts` as float64, some draws at a time."""
        step = max(1, _BLOCK // self.persons)
        for start in range(0, len(self), step):
            yield self.counts[start : start + step].astype(np.float64)

    def means(self, values: NDArray[np.generic]) -> Floats:
        """Return the mean of per-picture values [N] in each draw, float64 [B].

        Pictures without a value (NaN) are left out; a draw of such pictures alone is NaN.
        """
        numbers = np.asarray(values, np.float64)
        there = np.isfinite(numbers)
        with np.errstate(invalid="ignore"):
            return np.asarray(self.total(np.where(there, numbers, 0)) / self.total(there))

    def interval(self, values: NDArray[np.generic]) -> Interval:
        """Return the 95% percentile interval of the mean of per-picture values [N]; NaN is left out."""
        return _percentiles(self.means(values))

    def share_interval(self, values: NDArray[np.generic]) -> Interval:
        """Return the 95% interval of a share, the mean of per-picture values [N] in [0, 1]; NaN is left out.

        Where every value is 0, or every one 1, all draws agree whatever others there are; Wilson's score interval (1927), with
        persons as its trials, then says how far the share may lie from there: from 0.80 for 15 persons who all have a 1.
        """
        numbers = np.asarray(values, np.float64)
        there = np.isfinite(numbers)
        known = numbers[there]
        if not len(known) or not (np.all(known == 0) or np.all(known == 1)):
            return self.interval(numbers)
        persons = len(np.unique(self.owner[there]))
        reach = _NORMAL**2 / (persons + _NORMAL**2)
        return (1 - reach, 1.0) if known[0] else (0.0, reach)

    def paired(self, values: NDArray[np.generic], other: NDArray[np.generic]) -> Interval:
        """Return the 95% percentile interval of the mean difference of two rows' values [N], in pictures that both have."""
        return self.interval(np.asarray(values, np.float64) - np.asarray(other, np.float64))


def interval_of(draws: Floats, value: float, within: Interval = (-math.inf, math.inf)) -> Interval:
    """Return the 95% percentile interval of a statistic, moved so that the draws' mean lies on its value.

    A draw holds only about 63% of the persons, some of them more than once. That alone raises FID and lowers coverage, in every
    draw alike: the draws tell how far the statistic spreads, and not where it lies. Of KID and of means, which draws do not
    bias, the move is no more than the chance of the draws.

    Args:
        draws: The statistic of each draw, [B]; NaN is left out.
        value: The statistic of all pictures.
        within: Least and largest possible value.

    Returns:
        Low and high; NaN where there is no draw.
    """
    if not np.isfinite(draws).any():
        return math.nan, math.nan
    low, high = _percentiles(draws - np.nanmean(draws) + value)
    return max(low, within[0]), min(high, within[1])


def _percentiles(draws: Floats) -> Interval:
    if not np.isfinite(draws).any():
        return math.nan, math.nan
    low, high = np.nanpercentile(draws, _TAILS_PERCENT)
    return float(low), float(high)
