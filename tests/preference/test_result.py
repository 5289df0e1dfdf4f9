"""What votes add up to."""

from __future__ import annotations

import itertools
from math import sqrt
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stylekit.paths import Workspace
from stylekit.preference.records import Choice, RaterKind, Study, Trial, Vote
from stylekit.preference.result import PreferenceResult, Share, count, find_preferences, read_result, studies_elsewhere, table
from stylekit.preference.study import open_study, plan_of, read_study
from stylekit.preference.trials import make_plan
from stylekit.preference.votes import VOTES, VoteLog
from tests.preference.conftest import made_up


def prefers(study: Study, order: tuple[int, ...], trial: Trial) -> Choice:
    """Answer as one who prefers the entries in this order, and who reads controls."""
    if trial.expected:
        return trial.expected
    left, right = (study.entry_of(picture) for picture in (trial.left, trial.right))
    assert left is not None
    assert right is not None
    return "left" if order.index(left) < order.index(right) else "right"


def cast(study: Study, rater: str, order: tuple[int, ...], kind: RaterKind = "person") -> list[Vote]:
    return [
        Vote(rater=rater, kind=kind, choice=prefers(study, order, trial), at="2026-01-01T00:00:00+00:00", trial=trial)
        for trial in make_plan(study, rater).trials
    ]


