"""Engine `edit`: real photographs through pipelines of the true formats with a few thousand weights."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stylekit.assets import fetch
from stylekit.config.schema import AlignRecipe, GenerateRecipe, Recipe
from stylekit.data.manifest import Origin, read_manifest, read_origins
from stylekit.data.pairs import list_pairs
from stylekit.errors import DataError, GenerationError, UsageError
from stylekit.faces.align import invert
from stylekit.generate import edit
from stylekit.generate.api import gen_data
from stylekit.generate.edit import PhotoEditor, repaint
from stylekit.generate.edited import EditedElsewhere, _to_frame
from stylekit.generate.engine import create
from stylekit.generate.photographs import Framed, Photographs, frame_matrix
from stylekit.generate.pipelines import Loaded, Task, _for_task, load
from stylekit.generate.remake import remake
from stylekit.images import Rgb, read_rgb, resize, write_image
from stylekit.paths import Workspace, sha256_bytes
from tests.generate.models import write_lora, write_model

PEOPLE = ("charles", "marie", "team-1")

pytestmark = pytest.mark.usefixtures("asset_home", "faces_found_once")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photographs of 400 px, a sky, and a file that is no picture."""
    folder = tmp_path_factory.mktemp("photos")
    for name in PEOPLE:
        whole = read_rgb(fetch("starter-photos") / "soft-ui" / f"{name}.jpg")
        height, width = whole.shape[:2]
        write_image(folder / f"{name}.jpg", resize(whole, (400, round(400 * height / width))))
    write_image(folder / "sky.png", np.full((90, 120, 3), 180, np.uint8))
    (folder / "text.jpg").write_text("not a picture")
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {name: write_model(folder / name, name) for name in ("sd", "pix2pix")}


@pytest.fixture(scope="module")
def load_once() -> Callable[..., Loaded]:
    @lru_cache
    def load_model(model: str, options: str, task: Task) -> Loaded:
        return load(model, GenerateRecipe.model_validate_json(options), task)

    def load_by_what_it_reads(model: str, recipe: GenerateRecipe, task: Task = "text") -> Loaded:
        read = {"revision", "lora", "scheduler", "precision", "memory"}
        return load_model(model, recipe.model_dump_json(include=read), task)

    return load_by_what_it_reads


@pytest.fixture(autouse=True)
def _each_model_is_loaded_once(load_once: Callable[..., Loaded], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edit, "load", load_once)


def edited(model: Path | str, photos: Path, **changes: Any) -> GenerateRecipe:
    settings = {"model": str(model), "prompt": "ink style", "size": 64, "steps": 2, "from_photos": str(photos), **changes}
    return GenerateRecipe(engine="edit", **settings)


def painted(recipe: GenerateRecipe, raw: Path, seed: int = 0, only: str = "") -> dict[str, tuple[Origin, bytes]]:
    engine = PhotoEditor(recipe, seed, raw)
    wanted = {index: file for index, file in enumerate(engine.files) if file.startswith(only)}
    return {origin.file.removesuffix(".png"): (origin, data) for origin, data in engine.pictures(wanted)}


def test_each_photograph_is_framed_and_painted_and_what_cannot_be_is_listed(
    models: dict[str, Path], photos: Path, tmp_path: Path
):
    engine = PhotoEditor(edited(models["sd"], photos), 4, tmp_path)
    made = {origin.file: (origin, data) for origin, data in engine.pictures(dict(enumerate(engine.files)))}
    assert list(made) == [f"{name}.png" for name in PEOPLE]
    assert engine.left_out.keys() == {"sky.png", "text.png"}
    assert engine.left_out["sky.png"] == "sky.png shows no face."
    assert "text.jpg is not a JPEG" in engine.left_out["text.png"]
    for name in PEOPLE:
        origin, data = made[f"{name}.png"]
        photo = read_rgb(tmp_path / "photos" / f"{name}.png")
        assert read_rgb(data).shape == photo.shape == (64, 64, 3)
        digest = sha256_bytes((photos / f"{name}.jpg").read_bytes())
        assert (origin.photo, origin.photo_sha256) == (f"photos/{name}.png", digest)
        assert origin.generation is not None
        options = origin.generation.options
        assert (options["photo"], options["photo_sha256"], options["strength"]) == (f"{name}.jpg", digest, 0.6)


