"""Frozen graphs in and out, and run without TensorFlow."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stylekit.errors import CheckpointError, MissingPartError
from stylekit.modelscope.graph import frozen
from stylekit.modelscope.graph.execute import constant, execute
from stylekit.modelscope.graph.frozen import draw, frozen_graph, parse_graph, read_frozen
from stylekit.modelscope.graph.weights import generator_arrays, generator_from
from tests.modelscope.graph.networks import generator, graph, graph_bytes, levels_apart, noise, under


@settings(max_examples=5, deadline=None)
@given(width=st.integers(4, 12), blocks=st.integers(0, 3))
def test_ours_comes_back_from_a_pb_to_the_bit(tmp_path_factory, width, blocks):
    file = tmp_path_factory.mktemp("pb") / "cartoon_h.pb"
    before = generator(width, blocks)
    file.write_bytes(frozen_graph(before))
    after = generator_from(read_frozen(file))
    assert len(after.unet.res) == blocks
    assert all(torch.equal(value, after.state_dict()[key]) for key, value in before.state_dict().items())
    assert frozen_graph(after) == file.read_bytes()


@pytest.mark.parametrize("prefix", ["model_anime_head/", "a/b_1/"])
def test_a_graph_imported_under_a_name_reads_alike(tmp_path, prefix):
    (tmp_path / "named.pb").write_bytes(under(prefix).SerializeToString())
    arrays = read_frozen(tmp_path / "named.pb")
    assert {k: v.tolist() for k, v in arrays.items()} == {k: v.tolist() for k, v in generator_arrays(generator()).items()}


@pytest.mark.parametrize("size", [(4, 8), (36, 20), (256, 256), (288, 288)])
def test_the_graph_draws_what_the_generator_draws(size):
    picture = noise(*size)
    made = execute(graph(), picture)
    assert made.shape == picture.shape
    assert levels_apart(made, draw(generator(), picture)) <= 1
    assert made.std() > 5


def test_a_picture_may_be_smaller_than_a_kernel_is_large():
    assert levels_apart(execute(graph(32, 4), noise(4, 8)), draw(generator(32, 4), noise(4, 8))) <= 1


@pytest.mark.slow
def test_the_graph_of_upstreams_size_draws_what_the_generator_draws():
    whole, network = graph(32, 4), generator(32, 4)
    for size in ((256, 256), (288, 288), (720, 960)):
        assert levels_apart(execute(whole, noise(*size)), draw(network, noise(*size))) <= 1


def flat(value):
    """Return a network and its graph that give the same value everywhere."""
    network = generator(4, 0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.unet.head.bias.fill_(value)
    return network, parse_graph(frozen_graph(network), "flat")


@pytest.mark.parametrize(("level", "drawn"), [(122.9, 122), (122.1, 122), (0.5, 0), (-40, 0), (254.9, 254), (300, 254)])
def test_levels_are_cut_not_rounded(level, drawn):
    network, whole = flat(level / 127.5 - 1)
    picture = np.full((8, 8, 3), 90, np.uint8)
    assert set(np.unique(execute(whole, picture))) == {drawn}
    assert set(np.unique(draw(network, picture))) == {drawn}


def test_colours_are_blue_green_red():
    network = generator(4, 0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.unet.head.bias.copy_(torch.tensor([-0.5, 0.0, 0.5]))
    for made in (execute(parse_graph(frozen_graph(network), "x"), noise(8, 8)), draw(network, noise(8, 8))):
        assert made[4, 4].tolist() == [191, 127, 63]


def test_pictures_may_be_floats():
    picture = noise(16, 12)
    assert np.array_equal(execute(graph(), picture), execute(graph(), picture.astype(np.float32)))


def test_names_are_those_of_upstreams_exporter():
    nodes = {node.name: node for node in graph(32, 4).node}
    assert len(nodes) == len(graph(32, 4).node) == 232
    assert nodes["input_image"].op == "Placeholder"
    assert [dim.size for dim in nodes["input_image"].attr["shape"].shape.dim] == [-1, -1, 3]
    assert nodes["generator/Conv/weights"].op == "Const"
    assert nodes["generator/Conv/weights/read"].op == "Identity"
    assert list(nodes["generator/Conv/Conv2D"].input)[1] == "generator/Conv/weights/read"
    assert nodes["output_image"].op == "Cast"
    assert graph(32, 4).versions.producer > 0
    assert abs(len(graph_bytes(32, 4)) - 5_894_895) < 5000, "the size of the published ones"


def edited(change):
    whole = graph()
    change({node.name: node for node in whole.node}, whole)
    return whole


def set_shape(node, *sizes):
    del node.attr["value"].tensor.tensor_shape.dim[:]
    for size in sizes:
        node.attr["value"].tensor.tensor_shape.dim.add(size=size)


def set_content(node, array):
    set_shape(node, *array.shape)
    node.attr["value"].tensor.tensor_content = array.tobytes()


def remove(whole, name):
    del whole.node[[node.name for node in whole.node].index(name)]


def rename(nodes, name, to):
    nodes[name].name = to


def constant_node(whole, name, numbers):
    """Add whole numbers, repeated to any number at no cost where they are one."""
    node = whole.node.add(name=name, op="Const")
    node.attr["dtype"].type = node.attr["value"].tensor.dtype = 3
    node.attr["value"].tensor.int_val.extend(numbers)
    set_shape(node, len(numbers))
    return name


def add(whole, name, kind, *inputs, **types):
    node = whole.node.add(name=name, op=kind, input=inputs)
    for key, value in types.items():
        node.attr[key].type = value
    return name


def waits_for(whole, *names):
    whole.node[[node.name for node in whole.node].index("output_image")].input.extend(f"^{name}" for name in names)


def write_file(whole):
    """Have a file written before the picture is drawn, as a node that nothing reads."""
    for name, text in (("path", b"written"), ("text", b"by a graph")):
        node = whole.node.add(name=f"{name}_of_evil", op="Const")
        node.attr["dtype"].type = node.attr["value"].tensor.dtype = 7
        node.attr["value"].tensor.tensor_shape.SetInParent()
        node.attr["value"].tensor.string_val.append(text)
    add(whole, "evil", "WriteFile", "path_of_evil", "text_of_evil")
    waits_for(whole, "evil")


def fill(whole, name, kind, *sizes):
    """Fill a tensor with its own first size."""
    constant_node(whole, f"{name}/dims", sizes)
    constant_node(whole, f"{name}/value", [1])
    whole.node[-1].attr["value"].tensor.tensor_shape.ClearField("dim")
    value = f"{name}/value" if kind == 3 else add(whole, f"{name}/float", "Cast", f"{name}/value", SrcT=3, DstT=kind)
    return add(whole, name, "Fill", f"{name}/dims", value, T=kind, index_type=3)


def resized(whole, *sizes):
    """Bring the photograph to a size on the way to nowhere."""
    size = constant_node(whole, "evil/size", sizes)
    waits_for(whole, add(whole, "evil", "ResizeBilinear", "strided_slice_1", size, T=1))


def many(whole):
    """Make a hundred tensors of the largest size, each kept under another name until the end."""
    for at in range(100):
        waits_for(whole, add(whole, f"evil_{at}", "Identity", fill(whole, f"full_{at}", 1, 24, 40, 1000), T=1))


HOSTILE = {
    "a file that is written": (lambda n, g: write_file(g), "text_of_evil holds neither float32 nor int32"),
    "what nothing reads": (
        lambda n, g: (g.node.add(name="evil", op="NoOp"), waits_for(g, "evil")),
        "node evil is a NoOp",
    ),
    "what is not there to wait for": (lambda n, g: waits_for(g, "ghost"), "no node ghost"),
    "whole numbers far too many": (lambda n, g: waits_for(g, fill(g, "evil", 3, 300_000_000)), "evil .*300,000,000 numbers"),
    "floats far too many": (lambda n, g: waits_for(g, fill(g, "evil", 1, 300_000_000)), "evil .*300,000,000 numbers"),
    "too many on the way": (lambda n, g: resized(g, 60_000_000, 1), "evil .*numbers"),
    "too many on the way to nothing": (lambda n, g: resized(g, 60_000_000, 0), "evil .*numbers"),
    "a size of nothing": (lambda n, g: resized(g, 0, 4), "evil .*division"),
    "a size of many numbers": (lambda n, g: waits_for(g, fill(g, "evil", 3, *[1] * 9)), "evil .*a few whole numbers"),
    "many that are kept": (lambda n, g: many(g), "more is kept"),
    "another operation": (lambda n, g: setattr(n["generator/LeakyRelu"], "op", "Tanh"), "generator/LeakyRelu is a Tanh"),
    "code": (lambda n, g: setattr(n["generator/LeakyRelu"], "op", "PyFunc"), "PyFunc"),
    "a missing tensor": (lambda n, g: remove(g, "generator/Conv_3/biases"), "generator/Conv_3/biases"),
    "a renamed tensor": (
        lambda n, g: (
            rename(n, "generator/Conv_3/biases", "other"),
            n["generator/Conv_3/biases/read"].input.__setitem__(0, "other"),
        ),
        "generator/Conv_3/biases",
    ),
    "a huge shape": (lambda n, g: set_shape(n["generator/Conv_3/weights"], 1 << 20, 1 << 20, 16, 16), "generator/Conv_3/weights"),
    "a huge repeated number": (
        lambda n, g: (
            set_shape(n["generator/Conv_3/biases"], 1 << 40),
            n["generator/Conv_3/biases"].attr["value"].tensor.ClearField("tensor_content"),
            n["generator/Conv_3/biases"].attr["value"].tensor.float_val.append(1),
        ),
        "generator/Conv_3/biases",
    ),
    "a negative size": (lambda n, g: set_shape(n["generator/Conv_3/biases"], -4, -4), "generator/Conv_3/biases"),
    "doubles": (lambda n, g: setattr(n["generator/Conv_3/biases"].attr["value"].tensor, "dtype", 2), "generator/Conv_3/biases"),
    "halves": (lambda n, g: setattr(n["generator/Conv_3/biases"].attr["value"].tensor, "dtype", 19), "generator/Conv_3/biases"),
    "not a number": (
        lambda n, g: set_content(n["generator/Conv_3/biases"], np.full(16, np.nan, np.float32)),
        "generator/Conv_3/biases holds values that are not finite",
    ),
    "another shape": (
        lambda n, g: set_content(n["generator/Conv_3/biases"], np.zeros(17, np.float32)),
        "generator/Conv_3/biases",
    ),
    "no output": (lambda n, g: rename(n, "output_image", "result"), "output_image"),
    "two outputs": (lambda n, g: g.node.add(name="again/output_image", op="Const"), "again/output_image"),
    "no input": (lambda n, g: setattr(n["input_image"], "op", "Const"), "input_image"),
    "a circle": (
        lambda n, g: n["generator/Conv/BiasAdd"].input.__setitem__(0, "generator/LeakyRelu"),
        "generator/.* is part of a circle",
    ),
    "an input that is not there": (lambda n, g: n["sub"].input.__setitem__(0, "ghost"), "ghost"),
    "a picture far too large": (
        lambda n, g: n["generator/mul/y"].attr["value"].tensor.int_val.__setitem__(0, 1 << 15),
        "generator/ResizeBilinear .*numbers",
    ),
    "a size below nothing": (
        lambda n, g: n["generator/mul/y"].attr["value"].tensor.int_val.__setitem__(0, -3),
        "generator/ResizeBilinear",
    ),
    "half-pixel centres": (
        lambda n, g: setattr(n["generator/ResizeBilinear"].attr["half_pixel_centers"], "b", True),
        "generator/ResizeBilinear",
    ),
    "another slope": (lambda n, g: setattr(n["generator/LeakyRelu_2"].attr["alpha"], "f", 0.4), "something else"),
    "another stride": (
        lambda n, g: n["generator/Conv_1/Conv2D"].attr["strides"].list.i.__setitem__(slice(1, 3), [0, 0]),
        "generator/Conv_1/Conv2D",
    ),
    "another layout": (
        lambda n, g: setattr(n["generator/Conv_1/Conv2D"].attr["data_format"], "s", b"NCHW"),
        "generator/Conv_1/Conv2D",
    ),
    "another filter": (
        lambda n, g: n["add/y"].attr["value"].tensor.float_val.__setitem__(0, 5.0),
        "something else",
    ),
    "a filter left out": (lambda n, g: n["strided_slice_4"].input.__setitem__(0, "generator/Conv_9/BiasAdd"), "something else"),
    "the photograph itself": (lambda n, g: n["strided_slice_4"].input.__setitem__(0, "sub"), "generator/Conv/weights"),
    "floats as a picture": (lambda n, g: setattr(n["output_image"].attr["DstT"], "type", 1), "uint8"),
}


def peak_mb():
    """Return the most memory that this process has had; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** (20 if sys.platform == "darwin" else 10)


