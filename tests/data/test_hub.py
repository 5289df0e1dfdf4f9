"""Data sets that come with photographs and cartoons become styles that only need training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from stylekit import assets
from stylekit.assets import sources
from stylekit.cli import run
from stylekit.config.load import load_recipe
from stylekit.data.hub import add_data
from stylekit.errors import DataError, UsageError
from stylekit.images import write_image
from stylekit.paths import Workspace

DATASET = "ms:menyifang/dctnet_train_clipart_mini_ms"


@pytest.fixture(autouse=True)
def _offline(empty_home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STYLEKIT_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)


def write_set(folder: Path, photos: str = "face_photo", cartoons: str = "face_cartoon") -> Path:
    for part, count in ((photos, 3), (cartoons, 2)):
        for n in range(count):
            write_image(folder / part / f"{n}.png", np.full((8, 8, 3), n, np.uint8))
    return folder


def opened_hub(monkeypatch: pytest.MonkeyPatch, contents: Path) -> list[str]:
    """Let the hub's client give a folder; returns what it is asked for."""
    asked: list[str] = []

    def from_hub(source: object, folder: Path) -> Path:
        asked.append(str(source))
        return contents

    monkeypatch.delenv("STYLEKIT_OFFLINE")
    monkeypatch.setattr(sources, "_from_modelscope", from_hub)
    return asked


def test_a_data_set_of_the_hub_becomes_the_current_style(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = opened_hub(monkeypatch, write_set(tmp_path / "contents" / "train").parent)
    for _ in range(2):
        added = add_data(DATASET)
    assert asked == ["ms:datasets/menyifang/dctnet_train_clipart_mini_ms@master"]
    assert (added.style, added.cartoons, added.photos, added.source) == ("dctnet-train-clipart-mini-ms", 2, 3, asked[0])
    recipe = load_recipe(added.recipe)
    folder = assets.dataset_folder(DATASET.removeprefix("ms:"))
    assert folder is not None
    assert (recipe.generate.engine, recipe.generate.model) == ("folder", str(folder / "face_cartoon"))
    assert recipe.photos.source == str(folder / "face_photo")
    assert Workspace().current_style() == recipe.style


@pytest.mark.parametrize("names", [("face_photo", "face_cartoon"), ("trainA", "trainB")])
def test_a_folder_of_that_layout_is_used_where_it_lies(tmp_path: Path, names: tuple[str, str]) -> None:
    write_set(tmp_path / "My Set", *names)
    added = add_data("My Set", style="Archer", workspace=Workspace(tmp_path / "project"))
    assert added == type(added)("archer", tmp_path / "project/recipes/archer.yaml", 2, 3, "My Set")
    recipe = load_recipe(added.recipe)
    assert (recipe.photos.source, recipe.generate.model) == (f"My Set/{names[0]}", f"My Set/{names[1]}")


def test_a_built_in_recipe_gives_its_settings_but_not_its_signature(tmp_path: Path) -> None:
    demo = load_recipe("demo")
    assert demo.description
    recipe = load_recipe(add_data(str(write_set(tmp_path / "set")), style=demo.style).recipe)
    assert (recipe.description, recipe.authors, recipe.licence) == ("", (), None)
    assert recipe.train == demo.train


def test_a_recipe_of_other_pictures_is_not_replaced(tmp_path: Path) -> None:
    add_data(str(write_set(tmp_path / "first")), style="archer")
    before = Path("recipes/archer.yaml").read_text()
    add_data(str(write_set(tmp_path / "other")))
    with pytest.raises(UsageError, match=r"archer\.yaml is already there\. Choose another name"):
        add_data("other", style="archer")
    assert Path("recipes/archer.yaml").read_text() == before
    assert Workspace().current_style() == "other"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("gone", r"no folder gone.*ms:NAMESPACE/NAME"),
        ("plain", r"plain holds 0\.png, but not face_photo/"),
        ("empty", "no pictures in"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path: Path, source: str, said: str) -> None:
    write_image(tmp_path / "plain/0.png", np.zeros((8, 8, 3), np.uint8))
    for part in ("face_photo", "face_cartoon"):
        (tmp_path / "empty" / part).mkdir(parents=True)
    with pytest.raises(DataError, match=said):
        add_data(source)
    assert not Path("recipes").exists()


def test_where_the_hub_is_closed_the_command_says_what_to_bring_and_takes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["data", "add", DATASET]) == 1
    shown = capsys.readouterr().err
    assert "Put its face_photo/ and face_cartoon/ into a folder, and run: stylekit data add FOLDER --style NAME." in shown
    assert f"Run: stylekit assets add dataset FOLDER --name {DATASET}" in shown
    write_set(tmp_path / "mini")
    assert run(["assets", "add", "dataset", "mini", "--name", DATASET]) == 0
    assert run(["data", "add", DATASET, "--style", "clipart", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (answer["style"], answer["cartoons"], answer["photos"], answer["source"]) == ("clipart", 2, 3, "user:mini")


def test_the_command_names_the_next_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_set(tmp_path / "mini")
    assert run(["data", "add", "mini"]) == 0
    assert capsys.readouterr().out == "mini: 2 cartoons and 3 photographs of mini\nrecipes/mini.yaml\nNext: stylekit train\n"


def test_a_data_set_is_not_taken_for_photographs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["align", f"asset:{DATASET}"]) == 1
    assert f"Run: stylekit data add {DATASET}" in capsys.readouterr().err
