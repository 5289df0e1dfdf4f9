"""What would make a data set better, in plain sentences: each follows from a rule of `rules.py` and names it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from stylekit.data.appearance import UNLIKE
from stylekit.data.balance import Figure, Group
from stylekit.data.dropped import REASON
from stylekit.data.entries import Entry
from stylekit.data.manifest import Kind
from stylekit.data.rules import (
    DUPLICATE_SHARE,
    ENLARGED,
    ENLARGED_SHARE,
    ENOUGH,
    FEW,
    HELD_OUT_PERSONS,
    LEFT_OUT_SHARE,
    LIKENESS,
    MOVED,
    PERSON_SHARE,
    STAGES,
)

_ORDER = ("add", "look", "good")
_REASONS = {"face of": "face too small", "blurred": "blurred", "turned by": "turned too far"}


@dataclass(frozen=True)
class Advice:
    """What to do about something.

    Attributes:
        kind: `good`, nothing; `add`, get more of them; `look`, look at some by eye.
        text: A sentence or two.
        rule: The rule behind it.
    """

    kind: Literal["good", "add", "look"]
    text: str
    rule: str


def headline(lines: Sequence[Entry], kind: Kind, figures: Iterable[Figure]) -> str:
    """Return the whole in one sentence."""
    used, duplicates = sum(line.status == "used" for line in lines), sum(map(is_duplicate, lines))
    gaps = [group for group, _ in _gaps(figures, used)][:3]
    parts = [f"{number(used, 'usable ' + kind_name(kind))}, {STAGES[kind][stage(used, kind)][1]}"]
    if lacking := max(0, STAGES[kind][ENOUGH][0] - used):
        above_all = f", above all {_listed([gap.name for gap in gaps])}" if gaps else ""
        parts.append(f"{lacking:,} more would help{above_all}")
    elif gaps:
        parts.append(f"{_listed([f'{gap.more:,} more {gap.name}' for gap in gaps])} would help")
    if duplicates:
        parts.append(f"{number(duplicates, 'near-duplicate')} dropped")
    return "; ".join(parts) + "."


def advise(lines: Sequence[Entry], kind: Kind, figures: Sequence[Figure]) -> tuple[Advice, ...]:
    """Return what to do, the weightiest first.

    Args:
        lines: The whole manifest.
        kind: What the pictures are.
        figures: What the used ones are like.
    """
    used = [line for line in lines if line.status == "used"]
    found = [
        *_on_gaps(figures, len(used)),
        *_on_persons(used, kind),
        *_on_single_pictures(used),
        *_on_pairs(figures),
        *_on_what_was_left_out(lines),
        *_on_licences(used),
    ]
    return (_on_number(len(used), kind), *sorted(found, key=lambda advice: _ORDER.index(advice.kind)))


def stage(used: int, kind: Kind) -> int:
    """Return which of the kind's `STAGES` so many usable pictures reach."""
    return max(index for index, (least, _) in enumerate(STAGES[kind]) if used >= least)


def is_duplicate(line: Entry) -> bool:
    """Say whether a picture was left out because it repeats another."""
    return any(reason.startswith("near-duplicate") for reason in line.reasons)


def reason_kind(reason: str) -> str:
    """Return a reason of the manifest without its figures and names, so that like ones can be counted together."""
    for start, short in _REASONS.items():
        if reason.startswith(start):
            return short
    return re.sub(r"\d[\d.]*", "N", reason.partition(":")[0])


def kind_name(kind: Kind) -> str:
    """Return what people call such a picture."""
    return "photograph" if kind == "photo" else "cartoon"


def number(count: int, thing: str) -> str:
    """Return "1 thing" or "1,234 things"."""
    return f"{count:,} {thing}{'s' * (count != 1)}"


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _gaps(figures: Iterable[Figure], used: int) -> list[tuple[Group, Figure]]:
    """Return the groups that fall short of their share, the largest gap first."""
    found = [(group, figure) for figure in figures for group in figure.groups if group.more]
    return sorted(found, key=lambda gap: -gap[0].more) if used >= FEW else []


def _on_number(used: int, kind: Kind) -> Advice:
    reached, stages = stage(used, kind), STAGES[kind]
    text = f"{number(used, kind_name(kind))}: {stages[reached][1]}."
    if reached + 1 < len(stages):
        least, words = stages[reached + 1]
        text += f" {least - used:,} more would be {words}."
    rule = "; ".join(f"from {least:,} on {words}" for least, words in stages[1:])
    return Advice("good" if reached >= ENOUGH else "add", text, f"{rule[0].upper()}{rule[1:]}.")


