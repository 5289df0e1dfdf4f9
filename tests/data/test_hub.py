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
from stylekit.data.shards import shard
from stylekit.errors import DataError, UsageError
from stylekit.images import write_image
from stylekit.paths import Workspace
from tests.data.layouts import CELEBA, FFHQ, PARTITION, write_pictures, write_zip

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
    monkeypatch.setattr(sources, "_out_of_reach", lambda source: "")
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
    layout = f"{names[0]}/ and {names[1]}/"
    assert added == type(added)("archer", tmp_path / "project/recipes/archer.yaml", 2, 3, "My Set", layout)
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
        ("gone", r"no folder or file gone.*ms:NAMESPACE/NAME"),
        ("empty", "no pictures in"),
        ("bare", r"no pictures in bare; it holds note\.txt\. Expected: pictures, .*FFHQ"),
        ("aligned", "aligned is an aligned data set already.*stylekit data shard aligned"),
        ("pair.zip", "photographs and cartoons in a zip file. Unpack it"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path: Path, source: str, said: str) -> None:
    write_zip(tmp_path / "pair.zip", ["trainA/0.png", "trainB/0.png"])
    write_pictures(tmp_path / "aligned", ["cropped/0.png", "manifest.jsonl.png"])
    (tmp_path / "aligned" / "manifest.jsonl").touch()
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "note.txt").touch()
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
    assert capsys.readouterr().out.splitlines() == [
        "mini: 2 cartoons and 3 photographs of mini",
        "Recognised: face_photo/ and face_cartoon/",
        "recipes/mini.yaml",
        "Next: stylekit train",
    ]


def test_a_data_set_is_not_taken_for_photographs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["align", f"asset:{DATASET}"]) == 1
    assert f"Run: stylekit data add {DATASET}" in capsys.readouterr().err


def test_what_is_set_apart_for_testing_stays_apart(tmp_path: Path) -> None:
    write_set(tmp_path / "set", "trainA", "trainB")
    write_pictures(tmp_path / "set" / "testA", ["0.png", "1.png"])
    added = add_data("set")
    assert (added.cartoons, added.photos) == (2, 3)
    assert added.notes == ("The 2 photographs of testA/ are held out for evaluation.",)
    recipe = load_recipe(added.recipe)
    assert (recipe.photos.source, recipe.generate.model) == ("set", "set/trainB")


@pytest.mark.parametrize("layout", ["ffhq", "ffhq.zip", "celeba", "celeba.zip", "plain", "shards", "pattern"])
def test_photographs_become_those_of_the_current_style(tmp_path: Path, layout: str) -> None:
    add_data(str(write_set(tmp_path / "first")), style="archer")
    names = {"ffhq": [f"images1024x1024/{name}" for name in FFHQ], "celeba": [f"img_align_celeba/{name}" for name in CELEBA]}
    kind = layout.removesuffix(".zip")
    if layout.endswith(".zip"):
        write_zip(tmp_path / layout, names[kind], {"list_eval_partition.txt": PARTITION})
    elif layout in names:
        write_pictures(tmp_path / layout, names[kind])
    else:
        write_pictures(tmp_path / "plain", ["a.png", "b.jpg"])
    source = layout
    if layout in ("shards", "pattern"):
        shard("plain", tmp_path / "shards")
        source = {"shards": "shards", "pattern": "shards/{000000..000000}.tar"}[layout]
    added = add_data(source)
    assert (added.style, added.cartoons, added.photos) == ("archer", None, len(names.get(kind, ["a", "b"])))
    said = {"ffhq": "FFHQ", "celeba": "CelebA", "plain": "a folder of pictures"}.get(kind, "webdataset")
    assert said in added.layout
    recipe = load_recipe("recipes/archer.yaml")
    assert (recipe.photos.source, recipe.generate.model) == (source, str(tmp_path / "first/face_cartoon"))


def test_the_users_own_words_in_a_recipe_stay(tmp_path: Path) -> None:
    write_pictures(tmp_path / "selfies", ["a.png"])
    before = (
        "# mine\nstyle: ink  # a remark\nphotos:\n  # whom I asked\n  source: old\n  eval_fraction: 0.3\ntrain:\n  max_steps: 7\n"
    )
    Path("recipes").mkdir()
    Path("recipes/mine.yaml").write_text(before)
    added = add_data("selfies", style="ink", kind="photo")
    assert added.recipe == Path("recipes/mine.yaml")
    assert added.recipe.read_text() == before.replace("source: old", 'source: "selfies"')
    assert Workspace().current_style() == "ink"


