"""Prompts and seeds."""

from __future__ import annotations

import pytest

from stylekit.generate.people import BALANCED, describe, traits
from stylekit.generate.prompts import Prompts, picture_seed, portrait_prompt, put


@pytest.mark.parametrize(
    ("style", "template"),
    [
        ("archer style", "archer style, a portrait painting of {person}"),
        ("{person} as a {clay} figure", "{person} as a {clay} figure"),
    ],
)
def test_template_holds_the_person_once_and_other_braces_stay(style: str, template: str):
    assert portrait_prompt(style) == template
    assert Prompts(template, BALANCED, 0).text(3) == template.replace("{person}", describe(0, 3))


@pytest.mark.parametrize(
    ("person", "sentence"),
    [
        ("an elderly man", "a painting of an elderly man, no text"),
        ("the queen", "a painting of the queen, no text"),
        ("Anna", "a painting of a Anna, no text"),
        ("Theodora", "a painting of a Theodora, no text"),
    ],
)
def test_an_article_stands_once(person: str, sentence: str):
    assert put(person, "a painting of a {person}, no text") == sentence


def test_traits_are_what_the_prompt_says():
    prompts = Prompts("{person}", BALANCED, 5)
    assert prompts.traits(2) == [f"{name}={value}" for name, value in traits(5, 2).items()]
    assert Prompts("a cat", BALANCED, 5).traits(2) == []


def test_another_attempt_has_another_seed():
    assert len({picture_seed(1, 2, attempt) for attempt in range(5)}) == 5
    assert picture_seed(1, 2, 0) == picture_seed(1, 2)


def test_seeds_are_apart_and_fit_31_bits():
    seeds = {picture_seed(seed, index) for seed in range(20) for index in range(500)}
    assert len(seeds) == 10_000
    assert all(0 <= seed < 2**31 for seed in seeds)
