"""Splitting photographs by person."""

from __future__ import annotations

from collections import Counter
from hashlib import sha256
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from stylekit.data.crops import unreadable
from stylekit.data.inputs import Inputs
from stylekit.data.split import split_by_person
from tests.data.layouts import CELEBA, IDENTITY, PARTITION, write_pictures

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


@settings(deadline=None, max_examples=50)
@given(PEOPLE, st.lists(st.integers(0, 59), max_size=60), st.floats(0, 1), st.integers(0, 2**31 - 1))
def test_more_pictures_of_the_same_people_move_nobody(people: list[str], again: list[int], fraction: float, seed: int):
    more = [people[place % len(people)] for place in again] if people else []
    assert split_by_person([*more, *people], fraction, seed) == split_by_person(people, fraction, seed)


@settings(deadline=None, max_examples=50)
@given(PEOPLE, st.text(min_size=1, max_size=8), st.floats(0, 1), st.integers(0, 2**31 - 1))
def test_one_more_person_moves_at_most_one_other(people: list[str], newcomer: str, fraction: float, seed: int):
    before, after = split_by_person(people, fraction, seed), split_by_person([*people, newcomer], fraction, seed)
    assert sum(before[person] != after[person] for person in before) <= 1


@settings(deadline=None, max_examples=50)
@given(PEOPLE, st.lists(st.integers(0, 9), min_size=60, max_size=60), st.floats(0, 1), st.integers(0, 2**31 - 1))
def test_with_groups_no_more_than_the_share_is_held_out(people: list[str], numbers: list[int], fraction: float, seed: int):
    groups = {person: f"g{number}" for person, number in zip(people, numbers, strict=False)}
    sides = split_by_person(people, fraction, seed, groups)
    smallest = min(Counter(groups.values()).values(), default=0)
    assert list(sides.values()).count("eval") <= max(round(fraction * len(sides)), smallest)


def test_those_of_the_least_hash_are_held_out():
    people = [f"p{i}" for i in range(10)]
    held_out = [person for person, side in split_by_person(people, 0.2, 0).items() if side == "eval"]
    order = sorted(people, key=lambda person: sha256(f"0/{person}".encode()).digest())
    assert sorted(held_out) == sorted(order[:2])


def test_a_picture_of_celeba_carries_its_part_its_person_and_its_terms(tmp_path: Path):
    write_pictures(tmp_path / "CelebA/img_align_celeba", CELEBA)
    (tmp_path / "CelebA/list_eval_partition.txt").write_text(PARTITION)
    (tmp_path / "CelebA/identity_CelebA.txt").write_text(IDENTITY)
    pictures = list(Inputs(tmp_path / "CelebA", tmp_path / "out", "photo"))
    assert [(each.partition, each.split, each.person) for each in pictures] == [
        ("train", "train", "2880"),
        ("train", "train", "2937"),
        ("eval", "eval", "2880"),
        ("test", "eval", "10177"),
    ]
    lines = [unreadable(each, "no picture").line for each in pictures]
    assert [(line.partition, line.asset) for line in lines] == [(each.partition, "celeba") for each in pictures]
    assert all("non-commercial" in str(line.licence) for line in lines)


def test_pictures_of_no_known_part_have_none(tmp_path: Path):
    write_pictures(tmp_path / "faces", ["a.png", "b.png"])
    lines = [unreadable(each, "no picture").line for each in Inputs(tmp_path / "faces", tmp_path / "out", "photo")]
    assert [(line.partition, line.asset, line.licence) for line in lines] == [(None, None, None)] * 2
