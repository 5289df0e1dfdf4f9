"""Descriptions of people, prompts and seeds."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stylekit.generate.people import describe
from stylekit.generate.prompts import fill, picture_seed, portrait_prompt


def test_people_are_the_same_on_every_machine():
    assert [describe(0, 0), describe(7, 123)] == [
        "an elderly man with very fair skin and long straight grey hair, calm, head turned slightly to the right",
        "a middle-aged woman with olive skin and short wavy dark brown hair, smiling, head turned slightly to the left",
    ]


@settings(deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(0, 10_000))
def test_any_run_of_people_is_balanced(seed: int, block: int):
    people = [describe(seed, index) for index in range(block * 42, block * 42 + 42)]
    genders = Counter(gender for person in people for gender in ("woman", "man", "person") if f" {gender} with" in person)
    assert genders == {"woman": 18, "man": 18, "person": 6}
    ages = Counter(person.split(" ")[1] for person in people)
    assert ages == {"young": 14, "middle-aged": 14, "elderly": 14}
    skins = Counter(person.split(" with ")[1].split(" skin")[0] for person in people)
    assert set(skins.values()) == {6}
    assert len(skins) == 7


def test_women_have_no_beards_and_the_old_no_black_hair():
    people = [describe(3, index) for index in range(500)]
    assert not [p for p in people if " woman " in p and ("beard" in p or "moustache" in p)]
    assert not [p for p in people if "elderly" in p and "black hair" in p]
    assert len(set(people)) > 480


@pytest.mark.parametrize(
    ("style", "template"),
    [
        ("archer style", "archer style, a portrait painting of {person}"),
        ("{person} as a {clay} figure", "{person} as a {clay} figure"),
    ],
)
def test_template_holds_the_person_once_and_other_braces_stay(style: str, template: str):
    assert portrait_prompt(style) == template
    assert fill(template, 0, 0) == template.replace("{person}", describe(0, 0))


def test_seeds_are_apart_and_fit_31_bits():
    seeds = {picture_seed(seed, index) for seed in range(20) for index in range(500)}
    assert len(seeds) == 10_000
    assert all(0 <= seed < 2**31 for seed in seeds)
