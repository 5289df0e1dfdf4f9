"""The ONNX graph: the operators that onnxruntime is fast at, and 8 bits where they do not show."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from stylekit.bundle import read_bundle
from stylekit.errors import ExportError
from stylekit.exporters import export, int8
from stylekit.exporters.build import _known
from stylekit.exporters.int8 import CALIBRATED, JUDGED, portraits, to_int8
from stylekit.exporters.onnx_graph import _for_blocks, to_onnx
from stylekit.exporters.verify import MEAN_LEVELS_INT8, Parity, enforce, run_onnx
from stylekit.images import Rgb
from stylekit.paths import Workspace
from stylekit.stylizer.network import open_network
from tests.trained import generator, half_graph, make_run


@settings(max_examples=30, deadline=None)
@given(
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    channels=st.integers(1, 4),
    inputs=st.integers(1, 4),
    radius=st.integers(1, 3),
    seed=st.integers(0, 9),
)
def test_a_convolution_draws_the_same_in_blocks(
    size: tuple[int, int], channels: int, inputs: int, radius: int, seed: int
) -> None:
    torch.manual_seed(seed)
    kernel = torch.randn(channels, inputs, 2 * radius + 1, 2 * radius + 1)
    bias, picture = torch.randn(channels), torch.randn(2, inputs, 2 * size[0], 2 * size[1])
    blocks = torch.from_numpy(_for_blocks(kernel.numpy()))
    drawn = F.pixel_shuffle(F.conv2d(picture, blocks, bias.repeat_interleave(4), stride=2, padding=radius), 2)
    assert torch.allclose(drawn, F.conv2d(picture, kernel, bias, padding=radius), atol=1e-4)


def test_the_graph_has_nothing_that_leaves_the_blocked_layout() -> None:
    model = onnx.load_from_string(half_graph())
    kinds = Counter(node.op_type for node in model.graph.node)
    assert kinds["Resize"] == 2, "each upsampling is one operator"
    assert kinds["DepthToSpace"] == 1, "the picture is drawn in blocks"
    assert not kinds.keys() & {"Slice", "Reshape", "Transpose", "Shape", "Gather", "Pad"}
    assert {entry.version for entry in model.opset_import if entry.domain == ""} == {18}, "later ones have no fast pooling"


@pytest.mark.slow
def test_the_graph_equals_the_network_and_8_bits_are_close_and_smaller() -> None:
    network = generator(32, 1)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.add_(torch.randn_like(parameter) * (0.02 if "weight" in name else 0))
    data = to_onnx(network, half=False)
    portraits = [F.interpolate(torch.rand(1, 3, 8, 8) * 2 - 1, size=64, mode="bicubic").clamp(-1, 1).numpy() for _ in range(6)]
    for photo in (*portraits[4:], np.random.default_rng(0).uniform(-1, 1, (2, 3, 20, 36)).astype(np.float32)):
        assert np.abs(run_onnx(data)(photo) - network(torch.from_numpy(photo)).numpy()).max() < 1e-5
    rounded = to_int8(data, portraits[:4])
    assert len(rounded) < len(data) / 2
    model = onnx.load_from_string(rounded)
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    whole = [node for node in model.graph.node if node.op_type == "Conv" and node.input[1] in held]
    assert len(whole) == 12 - 5, "the two at and after the second step down, both of the block, and the next"
    for photo in portraits[4:]:
        apart = np.abs(run_onnx(rounded)(photo) - run_onnx(data)(photo)) * 127.5
        assert 0 < apart.mean() < 0.5
    with pytest.raises(ExportError, match="assets fetch starter-photos"):
        to_int8(data, [])


@pytest.mark.slow
def test_8_bits_come_with_the_bundle_and_are_calibrated_on_portraits(tmp_path: Path) -> None:
    report = export(make_run(Workspace(tmp_path)), formats=("onnx-int8",), workspace=Workspace(tmp_path))
    assert 0 < report.parity["onnx-int8"].mean_levels < MEAN_LEVELS_INT8
    bundle = read_bundle(report.path)
    face = bundle.style.networks.face
    assert face.onnx_int8 == "face.int8.onnx"
    rounded, exact = (open_network(bundle, face.model_copy(update={"onnx": name}), "cpu") for name in (face.onnx_int8, face.onnx))
    photo = np.ascontiguousarray(np.random.default_rng(0).uniform(-1, 1, (1, 3, 40, 24)).astype(np.float32))
    assert 0 < np.abs(rounded(photo) - exact(photo)).max() < 0.1


def test_8_bits_bring_the_network_that_they_are_compared_with() -> None:
    assert _known(["onnx-int8"]) == ("safetensors", "onnx", "onnx-int8")
    assert _known(["torchscript"]) == ("safetensors", "torchscript")


@pytest.mark.parametrize("faces", [0, CALIBRATED, CALIBRATED + JUDGED - 1, CALIBRATED + JUDGED])
def test_8_bits_are_refused_where_no_face_is_left_to_judge_them_by(
    faces: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Finder:
        left = faces

        def find(self, photo: Rgb) -> list[SimpleNamespace]:
            self.left -= 1
            points = np.array([[20, 25], [44, 25], [32, 36], [23, 46], [41, 46]], np.float32)
            return [SimpleNamespace(landmarks_5=points)] if self.left >= 0 else []

    for name, instead in {
        "fetch": lambda name: tmp_path,
        "list_images": lambda folder: [folder / f"{i}.jpg" for i in range(60)],
        "read_rgb": lambda path: np.full((64, 64, 3), 99, np.uint8),
        "MeshFinder": Finder,
    }.items():
        monkeypatch.setattr(int8, name, instead)
    look = portraits.__wrapped__  # nothing of this is to be remembered
    if faces == CALIBRATED + JUDGED:
        assert len(look("dctnet", 32)) == faces
    else:
        with pytest.raises(ExportError, match=rf"8 bits need 40 faces .*, and {faces} were found"):
            look("dctnet", 32)


def test_8_bits_may_differ_by_half_a_level_on_average() -> None:
    assert enforce("onnx-int8", Parity(9.0, 0.4, ())).mean_levels == 0.4
    with pytest.raises(ExportError, match=r"onnx-int8 network differs .* by 0\.6 of 255 levels \(limit 0\.5 on average\)"):
        enforce("onnx-int8", Parity(9.0, 0.6, ()))
    with pytest.raises(ExportError, match=r"onnx network differs .* by 9 of 255 levels \(limit 1\)"):
        enforce("onnx", Parity(9.0, 0.4, ()))
