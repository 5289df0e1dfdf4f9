"""`stylekit train --engine modelscope`: what is refused, and upstream's own trainer at 32 px in a run of ours."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from stylekit.assets import add
from stylekit.cli import run as run_command
from stylekit.config.load import dump_recipe, parse_recipe
from stylekit.data.datasets import PictureFile
from stylekit.data.manifest import ManifestLine, write_manifest
from stylekit.engine.checkpoint import Meta, checkpoint_folders, load_generator, read_meta
from stylekit.engine.exchange import native_state, tf_arrays
from stylekit.engine.start import read_start
from stylekit.engine.train import training_pictures
from stylekit.errors import (
    AssetError,
    CheckpointError,
    DataError,
    ImageError,
    MissingPartError,
    RecipeError,
    TrainingError,
    UsageError,
)
from stylekit.images import read_rgb, write_image
from stylekit.modelscope import steps, trainer
from stylekit.modelscope.graph.frozen import frozen_graph
from stylekit.modelscope.runtime import layer, process
from stylekit.modelscope.runtime.checkpoints import read_checkpoint
from stylekit.nn.vgg import load_vgg19_caffe
from stylekit.paths import Workspace
from tests.modelscope.folders import toned_generator, vgg19_arrays

BATCH = 16
RATE = 2e-4
RECIPE = """
style: dots
train: {engine: modelscope, size: 32, batch_size: 16, max_steps: 3, log_every: 3, sample_every: 2, save_every: 2}
"""


def recipe(*overrides):
    return parse_recipe(RECIPE, overrides)


def project(root):
    """Eighteen photographs, two of them held out, and seventeen cartoons, one of them rejected."""
    workspace = Workspace(root)
    drawn = np.random.default_rng(0)
    for folder, kind, count in ((workspace.photos, "cropped", 18), (workspace.style("dots"), "cartoon", 17)):
        lines = []
        for index in range(count):
            file = f"{kind}/{index}.png"
            write_image(folder / file, drawn.integers(0, 256, (4, 4, 3), np.uint8).repeat(8, 0).repeat(8, 1))
            used = "used" if kind == "cropped" or index < 16 else "rejected"
            split = "eval" if kind == "cropped" and index > 15 else "train"
            lines.append(ManifestLine(file=file, input=f"raw/{index}.png", input_sha256=None, status=used, split=split))
        write_manifest(folder / "manifest.jsonl", lines)
    return workspace


@pytest.fixture
def workspace(tmp_path):
    return project(tmp_path / "project")


def vgg19(folder, arrays=None):
    folder.mkdir(exist_ok=True)
    np.save(folder / "vgg19.npy", np.array(arrays or vgg19_arrays(), dtype=object), allow_pickle=True)
    return folder / "vgg19.npy"


# --- what is refused, and what is made ready, without TensorFlow


@pytest.fixture
def no_child(monkeypatch):
    """Whatever is refused is refused before a child is started; here as if upstream's packages were installed."""

    def started(*_, **__):
        raise AssertionError("a child was started")

    monkeypatch.setattr(trainer, "Child", started)
    monkeypatch.setattr(process, "find_spec", lambda name: pytest.__spec__)


def refused(error, workspace, *overrides, match, **options):
    with pytest.raises(error, match=match):
        trainer.train(recipe(*overrides), workspace=workspace, **options)
    assert workspace.run_folders() == []


def test_a_batch_smaller_than_the_sample_grid_is_refused(workspace, no_child, empty_home):
    refused(UsageError, workspace, "train.batch_size=15", match=r"batch of 16 or more.*is 15.*--batch-size 16")


def test_a_folder_smaller_than_the_batch_is_refused(workspace, no_child, empty_home):
    refused(DataError, workspace, "train.batch_size=17", match=r"16 photos to train with.*batch of 17.*--batch-size 16")
    manifest = workspace.style("dots") / "manifest.jsonl"
    manifest.write_text("\n".join(manifest.read_text().splitlines()[2:]) + "\n")
    refused(DataError, workspace, match=r"14 cartoons to train with.*batch of 16.*--engine torch")


def test_every_missing_package_is_named_with_the_command_that_brings_them(workspace, no_child, empty_home, monkeypatch):
    monkeypatch.setattr(process, "find_spec", lambda name: None if name in ("tensorflow", "tf_slim") else pytest.__spec__)
    refused(MissingPartError, workspace, match=r"tensorflow, tf_slim.*pip install 'stylekit\[modelscope\]'")
    assert trainer.require_packages is process.require_packages


