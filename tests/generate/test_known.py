"""Known styles: phrases, templates, and where their models are found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stylekit import assets
from stylekit.config.load import built_in_recipes, load_recipe
from stylekit.config.schema import GenerateRecipe
from stylekit.errors import GenerationError
from stylekit.generate import known
from stylekit.generate.known import BASE_MODEL, LICENCES, Located, complete, find, resolve

ARCHER, CLIPART = "nitrosocke/archer-diffusion", "damo/cv_cartoon_stable_diffusion_clipart"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("archer style", "clipart"),
        ("Archer  Style", "clipart"),
        ("clipart", "clipart"),
        ("watercolour style", "watercolor"),
        ("flat", "flat"),
        (CLIPART, "clipart"),
        ("moebius style", None),
        ("archer style, at night", None),
        (ARCHER, None),
    ],
)
def test_phrases_names_and_ids_are_found(text: str, name: str | None):
    found = find(text)
    assert (found and found.name) == name


@pytest.mark.parametrize(
    ("phrase", "recipe", "model", "prompt"),
    [
        ("archer style", {}, "clipart", "archer style, a portrait painting of {person}"),
        ("design style", {"engine": "modelscope"}, "design", "sks style, a painting of a {person}, no text"),
        ("moebius style", {}, BASE_MODEL, "moebius style, a portrait painting of {person}"),
        ("moebius style", {"model": "me/moebius"}, "me/moebius", "moebius style, a portrait painting of {person}"),
        ("archer style", {"model": "me/mine"}, "me/mine", "archer style, a portrait painting of {person}"),
        ("{person} in ink", {}, BASE_MODEL, "{person} in ink"),
        (None, {"engine": "modelscope", "model": "flat"}, "flat", "sks style, a painting of a {person}, no text"),
        (None, {"model": "clipart", "prompt": "mine"}, "clipart", "mine"),
        (None, {}, None, None),
        ("ink", {"engine": "edit"}, None, "ink, a portrait painting of {person}"),
        ("ink", {"engine": "dicebear", "model": "toon-head"}, "toon-head", None),
    ],
)
def test_a_phrase_fills_in_what_the_recipe_leaves_open(phrase: str | None, recipe: dict[str, Any], model: str, prompt: str):
    completed = complete(GenerateRecipe(**recipe), phrase)
    assert (completed.model, completed.prompt) == (model, prompt)


@pytest.mark.parametrize("recipe", [{}, {"model": ARCHER}])
def test_the_engine_modelscope_names_its_five_models(recipe: dict[str, Any]):
    with pytest.raises(GenerationError, match="The engine modelscope") as caught:
        complete(GenerateRecipe(engine="modelscope", **recipe))
    assert "clipart, design, watercolor, illustration, flat" in caught.value.hint


class Hubs:
    """Which of the two hubs answers, and what was asked of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hugging_face_has: set[bool] = set()
        self.asked: list[str] = []
        monkeypatch.setattr(known, "_ask_hugging_face", self.ask)
        monkeypatch.setattr("stylekit.assets.store.sources.download", self.download)
        self.modelscope: Path | None = None

    def ask(self, repository: str, revision: str | None, cached: bool) -> str | None:
        self.asked.append(f"hf cache {repository}" if cached else f"hf {repository}")
        return None if cached in self.hugging_face_has else "it is closed"

    def download(self, source: object, folder: Path) -> Path:
        self.asked.append(str(source))
        if self.modelscope is None:
            raise assets.sources.SourceUnavailableError(f"{source} could not be fetched: it is closed.")
        return self.modelscope


@pytest.fixture
def hubs(monkeypatch: pytest.MonkeyPatch, empty_home: Path, tmp_path: Path) -> Hubs:
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "ms"))
    return Hubs(monkeypatch)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model_index.json").write_text("{}")
    return tmp_path / "model"


def test_modelscope_is_asked_first_then_never_again(hubs: Hubs, folder: Path):
    hubs.modelscope = folder
    located = resolve("clipart", GenerateRecipe())
    assert (located.label, located.revision) == (CLIPART, "v1.0.0")
    assert (Path(located.place) / "model_index.json").is_file()
    assert hubs.asked == [f"hf cache {ARCHER}", f"ms:{CLIPART}@v1.0.0"]
    assert resolve("clipart", GenerateRecipe()) == located
    assert len(hubs.asked) == 2


