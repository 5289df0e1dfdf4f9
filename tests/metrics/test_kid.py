import itertools
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stylekit.errors import DataError, TooFewError
from stylekit.metrics import kid as module
from stylekit.metrics.kid import kid, kid_all, kid_difference, kid_over_persons, subset_size
from stylekit.metrics.persons import Resampling


def features(n, seed, shift=0.0, width=12):
    return np.random.default_rng(seed).normal(shift, 1.0, (n, width))


def everyone(n):
    return [str(i) for i in range(n)]


def kernel(x, y):
    return (float(np.dot(x, y)) / len(x) + 1) ** 3


def mmd2_pair_by_pair(reference, pictures):
    """Binkowski et al. 2018, equation 4, written as sums over pairs."""
    within = [[kernel(a, b) for a, b in itertools.permutations(part, 2)] for part in (reference, pictures)]
    across = [kernel(a, b) for a, b in itertools.product(reference, pictures)]
    return np.mean(within[0]) + np.mean(within[1]) - 2 * np.mean(across)


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(module, "_TILE", 3)


def test_estimate_over_all_pictures_equals_sums_over_pairs(small_tiles):
    reference, pictures = features(7, 0), features(5, 1, shift=0.5)
    assert kid_all(reference, pictures) == pytest.approx(mmd2_pair_by_pair(reference, pictures), rel=1e-12)


def test_known_answer_of_one_number_features():
    reference, pictures = np.zeros((4, 1)), np.ones((4, 1))
    # k(0,0) = 1, k(1,1) = 8, k(0,1) = 1
    assert kid_all(reference, pictures) == pytest.approx(1 + 8 - 2)
    assert kid(reference, pictures, subsets=3) == (pytest.approx(7), pytest.approx(0))


def test_subsets_average_to_the_estimate_over_all_pictures():
    reference, pictures = features(30, 0), features(16, 1, shift=0.6)
    mean, deviation = kid(reference, pictures, subsets=1000, seed=5)
    assert abs(mean - kid_all(reference, pictures)) < 4 * deviation / np.sqrt(1000)


def test_kid_equals_the_same_subsets_drawn_by_hand():
    reference, pictures = features(11, 0), features(9, 1, shift=0.3)
    draw = torch.Generator().manual_seed(3)
    estimates = []
    for _ in range(6):
        first = reference[torch.randperm(11, generator=draw)[:4].numpy()]
        second = pictures[torch.randperm(9, generator=draw)[:4].numpy()]
        estimates.append(mmd2_pair_by_pair(first, second))
    mean, deviation = kid(reference, pictures, subsets=6, seed=3)
    assert (mean, deviation) == (pytest.approx(np.mean(estimates)), pytest.approx(np.std(estimates)))


def test_samples_of_one_distribution_are_near_zero_and_shifted_ones_are_not():
    reference = features(200, 0)
    same, spread = kid(reference, features(200, 1), subsets=30)
    shifted, _ = kid(reference, features(200, 1, shift=0.5), subsets=30)
    assert abs(same) < 3 * spread
    assert shifted > 10 * spread


def test_the_seed_decides_and_the_global_generator_is_left_alone():
    reference, pictures = features(20, 0), features(14, 1)
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    first = kid(reference, pictures, seed=1)
    assert torch.equal(torch.rand(3), expected)
    assert kid(reference, pictures, seed=1) == first
    assert kid(reference, pictures, seed=2) != first


def test_torchmetrics_does_not_warn_the_user():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        kid(features(8, 0), features(8, 1), subsets=2)
    assert [str(each.message) for each in caught] == []


@pytest.mark.parametrize(("n", "m", "size"), [(4, 100, 2), (100, 5, 2), (16, 100, 8), (17, 17, 8)])
def test_subsets_are_half_the_smaller_set(n, m, size):
    assert subset_size(n, m) == size


@given(st.permutations(range(9)), st.permutations(range(7)))
@settings(max_examples=15, deadline=None)
def test_the_order_of_the_pictures_does_not_matter(own, others):
    reference, pictures = features(7, 0), features(9, 1, shift=0.4)
    assert kid_all(reference[others], pictures[own]) == pytest.approx(kid_all(reference, pictures), rel=1e-10)
    persons = np.array(list("aabbbcdde"))
    plain = kid_over_persons(reference, pictures, Resampling(list(persons), 8, 0))
    moved = kid_over_persons(reference, pictures[own], Resampling(list(persons[own]), 8, 0))
    assert moved == pytest.approx(plain, rel=1e-10)