@pytest.mark.parametrize(
    "before",
    ["style: ink\n", "style: ink", "style: ink\nphotos:\n  eval_fraction: 0.3\ntrain: {max_steps: 5}\n"],
)
def test_a_recipe_that_says_nothing_of_photographs_gets_a_line(tmp_path: Path, before: str) -> None:
    write_pictures(tmp_path / "selfies", ["a.png"])
    Path("recipes").mkdir()
    Path("recipes/ink.yaml").write_text(before)
    add_data("selfies", style="ink", kind="photo")
    text = Path("recipes/ink.yaml").read_text()
    assert load_recipe("recipes/ink.yaml").photos.source == "selfies"
    assert [line for line in text.splitlines() if line not in before.splitlines() and line] in (
        ["photos:", '  source: "selfies"'],
        ['  source: "selfies"'],
    )


def test_a_recipe_in_another_notation_is_left_alone(tmp_path: Path) -> None:
    write_pictures(tmp_path / "selfies", ["a.png"])
    Path("recipes").mkdir()
    before = "{style: ink, photos: {source: old}}\n"
    Path("recipes/ink.yaml").write_text(before)
    with pytest.raises(UsageError, match=r"cannot be changed without.*by hand: photos.source: .selfies"):
        add_data("selfies", style="ink", kind="photo")
    assert Path("recipes/ink.yaml").read_text() == before


def test_without_a_style_photographs_are_for_the_demo(tmp_path: Path) -> None:
    write_pictures(tmp_path / "selfies", ["a.png"])
    added = add_data("selfies")
    demo = load_recipe("demo")
    recipe = load_recipe(added.recipe)
    assert recipe.photos.source == "selfies"
    assert (added.style, recipe.generate, Workspace().current_style()) == (demo.style, demo.generate, demo.style)


def test_a_folder_with_a_style_holds_its_cartoons(tmp_path: Path) -> None:
    write_pictures(tmp_path / "drawings", ["a.png", "b.png", "c.png"])
    added = add_data("drawings", style="Ink")
    assert (added.style, added.cartoons, added.photos) == ("ink", 3, None)
    recipe = load_recipe(added.recipe)
    assert (recipe.generate.engine, recipe.generate.model) == ("folder", "drawings")
    assert add_data("drawings", kind="cartoon").style == "drawings"
    write_zip(tmp_path / "drawings.zip", ["a.png"])
    with pytest.raises(DataError, match=r"a zip file of pictures\. Unpack it"):
        add_data("drawings.zip", style="other")


def test_a_style_that_has_its_cartoons_gets_photographs(tmp_path: Path) -> None:
    for folder in ("drawings", "selfies", "others"):
        write_pictures(tmp_path / folder, ["a.png"])
    for _ in range(2):
        assert add_data("drawings", style="mine").cartoons == 1
    added = add_data("selfies", style="mine")
    assert (added.style, added.cartoons, added.photos) == ("mine", None, 1)
    assert added.notes == ("mine has its cartoons, so these are its photographs.",)
    recipe = load_recipe("recipes/mine.yaml")
    assert (recipe.generate.model, recipe.photos.source) == ("drawings", "selfies")
    assert "They are used instead of selfies." in add_data("others", style="mine").notes
    assert add_data("others", style="mine", kind="photo").notes == ()
    with pytest.raises(UsageError, match="already there"):
        add_data("others", style="mine", kind="cartoon")


def test_pictures_of_a_kind_that_is_not_read_are_counted(tmp_path: Path) -> None:
    write_set(tmp_path / "set")
    for name in ("face_photo/a.HEIC", "face_photo/b.heic", "face_cartoon/c.gif"):
        (tmp_path / "set" / name).touch()
    assert add_data("set").notes == (
        "1 GIF file is not read: convert it to JPEG or PNG.",
        "2 HEIC files are not read: convert them to JPEG or PNG.",
    )


def test_the_command_says_what_it_found_and_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pictures(tmp_path / "faces" / "thumbnails128x128", FFHQ)
    write_zip(tmp_path / "faces" / "old.zip", ["a.png"])
    assert run(["data", "add", "faces"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "toon-head: 5 photographs of faces",
        "Recognised: FFHQ (thumbnails128x128)",
        "Passed over: old.zip.",
        "recipes/toon-head.yaml",
        "Next: stylekit train",
    ]
