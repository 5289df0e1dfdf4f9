"""From a style's name to the prompt of one picture."""

from __future__ import annotations

import hashlib

from stylekit.generate.people import describe

_PERSON = "{person}"


def portrait_prompt(style: str) -> str:
    """Return the template for a style named in a few words, in DCT-Net's wording (generate_data.py) unless it has `{person}`."""
    return style if _PERSON in style else f"{style}, a portrait painting of {_PERSON}"


def fill(template: str, seed: int, index: int) -> str:
    """Put person `index` in the place of `{person}`; other braces stay as they are."""
    return template.replace(_PERSON, describe(seed, index))


def picture_seed(seed: int, index: int) -> int:
    """Return the seed in [0, 2**31) of picture `index`, far from its neighbours': weak generators draw alike from near seeds."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{index}".encode()).digest()[:4], "big") >> 1
