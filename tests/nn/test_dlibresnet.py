from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from stylekit.errors import AssetError
from stylekit.nn.dlibresnet import DlibResNet, load_dlib_resnet

SCALES = {"scale": 0.01, "min": -1.0}


def write_network(folder: Path) -> dict[str, np.ndarray]:
    """Write every tensor of the network with random integers, those of 64 channels as plain floats as the published file does."""
    random = np.random.default_rng(0)
    shapes = {"fc": [256, 128]}
    for name, weight in DlibResNet().state_dict().items():
        if name.endswith(".weight") and name != "fc.weight":
            part = name.removeprefix("blocks.").removesuffix(".weight").replace(".", "/")
            out, channels, *kernel = weight.shape
            shapes[f"{part}/conv/filters"] = [*kernel, channels, out]
            shapes |= {f"{part}/{kind}": [out] for kind in ("conv/bias", "scale/weights", "scale/biases")}
    entries, data, values = [], b"", {}
    for name, shape in shapes.items():
        integers = random.integers(0, 255, shape, np.uint8)
        values[name] = integers * np.float32(SCALES["scale"]) + np.float32(SCALES["min"])
        plain = name.startswith("conv64") and name.endswith("filters")
        entries.append({"name": name, "shape": shape, "dtype": "float32"})
        if not plain:
            entries[-1]["quantization"] = {"dtype": "uint8", **SCALES}
        data += values[name].tobytes() if plain else integers.tobytes()
    (folder / "face_recognition_model.bin").write_bytes(data)
    manifest = [{"paths": ["face_recognition_model.bin"], "weights": entries}]
    (folder / "face_recognition_model-weights_manifest.json").write_text(json.dumps(manifest))
    return values


def test_weights_are_restored_and_scales_folded_in(tmp_path: Path):
    values = write_network(tmp_path)
    state = load_dlib_resnet(tmp_path).state_dict()
    for source, target in (("conv32_down", "conv32_down"), ("conv64_1/conv2", "blocks.conv64_1.conv2")):
        filters, scale = values[f"{source}/conv/filters"], values[f"{source}/scale/weights"]
        np.testing.assert_allclose(state[f"{target}.weight"], np.transpose(filters * scale, (3, 2, 0, 1)), rtol=1e-6)
        bias = values[f"{source}/conv/bias"] * scale + values[f"{source}/scale/biases"]
        np.testing.assert_allclose(state[f"{target}.bias"], bias, rtol=1e-6)
    np.testing.assert_allclose(state["fc.weight"], values["fc"].T)


def test_network_is_frozen_but_lets_gradients_through(tmp_path: Path):
    write_network(tmp_path)
    network = load_dlib_resnet(tmp_path)
    faces = torch.full((2, 3, 150, 150), 128.0, requires_grad=True)
    embeddings = network(faces)
    assert embeddings.shape == (2, 128)
    embeddings.sum().backward()
    assert faces.grad is not None
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("length", [-100, 100])
def test_file_of_another_length_is_an_error(tmp_path: Path, length: int):
    write_network(tmp_path)
    data = tmp_path / "face_recognition_model.bin"
    data.write_bytes((data.read_bytes() + bytes(100))[: data.stat().st_size + length])
    with pytest.raises(AssetError, match="does not hold"):
        load_dlib_resnet(tmp_path)


def test_missing_folder_is_an_error(tmp_path: Path):
    with pytest.raises(AssetError, match="nowhere"):
        load_dlib_resnet(tmp_path / "nowhere")
