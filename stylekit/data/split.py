"""Which photographs are held out: by person, so that nobody is both trained on and measured on."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping

from stylekit.data.manifest import Split


def split_by_person(
    persons: Iterable[str], eval_fraction: float, seed: int, groups: Mapping[str, str] | None = None
) -> dict[str, Split]:
    """Give every person a side; the same persons, groups, fraction and seed always give the same split.

    Groups are ordered by a hash of seed and name, and held out one after the other while `eval_fraction` of the persons allows
    it. A group too large for what is left is passed over; if none is small enough, the smallest is held out, unless it is all.

    Args:
        persons: Names, in any order, repeated or not.
        eval_fraction: Share of the persons held out, 0 to 1.
        seed: Another seed gives another split.
        groups: The group of each person who must be on the same side as others; who has none is one alone.
    """
    members: defaultdict[str, list[str]] = defaultdict(list)
    for person in sorted(set(persons)):
        members[(groups or {}).get(person, person)].append(person)
    order = sorted(members, key=lambda group: hashlib.sha256(f"{seed}/{group}".encode()).digest())
    total = sum(map(len, members.values()))
    room = min(round(eval_fraction * total), total - 1)
    held_out: set[str] = set()
    for group in order:
        if len(members[group]) <= room:
            held_out.add(group)
            room -= len(members[group])
    if not held_out and eval_fraction > 0 and len(order) > 1:
        held_out.add(min(order, key=lambda group: len(members[group])))
    return {person: "eval" if group in held_out else "train" for group in order for person in members[group]}
