import itertools
import warnings

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stylekit.errors import DataError
from stylekit.metrics.distribution import compare, draw_persons, fid, kid, kid_over_persons, subset_size


def features(n, seed, shift=0.0, width=12):
    return torch.from_numpy(np.random.default_rng(seed).normal(shift, 1.0, (n, width)))


def kernel(x, y):
    return (float(np.dot(x, y)) / len(x) + 1) ** 3


def mmd2_pair_by_pair(reference, pictures):
    """Binkowski et al. 2018, equation 4, written as sums over pairs."""
    within = [[kernel(a, b) for a, b in itertools.permutations(part, 2)] for part in (reference, pictures)]
    across = [kernel(a, b) for a, b in itertools.product(reference, pictures)]
    return np.mean(within[0]) + np.mean(within[1]) - 2 * np.mean(across)


def ones(n):
    return np.ones((1, n))


def test_estimate_over_all_pictures_equals_sums_over_pairs():
    reference, pictures = features(7, 0), features(5, 1, shift=0.5)
    expected = mmd2_pair_by_pair(reference.numpy(), pictures.numpy())
    assert kid_over_persons(reference, pictures, ones(5))[0] == pytest.approx(expected, rel=1e-12)


def test_known_answer_of_one_number_features():
    reference, pictures = torch.zeros(4, 1), torch.ones(4, 1)
    # k(0,0) = 1, k(1,1) = 8, k(0,1) = 1
    assert kid_over_persons(reference, pictures, ones(4))[0] == pytest.approx(1 + 8 - 2)
    assert kid(reference, pictures, subsets=3) == (pytest.approx(7), pytest.approx(0))
    assert fid(reference, pictures) == pytest.approx(1)


def test_torchmetrics_subsets_average_to_the_estimate_over_all_pictures():
    reference, pictures = features(30, 0), features(16, 1, shift=0.6)
    mean, deviation = kid(reference, pictures, subsets=4000, seed=5)
    whole = kid_over_persons(reference, pictures, ones(16))[0]
    assert abs(mean - whole) < 4 * deviation / np.sqrt(4000)


def test_kid_equals_the_same_subsets_drawn_by_hand():
    reference, pictures = features(11, 0), features(9, 1, shift=0.3)
    draw = torch.Generator().manual_seed(3)
    estimates = []
    for _ in range(6):
        first = reference[torch.randperm(11, generator=draw)[:4]]
        second = pictures[torch.randperm(9, generator=draw)[:4]]
        estimates.append(mmd2_pair_by_pair(first.numpy(), second.numpy()))
    mean, deviation = kid(reference, pictures, subsets=6, seed=3)
    assert (mean, deviation) == (pytest.approx(np.mean(estimates)), pytest.approx(np.std(estimates)))


def test_fid_equals_the_matrix_square_root():
    reference, pictures = features(40, 0).numpy(), features(30, 1, shift=0.4).numpy()
    first, second = np.cov(reference, rowvar=False), np.cov(pictures, rowvar=False)
    values, vectors = np.linalg.eigh(first)
    root = vectors * np.sqrt(values) @ vectors.T
    cross = np.sqrt(np.clip(scipy.linalg.eigh(root @ second @ root, eigvals_only=True), 0, None)).sum()
    expected = ((reference.mean(0) - pictures.mean(0)) ** 2).sum() + np.trace(first) + np.trace(second) - 2 * cross
    assert fid(torch.from_numpy(reference), torch.from_numpy(pictures)) == pytest.approx(expected, rel=1e-9)


def test_fid_of_fewer_pictures_than_features_is_finite_and_mostly_bias():
    value = fid(features(20, 0, width=64), features(20, 1, width=64))
    assert np.isfinite(value)
    assert value > 20


def test_samples_of_one_distribution_are_near_zero_and_shifted_ones_are_not():
    reference = features(200, 0)
    same, spread = kid(reference, features(200, 1))
    shifted, _ = kid(reference, features(200, 1, shift=0.5))
    assert abs(same) < 3 * spread
    assert shifted > 10 * spread
    assert fid(reference, reference) == pytest.approx(0, abs=1e-6)


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
        fid(features(8, 0), features(8, 1))
    assert [str(each.message) for each in caught] == []


