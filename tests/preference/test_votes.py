"""Votes are never lost: appended, on disk at once, readable after any accident."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stylekit.errors import UsageError
from stylekit.preference.records import Trial, Vote
from stylekit.preference.trials import make_plan
from stylekit.preference.votes import VOTES, VoteConflictError, VoteLog
from tests.preference.conftest import made_up

TRIALS = make_plan(made_up(), "ann").trials


def choices(folder: Path, rater: str = "ann") -> dict[str, str]:
    return dict(VoteLog(folder).choices_of(rater))


def test_a_vote_counts_once_and_is_read_again(tmp_path: Path) -> None:
    log = VoteLog(tmp_path)
    assert log.cast("ann", "person", TRIALS[0], "left", 900)
    assert not log.cast("ann", "person", TRIALS[0], "left", 1200)
    assert log.cast("bob", "person", TRIALS[0], "right")
    assert len((tmp_path / VOTES).read_text().splitlines()) == 2
    (ann, bob) = VoteLog(tmp_path).votes()
    assert (ann.rater, ann.choice, ann.response_ms, ann.trial) == ("ann", "left", 900, TRIALS[0])
    assert (bob.rater, bob.choice, bob.response_ms) == ("bob", "right", None)


def test_another_answer_needs_the_first_to_be_taken_back(tmp_path: Path) -> None:
    log = VoteLog(tmp_path)
    assert not log.cast("ann", "person", TRIALS[0], None)
    log.cast("ann", "person", TRIALS[0], "left")
    with pytest.raises(VoteConflictError, match="already chosen left"):
        log.cast("ann", "person", TRIALS[0], "right")
    log.cast("ann", "person", TRIALS[0], None)
    assert choices(tmp_path) == {}
    log.cast("ann", "person", TRIALS[0], "right")
    assert choices(tmp_path) == {TRIALS[0].id: "right"}
    assert len((tmp_path / VOTES).read_text().splitlines()) == 3


def test_nobody_is_both_a_person_and_a_model(tmp_path: Path) -> None:
    VoteLog(tmp_path).cast("ann", "model", TRIALS[0], "left")
    with pytest.raises(UsageError, match="known as a model"):
        VoteLog(tmp_path).cast("ann", "person", TRIALS[1], "left")


def test_capitals_make_no_other_rater(tmp_path: Path) -> None:
    log = VoteLog(tmp_path)
    assert log.cast("Straße", "person", TRIALS[0], "left")
    assert not log.cast("STRASSE", "person", TRIALS[0], "left")
    again = VoteLog(tmp_path)
    assert again.choices_of("strasse") == {TRIALS[0].id: "left"}
    with pytest.raises(VoteConflictError, match="already chosen left"):
        again.cast("straße", "person", TRIALS[0], "right")
    with pytest.raises(UsageError, match="strasse is known as a person"):
        again.cast("strasse", "model", TRIALS[1], "left")


@pytest.mark.parametrize("cut", [1, 40, 200])
def test_a_line_cut_short_costs_only_itself_and_is_told(tmp_path: Path, cut: int) -> None:
    log = VoteLog(tmp_path)
    for trial in TRIALS[:3]:
        log.cast("ann", "person", trial, "left")
    data = (tmp_path / VOTES).read_bytes()
    (tmp_path / VOTES).write_bytes(data[:-cut])
    torn = VoteLog(tmp_path)
    assert torn.damaged == [3]
    assert set(torn.choices_of("ann")) == {trial.id for trial in TRIALS[:2]}
    torn.cast("ann", "person", TRIALS[3], "right")
    again = VoteLog(tmp_path)
    expected = {TRIALS[0].id: "left", TRIALS[1].id: "left", TRIALS[3].id: "right"}
    if cut == 1:  # only the end of the line was missing
        expected[TRIALS[2].id] = "left"
    assert again.choices_of("ann") == expected
    assert again.damaged == ([] if cut == 1 else [3])


def test_the_same_vote_from_several_processes_at_once_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append = VoteLog._append

    def slowly(log: VoteLog, vote: Vote) -> None:
        time.sleep(0.02)
        append(log, vote)

    monkeypatch.setattr(VoteLog, "_append", slowly)
    logs = [VoteLog(tmp_path) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        new = list(pool.map(lambda log: log.cast("ann", "person", TRIALS[0], "left"), logs))
        new += pool.map(lambda _: logs[0].cast("bob", "person", TRIALS[0], "left"), range(4))
    assert new.count(True) == 2
    assert len((tmp_path / VOTES).read_bytes().splitlines()) == 2


def test_several_raters_and_processes_at_once(tmp_path: Path) -> None:
    logs = [VoteLog(tmp_path) for _ in range(3)]

    def vote(number: int) -> None:
        trial: Trial = TRIALS[number % 10]
        logs[number % 3].cast(f"rater {number // 10}", "person", trial, "left" if number % 2 else "right")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(vote, range(60)))
        list(pool.map(vote, range(60)))
    votes = VoteLog(tmp_path).votes()
    assert len({(vote.rater, vote.trial.id) for vote in votes}) == len(votes) == 60
    assert len((tmp_path / VOTES).read_bytes().splitlines()) == 60
    assert {len(log.votes()) for log in logs} == {60}
