import json
import os
import signal
import subprocess
import sys
import time
from pkgutil import resolve_name

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from stylekit.config.load import dump_recipe, load_recipe, parse_recipe
from stylekit.engine import train as engine
from stylekit.engine.checkpoint import checkpoint_folders, load_generator, newest_run, read_meta
from stylekit.engine.train import continued, hold, train
from stylekit.errors import CheckpointError, DataError, Interrupted, OtherRunError, StylekitError, TrainingError, UsageError
from stylekit.images import read_rgb
from stylekit.methods.base import create_method
from tests.engine.conftest import TINY, tiny_recipe


def weights(run, step):
    return load_file(run / "checkpoints" / f"step-{step:06d}" / "weights.safetensors")


def assert_equal_runs(a, b, step):
    left, right = weights(a, step), weights(b, step)
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name
    states = [torch.load(r / "checkpoints" / f"step-{step:06d}" / "state.pt", weights_only=True) for r in (a, b)]
    for name, state in states[0].items():
        for index, slots in state["state"].items():
            for slot, value in slots.items():
                assert torch.equal(value, states[1][name]["state"][index][slot]), (name, index, slot)


def test_run_folder_holds_exactly_what_it_should(workspace):
    report = train(tiny_recipe("train.keep_checkpoints=2"), workspace=workspace, device="cpu")
    assert report.run.name == "00000-dots-dctnet"
    files = {p.relative_to(report.run).as_posix() for p in report.run.rglob("*") if p.is_file()}
    checkpoint = ("weights.safetensors", "state.pt", "meta.json")
    assert files == {
        ".lock",
        ".child.lock",
        "recipe.yaml",
        "env.json",
        "stats.jsonl",
        "report.html",
        "samples/step-000003.jpg",
        "samples/step-000006.jpg",
    } | {f"checkpoints/step-{step:06d}/{name}" for step in (4, 6) for name in checkpoint}
    rows = [json.loads(row) for row in (report.run / "stats.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 6]
    assert rows[-1]["images_seen"] == 18
    assert set(rows[0]) == {
        "step", "images_seen", "time/step_s", "loss/g_gray", "loss/g_blur", "loss/d_gray", "loss/d_blur", "loss/tv"
    }  # fmt: skip
    assert load_recipe(report.run / "recipe.yaml") == read_meta(checkpoint_folders(report.run)[-1]).recipe
    sheet = read_rgb(report.run / "samples" / "step-000006.jpg")
    assert sheet.shape[1] > 200
    assert sheet.std() > 10


def test_training_changes_the_generator_and_its_average_follows(workspace):
    run = train(tiny_recipe("train.warm_start=none"), workspace=workspace, device="cpu").run
    first, last = weights(run, 2), weights(run, 6)
    for name in ("generator.unet.stem.weight", "generator.unet.head.weight", "disc_blur.out.weight", "disc_gray.convs.0.weight"):
        assert not torch.equal(first[name], last[name]), name
    live, mean = last["generator.unet.stem.weight"], last["generator_ema.unet.stem.weight"]
    assert not torch.equal(live, mean)
    assert torch.allclose(load_generator(run).module.state_dict()["unet.stem.weight"], mean)


AS_THE_DEMO = (
    "train.size=64",
    "train.content.network=efficientnet-lite0",
    "train.content.layers=[block2, block4]",
    "train.superpixels=photo",
    "train.loss.lambda_surface=0",
    "train.loss.lambda_texture=0",
    "train.loss.lambda_projected=4",
    "train.loss.lambda_content=7",
    "train.loss.lambda_palette=22",
)


WITH_EVERY_SWITCH = (
    "train.content.network=efficientnet-lite0",
    "train.loss.lambda_content=1",
    "train.loss.lambda_surface=0",
    "train.superpixels=photo",
    "train.augment={scale: [1, 1], rotate_deg: 0}",
    "train.share_fake=false",
    "train.cache_photo_features=true",
    "train.low_vram=true",
)
SWITCHES = {"plain": (), "as-the-demo": AS_THE_DEMO, "with-every-switch": WITH_EVERY_SWITCH}


@pytest.mark.parametrize("changes", SWITCHES.values(), ids=SWITCHES)
def test_resume_equals_never_having_stopped(workspace, changes):
    whole = train(tiny_recipe(*changes), workspace=workspace, device="cpu").run
    pieces = train(tiny_recipe(*changes, "train.max_steps=2"), workspace=workspace, device="cpu").run
    for steps in (4, 6):
        train(tiny_recipe(*changes, f"train.max_steps={steps}"), workspace=workspace, resume=True, device="cpu")
    assert pieces != whole
    assert_equal_runs(whole, pieces, 6)


@pytest.mark.slow
def test_resume_equals_never_having_stopped_even_through_a_kill_in_the_middle_of_a_save(workspace):
    whole = train(tiny_recipe(), workspace=workspace, device="cpu").run
    train(tiny_recipe("train.max_steps=2", "train.save_every=1"), workspace=workspace, device="cpu")
    code = f"""
import os, signal, sys
import stylekit.engine.checkpoint as checkpoint
from stylekit.config.load import parse_recipe
from stylekit.engine.train import train
from stylekit.paths import Workspace
write = checkpoint.save_file
def die_while_writing(tensors, path, header):
    write(tensors, path, header)
    with open(path, "r+b") as stream:
        stream.truncate(path.stat().st_size // 2)
    if "step-000005" in str(path):
        os.kill(os.getpid(), signal.SIGKILL)
    write(tensors, path, header)
checkpoint.save_file = die_while_writing
recipe = parse_recipe({TINY!r}, ["train.max_steps=6", "train.save_every=1"])
train(recipe, workspace=Workspace(__import__("pathlib").Path({str(workspace.root)!r})), resume=True, device="cpu")
"""
    died = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr
    pieces = workspace.run_folders()[-1]
    assert pieces != whole
    assert [p.name for p in checkpoint_folders(pieces)][-1] == "step-000004"
    train(tiny_recipe("train.max_steps=6"), workspace=workspace, resume=True, device="cpu")
    assert_equal_runs(whole, pieces, 6)
    assert not list((pieces / "checkpoints").glob(".partial-*"))
    steps = [json.loads(row)["step"] for row in (pieces / "stats.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))


@pytest.mark.slow
def test_ctrl_c_finishes_the_step_saves_and_says_how_to_go_on(workspace):
    code = f"""
from pathlib import Path
from stylekit.config.load import parse_recipe
from stylekit.engine.train import train
from stylekit.errors import Interrupted
from stylekit.paths import Workspace
recipe = parse_recipe({TINY!r}, ["train.max_steps=100000", "train.log_every=1", "train.save_every=50000"])
try:
    train(recipe, workspace=Workspace(Path({str(workspace.root)!r})), device="cpu")
except Interrupted as stopped:
    print(stopped.exit_code, stopped)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not any(p.stat().st_size for p in workspace.root.glob("work_dirs/*/stats.jsonl")):
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)
    said, logged = process.communicate(timeout=120)
    assert "Finishing this step" in logged
    run = workspace.run_folders()[-1]
    step = read_meta(checkpoint_folders(run)[-1]).step
    assert step > 0
    assert said.startswith("130 ")
    assert f"after step {step}" in said
    assert "stylekit train --resume" in said


@pytest.mark.parametrize("moment", ["DctNet.step", "TrainingLog.write", "write_sample_sheet"])
def test_ctrl_c_at_any_moment_of_a_step_saves_what_it_says(moment, workspace, monkeypatch):
    target = {"DctNet.step": "stylekit.methods.dctnet", "TrainingLog.write": "stylekit.engine.log"}.get(
        moment, "stylekit.engine.trainer"
    )
    real = resolve_name(f"{target}:{moment}")

    def interrupted(*arguments, **keywords):
        monkeypatch.undo()
        os.kill(os.getpid(), signal.SIGINT)
        return real(*arguments, **keywords)

    monkeypatch.setattr(f"{target}.{moment}", interrupted)
    with pytest.raises(Interrupted, match="after step") as stopped:
        train(tiny_recipe("train.save_every=6", "train.sample_every=2"), workspace=workspace, device="cpu")
    step = read_meta(checkpoint_folders(workspace.run_folders()[-1])[-1]).step
    assert f"after step {step}" in str(stopped.value)


def test_resume_refuses_other_values_data_and_damage(workspace):
    run = train(tiny_recipe("train.max_steps=2"), workspace=workspace, device="cpu").run
    with pytest.raises(OtherRunError, match=rf"train\.learning_rate.*stylekit train --init {run}"):
        train(tiny_recipe("train.learning_rate=0.001"), workspace=workspace, resume=True, device="cpu")
    moved = workspace.style("dots") / "0.png"
    kept = moved.read_bytes()
    moved.unlink()
    with pytest.raises(OtherRunError, match=rf"cartoons are not the ones.*stylekit train --init {run}"):
        train(tiny_recipe(), workspace=workspace, resume=True, device="cpu")
    moved.write_bytes(kept)
    damaged = checkpoint_folders(run)[-1] / "weights.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match="missing or damaged"):
        train(tiny_recipe(), workspace=workspace, resume=True, device="cpu")


def test_a_run_may_go_on_with_the_other_engine_but_not_the_other_preset(tmp_path):
    before = parse_recipe("style: dots\ntrain: {preset: upstream, content: {network: vgg19-caffe}}")
    (tmp_path / "recipe.yaml").write_text(dump_recipe(before))
    after = continued(parse_recipe("style: dots\ntrain: {engine: modelscope, max_steps: 9}"), tmp_path).train
    assert (after.engine, after.max_steps, after.content.network) == ("modelscope", 9, "vgg19-caffe")
    with pytest.raises(OtherRunError, match=r"train\.preset"):
        continued(parse_recipe("style: dots"), tmp_path)


def test_a_run_may_go_on_in_less_memory_and_compiled_or_not(tmp_path):
    (tmp_path / "recipe.yaml").write_text(dump_recipe(parse_recipe("style: dots")))
    after = continued(parse_recipe("style: dots\ntrain: {low_vram: true, compile: 'no'}"), tmp_path).train
    assert (after.low_vram, after.compile) == (True, "no")
    for other in ("share_fake: false", "allow_tf32: false"):
        with pytest.raises(OtherRunError, match=other.split(":")[0]):
            continued(parse_recipe(f"style: dots\ntrain: {{{other}}}"), tmp_path)


def test_preset_upstream_keeps_its_first_step_as_upstream_does(workspace):
    changes = ("preset: upstream", "size: 32", "batch_size: 2", "max_steps: 3", "content: {network: efficientnet-lite0}")
    kept = []
    train(parse_recipe(f"style: dots\ntrain: {{{', '.join(changes)}}}"), workspace=workspace, device="cpu", saved=kept.append)
    assert kept == checkpoint_folders(workspace.run_folders()[-1])
    assert [p.name for p in kept] == ["step-000001", "step-000003"]


@pytest.mark.parametrize("child", [False, True])
def test_only_one_trains_in_a_run_at_a_time(workspace, monkeypatch, child):
    run = train(tiny_recipe("train.max_steps=2"), workspace=workspace, device="cpu").run
    monkeypatch.setattr(engine, "_PATIENCE_S", 0.1)
    with hold(run, child=child), pytest.raises(TrainingError, match=r"Another process trains in .*00000-dots-dctnet\. Wait"):
        train(tiny_recipe(), workspace=workspace, resume=True, device="cpu")
    assert [p.name for p in checkpoint_folders(run)] == ["step-000002"]
    assert train(tiny_recipe(), workspace=workspace, resume=True, device="cpu").step == 6


def test_a_run_is_held_while_it_is_trained_and_its_child_may_write_in_it(workspace, monkeypatch):
    monkeypatch.setattr(engine, "_PATIENCE_S", 0.1)
    refused = []

    def saved(checkpoint):
        with hold(workspace.run_folders()[-1], child=True):
            pass
        with pytest.raises(TrainingError, match="Another process trains"):
            train(tiny_recipe(), workspace=workspace, resume=True, device="cpu")
        refused.append(checkpoint.name)

    train(tiny_recipe("train.max_steps=2"), workspace=workspace, device="cpu", saved=saved)
    assert refused == ["step-000002"]


def test_a_recipe_of_another_engine_is_not_trained_with_torch(workspace):
    recipe = parse_recipe("style: dots\ntrain: {engine: modelscope}")
    with pytest.raises(UsageError, match=r"engine is modelscope, and this trains with torch.*stylekit\.train"):
        train(recipe, workspace=workspace, device="cpu")
    assert not workspace.run_folders()


def test_nothing_to_resume(workspace):
    with pytest.raises(CheckpointError, match="no run of dots"):
        train(tiny_recipe(), workspace=workspace, resume=True, device="cpu")


def test_a_new_run_can_start_from_another(workspace):
    first = train(tiny_recipe("train.max_steps=2"), workspace=workspace, device="cpu").run
    second = train(
        tiny_recipe("train.max_steps=1", f"train.init={first}", "train.learning_rate=1e-12", "train.save_every=1"),
        workspace=workspace,
        device="cpu",
    ).run
    assert second != first
    begun = load_generator(first).module.state_dict()
    for name, value in load_generator(second).module.state_dict().items():
        assert torch.allclose(value, begun[name], atol=1e-6), name


def test_fewer_pictures_than_the_batch(workspace):
    with pytest.raises(DataError, match="5 cartoons to train with, fewer than the batch of 6") as refused:
        train(tiny_recipe("train.batch_size=6"), workspace=workspace, device="cpu")
    assert "--batch-size 5" in refused.value.hint
    assert not workspace.run_folders()


def test_missing_data_set(workspace):
    with pytest.raises(DataError, match="no data set"):
        train(tiny_recipe("style=nothing"), workspace=workspace, device="cpu")


def test_a_loss_that_is_not_finite_stops_with_step_and_name_and_is_not_saved(workspace, monkeypatch):
    from stylekit.nn import losses

    counted = iter(range(1000))
    plain = losses.total_variation
    monkeypatch.setattr(losses, "total_variation", lambda x: plain(x) * (float("nan") if next(counted) >= 3 else 1))
    with pytest.raises(TrainingError, match=r"loss/tv became nan at step 3"):
        train(tiny_recipe(), workspace=workspace, device="cpu")
    assert [p.name for p in checkpoint_folders(workspace.run_folders()[-1])] == ["step-000002"]


def test_weights_that_are_not_finite_are_not_saved_though_every_loss_is(workspace, monkeypatch):
    from stylekit.methods.dctnet import DctNet

    plain = DctNet.step

    def poisoned(self, batch, context):
        result = plain(self, batch, context)
        if context.step == 3:
            next(self.generator.parameters()).data[0] = float("inf")
        return result

    monkeypatch.setattr(DctNet, "step", poisoned)
    with pytest.raises(TrainingError, match="weights are no longer finite at step 3") as stopped:
        train(tiny_recipe(), workspace=workspace, device="cpu")
    run = workspace.run_folders()[-1]
    assert [p.name for p in checkpoint_folders(run)] == ["step-000002"]
    assert f"--init {run}" in stopped.value.hint


def test_a_run_that_fails_before_its_first_step_leaves_no_folder_and_the_good_one_is_the_newest(workspace, monkeypatch):
    from stylekit.methods.dctnet import DctNet

    good = train(tiny_recipe("train.max_steps=2"), workspace=workspace, device="cpu").run

    def failing(self, batch, context):
        raise MemoryError

    monkeypatch.setattr(DctNet, "step", failing)
    with pytest.raises(MemoryError):
        train(tiny_recipe(), workspace=workspace, device="cpu")
    assert workspace.run_folders() == [good]
    with pytest.raises(MemoryError):
        train(tiny_recipe(), workspace=workspace, resume=True, device="cpu")
    assert checkpoint_folders(good)


def test_the_newest_run_is_the_newest_with_a_checkpoint(workspace):
    assert newest_run(workspace) is None
    good = train(tiny_recipe("train.max_steps=2"), workspace=workspace, device="cpu").run
    (workspace.new_run_folder("dots", "dctnet") / "checkpoints").mkdir()
    workspace.new_run_folder("other", "dctnet")
    assert newest_run(workspace) == newest_run(workspace, "dots") == good
    assert newest_run(workspace, "other") is None


def test_a_full_disk_keeps_the_last_checkpoint(workspace, monkeypatch):
    from stylekit.engine import checkpoint

    write = checkpoint.save_file

    def full(tensors, path, header):
        if "step-000004" in str(path):
            raise OSError(28, "No space left on device")
        write(tensors, path, header)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(StylekitError, match="No space left on device"):
        train(tiny_recipe(), workspace=workspace, device="cpu")
    run = workspace.run_folders()[-1]
    assert [p.name for p in checkpoint_folders(run)] == ["step-000002"]
    monkeypatch.setattr(checkpoint, "save_file", write)
    assert train(tiny_recipe(), workspace=workspace, resume=True, device="cpu").step == 6
    steps = [json.loads(row)["step"] for row in (run / "stats.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps)) == [2, 4, 6]


def test_the_same_seed_gives_the_same_weights_and_another_does_not(workspace):
    runs = [train(tiny_recipe(f"seed={seed}", "train.max_steps=2"), workspace=workspace, device="cpu").run for seed in (1, 1, 2)]
    assert_equal_runs(runs[0], runs[1], 2)
    assert not torch.equal(weights(runs[0], 2)["disc_blur.out.weight"], weights(runs[2], 2)["disc_blur.out.weight"])


@pytest.mark.parametrize("name", ["dctnet", "template"])
def test_every_method_trains_through_the_same_loop(workspace, name):
    report = train(tiny_recipe(f"train.method={name}", "train.max_steps=2"), workspace=workspace, device="cpu")
    assert report.step == 2
    assert report.run.name.endswith(name)
    method = create_method(name)
    assert method is not create_method(name)


@pytest.mark.slow
def test_tensorboard_events_carry_the_losses(workspace):
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = train(tiny_recipe("train.report_to=tensorboard"), workspace=workspace, device="cpu").run
    events = loader.EventAccumulator(str(run / "tensorboard")).Reload()
    logged = [(e.step, e.value) for e in events.Scalars("loss/tv")]
    stats = [json.loads(row) for row in (run / "stats.jsonl").read_text().splitlines()]
    assert [step for step, _ in logged] == [2, 4, 6]
    assert np.allclose([value for _, value in logged], [row["loss/tv"] for row in stats])
