"""`--format modelscope`: a folder for ModelScope's own pipeline and trainer."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from tensorboard.compat.proto import graph_pb2

from stylekit.assets import Resolved, fetch
from stylekit.cli import run as command
from stylekit.engine.checkpoint import latest_checkpoint, load_generator, read_meta, write_checkpoint_folder
from stylekit.engine.exchange import native_state
from stylekit.errors import ExportError, MissingPartError, StylekitError, UsageError
from stylekit.exporters import ExportReport, build, export, up_to_date
from stylekit.exporters.verify import MAX_LEVELS, measure, run_frozen
from stylekit.faces.mask import feather_mask
from stylekit.images import read_rgb, write_image
from stylekit.methods.dctnet import ADAM_BETAS
from stylekit.modelscope.graph.folder import FACE_GRAPHS, Checkpoint, is_current, write_model_folder
from stylekit.modelscope.graph.frozen import draw, frozen_graph, read_frozen
from stylekit.modelscope.graph.weights import POWERS, Arrays, TrainingWeights, generator_from, training_arrays
from stylekit.nn.discriminator import PatchDiscriminator
from stylekit.nn.unet import Generator
from stylekit.paths import Workspace
from tests.assets.test_modelscope_styles import model_id
from tests.modelscope.graph.networks import UPSTREAM, run_python
from tests.trained import generator, make_run, recipe

FORMATS = {"export": {"formats": ["safetensors", "modelscope"]}}
ALONE = ("modelscope",)
TRAIN = {"size": 64, "network": {"width": 8, "blocks": 1}, "batch_size": 2, "learning_rate": 1e-4, "log_every": 5}
pytestmark = pytest.mark.usefixtures("exported_once")
WRITTEN = {"LICENSE", "README.md", "alpha.jpg", "cartoon_bg.pb", "cartoon_h.pb", "configuration.json", "preview.jpg"}


def face_graphs(folder: Path) -> Path:
    """Write detector.pb and keypoints.pb with the names of the true ones."""
    folder.mkdir()
    for file, names in FACE_GRAPHS.items():
        graph = graph_pb2.GraphDef()
        for name in names:
            graph.node.add(name=name, op="Placeholder")
        (folder / file).write_bytes(graph.SerializeToString())
    return folder


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


@pytest.fixture(autouse=True, scope="module")
def no_style_at_hand() -> Iterator[None]:
    """What this machine has fetched is no part of a test."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(build, "find_in_styles", lambda *names: None)
        yield


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ExportReport]:
    workspace = Workspace(tmp_path_factory.mktemp("workspace"))
    run = make_run(workspace, made_by=recipe(train={**TRAIN, "max_steps": 7}, licence="CC-BY-4.0"))
    return run, export(run, formats=ALONE, workspace=workspace)


def test_the_folder_lies_in_the_run_and_is_all_that_was_asked_for(exported: tuple[Path, ExportReport]) -> None:
    run, report = exported
    assert report.modelscope is not None
    assert report.path == report.modelscope.path == run / "modelscope"
    assert names(report.path) == WRITTEN
    assert not (run / "bundle").exists()
    assert report.parity.keys() == {"modelscope"}
    assert 0 < report.parity["modelscope"].max_levels <= MAX_LEVELS
    assert report.precision is None


def test_both_graphs_are_the_trained_network_to_the_bit(exported: tuple[Path, ExportReport]) -> None:
    run, report = exported
    trained = load_generator(run).module.state_dict()
    for name in ("cartoon_h.pb", "cartoon_bg.pb"):
        found = generator_from(read_frozen(report.path / name)).state_dict()
        assert all(torch.equal(value, found[key]) for key, value in trained.items())


def test_the_mask_is_the_feather_of_a_288_px_crop(exported: tuple[Path, ExportReport]) -> None:
    mask = np.asarray(Image.open(exported[1].path / "alpha.jpg"), np.float32) / 255
    assert mask.shape == (288, 288)
    assert np.abs(mask - feather_mask(288)).max() < 0.02


