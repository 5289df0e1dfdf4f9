"""Engine `diffusers`, with models of the true formats and a few thousand weights."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stylekit.config.schema import GenerateRecipe, Recipe
from stylekit.data.manifest import Generation, Origin, read_origins
from stylekit.errors import GenerationError, MissingPartError, UsageError
from stylekit.generate.api import gen_data
from stylekit.generate.people import describe
from stylekit.generate.prompts import picture_seed
from stylekit.generate.stable_diffusion import StableDiffusion, remake
from stylekit.images import read_rgb
from stylekit.paths import Workspace, sha256_bytes
from tests.generate.models import write_lora, write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tiny-stable-diffusion"))


@pytest.fixture(scope="module")
def lora(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lora(tmp_path_factory.mktemp("lora") / "ink.safetensors", model)


def painted(model: Path | str, **changes: Any) -> GenerateRecipe:
    settings = {"model": str(model), "prompt": "ink, {person}", "size": 64, "steps": 2, "count": 5, "batch_size": 1, **changes}
    return GenerateRecipe(engine="diffusers", **settings)


def paint(recipe: GenerateRecipe, seed: int = 0, indices: range | None = None) -> list[tuple[Origin, bytes]]:
    wanted = {index: f"{index}.png" for index in indices or range(recipe.count)}
    return list(StableDiffusion(recipe, seed).pictures(wanted))


def pictures(recipe: GenerateRecipe, seed: int = 0, indices: range | None = None) -> dict[str, bytes]:
    return {origin.file: data for origin, data in paint(recipe, seed, indices)}


def record(recipe: GenerateRecipe, index: int = 0) -> Generation:
    ((origin, _),) = StableDiffusion(recipe, 0).pictures({index: "a.png"})
    assert origin.generation is not None
    return origin.generation


def test_pictures_carry_what_makes_them_again(model: Path):
    ((origin, data),) = paint(painted(model, negative="text", count=1), seed=4)
    assert read_rgb(data).shape == (64, 64, 3)
    assert origin.sha256 == sha256_bytes(data)
    generation = origin.generation
    assert generation is not None
    assert (generation.engine, generation.model, generation.negative) == ("diffusers", str(model), "text")
    assert generation.prompt == f"ink, {describe(4, 0)}"
    assert generation.seed == picture_seed(4, 0)
    assert (generation.scheduler, generation.steps, generation.guidance) == ("EulerAncestralDiscreteScheduler", 2, 7.5)
    assert generation.revision is not None
    assert generation.revision.startswith("sha256:")
    assert {"size": 64, "precision": "fp32", "batch_size": 1, "batch_place": 0}.items() <= generation.options.items()
    assert generation.versions.keys() == {"diffusers", "transformers", "torch"}


@pytest.mark.slow
def test_settings_reach_the_picture(model: Path, lora: Path):
    plain = pictures(painted(model, count=1))
    for changes in (
        {"scheduler": "DDIMScheduler"},
        {"steps": 3},
        {"guidance": 1.0},
        {"negative": "hat"},
        {"prompt": "oil"},
        {"precision": "bf16"},
        {"lora": (str(lora),)},
    ):
        assert pictures(painted(model, count=1, **changes)) != plain, changes
    assert pictures(painted(model, count=1), seed=1) != plain


@pytest.mark.parametrize(
    ("family", "batch_size"),
    [
        ("sd", 3),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("sd", 1), ("sdxl", 1), ("sdxl", 3), ("sd3", 1), ("sd3", 3), ("flux", 1), ("flux", 3))
        ),
    ],
)
def test_every_family_paints_and_paints_the_same_again(family: str, batch_size: int, tmp_path: Path):
    recipe = painted(write_model(tmp_path, family), count=4, batch_size=batch_size)
    made = paint(recipe)
    assert [origin.file for origin, _ in made] == ["0.png", "1.png", "2.png", "3.png"]
    assert len({data for _, data in made}) == 4
    for origin, data in made:
        assert origin.generation is not None
        assert remake(Generation.model_validate_json(origin.generation.model_dump_json())) == data
        assert read_rgb(data).std() > 20


@pytest.mark.slow
def test_lora_is_laid_on_as_strongly_as_its_weight_says_and_made_again(model: Path, lora: Path):
    plain, half, whole = (
        read_rgb(pictures(painted(model, count=1, lora=loras))["0.png"]).astype(int)
        for loras in ((), (f"{lora}:0.02",), (f"{lora}",))
    )
    assert 0 < np.abs(half - plain).mean() < np.abs(whole - plain).mean()
    ((origin, data),) = paint(painted(model, count=1, scheduler="DDIMScheduler", lora=(f"{lora}:0.5", f"{lora}:-0.25")))
    generation = origin.generation
    assert generation is not None
    assert generation.lora == (f"{lora}:0.5", f"{lora}:-0.25")
    assert generation.options["lora_sha256"] == [sha256_bytes(lora.read_bytes())] * 2
    assert "peft" in generation.versions
    assert remake(generation) == data


def test_what_is_no_more_what_it_was_is_not_painted_again(tmp_path: Path):
    model = write_model(tmp_path / "model")
    lora = write_lora(tmp_path / "ink.safetensors", model)
    generation = record(painted(model, lora=(str(lora),)))
    write_lora(lora, model, seed=2)
    with pytest.raises(GenerationError, match=r"ink\.safetensors is not the LoRA") as caught:
        remake(generation)
    assert str(generation.options["lora_sha256"][0]) in caught.value.hint
    write_lora(lora, model)
    remake(generation)
    weights = next((model / "vae").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(GenerationError, match="not those that painted"):
        remake(generation.model_copy(update={"options": generation.options | {"precision": "bf16"}}))


def test_a_record_holds_in_every_folder_and_says_what_to_bring_back(
    model: Path, lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    recipe = painted(os.path.relpath(model), lora=(f"{os.path.relpath(lora)}:0.5",))
    engine = StableDiffusion(recipe, 0)
    generation = engine.generation(0).model_copy(update={"revision": "sha256:0"})
    assert (generation.model, generation.lora) == (str(model), (f"{lora}:0.5",))
    assert engine.changed(0, generation.model_copy(update={"model": recipe.model, "lora": recipe.lora})) == []
    monkeypatch.chdir("/")
    assert StableDiffusion(painted(model, lora=(f"{lora}:0.5",)), 0).changed(0, generation) == []
    for gone, hint in (
        ({"model": str(tmp_path / "gone")}, "sha256:0"),
        ({"lora": (str(tmp_path / "gone.safetensors:0.5"),)}, sha256_bytes(lora.read_bytes())),
    ):
        with pytest.raises(GenerationError, match=f"{tmp_path}/gone.* that painted the picture is gone") as caught:
            remake(generation.model_copy(update=gone))
        assert hint in caught.value.hint
        assert "--" not in caught.value.hint


@pytest.mark.slow
def test_a_picture_is_made_again_from_another_folder(model: Path, lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    ((origin, data),) = paint(painted(os.path.relpath(model), lora=(f"{os.path.relpath(lora)}:0.5",), steps=1, count=1))
    assert (origin.asset, origin.licence) == (None, None)
    monkeypatch.chdir("/")
    assert origin.generation is not None
    assert remake(origin.generation) == data


def test_going_on_gives_the_very_same_pictures(model: Path):
    recipe = painted(model, batch_size=2)
    whole = pictures(recipe)
    assert list(whole) == [f"{index}.png" for index in range(5)]
    assert pictures(recipe, indices=range(3, 5)) == {name: whole[name] for name in ("3.png", "4.png")}
    assert pictures(painted(model, batch_size=2, count=9), indices=range(4, 5)) == {"4.png": whole["4.png"]}


@pytest.mark.slow
def test_batch_size_changes_no_more_than_rounding(model: Path):
    one, three = pictures(painted(model)), pictures(painted(model, batch_size=3))
    for name, data in one.items():
        assert np.abs(read_rgb(data).astype(int) - read_rgb(three[name])).max() <= 1


@pytest.mark.slow
def test_out_of_memory_halves_the_batch_and_the_set_is_whole(
    model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    import diffusers
    import torch

    call = diffusers.StableDiffusionPipeline.__call__

    def small(self: Any, *args: Any, prompt: list[str], **kwargs: Any) -> Any:
        if len(prompt) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return call(self, *args, prompt=prompt, **kwargs)

    monkeypatch.setattr(diffusers.StableDiffusionPipeline, "__call__", small)
    monkeypatch.setattr("stylekit.generate.pipelines.Loaded.accepts", lambda self, name: True)
    halved = paint(painted(model, batch_size=4))
    assert "Out of memory with 4 pictures at once; going on with 2 at once." in caplog.messages
    monkeypatch.undo()
    assert {origin.file: data for origin, data in halved} == pictures(painted(model, batch_size=2))
    assert {origin.generation.options["batch_size"] for origin, _ in halved if origin.generation} == {2}


@pytest.mark.slow
def test_slices_change_no_more_than_rounding_and_are_recorded(model: Path):
    ((origin, data),) = paint(painted(model, count=1, memory="slice"))
    (plain,) = pictures(painted(model, count=1)).values()
    assert np.abs(read_rgb(data).astype(int) - read_rgb(plain)).max() <= 1
    assert origin.generation is not None
    assert origin.generation.options["memory"] == "slice"
    assert remake(origin.generation) == data


@pytest.mark.slow
def test_what_the_safety_checker_blacks_out_is_painted_from_another_seed(model: Path, monkeypatch: pytest.MonkeyPatch):
    import diffusers

    call = diffusers.StableDiffusionPipeline.__call__

    def checked(self: Any, *args: Any, generator: list[Any], **kwargs: Any) -> Any:
        output = call(self, *args, generator=generator, **kwargs)
        output.nsfw_content_detected = [each.initial_seed() == picture_seed(0, 1) for each in generator]
        return output

    with monkeypatch.context() as patched:
        patched.setattr(diffusers.StableDiffusionPipeline, "__call__", checked)
        patched.setattr("stylekit.generate.pipelines.Loaded.accepts", lambda self, name: True)
        made = {origin.file: (origin.generation, data) for origin, data in paint(painted(model, count=2, batch_size=2))}
    generation, data = made["1.png"]
    assert generation is not None
    assert (generation.seed, generation.options["attempt"]) == (picture_seed(0, 1, 1), 1)
    assert generation.prompt == f"ink, {describe(0, 1)}"
    assert remake(generation) == data
    assert StableDiffusion(painted(model, count=2), 0).changed(1, generation) == []


@pytest.mark.slow
def test_what_the_safety_checker_always_blacks_out_is_left_out_with_the_reason(model: Path, monkeypatch: pytest.MonkeyPatch):
    import diffusers

    call = diffusers.StableDiffusionPipeline.__call__

    def checked(self: Any, *args: Any, generator: list[Any], **kwargs: Any) -> Any:
        output = call(self, *args, generator=generator, **kwargs)
        output.nsfw_content_detected = [each.initial_seed() != picture_seed(0, 0) for each in generator]
        return output

    monkeypatch.setattr(diffusers.StableDiffusionPipeline, "__call__", checked)
    monkeypatch.setattr("stylekit.generate.pipelines.Loaded.accepts", lambda self, name: True)
    engine = StableDiffusion(painted(model, count=2, steps=1), 0)
    assert [origin.file for origin, _ in engine.pictures({0: "0.png", 1: "1.png"})] == ["0.png"]
    assert engine.left_out == {"1.png": "The model's safety checker blanked it 6 times."}


def test_changes_are_named_and_what_the_recipe_leaves_open_is_none(model: Path, lora: Path):
    recipe = painted(model, negative="text", lora=(f"{lora}:0.5",))
    made = record(recipe)

    def changed(**changes: Any) -> list[str]:
        asked = GenerateRecipe.model_validate(recipe.model_dump() | changes)
        return StableDiffusion(asked, 0).changed(0, made)

    for alike in ({}, {"count": 9}, {"batch_size": 4}, {"memory": "slice"}, {"scheduler": "EulerAncestralDiscreteScheduler"}):
        assert changed(**alike) == [], alike
    assert changed(precision="fp32") == []
    assert changed(lora=(f"{lora.parent}:0.5",)) == []  # the same file by another name
    for changes, names in (
        ({"model": "owner/other"}, ["model"]),
        ({"prompt": "oil, {person}"}, ["prompt"]),
        ({"negative": ""}, ["negative"]),
        ({"guidance": 1.0, "steps": 9}, ["steps", "guidance"]),
        ({"size": 128}, ["size"]),
        ({"scheduler": "DDIMScheduler"}, ["scheduler"]),
        ({"precision": "bf16"}, ["precision"]),
        ({"revision": "v2"}, ["revision"]),
        ({"lora": ()}, ["lora"]),
        ({"lora": (f"{lora}:0.6",)}, ["lora"]),
        ({"engine": "modelscope"}, ["engine"]),
    ):
        assert changed(**changes) == names, changes
    assert StableDiffusion(recipe, 1).changed(0, made) == ["prompt", "seed"]


def test_a_lora_of_the_hub_is_known_by_name_until_it_is_loaded(model: Path):
    asked = StableDiffusion(painted(model, lora=("owner/ink:0.5",)), 0)
    before = asked.generation(0)
    made = before.model_copy(update={"options": before.options | {"lora_sha256": ["0" * 64]}})
    assert asked.changed(0, made) == []
    assert StableDiffusion(painted(model, lora=("owner/oil:0.5",)), 0).changed(0, made) == ["lora"]


def test_a_lora_of_the_hub_is_recorded_with_the_digest_of_what_was_loaded(
    model: Path, lora: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("stylekit.generate.pipelines.Lora.fetch", lambda _: lora)
    assert record(painted(model, lora=("owner/ink:0.5",))).options["lora_sha256"] == [sha256_bytes(lora.read_bytes())]


def test_a_name_that_stands_for_a_model_and_a_tag_are_kept_beside_what_was_loaded(model: Path, monkeypatch: pytest.MonkeyPatch):
    from stylekit.generate import pipelines
    from stylekit.generate.known import Located

    monkeypatch.setattr(pipelines, "resolve", lambda name, recipe: Located(str(model), "owner/archer", "c0ffee"))
    recipe = painted("archer", revision="v1", prompt="archer style, {person}")
    made = record(recipe)
    assert (made.model, made.revision) == ("owner/archer", "c0ffee")
    assert (made.options["asked_model"], made.options["asked_revision"]) == ("archer", "v1")
    assert StableDiffusion(recipe, 0).changed(0, made) == []
    exact = painted("owner/archer", revision="c0ffee", prompt="archer style, {person}")
    assert StableDiffusion(exact, 0).changed(0, made) == []
    assert StableDiffusion(painted("archer", revision="v2", prompt="archer style, {person}"), 0).changed(0, made) == ["revision"]


def test_whole_command_with_resume(model: Path, tmp_path: Path):
    recipe = Recipe(style="ink", generate=painted(model, count=2))
    workspace = Workspace(tmp_path)
    assert gen_data(recipe=recipe, workspace=workspace, align=False).made == 2
    report = gen_data(recipe=recipe, workspace=workspace, count=3, align=False)
    assert (report.made, report.kept) == (1, 2)
    raw = workspace.style("ink") / "raw"
    for origin in read_origins(raw / "origin.jsonl"):
        assert origin.generation is not None
        assert remake(origin.generation) == (raw / origin.file).read_bytes()


def test_missing_parts_are_named_with_their_install_command(model: Path, lora: Path, monkeypatch: pytest.MonkeyPatch):
    for package, changes in (("peft", {"lora": (str(lora),)}), ("diffusers", {})):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MissingPartError, match=package) as caught:
            pictures(painted(model, **changes))
        assert "stylekit[gen]" in caught.value.hint


@pytest.mark.parametrize("missing", ["model", "prompt"])
def test_a_recipe_that_says_too_little_is_refused_before_anything_is_loaded(missing: str):
    with pytest.raises(UsageError, match=missing):
        StableDiffusion(painted("m").model_copy(update={missing: None}), 0)