@pytest.mark.slow
def test_strength_seed_prompt_and_photograph_reach_the_picture(models: dict[str, Path], photos: Path, tmp_path: Path):
    def charles(seed: int = 0, **changes: Any) -> bytes:
        return painted(edited(models["sd"], photos, steps=4, **changes), tmp_path, seed, "charles")["charles"][1]

    plain = charles()
    assert plain == charles()
    for changes in ({"strength": 0.9}, {"prompt": "oil"}, {"negative": "hat"}, {"guidance": 1.0}, {"seed": 1}):
        assert charles(**changes) != plain, changes
    other = tmp_path / "other"
    shutil.copytree(photos, other)
    shutil.copy(photos / "team-1.jpg", other / "charles.jpg")
    assert painted(edited(models["sd"], other, steps=4), tmp_path, 0, "charles")["charles"][1] != plain


def test_a_lora_of_the_hub_is_recorded_with_the_digest_of_what_was_loaded(
    models: dict[str, Path], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    lora = write_lora(tmp_path / "ink.safetensors", models["sd"])
    monkeypatch.setattr("stylekit.generate.pipelines.Lora.fetch", lambda _: lora)
    generation = painted(edited(models["sd"], photos, lora=("owner/ink",)), tmp_path, only="marie")["marie"][0].generation
    assert generation is not None
    assert generation.options["lora_sha256"] == [sha256_bytes(lora.read_bytes())]


@pytest.mark.slow
def test_little_strength_stays_near_the_photograph(models: dict[str, Path], photos: Path, tmp_path: Path):
    """Even a random VAE gives much the same for a latent with little noise, and another for one with much."""

    def far(strength: float, seed: int) -> Rgb:
        return read_rgb(painted(edited(models["sd"], photos, steps=50, strength=strength), tmp_path, seed, "team")["team-1"][1])

    little, much = (np.abs(far(strength, 0).astype(int) - far(strength, 1)).mean() for strength in (0.02, 0.5))
    assert little < much


def test_a_picture_keeps_its_seed_when_photographs_come_or_go(models: dict[str, Path], photos: Path, tmp_path: Path):
    recipe = edited(models["sd"], photos)
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(photos / "team-1.jpg", alone)
    of_all = painted(recipe, tmp_path, only="team-1")["team-1"]
    assert painted(edited(models["sd"], alone), tmp_path)["team-1"] == of_all
    assert PhotoEditor(edited(models["sd"], photos, count=2), 0, tmp_path).files == ["charles.png", "marie.png"]


@pytest.mark.parametrize("changes", [{}, {"options": {"image_guidance_scale": 1.2}}])
def test_an_instruction_editor_paints_with_its_own_pipeline(
    changes: dict[str, Any], models: dict[str, Path], photos: Path, tmp_path: Path
):
    origin, data = painted(edited(models["pix2pix"], photos, **changes), tmp_path, only="marie")["marie"]
    assert origin.generation is not None
    assert "strength" not in origin.generation.options
    assert read_rgb(data).shape == (64, 64, 3)
    if changes:
        assert origin.generation.options["arguments"] == '{"image_guidance_scale": 1.2}'
        assert painted(edited(models["pix2pix"], photos), tmp_path, only="marie")["marie"][1] != data


def test_an_option_that_the_pipeline_does_not_take_is_named(
    models: dict[str, Path], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    loaded = edit.load(str(models["sd"]), edited(models["sd"], photos), "image")
    monkeypatch.setattr(edit, "load", lambda *_: loaded)
    for option in ("image_guidance_scale", "image", "strength"):
        with pytest.raises(GenerationError, match=option):
            PhotoEditor(edited(models["sd"], photos, options={option: 1.0}), 0, tmp_path)._painter()


def test_a_strength_that_leaves_no_step_is_refused(models: dict[str, Path], photos: Path, tmp_path: Path):
    with pytest.raises(GenerationError, match="leaves none"):
        painted(edited(models["sd"], photos, strength=0.4), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "pipeline"),
    [
        ("sdxl", "StableDiffusionXLImg2ImgPipeline"),
        ("sd3", "StableDiffusion3Img2ImgPipeline"),
        ("flux", "FluxImg2ImgPipeline"),
        ("kontext", "FluxKontextPipeline"),
    ],
)
def test_every_family_has_its_pipeline(family: str, pipeline: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    used: list[str] = []
    call = getattr(diffusers, pipeline).__call__

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        used.append(type(self).__name__)
        return call(self, *args, **kwargs)

    watched.__signature__ = inspect.signature(call)  # type: ignore[attr-defined]
    monkeypatch.setattr(getattr(diffusers, pipeline), "__call__", watched)
    options = {"_auto_resize": False} if family == "kontext" else {}  # else its photograph has a megapixel
    recipe = edited(write_model(tmp_path / family, family), photos, options=options)
    ((_, data),) = painted(recipe, tmp_path / "raw", only="team").values()
    assert used == [pipeline]
    assert read_rgb(data).shape == (64, 64, 3)


@pytest.mark.parametrize(
    ("name", "is_own"),
    [
        ("QwenImageEditPipeline", True),
        ("QwenImageEditPlusPipeline", True),
        ("FluxKontextPipeline", True),
        ("Flux2KleinPipeline", True),
        ("StableDiffusionPipeline", False),
        ("QwenImagePipeline", False),
    ],
)
def test_the_models_own_pipeline_is_taken_if_it_edits(name: str, is_own: bool, monkeypatch: pytest.MonkeyPatch):
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    own = getattr(diffusers, name).__new__(getattr(diffusers, name))
    monkeypatch.setattr(diffusers.AutoPipelineForImage2Image, "from_pipe", lambda pipeline: "its family's")
    assert _for_task(diffusers, own, name, "image") is (own if is_own else "its family's")


@pytest.mark.parametrize(
    ("name", "at_once"),
    [
        ("StableDiffusionImg2ImgPipeline", 3),
        ("StableDiffusionInstructPix2PixPipeline", 3),
        ("FluxKontextPipeline", 3),
        ("QwenImageEditPlusPipeline", 1),  # several photographs would be references for one picture
        ("Flux2KleinPipeline", 1),
    ],
)
def test_only_pipelines_that_can_paint_in_batches(
    name: str, at_once: int, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    own = getattr(diffusers, name).__new__(getattr(diffusers, name))
    loaded = Loaded(own, "m", None, "s", "fp32", SimpleNamespace(type="cpu"), "auto", (), {})
    monkeypatch.setattr(edit, "load", lambda *_: loaded)
    engine = PhotoEditor(edited("m/m", photos, batch_size=3, steps=10), 0, tmp_path)
    assert engine._painter().batch_size == at_once


@pytest.mark.slow
def test_batches_paint_the_same_but_for_rounding(models: dict[str, Path], photos: Path, tmp_path: Path):
    one, three = (painted(edited(models["sd"], photos, batch_size=size), tmp_path) for size in (1, 3))
    assert list(one) == list(three) == list(PEOPLE)
    for name in PEOPLE:
        assert np.abs(read_rgb(one[name][1]).astype(int) - read_rgb(three[name][1])).max() <= 1


@pytest.mark.parametrize("model", ["sd", pytest.param("pix2pix", marks=pytest.mark.slow)])
def test_a_picture_is_painted_again_from_its_record_and_photograph(
    model: str, models: dict[str, Path], photos: Path, tmp_path: Path
):
    options = {"image_guidance_scale": 1.2} if model == "pix2pix" else {}
    recipe = edited(models[model], photos, batch_size=2, strength=0.7, steps=3, negative="hat", options=options)
    for origin, data in painted(recipe, tmp_path).values():
        assert origin.generation is not None
        assert repaint(origin.generation, read_rgb(tmp_path / str(origin.photo))) == data


@pytest.mark.slow
def test_whole_command_pairs_resume_and_other_settings(models: dict[str, Path], photos: Path, tmp_path: Path):
    workspace = Workspace(tmp_path)
    recipe = Recipe(style="ink", generate=edited(models["sd"], photos, count=1), align=AlignRecipe(size=64))
    assert gen_data(recipe=recipe, workspace=workspace, align=False).made == 1
    report = gen_data(recipe=recipe, workspace=workspace, count=5)
    assert (report.made, report.kept, list(report.skipped)) == (2, 1, ["sky.png", "text.png"])
    assert report.skipped["sky.png"] == "sky.png shows no face."
    folder = workspace.style("ink")
    lines = read_manifest(folder / "manifest.jsonl")
    assert [line.input for line in lines] == [f"raw/{name}.png" for name in PEOPLE]
    assert len(list_pairs(folder)) == sum(line.status == "used" for line in lines)

    raw, crop = folder / "raw" / "charles.png", folder / str(lines[1].file)
    assert [again.identical for again in remake([raw, crop], tmp_path / "again")] == [True, True]

    (folder / "raw" / "photos" / "marie.png").unlink()  # as if killed between the picture and its photograph
    assert gen_data(recipe=recipe, workspace=workspace, count=5, align=False).made == 1
    for changes, named in (({"strength": 0.9}, "strength"), ({"prompt": "oil"}, "prompt"), ({"size": 128}, "size")):
        changed = recipe.model_copy(update={"generate": recipe.generate.model_copy(update=changes)})
        with pytest.raises(GenerationError, match=f"other settings .*{named}"):
            gen_data(recipe=changed, workspace=workspace, align=False)
    gen_data(recipe=changed, workspace=workspace, resume=False, align=False)
    assert {path.name for path in (folder / "raw" / "photos").iterdir()} == {"charles.png"}
    assert read_rgb(folder / "raw" / "photos" / "charles.png").shape == (128, 128, 3)


@pytest.mark.parametrize(("missing", "says"), [("from_photos", "--from-photos"), ("model", "--model"), ("prompt", "Give one")])
def test_what_is_not_named_is_asked_for(missing: str, says: str, photos: Path, tmp_path: Path):
    recipe = edited("artist/model", photos).model_copy(update={missing: None})
    with pytest.raises(UsageError) as caught:
        PhotoEditor(recipe, 0, tmp_path)
    assert says in caught.value.hint


def test_the_person_is_the_one_in_the_photograph(photos: Path, tmp_path: Path):
    for template, prompt in (("make {person} a comic", "make this person a comic"), ("a painting of a {person}", None)):
        engine = PhotoEditor(edited("artist/model", photos, prompt=template), 0, tmp_path)
        assert engine.generation(0).prompt == (prompt or "a painting of this person")


# --- framing ---------------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    x=st.floats(-500, 500),
    y=st.floats(-500, 500),
    scale=st.floats(0.3, 20),
    turn=st.floats(-3, 3),
    size=st.sampled_from([64, 512]),
)
def test_the_frame_follows_the_face(x: float, y: float, scale: float, turn: float, size: int):
    face = np.array([(-10, 0), (10, 0), (0, 12), (-8, 20), (8, 20)], np.float64)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    points = face @ rotation.T * scale + (x, y)
    matrix = frame_matrix(points, size)
    framed = points @ matrix[:, :2].T + matrix[:, 2]
    assert np.allclose(framed[0, 1], framed[1, 1], atol=1e-6)  # upright
    assert framed[:2, 0].mean() == pytest.approx((size - 1) / 2, abs=1e-6)  # in the middle
    assert framed[1, 0] - framed[0, 0] == pytest.approx(size * 20 / 1.25 / 80, rel=1e-6)  # FFHQ's quad is 4 eye distances wide


def test_a_small_face_is_left_out_with_its_size(photos: Path, tmp_path: Path):
    whole = read_rgb(photos / "charles.jpg")
    write_image(tmp_path / "far.png", resize(whole, (whole.shape[1] // 3, whole.shape[0] // 3)))
    with pytest.raises(GenerationError, match=r"face of \d+ px, smaller than 48"):
        Photographs(str(tmp_path), 64).framed(0)


# --- pictures made elsewhere -----------------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(tmp_path: Path, photos: Path) -> Path:
    folder = tmp_path / "elsewhere"
    charles, marie = (read_rgb(photos / f"{name}.jpg") for name in ("charles", "marie"))
    write_image(folder / "charles.png", 255 - charles)
    write_image(folder / "marie.webp", resize(255 - marie, (marie.shape[1] * 2, marie.shape[0] * 2)), quality=100)
    write_image(folder / "team-1.png", np.zeros((64, 80, 3), np.uint8))
    return folder


def test_pictures_made_elsewhere_get_the_photographs_frame(elsewhere: Path, photos: Path, tmp_path: Path):
    engine = EditedElsewhere(edited(f"folder:{elsewhere}", photos, size=96), tmp_path / "raw")
    made = {origin.file: (origin, read_rgb(data)) for origin, data in engine.pictures(dict(enumerate(engine.files)))}
    assert made.keys() == {"charles.png", "marie.png"}
    assert "other proportions" in engine.left_out["team-1.png"]
    assert "no picture made from sky.png" in engine.left_out["sky.png"]
    for file, tolerance in (("charles.png", 1.01), ("marie.png", 6)):
        origin, picture = made[file]
        photo = read_rgb(tmp_path / "raw" / str(origin.photo))
        assert np.abs(255 - photo.astype(int) - picture).mean() < tolerance, file
        assert origin.generation is None


def test_the_first_photographs_are_taken_and_how_many_there_are_is_said(elsewhere: Path, photos: Path, tmp_path: Path):
    for model in (f"folder:{elsewhere}", "m"):
        engine = create(edited(model, photos, count=2), 0, tmp_path)
        assert engine.files == ["charles.png", "marie.png"]
        assert engine.note == "2 of 5 photographs are taken; --count takes more."
        assert create(edited(model, photos), 0, tmp_path).note == ""


def test_pictures_made_elsewhere_come_and_go_with_their_folder(elsewhere: Path, photos: Path, tmp_path: Path):
    workspace = Workspace(tmp_path)
    recipe = Recipe(style="ink", generate=edited(f"folder:{elsewhere}", photos), align=AlignRecipe(size=64))
    report = gen_data(recipe=recipe, workspace=workspace)
    assert (report.made, list(report.skipped)) == (2, ["sky.png", "team-1.png", "text.png"])
    raw = workspace.style("ink") / "raw"
    assert {origin.photo for origin in read_origins(raw / "origin.jsonl")} == {"photos/charles.png", "photos/marie.png"}
    again = gen_data(recipe=recipe, workspace=workspace, align=False)
    assert again.made == 0
    write_image(elsewhere / "charles.png", read_rgb(photos / "charles.jpg"))
    assert gen_data(recipe=recipe, workspace=workspace, align=False).made == 1


def test_a_picture_made_of_no_photograph_is_listed(elsewhere: Path, photos: Path, tmp_path: Path):
    write_image(elsewhere / "sub" / "stranger.png", np.zeros((64, 64, 3), np.uint8))
    for count in (1, 200):  # of charles alone; marie's and the others' are not strangers for that
        engine = EditedElsewhere(edited(f"folder:{elsewhere}", photos, count=count), tmp_path / "raw")
        assert engine.left_out == {"sub/stranger.png": "There is no photograph called stranger."}


def test_a_picture_is_found_by_path_then_by_name(photos: Path, tmp_path: Path):
    source, pictures = tmp_path / "source", tmp_path / "pictures"
    for name in ("a/one.jpg", "b/one.jpg", "two.jpg", "three.jpg"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photos / "charles.jpg", source / name)
    photo = read_rgb(photos / "charles.jpg")
    for name in ("a/one.png", "b/one.png", "deep/TWO.png", "x/three.png", "y/three.png"):
        write_image(pictures / name, photo)
    engine = EditedElsewhere(edited(f"folder:{pictures}", source), tmp_path / "raw")
    made = [origin.file for origin, _ in engine.pictures(dict(enumerate(engine.files)))]
    assert made == ["a-one.png", "b-one.png", "two.png"]
    assert "x/three.png and y/three.png could both" in engine.left_out["three.png"]


def test_scaled_pictures_keep_their_place_in_the_frame():
    framed = Framed(np.zeros((8, 8, 3), np.uint8), np.array([[0.5, 0.1, 3.0], [-0.1, 0.5, 4.0]]), (300, 400))
    for scale in (0.5, 1, 3):
        picture = np.zeros((round(300 * scale), round(400 * scale), 3), np.uint8)
        matrix = _to_frame(framed, picture, "p")
        corner = (np.array([40.0, 20.0]) + 0.5) * scale - 0.5  # the same spot, pixel centres at whole numbers
        assert np.allclose(matrix[:, :2] @ corner + matrix[:, 2], framed.matrix[:, :2] @ (40.0, 20.0) + framed.matrix[:, 2])
        assert np.allclose(invert(invert(matrix)), matrix)
    with pytest.raises(DataError, match="400x310"):
        _to_frame(framed, np.zeros((310, 400, 3), np.uint8), "p")


def test_pictures_made_elsewhere_need_both_folders(tmp_path: Path, photos: Path):
    with pytest.raises(UsageError) as caught:
        EditedElsewhere(edited("folder:", photos), tmp_path)
    assert "--from-photos DIR --model folder:DIR" in caught.value.hint
