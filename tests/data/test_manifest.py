"""manifest.jsonl and origin.jsonl."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stylekit.data.manifest import Generation, ManifestLine, Origin, read_manifest, read_origins, to_json_line, write_manifest
from stylekit.errors import DataError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
GENERATIONS = st.builds(
    Generation,
    engine=TEXT,
    model=TEXT,
    prompt=st.none() | TEXT,
    seed=st.integers(0, 2**31),
    guidance=st.none() | NUMBER,
    options=st.dictionaries(TEXT, st.booleans() | st.integers(-9, 9) | TEXT | st.lists(TEXT, max_size=3), max_size=3),
)
LINES = st.builds(
    ManifestLine,
    file=st.none() | TEXT,
    input=TEXT,
    input_sha256=st.none() | st.text(string.hexdigits, min_size=64, max_size=64),
    face_index=st.none() | st.integers(0, 9),
    status=st.sampled_from(["used", "rejected", "unreadable"]),
    reasons=st.lists(TEXT, max_size=3),
    generation=st.none() | GENERATIONS,
    matrix=st.none() | st.lists(st.lists(NUMBER, min_size=3, max_size=3), min_size=2, max_size=2),
    quality=st.dictionaries(TEXT, NUMBER, max_size=4),
    split=st.sampled_from([None, "train", "eval"]),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(LINES, max_size=5))
def test_what_is_written_is_read(tmp_path: Path, lines: list[ManifestLine]):
    write_manifest(tmp_path / "manifest.jsonl", lines)
    assert read_manifest(tmp_path / "manifest.jsonl") == lines


def test_says_whether_it_changed_anything(tmp_path: Path):
    line = ManifestLine(file="a.png", input="a.jpg", input_sha256=None, status="used")
    path = tmp_path / "manifest.jsonl"
    assert write_manifest(path, [line])
    assert not write_manifest(path, [line])
    assert write_manifest(path, [line, line])


def test_fault_is_named_by_line_and_key(tmp_path: Path):
    path = tmp_path / "manifest.jsonl"
    good = to_json_line(ManifestLine(file=None, input="a.jpg", input_sha256=None, status="unreadable"))
    path.write_text(good + '{"file": null, "input": "b.jpg", "input_sha256": null, "status": "lost"}\n')
    with pytest.raises(DataError, match=r"line 2: status"):
        read_manifest(path)


def test_missing_manifest_is_a_data_error(tmp_path: Path):
    with pytest.raises(DataError, match=r"manifest\.jsonl"):
        read_manifest(tmp_path / "manifest.jsonl")


def test_torn_end_of_origins_is_passed_over_but_not_a_torn_middle(tmp_path: Path):
    path = tmp_path / "origin.jsonl"
    whole = to_json_line(Origin(file="é.png", sha256="0")).encode()
    for end in range(len(whole) - 2):
        path.write_bytes(whole + whole[:end])
        assert [origin.file for origin in read_origins(path)] == ["é.png"]
    path.write_bytes(whole[:9] + b"\n" + whole)
    with pytest.raises(DataError, match="line 1"):
        read_origins(path)