def _on_gaps(figures: Iterable[Figure], used: int) -> Iterator[Advice]:
    for group, figure in _gaps(figures, used):
        least = f"{group.wanted or 0:.0%}"
        name = f"{group.name[0].upper()}{group.name[1:]}"
        text = f"{name}: {group.count:,} of {figure.measured:,}; aim for at least {least}: {group.more:,} more."
        yield Advice("add", text, f"{figure.title}: at least {least} {group.name}.")


def _on_persons(used: Sequence[Entry], kind: Kind) -> Iterator[Advice]:
    persons = Counter(line.person for line in used if line.person)
    if not persons or kind != "photo":
        return
    person, count = persons.most_common(1)[0]
    if len(used) >= FEW and count > PERSON_SHARE * len(used):
        text = f"{count:,} of {len(used):,} photographs show one person ({person}): add others, or the style learns that face."
        yield Advice("add", text, f"One person in at most {PERSON_SHARE:.0%} of the photographs.")
    both = {line.person for line in used if line.held_out and line.person} & {line.person for line in used if not line.held_out}
    if both:
        text = f"On both sides, for training and held out: {number(len(both), 'person')}. The figures of stylekit eval flatter."
        yield Advice("look", text, "Nobody is on both sides; the data set itself says which side its pictures are on.")
    held_out = len({line.person for line in used if line.held_out})
    if held_out < HELD_OUT_PERSONS:
        text = f"Held out for evaluation: {number(held_out, 'person')}. With so few, the figures of stylekit eval are unsure."
        yield Advice("add", text, f"At least {HELD_OUT_PERSONS} persons held out.")


def _on_single_pictures(used: Sequence[Entry]) -> Iterator[Advice]:
    if unlike := sum(line.quality.get("outlier", 0.0) > UNLIKE for line in used):
        text = f"Unlike the others: {unlike:,}. Another manner, a bad crop, or no face at all? Take out what does not belong."
        yield Advice("look", text, f"An outlier score above {UNLIKE:g}.")
    enlarged = sum(line.enlarged > ENLARGED for line in used)
    if enlarged > ENLARGED_SHARE * len(used):
        text = (
            f"Enlarged to fill their crop, and soft: {enlarged:,} of {len(used):,}. Get larger ones, or align at a smaller size."
        )
        yield Advice("look", text, f"More than {ENLARGED_SHARE:.0%} enlarged over {ENLARGED:g} times.")


def _on_pairs(figures: Iterable[Figure]) -> Iterator[Advice]:
    medians = {figure.name: figure.median for figure in figures}
    if (shift := medians.get("landmark_shift") or 0.0) > MOVED:
        text = f"The painted faces moved by {shift:.2f} eye distances (median): a lower strength keeps them in place."
        yield Advice("look", text, f"A median shift above {MOVED:g} eye distances.")
    likeness = medians.get("identity")
    if likeness is not None and likeness < LIKENESS:
        text = f"The painted faces hardly resemble their photographs (median likeness {likeness:.2f}): try a lower strength."
        yield Advice("look", text, f"A median likeness below {LIKENESS:g}.")


def _on_what_was_left_out(lines: Sequence[Entry]) -> Iterator[Advice]:
    faces = [line for line in lines if line.status != "unreadable"]
    duplicates = sum(map(is_duplicate, faces))
    if duplicates > DUPLICATE_SHARE * len(faces):
        text = f"{number(duplicates, 'near-duplicate')} dropped: the source repeats itself, and more from it will bring little."
        yield Advice("look", text, f"More than {DUPLICATE_SHARE:.0%} near-duplicates.")
    elif duplicates:
        yield Advice("good", f"{number(duplicates, 'near-duplicate')} dropped; the best of each was kept.", "The best is kept.")
    lost = [line for line in faces if line.status == "rejected" and not is_duplicate(line) and REASON not in line.reasons]
    if len(lost) > LEFT_OUT_SHARE * len(faces):
        reason, count = Counter(reason_kind(reason) for line in lost for reason in line.reasons[:1]).most_common(1)[0]
        text = f"Left out: {len(lost):,} of {len(faces):,}, {count:,} of them for: {reason}. If they look good, move the limit."
        yield Advice("look", text, f"More than {LEFT_OUT_SHARE:.0%} left out.")
    if unreadable := len(lines) - len(faces):
        yield Advice("look", f"{number(unreadable, 'file')} could not be read; see the list below.", "Every file is a picture.")


def _on_licences(used: Sequence[Entry]) -> Iterator[Advice]:
    if unknown := sum(not line.source.licence for line in used):
        text = (
            f"Without a licence noted: {unknown:,} of {len(used):,}. Be sure that you may use them before you publish the style."
        )
        yield Advice("look", text, "Every picture has a licence.")
