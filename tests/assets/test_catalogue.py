"""The catalogue is consistent, and the real files are what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stylekit import assets
from stylekit.assets import catalogue
from stylekit.images import list_images


def test_every_asset_has_a_role_and_every_role_stylekit_needs_an_offline_candidate() -> None:
    assert {name for names in assets.ROLES.values() for name in names} == set(assets.CATALOGUE)
    for role in assets.ROLES.keys() - {"face-alignment", "modelscope-style", "cartoon-diffusion", "celebrities", "dataset"}:
        assert any(asset.packaged for asset in catalogue.candidates(role)), role


def test_everything_packaged_is_pinned_by_a_whole_digest() -> None:
    for asset in assets.CATALOGUE.values():
        if asset.packaged:
            assert re.fullmatch(r"[0-9a-f]{64}", asset.sha256 or ""), asset.name
            assert asset.size > 0, asset.name


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(asset.name, marks=[pytest.mark.slow] if asset.name == "dlib-landmarks" else [])
        for asset in assets.CATALOGUE.values()
        if asset.packaged
    ],
)
def test_the_real_asset_is_what_the_catalogue_says(asset_home: Path, name: str) -> None:
    path = assets.fetch(name, verify=True)
    asset = catalogue.find(name)
    line = next(s for s in assets.statuses(verify=True) if s.name == name)
    assert assets.digest(path) == line.sha256
    if line.state == "cached":
        assert (line.sha256, line.size) == (asset.sha256, asset.size)


def test_the_starter_photos_are_82_pictures(asset_home: Path) -> None:
    pictures = list_images(assets.fetch("starter-photos"))
    assert len(pictures) == 82
    assert {picture.parent.name for picture in pictures} == {"female", "male", "soft-ui"}


def test_the_table_of_published_styles_is_the_catalogue() -> None:
    page = (Path(assets.__file__).parents[2] / "docs/assets.md").read_text("utf-8")
    rows = re.findall(r"^\| (modelscope-\S+) \| (\S+) \| (\S+) \|$", page, re.MULTILINE)
    styles = catalogue.candidates("modelscope-style")
    assert [f"ms:{model}@{revision}" for _, model, revision in rows] == [str(style.sources[0]) for style in styles]
    assert [name for name, _, _ in rows] == [style.name for style in styles]
