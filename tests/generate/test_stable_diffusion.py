"""Engine `diffusers`, with a Stable Diffusion of the true format and a few thousand weights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stylekit.config.schema import GenerateRecipe, Recipe
from stylekit.errors import GenerationError, MissingPartError
from stylekit.generate.api import gen_data
from stylekit.generate.people import describe
from stylekit.generate.prompts import picture_seed
from stylekit.generate.stable_diffusion import StableDiffusion
from stylekit.images import read_rgb
from stylekit.paths import Workspace


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tiny-stable-diffusion"))


def write_model(folder: Path, **form: Any) -> Path:
    """Write the model as `save_pretrained` does, in the form that its own options name."""
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    import torch

    torch.manual_seed(0)
    alphabet = [chr(code) for code in range(256)]
    words = [*alphabet, *(f"{letter}</w>" for letter in alphabet), "<|startoftext|>", "<|endoftext|>"]
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=8,
        norm_num_groups=8,
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(16, 32, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=8,
        latent_channels=4,
        sample_size=64,
    )
    text = transformers.CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
    )
    pipeline = diffusers.StableDiffusionPipeline(
        vae=vae,
        text_encoder=transformers.CLIPTextModel(text),
        tokenizer=transformers.CLIPTokenizer(
            vocab={word: place for place, word in enumerate(words)}, merges=[], model_max_length=77
        ),
        unet=unet,
        scheduler=diffusers.PNDMScheduler(steps_offset=1, skip_prk_steps=True),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, **form)
    return folder


def painted(model: Path | str, **changes: Any) -> GenerateRecipe:
    settings = {"model": str(model), "prompt": "ink style, {person}", "size": 64, "steps": 3, "count": 5, **changes}
    return GenerateRecipe(engine="diffusers", **settings)


def pictures(recipe: GenerateRecipe, seed: int = 0, indices: range | None = None) -> dict[str, bytes]:
    wanted = {index: f"{index}.png" for index in indices or range(recipe.count)}
    return {origin.file: data for origin, data in StableDiffusion(recipe, seed).pictures(wanted)}


def test_pictures_carry_what_makes_them_again(model: Path):
    recipe = painted(model, negative="text", count=1)
    ((origin, data),) = StableDiffusion(recipe, 4).pictures({0: "a.png"})
    assert read_rgb(data).shape == (64, 64, 3)
    generation = origin.generation
    assert generation is not None
    assert generation.prompt == f"ink style, {describe(4, 0)}"
    assert generation.seed == picture_seed(4, 0)
    assert (generation.scheduler, generation.steps, generation.guidance) == ("EulerAncestralDiscreteScheduler", 3, 7.5)
    assert generation.versions.keys() == {"diffusers", "transformers", "torch"}


def test_settings_reach_the_picture(model: Path):
    plain = pictures(painted(model, count=1))
    for changes in ({"scheduler": "DDIMScheduler"}, {"steps": 4}, {"guidance": 1.0}, {"negative": "hat"}, {"prompt": "oil"}):
        assert pictures(painted(model, count=1, **changes)) != plain, changes
    assert pictures(painted(model, count=1), seed=1) != plain


def test_going_on_paints_the_same_batches_and_gives_the_very_same_pictures(model: Path, monkeypatch: pytest.MonkeyPatch):
    import diffusers

    call = diffusers.StableDiffusionPipeline.__call__
    batches: list[list[str]] = []

    def watched(self: Any, *args: Any, prompt: list[str], **kwargs: Any) -> Any:
        batches.append(prompt)
        return call(self, *args, prompt=prompt, **kwargs)

    monkeypatch.setattr(diffusers.StableDiffusionPipeline, "__call__", watched)
    recipe = painted(model, batch_size=2)
    whole = pictures(recipe)
    assert list(whole) == [f"{index}.png" for index in range(5)]
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert pictures(recipe, indices=range(3, 5)) == {name: whole[name] for name in ("3.png", "4.png")}
    assert batches[3:] == batches[1:3]


def test_batch_size_changes_no_more_than_rounding(model: Path):
    one, three = pictures(painted(model)), pictures(painted(model, batch_size=3))
    for name, data in one.items():
        assert np.abs(read_rgb(data).astype(int) - read_rgb(three[name])).max() <= 1


def test_what_the_safety_checker_blacks_out_is_left_out(model: Path, monkeypatch: pytest.MonkeyPatch):
    import diffusers

    call = diffusers.StableDiffusionPipeline.__call__

    def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = call(self, *args, **kwargs)
        output.nsfw_content_detected = [True, False]
        return output

    monkeypatch.setattr(diffusers.StableDiffusionPipeline, "__call__", checked)
    assert list(pictures(painted(model, count=2, batch_size=2))) == ["1.png"]


def test_whole_command_with_resume(model: Path, tmp_path: Path):
    recipe = Recipe(style="ink", generate=painted(model, count=2))
    workspace = Workspace(tmp_path)
    assert gen_data(recipe=recipe, workspace=workspace, align=False).made == 2
    report = gen_data(recipe=recipe, workspace=workspace, count=3, align=False)
    assert (report.made, report.kept) == (1, 2)


def test_mistyped_scheduler_is_named(model: Path):
    with pytest.raises(GenerationError, match="or EulerAncestralDiscreteScheduler"):
        pictures(painted(model, scheduler="EulerAncestralScheduler"))


def test_folder_that_is_no_model_is_named(tmp_path: Path):
    pytest.importorskip("diffusers", reason="diffusers is not installed")
    with pytest.raises(GenerationError, match=r"model_index\.json"):
        pictures(painted(tmp_path))
    with pytest.raises(GenerationError, match="no model folder"):
        pictures(painted(tmp_path / "nowhere"))


def test_missing_diffusers_is_named_with_its_install_command(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(MissingPartError, match=r"stylekit\[gen\]"):
        pictures(painted("artist/model"))


def test_closed_hub_is_explained(tmp_path: Path):
    pytest.importorskip("diffusers", reason="diffusers is not installed")
    script = "from stylekit.generate.api import gen_data; gen_data('archer style', align=False)"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    *_, message = done.stderr.strip().splitlines()
    assert "GenerationError: The model nitrosocke/archer-diffusion cannot be had from the hub" in message
    for mend in ("--model", "HF_ENDPOINT", "--engine dicebear"):
        assert mend in message
    assert not (tmp_path / "datasets" / "archer-style" / "cartoon").exists()
    assert not list(tmp_path.rglob("*.png"))


def test_offline_no_hub_is_asked(monkeypatch: pytest.MonkeyPatch):
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    asked: dict[str, Any] = {}

    def from_pretrained(name: str, **settings: Any) -> Any:
        asked.update(settings)
        raise OSError("not cached")

    monkeypatch.setattr(diffusers.DiffusionPipeline, "from_pretrained", from_pretrained)
    monkeypatch.setenv("STYLEKIT_OFFLINE", "1")
    with pytest.raises(GenerationError, match="STYLEKIT_OFFLINE"):
        pictures(painted("owner/model", count=1))
    assert asked["local_files_only"] is True
    monkeypatch.delenv("STYLEKIT_OFFLINE")
    with pytest.raises(GenerationError, match="from the hub"):
        pictures(painted("owner/model", count=1))
    assert asked["local_files_only"] is False