def test_a_missing_content_network_is_named_with_where_to_put_it(workspace, no_child, empty_home, monkeypatch):
    monkeypatch.setenv("STYLEKIT_OFFLINE", "1")
    (empty_home.parent / "other.tflite").write_bytes(b"another network, which upstream does not know")
    add("content", empty_home.parent / "other.tflite", name="efficientnet-lite0")
    refused(AssetError, workspace, match=r"vgg19.*stylekit assets add content FILE")


class Harm:
    def __reduce__(self):
        return os.mkdir, ("harm",)


@pytest.mark.parametrize("harm", [Harm(), {"conv1_1": Harm()}, {"conv1_1": [Harm(), Harm()]}], ids=["bare", "layer", "array"])
def test_a_hostile_content_network_is_refused_and_not_run(workspace, no_child, tmp_path, monkeypatch, harm):
    monkeypatch.setenv("STYLEKIT_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    add("content", vgg19(tmp_path / "assets", harm))
    refused(AssetError, workspace, match=r"vgg19\.npy is not a safe VGG weight file.*mkdir")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        ({"fc6": []}, "has no layer conv1_1"),
        ({"conv1_1": [np.zeros((3, 3, 3, 64), np.float32)]}, "has no layer conv1_1"),
        ({"conv1_1": [np.zeros(9, np.float32), np.zeros(64, np.float32)]}, r"conv1_1 has shape \(9,\)"),
        ({"conv1_1": [np.zeros((3, 3, 3, 32), np.float32), np.zeros(32, np.float32)]}, r"conv1_1 has shape \(3, 3, 3, 32\)"),
    ],
)
def test_a_content_network_that_upstream_could_not_use_is_refused(workspace, no_child, empty_home, layers, says):
    add("content", vgg19(empty_home.with_name("assets"), layers))
    refused(AssetError, workspace, match=says)


def test_what_upstreams_trainer_does_not_know_is_refused(workspace, no_child, empty_home):
    for key, value in (("mixed_precision", "bf16"), ("network.width", 16), ("ema_half_life_images", 5), ("superpixels", "off")):
        with pytest.raises(RecipeError, match=key):
            recipe(f"train.{key}={value}")
    refused(UsageError, workspace, match="mps", device="mps")


def test_nothing_to_resume(workspace, no_child, empty_home):
    with pytest.raises(CheckpointError, match="no run of dots"):
        trainer.train(recipe(), workspace=workspace, resume=True)


def test_upstream_gets_exactly_the_pictures_that_are_used(workspace, tmp_path):
    pictures = training_pictures(recipe(), workspace)
    vgg = load_vgg19_caffe(vgg19(tmp_path / "assets"))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    folder = trainer._model_folder(scratch, tmp_path / "run" / "upstream", recipe("train.save_every=50"), pictures, vgg)
    for kind, files in (("photo", pictures.photos), ("cartoon", pictures.cartoons)):
        found = sorted((folder / kind).iterdir())
        assert len(found) == 16
        for one, file in zip(found, files, strict=True):
            assert np.array_equal(read_rgb(one), read_rgb(file.path))
    said = json.loads((folder / "configuration.json").read_text())["train"]
    assert said | {"photo": "", "cartoon": ""} == {
        "photo": "",
        "cartoon": "",
        "work_dir": str(tmp_path / "run" / "upstream"),
        "patch_size": 32,
        "batch_size": 16,
        "adv_train_lr": RATE,
        "max_steps": 3,
        "logging_interval": 1,  # of 3 and 50
        "ckpt_period_interval": 50,
        "resume_epoch": 0,
        "num_gpus": 1,
    }
    unpickled = np.load(folder / "vgg19.npy", encoding="latin1", allow_pickle=True).item()
    for name, (kernel, bias) in vgg19_arrays().items():
        assert np.array_equal(unpickled[name][0], kernel)
        assert np.array_equal(unpickled[name][1], bias)