@pytest.mark.parametrize("case", HOSTILE)
def test_a_graph_that_is_not_this_network_is_refused_by_name(tmp_path, case):
    change, says = HOSTILE[case]
    file = tmp_path / "odd.pb"
    file.write_bytes(edited(change).SerializeToString())
    start = time.process_time()
    before = peak_mb()
    with pytest.raises(CheckpointError, match=rf"odd\.pb.*({says})"):
        read_frozen(file)
    assert time.process_time() - start < 5
    assert peak_mb() - before < 100


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path, share):
    file = tmp_path / "cut.pb"
    file.write_bytes(graph_bytes()[: int(share * len(graph_bytes()))])
    with pytest.raises(CheckpointError, match=r"cut\.pb"):
        read_frozen(file)


@pytest.mark.parametrize("data", [b"", b"\0", b"not a graph", b"\x89PNG\r\n\x1a\n" + bytes(64), b"PK\x03\x04" + bytes(64)])
def test_rubbish_is_refused(tmp_path, data):
    (tmp_path / "some.pb").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"some\.pb"):
        read_frozen(tmp_path / "some.pb")


def test_folders_and_missing_files_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"is a folder.*cartoon_h\.pb"):
        read_frozen(tmp_path)
    with pytest.raises(CheckpointError, match=r"gone\.pb cannot be read"):
        read_frozen(tmp_path / "gone.pb")


