import json
import logging
import shutil

import numpy as np
import pytest
import torch

from stylekit.assets import Resolved
from stylekit.bundle import BundledNetwork, Networks, Style, Training, write_bundle
from stylekit.bundle.weights import pack_weights
from stylekit.cli import run as run_command
from stylekit.config.load import parse_recipe
from stylekit.engine import start as starting
from stylekit.engine.checkpoint import checkpoint_folders, read_meta
from stylekit.engine.start import begin, find_start, read_start
from stylekit.engine.train import TrainReport, make_accelerator, train
from stylekit.errors import CheckpointError, MissingPartError, TrainingError
from stylekit.methods.base import create_method
from stylekit.modelscope.graph.frozen import frozen_graph
from stylekit.modelscope.graph.weights import generator_arrays, training_arrays, training_weights_from
from stylekit.nn.discriminator import PatchDiscriminator
from stylekit.nn.unet import Generator
from tests.engine.conftest import TINY, tiny_recipe

WIDTH, BLOCKS, STEP = 6, 1, 8


def generator(seed=0):
    torch.manual_seed(seed)
    network = Generator(WIDTH, BLOCKS)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network


@pytest.fixture(scope="module")
def arrays():
    """A whole checkpoint of upstream's trainer after eight steps, with moments of both Adam optimizers."""
    torch.manual_seed(1)
    blank = starting.TrainingWeights(
        generator(), {"disc_gray": PatchDiscriminator(1, WIDTH), "disc_blur": PatchDiscriminator(3, WIDTH)}
    )
    found = training_arrays(blank)
    drawn = np.random.default_rng(0)
    slots = {n: drawn.random(v.shape).astype(np.float32) * 1e-3 for n, v in found.items() if "/Adam" in n}
    powers = {n: np.array((0.5, 0.99)["beta2" in n] ** (STEP + 1), np.float32) for n in found if "_power" in n}
    return {**found, **slots, **powers}


@pytest.fixture
def checkpoint(tmp_path, monkeypatch, arrays):
    """Its files, empty: what TensorFlow would read from them is `arrays`."""
    folder = tmp_path / "upstream" / "tf_ckpts"
    folder.mkdir(parents=True)
    asked = []
    monkeypatch.setattr(starting, "read_checkpoint", lambda prefix: asked.append(prefix.name) or arrays)
    for number in (7, 10, 9):
        for end in (".index", ".data-00000-of-00001"):
            (folder / f"model-{number}{end}").touch()
    (folder / "checkpoint").touch()
    return folder.parent, asked


def bundle(path, network):
    face = BundledNetwork(width=WIDTH, blocks=BLOCKS, weights="face.safetensors", size=32, template="dctnet")
    training = Training(recipe={}, steps=1, checkpoint_sha256="0", stylekit="0")
    style = Style(name="dots", networks=Networks(face=face), training=training)
    write_bundle(path, style, {"face.safetensors": pack_weights(network, torch.float32, {})})


