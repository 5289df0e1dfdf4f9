"""`remake`: which record belongs to a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stylekit.data.manifest import Generation, ManifestLine, Origin, to_json_line, write_manifest
from stylekit.generate import remake as module
from stylekit.generate.remake import remake
from stylekit.paths import sha256_bytes
from stylekit.progress import Bar, silent


def test_the_records_of_a_folder_are_read_once_whatever_is_asked_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    raw, reads = tmp_path / "raw", list[Path]()
    raw.mkdir()
    made = {f"{seed}.png": Generation(engine="x", model="m", seed=seed) for seed in range(4)}
    digests = {file: sha256_bytes(generation.model_dump_json().encode()) for file, generation in made.items()}
    origins = [Origin(file=file, sha256=digests[file], generation=generation) for file, generation in made.items()]
    (raw / "origin.jsonl").write_text("".join(map(to_json_line, [*origins, Origin(file="own.png", sha256="")])))
    lines = [
        ManifestLine(
            file=f"cartoon/{file}", input=f"raw/{file}", input_sha256=digests[file], status="used", generation=generation
        )
        for file, generation in made.items()
    ]
    write_manifest(tmp_path / "manifest.jsonl", lines)
    for name in ("read_origins", "stream_manifest"):
        read = getattr(module, name)
        monkeypatch.setattr(module, name, lambda path, read=read: [reads.append(path), read(path)][1])
    monkeypatch.setattr(module, "_make", lambda generation, _: generation.model_dump_json().encode())

    files = [raw / "0.png", raw / "1.png", tmp_path / "cartoon" / "2.png", tmp_path / "cartoon" / "3.png"]
    remade = remake([*files, raw / "own.png", raw / "nowhere.png"], tmp_path / "again")
    assert reads == [raw / "origin.jsonl", tmp_path / "manifest.jsonl"]
    assert [each.identical for each in remade] == [True] * 4 + [None] * 2
    assert [each.made.name for each in remade if each.made] == list(made)
    assert "is a copy of a picture" in remade[4].problem
    assert "has no record of it" in remade[5].problem


def test_what_cannot_be_made_is_said_once_and_no_progress_is_shown_for_it(tmp_path: Path):
    (tmp_path / "origin.jsonl").write_text(to_json_line(Origin(file="own.png", sha256="")))
    shown: list[int | None] = []

    @contextmanager
    def progress(description: str, total: int | None = None) -> Iterator[Bar]:
        shown.append(total)
        with silent(description, total) as bar:
            yield bar

    files = [tmp_path / "own.png", tmp_path / "other.png", Path("/nowhere.png")]
    problems = [each.problem for each in remake(files, tmp_path / "again", progress)]
    assert shown == []
    assert problems[0] == "It was not generated: it is a copy of a picture, or was painted elsewhere."
    assert not [problem for problem in problems if "own.png" in problem or "other.png" in problem or "nowhere" in problem]
