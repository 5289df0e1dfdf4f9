"""Frechet Inception Distance (Heusel et al. 2017), of feature sets or of streamed statistics, and its spread over persons.

FID of a few hundred pictures is mostly bias: two samples of one distribution are far from 0, so only figures with equal counts
compare.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from stylekit.errors import DataError, TooFewError
from stylekit.metrics.persons import Resampling
from stylekit.metrics.sets import SMALLEST_SET, Features, Floats, checked_sets


@dataclass(eq=False)
class FrechetStatistics:
    """Count, mean and covariance of feature vectors, gathered batch by batch in constant memory.

    Batches are merged by their means and scatters (Chan, Golub and LeVeque 1979), in float64: features far from 0 lose no
    digits, and neither the order of the pictures nor the size of the batches matters.

    Attributes:
        count: Vectors seen.
        mean: float64 [D].
        scatter: float64 [D, D], the sum of outer products of what each vector has beyond the mean.
    """

    count: int
    mean: Floats
    scatter: Floats

    @classmethod
    def empty(cls, width: int) -> FrechetStatistics:
        """Return statistics of no vectors of `width` numbers."""
        return cls(0, np.zeros(width), np.zeros((width, width)))

    @classmethod
    def of(cls, features: Features) -> FrechetStatistics:
        """Return the statistics of features [N, D].

        Raises:
            DataError: If one is not finite.
        """
        values = np.asarray(features, np.float64)
        if not np.isfinite(values).all():
            raise DataError("Features of the set are not finite.", "Look for pictures that the network cannot read.")
        mean = values.mean(axis=0) if len(values) else np.zeros(values.shape[1])
        beyond = values - mean
        return cls(len(values), mean, beyond.T @ beyond)

    @property
    def covariance(self) -> Floats:
        """Unbiased covariance, float64 [D, D]."""
        return self.scatter / (self.count - 1)

    def update(self, features: Features) -> None:
        """Add a batch of features [N, D].

        Raises:
            DataError: If one is not finite, or has another width.
        """
        self.merge(FrechetStatistics.of(features))

    def merge(self, other: FrechetStatistics) -> None:
        """Add what other statistics have seen.

        Raises:
            DataError: If they are of another width.
        """
        _check_widths(self, other)
        if other.count == 0:
            return
        count, step = self.count + other.count, other.mean - self.mean
        self.scatter = self.scatter + other.scatter + np.outer(step, step) * (self.count * other.count / count)
        self.mean = self.mean + step * (other.count / count)
        self.count = count


def frechet_distance(first: FrechetStatistics, second: FrechetStatistics) -> float:
    """Return |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) of means m and covariances S.

    With factors S = F^T F the trace of the root is the sum of the singular values of F1 F2^T. The factors come from symmetric
    eigenvalues, of which those that rounding alone makes are dropped, so that covariances need not have full rank.

    Raises:
        TooFewError: If one has seen fewer than four vectors.
        DataError: If they are of different widths.
    """
    _check_widths(first, second)
    if (least := min(first.count, second.count)) < SMALLEST_SET:
        raise TooFewError(f"FID needs at least {SMALLEST_SET} pictures in each set, not {least}.", "Add more pictures.")
    cross = _sum_of_singular_values(_factor(first.covariance) @ _factor(second.covariance).T)
    return _distance(first.mean - second.mean, np.trace(first.covariance), np.trace(second.covariance), cross)


def fid(reference: Features, features: Features) -> float:
    """Return the Frechet distance of features [N, D] from `reference` [M, D].

    With fewer pictures than D the covariances are never made: their factors are the centred features themselves.

    Raises:
        TooFewError: If a set has fewer than four pictures.
        DataError: If features are not finite, or of different widths.
    """
    cartoons, pictures = checked_sets(reference, features)
    if min(len(cartoons), len(pictures)) > cartoons.shape[1]:
        return frechet_distance(FrechetStatistics.of(cartoons), FrechetStatistics.of(pictures))
    (mean, own), (other_mean, other) = (_centred_factor(each) for each in (cartoons, pictures))
    return _distance(mean - other_mean, (own**2).sum(), (other**2).sum(), _sum_of_singular_values(own @ other.T))


def fid_over_persons(reference: Features, features: Features, resampling: Resampling) -> Floats:
    """Return the FID that draws of persons give, to first order (the infinitesimal jackknife of Jaeckel 1972).

    FID of a draw itself lies far too high, because a draw repeats pictures and so has a covariance of lower rank. The effect of
    drawing each picture once more or once less has no such bias: its mean over the draws is FID itself, and its spread is that
    of fresh samples, as closely as that of the draws' own FID, at every size. It costs one decomposition for all draws.

    Args:
        reference: Features [M, D], which stay as they are.
        features: Features [N, D], in the order of the persons.
        resampling: The draws.

    Returns:
        float64 [B].

    Raises:
        As `fid`, and DataError if there are other pictures than the persons'.
    """
    return fid(reference, features) + resampling.means(_influence(*checked_sets(reference, features)))


def _influence(cartoons: Floats, pictures: Floats) -> Floats:
    """Return by how much FID grows for each picture's share in the set, [N], less the mean of that."""
    mean, own = _centred_factor(cartoons)
    if len(own) > own.shape[1]:
        own = _factor(own.T @ own)
    n, shift = len(pictures), pictures.mean(axis=0) - mean
    beyond = pictures - pictures.mean(axis=0)
    across = beyond @ own.T  # its singular values, over the root of n - 1, sum up to the trace of FID's root
    if n <= across.shape[1]:
        values, vectors = np.linalg.eigh(across @ across.T)
        root = vectors**2 @ np.sqrt(np.maximum(values, 0))
    else:
        values, vectors = np.linalg.eigh(across.T @ across)
        there = values > _rounding(values)
        root = (across @ vectors[:, there]) ** 2 @ (1 / np.sqrt(values[there]))
    effect = 2 * beyond @ shift + (beyond**2).sum(axis=1) * n / (n - 1) - root * n / math.sqrt(n - 1)
    return np.asarray(effect - effect.mean())


def _centred_factor(values: Floats) -> tuple[Floats, Floats]:
    """Return the mean [D] of vectors [N, D], and F [N, D] with their covariance F^T F."""
    mean = values.mean(axis=0)
    return mean, (values - mean) / math.sqrt(len(values) - 1)


def _factor(covariance: Floats) -> Floats:
    """Return F [R, D] with F^T F = covariance, R its rank."""
    values, vectors = np.linalg.eigh(covariance)
    there = values > _rounding(values)
    return np.asarray((vectors[:, there] * np.sqrt(values[there])).T)


def _rounding(values: Floats) -> float:
    """Return how large an eigenvalue rounding alone can make."""
    return float(np.abs(values).max(initial=0) * len(values) * np.finfo(np.float64).eps)


def _sum_of_singular_values(matrix: Floats) -> float:
    return float(np.linalg.svd(matrix, compute_uv=False).sum())


def _distance(shift: Floats, trace: float, other_trace: float, cross: float) -> float:
    return max(0.0, float(shift @ shift + trace + other_trace - 2 * cross))


def _check_widths(first: FrechetStatistics, second: FrechetStatistics) -> None:
    if len(first.mean) != len(second.mean):
        raise DataError(
            f"Statistics of {len(first.mean)} numbers a picture and of {len(second.mean)} do not compare.",
            "Take both with one extractor.",
        )
