import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

from stylekit.errors import DataError, TooFewError
from stylekit.metrics.fid import FrechetStatistics, fid, fid_over_persons, frechet_distance
from stylekit.metrics.persons import Resampling


def features(n, seed, shift=0.0, width=12):
    return np.random.default_rng(seed).normal(shift, 1.0, (n, width)) * np.linspace(0.2, 2, width)


def everyone(n):
    return [str(i) for i in range(n)]


def by_square_root(reference, pictures):
    """Heusel et al. 2017, equation 6, by scipy's matrix square root."""
    first, second = np.cov(reference, rowvar=False), np.cov(pictures, rowvar=False)
    root = scipy.linalg.sqrtm(first @ second)
    return ((reference.mean(0) - pictures.mean(0)) ** 2).sum() + np.trace(first + second - 2 * root.real)


def by_torchmetrics(reference, pictures):
    class Given(nn.Module):
        num_features = reference.shape[1]

        def forward(self, given):
            return given

    metric = FrechetInceptionDistance(feature=Given()).set_dtype(torch.float64)
    metric.update(torch.from_numpy(reference), real=True)
    metric.update(torch.from_numpy(pictures), real=False)
    return float(metric.compute())


@pytest.mark.parametrize(("m", "n", "width"), [(40, 30, 12), (200, 150, 64)])
def test_equals_scipys_square_root_and_torchmetrics(m, n, width):
    reference, pictures = features(m, 0, width=width), features(n, 1, 0.4, width)
    expected = by_square_root(reference, pictures)
    assert fid(reference, pictures) == pytest.approx(expected, rel=1e-6)
    assert fid(reference, pictures) == pytest.approx(by_torchmetrics(reference, pictures), rel=1e-6)
    statistics = FrechetStatistics.of(reference), FrechetStatistics.of(pictures)
    assert frechet_distance(*statistics) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("m", "n"), [(20, 15), (200, 8), (5, 90), (64, 65)])
def test_sets_of_fewer_pictures_than_features_are_exact(m, n):
    reference, pictures = features(m, 0, width=64), features(n, 1, 0.4, 64)
    # eigenvalues of (S1 S2), which scipy's square root loses digits of where there is no full rank
    both = np.cov(reference, rowvar=False) @ np.cov(pictures, rowvar=False)
    largest = np.sort(np.linalg.eigvals(both).real)[::-1][: min(m, n) - 1]
    means, traces = reference.mean(0) - pictures.mean(0), np.var(reference, 0, ddof=1).sum() + np.var(pictures, 0, ddof=1).sum()
    expected = means @ means + traces - 2 * np.sqrt(np.maximum(largest, 0)).sum()
    assert fid(reference, pictures) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(FrechetStatistics.of(reference), FrechetStatistics.of(pictures)) == pytest.approx(expected, rel=1e-6)


def test_known_answer_of_normal_numbers():
    reference, pictures = np.array([[0.0], [2], [4], [6]]), np.array([[10.0], [11], [12], [13]])
    # one number a picture: (m1 - m2)^2 + (s1 - s2)^2
    assert fid(reference, pictures) == pytest.approx(8.5**2 + (np.sqrt(20 / 3) - np.sqrt(5 / 3)) ** 2)


