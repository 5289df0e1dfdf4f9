"""What is decided of all faces together, on faces made of numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields

import numpy as np
import pytest

from stylekit.data import decisions
from stylekit.data.decisions import Decisions, decide, digest
from stylekit.data.notes import UsedFaces
from stylekit.data.split import split_by_person
from stylekit.faces.identity import MAYBE_SAME_DISTANCE, SAME_PERSON_DISTANCE, link_persons
from stylekit.progress import Bar


def faces(embeddings: np.ndarray, splits: list[str | None] | None = None, persons: list[str | None] | None = None) -> UsedFaces:
    count = len(embeddings)
    random = np.random.default_rng(7)
    return UsedFaces(
        [f"in/{index}.jpg" for index in range(count)],
        [f"{index:05d}" for index in range(count)],
        np.ones(count),
        random.integers(0, 2**64, count, np.uint64),
        random.integers(0, 256, (count, 768), np.uint8),
        embeddings.astype(np.float32),
        splits or [None] * count,
        persons or [None] * count,
    )


def test_the_best_of_near_duplicates_is_kept_and_nothing_else_is_decided_of_the_others():
    embeddings = 3 * np.eye(8, 128)
    embeddings[[1, 2]] = embeddings[0]
    set_ = faces(embeddings)
    set_.merits[1] = 2.0
    decided = decide(set_, "photo", 0, 0.25)
    assert decided.better.tolist() == [1, -1, 1, -1, -1, -1, -1, -1]
    assert decided.persons == [None, "00001", None, "00003", "00004", "00005", "00006", "00007"]
    assert decided.splits.count("eval") == 2
    assert [score is None for score in decided.outliers] == [better >= 0 for better in decided.better]


def test_cartoons_belong_to_train_and_to_nobody():
    decided = decide(faces(3 * np.eye(4, 128)), "cartoon", 0, 0.25)
    assert decided.splits == ["train"] * 4
    assert decided.persons == decided.groups == [None] * 4


def test_the_split_and_the_persons_of_a_data_set_are_kept():
    persons = ["7", "8", "7", "9", "9", "8"]
    splits: list[str | None] = ["train", "eval", "train", "train", "train", "eval"]
    decided = decide(faces(3 * np.eye(6, 128), splits, persons), "photo", 0, 0.5)
    assert decided.persons == persons
    assert decided.splits == splits
    assert decided.groups == [None] * 6


def test_whom_a_data_set_leaves_open_is_decided_by_us():
    persons = ["7", "7", *[None] * 8]
    splits: list[str | None] = ["train", "train", "eval", *[None] * 7]
    decided = decide(faces(3 * np.eye(10, 128), splits, persons), "photo", 0, 0.25)
    assert decided.persons == ["7", "7", *[f"{index:05d}" for index in range(2, 10)]]
    assert decided.splits[:3] == splits[:3]
    assert set(decided.splits[3:]) == {"train", "eval"}


def test_who_may_be_the_same_is_on_one_side_under_two_names():
    pairs = 3 * np.eye(20, 128).repeat(2, axis=0)
    pairs[1::2, 40] = 0.48
    assert SAME_PERSON_DISTANCE < 0.48 < MAYBE_SAME_DISTANCE
    decided = decide(faces(pairs), "photo", 0, 0.2)
    assert decided.persons == [f"{index:05d}" for index in range(40)]
    assert decided.groups == [f"{index - index % 2:05d}" for index in range(40)]
    assert decided.splits[::2] == decided.splits[1::2]
    assert decided.splits.count("eval") == 8


def test_a_data_set_with_nothing_to_measure_on_is_split_by_us():
    decided = decide(faces(3 * np.eye(10, 128), ["train"] * 10), "photo", 0, 0.2)
    assert decided.splits.count("eval") == 2


def test_a_known_person_is_on_one_side_although_the_pictures_differ():
    persons = [str(index // 3) for index in range(30)]
    decided = decide(faces(3 * np.eye(30, 128), persons=persons), "photo", 0, 0.2)
    sides = {(person, side) for person, side in zip(decided.persons, decided.splits, strict=True)}
    assert len(sides) == 10
    assert sum(side == "eval" for _, side in sides) == 2


def test_chains_of_strangers_do_not_starve_the_held_out_side():
    line = np.zeros((200, 128))
    line[:, 0] = 0.47 * np.arange(200)
    decided = decide(faces(line), "photo", 0, 0.2)
    assert decided.splits.count("eval") == 40
    linked = [f"{group:05d}" for group in link_persons(line, np.arange(200))]
    people = [f"{index:05d}" for index in range(200)]
    starved = split_by_person(people, 0.2, 0, dict(zip(people, linked, strict=True)))
    assert "eval" not in starved.values()


def test_nothing_used_is_no_trouble():
    decided = decide(faces(np.zeros((0, 128))), "photo", 0, 0.2)
    assert decided.better.tolist() == decided.splits == []


def test_what_was_decided_can_be_written_down():
    set_ = faces(3 * np.eye(4, 128))
    set_.hashes[1], set_.colours[1] = set_.hashes[0], set_.colours[0]
    decided = decide(set_, "photo", 0, 0.25)
    read = Decisions.from_json(decided.to_json())
    assert vars(read) | {"better": 0} == vars(decided) | {"better": 0}
    assert read.better.dtype == np.int64
    assert read.better.tolist() == [-1, 0, -1, -1]


def test_a_digest_tells_all_that_a_decision_depends_on():
    def digests() -> Iterator[str]:
        yield digest(faces(np.eye(3, 128)), "photo", 0, 0.2)
        for kind, seed, share in (("cartoon", 0, 0.2), ("photo", 1, 0.2), ("photo", 0, 0.3)):
            yield digest(faces(np.eye(3, 128)), kind, seed, share)
        for field in fields(UsedFaces):
            other = faces(np.eye(3, 128))
            value = getattr(other, field.name)
            value[1] = "other" if isinstance(value, list) else value[1] + value.dtype.type(1)
            yield digest(other, "photo", 0, 0.2)

    found = list(digests())
    assert len(set(found)) == len(found) == 12
    assert found[0] == next(digests())


def test_the_comparison_of_many_faces_is_told_to_its_end(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(decisions, "_WORTH_A_BAR", 700)
    told: dict[str, list[int]] = {}

    @contextmanager
    def progress(description: str, total: int | None = None) -> Iterator[Bar]:
        class Told:
            def advance(self, n: int = 1, **fields: str | float) -> None:
                told.setdefault(description, []).append(n)

        yield Told()
        assert sum(told[description]) == total

    embeddings = np.random.default_rng(1).normal(size=(1100, 128))
    with_bars = decide(faces(embeddings), "photo", 0, 0.2, progress)
    assert list(told) == ["Looking for repeats", "Telling people apart", "Looking for people who may be the same"]
    assert all(len(steps) == 3 for steps in told.values())
    told.clear()
    assert decide(faces(embeddings), "photo", 0, 0.2).persons == with_bars.persons
    decide(faces(embeddings[:600]), "photo", 0, 0.2, progress)
    assert not told


@pytest.mark.parametrize("kind", ["photo", "cartoon"])
def test_the_order_of_merits_that_are_equal_is_that_of_the_source(kind):
    same = faces(np.zeros((3, 128)))
    same.hashes[:] = 5
    same.colours[:] = 9
    assert decide(same, kind, 0, 0.2).better.tolist() == [-1, 0, 0]
