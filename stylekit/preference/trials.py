"""Which pairs a rater sees, on which sides and in which order: a function of the study's seed and the rater's name."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import combinations
from math import lcm
from typing import TypeVar

from stylekit.paths import sha256_bytes
from stylekit.preference.records import Plan, Question, Study, Trial, rater_key

T = TypeVar("T")

REPEATED = 0.1
"""Repeats, as a share of the pairs."""

FEWEST_REPEATS = 4
"""Repeats of each question at the least, or all pairs where they are fewer: with less nobody's contradictions can be judged."""

CONTROLS = 0.1
"""Controls, as a share of the pairs."""

_GAP = 3  # trials between a pair and its repeat, at the least


def make_plan(study: Study, rater: str) -> Plan:
    """Return the trials of a rater: question by question, Pref.A first, because Pref.B shows the photographs.

    Every photograph and every two entries come as often as any other (where `study.pairs` cuts short, to within two), each entry
    of two as often on the left as on the right, to within one. A tenth of the pairs, and four of them at least, come again with
    their sides swapped. As many as a tenth are strewn in as controls: for Pref.A a cartoon of the style against a photograph, for
    Pref.B the photograph itself against that of another person. No entry takes part in a control, so that a poor one cannot make
    an honest rater fail.
    """
    trials: list[Trial] = []
    for question in study.questions:
        trials += _Draw(study, rater, question).trials()
    return Plan(rater=rater, trials=tuple(trials))


def pairs_of(photographs: int, entries: int) -> Iterator[tuple[int, tuple[int, int]]]:
    """Yield every (photograph, two entries) once; every beginning holds all photographs, and all twos, about equally often."""
    twos = list(combinations(range(entries), 2))
    block = lcm(photographs, len(twos))
    for k in range(photographs * len(twos)):
        yield k % photographs, twos[(k + k // block) % len(twos)]


class _Draw:
    def __init__(self, study: Study, rater: str, question: Question) -> None:
        self.study, self.question = study, question
        self.name = f"{study.seed}/{study.name}/{rater_key(rater)}/{question}"
        self.random = random.Random(self.name)
        self.made = 0

    def trials(self) -> list[Trial]:
        """Return pairs, repeats and controls in the order they are shown."""
        pairs = self.pairs()
        count = len(pairs)
        placed: list[tuple[float, Trial]] = list(enumerate(pairs))
        repeats = min(count, max(FEWEST_REPEATS, round(REPEATED * count)))
        for index in self.random.sample(range(max(repeats, (count + 1) // 2)), repeats):  # early ones, to leave room for the gap
            place = self.random.uniform(max(index + _GAP, count / 2), max(index + _GAP, count))
            placed.append((place, self.repeat(pairs[index])))
        controls = self.controls(max(1, round(CONTROLS * count)))
        placed += [(self.random.uniform(0, count), control) for control in controls]
        return [trial for _, trial in sorted(placed, key=lambda each: each[0])]

    def pairs(self) -> list[Trial]:
        """Return the pairs, shuffled, each two entries with balanced sides."""
        photographs = list(self.study.photographs)
        entries = list(range(len(self.study.entries)))
        self.random.shuffle(photographs)
        self.random.shuffle(entries)
        drawn = list(pairs_of(len(photographs), len(entries)))[: self.study.pairs]
        swaps = {two: self.sides(sum(each == two for _, each in drawn)) for two in {two for _, two in drawn}}
        trials = []
        for photograph, two in drawn:
            shown = photographs[photograph]
            left, right = (shown.pictures[entries[index]] for index in (two if swaps[two].pop() else two[::-1]))
            trials.append(self.trial("pair", left, right, photograph=self.shown(shown.picture)))
        self.random.shuffle(trials)
        return trials

    def repeat(self, pair: Trial) -> Trial:
        """Return a pair again, sides swapped."""
        return self.trial("repeat", pair.right, pair.left, photograph=pair.photograph, of=pair.id)

    def controls(self, count: int) -> list[Trial]:
        """Return choices with an obvious answer, as often left as right; none where the study has nothing to make them of."""
        chances = list(self.obvious())
        if not chances:
            return []
        drawn = [chances[k % len(chances)] for k in range(count)]
        trials = []
        for (right_answer, wrong, photograph), on_left in zip(drawn, self.sides(count), strict=True):
            left, right = (right_answer, wrong) if on_left else (wrong, right_answer)
            expected = "left" if on_left else "right"
            trials.append(self.trial("control", left, right, photograph=photograph, expected=expected))
        return trials

    def obvious(self) -> Iterator[tuple[str, str, str | None]]:
        """Yield the right picture, the wrong one and the photograph to show, in random order."""
        photographs = self.shuffled(self.study.photographs)
        if self.question == "pref_a":
            cartoons = self.shuffled(self.study.cartoons)
            for index, shown in enumerate(photographs if cartoons else ()):
                yield cartoons[index % len(cartoons)], shown.picture, None
            return
        for shown in photographs:
            others = [other for other in photographs if other.group != shown.group]
            if others:
                yield shown.picture, self.random.choice(others).picture, shown.picture

    def trial(self, role: str, left: str, right: str, **more: str | None) -> Trial:
        """Return a trial with an id that no other trial of the study has and that tells nothing."""
        self.made += 1
        trial_id = sha256_bytes(f"{self.name}/{self.made}".encode())[:12]
        fields = {"id": trial_id, "question": self.question, "role": role, "left": left, "right": right}
        return Trial.model_validate(fields | more)

    def shown(self, photograph: str) -> str | None:
        return photograph if self.question == "pref_b" else None

    def sides(self, count: int) -> list[bool]:
        """Return as many times True as False, to within one, shuffled; the odd one is drawn."""
        sides = [index % 2 == 0 for index in range(count)]
        if self.random.random() < 0.5:
            sides = [not side for side in sides]
        return self.shuffled(sides)

    def shuffled(self, items: Sequence[T]) -> list[T]:
        return self.random.sample(list(items), len(items))