def same(a, b):
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def test_generators_from_bundles_graphs_and_model_folders(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    network = generator()
    bundle(tmp_path / "folder", network)
    bundle(tmp_path / "style.zip", network)
    model = tmp_path / "model"
    model.mkdir()
    (model / "cartoon_h.pb").write_bytes(frozen_graph(network))
    published = Resolved("modelscope-3d", "modelscope-style", model, "", "", "", "")
    names = ["modelscope:3d", *(f"{owner}/cv_unet_person-image-cartoon-3d_compound-models" for owner in ("damo", "iic"))]
    monkeypatch.setattr(starting, "modelscope_style", lambda name: dict.fromkeys(names, published)[name])
    for source in (tmp_path / "folder", tmp_path / "style.zip", model / "cartoon_h.pb", model, *names):
        found = find_start(str(source))
        assert same(found.weights.generator, network), source
        assert (found.weights.discriminators, found.weights.optimizers, found.weights.step) == (None, None, None)
    assert find_start("modelscope:3d").source == f"modelscope:3d ({model / 'cartoon_h.pb'})"
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "damo" / "mine"
    own.mkdir(parents=True)
    (own / "cartoon_h.pb").write_bytes(frozen_graph(network))
    assert find_start("damo/mine").source == "damo/mine/cartoon_h.pb"


def test_a_run_and_its_checkpoint_give_the_averaged_generator(workspace):
    run = train(tiny_recipe("train.max_steps=4"), workspace=workspace, device="cpu").run
    newest, older = find_start(str(run)), find_start(str(checkpoint_folders(run)[0]))
    assert (newest.weights.step, older.weights.step) == (4, 2)
    assert not same(newest.weights.generator, older.weights.generator)
    kept = starting.load_generator(run).module
    assert same(newest.weights.generator, kept)


def test_a_tensorflow_checkpoint_is_named_by_prefix_file_folder_or_its_newest(checkpoint, arrays):
    folder, asked = checkpoint
    prefix = folder / "tf_ckpts" / "model-7"
    forms = (prefix, f"{prefix}.index", f"{prefix}.data-00000-of-00001", folder)
    for form in forms:
        weights = find_start(str(form)).weights
        assert weights.step == STEP
        assert np.array_equal(generator_arrays(weights.generator)["generator/Conv/weights"], arrays["generator/Conv/weights"])
    assert asked == ["model-7", "model-7", "model-7", "model-10"]


def test_a_model_folder_starts_a_new_style_and_a_checkpoint_goes_on(checkpoint, monkeypatch):
    folder, _ = checkpoint
    prefix = folder / "tf_ckpts" / "model-7"
    published = Resolved("modelscope-3d", "modelscope-style", folder, "", "", "", "")
    monkeypatch.setattr(starting, "modelscope_style", lambda _: published)
    for source in (str(folder), "modelscope:3d"):
        new = find_start(source)
        assert (new.step, new.weights.step, new.weights.optimizers) == (0, STEP, None)
        assert new.weights.discriminators.keys() == {"disc_gray", "disc_blur"}
    assert find_start("modelscope:3d").source == f"modelscope:3d ({folder / 'tf_ckpts' / 'model-10'})"
    on = find_start(str(prefix))
    assert (on.step, on.weights.optimizers.keys()) == (STEP, {"generator", "discriminators"})
    for epoch, wanted in ((9, "model-9"), (0, "model-10"), (8, "model-10"), ("9", "model-10"), (None, "model-10")):
        (folder / "configuration.json").write_text(json.dumps({"train": {"resume_epoch": epoch}}))
        assert find_start(str(folder)).source == str(folder / "tf_ckpts" / wanted)
    (folder / "configuration.json").write_text("[]")
    assert find_start(str(folder)).source.endswith("model-10")


def test_steps_behind_a_checkpoint_count(checkpoint):
    folder, _ = checkpoint
    source = folder / "tf_ckpts" / "model-7"
    with pytest.raises(TrainingError, match=r"model-7 has 8 steps behind it, and train\.max_steps.*is 8\. Use --max-steps 1008"):
        read_start(tiny_recipe(f"train.init={source}", "train.max_steps=8"))
    assert read_start(tiny_recipe(f"train.init={source}", "train.max_steps=9")).step == 8
    assert read_start(tiny_recipe(f"train.init={folder}", "train.max_steps=1")).step == 0
    assert read_start(tiny_recipe(f"train.init={source}", "train.max_steps=9"), 4).step == 4


def test_a_run_from_a_checkpoint_counts_on(checkpoint, workspace):
    folder, _ = checkpoint
    report = train(
        tiny_recipe(f"train.init={folder / 'tf_ckpts' / 'model-7'}", "train.max_steps=10"), workspace=workspace, device="cpu"
    )
    assert report.step == 10
    meta = read_meta(checkpoint_folders(report.run)[-1])
    assert (meta.step, meta.images_seen) == (10, 30)
    rows = [json.loads(row) for row in (report.run / "stats.jsonl").read_text().splitlines()]
    assert [(row["step"], row["images_seen"]) for row in rows] == [(10, 30)]
    state = torch.load(checkpoint_folders(report.run)[-1] / "state.pt", weights_only=True)
    assert state["generator"]["state"][0]["step"] == 10


def test_a_checkpoint_too_old_for_its_beta_powers_is_as_old_as_its_name_says(tmp_path, monkeypatch, arrays):
    old = {name: np.zeros_like(value) if "_power" in name else value for name, value in arrays.items()}
    monkeypatch.setattr(starting, "read_checkpoint", lambda _: old)
    (tmp_path / "model-299999.index").touch()
    weights = find_start(str(tmp_path / "model-299999")).weights
    assert weights.step == 300_000
    assert weights.optimizers["generator"]["state"][0]["step"] == 300_000


def test_without_tensorflow_a_model_folder_falls_back_on_its_graph_and_says_so(checkpoint, monkeypatch, caplog):
    pytest.importorskip("tensorboard")
    folder, _ = checkpoint

    def missing(prefix):
        raise MissingPartError("tensorflow", "modelscope", "Reading a checkpoint")

    monkeypatch.setattr(starting, "read_checkpoint", missing)
    with pytest.raises(MissingPartError):
        find_start(str(folder))
    (folder / "cartoon_h.pb").write_bytes(frozen_graph(generator(5)))
    found = find_start(str(folder))
    assert same(found.weights.generator, generator(5))
    begin(built(), found)
    assert "needs the package tensorflow" in caplog.text
    assert "cartoon_h.pb alone is used" in caplog.text
    with pytest.raises(MissingPartError):
        find_start(str(folder / "tf_ckpts" / "model-7"))


def built(*changes):
    recipe = tiny_recipe(*changes)
    method = create_method("dctnet")
    method.build(recipe, make_accelerator("cpu", "no"))
    return method


def test_everything_a_checkpoint_has_is_taken_and_adam_goes_on(checkpoint, arrays, caplog):
    folder, _ = checkpoint
    method, found = built(), find_start(str(folder / "tf_ckpts" / "model-10"))
    with caplog.at_level(logging.INFO):
        begin(method, found)
    assert caplog.messages == [
        f"Starting from {folder / 'tf_ckpts' / 'model-10'}, 8 steps old: the generator, disc_gray, disc_blur, "
        "Adam's moments of the generator, Adam's moments of the discriminators."
    ]
    wanted = training_weights_from(arrays)
    for name, network in {"generator": wanted.generator, **wanted.discriminators}.items():
        assert same(method.networks[name], network), name
    for name, state in wanted.optimizers.items():
        now = method.optimizers[name].state_dict()
        assert now["param_groups"][0]["lr"] == 2e-4
        for index, slots in state["state"].items():
            assert all(torch.equal(now["state"][index][slot], value) for slot, value in slots.items()), (name, index)
        assert len(now["state"]) == len(method.optimizers[name].param_groups[0]["params"])


def test_what_the_recipe_does_not_train_is_left_out_and_said(checkpoint, caplog):
    folder, _ = checkpoint
    method, found = built("train.loss.lambda_texture=0"), find_start(str(folder / "tf_ckpts" / "model-10"))
    with caplog.at_level(logging.INFO):
        begin(method, found)
    assert caplog.text.rstrip().endswith("; left out: disc_gray, Adam's moments of the discriminators.")
    assert same(method.networks["disc_blur"], found.weights.discriminators["disc_blur"])
    assert method.optimizers["discriminators"].state_dict()["state"] == {}
    assert method.optimizers["generator"].state_dict()["state"][0]["step"] == STEP


def test_training_begins_with_the_weights_it_was_given_and_their_average(workspace, tmp_path):
    bundle(tmp_path / "style", generator())
    changes = ("train.warm_start=identity", f"train.init={tmp_path / 'style'}", "train.learning_rate=1e-12", "train.max_steps=1")
    run = train(tiny_recipe(*changes), workspace=workspace, device="cpu").run
    average = starting.load_generator(run).module
    for now, before in zip(average.parameters(), generator().parameters(), strict=True):
        assert torch.allclose(now, before, atol=1e-9)


def test_init_wins_over_a_warm_start_that_the_network_is_too_narrow_for(tmp_path):
    recipe = tiny_recipe("train.network.width=4", "train.init=x")
    method = create_method("dctnet")
    method.build(recipe, make_accelerator("cpu", "no"))
    assert method.generator.unet.stem.out_channels == 4


def test_a_network_of_another_size_is_refused_with_the_size_that_fits(tmp_path):
    bundle(tmp_path / "style", generator())
    with pytest.raises(
        TrainingError, match="unet of width 6 with 1 residual blocks, the recipe a unet of width 8 with 1"
    ) as refused:
        read_start(tiny_recipe("train.network.width=8", f"train.init={tmp_path / 'style'}"))
    assert refused.value.hint == "Use --set train.network.width=6 --set train.network.blocks=1"
    with pytest.raises(TrainingError, match=r"blocks=1 --preset default$"):
        read_start(parse_recipe(f"style: x\ntrain: {{preset: upstream, init: {tmp_path / 'style'}}}"))


@pytest.mark.parametrize("made", ["", "empty/", "notes.txt", "broken/tf_ckpts/"])
def test_what_holds_no_weights_is_refused_by_name(tmp_path, made):
    path = tmp_path / (made or "nothing")
    if made.endswith("/"):
        path.mkdir(parents=True)
    elif made:
        path.write_text("x")
    source = tmp_path / made.split("/")[0] if made else path
    with pytest.raises(CheckpointError, match=str(source)):
        find_start(str(source))


def test_what_was_meant_instead_is_said(tmp_path, checkpoint):
    with pytest.raises(CheckpointError) as refused:
        find_start("3d")
    assert refused.value.hint == "Did you mean modelscope:3d?"
    folder = tmp_path / "work" / "saved_models"
    folder.mkdir(parents=True)
    for number in (3, 12):
        (folder / f"model-{number}.index").touch()
    for named in (folder, folder.parent):
        with pytest.raises(CheckpointError) as refused:
            find_start(str(named))
        assert refused.value.hint == f"Name one of its checkpoints, such as {folder / 'model-12'}."


def test_on_the_command_line_a_network_is_as_large_as_what_it_starts_from(workspace, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(workspace.root)
    bundle(tmp_path / "style", generator())
    (workspace.root / "dots.yaml").write_text(TINY.replace("width: 6, blocks: 1", "width: 8, blocks: 2"))
    asked = []
    monkeypatch.setattr("stylekit.pipeline.prepare", lambda *_, **__: None)
    monkeypatch.setattr("stylekit.pipeline.train", lambda recipe, **_: asked.append(recipe) or TrainReport(tmp_path, 1, 1.0, ""))
    call = ["train", "--style", "dots.yaml", "--init", str(tmp_path / "style"), "--set", "train.network.width=6"]
    assert run_command([*call[:-2], "--set", "train.loss.lambda_tv=1"]) == 0
    assert asked[0].train.network.model_dump() == {"arch": "unet", "width": WIDTH, "blocks": BLOCKS}
    assert run_command([*call[:-1], "train.network.width=8"]) == 1
    assert "unet of width 6 with 1 residual blocks, the recipe a unet of width 8" in capsys.readouterr().err


def test_a_run_is_not_begun_when_there_is_nothing_to_start_from(workspace, tmp_path):
    with pytest.raises(CheckpointError, match="nothing to start from"):
        train(tiny_recipe(f"train.init={tmp_path / 'gone'}"), workspace=workspace, device="cpu")
    assert not workspace.run_folders()


def test_a_run_goes_on_without_what_it_once_started_from(workspace, tmp_path):
    bundle(tmp_path / "style", generator())
    changes = (f"train.init={tmp_path / 'style'}", "train.max_steps=2")
    train(tiny_recipe(*changes), workspace=workspace, device="cpu")
    shutil.rmtree(tmp_path / "style")
    assert train(tiny_recipe(changes[0]), workspace=workspace, device="cpu", resume=True).step == 6


@pytest.mark.modelscope
def test_a_checkpoint_that_tensorflow_wrote(tmp_path, arrays):
    from stylekit.modelscope.runtime.checkpoints import write_checkpoint

    write_checkpoint(arrays, tmp_path / "saved_models" / "model-7")
    found = find_start(str(tmp_path / "saved_models" / "model-7.index"))
    again = training_arrays(found.weights)
    assert again.keys() == arrays.keys()
    for name, value in arrays.items():
        assert np.allclose(again[name], value, rtol=1e-6, atol=0) if "_power" in name else np.array_equal(again[name], value), (
            name
        )