@pytest.mark.parametrize(("n", "m", "size"), [(4, 100, 2), (100, 5, 2), (16, 100, 8), (17, 17, 8)])
def test_subsets_are_half_the_smaller_set(n, m, size):
    assert subset_size(n, m) == size


def test_too_few_pictures_are_refused():
    for measure in (kid, fid):
        with pytest.raises(DataError, match="at least 4 pictures in each set, not 3"):
            measure(features(50, 0), features(3, 1))


def test_a_weight_of_two_is_a_picture_there_twice_without_its_pair_with_itself():
    reference, pictures = features(6, 0), features(4, 1, shift=0.5)
    counts = np.array([2, 0, 1, 1])
    drawn = np.repeat(np.arange(4), counts)
    x, y = pictures.numpy(), reference.numpy()
    own = [kernel(x[a], x[b]) for a, b in itertools.permutations(drawn, 2) if a != b]
    across = [kernel(x[a], b) for a in drawn for b in y]
    fixed = [kernel(a, b) for a, b in itertools.permutations(y, 2)]
    expected = np.mean(own) + np.mean(fixed) - 2 * np.mean(across)
    assert kid_over_persons(reference, pictures, counts[None].astype(float))[0] == pytest.approx(expected, rel=1e-12)


@given(st.lists(st.sampled_from("abcde"), min_size=3, max_size=12).filter(lambda p: len(set(p)) > 1), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_persons_are_drawn_whole(persons, seed):
    weights = draw_persons(persons, 20, seed)
    assert weights.shape == (20, len(persons))
    assert np.count_nonzero(weights, axis=1).min() >= 2
    for row in weights:
        of_person = {name: {row[i] for i, p in enumerate(persons) if p == name} for name in set(persons)}
        assert all(len(counts) == 1 for counts in of_person.values())
        assert sum(counts.pop() for counts in of_person.values()) == len(set(persons))
    assert np.array_equal(weights, draw_persons(persons, 20, seed))


def test_a_spread_over_one_person_is_refused():
    with pytest.raises(DataError, match="at least two"):
        draw_persons(["a", "a", "a"], 10, 0)


def test_bootstrap_spread_matches_fresh_samples_of_persons():
    reference = features(60, 0)
    fresh = [kid_over_persons(reference, features(40, seed, shift=0.5), ones(40))[0] for seed in range(1, 200)]
    weights = draw_persons([str(i) for i in range(40)], 400, 0)
    spreads = [kid_over_persons(reference, features(40, seed, shift=0.5), weights).std(ddof=1) for seed in range(1, 6)]
    assert np.mean(spreads) == pytest.approx(np.std(fresh), rel=0.25)


def test_pictures_of_one_person_are_not_counted_as_independent():
    reference, persons = features(60, 0), np.repeat([str(i) for i in range(10)], 4)
    own = features(10, 1, shift=0.5).repeat_interleave(4, 0) + 0.05 * features(40, 2)
    by_person = kid_over_persons(reference, own, draw_persons(list(persons), 300, 0)).std()
    by_picture = kid_over_persons(reference, own, draw_persons([str(i) for i in range(40)], 300, 0)).std()
    assert by_person > 1.5 * by_picture


def test_paired_difference_is_surer_than_the_spreads_of_its_parts():
    reference, photo = features(60, 0), features(20, 1, shift=0.8)
    nearer = photo - 0.1
    weights = draw_persons([str(i) for i in range(20)], 300, 0)
    difference = compare(reference, nearer, photo, weights)
    separate = [kid_over_persons(reference, part, ones(20))[0] for part in (nearer, photo)]
    assert difference.value == pytest.approx(separate[0] - separate[1])
    assert difference.value < 0
    assert difference.deviation < kid_over_persons(reference, photo, weights).std() / 2
    assert compare(reference, photo, photo, weights).deviation == 0