def test_large_files_are_refused_quickly(tmp_path, monkeypatch):
    whole = graph()
    whole.node.add(name="ballast", op="Const").attr["value"].tensor.tensor_content = bytes(64 << 20)
    zeros = tmp_path / "zeros.pb"
    with zeros.open("wb") as stream:
        stream.truncate(64 << 20)
    huge = tmp_path / "huge.pb"
    with huge.open("wb") as stream:
        stream.truncate(frozen.MAX_BYTES + 1)
    other = tmp_path / "other.pb"
    remove(whole, "generator/Conv_3/biases")
    other.write_bytes(whole.SerializeToString())
    start = time.process_time()
    for file, says in ((zeros, "damaged"), (huge, "MB"), (other, "Conv_3/biases")):
        with pytest.raises(CheckpointError, match=says):
            read_frozen(file)
    assert time.process_time() - start < 3


def test_any_changed_byte_is_refused_or_read_without_harm(tmp_path):
    """A graph has no digest; what can be asked is that nothing but CheckpointError ever comes out."""
    draw_byte = np.random.default_rng(0)
    small = frozen_graph(generator(4, 0))
    for at in draw_byte.integers(0, len(small), 60):
        data = bytearray(small)
        data[at] ^= int(draw_byte.integers(1, 256))
        (tmp_path / "bent.pb").write_bytes(data)
        refused = []
        try:
            read = read_frozen(tmp_path / "bent.pb")
        except CheckpointError as error:
            refused.append(error.message)
        assert "bent.pb" in refused[0] if refused else len(read) == 20