def test_the_configuration_is_what_upstreams_pipeline_and_trainer_read(exported: tuple[Path, ExportReport]) -> None:
    said = json.loads((exported[1].path / "configuration.json").read_text())
    assert said["framework"] == "tensorflow"
    assert said["task"] == "image-portrait-stylization"
    assert said["pipeline"] == {"type": "unet-person-image-cartoon"}
    assert said["train"] == {
        "photo": "face_photo",
        "cartoon": "face_cartoon",
        "patch_size": 256,
        "work_dir": "work_dir",
        "batch_size": 16,
        "adv_train_lr": 1e-4,
        "max_steps": 7,
        "logging_interval": 5,
        "ckpt_period_interval": 1000,
        "resume_epoch": 0,
        "num_gpus": 1,
    }


def test_the_card_has_modelscopes_front_matter_and_says_what_is_missing(exported: tuple[Path, ExportReport]) -> None:
    path = exported[1].path
    card = (path / "README.md").read_text()
    matter = yaml.safe_load(card.split("---\n")[1])
    assert matter["tasks"] == ["image-portrait-stylization"]
    assert matter["frameworks"] == ["TensorFlow"]
    assert matter["license"] == "cc-by-4.0"
    assert "base_model" not in matter
    assert "Grace Example" in card
    assert "Not yet here: `detector.pb` and `keypoints.pb`" in card
    assert "style.json" not in card
    assert "Grace Example" in (path / "LICENSE").read_text()
    assert exported[1].modelscope is not None
    assert exported[1].modelscope.lacks == ("detector.pb", "keypoints.pb")
    assert "--faces DIR" in str(exported[1].modelscope)


@pytest.mark.parametrize(
    ("init", "base"),
    [
        ("modelscope:3d", model_id("3d")),
        (model_id("sketch", "iic"), model_id("sketch")),
        ("modelscope-3d", None),
        ("00000-pop-art-dctnet", None),
        ("damo/mine", None),
        (None, None),
    ],
)
def test_the_card_names_the_published_style_that_training_started_from(
    init: str | None, base: str | None, exported: tuple[Path, ExportReport], tmp_path: Path
) -> None:
    style = exported[1].style
    training = style.training.model_copy(update={"recipe": {"train": {"init": init}}})
    folder = write_model_folder(tmp_path / "style", style.model_copy(update={"training": training}), b"graph", b"jpeg").path
    matter = yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])
    assert matter.get("base_model") == base


def test_face_graphs_come_from_a_style_at_hand_and_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = Workspace(tmp_path)
    published = face_graphs(tmp_path / "published")
    monkeypatch.setattr(build, "find_in_styles", lambda *names: (published, "ms:owner/style@master"))
    run = make_run(workspace)
    report = export(run, formats=ALONE, workspace=workspace)
    assert report.modelscope is not None
    assert report.modelscope.lacks == ()
    assert report.notes[0] == "detector.pb and keypoints.pb are from ms:owner/style@master."
    own = (report.path / "detector.pb").read_bytes() + b"\n\x00"
    (report.path / "detector.pb").write_bytes(own)
    (report.path / "keypoints.pb").unlink()
    again = export(run, formats=ALONE, workspace=workspace)
    assert again.notes[0] == "keypoints.pb is from ms:owner/style@master."
    assert (report.path / "detector.pb").read_bytes() == own
    assert names(report.path) == WRITTEN | {*FACE_GRAPHS}


