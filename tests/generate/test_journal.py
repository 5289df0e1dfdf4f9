"""The journal of raw pictures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from stylekit.data.manifest import Generation, Origin, read_origins
from stylekit.errors import GenerationError
from stylekit.generate.journal import Journal, Part, exclusive

MADE = Generation(engine="dicebear", model="toon-head", seed=5, versions={"core": "1"})
PICTURE = Origin(file="a.png", sha256="0", generation=MADE)


def test_what_was_added_is_held_by_the_next_run(tmp_path: Path):
    journal = Journal(tmp_path)
    assert journal.add(PICTURE, b"picture")
    assert not journal.add(PICTURE, b"picture")
    assert (tmp_path / "a.png").read_bytes() == b"picture"
    journal = Journal(tmp_path)
    assert journal.get("a.png") == PICTURE
    assert journal.get("b.png") is None


def test_picture_without_line_or_line_without_picture_is_made_again(tmp_path: Path):
    journal = Journal(tmp_path)
    journal.add(PICTURE, b"picture")
    (tmp_path / "a.png").rename(tmp_path / "b.png")
    journal = Journal(tmp_path)
    assert journal.get("a.png") is None
    assert journal.get("b.png") is None


def test_line_torn_by_a_kill_does_not_swallow_the_next(tmp_path: Path):
    journal = Journal(tmp_path)
    journal.add(PICTURE, b"picture")
    with (tmp_path / "origin.jsonl").open("a") as stream:
        stream.write('{"file": "b.p')
    journal = Journal(tmp_path)
    journal.add(PICTURE.model_copy(update={"file": "c.png"}), b"picture")
    assert [origin.file for origin in read_origins(tmp_path / "origin.jsonl")] == ["a.png", "c.png"]


def test_clearing_leaves_what_it_did_not_write(tmp_path: Path):
    journal = Journal(tmp_path)
    journal.add(PICTURE, b"picture")
    (tmp_path / "mine.png").write_bytes(b"mine")
    journal.clear()
    journal.add(PICTURE.model_copy(update={"file": "c.png"}), b"picture")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.png", "mine.png", "origin.jsonl"]
    assert [origin.file for origin in read_origins(tmp_path / "origin.jsonl")] == ["c.png"]


def test_picture_without_its_photograph_is_made_again(tmp_path: Path):
    journal = Journal(tmp_path)
    journal.add(PICTURE.model_copy(update={"photo": "photos/a.png"}), b"picture")
    assert Journal(tmp_path).get("a.png") is None
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.png").write_bytes(b"photo")
    journal = Journal(tmp_path)
    journal.add(PICTURE.model_copy(update={"photo": "photos/a.png"}), b"picture")
    journal.clear()
    assert not (tmp_path / "photos/a.png").exists()


def test_parts_of_several_processes_become_one_and_torn_ends_are_passed_over(tmp_path: Path):
    Journal(tmp_path).add(PICTURE, b"picture")
    for number, name in enumerate(("b.png", "c.png")):
        Part(tmp_path, number).add(PICTURE.model_copy(update={"file": name}), b"picture")
    Part(tmp_path, 0).add(PICTURE.model_copy(update={"sha256": "1"}), b"newer")
    with (tmp_path / "origin-1.part.jsonl").open("a") as stream:
        stream.write('{"file": "d.p')
    (tmp_path / ".partial-0123").write_bytes(b"half")
    journal = Journal(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png", "c.png", "origin.jsonl"]
    assert [origin.file for origin in read_origins(journal.path)] == ["a.png", "b.png", "c.png"]
    assert (journal.get("a.png") or PICTURE).sha256 == "1"


@pytest.mark.usefixtures("empty_home")
def test_a_second_process_is_refused_while_one_is_at_work_even_by_another_path(tmp_path: Path):
    raw = tmp_path / "datasets" / "raw"
    code = (
        "import sys; from pathlib import Path; from stylekit.generate.journal import exclusive\n"
        "with exclusive(Path(sys.argv[1])): print('held')"
    )
    other = [sys.executable, "-c", code, str(tmp_path / "datasets" / ".." / "datasets" / "raw")]
    with exclusive(raw):
        refused = subprocess.run(other, capture_output=True, text=True, check=False)
    assert "Another gen-data is at work in" in refused.stderr
    assert "held" not in refused.stdout
    assert subprocess.run(other, capture_output=True, text=True, check=False).stdout == "held\n"
    assert not raw.exists()


@pytest.mark.usefixtures("empty_home")
def test_the_same_process_is_refused_too_and_the_lock_is_given_back(tmp_path: Path):
    with exclusive(tmp_path), pytest.raises(GenerationError, match="Another gen-data"), exclusive(tmp_path):
        pass
    with pytest.raises(ValueError, match="x"), exclusive(tmp_path):
        raise ValueError("x")
    with exclusive(tmp_path), exclusive(tmp_path / "other"):
        pass


def test_generated_pictures_without_a_licence_get_the_one_that_is_named(tmp_path: Path):
    other, own = PICTURE.model_copy(update={"file": "b.png", "licence": "MIT"}), Origin(file="c.png", sha256="0")
    Journal(tmp_path).add(PICTURE, b"picture")
    Part(tmp_path, 0).add(PICTURE.model_copy(update={"file": "part.png"}), b"picture")
    journal = Journal(tmp_path, "CC-BY-4.0")
    for origin in (other, own, PICTURE.model_copy(update={"file": "d.png"})):
        journal.add(origin, b"picture")
    licences = {origin.file: origin.licence for origin in read_origins(journal.path)}
    assert licences == {"a.png": "CC-BY-4.0", "part.png": "CC-BY-4.0", "b.png": "MIT", "c.png": None, "d.png": "CC-BY-4.0"}
