"""Exported networks against the trained one, and the bundle they make."""

from __future__ import annotations

import errno
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from stylekit.bundle import Bundle, read_bundle
from stylekit.bundle.weights import unpack_generator
from stylekit.config.schema import NetworkRecipe
from stylekit.engine.checkpoint import WEIGHTS, chosen_checkpoint, describe_checkpoint
from stylekit.errors import CheckpointError, ExportError, StylekitError, UsageError
from stylekit.exporters import ExportReport, build, export, up_to_date
from stylekit.exporters.torchscript import to_torchscript
from stylekit.exporters.verify import MAX_LEVELS, measure, run_onnx, run_torchscript
from stylekit.images import read_rgb
from stylekit.metrics.report import read_report, write_report
from stylekit.nn.generators import make_generator, network_of
from stylekit.paths import Workspace
from stylekit.stylizer import Stylizer
from tests.engine.test_page import evaluated
from tests.trained import CARTOONS, generator, half_graph, make_run, recipe

pytestmark = pytest.mark.usefixtures("exported_once")
SIZES = [(1, 64, 64), (2, 4, 132), (3, 100, 36), (1, 256, 256)]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, ExportReport]:
    workspace = Workspace(tmp_path_factory.mktemp("workspace"))
    secret = recipe(photos={"source": "/home/ada/selfies"}, stylize={"strength": 0.7})
    make_run(workspace, made_by=secret)
    return workspace, export(workspace=workspace, formats=("onnx", "torchscript"))


@pytest.fixture(scope="module")
def bundle(exported: tuple[Workspace, ExportReport]) -> Bundle:
    return read_bundle(exported[1].path)


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("kind", ["onnx", "torchscript"])
def test_networks_draw_the_same_at_sizes_they_were_not_traced_at(bundle: Bundle, kind: str, shape: tuple[int, int, int]) -> None:
    face = bundle.style.networks.face
    assert face.onnx is not None
    assert face.torchscript is not None
    run = run_onnx(bundle.files[face.onnx]) if kind == "onnx" else run_torchscript(bundle.files[face.torchscript])
    photo = np.random.default_rng(1).uniform(-1, 1, (shape[0], 3, *shape[1:])).astype(np.float32)
    expected = generator()(torch.from_numpy(photo)).numpy()
    assert np.abs(run(photo) - expected).max() * 127.5 <= MAX_LEVELS


def test_the_report_says_how_close_every_format_is(exported: tuple[Workspace, ExportReport]) -> None:
    report = exported[1]
    assert set(report.parity) == {"safetensors", "onnx", "torchscript"}
    assert all(0 < parity.max_levels <= MAX_LEVELS for parity in report.parity.values())
    assert report.precision == "float16"
    assert "of 255 levels" in str(report.parity["onnx"])


def test_the_onnx_graph_is_named_small_and_tells_nothing_of_the_machine(bundle: Bundle) -> None:
    model = onnx.load_from_string(bundle.files["face.onnx"])
    (source,), (result,) = model.graph.input, model.graph.output
    axes = ["batch", 3, "height", "width"]
    for value, name in ((source, "photo"), (result, "stylized")):
        assert value.name == name
        assert [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim] == axes
    weights = sum(parameter.numel() for parameter in generator().parameters())
    assert len(bundle.files["face.onnx"]) < 2 * weights + 30_000
    assert str(Path(__file__).parents[2]).encode() not in bundle.files["face.onnx"]
    assert b"site-packages" not in bundle.files["face.onnx"]


def test_the_recipe_travels_with_the_weights_but_not_the_home_folder(
    bundle: Bundle, exported: tuple[Workspace, ExportReport]
) -> None:
    with safe_open(exported[1].path / "face.safetensors", "pt") as weights:
        metadata = weights.metadata()
        assert weights.get_tensor("unet.stem.weight").dtype == torch.float16
    assert json.loads(metadata["recipe"]) == bundle.style.training.recipe
    assert bundle.style.training.recipe["photos"]["source"] == "selfies"
    assert not any(b"/home/ada" in data for data in bundle.files.values())


def test_the_strength_of_the_recipe_is_the_style_s(bundle: Bundle, exported: tuple[Workspace, ExportReport]) -> None:
    workspace, report = exported
    assert Stylizer(bundle).strength == bundle.style.strength == 0.7
    assert Stylizer(report.path.parent, workspace=workspace).strength == 0.7, "a run that is not exported yet"
    assert Stylizer(bundle, strength=0.2).strength == 0.2


def test_the_bundle_says_what_it_learned_from(bundle: Bundle) -> None:
    cartoons = bundle.style.training.cartoons
    assert cartoons is not None
    assert cartoons.used == CARTOONS
    assert cartoons.attributions == ("Grace Example",)
    assert cartoons.generators == ("dicebear: toon-head",)
    assert bundle.style.training.hours == 1.5
    assert bundle.style.training.photos is None, "the recipe names another set than the one that is there"


def test_the_preview_shows_the_portrait_and_the_cartoons(bundle: Bundle) -> None:
    preview = read_rgb(bundle.files["preview.jpg"])
    before, after = preview[:384, :384].astype(float), preview[:384, 388:772].astype(float)
    assert 1 < np.abs(before - after).mean() < 15, "the network repeats the portrait, a little smoothed"
    strip = preview[420:500]
    assert [round(float(strip[:, 145 * i + 40 : 145 * i + 100].mean()) / 80) for i in range(CARTOONS)] == [0, 1, 2]


class _Off(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, photo: Tensor) -> Tensor:
        return self.network(photo) + 0.02