def test_old_exporters_wrote_add_and_repeated_numbers():
    def change(nodes, whole):
        for node in whole.node:
            node.op = {"AddV2": "Add"}.get(node.op, node.op)
            for key in ("dilations", "explicit_paddings", "half_pixel_centers", "use_cudnn_on_gpu"):
                node.attr.pop(key, None)
        tensor = nodes["depthwise_1/filter_in"].attr["value"].tensor
        tensor.ClearField("tensor_content")
        tensor.float_val.append(1 / 9)

    old = edited(change)
    assert constant({node.name: node for node in old.node}["depthwise_1/filter_in"]).shape == (3, 3, 3, 1)
    assert levels_apart(execute(old, noise(32, 24)), execute(graph(), noise(32, 24))) == 0


def test_without_tensorboard_the_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto", None)
    with pytest.raises(MissingPartError, match=r"tensorboard.*stylekit\[tensorboard\]"):
        frozen_graph(generator(4, 0))
    with pytest.raises(MissingPartError):
        parse_graph(b"", "x")


@pytest.mark.slow
def test_no_tensorflow_wakes(tmp_path):
    (tmp_path / "a.pb").write_bytes(graph_bytes())
    program = (
        "import sys; from pathlib import Path; from stylekit.modelscope.graph.frozen import read_frozen; "
        "read_frozen(Path('a.pb')); print(sorted({'tensorflow', 'modelscope'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
