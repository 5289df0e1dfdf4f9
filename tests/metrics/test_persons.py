import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stylekit.errors import DataError, TooFewError
from stylekit.metrics.persons import Resampling, interval_of

PERSONS = st.lists(st.sampled_from("abcde"), min_size=3, max_size=12).filter(lambda names: len(set(names)) > 1)


@given(PERSONS, st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_persons_are_drawn_whole_and_as_often_as_there_are_persons(persons, seed):
    weights = Resampling(persons, 20, seed).weights
    assert weights.shape == (20, len(persons))
    assert np.count_nonzero(weights, axis=1).min() >= 2
    for row in weights:
        of_person = {name: {row[i] for i, p in enumerate(persons) if p == name} for name in set(persons)}
        assert all(len(counts) == 1 for counts in of_person.values())
        assert sum(counts.pop() for counts in of_person.values()) == len(set(persons))
    assert np.array_equal(weights, Resampling(persons, 20, seed).weights)


def test_the_seed_decides_and_the_global_generator_is_left_alone():
    np.random.seed(3)
    expected = np.random.rand()
    np.random.seed(3)
    first = Resampling("abcdef", 50, 1).counts
    assert np.random.rand() == expected
    assert not np.array_equal(first, Resampling("abcdef", 50, 2).counts)


def test_drawing_everyone_once_comes_before_the_same_draws():
    resampling = Resampling("aabbc", 4, 0)
    every = resampling.with_everyone()
    assert np.array_equal(every.weights[0], np.ones(5))
    assert np.array_equal(every.weights[1:], resampling.weights)
    assert len(resampling) == 4
    assert np.array_equal(Resampling.plain(3).weights, [[1, 1, 1]])


@given(PERSONS, st.data())
@settings(max_examples=40, deadline=None)
def test_means_are_those_of_the_drawn_pictures_that_have_a_value(persons, data):
    numbers = st.floats(-5, 5) | st.just(math.nan)
    values = np.array(data.draw(st.lists(numbers, min_size=len(persons), max_size=len(persons))))
    resampling = Resampling(persons, 10, 4)
    expected = []
    for row in resampling.weights:
        drawn = [v for v, weight in zip(values, row, strict=True) for _ in range(int(weight)) if not math.isnan(v)]
        expected.append(np.mean(drawn) if drawn else math.nan)
    np.testing.assert_allclose(resampling.means(values), expected, atol=1e-12)


def test_the_interval_of_a_mean_is_as_wide_as_theory_says():
    values = np.random.default_rng(0).normal(2, 1, 400)
    low, high = Resampling([str(i) for i in range(400)], 2000, 0).interval(values)
    error = values.std(ddof=1) / 20
    assert (low, high) == (
        pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error),
        pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error),
    )


def test_pictures_of_one_person_are_not_counted_as_independent():
    persons = np.repeat([str(i) for i in range(20)], 5)
    values = np.repeat(np.random.default_rng(0).normal(size=20), 5)
    by_person = np.ptp(Resampling(list(persons), 500, 0).interval(values))
    by_picture = np.ptp(Resampling([str(i) for i in range(100)], 500, 0).interval(values))
    assert by_person > 1.7 * by_picture


def test_a_paired_difference_is_surer_than_its_parts():
    first = np.random.default_rng(0).normal(size=50)
    second = first - 0.1 + 0.01 * np.random.default_rng(1).normal(size=50)
    resampling = Resampling([str(i) for i in range(50)], 300, 0)
    low, high = resampling.paired(first, second)
    assert 0.09 < low < high < 0.11
    assert np.ptp(resampling.interval(first)) > 0.3
    assert resampling.paired(first, np.full(50, math.nan)) == pytest.approx((math.nan, math.nan), nan_ok=True)


def test_an_interval_is_moved_to_the_value_and_kept_within_its_range():
    draws = np.linspace(10, 12, 1001)
    assert interval_of(draws, 5.0) == (pytest.approx(4.05), pytest.approx(5.95))
    assert interval_of(draws, 0.5, (0, 1)) == (0, 1)
    assert interval_of(np.append(draws, math.nan), 5.0)[0] == pytest.approx(4.05)
    assert interval_of(np.full(3, math.nan), 5.0) == pytest.approx((math.nan, math.nan), nan_ok=True)


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(TooFewError, match="at least two of them, not 1"):
        Resampling(["a", "a", "a"], 10, 0)
    with pytest.raises(DataError, match="2 values for 3 pictures"):
        Resampling("abc", 10, 0).means(np.zeros(2))


def test_many_persons_are_drawn_in_little_memory():
    resampling = Resampling([str(i) for i in range(30_000)], 30, 0)
    assert resampling.counts.nbytes == 30 * 30_000 * 2
    assert np.array_equal(resampling.counts.sum(1), np.full(30, 30_000))


@pytest.mark.parametrize(("value", "interval"), [(1, (0.7961, 1)), (0, (0, 0.2039))])  # Wilson 1927, of 15 trials
def test_a_share_that_all_persons_agree_on_is_not_certain(value, interval):
    names = [name for name in "abcdefghijklmno" for _ in range(3)]  # pictures of one person are no trials of their own
    values = np.full(45, value, float)
    values[::3] = np.nan
    assert Resampling(names, 50, 0).share_interval(values) == pytest.approx(interval, abs=1e-4)


def test_persons_without_a_value_are_no_trials_of_a_share():
    resampling = Resampling("aabbcc", 50, 0)
    low = 1 - 1.96**2 / (2 + 1.96**2)
    assert resampling.share_interval(np.array([1, 1, 1, np.nan, np.nan, np.nan])) == pytest.approx((low, 1), abs=1e-4)
    assert np.isnan(resampling.share_interval(np.full(6, np.nan))).all()


def test_a_share_that_persons_differ_in_has_the_interval_of_a_mean():
    resampling, values = Resampling("aabbccdd", 80, 0), np.array([1, 1, 0, 1, 0, 0, 1, 0.5])
    assert resampling.share_interval(values) == resampling.interval(values)
