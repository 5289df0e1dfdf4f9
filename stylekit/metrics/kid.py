"""Kernel Inception Distance (Binkowski et al. 2018), over random subsets and over draws of persons.

KID leads over FID, which at a few hundred pictures is mostly bias.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics.image.kid import KernelInceptionDistance

from stylekit.errors import DataError
from stylekit.metrics.persons import Resampling, interval_of
from stylekit.metrics.sets import SMALLEST_SET, Features, Floats, checked_sets

_TILE = 1024  # pictures a side of the kernel's tiles: 8 MB each


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
    """Return the size of KID's subsets for sets of `n` and `m` pictures: half the smaller, so that subsets differ."""
    return max(min(n, m), SMALLEST_SET) // 2


def kid(
    reference: Features, features: Features, subsets: int = 100, seed: int = 0, *, device: str = "cpu"
) -> tuple[float, float]:
    """Return KID over random subsets of `subset_size` pictures: mean and standard deviation, not scaled.

    Args:
        reference: Features [M, D].
        features: Features [N, D].
        subsets: How many subsets are drawn.
        seed: Of the draw; torch's global generator stays as it was.
        device: What it is computed on; one that knows float64.

    Raises:
        TooFewError: If a set has fewer than four pictures.
        DataError: If features are not finite, or of different widths.
    """
    cartoons, pictures = checked_sets(reference, features)
    size = subset_size(len(pictures), len(cartoons))
    with warnings.catch_warnings(), _seeded(seed):
        warnings.filterwarnings("ignore", "Metric `Kernel Inception Distance` will save all")
        metric = KernelInceptionDistance(feature=_Given(cartoons.shape[1]), subsets=subsets, subset_size=size).to(device)
        metric.update(torch.from_numpy(cartoons).to(device), real=True)
        metric.update(torch.from_numpy(pictures).to(device), real=False)
        mean, deviation = metric.compute()
    return float(mean), float(deviation)


def kid_all(reference: Features, features: Features, *, device: str = "cpu") -> float:
    """Return KID of all pictures at once: the unbiased estimate of the squared maximum mean discrepancy, not scaled.

    Raises:
        As `kid`.
    """
    cartoons, pictures = _on(device, reference, features)
    return _within(cartoons) + float(_nearness(cartoons, pictures, Resampling.plain(len(pictures)))[0])


def kid_over_persons(reference: Features, features: Features, resampling: Resampling, *, device: str = "cpu") -> Floats:
    """Return KID of all pictures at once, for every draw of persons; the reference stays as it is.

    Pairs of a picture with itself never count, so a picture drawn twice does not feign likeness within the set. The kernel is
    seen tile by tile and summed by person: memory is that of the features, the draws and a few tiles.

    Args:
        reference: Features [M, D].
        features: Features [N, D], in the order of the persons.
        resampling: The draws.
        device: What it is computed on; one that knows float64.

    Returns:
        float64 [B], not scaled.

    Raises:
        As `kid`.
    """
    _check_order(features, resampling)
    cartoons, pictures = _on(device, reference, features)
    return _within(cartoons) + _nearness(cartoons, pictures, resampling)


@dataclass(frozen=True)
class Difference:
    """KID of one set less KID of another, over the same persons and against the same reference. Not scaled.

    Attributes:
        value: The difference over all pictures; negative when the first set lies nearer.
        deviation: Standard deviation over the draws, both sets drawn alike.
        low: Lower end of the 95% interval (`interval_of`).
        high: Its upper end; a negative one says that the first set lies nearer.
    """

    value: float
    deviation: float
    low: float
    high: float


def kid_difference(
    reference: Features, features: Features, other: Features, resampling: Resampling, *, device: str = "cpu"
) -> Difference:
    """Return the paired difference of `features` and `other`, [N, D] in the same order, over draws of persons.

    Raises:
        As `kid`.
    """
    for each in (features, other):
        _check_order(each, resampling)
    every = resampling.with_everyone()
    nearness = [_nearness(*_on(device, reference, each), every) for each in (features, other)]
    value, draws = float(nearness[0][0] - nearness[1][0]), nearness[0][1:] - nearness[1][1:]
    return Difference(value, float(draws.std(ddof=1)), *interval_of(draws, value))


def _check_order(features: Features, resampling: Resampling) -> None:
    if len(features) != resampling.pictures:
        raise DataError(f"There are features of {len(features)} pictures and persons of {resampling.pictures}.")


def _on(device: str, reference: Features, features: Features) -> tuple[Tensor, Tensor]:
    cartoons, pictures = checked_sets(reference, features)
    return torch.from_numpy(cartoons).to(device), torch.from_numpy(pictures).to(device)


def _tiles(count: int) -> Iterator[slice]:
    return (slice(start, min(start + _TILE, count)) for start in range(0, count, _TILE))


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1) ** 3


def _pairs(features: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Give the kernel within a set by tiles on and above the diagonal: its rows, its columns, and the tile.

    A picture's pair with itself is 0, and tiles above the diagonal count for those below too.
    """
    for rows in _tiles(len(features)):
        for columns in _tiles(len(features)):
            if columns.start < rows.start:
                continue
            tile = _kernel(features[rows], features[columns])
            yield rows, columns, tile.fill_diagonal_(0) if rows == columns else 2 * tile


def _within(cartoons: Tensor) -> float:
    """Return the mean kernel over pairs of different cartoons."""
    total = sum(float(tile.sum()) for _, _, tile in _pairs(cartoons))
    return total / (len(cartoons) * (len(cartoons) - 1))


def _nearness(cartoons: Tensor, pictures: Tensor, resampling: Resampling) -> Floats:
    """Return the terms of KID that depend on the pictures, float64 [B]: those within the set less those across."""
    ones = np.ones(len(pictures))
    sizes = resampling.by_person(ones)
    total = resampling.total(ones)
    same = np.concatenate([counts**2 @ sizes for counts in resampling.blocks()])
    means = [
        torch.stack([_kernel(pictures[rows], cartoons[columns]).sum(1) for columns in _tiles(len(cartoons))]).sum(0)
        for rows in _tiles(len(pictures))
    ]
    across = resampling.total(torch.cat(means).cpu().numpy()) / len(cartoons)
    return np.asarray(_own(pictures, resampling) / (total**2 - same) - 2 * across / total)


def _own(pictures: Tensor, resampling: Resampling) -> Floats:
    """Return the sum of the kernel over the drawn pairs of different pictures, float64 [B]."""
    order = np.argsort(resampling.owner, kind="stable")  # a person's pictures side by side
    pictures = pictures[torch.from_numpy(order).to(pictures.device)]
    number = torch.from_numpy(resampling.owner[order]).to(pictures.device)

    def summed(tile: Tensor, part: slice) -> Tensor:
        """Return a tile's rows summed by person."""
        first, last = int(number[part.start]), int(number[part.stop - 1])
        return tile.new_zeros(last + 1 - first, tile.shape[1]).index_add_(0, number[part] - first, tile)

    def drawn(part: slice) -> Tensor:
        first, last = int(number[part.start]), int(number[part.stop - 1])
        counts = resampling.counts[:, first : last + 1].astype(np.float64)
        return torch.from_numpy(counts).to(pictures.device)

    found = pictures.new_zeros(len(resampling))
    for rows, columns, tile in _pairs(pictures):
        persons = summed(summed(tile, rows).T, columns).T
        found += (drawn(rows) @ persons * drawn(columns)).sum(1)
    return found.cpu().numpy()
