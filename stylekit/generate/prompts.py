"""From a recipe to the prompt and the seed of one picture."""

from __future__ import annotations

import hashlib
import re

from stylekit.generate.people import People, people

PERSON = "{person}"
_ARTICLE = re.compile(r"(a|an|the|this)\s", re.IGNORECASE)


class Prompts:
    """The prompts of a recipe's pictures.

    Args:
        template: The prompt, in which `{person}` stands for a person.
        source: Who they are, as `people.people` takes it; not read where the template has no `{person}`.
        seed: The recipe's.

    Raises:
        GenerationError: If the list of people cannot be read.
        AssetError: If it cannot be fetched.
    """

    def __init__(self, template: str, source: str, seed: int) -> None:
        self._template = template
        self._people: People | None = people(source, seed) if PERSON in template else None

    def text(self, index: int) -> str:
        """Return the prompt of picture `index`."""
        return self._template if self._people is None else put(self._people.describe(index), self._template)

    def traits(self, index: int) -> list[str]:
        """Return what the prompt says of the person in picture `index`, such as "gender=woman" and "glasses=yes"."""
        return [] if self._people is None else [f"{name}={value}" for name, value in self._people.traits(index).items()]


def portrait_prompt(style: str) -> str:
    """Return the template for a style named in a few words, in DCT-Net's wording (generate_data.py) unless it has `{person}`."""
    return style if PERSON in style else f"{style}, a portrait painting of {PERSON}"


def put(person: str, template: str) -> str:
    """Put a person in the place of `{person}`; other braces stay as they are.

    An article before it goes where the person brings one: "of a {person}" becomes "of an elderly man", but "of a Johnny Depp".
    """
    if _ARTICLE.match(person):
        template = re.sub(r"\b(a|an|the)\s+(?=\{person\})", "", template, flags=re.IGNORECASE)
    return template.replace(PERSON, person)


def picture_seed(seed: int, index: int | str, attempt: int = 0) -> int:
    """Return the seed in [0, 2**31) of picture `index`, far from its neighbours': weak generators draw alike from near seeds.

    Args:
        seed: The recipe's.
        index: The picture's number, or another name for it.
        attempt: How often it was painted before and thrown away.
    """
    key = f"{seed}/{index}/{attempt}" if attempt else f"{seed}/{index}"
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") >> 1
