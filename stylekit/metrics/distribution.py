"""How far one set of pictures lies from another: KID and FID on features, and their spread over persons.

KID leads. FID of a few hundred pictures is mostly bias: two samples of one distribution are far from 0, so only figures with
equal counts compare, and below `num_features` pictures its covariance has not even full rank.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from stylekit.errors import DataError

SMALLEST_SET = 4  # KID draws subsets of half a set, and an unbiased estimate takes two pictures

Floats = NDArray[np.float64]


class _Given(nn.Module):
    """Lets torchmetrics take features where it expects pictures, so that each picture is seen by the network once."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch's CPU generator, from which torchmetrics draws, and give its state back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def subset_size(n: int, m: int) -> int:
    """Return the size of KID's subsets for sets of `n` and `m` pictures: half the smaller, so that subsets differ.

    Raises:
        DataError: If a set is too small.
    """
    if min(n, m) < SMALLEST_SET:
        raise DataError(f"KID and FID need at least {SMALLEST_SET} pictures in each set, not {min(n, m)}.", "Add more pictures.")
    return min(n, m) // 2


def kid(reference: Tensor, features: Tensor, *, subsets: int = 100, seed: int = 0) -> tuple[float, float]:
    """Return Kernel Inception Distance (Binkowski et al. 2018) over random subsets: mean and standard deviation, not scaled.

    Args:
        reference: Features [M, D].
        features: Features [N, D].
        subsets: How many subsets of `subset_size` pictures are drawn.
        seed: Of the draw; torch's global generator stays as it was.

    Raises:
        DataError: If a set has fewer than four pictures.
    """
    size = subset_size(len(features), len(reference))
    with warnings.catch_warnings(), _seeded(seed):
        warnings.filterwarnings("ignore", "Metric `Kernel Inception Distance` will save all")
        metric = KernelInceptionDistance(feature=_Given(features.shape[1]), subsets=subsets, subset_size=size)
        metric.update(reference.double(), real=True)
        metric.update(features.double(), real=False)
        mean, deviation = metric.compute()
    return float(mean), float(deviation)


def fid(reference: Tensor, features: Tensor) -> float:
    """Return the Frechet Inception Distance (Heusel et al. 2017) of features [N, D] from `reference` [M, D].

    Raises:
        DataError: If a set has fewer than four pictures.
    """
    subset_size(len(features), len(reference))
    metric = FrechetInceptionDistance(feature=_Given(features.shape[1]))
    metric.update(reference.double(), real=True)
    metric.update(features.double(), real=False)
    return float(metric.compute())


def _kernel(a: Floats, b: Floats) -> Floats:
    return np.asarray((a @ b.T / a.shape[1] + 1) ** 3)


def kid_over_persons(reference: Tensor, features: Tensor, weights: Floats) -> Floats:
    """Return KID of all pictures at once (the unbiased estimate of MMD^2), once for every row of weights.

    Pairs of a picture with itself never count, so a picture drawn twice does not feign likeness within the set.

    Args:
        reference: Features [M, D], each of weight one.
        features: Features [N, D].
        weights: [B, N], how often each picture is drawn; ones give the plain estimate.

    Returns:
        float64 [B], not scaled.
    """
    cartoons, pictures = reference.double().numpy(), features.double().numpy()
    within_reference = _kernel(cartoons, cartoons)
    count = len(cartoons)
    reference_term = (within_reference.sum() - np.trace(within_reference)) / (count * (count - 1))
    within = _kernel(pictures, pictures)
    np.fill_diagonal(within, 0)
    total = weights.sum(axis=1)
    pairs = total**2 - (weights**2).sum(axis=1)
    own_term = np.einsum("bi,ij,bj->b", weights, within, weights, optimize=True) / pairs
    cross_term = weights @ _kernel(pictures, cartoons).mean(axis=1) / total
    return np.asarray(reference_term + own_term - 2 * cross_term)


def draw_persons(persons: Sequence[str], resamples: int, seed: int) -> Floats:
    """Return bootstrap weights [B, N]: persons are drawn with replacement, each with all the pictures of them.

    Draws of fewer than two different pictures allow no estimate and are drawn again.

    Raises:
        DataError: If there are fewer than two persons, or fewer than two pictures.
    """
    names, index = np.unique(np.asarray(persons), return_inverse=True)
    if len(names) < 2:
        raise DataError(f"A spread over persons needs at least two of them, not {len(names)}.", "Add photographs of more people.")
    random = np.random.default_rng(seed)
    rows: list[Floats] = []
    while len(rows) < resamples:
        weights = random.multinomial(len(names), np.full(len(names), 1 / len(names)))[index].astype(np.float64)
        if np.count_nonzero(weights) >= 2:
            rows.append(weights)
    return np.stack(rows)


@dataclass(frozen=True)
class Difference:
    """KID of one set less KID of another, over the same persons and against the same reference. Not scaled.

    Attributes:
        value: The difference over all pictures; negative when the first set lies nearer.
        mean: Mean over the resamples.
        deviation: Standard deviation over the resamples, both sets resampled alike.
    """

    value: float
    mean: float
    deviation: float


def compare(reference: Tensor, features: Tensor, other: Tensor, weights: Floats) -> Difference:
    """Return the paired difference of `features` and `other`, [N, D] in the same order, with bootstrap `weights` [B, N]."""
    every = np.vstack([np.ones(len(features)), weights])
    difference = kid_over_persons(reference, features, every) - kid_over_persons(reference, other, every)
    return Difference(float(difference[0]), float(difference[1:].mean()), float(difference[1:].std(ddof=1)))