def share(result: PreferenceResult, column: str, entry: int) -> Share:
    found = result.shares[column][entry]  # type: ignore[index]
    assert found is not None
    return found


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.data())
def test_intervals_are_wilsons(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    study = made_up(2, 2, questions=("pref_a",))
    trial = next(trial for trial in make_plan(study, "ann").trials if trial.role == "pair")
    votes = [Vote(rater=f"r{i}", kind="person", choice="left" if i < k else "right", at="", trial=trial) for i in range(n)]
    found = share(count(study, votes), "pref_a", study.entry_of(trial.left) or 0)
    z, p = 1.959963984540054, k / n
    centre, half = p + z * z / (2 * n), z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert found.share == pytest.approx(p)
    assert found.low == pytest.approx((centre - half) / (1 + z * z / n), abs=1e-9)
    assert found.high == pytest.approx((centre + half) / (1 + z * z / n), abs=1e-9)
    assert found.votes == n


def test_a_clear_order_comes_out_and_repeats_and_controls_do_not_count() -> None:
    study = made_up(6, 3, pairs=18)
    result = count(study, cast(study, "ann", (2, 0, 1)) + cast(study, "bob", (2, 0, 1)))
    assert [share(result, "pref_a", e).share for e in range(3)] == [0.5, 0.0, 1.0]
    assert [share(result, "pref_b", e).votes for e in range(3)] == [24, 24, 24]
    duels = {(duel.entry, duel.other): (duel.share, duel.votes) for duel in result.duels["pref_a"]}
    assert duels == {(0, 1): (1.0, 12), (0, 2): (0.0, 12), (1, 2): (0.0, 12)}
    assert [(r.repeats, r.contradictions, r.controls, r.failed, r.votes) for r in result.raters] == [(8, 0, 4, 0, 36)] * 2
    assert "100.0%" in table(result)


def test_beside_each_share_stands_how_many_people_and_photographs_are_behind_it() -> None:
    study = made_up(6, 3, pairs=18, questions=("pref_a",))
    ann, bob = cast(study, "ann", (2, 0, 1)), cast(study, "bob", (2, 0, 1))
    pairs = [vote for vote in ann if vote.trial.role == "pair"]
    first = [vote for vote in pairs if study.photograph_of(vote.trial.left) in (0, 1) and shows(study, vote, 0, 1)]
    assert len(first) == 2
    result = count(study, [*first, *(vote for vote in bob if vote.trial.role == "pair" and shows(study, vote, 0, 2))])
    found = [share(result, "pref_a", entry) for entry in range(3)]
    assert [(each.votes, each.raters, each.photographs) for each in found] == [(8, 2, 6), (2, 1, 2), (6, 1, 6)]
    duels = {(duel.entry, duel.other): (duel.votes, duel.raters, duel.photographs) for duel in result.duels["pref_a"]}
    assert duels == {(0, 1): (2, 1, 2), (0, 2): (6, 1, 6)}
    said = table(result).splitlines()
    assert said[2].endswith("of 2; 1 rater, 2 photographs")
    assert said[1].endswith("of 8; 2 raters, 6 photographs")
    assert "intervals take votes as independent" in table(result)


def shows(study: Study, vote: Vote, one: int, other: int) -> bool:
    return {study.entry_of(vote.trial.left), study.entry_of(vote.trial.right)} == {one, other}


def test_capitals_make_no_other_rater() -> None:
    study = made_up()
    votes = cast(study, "ann", (0, 1))
    half = len(votes) // 2
    shouted = [vote.model_copy(update={"rater": "ANN"}) for vote in votes[half:]]
    result, same = count(study, votes[:half] + shouted), count(study, votes)
    assert result == same
    assert [rater.rater for rater in result.raters] == ["ann"]
    assert share(result, "pref_a", 0).raters == 1


def always(votes: list[Vote], role: str, choice: Choice) -> list[Vote]:
    return [vote.model_copy(update={"choice": choice}) if vote.trial.role == role else vote for vote in votes]


def test_one_wrong_control_leaves_a_rater_out() -> None:
    study = made_up()
    good, bad = cast(study, "ann", (0, 1)), cast(study, "bob", (1, 0))
    index = next(i for i, vote in enumerate(bad) if vote.trial.role == "control")
    bad[index] = bad[index].model_copy(update={"choice": "left" if bad[index].choice == "right" else "right"})
    result = count(study, good + bad)
    assert (result.dropped, share(result, "pref_a", 0).share) == (1, 1.0)
    dropped = next(rater for rater in result.raters if rater.rater == "bob")
    assert dropped.dropped is not None
    assert "control" in dropped.dropped
    assert f"Left out: bob, who {dropped.dropped}" in table(result)


@pytest.mark.parametrize(("contradicted", "dropped"), [(3, 0), (4, 1)])
def test_who_contradicts_more_than_three_quarters_of_four_repeats_is_left_out(contradicted: int, dropped: int) -> None:
    study = made_up(20, 2, pairs=20, questions=("pref_a",))
    votes, done = [], itertools.count(1)
    for vote in cast(study, "ann", (0, 1)):
        swapped: Choice = "left" if vote.choice == "right" else "right"
        flip = vote.trial.role == "repeat" and next(done) <= contradicted
        votes.append(vote.model_copy(update={"choice": swapped}) if flip else vote)
    result = count(study, votes)
    assert (result.raters[0].repeats, result.raters[0].contradictions, result.dropped) == (4, contradicted, dropped)


def test_too_few_repeats_judge_nobody() -> None:
    study = made_up(3, 2, questions=("pref_a",))
    votes = [
        vote.model_copy(update={"choice": "left"}) if vote.trial.role != "control" else vote
        for vote in cast(study, "ann", (0, 1))
    ]
    result = count(study, votes)
    assert (result.raters[0].repeats, result.raters[0].contradictions, result.dropped) == (3, 3, 0)


@pytest.mark.parametrize("pairs", [4, 5, 10])
def test_even_in_a_short_study_who_always_takes_the_same_side_is_left_out(pairs: int) -> None:
    study = made_up(10, 2, pairs=pairs, questions=("pref_a",))
    votes = [
        vote.model_copy(update={"choice": "left"}) if vote.trial.role != "control" else vote
        for vote in cast(study, "ann", (0, 1))
    ]
    assert count(study, votes).raters[0].dropped == "contradicted 4 of 4 repeats"


def test_a_models_votes_are_never_peoples_preference() -> None:
    study = made_up()
    result = count(study, cast(study, "gpt", (0, 1), "model"))
    assert set(result.shares) == {"model_a", "model_b"}
    assert "Pref." not in table(result)
    both = count(study, cast(study, "gpt", (0, 1), "model") + cast(study, "ann", (1, 0)))
    assert share(both, "pref_a", 0).share == 0
    assert share(both, "model_a", 0).share == 1
    assert share(both, "pref_a", 0).votes == share(both, "model_a", 0).votes == 6


def vote_all(folder: Path, rater: str, order: tuple[int, ...], kind: RaterKind = "person") -> None:
    study, log = read_study(folder), VoteLog(folder)
    for trial in plan_of(folder, study, rater).trials:
        log.cast(rater, kind, trial, prefers(study, order, trial))


def test_the_table_of_compare_gets_only_votes_between_its_rows(workspace: Workspace) -> None:
    three = open_study(["flat", "loud", "dull"])
    vote_all(three, "ann", (2, 0, 1))
    flat, loud, dull = (entry.digest for entry in read_study(three).entries)
    of_two = find_preferences(workspace, {flat, loud, "elsewhere"})
    assert set(of_two) == {flat, loud}
    assert (of_two[flat]["pref_a"].share, of_two[loud]["pref_b"].share) == (1.0, 0.0)
    assert of_two[flat]["pref_a"].votes == 6
    assert find_preferences(workspace, {flat, loud, dull})[dull]["pref_a"].votes == 12
    assert find_preferences(workspace, {flat}) == {}
    vote_all(open_study(["flat", "loud"]), "bob", (1, 0))
    assert find_preferences(workspace, {flat, loud})[flat]["pref_a"].share == 1.0  # as many votes: the first study stays


def test_a_models_many_votes_never_push_peoples_aside(workspace: Workspace) -> None:
    people, model = open_study(["flat", "loud"], pairs=2), open_study(["flat", "loud", "dull"])
    vote_all(people, "ann", (0, 1))
    vote_all(model, "gpt", (1, 0, 2), "model")
    flat, loud, dull = (entry.digest for entry in read_study(model).entries)
    found = find_preferences(workspace, {flat, loud, dull})
    assert set(found) == {flat, loud}
    assert {column for shares in found.values() for column in shares} == {"pref_a", "pref_b"}
    assert (found[flat]["pref_a"].share, found[flat]["pref_a"].votes) == (1.0, 2)


def test_between_studies_with_the_same_votes_of_people_a_models_decide(workspace: Workspace) -> None:
    first, second = open_study(["flat", "loud"], pairs=2), open_study(["flat", "loud"], pairs=2, seed=1)
    for study in (first, second):
        vote_all(study, "ann", (0, 1))
    flat, loud = (entry.digest for entry in read_study(second).entries)
    assert set(find_preferences(workspace, {flat, loud})[flat]) == {"pref_a", "pref_b"}
    vote_all(second, "gpt", (0, 1), "model")
    assert set(find_preferences(workspace, {flat, loud})[flat]) == {"pref_a", "pref_b", "model_a", "model_b"}


def test_only_studies_of_the_tables_own_photographs_join(workspace: Workspace) -> None:
    folder = open_study(["flat", "loud"])
    study = read_study(folder)
    flat, loud = (entry.digest for entry in study.entries)
    crops = {shown.sha256 for shown in study.photographs}
    assert studies_elsewhere(workspace, {flat, loud}, set()) == []  # nobody has voted
    vote_all(folder, "ann", (0, 1))
    assert set(find_preferences(workspace, {flat, loud}, crops | {"0" * 64})) == {flat, loud}
    assert studies_elsewhere(workspace, {flat, loud}, crops) == []
    others = sorted(crops)[1:]
    assert find_preferences(workspace, {flat, loud}, others) == {}
    assert studies_elsewhere(workspace, {flat, loud}, others) == [study.name]
    assert studies_elsewhere(workspace, {flat, "elsewhere"}, others) == []


def test_a_damaged_line_is_told(workspace: Workspace) -> None:
    study = open_study(["flat", "loud"])
    vote_all(study, "ann", (0, 1))
    with (study / VOTES).open("a") as stream:
        stream.write('{"rater": "ann", "ki')
    assert "which is no vote" in table(read_result(study))