def test_float32_features_far_from_zero_lose_no_digits():
    reference, pictures = (
        (part + 50).astype(np.float32) for part in (features(30, 0, width=64), features(20, 1, shift=0.5, width=64))
    )
    expected = mmd2_pair_by_pair(reference.astype(np.float64), pictures.astype(np.float64))
    assert kid_all(reference, pictures) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("tile", [2, 5, 1024])
def test_a_draw_is_the_sum_over_the_pairs_of_its_pictures(tile, monkeypatch):
    monkeypatch.setattr(module, "_TILE", tile)
    reference, pictures = features(6, 0), features(7, 1, shift=0.5)
    resampling = Resampling(list("bacabbd"), 5, 1)
    fixed = [kernel(a, b) for a, b in itertools.permutations(reference, 2)]
    expected = []
    for weights in resampling.weights:
        drawn = np.repeat(np.arange(7), weights.astype(int))
        own = [kernel(pictures[a], pictures[b]) for a, b in itertools.permutations(drawn, 2) if a != b]
        across = [kernel(pictures[a], b) for a in drawn for b in reference]
        expected.append(np.mean(own) + np.mean(fixed) - 2 * np.mean(across))
    assert kid_over_persons(reference, pictures, resampling) == pytest.approx(np.array(expected), rel=1e-12)


def test_the_spread_matches_fresh_samples_of_persons():
    reference = features(60, 0)
    fresh = [kid_all(reference, features(40, seed, shift=0.5)) for seed in range(1, 150)]
    resampling = Resampling(everyone(40), 300, 0)
    spreads = [kid_over_persons(reference, features(40, seed, shift=0.5), resampling).std(ddof=1) for seed in range(1, 6)]
    assert np.mean(spreads) == pytest.approx(np.std(fresh), rel=0.25)


def test_pictures_of_one_person_are_not_counted_as_independent():
    reference, persons = features(60, 0), np.repeat([str(i) for i in range(10)], 4)
    own = np.repeat(features(10, 1, shift=0.5), 4, axis=0) + 0.05 * features(40, 2)
    by_person = kid_over_persons(reference, own, Resampling(list(persons), 300, 0)).std()
    by_picture = kid_over_persons(reference, own, Resampling(everyone(40), 300, 0)).std()
    assert by_person > 1.5 * by_picture


def test_a_paired_difference_is_surer_than_the_spreads_of_its_parts():
    reference, photo = features(60, 0), features(20, 1, shift=0.8)
    nearer = photo - 0.1
    resampling = Resampling(everyone(20), 300, 0)
    found = kid_difference(reference, nearer, photo, resampling)
    assert found.value == pytest.approx(kid_all(reference, nearer) - kid_all(reference, photo))
    assert found.low < found.value < found.high < 0
    assert found.deviation < kid_over_persons(reference, photo, resampling).std() / 2
    back = kid_difference(reference, photo, nearer, resampling)
    assert (back.value, back.low, back.high) == pytest.approx((-found.value, -found.high, -found.low))
    same = kid_difference(reference, photo, photo, resampling)
    assert (same.value, same.deviation, same.low, same.high) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("reference", "pictures", "message"),
    [
        (features(3, 0), features(9, 1), "the reference set has 3"),
        (features(9, 0), features(1, 1), "the measured set has 1"),
        (features(9, 0), features(9, 1, width=5), "12 numbers and those of the measured set 5"),
        (features(9, 0), np.where(np.eye(9, 12) > 0, np.nan, 1.0), "measured set are not finite for 9 of its 9"),
        (np.full((6, 12), np.inf), features(9, 0), "reference set are not finite"),
        (np.zeros(9), features(9, 0), "1 axes"),
    ],
)
def test_sets_that_do_not_compare_are_refused_and_named(reference, pictures, message):
    for measure in (kid, kid_all):
        with pytest.raises(DataError, match=message) as found:
            measure(reference, pictures)
        assert isinstance(found.value, TooFewError) == ("set has" in message)


def test_pictures_of_other_persons_are_refused():
    with pytest.raises(DataError, match="features of 5 pictures and persons of 4"):
        kid_over_persons(features(6, 0), features(5, 1), Resampling(everyone(4), 3, 0))
