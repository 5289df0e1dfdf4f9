import pickle

import numpy as np
import pytest
import torch

from stylekit.errors import AssetError
from stylekit.nn.vgg import Vgg, load_vgg16_hed, load_vgg19_caffe, read_array_dict

CHANNELS = {1: (3, 64), 2: (64, 128), 3: (128, 256), 4: (256, 512)}


def small_layers():
    """conv1_1 .. conv2_1 with their true shapes."""
    drawn = np.random.RandomState(0)
    shapes = {"conv1_1": (3, 64), "conv1_2": (64, 64), "conv2_1": (64, 128)}
    return {
        k: [drawn.randn(3, 3, i, o).astype(np.float32) * 0.05, drawn.randn(o).astype(np.float32)] for k, (i, o) in shapes.items()
    }


def save_as_upstream(path, content):
    """`numpy.save` of a dictionary, with protocol 2 as Python 2 wrote it."""
    array = np.empty((), dtype=object)
    array[()] = content
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "|O", "fortran_order": False, "shape": ()})
        pickle.dump(array, stream, protocol=2)
    return path


def test_reads_upstreams_file_and_computes_with_it(tmp_path):
    layers = small_layers()
    path = save_as_upstream(tmp_path / "vgg19.npy", layers)
    network = load_vgg19_caffe(path, last="conv2_1")
    rgb = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    found = network.features(rgb, ("conv1_1", "conv2_1"))

    picture = (rgb[0].numpy()[::-1].transpose(1, 2, 0) + 1) * 127.5 - np.array([103.939, 116.779, 123.68])
    kernel, bias = layers["conv1_1"]
    expected = [(picture[4:7, 6:9] * kernel[..., o]).sum() + bias[o] for o in range(64)]
    assert np.allclose(found["conv1_1"][0, :, 5, 7].numpy(), expected, rtol=1e-4, atol=1e-3)
    assert found["conv2_1"].shape == (1, 128, 8, 8)
    assert found["conv2_1"].min() < 0, "features are taken before the ReLU"
    assert not any(p.requires_grad for p in network.parameters())


class Hostile:
    def __reduce__(self):
        import os

        return os.system, ("touch executed",)


def test_a_hostile_file_is_refused_and_executes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = save_as_upstream(tmp_path / "vgg19.npy", {"conv1_1": [Hostile(), np.zeros(3)]})
    with pytest.raises(AssetError, match=r"vgg19\.npy is not a safe VGG weight file.*system"):
        read_array_dict(path)
    assert not (tmp_path / "executed").exists()
    np.load(path, allow_pickle=True)
    assert (tmp_path / "executed").exists(), "the file was harmless, so the test proved nothing"


@pytest.mark.parametrize("content", [b"", b"not numpy", b"\x93NUMPY\x01\x00\x76\x00{'descr': '|O'", b"\x93NUMPY\x01\x00"])
def test_files_that_are_something_else(tmp_path, content):
    path = tmp_path / "vgg19.npy"
    path.write_bytes(content)
    with pytest.raises(AssetError, match="not a safe VGG weight file"):
        read_array_dict(path)


def test_missing_and_misshapen_layers_are_named(tmp_path):
    layers = small_layers()
    del layers["conv1_2"]
    with pytest.raises(AssetError, match="no layer conv1_2"):
        load_vgg19_caffe(save_as_upstream(tmp_path / "a.npy", layers), last="conv2_1")
    layers = small_layers() | {"conv1_2": [np.zeros((3, 3, 64, 32), np.float32), np.zeros(32, np.float32)]}
    with pytest.raises(AssetError, match="layer conv1_2 has shape"):
        load_vgg19_caffe(save_as_upstream(tmp_path / "b.npy", layers), last="conv2_1")


def test_a_file_that_ends_where_upstream_stops_reading_is_enough_for_upstreams_layer(tmp_path):
    layers, inputs = {}, 3
    for group, repeats in ((1, 2), (2, 2), (3, 4), (4, 4)):
        for k in range(1, repeats + 1):
            outputs = CHANNELS[group][1]
            layers[f"conv{group}_{k}"] = [np.zeros((3, 3, inputs, outputs), np.float32), np.full(outputs, k, np.float32)]
            inputs = outputs
    network = load_vgg19_caffe(save_as_upstream(tmp_path / "vgg19.npy", layers))
    picture = torch.zeros(1, 3, 16, 16)
    assert network.features(picture, ("conv4_4",))["conv4_4"].unique().tolist() == [4]
    with pytest.raises(AssetError, match="end before conv5_1, conv5_2"):
        network.features(picture, ("conv4_4", "conv5_2", "conv5_1"))
    del layers["conv4_4"]
    with pytest.raises(AssetError, match="no layer conv4_4"):
        load_vgg19_caffe(save_as_upstream(tmp_path / "short.npy", layers))


def test_reads_the_hed_trunk(tmp_path):
    h5py = pytest.importorskip("h5py")
    kept = {}
    with h5py.File(tmp_path / "hed.h5", "w") as file:
        for group, (inputs, outputs) in {**CHANNELS, 5: (512, 512)}.items():
            for index in range(2 if group < 3 else 3):
                shape = (3, 3, inputs if index == 0 else outputs, outputs)
                name = f"block{group}/layers/conv2d{f'_{index}' if index else ''}/vars"
                file[f"{name}/0"], file[f"{name}/1"] = (
                    np.full(shape, 1e-3 * group, np.float32),
                    np.full(outputs, index, np.float32),
                )
                kept[f"conv{group}_{index + 1}"] = (1e-3 * group, index)
    network = load_vgg16_hed(tmp_path / "hed.h5", last="conv3_3")
    for name, conv in network.convs.items():
        assert conv.weight[0, 0, 0, 0].item() == pytest.approx(kept[name][0])
        assert conv.bias[0].item() == kept[name][1]
    with pytest.raises(AssetError, match="not an HED weight file"):
        load_vgg16_hed(tmp_path / "nothing.h5")


def test_pooling_lies_between_the_groups():
    network = Vgg(16, (0, 0, 0), last="conv4_1")
    found = network.features(torch.zeros(1, 3, 40, 24), ("conv1_2", "conv2_2", "conv3_3", "conv4_1"))
    assert [tuple(x.shape[-2:]) for x in found.values()] == [(40, 24), (20, 12), (10, 6), (5, 3)]
