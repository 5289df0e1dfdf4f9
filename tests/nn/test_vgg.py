import pickle
import tracemalloc

import numpy as np
import pytest
import torch

from stylekit.cli import run
from stylekit.errors import AssetError
from stylekit.nn.vgg import MAX_BYTES, Vgg, load_vgg16_hed, load_vgg19_caffe, read_array_dict, slim_vgg19

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


HEADER = b"\x93NUMPY\x01\x00\x46\x00" + b"{'descr': '|O', 'fortran_order': False, 'shape': (), }".ljust(69) + b"\n"
NAMED = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
FLOATS = b"cnumpy\ndtype\n(S'f4'\nI0\nI1\ntR"

HOSTILE = {
    "an array of any size": (b"cnumpy\nndarray\n(L100000000000L\ntR.", "not callable"),
    "an empty array made large": (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(L100000000000L\ntS'b'\ntR.",
        "array of another kind",
    ),
    "objects by the thousand million": (
        NAMED + b"(I1\n(L4000000000L\nt" + FLOATS.replace(b"f4", b"O8") + b"I00\n(lt" + b"b.",
        "array of objects",
    ),
    "a shape beyond its bytes": (NAMED + b"(I1\n(L4000000000L\nt" + FLOATS + b"I00\nS'1234'\ntb.", "1 numbers for an array of"),
    "a number for bytes": (NAMED + b"(I1\n(I1\nt" + FLOATS + b"I00\nL4000000000L\ntb.", "array without bytes"),
    "a type of any size": (NAMED + b"(I1\n(t" + FLOATS.replace(b"f4", b"V2000000000") + b"I00\nS''\ntb.", "type V2000000000"),
    "a single number of any size": (
        b"cnumpy.core.multiarray\nscalar\n(" + FLOATS + b"tR.",
        "asks for numpy.core.multiarray.scalar",
    ),
    "bytes that are not there": (b"\x80\x04\x8e" + (1 << 40).to_bytes(8, "little") + b"x.", ""),
    "an array of bytes that are not there": (b"\x80\x05\x96" + (1 << 40).to_bytes(8, "little") + b"x.", "more memory than"),
    "a place far off in its memory": (b"\x80\x02Nr" + ((1 << 31) - 1).to_bytes(4, "little") + b".", "one dictionary"),
    "one text over and over": (
        b"\x80\x02X"
        + (1 << 20).to_bytes(4, "little")
        + b"x" * (1 << 20)
        + b"q\x000c_codecs\nencode\nq\x010"
        + b"h\x01h\x00U\x06latin1\x86R" * 500
        + b".",
        "more memory than its own size",
    ),
    "another encoding": (b"c_codecs\nencode\n(S'a'\nS'idna'\ntR.", "encoding idna"),
    "lists of lists of lists": (b"\x80\x02]q\x00" + b"]q\x01(h\x00h\x00e" * 3 + b"}U\x01ah\x01s.", "is not a list of arrays"),
    "a key that is a tower": (b"\x80\x02})" + b"\x85" * 200_000 + b"Ns.", "no name"),
    "a set of towers": (b"\x80\x04\x8f()" + b"\x85" * 200_000 + b"\x90.", "sets"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_file_cannot_ask_for_more_than_it_has(tmp_path, case):
    program, says = HOSTILE[case]
    path = tmp_path / "vgg19.npy"
    path.write_bytes(HEADER + program)
    tracemalloc.start()
    try:
        with pytest.raises(AssetError, match=rf"vgg19\.npy is not a safe VGG weight file: .*{says}"):
            read_array_dict(path)
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


def test_a_file_larger_than_any_is_not_even_read(tmp_path):
    with (tmp_path / "vgg19.npy").open("wb") as stream:
        stream.truncate(MAX_BYTES + 1)
    with pytest.raises(AssetError, match=r"vgg19\.npy is not a safe VGG weight file: it has 1,024 MB"):
        read_array_dict(tmp_path / "vgg19.npy")


@pytest.mark.parametrize("kind", ["<f4", ">f4", "<f2", "<f8"])
@pytest.mark.parametrize("save", ["upstream", "numpy"])
def test_every_kind_of_float_and_every_order_comes_back(tmp_path, kind, save):
    kernel = np.arange(24).reshape(2, 3, 4).astype(kind)
    content = {"conv1_1": [kernel, np.asfortranarray(kernel[0])]}
    path = tmp_path / "vgg19.npy"
    if save == "upstream":
        save_as_upstream(path, content)
    else:
        np.save(path, np.array(content, dtype=object), allow_pickle=True)
    found = read_array_dict(path)["conv1_1"]
    assert [each.dtype for each in found] == [np.float32, np.float32]
    assert np.array_equal(found[0], kernel)
    assert np.array_equal(found[1], kernel[0])


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


def layers_to_conv4_4():
    drawn, layers, inputs = np.random.RandomState(0), {}, 3
    for group, repeats in ((1, 2), (2, 2), (3, 4), (4, 4)):
        for k in range(1, repeats + 1):
            outputs = CHANNELS[group][1]
            kernel = drawn.standard_normal((3, 3, inputs, outputs)) * (2 / 9 / inputs) ** 0.5
            layers[f"conv{group}_{k}"] = [kernel.astype(np.float32), np.full(outputs, k / 3, np.float32)]
            inputs = outputs
    return layers


def test_a_file_that_ends_where_upstream_stops_reading_is_enough_for_upstreams_layer(tmp_path):
    layers = layers_to_conv4_4()
    for kernel, bias in layers.values():
        kernel[:], bias[:] = 0, round(3 * bias[0])
    network = load_vgg19_caffe(save_as_upstream(tmp_path / "vgg19.npy", layers))
    picture = torch.zeros(1, 3, 16, 16)
    assert network.features(picture, ("conv4_4",))["conv4_4"].unique().tolist() == [4]
    with pytest.raises(AssetError, match="end before conv5_1, conv5_2"):
        network.features(picture, ("conv4_4", "conv5_2", "conv5_1"))
    del layers["conv4_4"]
    with pytest.raises(AssetError, match="no layer conv4_4"):
        load_vgg19_caffe(save_as_upstream(tmp_path / "short.npy", layers))


def test_the_slim_file_sees_the_same(tmp_path):
    layers = layers_to_conv4_4() | {"conv5_1": [np.zeros((3, 3, 512, 512), np.float32), np.zeros(512, np.float32)]}
    whole, slim = save_as_upstream(tmp_path / "vgg19.npy", layers), tmp_path / "slim.npy"
    assert slim_vgg19(whole, slim) == slim.stat().st_size
    assert slim.stat().st_size < 21.2e6
    assert all(each.dtype == np.float16 for pair in np.load(slim, allow_pickle=True).item().values() for each in pair)
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    exact, rounded = (load_vgg19_caffe(path).features(picture, ("conv4_4",))["conv4_4"] for path in (whole, slim))
    difference = float((exact - rounded).abs().mean() / exact.abs().mean())
    assert 0 < difference < 2e-3


def test_the_command_writes_a_file_that_can_be_added_and_replaces_none(tmp_path, capsys):
    whole, slim = save_as_upstream(tmp_path / "vgg19.npy", layers_to_conv4_4()), tmp_path / "slim.npy"
    assert run(["assets", "slim", str(whole), str(slim)]) == 0
    assert "stylekit assets add content slim.npy --name vgg19-caffe" in capsys.readouterr().out
    assert load_vgg19_caffe(slim).order[-1] == "conv4_4"
    before = whole.read_bytes()
    assert run(["assets", "slim", str(whole), str(whole)]) == 2
    assert "Name a new file." in capsys.readouterr().err
    assert whole.read_bytes() == before


def test_numbers_that_float16_has_not_are_refused(tmp_path):
    layers = layers_to_conv4_4()
    layers["conv2_2"][1][3] = 7e4
    with pytest.raises(AssetError, match="layer conv2_2 holds numbers that float16 cannot"):
        slim_vgg19(save_as_upstream(tmp_path / "vgg19.npy", layers), tmp_path / "slim.npy")
    assert not (tmp_path / "slim.npy").exists()


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
