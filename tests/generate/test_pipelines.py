"""Loading a pipeline: from a folder, a hub's cache or one file, and what cannot be loaded."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from stylekit.config.schema import GenerateRecipe
from stylekit.errors import GenerationError
from stylekit.generate import pipelines
from stylekit.generate.known import HUB_TIMEOUT_S
from stylekit.generate.pipelines import Lora, guidance_arguments, load
from tests.generate.models import write_lora, write_model

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {family: write_model(folder / family, family) for family in ("sd", "sdxl", "flux")}


def recipe(**settings: Any) -> GenerateRecipe:
    return GenerateRecipe(**settings)


@pytest.mark.parametrize(
    ("text", "source", "weight"),
    [
        ("ink.safetensors", "ink.safetensors", 1.0),
        ("ink.safetensors:0.8", "ink.safetensors", 0.8),
        ("owner/name:-1", "owner/name", -1.0),
        ("owner/name/deep/ink.safetensors:.5", "owner/name/deep/ink.safetensors", 0.5),
        (r"C:\loras\ink.safetensors", r"C:\loras\ink.safetensors", 1.0),
        (r"C:\loras\ink.safetensors:0.25", r"C:\loras\ink.safetensors", 0.25),
        ("C:5", "C:5", 1.0),
        ("owner/name:nan", "owner/name:nan", 1.0),
    ],
)
def test_lora_and_its_weight_are_told_apart(text: str, source: str, weight: float):
    assert Lora.parse(text) == Lora(source, weight)


def test_a_file_whose_name_ends_like_a_weight_is_a_file(tmp_path: Path):
    file = tmp_path / "ink:0.5"
    file.write_bytes(b"")
    assert Lora.parse(str(file)) == Lora(str(file), 1.0)


def test_lora_folder_with_one_file_is_enough_with_more_a_name_is_needed(tmp_path: Path):
    (tmp_path / "README.md").touch()
    with pytest.raises(GenerationError, match="holds no LoRA"):
        Lora(str(tmp_path), 1).local()
    (tmp_path / "b.safetensors").touch()
    assert Lora(str(tmp_path), 1).local() == tmp_path / "b.safetensors"
    (tmp_path / "a.safetensors").touch()
    with pytest.raises(GenerationError, match=r"2 LoRAs: a\.safetensors, b\.safetensors"):
        Lora(str(tmp_path), 1).local()
    (tmp_path / "pytorch_lora_weights.safetensors").touch()
    assert Lora(str(tmp_path), 1).local() == tmp_path / "pytorch_lora_weights.safetensors"


def test_lora_of_a_hub_is_fetched_by_name_or_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import huggingface_hub

    fetched: list[tuple[str, str]] = []

    def download(repository: str, file: str, **settings: Any) -> str:
        fetched.append((repository, file))
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(pipelines, "_hub_files", lambda repository, revision: (["a.safetensors", "README.md"], None))
    Lora.parse("owner/ink:0.5").fetch()
    Lora.parse("owner/ink/deep/b.safetensors").fetch()
    assert fetched == [("owner/ink", "a.safetensors"), ("owner/ink", "deep/b.safetensors")]
    monkeypatch.setattr(pipelines, "_hub_files", lambda repository, revision: (["a.safetensors", "b.safetensors"], None))
    with pytest.raises(GenerationError, match="holds 2 LoRAs") as caught:
        Lora.parse("owner/ink").fetch()
    assert "owner/ink/FILE" in caught.value.hint


@pytest.mark.parametrize("name", ["nowhere.safetensors", "./nowhere/ink.safetensors", r"C:\nowhere\ink.safetensors"])
def test_lora_that_is_nowhere_is_named(name: str, models: dict[str, Path]):
    with pytest.raises(GenerationError, match="There is no LoRA"):
        load(str(models["sd"]), recipe(lora=(name,)))


@pytest.mark.slow
def test_lora_of_another_family_is_refused(models: dict[str, Path], tmp_path: Path):
    lora = write_lora(tmp_path / "ink.safetensors", models["sd"])
    for family, reason in (("sdxl", "its layers have other sizes"), ("flux", "none of its layers are the model's")):
        with pytest.raises(GenerationError, match=f"does not fit .*: {reason}"):
            load(str(models[family]), recipe(lora=(str(lora),)))
    lora.write_bytes(b"no weights")
    with pytest.raises(GenerationError, match="does not fit"):
        load(str(models["sd"]), recipe(lora=(str(lora),)))


def test_scheduler_is_the_model_cards_and_a_flowing_model_keeps_its_own(models: dict[str, Path]):
    assert load(str(models["sd"]), recipe()).scheduler == "EulerAncestralDiscreteScheduler"
    assert load(str(models["flux"]), recipe()).scheduler == "FlowMatchEulerDiscreteScheduler"
    assert load(str(models["sd"]), recipe(scheduler="DDIMScheduler")).scheduler == "DDIMScheduler"
    for family, scheduler in (("flux", "DDIMScheduler"), ("sd", "FlowMatchEulerDiscreteScheduler")):
        with pytest.raises(GenerationError, match=f"{scheduler} does not fit"):
            load(str(models[family]), recipe(scheduler=scheduler))
    with pytest.raises(GenerationError, match="has no scheduler") as caught:
        load(str(models["sd"]), recipe(scheduler="EulerAncestralScheduler"))
    assert "EulerAncestralDiscreteScheduler" in caught.value.hint


def test_distilled_model_keeps_its_own_scheduler(models: dict[str, Path]):
    pipeline = load(str(models["sd"]), recipe()).pipeline
    pipeline.scheduler = diffusers.LCMScheduler.from_config(pipeline.scheduler.config)
    pipelines._set_scheduler(diffusers, pipeline, "auto", "m")
    assert type(pipeline.scheduler) is diffusers.LCMScheduler


@pytest.mark.slow
def test_half_weights_are_read_when_they_are_there_and_wanted(models: dict[str, Path], tmp_path: Path):
    model = shutil.copytree(models["sd"], tmp_path / "model")
    plain = load(str(model), recipe())
    write_model(tmp_path / "half", variant="fp16")
    for file in (tmp_path / "half").rglob("*.fp16.*"):
        shutil.copy(file, model / file.relative_to(tmp_path / "half"))
    assert load(str(model), recipe()).revision == plain.revision
    half = load(str(model), recipe(precision="fp16"))
    assert half.revision != plain.revision
    assert (half.precision, str(half.pipeline.unet.dtype)) == ("fp16", "torch.float16")
    for file in model.rglob("*.safetensors"):
        if ".fp16." not in file.name:
            file.unlink()
    assert str(load(str(model), recipe()).pipeline.unet.dtype) == "torch.float32"  # only half weights are there


def test_revision_of_a_folder_is_the_digest_of_its_weights(models: dict[str, Path], tmp_path: Path):
    model = shutil.copytree(models["sd"], tmp_path / "model")
    first = load(str(model), recipe()).revision
    (model / "README.md").write_text("other words")
    (model / "scheduler" / "notes.png").write_bytes(b"x")
    assert first == load(str(models["sd"]), recipe()).revision == load(str(model), recipe(revision=first)).revision
    config = model / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace("0.02", "0.01"))
    with pytest.raises(GenerationError, match="not those that painted"):
        load(str(model), recipe(revision=first))


def test_hub_model_is_found_in_its_cache_and_named_by_its_commit(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import huggingface_hub.constants

    repository = tmp_path / "models--owner--tiny"
    shutil.copytree(models["sd"], repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("STYLEKIT_OFFLINE", "1")
    for precision in ("auto", "fp16"):
        assert load("owner/tiny", recipe(precision=precision)).revision == COMMIT
    with pytest.raises(GenerationError, match=r"owner/other is not on this machine, and STYLEKIT_OFFLINE"):
        load("owner/other", recipe())


def test_hub_that_does_not_answer_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(GenerationError, match="owner/model cannot be had from the hub") as caught:
        load("owner/model", recipe())
    for mend in ("--model", "HF_ENDPOINT", "--engine dicebear"):
        assert mend in caught.value.hint


def test_a_hub_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch):
    import huggingface_hub

    waits = []

    def model_info(self: object, repository: str, *, revision: str | None, timeout: float | None = None) -> None:
        waits.append(timeout)
        raise TimeoutError("no answer")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(pipelines.hosts, "out_of_reach", lambda _: "")
    files, cause = pipelines._hub_files("owner/model", None)
    assert (files, str(cause), waits) == ([], "no answer", [HUB_TIMEOUT_S])


def test_hub_is_asked_for_half_weights_only_where_it_has_them(monkeypatch: pytest.MonkeyPatch):
    asked: list[tuple[Any, Any]] = []

    def download(name: str, *, variant: str | None, local_files_only: bool, **settings: Any) -> str:
        asked.append((variant, local_files_only))
        raise OSError("stopped here")

    monkeypatch.setattr(diffusers.DiffusionPipeline, "download", download)
    for files, precision, expected in (
        (["unet/a.safetensors"], "fp16", [(None, False)]),
        (["unet/a.fp16.safetensors"], "fp16", [("fp16", False), (None, False)]),
        (["unet/a.fp16.safetensors"], "fp32", [(None, False), ("fp16", False)]),
        ([], "fp32", [(None, True), ("fp16", True)]),
    ):
        monkeypatch.setattr(pipelines, "_hub_files", lambda name, revision, files=files: (files, None))
        with pytest.raises(GenerationError, match="stopped here"):
            load("owner/model", recipe(precision=precision))
        assert asked == expected
        asked.clear()


def test_what_is_no_model_is_named(tmp_path: Path, models: dict[str, Path]):
    with pytest.raises(GenerationError, match=r"model_index\.json"):
        load(str(tmp_path), recipe())
    for nowhere in (str(tmp_path / "nowhere"), "nowhere", "./no/where", "a/b/c"):
        with pytest.raises(GenerationError, match="no model folder"):
            load(nowhere, recipe())
    damaged = shutil.copytree(models["sd"], tmp_path / "damaged")
    weights = next((damaged / "unet").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(GenerationError, match="not a model that diffusers can read"):
        load(str(damaged), recipe())
    weights.unlink()
    with pytest.raises(GenerationError, match="not a model that diffusers can read"):
        load(str(damaged), recipe())
    index = damaged / "model_index.json"
    index.write_text(index.read_text().replace('"StableDiffusionPipeline"', '"TomorrowsPipeline"'))
    with pytest.raises(GenerationError, match="TomorrowsPipeline") as caught:
        load(str(damaged), recipe())
    assert "pip install -U diffusers" in caught.value.hint


@pytest.mark.parametrize(
    ("keys", "family"),
    [
        ({"conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias": 8}, "StableDiffusionXLPipeline"),
        ({"model.diffusion_model.output_blocks.11.0.skip_connection.weight": 8}, "StableDiffusionPipeline"),
        ({"double_blocks.0.img_attn.norm.key_norm.scale": 8}, "FluxPipeline"),
    ],
)
def test_one_file_is_loaded_by_the_family_that_its_weights_show(
    keys: dict[str, int], family: str, tmp_path: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
):
    import torch
    from safetensors.torch import save_file

    file = tmp_path / "style.safetensors"
    save_file({name: torch.zeros(width) for name, width in keys.items()}, file)
    asked: dict[str, Any] = {}

    def from_single_file(cls: type, path: str, **settings: Any) -> Any:
        asked.update(settings, family=cls.__name__, path=path)
        return diffusers.DiffusionPipeline.from_pretrained(models["sd"])

    monkeypatch.setattr(getattr(diffusers, family), "from_single_file", classmethod(from_single_file))
    loaded = load(str(file), recipe())
    assert (asked["family"], asked["path"]) == (family, str(file))
    assert loaded.revision is not None
    assert loaded.revision.startswith("sha256:")


def test_file_that_is_no_checkpoint_is_named(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(GenerationError, match="is no checkpoint"):
        load(str(tmp_path / "a.png"), recipe())
    (tmp_path / "a.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(GenerationError, match="cannot be loaded"):
        load(str(tmp_path / "a.safetensors"), recipe())


@pytest.mark.slow
def test_a_model_of_the_other_kind_is_taken_over_into_its_familys_pipeline(models: dict[str, Path], tmp_path: Path):
    image = load(str(models["sd"]), recipe(), "image")
    assert type(image.pipeline) is diffusers.StableDiffusionImg2ImgPipeline
    image.pipeline.save_pretrained(tmp_path / "img2img")
    assert type(load(str(tmp_path / "img2img"), recipe()).pipeline) is diffusers.StableDiffusionPipeline
    assert type(load(str(models["flux"]), recipe(), "image").pipeline) is diffusers.FluxImg2ImgPipeline


@pytest.mark.slow
def test_an_editor_says_that_it_needs_photographs(models: dict[str, Path], tmp_path: Path):
    parts = diffusers.DiffusionPipeline.from_pretrained(models["sd"]).components
    editor = diffusers.StableDiffusionInstructPix2PixPipeline(**parts, requires_safety_checker=False)
    editor.save_pretrained(tmp_path)
    with pytest.raises(GenerationError, match="edits photographs") as caught:
        load(str(tmp_path), recipe())
    assert "--engine edit" in caught.value.hint
    assert type(load(str(tmp_path), recipe(), "image").pipeline) is type(editor)


def test_guidance_and_negative_prompt_are_passed_as_each_pipeline_takes_them(
    models: dict[str, Path], caplog: pytest.LogCaptureFixture
):
    sd, flux = (load(str(models[family]), recipe()) for family in ("sd", "flux"))
    assert guidance_arguments(sd, 5.0, "hat") == {"guidance_scale": 5.0, "negative_prompt": "hat"}
    assert guidance_arguments(sd, 5.0, "") == {"guidance_scale": 5.0}
    assert guidance_arguments(flux, 3.5, "") == {"guidance_scale": 3.5}
    assert not caplog.messages
    assert guidance_arguments(flux, 3.5, "hat") == {"guidance_scale": 3.5}
    assert "no use for a negative prompt" in caplog.messages[0]
    flux.pipeline = object.__new__(diffusers.QwenImagePipeline)
    assert guidance_arguments(flux, 4.0, "") == {"true_cfg_scale": 4.0, "negative_prompt": " "}


def test_model_too_large_for_the_device_is_moved_part_by_part(models: dict[str, Path], caplog: pytest.LogCaptureFixture):
    import torch

    loaded = load(str(models["sd"]), recipe())
    moved: list[str] = []

    class Parts:
        vae = None

        def to(self, device: torch.device) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

        def enable_attention_slicing(self) -> None:
            moved.append("slices")

        def enable_model_cpu_offload(self, device: torch.device) -> None:
            moved.append(device.type)

    loaded.pipeline, loaded.device = Parts(), torch.device("cuda")
    pipelines._place(loaded, "auto")
    assert moved == ["slices", "cuda"]
    assert loaded.memory == "offload"
    assert "does not fit into the GPU's memory" in caplog.messages[0]
    with pytest.raises(GenerationError, match="not enough memory to load"):
        pipelines._place(loaded, "slice")
