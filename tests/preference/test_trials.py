"""What raters see: balanced, blind, repeated, controlled."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stylekit.preference.records import Trial
from stylekit.preference.trials import make_plan, pairs_of
from tests.preference.conftest import key, made_up

SIZES = st.tuples(st.integers(2, 9), st.integers(2, 4), st.integers(1, 60))


def of(trials: tuple[Trial, ...], question: str, role: str) -> list[Trial]:
    return [trial for trial in trials if (trial.question, trial.role) == (question, role)]


@given(st.integers(1, 12), st.integers(2, 6), st.data())
def test_every_beginning_of_the_pairs_is_balanced(photographs: int, entries: int, data: st.DataObject) -> None:
    pairs = list(pairs_of(photographs, entries))
    twos = entries * (entries - 1) // 2
    assert len(set(pairs)) == len(pairs) == photographs * twos
    beginning = pairs[: data.draw(st.integers(1, len(pairs)))]
    shown, met = Counter(p for p, _ in beginning), Counter(two for _, two in beginning)
    assert max(shown.values()) - min(shown.get(p, 0) for p in range(photographs)) <= 1
    assert max(met.values()) - min(met.get(two, 0) for _, two in pairs) <= 2


@settings(max_examples=30, deadline=None)
@given(SIZES, st.integers(0, 5), st.sampled_from(["ann", "bo b", "Ünal"]))
def test_pairs_are_distinct_with_balanced_sides_and_unblind_exactly(sizes: tuple[int, int, int], seed: int, rater: str) -> None:
    photographs, entries, limit = sizes
    study = made_up(photographs, entries, pairs=limit, seed=seed)
    trials = make_plan(study, rater).trials
    assert len({trial.id for trial in trials}) == len(trials)
    for question in study.questions:
        pairs = of(trials, question, "pair")
        assert len(pairs) == min(limit, photographs * entries * (entries - 1) // 2)
        sides: dict[tuple[int, int], list[bool]] = {}
        for trial in pairs:
            left, right = study.entry_of(trial.left), study.entry_of(trial.right)
            assert left is not None
            assert right is not None
            shown = next(p for p in range(photographs) if key(f"{p} {left}") == trial.left)
            assert trial.right == key(f"{shown} {right}")
            assert trial.photograph == (key(f"photo {shown}") if question == "pref_b" else None)
            sides.setdefault((min(left, right), max(left, right)), []).append(left < right)
        assert all(abs(2 * sum(on_left) - len(on_left)) <= 1 for on_left in sides.values())
        assert len({frozenset((trial.left, trial.right)) for trial in pairs}) == len(pairs)


@settings(max_examples=30, deadline=None)
@given(st.integers(4, 60), st.integers(0, 3))
def test_a_tenth_and_four_at_least_come_again_swapped_and_a_tenth_is_obvious(limit: int, seed: int) -> None:
    study = made_up(20, 3, pairs=limit, seed=seed)
    trials = make_plan(study, "ann").trials
    for question in study.questions:
        pairs = {trial.id: trial for trial in of(trials, question, "pair")}
        repeats = of(trials, question, "repeat")
        assert len(repeats) == max(4, round(limit / 10))
        assert len(of(trials, question, "control")) == max(1, round(limit / 10))
        for trial in repeats:
            first = pairs[str(trial.of)]
            assert (trial.left, trial.right, trial.photograph) == (first.right, first.left, first.photograph)
            assert trials.index(trial) - trials.index(first) >= 3
        assert len({trial.of for trial in repeats}) == len(repeats)


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_of_fewer_than_four_pairs_all_come_again(limit: int) -> None:
    trials = make_plan(made_up(5, 2, pairs=limit), "ann").trials
    for question in ("pref_a", "pref_b"):
        pairs = {trial.id for trial in of(trials, question, "pair")}
        assert len(pairs) == limit
        assert {trial.of for trial in of(trials, question, "repeat")} == pairs


def test_controls_show_no_entry_and_have_one_obvious_answer() -> None:
    study = made_up(8, 2, pairs=40)
    photographs = {shown.picture for shown in study.photographs}
    trials = make_plan(study, "ann").trials
    for trial in of(trials, "pref_a", "control"):
        assert trial.expected is not None
        right = trial.picture(trial.expected)
        assert right in study.cartoons
        assert {trial.left, trial.right} - {right} <= photographs
    for trial in of(trials, "pref_b", "control"):
        assert trial.expected is not None
        assert trial.picture(trial.expected) == trial.photograph
        assert {trial.left, trial.right} <= photographs
        assert trial.left != trial.right
    expected = Counter(trial.expected for trial in trials if trial.role == "control")
    assert set(expected) <= {"left", "right"}


def test_the_other_face_of_a_control_is_never_the_same_person() -> None:
    study = made_up(6, 2)
    group = study.photographs[0].group
    same = [shown.model_copy(update={"group": group}) for shown in study.photographs[:5]]
    study = study.model_copy(update={"photographs": (*same, study.photographs[5])})
    groups = {shown.picture: shown.group for shown in study.photographs}
    controls = [trial for n in range(20) for trial in of(make_plan(study, f"r{n}").trials, "pref_b", "control")]
    assert len(controls) == 20
    assert all(groups[trial.left] != groups[trial.right] for trial in controls)
    alone = study.model_copy(update={"photographs": tuple(same)})
    assert of(make_plan(alone, "ann").trials, "pref_b", "control") == []


def test_each_rater_has_an_order_of_their_own_and_the_same_one_again() -> None:
    study = made_up()
    assert make_plan(study, "ann") == make_plan(study, "ann")
    ann, bob = (make_plan(study, rater).trials for rater in ("ann", "bob"))
    assert [trial.left for trial in ann] != [trial.left for trial in bob]
    assert not {trial.id for trial in ann} & {trial.id for trial in bob}
    assert make_plan(study, "Ann").trials == ann
    assert make_plan(made_up(seed=1), "ann") != make_plan(study, "ann")
    assert [trial.question for trial in ann] == sorted(trial.question for trial in ann)  # the photographs are shown last