def test_what_tensorflow_would_see_otherwise_becomes_png(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    one = Image.fromarray(picture)
    turned = Image.Exif()
    turned[274] = 6
    upright = Image.Exif()
    upright[274] = 1
    one.save(tmp_path / "a.webp", lossless=True)
    one.save(tmp_path / "b.bmp")
    one.save(tmp_path / "c.jpg", exif=turned)
    one.save(tmp_path / "d.png", exif=turned)
    one.convert("CMYK").save(tmp_path / "e.jpg")
    Image.fromarray(np.dstack((picture, picture[..., 0]))).save(tmp_path / "f.png")
    one.save(tmp_path / "f2.png", transparency=tuple(picture[0, 0].tolist()))
    one.save(tmp_path / "g.JPEG", exif=upright)
    one.save(tmp_path / "h.PNG")
    one.convert("L").save(tmp_path / "i.jpg")
    files = sorted(tmp_path.iterdir())
    trainer._gather([PictureFile(file) for file in files], tmp_path / "gathered")
    found = sorted((tmp_path / "gathered").iterdir())
    assert [file.name for file in found] == [f"{i:06d}{'.jpg' if i in (7, 9) else '.png'}" for i in range(10)]
    assert [file.is_symlink() for file in found] == [False] * 7 + [True] * 3
    for one, file in zip(found, files, strict=True):
        assert np.array_equal(read_rgb(one), read_rgb(file)), file
        with Image.open(one) as opened:
            assert opened.mode in ("RGB", "L")


def test_where_links_cannot_be_had_pictures_are_copied(tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError("not here")

    monkeypatch.setattr(os, "symlink", no_links)
    monkeypatch.setattr(os, "link", no_links)
    write_image(tmp_path / "a.png", np.full((8, 8, 3), 9, np.uint8))
    trainer._gather([PictureFile(tmp_path / "a.png")], tmp_path / "gathered")
    assert (tmp_path / "gathered" / "000000.png").read_bytes() == (tmp_path / "a.png").read_bytes()
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"b\.png"):
        trainer._gather([PictureFile(tmp_path / "b.png")], tmp_path / "other")


def test_a_start_gives_what_it_has_and_nothing_else(tmp_path):
    network = toned_generator(0)
    (tmp_path / "style.pb").write_bytes(frozen_graph(network))
    start = read_start(recipe(f"train.init={tmp_path / 'style.pb'}"))
    arrays = trainer._starting(start)
    assert len(arrays) == 36
    assert all(name.startswith("generator/") for name in arrays)


def test_superpixels_take_no_more_processes_than_there_are_cores(monkeypatch):
    joblib = pytest.importorskip("joblib")
    monkeypatch.setattr(joblib, "cpu_count", lambda: 3)
    loss, asked = ModuleType("loss"), []

    def parallel(n_jobs):
        asked.append(n_jobs)

    loss.Parallel = parallel
    with layer._start_a_process_per_core(loss):
        pass
    loss.Parallel(n_jobs=16)
    loss.Parallel(n_jobs=2)
    assert asked == [3, 2]


def test_steps_begin_where_the_run_stands_and_end_with_a_loss_that_is_not_finite(tmp_path):
    value = SimpleNamespace(tag="g_loss", simple_value=0.5)
    tf = SimpleNamespace(Summary=SimpleNamespace(FromString=lambda _: SimpleNamespace(value=[value])))
    written, told = [], []
    writer = SimpleNamespace(add_summary=lambda _, step: written.append(step))
    fake = SimpleNamespace(params={"work_dir": str(tmp_path)}, train_writer=writer)
    link = SimpleNamespace(stopping=threading.Event(), tell=lambda event, **fields: told.append((event, fields)))
    start = Meta(
        step=5,
        images_seen=80,
        recipe=recipe("train.max_steps=99", "train.save_every=50", "train.sample_every=50"),
        assets={},
        data={},
    )
    watch = steps._Watch(tf, fake, start, tmp_path, shown=None, link=link)
    counted = watch.steps(range(99))
    assert next(counted) == 5
    writer.add_summary(b"", 5)
    assert next(counted) == 6  # step 6 is neither saved nor drawn
    assert told == [("step", {"step": 6, "losses": {"g": 0.5}, "saved": False})]
    value.simple_value = math.nan
    writer.add_summary(b"", 6)
    with pytest.raises(TrainingError, match=r"loss/g became nan at step 6.*Start anew"):
        next(counted)
    assert written == [5, 6]
    assert len(told) == 1
    link.stopping.set()
    assert list(steps._Watch(tf, fake, start, tmp_path, shown=None, link=link).steps(range(99))) == []


def test_a_log_that_an_error_points_to_is_there(workspace, equipped, monkeypatch):
    monkeypatch.setattr(process, "find_spec", lambda name: pytest.__spec__)
    monkeypatch.setattr(trainer, "_TASK", "tests.modelscope.stand_in:fail")
    with pytest.raises(TrainingError, match="failed: ValueError: a shape does not fit") as failed:
        trainer.train(recipe(), workspace=workspace)
    (run,) = workspace.run_folders()
    assert failed.value.hint == f"What it printed is in {run / 'upstream' / 'upstream.log'}."
    assert "what upstream prints" in (run / "upstream" / "upstream.log").read_text()
    monkeypatch.setattr(trainer, "_TASK", "tests.modelscope.stand_in:refuse")
    with pytest.raises(DataError, match="not these"):
        trainer.train(recipe(), workspace=workspace)
    assert workspace.run_folders() == [run]


def test_upstreams_checkpoints_are_pruned_only_when_ours_is_written_and_model_0_stays(tmp_path, monkeypatch):
    saved = tmp_path / "saved_models"
    saved.mkdir()
    for number in (0, 3, 5, 9):
        (saved / f"model-{number}.index").touch()

    def save(session, prefix, global_step, **_):
        Path(f"{prefix}-{global_step}.index").touch()

    def full(*_):
        raise OSError("no space")

    saver = SimpleNamespace(last_checkpoints=[], save=save)
    writer = SimpleNamespace(add_summary=None, flush=lambda: None)
    fake = SimpleNamespace(params={"work_dir": str(tmp_path)}, train_writer=writer, saver=saver, _session=None)
    start = Meta(step=11, images_seen=0, recipe=recipe("train.keep_checkpoints=2"), assets={}, data={})
    watch = steps._Watch(None, fake, start, tmp_path, shown=None, link=None)
    monkeypatch.setattr(steps, "native_state", lambda *_, **__: ({}, {}))
    monkeypatch.setattr(steps, "write_checkpoint_folder", full)
    with pytest.raises(OSError, match="no space"):
        watch._save({})
    assert {file.stem for file in saved.iterdir()} == {f"model-{number}" for number in (0, 3, 5, 9, 10)}
    monkeypatch.setattr(steps, "write_checkpoint_folder", lambda *_: None)
    watch._save({})
    assert {file.stem for file in saved.iterdir()} == {f"model-{number}" for number in (0, 9, 10)}


def test_what_cannot_be_trained_is_refused_before_anything_is_made(tmp_path, no_child, empty_home, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for folder in ("photos", "cartoons"):
        write_image(tmp_path / folder / "0.png", np.zeros((64, 64, 3), np.uint8))
    call = ["train", "--engine", "modelscope", "--cartoons", "cartoons", "--photos", "photos"]
    assert run_command([*call, "--batch-size", "8"]) == 2
    assert "needs a batch of 16 or more" in capsys.readouterr().err
    monkeypatch.setenv("STYLEKIT_OFFLINE", "1")
    assert run_command(call) == 1
    assert "vgg19" in capsys.readouterr().err
    add("content", vgg19(tmp_path / "assets"))
    assert run_command([*call, "--init", "gone"]) == 1
    assert "nothing to start from at gone" in capsys.readouterr().err
    assert run_command([*call, "--device", "mps"]) == 2
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "dots.yaml").write_text(dump_recipe(recipe("train.init=gone")))
    assert run_command(["run", "dots"]) == 1
    assert "nothing to start from at gone" in capsys.readouterr().err
    assert {entry.name for entry in tmp_path.iterdir()} == {"photos", "cartoons", "assets", "home", "recipes"}


# --- upstream's own trainer


@pytest.fixture(scope="module")
def equipped(tmp_path_factory):
    """A cache with a content network in it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STYLEKIT_HOME", str(tmp_path_factory.mktemp("home")))
        add("content", vgg19(tmp_path_factory.mktemp("vgg")))
        yield


@pytest.fixture(scope="module")
def trained(equipped, tmp_path_factory):
    """A finished run of three steps; tests look at it and leave it as it is."""
    workspace = project(tmp_path_factory.mktemp("project"))
    events = []

    class Bar:
        def advance(self, n=1, **fields):
            events.append((n, fields))

    class Shown:
        def __call__(self, description, total=None):
            return self

        def __enter__(self):
            return Bar()

        def __exit__(self, *_):
            return None

    report = trainer.train(recipe(), workspace=workspace, device="cpu", progress=Shown())
    return workspace, report, events


def weights(run, step):
    return load_file(run / "checkpoints" / f"step-{step:06d}" / "weights.safetensors")


def adam(run, step):
    return torch.load(run / "checkpoints" / f"step-{step:06d}" / "state.pt", weights_only=True)


def near(after, before, steps=1):
    """Tell whether trained weights are no further apart than Adam can have moved them."""
    furthest = max(
        (after[name] - before[name]).abs().max().item() for name in before if not name.endswith(".u") and "ema" not in name
    )
    return 0 < furthest < 4 * RATE * steps


@pytest.mark.modelscope
@pytest.mark.slow
def test_the_run_folder_holds_ours_and_upstreams(trained):
    _, report, events = trained
    assert report.step == 3
    assert report.content_network == "vgg19-caffe"
    files = {p.relative_to(report.run).as_posix() for p in report.run.rglob("*") if p.is_file()}
    events_file = {name for name in files if name.startswith("upstream/train_log/events.out.tfevents.")}
    assert len(events_file) == 1
    assert files - events_file == {
        ".lock",
        ".child.lock",
        "recipe.yaml",
        "env.json",
        "stats.jsonl",
        "samples/step-000002.jpg",
        "samples/step-000003.jpg",
        "upstream/upstream.log",
        "upstream/saved_models/checkpoint",
        *(f"upstream/images/0000000{i}_face_{kind}.jpg" for i in (0, 1) for kind in ("photo", "result")),
        *(f"upstream/saved_models/model-{i}.{kind}" for i in range(3) for kind in ("index", "data-00000-of-00001")),
        *(
            f"checkpoints/step-00000{step}/{name}"
            for step in (1, 2, 3)
            for name in ("weights.safetensors", "state.pt", "meta.json")
        ),
    }
    said = json.loads((report.run / "env.json").read_text())
    assert said["engine"] == "modelscope"
    assert said["device"] == "cpu"
    assert all(said[package][0].isdigit() for package in ("tensorflow", "modelscope", "tf_slim", "stylekit"))
    assert "Iter: 2" in (report.run / "upstream" / "upstream.log").read_text()
    assert read_rgb(report.run / "samples" / "step-000003.jpg").std() > 10
    grids = [read_rgb(report.run / "upstream" / "images" / f"0000000{i}_face_photo.jpg") for i in (0, 1)]
    assert grids[0].shape == (128, 128, 3)
    assert not np.array_equal(*grids)  # each step has a batch of its own, though the graph is seeded
    assert [n for n, _ in events] == [0, 1, 1, 1]
    assert all(set(fields) == {"g", "d"} for _, fields in events[1:])


@pytest.mark.modelscope
@pytest.mark.slow
def test_losses_are_upstreams_own_and_steps_are_counted_as_ours(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, report, shown = trained
    rows = [json.loads(row) for row in (report.run / "stats.jsonl").read_text().splitlines()]
    assert [(row["step"], row["images_seen"]) for row in rows] == [(1, 16), (2, 32), (3, 48)]
    written = EventAccumulator(str(report.run / "upstream" / "train_log")).Reload()
    for name in ("g", "d"):
        scalars = written.Scalars(f"{name}_loss")
        assert [scalar.step for scalar in scalars] == [0, 1, 2]
        values = [scalar.value for scalar in scalars]
        assert np.allclose([row[f"loss/{name}"] for row in rows], values, rtol=1e-6)
        assert np.allclose([fields[name] for _, fields in shown[1:]], values, rtol=1e-6)
        assert len(set(values)) == 3


@pytest.mark.modelscope
@pytest.mark.slow
def test_our_checkpoint_is_upstreams_of_the_same_step(trained):
    _, report, _ = trained
    arrays = read_checkpoint(report.run / "upstream" / "saved_models" / "model-2")
    assert len(arrays) == 210
    theirs, states = native_state(arrays, 3)
    ours = weights(report.run, 3)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for name, state in adam(report.run, 3).items():
        assert all(slots["step"] == 3 for slots in state["state"].values())
        assert all(torch.equal(s["exp_avg_sq"], states[name]["state"][i]["exp_avg_sq"]) for i, s in state["state"].items())
    back = tf_arrays(checkpoint_folders(report.run)[-1])
    assert back.keys() == arrays.keys()
    assert all(back[name].shape == arrays[name].shape for name in arrays)
    assert all(np.array_equal(back[name], arrays[name]) for name in arrays if not name.startswith("beta"))
    assert all(np.allclose(back[name], arrays[name], rtol=1e-5) for name in arrays if name.startswith("beta"))


@pytest.mark.modelscope
@pytest.mark.slow
def test_the_run_is_one_like_any_other(trained):
    from stylekit.exporters import export

    workspace, report, _ = trained
    loaded = load_generator(report.run)
    assert loaded.step == 3
    assert loaded.meta.train_s > 0
    assert loaded.meta.assets["content"].name == "vgg19-caffe"
    exported = export(report.run, formats=("safetensors",), workspace=workspace, output=workspace.root / "style")
    assert (exported.path / "face.safetensors").is_file()
    again = trainer.train(recipe(), workspace=workspace, resume=True)
    assert (again.run, again.step) == (report.run, 3)


@pytest.fixture
def stopped(trained, tmp_path):
    """A copy of the finished run's project, to go on with."""
    import shutil

    workspace, report, _ = trained
    shutil.copytree(workspace.root, tmp_path / "copy")
    return Workspace(tmp_path / "copy"), tmp_path / "copy" / report.run.relative_to(workspace.root)


@pytest.mark.modelscope
@pytest.mark.slow
def test_resuming_goes_on_where_the_checkpoint_stands(stopped):
    workspace, run = stopped
    report = trainer.train(recipe("train.max_steps=4"), workspace=workspace, resume=True, device="cpu")
    assert (report.run, report.step) == (run, 4)
    assert near(weights(run, 4), weights(run, 3))
    assert all(slots["step"] == 4 for state in adam(run, 4).values() for slots in state["state"].values())
    saved = run / "upstream" / "saved_models"
    assert sorted(file.stem for file in saved.glob("*.index")) == [f"model-{i}" for i in (0, 1, 2, 3)]
    assert "Iter: 3" in (run / "upstream" / "upstream.log").read_text()
    rows = [json.loads(row) for row in (run / "stats.jsonl").read_text().splitlines()]
    assert [(row["step"], row["images_seen"]) for row in rows] == [(1, 16), (2, 32), (3, 48), (4, 64)]
    assert read_meta(checkpoint_folders(run)[-1]).images_seen == 64


@pytest.mark.modelscope
@pytest.mark.slow
def test_a_tensorflow_checkpoint_starts_a_run_with_all_that_it_holds(trained, tmp_path):
    _, source, _ = trained
    prefix = source.run / "upstream" / "saved_models" / "model-2"
    workspace = project(tmp_path)
    report = trainer.train(recipe("train.max_steps=4", f"train.init={prefix}"), workspace=workspace, device="cpu")
    assert report.step == 4  # its steps count
    assert [file.stem for file in (report.run / "upstream" / "saved_models").glob("*.index")] == ["model-3"]
    rows = [json.loads(row) for row in (report.run / "stats.jsonl").read_text().splitlines()]
    assert [(row["step"], row["images_seen"]) for row in rows] == [(4, 64)]
    assert near(weights(report.run, 4), weights(source.run, 3))
    assert all(slots["step"] == 4 for state in adam(report.run, 4).values() for slots in state["state"].values())
    with pytest.raises(TrainingError, match="has 3 steps behind it"):
        trainer.train(recipe(f"train.init={prefix}"), workspace=workspace, device="cpu")


@pytest.mark.modelscope
@pytest.mark.slow
def test_a_graph_starts_a_run_and_the_rest_stays_upstreams_own(equipped, tmp_path):
    network = toned_generator(0)
    (tmp_path / "style.pb").write_bytes(frozen_graph(network))
    workspace = project(tmp_path)
    found, batches = [], []
    for seed in (1, 1):
        start = recipe("train.max_steps=1", f"train.init={tmp_path / 'style.pb'}", f"seed={seed}")
        run = trainer.train(start, workspace=workspace, device="cpu").run
        found.append(weights(run, 1))
        batches.append(read_rgb(run / "upstream" / "images" / "00000000_face_photo.jpg"))
        assert near(found[-1], {f"generator.{k}": v for k, v in network.state_dict().items()})
        assert all(slots["step"] == 1 for state in adam(run, 1).values() for slots in state["state"].values())
    for name in ("disc_gray.convs.0.weight", "disc_blur.convs.3.weight"):
        assert 0.01 < found[0][name].std() < 1
        assert torch.allclose(found[0][name], found[1][name], atol=1e-6)  # the recipe's seed
    assert np.array_equal(*batches)


@pytest.mark.modelscope
@pytest.mark.slow
def test_a_killed_child_is_our_error_and_what_was_saved_stays(equipped, tmp_path, monkeypatch):
    workspace = project(tmp_path)
    children = []

    class Watched(process.Child):
        def __enter__(self):
            children.append(self)
            return super().__enter__()

    class Killing:
        def __call__(self, description, total=None):
            return self

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def advance(self, n=1, **fields):
            if fields:
                os.killpg(children[0]._process.pid, signal.SIGKILL)

    monkeypatch.setattr(trainer, "Child", Watched)
    with pytest.raises(TrainingError, match=r"Upstream's trainer was ended by signal SIGKILL.*upstream\.log"):
        trainer.train(recipe("train.max_steps=100"), workspace=workspace, device="cpu", progress=Killing())
    (run,) = workspace.run_folders()
    assert load_generator(run).step >= 1
    assert (run / "upstream" / "upstream.log").is_file()
    assert json.loads((run / "stats.jsonl").read_text().splitlines()[0])["step"] == 1


@pytest.mark.modelscope
@pytest.mark.slow
def test_a_picture_that_cannot_be_decoded_is_named(equipped, tmp_path):
    workspace = project(tmp_path)
    bad = workspace.style("dots") / "cartoon" / "7.png"
    write_image(bad, np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    bad.write_bytes(bad.read_bytes()[:2000])
    with pytest.raises(ImageError, match=r"cartoon/7\.png cannot be decoded"):
        trainer.train(recipe(), workspace=workspace, device="cpu")


def command(workspace, *arguments):
    """Start `stylekit train` in a project whose recipe is kept."""
    kept = workspace.recipes / "dots.yaml"
    kept.parent.mkdir(exist_ok=True)
    kept.write_text(dump_recipe(recipe("train.log_every=1", "train.save_every=100000", "generate.engine=dicebear")))
    call = "from stylekit.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", call, "train", "--style", "dots", "--device", "cpu", *arguments],
        cwd=workspace.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )


