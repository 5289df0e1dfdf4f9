"""Splitting photographs by person."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from stylekit.data.split import split_by_person

PEOPLE = st.lists(st.text(min_size=1, max_size=8), max_size=60)


@settings(deadline=None)
@given(PEOPLE, st.floats(0, 1), st.integers(0, 2**31 - 1))
def test_everybody_has_one_side_whatever_the_order(people: list[str], fraction: float, seed: int):
    sides = split_by_person(people, fraction, seed)
    assert sides == split_by_person(reversed(people), fraction, seed)
    assert sides.keys() == set(people)


@settings(deadline=None)
@given(PEOPLE, st.floats(0.01, 1), st.integers(0, 2**31 - 1))
def test_share_is_kept_but_neither_side_is_left_empty(people: list[str], fraction: float, seed: int):
    sides = list(split_by_person(people, fraction, seed).values())
    held_out = sides.count("eval")
    if len(sides) > 1:
        assert 1 <= held_out < len(sides)
        assert abs(held_out - fraction * len(sides)) <= 1
    else:
        assert held_out == 0


def test_seed_decides_and_zero_holds_nobody_out():
    people = [f"p{i}" for i in range(40)]
    assert split_by_person(people, 0.2, 0) != split_by_person(people, 0.2, 1)
    assert set(split_by_person(people, 0.0, 0).values()) == {"train"}
    assert [p for p, side in split_by_person(people, 0.1, 0).items() if side == "eval"] == ["p6", "p0", "p12", "p29"]


@settings(deadline=None)
@given(PEOPLE, st.lists(st.integers(0, 9), min_size=60, max_size=60), st.floats(0, 1), st.integers(0, 2**31 - 1))
def test_a_group_is_never_divided(people: list[str], numbers: list[int], fraction: float, seed: int):
    groups = {person: f"g{number}" for person, number in zip(people, numbers, strict=False)}
    sides = split_by_person(people, fraction, seed, groups)
    assert sides == split_by_person(reversed(people), fraction, seed, groups)
    assert sides.keys() == set(people)
    by_group = {group: {sides[person] for person in groups if groups[person] == group} for group in groups.values()}
    assert all(len(found) == 1 for found in by_group.values())
    if len(by_group) > 1 and fraction > 0:
        assert set(sides.values()) == {"train", "eval"}


def test_a_group_too_large_to_hold_out_is_trained_on():
    people = [f"p{i}" for i in range(20)]
    groups = dict.fromkeys(people[:12], "p0")
    sides = split_by_person(people, 0.2, 0, groups)
    assert list(sides.values()).count("eval") == 4
    assert {sides[person] for person in groups} == {"train"}