def test_a_network_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(Workspace(tmp_path))
    monkeypatch.setattr(build, "to_torchscript", lambda module: to_torchscript(_Off(module)))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ExportError, match=r"torchscript network differs .* by 2\.\d+ of 255 levels"):
        export(run, formats=("torchscript",), workspace=Workspace(tmp_path))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_failed_run_does_not_hide_the_good_one(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    good = make_run(workspace)
    (workspace.new_run_folder("pop-art", "dctnet") / "checkpoints").mkdir()
    assert export(formats=("safetensors",), workspace=workspace).path.parent == good
    assert Stylizer("pop-art", workspace=workspace).name == "pop-art"


def test_a_frozen_axis_is_noticed() -> None:
    network = generator()

    def only_square(photo: np.ndarray) -> np.ndarray:
        side = photo.shape[2]
        return network(torch.from_numpy(photo[..., :side])).numpy()

    assert measure(network, only_square, 64).max_levels == float("inf")


def test_weights_that_half_precision_cannot_hold_stay_whole(tmp_path: Path) -> None:
    network = generator()
    with torch.no_grad():
        network.unet.down2a.weight.mul_(1e7)
        network.unet.down2b.weight.mul_(1e-7)
    run = make_run(Workspace(tmp_path), network=network)
    report = export(run, formats=("safetensors",), workspace=Workspace(tmp_path))
    assert report.precision == "float32"
    again = unpack_generator(read_bundle(report.path), report.style.networks.face)
    assert torch.equal(again.unet.down2a.weight, network.unet.down2a.weight)  # type: ignore[union-attr, arg-type]


@pytest.mark.slow
def test_half_weights_cost_nothing_but_one_cast_each() -> None:
    graph = onnx.load_from_string(half_graph()).graph
    kinds = Counter(node.op_type for node in graph.node)
    assert kinds["Cast"] == sum(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in graph.initializer) > 0
    assert kinds["Conv"] == 12
    assert sum(kinds.values()) - kinds["Cast"] < 50
    photo = np.random.default_rng(2).uniform(-1, 1, (1, 3, 40, 24)).astype(np.float32)
    rounded = generator().half().float()(torch.from_numpy(photo)).numpy()
    assert np.abs(run_onnx(half_graph())(photo) - rounded).max() < 1e-5


def test_a_bundle_is_made_again_only_when_something_changed(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    small = recipe(export={"formats": ["safetensors"]})
    run = make_run(workspace, made_by=small)
    first = up_to_date(workspace=workspace)
    written = (first.path / "style.json").stat().st_mtime_ns
    assert up_to_date("pop-art", workspace=workspace) == first
    assert (first.path / "style.json").stat().st_mtime_ns == written
    (run / "env.json").write_text('{"gpu": "a faster one"}')
    assert up_to_date(run, workspace=workspace).style.training.hardware == "a faster one"


def test_figures_of_other_weights_are_left_out_and_the_log_says_why(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    workspace = Workspace(tmp_path)
    run = make_run(workspace, made_by=recipe(export={"formats": ["safetensors"]}))
    checkpoint = chosen_checkpoint(run)
    evaluated(run, "0" * 64)
    assert export(run, workspace=workspace).style.metrics is None
    (warning,) = [record.getMessage() for record in caplog.records if record.name == "stylekit.exporters.build"]
    step = describe_checkpoint(checkpoint).step
    assert f"they are of other weights (step 7), and this is step {step}." in warning
    assert f"Run: stylekit eval --run {checkpoint}" in warning
    (run / "eval.json").rename(checkpoint / "eval.json")
    report = read_report(checkpoint / "eval.json")
    network = report.network.model_copy(update={"sha256": describe_checkpoint(checkpoint).sha256[WEIGHTS]})
    write_report(checkpoint / "eval.json", report.model_copy(update={"network": network}))
    caplog.clear()
    metrics = export(checkpoint, workspace=workspace).style.metrics
    assert metrics is not None
    assert metrics.rows == report.rows
    assert not [record for record in caplog.records if record.name == "stylekit.exporters.build"]


@pytest.mark.parametrize("name", ["bundle", "bundle.zip"])
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    run = make_run(Workspace(tmp_path))

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StylekitError, match="No space left"):
        export(run, formats=("safetensors",), output=tmp_path / name, workspace=Workspace(tmp_path))
    assert sorted(tmp_path.rglob("*")) == before


def test_what_cannot_be_exported_is_named(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with pytest.raises(UsageError, match="No style"):
        export(workspace=workspace)
    with pytest.raises(CheckpointError, match="noir"):
        export("noir", workspace=workspace)
    workspace.new_run_folder("noir", "dctnet")
    with pytest.raises(CheckpointError, match="no trained run"):
        export("noir", workspace=workspace)
    make_run(workspace)
    with pytest.raises(UsageError, match="pickle"):
        export("pop-art", formats=("pickle",), workspace=workspace)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_network_for_phones_is_exported_like_any_other_but_not_for_modelscope(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    network = NetworkRecipe(arch="unet-lite", width=8, blocks=1)
    made_by = recipe(train=recipe().train.model_dump() | {"network": network.model_dump()})
    torch.manual_seed(0)
    make_run(workspace, made_by=made_by, network=make_generator(network))
    with pytest.raises(ExportError, match="knows no network but the U-Net"):
        export(workspace=workspace, formats=("modelscope",))
    report = export(workspace=workspace, formats=("onnx", "torchscript"))
    assert set(report.parity) == {"safetensors", "onnx", "torchscript"}
    assert report.parity["onnx"].max_levels < MAX_LEVELS / 2
    bundled = read_bundle(report.path)
    assert bundled.style.networks.face.arch == "unet-lite"
    assert network_of(unpack_generator(bundled, bundled.style.networks.face)) == network