def wait_for(condition, started):
    deadline = time.monotonic() + 300
    while not condition():
        assert started is None or started.poll() is None, started.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def group_lives(group):
    try:
        os.killpg(int(group), 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.modelscope
@pytest.mark.slow
def test_ctrl_c_and_a_killed_parent_leave_a_run_to_go_on_with(equipped, tmp_path):
    workspace = project(tmp_path)
    started = command(workspace, "--engine", "modelscope", "--max-steps", "100000")
    wait_for(lambda: list(workspace.root.glob("work_dirs/*/stats.jsonl")), started)
    started.send_signal(signal.SIGINT)
    said = started.communicate(timeout=300)
    (run,) = workspace.run_folders()
    stopped_at = read_meta(checkpoint_folders(run)[-1]).step
    assert started.returncode == 130, said
    assert f"Stopped after step {stopped_at}" in said[1].replace("\n", " ")
    assert "stylekit train --resume" in said[1].replace("\n", " ")
    before = weights(run, stopped_at)

    started = command(workspace, "--resume", "--max-steps", "100000")
    rows = (run / "stats.jsonl").read_text().count("\n")
    wait_for(lambda: (run / "stats.jsonl").read_text().count("\n") > rows, started)
    groups = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()
    started.kill()
    started.wait()
    wait_for(lambda: read_meta(checkpoint_folders(run)[-1]).step > stopped_at, None)
    after = read_meta(checkpoint_folders(run)[-1]).step
    assert near(weights(run, after), before, after - stopped_at)
    assert not list((run / "checkpoints").glob(".partial*"))
    wait_for(lambda: not any(map(group_lives, groups)), None)  # the child, and joblib's workers with it
