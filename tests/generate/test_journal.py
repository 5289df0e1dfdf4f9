"""The journal of raw pictures."""

from __future__ import annotations

from pathlib import Path

import pytest

from stylekit.data.manifest import Generation, Origin, read_origins
from stylekit.errors import GenerationError
from stylekit.generate.journal import Journal

MADE = Generation(engine="dicebear", model="toon-head", seed=5, versions={"core": "1"})
PICTURE = Origin(file="a.png", sha256="0", generation=MADE)


def test_what_was_added_is_held_by_the_next_run(tmp_path: Path):
    journal = Journal(tmp_path)
    assert journal.add(PICTURE, b"picture")
    assert not journal.add(PICTURE, b"picture")
    assert (tmp_path / "a.png").read_bytes() == b"picture"
    journal = Journal(tmp_path)
    assert journal.holds("a.png", MADE.model_copy(update={"versions": {"core": "2"}}))
    assert not journal.holds("b.png", MADE)


def test_picture_without_line_or_line_without_picture_is_made_again(tmp_path: Path):
    journal = Journal(tmp_path)
    journal.add(PICTURE, b"picture")
    (tmp_path / "a.png").rename(tmp_path / "b.png")
    journal = Journal(tmp_path)
    assert not journal.holds("a.png", MADE)
    assert not journal.holds("b.png", MADE)


def test_line_torn_by_a_kill_does_not_swallow_the_next(tmp_path: Path):
    journal = Journal(tmp_path)
    journal.add(PICTURE, b"picture")
    with (tmp_path / "origin.jsonl").open("a") as stream:
        stream.write('{"file": "b.p')
    journal = Journal(tmp_path)
    journal.add(PICTURE.model_copy(update={"file": "c.png"}), b"picture")
    assert [origin.file for origin in read_origins(tmp_path / "origin.jsonl")] == ["a.png", "c.png"]


def test_other_settings_are_refused_by_name(tmp_path: Path):
    journal = Journal(tmp_path)
    journal.add(PICTURE, b"picture")
    with pytest.raises(GenerationError, match=r"other settings \(seed\)"):
        journal.holds("a.png", MADE.model_copy(update={"seed": 6}))


def test_clearing_leaves_what_it_did_not_write(tmp_path: Path):
    journal = Journal(tmp_path)
    journal.add(PICTURE, b"picture")
    (tmp_path / "mine.png").write_bytes(b"mine")
    journal.clear()
    journal.add(PICTURE.model_copy(update={"file": "c.png"}), b"picture")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.png", "mine.png", "origin.jsonl"]
    assert [origin.file for origin in read_origins(tmp_path / "origin.jsonl")] == ["c.png"]
