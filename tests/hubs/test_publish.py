"""Publishing to a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from stylekit.bundle import read_bundle
from stylekit.errors import StylekitError, UsageError
from stylekit.hubs import publish
from stylekit.paths import Workspace
from tests.trained import make_run, recipe


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path)
    make_run(workspace, made_by=recipe(export={"formats": ["safetensors"]}))
    return workspace


def test_a_style_without_a_licence_is_not_published(workspace: Workspace) -> None:
    with pytest.raises(UsageError, match="no licence") as caught:
        publish(workspace=workspace)
    assert "--license" in caught.value.hint
    assert not (workspace.root / "exports").exists()


def test_a_published_style_is_whole_and_carries_its_licence(workspace: Workspace) -> None:
    report = publish(workspace=workspace, licence="CC-BY-4.0")
    assert report.path == workspace.root / "exports" / "pop-art"
    bundle = read_bundle(report.path)
    assert bundle.style == report.style
    assert bundle.style.licence == "CC-BY-4.0"
    assert set(bundle.files) == {"face.safetensors", "preview.jpg", "README.md", "LICENSE"}
    assert b"license: cc-by-4.0" in bundle.files["README.md"]
    assert b"SPDX-License-Identifier: CC-BY-4.0" in bundle.files["LICENSE"]
    assert publish(report.path, to="dir:elsewhere", workspace=workspace).style == report.style


def test_the_recipes_licence_is_enough(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    make_run(workspace, made_by=recipe(export={"formats": ["safetensors"]}, licence="CC0-1.0"))
    assert publish("pop-art", workspace=workspace).style.licence == "CC0-1.0"


@pytest.mark.parametrize(
    ("to", "says"),
    [
        ("hf:me/pop-art", "later version"),
        ("ms:me/pop-art", "later version"),
        ("dir:", "not a place"),
        ("exports", "not a place"),
        ("ftp:x", "not a place"),
    ],
)
def test_other_places_are_refused_before_any_work(workspace: Workspace, to: str, says: str) -> None:
    before = sorted(workspace.root.rglob("*"))
    with pytest.raises(UsageError, match=says) as caught:
        publish(to=to, licence="CC0-1.0", workspace=workspace)
    assert "dir:" in caught.value.hint
    assert sorted(workspace.root.rglob("*")) == before


@pytest.mark.parametrize("licence", ["", "do what you like", "CC-BY-4.0\nAND more", "<script>"])
def test_only_licence_identifiers_are_taken(workspace: Workspace, licence: str) -> None:
    with pytest.raises(UsageError, match="SPDX"):
        publish(licence=licence, workspace=workspace)


def test_a_place_that_cannot_be_written_is_named(workspace: Workspace) -> None:
    (workspace.root / "taken").write_text("a file")
    with pytest.raises(StylekitError, match="taken"):
        publish(to="dir:taken", licence="CC0-1.0", workspace=workspace)
