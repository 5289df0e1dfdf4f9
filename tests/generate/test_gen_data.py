"""`gen_data`: which recipe is carried out, and what happens to what is there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from stylekit import assets
from stylekit.cli import run
from stylekit.config.load import style_recipe
from stylekit.config.schema import GenerateRecipe, Recipe
from stylekit.data import prepare as prepare_module
from stylekit.data.manifest import Generation, Origin, read_manifest, read_origins
from stylekit.errors import GenerationError, Interrupted, UsageError
from stylekit.generate import api
from stylekit.generate.api import gen_data
from stylekit.generate.engine import differences
from stylekit.generate.journal import exclusive
from stylekit.generate.known import BASE_MODEL
from stylekit.generate.remake import remake
from stylekit.images import list_images, read_rgb, write_image
from stylekit.paths import Workspace, sha256_bytes
from stylekit.pipeline import prepare
from tests.generate.models import write_model


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


class Painter:
    """An engine whose pictures are the record that makes them."""

    note = ""

    def __init__(self, recipe: GenerateRecipe, seed: int, raw: Path) -> None:
        self.recipe, self.seed = recipe, seed
        self.files = [f"{index}.png" for index in range(recipe.count)]
        self.left_out: dict[str, str] = {}

    def generation(self, index: int, attempt: int = 0) -> Generation:
        return Generation(
            engine=self.recipe.engine, model=self.recipe.model or "", prompt=self.recipe.prompt, seed=self.seed + index
        )

    def changed(self, index: int, made: Generation) -> list[str]:
        return differences(made, self.generation(index))

    def check(self) -> None:
        pass

    def pictures(self, wanted: Mapping[int, str]) -> Iterator[tuple[Origin, bytes]]:
        for index, file in wanted.items():
            data = self.generation(index).model_dump_json().encode()
            yield Origin(file=file, sha256=sha256_bytes(data), generation=self.generation(index)), data


@pytest.fixture
def painted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "create", Painter)


def prompt_of(workspace: Workspace, style: str) -> str | None:
    generation = read_origins(workspace.style(style) / "raw" / "origin.jsonl")[0].generation
    assert generation is not None
    return generation.prompt


def test_a_phrase_whose_model_cannot_be_had_fails_with_the_mend_and_draws_nothing(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, empty_home: Path
):
    monkeypatch.setenv("STYLEKIT_OFFLINE", "1")
    for phrase in ("moebius style", "archer style"):
        with pytest.raises(GenerationError) as caught:
            gen_data(phrase, style="s", workspace=workspace)
        name = "clipart" if phrase == "archer style" else BASE_MODEL
        assert caught.value.message == f"The model {name} is not on this machine, and STYLEKIT_OFFLINE is set."
        assert "unset STYLEKIT_OFFLINE" in caught.value.hint
        assert "stylekit gen-data --style NAME --engine dicebear --model toon-head" in caught.value.hint.splitlines()[-1]
    assert not (workspace.root / "datasets").exists()
    assert workspace.current_style() is None


@pytest.mark.usefixtures("painted")
def test_nothing_said_is_the_demo_and_says_so_then_the_current_style(workspace: Workspace):
    first = gen_data(workspace=workspace, count=2, align=False)
    assert (first.style, first.made) == ("toon-head", 2)
    assert "demo" in first.note
    assert workspace.current_style() == "toon-head"
    second = gen_data(workspace=workspace, count=3, align=False)
    assert (second.style, second.made, second.kept, second.note) == ("toon-head", 1, 2, "")


@pytest.mark.usefixtures("painted")
def test_prompt_names_the_style_and_finds_the_recipe_of_that_name(workspace: Workspace):
    assert gen_data("Archer style", workspace=workspace, count=1, align=False).style == "archer-style"
    assert prompt_of(workspace, "archer-style") == "archer style, a portrait painting of {person}"
    assert gen_data("ink wash", workspace=workspace, style="sumi", count=1, align=False).style == "sumi"
    assert prompt_of(workspace, "sumi") == "ink wash, a portrait painting of {person}"
    assert workspace.current_style() == "sumi"


@pytest.mark.usefixtures("painted")
def test_prompt_in_another_script_needs_a_name_for_the_style_and_works_with_one(workspace: Workspace):
    with pytest.raises(UsageError, match="动漫风") as caught:
        gen_data("动漫风", workspace=workspace, count=1, align=False)
    assert "stylekit gen-data PROMPT --style NAME" in caught.value.hint
    assert not (workspace.root / "datasets").exists()
    assert gen_data("动漫风", workspace=workspace, style="anime", count=1, align=False).style == "anime"
    assert prompt_of(workspace, "anime") == "动漫风, a portrait painting of {person}"


@pytest.mark.usefixtures("painted")
def test_nothing_is_left_of_a_try_that_made_nothing(workspace: Workspace, monkeypatch: pytest.MonkeyPatch):
    def unreachable(self: Painter, wanted: Mapping[int, str]) -> Iterator[tuple[Origin, bytes]]:
        raise GenerationError("no hub")
        yield

    monkeypatch.setattr(Painter, "pictures", unreachable)
    with pytest.raises(GenerationError, match="no hub"):
        gen_data("archer style", workspace=workspace)
    assert not any(workspace.root.iterdir())


@pytest.mark.usefixtures("painted")
def test_every_flag_reaches_the_recipe_and_the_recipe_is_kept(workspace: Workspace, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(workspace.root)
    monkeypatch.setattr(prepare_module, "align", lambda *_, **__: None)
    flags = (
        "--engine modelscope --lora a.safetensors:0.5 --lora me/b --people balanced --negative text -n 2 --steps 7 "
        "--guidance 3.5 --scheduler DDIMScheduler --size 64 --batch-size 2 --precision fp32 --memory slice "
        "--seed 5 --processes 1 --set generate.revision=r"
    )
    assert run(["gen-data", "watercolor style", "--style", "w", *flags.split()]) == 0
    kept = style_recipe("w", workspace=workspace)
    assert kept.seed == 5
    assert kept.generate == GenerateRecipe(
        engine="modelscope",
        model="watercolor",
        revision="r",
        lora=("a.safetensors:0.5", "me/b"),
        prompt="sks style, a painting of a {person}, no text",
        negative="text",
        count=2,
        steps=7,
        guidance=3.5,
        scheduler="DDIMScheduler",
        size=64,
        precision="fp32",
        memory="slice",
        batch_size=2,
    )
    assert run(["gen-data", "ink style", "--from-photos", "photos", "--model", "m", "--strength", "0.3"]) == 0
    edit = style_recipe("ink-style", workspace=workspace).generate
    assert (edit.engine, edit.from_photos, edit.strength) == ("edit", "photos", 0.3)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--engine dicebear --model toon-head --lora nothing --people nofile --strength 0.3", "lora, people, strength."),
        ("--engine folder --model . --count 3", "count."),
        ("--engine edit --from-photos p --model folder:mine --steps 5 --size 64", "steps."),
        ("--engine edit --from-photos p --model m --people balanced --strength 0.5 --set generate.options.a=1", "people."),
        ("--model m --strength 0.3", "strength."),
    ],
)
@pytest.mark.usefixtures("painted")
def test_settings_that_the_engine_would_pass_over_are_refused(
    flags: str, said: str, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(workspace.root)
    assert run(["gen-data", "--style", "s", *flags.split()]) == 2
    assert f"does not read {said}" in capsys.readouterr().err
    assert not any(workspace.root.iterdir())


@pytest.mark.usefixtures("painted")
def test_pictures_of_a_larger_count_are_kept_and_said_and_no_usable_face_is_a_failure(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    page = {"contact_sheet": Path("sheet.jpg"), "page": Path("page.html")}
    aligned = SimpleNamespace(pictures=6, used=0, rejected=6, unreadable={}, reasons={"no face": 6}, **page)
    monkeypatch.chdir(workspace.root)
    monkeypatch.setattr(prepare_module, "align", lambda *_, **__: aligned)
    monkeypatch.setattr(Painter, "note", "6 of 9 are taken")
    assert run(["gen-data", "ink wash", "--model", "m", "-n", "6"]) == 3
    out, said = capsys.readouterr()
    assert "6 of 9 are taken" in said
    assert "left out, no face: 6" in out
    assert "No face can be used" in out
    assert "more from before" not in out
    aligned.used = 6
    assert run(["gen-data", "ink wash", "--model", "m", "-n", "3"]) == 0
    out = capsys.readouterr().out
    assert "3 kept" in out
    assert "3 more from before are kept and used too; --fresh makes 3 alone" in out


def test_prompt_for_an_engine_that_cannot_read_it_is_refused(workspace: Workspace):
    with pytest.raises(UsageError, match="no use for a prompt"):
        gen_data("ink wash", workspace=workspace, style="toon-head")


@pytest.mark.usefixtures("painted")
def test_pictures_of_another_model_are_not_mixed_in(workspace: Workspace, monkeypatch: pytest.MonkeyPatch):
    recipe = Recipe(style="s", generate=GenerateRecipe(model="m", prompt="p", count=2))
    gen_data(recipe=recipe, workspace=workspace, align=False)
    paint = Painter.pictures

    def of_another_revision(self: Painter, wanted: Mapping[int, str]) -> Iterator[tuple[Origin, bytes]]:
        for origin, data in paint(self, wanted):
            assert origin.generation is not None
            yield origin.model_copy(update={"generation": origin.generation.model_copy(update={"revision": "b"})}), data

    monkeypatch.setattr(Painter, "pictures", of_another_revision)
    with pytest.raises(GenerationError, match="with the revision None, and now it would be b"):
        gen_data(recipe=recipe, workspace=workspace, count=4, align=False)
    assert [origin.file for origin in read_origins(workspace.style("s") / "raw" / "origin.jsonl")] == ["0.png", "1.png"]
    assert gen_data(recipe=recipe, workspace=workspace, count=4, resume=False, align=False).made == 4


@pytest.mark.usefixtures("painted")
def test_a_second_gen_data_in_the_same_folder_is_refused(workspace: Workspace):
    recipe = Recipe(style="s", generate=GenerateRecipe(model="m", prompt="p", count=1))
    with exclusive(workspace.style("s") / "raw"), pytest.raises(GenerationError, match=r"Another gen-data is at work in .*raw"):
        gen_data(recipe=recipe, workspace=workspace, align=False)
    assert gen_data(recipe=recipe, workspace=workspace, align=False).made == 1


@pytest.mark.usefixtures("painted")
def test_other_settings_are_refused_unless_begun_anew(workspace: Workspace):
    recipe = Recipe(style="s", generate=GenerateRecipe(model="m", prompt="p", count=3))
    gen_data(recipe=recipe, workspace=workspace, align=False)
    (workspace.style("s") / "raw" / "mine.png").write_bytes(b"mine")
    with pytest.raises(GenerationError, match=r"other settings \(seed\)"):
        gen_data(recipe=recipe, workspace=workspace, seed=9, align=False)
    report = gen_data(recipe=recipe, workspace=workspace, seed=9, count=2, resume=False, align=False)
    assert (report.made, report.kept) == (2, 0)
    assert sorted(p.name for p in (report.folder / "raw").iterdir()) == ["0.png", "1.png", "mine.png", "origin.jsonl"]


@pytest.mark.usefixtures("painted")
def test_beginning_anew_loses_nothing_if_nothing_can_be_made(workspace: Workspace, monkeypatch: pytest.MonkeyPatch):
    recipe = Recipe(style="s", generate=GenerateRecipe(model="m", prompt="p", count=3))
    gen_data(recipe=recipe, workspace=workspace, align=False)

    def unreachable(self: Painter, wanted: Mapping[int, str]) -> Iterator[tuple[Origin, bytes]]:
        raise GenerationError("no hub")
        yield

    monkeypatch.setattr(Painter, "pictures", unreachable)
    with pytest.raises(GenerationError, match="no hub"):
        gen_data(recipe=recipe, workspace=workspace, resume=False, align=False)
    assert (workspace.style("s") / "raw" / "2.png").is_file()


@pytest.mark.usefixtures("painted")
def test_stopping_keeps_what_is_made_and_going_on_makes_the_rest(workspace: Workspace, monkeypatch: pytest.MonkeyPatch):
    recipe = Recipe(style="s", generate=GenerateRecipe(model="m", prompt="p", count=5))
    paint = Painter.pictures

    def until_stopped(self: Painter, wanted: Mapping[int, str]) -> Iterator[tuple[Origin, bytes]]:
        for number, picture in enumerate(paint(self, wanted)):
            if number == 2:
                raise KeyboardInterrupt
            yield picture

    monkeypatch.setattr(Painter, "pictures", until_stopped)
    with pytest.raises(Interrupted, match="2 new pictures"):
        gen_data(recipe=recipe, workspace=workspace, align=False)
    monkeypatch.setattr(Painter, "pictures", paint)
    report = gen_data(recipe=recipe, workspace=workspace, align=False)
    assert (report.made, report.kept) == (3, 2)


@pytest.mark.usefixtures("painted")
def test_picture_the_engine_leaves_out_is_named(workspace: Workspace, monkeypatch: pytest.MonkeyPatch):
    paint = Painter.pictures

    def all_but_one(self: Painter, wanted: Mapping[int, str]) -> Iterator[tuple[Origin, bytes]]:
        yield from (picture for picture in paint(self, wanted) if picture[0].file != "1.png")
        self.left_out["1.png"] = "it would not"

    monkeypatch.setattr(Painter, "pictures", all_but_one)
    report = gen_data(
        recipe=Recipe(style="s", generate=GenerateRecipe(model="m", prompt="p", count=3)), workspace=workspace, align=False
    )
    assert (report.made, report.skipped) == (2, {"1.png": "it would not"})


@pytest.mark.usefixtures("painted")
def test_the_command_says_what_was_left_out_why_and_what_it_is_trained_against(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def nothing(self: Painter, wanted: Mapping[int, str]) -> Iterator[tuple[Origin, bytes]]:
        self.left_out |= {file: f"{file} would not" for file in wanted.values()}
        yield from ()

    page = {"contact_sheet": Path("sheet.jpg"), "page": Path("page.html")}
    aligned = SimpleNamespace(pictures=25, used=25, rejected=0, unreadable={}, reasons={}, **page)
    monkeypatch.chdir(workspace.root)
    monkeypatch.setattr(Painter, "pictures", nothing)
    monkeypatch.setattr(prepare_module, "align", lambda *_, **__: aligned)
    assert run(["gen-data", "ink wash", "--model", "m", "-n", "25"]) == 3
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "ink-wash: 0 pictures made, 0 kept, 25 left out; datasets/ink-wash"
    assert "It is trained against the starter photographs; add your own with: stylekit data add DIR" in lines
    assert [line for line in lines if line.startswith("left out")] == [
        *(f"left out: {index}.png would not" for index in sorted(range(25), key=lambda index: f"{index}.png")[:20]),
        "left out: 5 more; --json lists them all",
    ]
    assert run(["gen-data", "ink wash", "--model", "m", "-n", "25", "--set", "photos.source=mine"]) == 3
    assert "trained against" not in capsys.readouterr().out


def test_own_pictures_are_copied_and_a_changed_one_again(workspace: Workspace, tmp_path: Path):
    mine = tmp_path / "mine"
    for name, level in (("a.png", 10), ("b/c.png", 20)):
        write_image(mine / name, np.full((8, 8, 3), level, np.uint8))
    recipe = Recipe(style="own", generate=GenerateRecipe(engine="folder", model=str(mine)))
    report = gen_data(recipe=recipe, workspace=workspace, align=False)
    assert (report.made, report.kept) == (2, 0)
    write_image(mine / "a.png", np.full((8, 8, 3), 99, np.uint8))
    report = gen_data(recipe=recipe, workspace=workspace, align=False)
    assert (report.made, report.kept) == (1, 1)
    assert (report.folder / "raw" / "a.png").read_bytes() == (mine / "a.png").read_bytes()
    assert (mine / "b" / "c.png").is_file()


def own(folder: Path) -> Recipe:
    return Recipe(style="own", generate=GenerateRecipe(engine="folder", model=str(folder)))


def test_own_pictures_that_are_gone_go_from_the_style_and_those_it_did_not_copy_stay(workspace: Workspace, tmp_path: Path):
    mine, other = tmp_path / "mine", tmp_path / "other"
    for path, level in ((mine / "a.png", 10), (mine / "b/c.png", 20), (other / "a.png", 30), (other / "d.png", 40)):
        write_image(path, np.full((8, 8, 3), level, np.uint8))
    raw = gen_data(recipe=own(mine), workspace=workspace, align=False).folder / "raw"
    write_image(raw / "put here.png", np.full((8, 8, 3), 50, np.uint8))
    (mine / "b/c.png").unlink()
    report = gen_data(recipe=own(mine), workspace=workspace, align=False)
    assert (report.made, report.kept) == (0, 1)
    assert [path.relative_to(raw).as_posix() for path in list_images(raw)] == ["a.png", "put here.png"]
    gen_data(recipe=own(other), workspace=workspace, align=False)
    assert [path.relative_to(raw).as_posix() for path in list_images(raw)] == ["a.png", "d.png", "put here.png"]
    assert (raw / "a.png").read_bytes() == (other / "a.png").read_bytes()
    assert {origin.file for origin in read_origins(raw / "origin.jsonl")} == {"a.png", "d.png"}


def test_own_pictures_leave_generated_ones_alone(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_image(tmp_path / "mine" / "a.png", np.full((8, 8, 3), 10, np.uint8))
    with monkeypatch.context() as patched:
        patched.setattr(api, "create", Painter)
        drawn = Recipe(style="own", generate=GenerateRecipe(model="m", prompt="p", count=1))
        raw = gen_data(recipe=drawn, workspace=workspace, align=False).folder / "raw"
    gen_data(recipe=own(tmp_path / "mine"), workspace=workspace, align=False)
    assert (raw / "0.png").is_file()


@pytest.mark.usefixtures("asset_home")
def test_manifest_and_crops_follow_the_folder(workspace: Workspace, tmp_path: Path):
    drawn = Recipe(style="toons", generate=GenerateRecipe(engine="dicebear", model="toon-head", count=3))
    made = gen_data(recipe=drawn, workspace=workspace, align=False).folder / "raw"
    mine = tmp_path / "mine"
    for picture in list_images(made):
        write_image(mine / picture.name, read_rgb(picture))
    recipe = own(mine).model_copy(update={"photos": drawn.photos.model_copy(update={"source": str(mine)})})
    prepare(recipe, workspace=workspace)
    folder, photos = workspace.style("own"), workspace.photo_set(str(mine))
    for manifest in (folder / "manifest.jsonl", photos / "manifest.jsonl"):
        assert len(read_manifest(manifest)) == 3
    (mine / "000001.png").unlink()
    prepare(recipe, workspace=workspace)
    assert [line.input for line in read_manifest(folder / "manifest.jsonl")] == ["raw/000000.png", "raw/000002.png"]
    assert [crop.name for crop in list_images(folder / "cartoon")] == ["000000.png", "000002.png"]
    assert len(read_manifest(photos / "manifest.jsonl")) == 2


def test_folder_without_pictures_is_refused(workspace: Workspace, tmp_path: Path):
    for model in (None, str(tmp_path / "nowhere")):
        with pytest.raises(GenerationError if model else UsageError):
            gen_data(recipe=Recipe(style="own", generate=GenerateRecipe(engine="folder", model=model)), workspace=workspace)


@pytest.mark.usefixtures("asset_home")
def test_drawn_faces_end_up_aligned_with_their_provenance(workspace: Workspace):
    recipe = Recipe(style="toons", generate=GenerateRecipe(engine="dicebear", model="toon-head", count=3))
    report = gen_data(recipe=recipe, workspace=workspace)
    assert report.aligned is not None
    assert report.manifest is not None
    assert report.contact_sheet is not None
    assert report.contact_sheet.is_file()
    lines = read_manifest(report.manifest)
    assert [line.input for line in lines] == ["raw/000000.png", "raw/000001.png", "raw/000002.png"]
    assert {line.licence for line in lines} == {"CC-BY-4.0"}
    assert all(line.generation is not None and line.status == "used" and line.split == "train" for line in lines)
    again = gen_data(recipe=recipe, workspace=workspace)
    assert again.aligned is not None
    assert (again.made, again.kept, again.aligned.changed) == (0, 3, 0)


@pytest.mark.usefixtures("empty_home")
def test_modelscopes_models_paint_with_their_own_prompt_and_are_named_by_id(workspace: Workspace, tmp_path: Path):
    assets.add("cartoon-diffusion", write_model(tmp_path / "tiny"), "cartoon-diffusion-design")
    (tmp_path / "names.txt").write_text("Ada Lovelace\n")
    generate = GenerateRecipe(engine="modelscope", model="design", people=str(tmp_path / "names.txt"), count=2, steps=1, size=64)
    recipe = Recipe(style="s", generate=generate)
    report = gen_data(recipe=recipe, workspace=workspace, align=False)
    assert (report.made, report.skipped) == (2, {})
    generations = [origin.generation for origin in read_origins(report.folder / "raw" / "origin.jsonl")]
    for generation in generations:
        assert generation is not None
        assert (generation.engine, generation.model) == ("modelscope", "damo/cv_cartoon_stable_diffusion_design")
        assert (generation.revision or "").startswith(("v1.0.0", "sha256:"))
        assert generation.prompt == "sks style, a painting of a Ada Lovelace, no text"
        assert generation.scheduler == "EulerAncestralDiscreteScheduler"
        assert str(tmp_path) not in generation.model_dump_json()
    assert gen_data(recipe=recipe, workspace=workspace, count=3, align=False).made == 1
    assert remake([report.folder / "raw" / "000002.png"], tmp_path / "again")[0].identical