def test_what_training_started_from_comes_first_and_a_damaged_graph_is_only_said(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    start = face_graphs(tmp_path / "start")
    run = make_run(workspace, made_by=recipe(train={**TRAIN, "init": str(start)}))
    assert export(run, formats=ALONE, workspace=workspace).notes[0] == f"detector.pb and keypoints.pb are from {start}."
    (start / "keypoints.pb").write_bytes(b"rubbish")
    damaged = export(run, formats=ALONE, output=tmp_path / "mine", workspace=workspace)
    assert damaged.modelscope is not None
    assert damaged.modelscope.lacks == tuple(FACE_GRAPHS)
    assert "keypoints.pb" in damaged.notes[0]


def test_faces_may_name_a_published_style(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = Workspace(tmp_path)
    path = face_graphs(tmp_path / "published")
    known = {"modelscope:3d": Resolved("modelscope-3d", "modelscope-style", path, "ms:3d", "", "", "")}
    monkeypatch.setattr(build, "modelscope_style", known.__getitem__)
    report = export(make_run(workspace), formats=ALONE, faces="modelscope:3d", workspace=workspace)
    assert (report.path / "detector.pb").read_bytes() == (path / "detector.pb").read_bytes()


def test_a_model_folder_alone_makes_no_bundles_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in ("pack_weights", "_rounded"):
        monkeypatch.setattr(build, part, lambda *_: pytest.fail("made in vain"))
    assert names(export(make_run(Workspace(tmp_path)), formats=ALONE, workspace=Workspace(tmp_path)).path) == WRITTEN


def trained_as_upstream(workspace: Workspace, step: int) -> tuple[Path, Arrays]:
    """Write a run of upstream's size, nothing in it 0, and return it with what upstream's trainer would have of it."""
    torch.manual_seed(step)
    made_by = recipe(train={"size": 64, "batch_size": 2, "max_steps": step})
    networks = (Generator(), {"disc_gray": PatchDiscriminator(1), "disc_blur": PatchDiscriminator(3)})
    arrays = training_arrays(TrainingWeights(*networks))
    draw = np.random.default_rng(step)
    for name in arrays:
        if name.endswith(("/Adam", "/Adam_1")):
            arrays[name] = draw.uniform(1e-6, 1e-3, arrays[name].shape).astype(np.float32)
    for powers in POWERS.values():
        arrays |= {name: np.array(beta ** (step + 1), np.float32) for name, beta in zip(powers, ADAM_BETAS, strict=True)}
    run = make_run(workspace, step, made_by, networks[0])
    meta = read_meta(latest_checkpoint(run))
    shutil.rmtree(latest_checkpoint(run))
    write_checkpoint_folder(run, *native_state(arrays, step), meta, keep=1)
    return run, arrays


@pytest.mark.slow
def test_training_goes_along_for_upstreams_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = Workspace(tmp_path)
    given: list[Arrays] = []

    def write(arrays: Arrays, prefix: Path) -> None:
        given.append(arrays)
        for suffix in ("index", "data-00000-of-00001"):
            prefix.with_name(f"{prefix.name}.{suffix}").write_bytes(f"{len(given)} {suffix}".encode())

    def written(path: Path) -> dict[str, str]:
        return {file.name: file.read_text() for file in (path / "tf_ckpts").iterdir()}

    monkeypatch.setattr(build, "write_checkpoint", write)
    run, arrays = trained_as_upstream(workspace, 7)
    report = export(run, formats=ALONE, workspace=workspace)
    assert given[0].keys() == arrays.keys()
    assert all(np.allclose(value, arrays[name], rtol=1e-6) for name, value in given[0].items())
    assert written(report.path) == {"model-6.index": "1 index", "model-6.data-00000-of-00001": "1 data-00000-of-00001"}
    assert json.loads((report.path / "configuration.json").read_text())["train"]["resume_epoch"] == 6
    assert "goes on from `tf_ckpts/model-6`, 7 steps old. It needs the `vgg19.npy`" in (report.path / "README.md").read_text()
    assert report.notes == ("Upstream's trainer goes on from tf_ckpts/model-6.",)
    assert is_current(report.path, report.style)

    (report.path / "tf_ckpts" / "model-900.index").write_text("kept")
    later = latest_checkpoint(run).rename(run / "checkpoints" / "step-000009")
    (later / "meta.json").write_text((later / "meta.json").read_text().replace('"step": 7', '"step": 9'))
    export(run, formats=ALONE, workspace=workspace)
    assert written(report.path).keys() == {"model-900.index", "model-8.index", "model-8.data-00000-of-00001"}

    def refuse(arrays: Arrays, prefix: Path) -> None:
        raise MissingPartError("tensorflow", "modelscope", "Writing")

    monkeypatch.setattr(build, "write_checkpoint", refuse)
    said = "would begin anew with it: TensorFlow, which writes its checkpoints, is not installed. Run: pip install"
    assert said in export(run, formats=ALONE, workspace=workspace).notes[0]
    assert written(report.path) == {"model-900.index": "kept"}
    assert json.loads((report.path / "configuration.json").read_text())["train"]["resume_epoch"] == 0
    assert "it begins anew" in (report.path / "README.md").read_text()


def test_no_checkpoint_is_written_through_a_link(tmp_path: Path, exported: tuple[Path, ExportReport]) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    path = write_model_folder(tmp_path / "style", exported[1].style, b"graph", b"jpeg").path
    (path / "tf_ckpts").symlink_to(elsewhere)
    write_model_folder(path, exported[1].style, b"graph", b"jpeg", checkpoint=Checkpoint(6, {"model-6.index": b"index"}))
    assert (path / "tf_ckpts" / "model-6.index").read_bytes() == b"index"
    assert not (path / "tf_ckpts").is_symlink()
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize(("step", "why"), [(7, "its own network has width 32 with 4 residual blocks"), (1, "second step")])
def test_why_upstreams_trainer_would_begin_anew_is_said(step: int, why: str, tmp_path: Path) -> None:
    run, _ = trained_as_upstream(Workspace(tmp_path), 1) if step == 1 else (make_run(Workspace(tmp_path), step), {})
    found, said = build._upstream_checkpoint(latest_checkpoint(run), load_generator(run))
    assert found is None
    assert why in said


def test_a_run_without_the_discriminators_says_so(tmp_path: Path) -> None:
    run = make_run(Workspace(tmp_path), made_by=recipe(train={**TRAIN, "network": {}}), network=generator(32, 4))
    found, said = build._upstream_checkpoint(latest_checkpoint(run), load_generator(run))
    assert found is None
    assert "has no generator that upstream's trainer knows" in said


def test_face_graphs_are_copied_and_stay_when_the_style_is_exported_again(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    run = make_run(workspace)
    faces = face_graphs(tmp_path / "upstream")
    report = export(run, formats=ALONE, faces=faces, workspace=workspace)
    assert report.modelscope is not None
    assert report.modelscope.lacks == ()
    assert str(report.modelscope) == str(run / "modelscope")
    assert "Not yet here" not in (report.path / "README.md").read_text()
    (report.path / "vgg19.npy").write_bytes(b"large")
    (report.path / "tf_ckpts").mkdir()
    (report.path / "tf_ckpts" / "model-9.index").write_bytes(b"kept")
    again = export(run, formats=ALONE, workspace=workspace).modelscope
    assert again == report.modelscope
    for name in FACE_GRAPHS:
        assert (report.path / name).read_bytes() == (faces / name).read_bytes()
    assert names(report.path) == WRITTEN | {*FACE_GRAPHS, "vgg19.npy", "tf_ckpts"}
    assert (report.path / "tf_ckpts" / "model-9.index").read_bytes() == b"kept"


def test_faces_without_the_graphs_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    run = make_run(workspace)
    faces = face_graphs(tmp_path / "upstream")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match="--format modelscope"):
        export(run, formats=("safetensors",), faces=faces, workspace=workspace)
    graph = graph_pb2.GraphDef()
    graph.node.add(name="tower_0/images", op="Placeholder")
    for content, says in ((graph.SerializeToString(), "training_flag"), (b"rubbish", "damaged"), (None, "cannot be read")):
        (faces / "keypoints.pb").unlink()
        if content is not None:
            (faces / "keypoints.pb").write_bytes(content)
        with pytest.raises(ExportError, match=rf"keypoints\.pb.*{says}"):
            export(run, formats=("safetensors", "modelscope"), faces=faces, workspace=workspace)
    assert {*before} - {*tmp_path.rglob("*")} == {faces / "keypoints.pb"}
    assert {*tmp_path.rglob("*")} < {*before}


def test_output_takes_the_folder_itself_where_it_is_the_only_format(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    run = make_run(workspace)
    report = export(run, formats=ALONE, output=tmp_path / "mine", workspace=workspace)
    assert report.path == tmp_path / "mine"
    assert names(tmp_path / "mine") == WRITTEN


@pytest.mark.parametrize("output", ["given", "given.zip"])
def test_the_folder_lies_beside_a_bundle(tmp_path: Path, output: str) -> None:
    workspace = Workspace(tmp_path)
    run = make_run(workspace)
    report = export(run, formats=("safetensors", "modelscope"), output=tmp_path / output, workspace=workspace)
    assert report.path == tmp_path / output
    assert report.modelscope is not None
    assert report.modelscope.path == tmp_path / "given-modelscope"
    assert report.path.exists()
    assert names(report.modelscope.path) == WRITTEN
    assert not {"bundle", "modelscope"} & names(run)


def test_other_folders_are_not_replaced(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    run = make_run(workspace)
    published = face_graphs(tmp_path / "published")
    (published / "configuration.json").write_text('{"framework": "tensorflow"}')
    for place in (published, tmp_path / "file", tmp_path / "style.zip"):
        if place.name == "file":
            place.write_text("mine")
        with pytest.raises(UsageError, match=place.name):
            export(run, formats=ALONE, output=place, workspace=workspace)
    assert names(published) == {*FACE_GRAPHS, "configuration.json"}
    (tmp_path / "empty").mkdir()
    assert names(export(run, formats=ALONE, output=tmp_path / "empty", workspace=workspace).path) == WRITTEN


def test_a_graph_that_draws_something_else_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(Workspace(tmp_path))
    other = generator()
    with torch.no_grad():
        other.unet.head.bias.add_(2.2 / 127.5)
    monkeypatch.setattr(build, "frozen_graph", lambda _: frozen_graph(other))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ExportError, match=r"modelscope network differs .* by 2\.\d+ of 255 levels"):
        export(run, formats=ALONE, workspace=Workspace(tmp_path))
    assert sorted(tmp_path.rglob("*")) == before


def test_half_a_level_is_what_cutting_costs() -> None:
    network = generator()
    assert 0.4 < measure(network, run_frozen(frozen_graph(network)), 64).max_levels < 0.6


@pytest.mark.slow
def test_a_recipe_may_ask_for_it_and_gets_it_once(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    run = make_run(workspace, made_by=recipe(**FORMATS))
    bundle = up_to_date(workspace=workspace)
    folder = run / "modelscope"
    assert bundle.path == run / "bundle"
    assert names(folder) == WRITTEN
    stamps = {path: path.stat().st_mtime_ns for place in (bundle.path, folder) for path in place.iterdir()}
    assert up_to_date(workspace=workspace) == bundle
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps

    (folder / "cartoon_h.pb").write_bytes(b"damaged")
    face_graph = face_graphs(tmp_path / "upstream") / "detector.pb"
    (folder / "detector.pb").write_bytes(face_graph.read_bytes())
    assert up_to_date(workspace=workspace) == bundle
    assert read_frozen(folder / "cartoon_h.pb")
    assert (folder / "detector.pb").read_bytes() == face_graph.read_bytes()
    assert (bundle.path / "style.json").stat().st_mtime_ns == stamps[bundle.path / "style.json"]

    (run / "env.json").write_text('{"gpu": "a faster one"}')
    assert up_to_date(workspace=workspace).style.training.hardware == "a faster one"
    assert "a faster one" in (folder / "README.md").read_text()


@pytest.mark.slow
def test_a_bundle_with_more_formats_does_not_make_the_folder_stale(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    run = make_run(workspace, made_by=recipe(**FORMATS))
    export(run, formats=ALONE, workspace=workspace)
    export(run, formats=("onnx",), workspace=workspace)
    stamp = (run / "modelscope" / "README.md").stat().st_mtime_ns
    up_to_date(run, workspace=workspace)
    assert (run / "modelscope" / "README.md").stat().st_mtime_ns == stamp


def test_a_background_network_of_its_own_is_kept(tmp_path: Path, exported: tuple[Path, ExportReport]) -> None:
    head, background = frozen_graph(generator()), frozen_graph(generator(8, 0))
    write_model_folder(tmp_path / "style", exported[1].style, head, b"jpeg", background=background)
    assert (tmp_path / "style" / "cartoon_h.pb").read_bytes() == head
    assert (tmp_path / "style" / "cartoon_bg.pb").read_bytes() == background


@pytest.mark.slow
def test_a_full_disk_leaves_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = Workspace(tmp_path)
    run = make_run(workspace)
    folder = export(run, formats=ALONE, workspace=workspace).path
    before = {path: path.read_bytes() for path in folder.iterdir()}

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StylekitError, match="No space left"):
        export(run, formats=ALONE, workspace=workspace)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert names(run) == {"modelscope", "checkpoints", "env.json"}


def test_a_missing_package_is_named_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = Workspace(tmp_path)
    run = make_run(workspace)
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto", None)
    with pytest.raises(MissingPartError, match="tensorboard"):
        export(run, workspace=workspace, formats=ALONE)
    assert names(run) == {"checkpoints", "env.json"}


def test_the_command_says_where_it_is_and_what_to_add(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(Workspace(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert command(["export", "--format", "modelscope"]) == 0
    said = capsys.readouterr().out
    assert "modelscope: at most 0.5" in said
    assert f"{run.relative_to(tmp_path) / 'modelscope'} (add detector.pb and keypoints.pb" in said
    assert "Upstream's trainer would begin anew with it" in said
    faces = face_graphs(tmp_path / "upstream")
    assert command(["export", "--format", "modelscope", "--faces", str(faces), "--output", "mine", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["path"] == report["modelscope"]["path"] == "mine"
    assert report["modelscope"]["lacks"] == []


PIPELINE = (
    UPSTREAM
    + """
import cv2, numpy as np
from modelscope.outputs import OutputKeys
from modelscope.pipelines import pipeline
from modelscope.utils.constant import Tasks
made = pipeline(Tasks.image_portrait_stylization, model=sys.argv[1])(sys.argv[2])[OutputKeys.OUTPUT_IMG]
cv2.imwrite("made.png", made)
"""
)


@pytest.mark.modelscope
def test_upstreams_pipeline_draws_with_the_folder(tmp_path: Path) -> None:
    from tests.modelscope.folders import MIDDLE, detector_graph, face_points, keypoints_graph

    workspace = Workspace(tmp_path)
    run = make_run(workspace)
    faces = tmp_path / "upstream"
    faces.mkdir()
    (faces / "detector.pb").write_bytes(detector_graph((MIDDLE,)))
    (faces / "keypoints.pb").write_bytes(keypoints_graph(face_points()))
    folder = export(run, formats=ALONE, faces=faces, workspace=workspace).path
    portrait = read_rgb(fetch("astronaut"))
    write_image(tmp_path / "me.png", portrait)
    run_python(PIPELINE, folder, tmp_path / "me.png", folder=tmp_path)
    made = read_rgb(tmp_path / "made.png")
    assert made.shape == portrait.shape
    corner = draw(load_generator(run).module, portrait[..., ::-1])[:64, :64, ::-1]
    assert np.abs(made[:64, :64].astype(int) - corner).max() <= 1, "where no face is, the background's network draws"


TRAINER = """
    import sys
    import numpy as np
    import tensorflow as tf
    from modelscope.trainers.cv import CartoonTranslationTrainer

    trainer = CartoonTranslationTrainer(model=sys.argv[1], work_dir='out', photo=sys.argv[1], cartoon=sys.argv[1])
    np.savez('found.npz', **trainer._session.run({variable.op.name: variable for variable in tf.global_variables()}))
"""


@pytest.mark.modelscope
@pytest.mark.slow
def test_upstreams_trainer_goes_on_from_the_folder(tmp_path: Path) -> None:
    from tests.modelscope.folders import vgg19_arrays
    from tests.modelscope.test_script import stylekit, write

    workspace = Workspace(tmp_path)
    run, arrays = trained_as_upstream(workspace, 7)
    folder = export(run, formats=ALONE, workspace=workspace).path
    np.save(folder / "vgg19.npy", np.array(vgg19_arrays(), dtype=object), allow_pickle=True)
    stylekit("modelscope", "run", write(tmp_path, TRAINER), str(folder), cwd=tmp_path)
    found = np.load(tmp_path / "found.npz")
    assert set(found.files) == arrays.keys()
    assert all(np.allclose(found[name], arrays[name], rtol=1e-6) for name in arrays)