def test_hugging_face_stands_in_where_modelscope_is_closed(hubs: Hubs):
    hubs.hugging_face_has = {False}
    assert resolve("clipart", GenerateRecipe()) == Located(ARCHER, ARCHER, None)
    assert hubs.asked == [f"hf cache {ARCHER}", f"ms:{CLIPART}@v1.0.0", f"hf {ARCHER}"]


def test_a_revision_is_looked_for_on_the_hub_that_has_it(hubs: Hubs, folder: Path):
    hubs.hugging_face_has, hubs.modelscope = {False}, folder
    assert resolve("clipart", GenerateRecipe(revision="abc")) == Located(ARCHER, ARCHER, "abc")
    assert resolve("clipart", GenerateRecipe(revision="v1.0.0")).label == CLIPART
    for model, engine in (("design", "diffusers"), ("clipart", "modelscope"), (CLIPART, "diffusers")):
        with pytest.raises(GenerationError, match=r"in revision v1\.0\.0, not in abc"):
            resolve(model, GenerateRecipe(engine=engine, revision="abc"))


def test_the_models_of_the_recipes_have_licences():
    for path in built_in_recipes().glob("*.yaml"):
        recipe = load_recipe(path).generate
        if recipe.engine != "dicebear":
            model = find(recipe.model or "")
            assert {recipe.model} & LICENCES.keys() or (model and model.modelscope in LICENCES), path


def test_what_the_cache_of_hugging_face_has_is_not_asked_for_elsewhere(hubs: Hubs):
    hubs.hugging_face_has = {True}
    assert resolve("clipart", GenerateRecipe()).place == ARCHER
    assert hubs.asked == [f"hf cache {ARCHER}"]


def test_modelscopes_own_cache_serves(hubs: Hubs, folder: Path, tmp_path: Path):
    folder.rename(tmp_path / "cached")
    (tmp_path / "ms" / "hub" / "damo").mkdir(parents=True)
    (tmp_path / "cached").rename(tmp_path / "ms" / "hub" / CLIPART)
    assert resolve("clipart", GenerateRecipe()).label == CLIPART
    assert hubs.asked == []


@pytest.mark.parametrize("recipe", [GenerateRecipe(engine="modelscope"), GenerateRecipe()])
def test_modelscopes_copy_alone_where_that_is_asked_for(hubs: Hubs, recipe: GenerateRecipe):
    hubs.hugging_face_has = {True, False}
    with pytest.raises(GenerationError, match="The model clipart can be had from no hub"):
        resolve("clipart" if recipe.engine == "modelscope" else CLIPART, recipe)
    assert hubs.asked == [f"ms:{CLIPART}@v1.0.0", f"ms:{CLIPART.replace('damo', 'iic')}@v1.0.0"][: len(hubs.asked)]


def test_when_no_hub_answers_one_error_says_what_was_asked_and_what_to_do(hubs: Hubs):
    with pytest.raises(GenerationError) as caught:
        resolve("archer", GenerateRecipe())
    assert f"ms:{CLIPART}@v1.0.0 could not be fetched" in caught.value.message
    assert f"hf:{ARCHER} could not be fetched: it is closed." in caught.value.message
    for step in ("HF_ENDPOINT", "stylekit assets add cartoon-diffusion FOLDER --name cartoon-diffusion-clipart", "--model"):
        assert step in caught.value.hint


def test_a_model_the_user_brought_comes_before_all(hubs: Hubs, folder: Path):
    hubs.hugging_face_has = {True, False}
    assets.add("cartoon-diffusion", folder, "cartoon-diffusion-clipart")
    assert resolve("clipart", GenerateRecipe()).label == CLIPART
    assert hubs.asked == []


def test_a_folder_that_is_no_model_is_not_taken_in(hubs: Hubs, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(assets.sources.AssetError, match=r"holds no model_index\.json"):
        assets.add("cartoon-diffusion", tmp_path / "empty", "cartoon-diffusion-flat")


def test_ids_and_folders_are_left_as_they_are(hubs: Hubs, folder: Path):
    assert resolve("me/mine", GenerateRecipe(revision="r")) == Located("me/mine", "me/mine", "r")
    assert resolve(str(folder), GenerateRecipe(revision="r")) == Located(str(folder), str(folder), None)
    assert hubs.asked == []
