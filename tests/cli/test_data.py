"""What `align` and `data` say of many pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from stylekit.cli import run
from stylekit.images import write_image


def test_of_many_unreadable_files_only_some_are_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for index in range(23):
        (tmp_path / "in" / f"{index:02d}.jpg").write_text("not a picture")
    assert run(["align", "in"]) == 3
    listed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("unreadable: ")]
    assert len(listed) == 21
    assert listed[0].startswith("unreadable: in/00.jpg is not a")
    assert listed[-1] == "unreadable: 3 more; --json lists them all"
    assert run(["align", "in", "--json"]) == 3
    assert len(json.loads(capsys.readouterr().out)["unreadable"]) == 23


@pytest.mark.usefixtures("asset_home")
def test_align_says_of_how_many_pictures_by_whose_limits_and_what_it_does_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "in" / "me 00.png", np.full((64, 64, 3), 128, np.uint8))
    for name in ("a.HEIC", "b.heic"):
        (tmp_path / "in" / name).touch()
    assert run(["align", "in"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "0 faces of 1 picture aligned, 1 left out, 0 unreadable",
        "Default limits: min_face_px 48, min_sharpness 20, max_yaw_deg 50",
        "2 HEIC files are not read: convert them to JPEG or PNG.",
    ]
    assert run(["init", "mine"]) == 0
    capsys.readouterr()
    assert run(["align", "in/me 00.png"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "0 faces of 1 picture aligned, 1 left out, 0 unreadable"
    assert lines[1].startswith("Limits of the recipe mine: min_face_px 28")