@given(st.integers(4, 30), st.integers(4, 30), st.integers(1, 20), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_a_set_is_at_no_distance_from_itself_and_distance_has_no_direction(m, n, width, seed):
    reference, pictures = features(m, seed, 3, width), features(n, seed + 1, 3.5, width)
    size = (reference**2).sum() / m
    assert fid(reference, reference) == pytest.approx(0, abs=1e-8 * size)
    assert fid(reference, pictures) == pytest.approx(fid(pictures, reference), rel=1e-9, abs=1e-9)
    shuffled = np.random.default_rng(seed).permutation(pictures)
    assert fid(reference, shuffled) == pytest.approx(fid(reference, pictures), rel=1e-9, abs=1e-9)


@given(st.lists(st.integers(0, 20), min_size=1, max_size=6), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_streamed_statistics_do_not_depend_on_the_batches(sizes, seed):
    values = (features(sum(sizes) + 4, seed) + 1000).astype(np.float32)
    streamed, halves = FrechetStatistics.empty(12), FrechetStatistics.empty(12)
    for part in np.split(values, np.cumsum(sizes)):
        streamed.update(part)
    halves.merge(FrechetStatistics.of(values[3:]))
    halves.merge(FrechetStatistics.of(values[:3]))
    for found in (streamed, halves):
        assert found.count == len(values)
        np.testing.assert_allclose(found.mean, values.astype(np.float64).mean(0), rtol=1e-12)
        np.testing.assert_allclose(found.covariance, np.cov(values.astype(np.float64), rowvar=False), rtol=1e-8, atol=1e-9)


def test_float32_features_far_from_zero_lose_no_digits():
    reference, pictures = ((features(n, n, shift) + 1000).astype(np.float32) for n, shift in ((60, 0), (50, 0.3)))
    expected = by_square_root(*((each.astype(np.float64) - 1000) for each in (reference, pictures)))
    assert fid(reference, pictures) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("m", "n", "width"), [(60, 12, 200), (60, 150, 40), (500, 300, 40), (30, 90, 40)])
def test_the_effect_of_a_picture_is_the_slope_of_fid_by_its_share(m, n, width):
    """Against central differences of FID with that picture's weight a little up or down."""
    reference, pictures = features(m, 0, width=width), features(n, 1, 0.4, width)

    def weighted(weights):
        total = weights.sum()
        mean = weights @ pictures / total
        own = (pictures - mean) * np.sqrt(weights / (n - 1) * n / total)[:, None]
        centre = reference.mean(0)
        fixed = (reference - centre) / np.sqrt(m - 1)
        cross = np.linalg.svd(own @ fixed.T, compute_uv=False).sum()
        return ((mean - centre) ** 2).sum() + (own**2).sum() + (fixed**2).sum() - 2 * cross

    class Draw(Resampling):
        """A single draw that has one picture once more."""

        def __init__(self, picture):
            super().__init__(everyone(n), 0, 0)
            self.counts = np.ones((1, n), np.uint16)
            self.counts[0, self.owner[picture]] = 2

    assert weighted(np.ones(n)) == pytest.approx(fid(reference, pictures))
    for picture in (0, n - 1):
        step = 1e-4 * np.eye(n)[picture]
        slope = (weighted(np.ones(n) + step) - weighted(np.ones(n) - step)) / 2e-4
        # a draw of n + 1 pictures gives the picture a share of 2 / (n + 1)
        found = fid_over_persons(reference, pictures, Draw(picture))[0] - fid(reference, pictures)
        assert found * (n + 1) / n == pytest.approx(slope, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize(("m", "n", "width"), [(50, 15, 100), (100, 80, 30)])
def test_the_spread_matches_fresh_samples_of_persons(m, n, width):
    reference = features(m, 0, width=width)
    fresh = [fid(reference, features(n, seed, 0.3, width)) for seed in range(1, 200)]
    resampling = Resampling(everyone(n), 300, 0)
    sets = [features(n, seed, 0.3, width) for seed in range(1, 9)]
    draws = [fid_over_persons(reference, each, resampling) for each in sets]
    assert np.mean([each.std(ddof=1) for each in draws]) == pytest.approx(np.std(fresh), rel=0.25)
    for own, each in zip(sets, draws, strict=True):
        assert abs(each.mean() - fid(reference, own)) < 4 * each.std() / np.sqrt(300)


def test_a_row_of_one_picture_does_not_hang_on_the_persons():
    reference, constant = features(50, 0), np.tile(features(1, 1), (9, 1))
    draws = fid_over_persons(reference, constant, Resampling(everyone(9), 20, 0))
    assert draws == pytest.approx(np.full(20, fid(reference, constant)))


def test_what_does_not_compare_is_refused():
    with pytest.raises(TooFewError, match="measured set has 3"):
        fid(features(50, 0), features(3, 1))
    with pytest.raises(DataError, match="reference set are not finite for 1 of its 9"):
        fid(np.where(np.eye(9, 12, -8) > 0, np.nan, 1.0), features(9, 1))
    with pytest.raises(DataError, match="not finite"):
        FrechetStatistics.empty(2).update(np.array([[np.inf, 0.0]]))
    with pytest.raises(DataError, match="Statistics of 12 numbers a picture and of 5"):
        frechet_distance(FrechetStatistics.of(features(9, 0)), FrechetStatistics.of(features(9, 0, width=5)))
    with pytest.raises(TooFewError, match="at least 4 pictures in each set, not 1"):
        frechet_distance(FrechetStatistics.of(features(9, 0)), FrechetStatistics.of(features(1, 0)))
