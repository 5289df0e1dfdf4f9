from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stylekit.errors import DataError, TooFewError
from stylekit.metrics import manifold as module
from stylekit.metrics.manifold import manifold, neighbour_coverage, neighbours_that_cover
from stylekit.metrics.persons import Resampling, interval_of


def features(n, seed, shift=0.0, width=6):
    return np.random.default_rng(seed).normal(shift, 1.0, (n, width)).astype(np.float32)


def distance(a, b):
    return float(np.sqrt(((a.astype(np.float64) - b.astype(np.float64)) ** 2).sum()))


def reach(points, k):
    """Distance of each point to its k-th nearest other one."""
    return [
        sorted(distance(a, b) for j, b in enumerate(points) if j != i)[min(k, len(points) - 1) - 1] for i, a in enumerate(points)
    ]


def share_inside(points, centres, k):
    """Share of points within the k-ball of some centre (Kynkaanniemi et al. 2019, equation 1)."""
    radii = reach(centres, k)
    return np.mean([any(distance(p, c) <= r for c, r in zip(centres, radii, strict=True)) for p in points])


def share_covered(reference, pictures, k):
    """Share of the reference with a picture in its k-ball (Naeem et al. 2020, equation 4)."""
    return np.mean([any(distance(c, p) <= r for p in pictures) for c, r in zip(reference, reach(reference, k), strict=True)])


@given(st.integers(4, 14), st.integers(4, 14), st.integers(0, 999), st.sampled_from([3, 5, 1024]))
@settings(max_examples=25, deadline=None)
def test_equals_loops_over_all_pairs(m, n, seed, tile):
    reference, pictures = features(m, seed), features(n, seed + 1, 0.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_TILE", tile)
        found = manifold(reference, pictures)
    assert found.precision == share_inside(pictures, reference, 3)
    assert found.recall == share_inside(reference, pictures, 3)
    assert found.coverage == share_covered(reference, pictures, 5)
    assert found.inside.mean() == found.precision


@given(st.integers(4, 20), st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_a_set_covers_itself(n, seed):
    own = features(n, seed) + 100
    found = manifold(own, np.random.default_rng(seed).permutation(own))
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)


def test_a_single_cartoon_is_like_the_style_and_shows_little_of_it():
    reference = features(60, 0)
    found = manifold(reference, np.tile(reference[0], (20, 1)))
    assert found.precision == 1
    assert found.coverage < 0.3
    assert found.recall == pytest.approx(1 / 60)  # rounding must not give one picture a ball


def test_pictures_far_away_are_outside():
    found = manifold(features(40, 0), features(30, 1, shift=20))
    assert (found.precision, found.recall, found.coverage) == (0, 0, 0)
    assert not found.inside.any()


def test_draws_of_persons_are_those_of_the_pictures_drawn():
    reference, pictures = features(30, 0), features(9, 1, 0.3)
    resampling = Resampling(list("aabbbcdde"), 6, 2)
    found = manifold(reference, pictures)
    covered, inside = found.coverage_over_persons(resampling), found.precision_over_persons(resampling)
    for draw, weights in enumerate(resampling.weights):
        drawn = np.repeat(pictures, weights.astype(int), axis=0)
        assert covered[draw] == pytest.approx(share_covered(reference, drawn, 5))
        assert inside[draw] == pytest.approx(share_inside(drawn, reference, 3))
    assert covered.mean() < found.coverage
    low, high = interval_of(covered, found.coverage, (0, 1))
    assert 0 <= low <= found.coverage <= high <= 1


def test_features_far_from_zero_lose_no_digits():
    reference, pictures = features(40, 0).astype(np.float64), features(30, 1, 0.3).astype(np.float64)
    near, far = manifold(reference, pictures), manifold(reference + 1e6, pictures + 1e6)
    assert np.array_equal(near.inside, far.inside)
    assert (near.recall, near.coverage) == (far.recall, far.coverage)


def test_what_does_not_compare_is_refused():
    with pytest.raises(TooFewError, match="reference set has 1"):
        manifold(features(1, 0), features(9, 1))
    with pytest.raises(DataError, match="measured set are not finite"):
        manifold(features(9, 0), np.full((9, 6), np.nan))
    with pytest.raises(DataError, match="features of 9 pictures and persons of 3"):
        manifold(features(9, 0), features(9, 1)).coverage_over_persons(Resampling("abc", 2, 0))


def share_taken_after(reference, pictures, k):
    """Share of the reference among the k nearest of some picture, of what a single picture leaves to be taken after."""
    taken = {
        index
        for picture in pictures
        for index in sorted(range(len(reference)), key=lambda i: distance(reference[i], picture))[:k]
    }
    return (len(taken) - k) / (len(reference) - k)


def expected_coverage(m, n, k):
    """Expected coverage of equal distributions, by counting (Naeem et al. 2020, section 3.3).

    A cartoon is missed where the k nearest of the m - 1 others and the n pictures, in any order alike, are all cartoons.
    """
    return 1 - comb(m - 1, k) / comb(m + n - 1, k)


@given(st.integers(4, 14), st.integers(4, 14), st.integers(0, 999), st.sampled_from([3, 5, 1024]))
@settings(max_examples=25, deadline=None)
def test_neighbour_coverage_equals_loops_over_all_pairs(m, n, seed, tile):
    reference, pictures = features(m, seed), features(n, seed + 1, 0.5)
    k = next((k for k in range(1, m) if expected_coverage(m, n, k) >= 0.95), m)
    assert neighbours_that_cover(m, n) == k
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_TILE", tile)
        found = neighbour_coverage(reference, pictures)
    assert found == (1 if k == m else pytest.approx(share_taken_after(reference, pictures, k)))


def test_neighbour_coverage_of_sets_that_are_known():
    assert [neighbours_that_cover(*each) for each in ((234, 15), (60, 20), (1000, 1000))] == [44, 10, 5]
    reference = features(60, 0)
    assert neighbour_coverage(reference, np.tile(reference[7], (20, 1))) == 0
    two = np.repeat(np.array([[0.0, 1.0], [50.0, 1.0]]), 10, axis=0)
    line = np.stack([np.arange(60.0), np.zeros(60)], axis=1)
    assert neighbour_coverage(line, two) == pytest.approx(10 / 50)  # ten about 0 and ten about 50
    assert neighbour_coverage(line, line[::3] + np.array([0, 9])) == 1
    far = features(20, 1)
    assert neighbour_coverage(reference, 1e3 + far) < 0.5 < neighbour_coverage(reference, far)


def test_one_picture_with_noise_is_hardly_more_various_than_one_picture():
    reference, noise = features(234, 0, width=64), features(15, 1, width=64)
    assert neighbour_coverage(reference, reference[:1] + 0.05 * noise) < 0.1
    assert 0.6 < neighbour_coverage(reference, noise) < 0.9  # equal distributions; 15 pictures do not reach 1
