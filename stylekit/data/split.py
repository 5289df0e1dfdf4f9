"""Which photographs are held out: by person, so that nobody is both trained on and measured on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from stylekit.data.manifest import Split


def split_by_person(persons: Iterable[str], eval_fraction: float, seed: int) -> dict[str, Split]:
    """Give every person a side; the same persons, fraction and seed always give the same split.

    Persons are ordered by a hash of seed and name, and the first `eval_fraction` of them are held out: at least one when the
    fraction is not zero and there are two, and never all.

    Args:
        persons: Names, in any order, repeated or not.
        eval_fraction: Share of the persons held out, 0 to 1.
        seed: Another seed gives another split.
    """
    order = sorted(set(persons), key=lambda person: hashlib.sha256(f"{seed}/{person}".encode()).digest())
    held_out = round(eval_fraction * len(order))
    if eval_fraction > 0:
        held_out = max(held_out, 1)
    held_out = min(held_out, max(len(order) - 1, 0))
    return {person: "eval" if place < held_out else "train" for place, person in enumerate(order)}
