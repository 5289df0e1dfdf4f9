"""Frozen graphs, `cartoon_h.pb` and `cartoon_bg.pb`: read into arrays and written, without TensorFlow.

What is written equals what ModelScope's CartoonTranslationExporter writes, node by node: `input_image` float32 [H, W, 3] in
B, G, R from 0 to 255, to `output_image` uint8 of the same size, cut to whole levels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from stylekit.errors import CheckpointError, MissingPartError
from stylekit.modelscope.graph.execute import INPUT, OUTPUT, constant, find_network, run_network
from stylekit.modelscope.graph.weights import Arrays, generator_arrays, generator_from
from stylekit.nn.unet import LEAKY_SLOPE

MAX_BYTES = 512 * 2**20

_PRODUCER = 134
"""Version of the graph format: TensorFlow 1.15's, the last one that upstream was made for."""

_FLOAT, _INT, _UINT8 = 1, 3, 4  # DataType of TensorFlow's types.proto
_FILTER_RADIUS, _FILTER_EPS = 1, 1e-2
_CLIP = 0.999999
_PROBE = (24, 40)


def read_frozen(path: Path) -> Arrays:
    """Return the generator's tensors in a frozen graph, after seeing that the graph draws what they draw.

    Args:
        path: A `.pb` of upstream's exporter or of ours, imported under another name or not.

    Raises:
        CheckpointError: If it cannot be read, is no such graph, or computes something else.
        MissingPartError: If the package that describes the format is not installed.
    """
    name = str(path)
    network = find_network(parse_graph(read_file(path, MAX_BYTES), name), name)
    arrays = {
        node_name.removeprefix(network.prefix): constant(node, name)
        for node_name, node in network.nodes.items()
        if node.op == "Const" and node_name.removeprefix(network.prefix).startswith("generator/")
    }
    arrays = {key: value for key, value in arrays.items() if key.endswith(("/weights", "/biases"))}
    generator = generator_from(arrays, name)
    noise = np.random.default_rng(0).integers(0, 256, (*_PROBE, 3), np.uint8)
    drawn, expected = run_network(network, noise, name), draw(generator, noise)
    if np.abs(drawn.astype(int) - expected).max() > 1:
        raise CheckpointError(
            f"{name} has the tensors of a DCT-Net generator and computes something else with them.",
            "Give a graph that ModelScope's CartoonTranslationExporter wrote.",
        )
    return arrays


def read_file(path: Path, most: int) -> bytes:
    """Return the bytes of one of a model folder's files, at most `most`.

    Raises:
        CheckpointError: If it is too large, or cannot be read.
    """
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder, not a frozen graph.", "Name the file in it, such as cartoon_h.pb.")
    try:
        size = path.stat().st_size
        if size > most:
            raise CheckpointError(f"{path} has {size / 2**20:,.0f} MB, far more than it needs.", "Copy or fetch it again.")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.", "Check the path.") from error


def parse_graph(data: bytes, source: str) -> Any:
    """Return the GraphDef in `data`.

    Raises:
        CheckpointError: If it is none.
        MissingPartError: If the package that describes the format is not installed.
    """
    graph = _proto().GraphDef()
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        graph.ParseFromString(data)
    except DecodeError as error:
        raise CheckpointError(f"{source} is damaged or not a TensorFlow graph.", "Copy or fetch it again.") from error
    if not graph.node:
        raise CheckpointError(f"{source} holds no TensorFlow graph.", "Copy or fetch it again.")
    return graph


def draw(generator: nn.Module, picture: NDArray[Any]) -> NDArray[np.uint8]:
    """Run a generator on one picture the way an exported graph does.

    Args:
        generator: RGB NCHW in [-1, 1] to the same.
        picture: B, G, R, uint8 or float32 [H, W, 3] from 0 to 255.

    Returns:
        B, G, R, uint8 [H, W, 3], cut to whole levels.
    """
    photo = torch.from_numpy(np.ascontiguousarray(picture[..., ::-1], np.float32)).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.inference_mode():
        made = generator(photo)[0].clamp(-_CLIP, _CLIP)
    levels = ((made + 1) * 127.5).to(torch.uint8)
    return np.ascontiguousarray(levels.permute(1, 2, 0).numpy()[..., ::-1])


def frozen_graph(generator: nn.Module) -> bytes:
    """Return the generator as a frozen graph; equal weights give equal bytes.

    Args:
        generator: A `stylekit.nn.unet.Generator` of any width and number of blocks.

    Raises:
        MissingPartError: If the package that describes the format is not installed.
    """
    build = _Builder(_proto())
    arrays = generator_arrays(generator)
    for name, array in arrays.items():
        build.constant(name, array)
        build.node(f"{name}/read", "Identity", name, T=_FLOAT)
    blocks = sum(name.endswith("/conv1/weights") for name in arrays)
    photo = build.photo()
    picture = build.guided_filter(photo, build.unet(photo, blocks))
    build.levels(picture)
    data: bytes = build.graph.SerializeToString(deterministic=True)
    return data


class _Builder:
    """Nodes in the order and of the kinds in which upstream's exporter leaves them; each method returns a node's name."""

    def __init__(self, proto: Any) -> None:
        self.graph = proto.GraphDef()
        self.graph.versions.producer = _PRODUCER

    def node(self, name: str, kind: str, *inputs: str, **attributes: Any) -> str:
        node = self.graph.node.add(name=name, op=kind, input=inputs)
        for key, value in attributes.items():
            attribute = node.attr[key]
            if isinstance(value, bool):
                attribute.b = value
            elif isinstance(value, bytes):
                attribute.s = value
            elif isinstance(value, float):
                attribute.f = value
            elif isinstance(value, list):
                attribute.list.i.extend(value)
            elif key in ("T", "dtype", "SrcT", "DstT", "Index", "out_type", "index_type"):
                attribute.type = value
            else:
                attribute.i = value
        return name

    def constant(self, name: str, value: Any, kind: int = _FLOAT) -> str:
        array = np.asarray(value, "<f4" if kind == _FLOAT else "<i4")
        self.node(name, "Const", dtype=kind)
        tensor = self.graph.node[-1].attr["value"].tensor
        tensor.dtype = kind
        tensor.tensor_shape.SetInParent()
        for size in array.shape:
            tensor.tensor_shape.dim.add(size=size)
        if array.size == 1:
            (tensor.float_val if kind == _FLOAT else tensor.int_val).append(array.item())
        else:
            tensor.tensor_content = array.tobytes()
        return name

    def binary(self, name: str, kind: str, x: str, y: str | float, of: int = _FLOAT) -> str:
        """Add an operation on two nodes, or on one and a number."""
        second = y if isinstance(y, str) else self.constant(f"{name}/y", y, of)
        return self.node(name, kind, x, second, T=of)

    def slice(self, name: str, x: str, start: list[int], stop: list[int], *, of: int = _FLOAT, **masks: int) -> str:
        bounds = zip(("stack", "stack_1", "stack_2"), (start, stop, [1] * len(start)), strict=True)
        parts = [self.constant(f"{name}/{part}", value, _INT) for part, value in bounds]
        given = {f"{mask}_mask": masks.get(mask, 0) for mask in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")}
        return self.node(name, "StridedSlice", x, *parts, T=of, Index=_INT, **given)

    def shape(self, name: str, x: str) -> str:
        return self.node(name, "Shape", x, T=_FLOAT, out_type=_INT)

    def side(self, name: str, shape: str, axis: int) -> str:
        return self.slice(name, shape, [axis], [axis + 1], of=_INT, shrink_axis=1)

    def photo(self) -> str:
        """Add the way from `input_image` to [1, H, W, 3] in [-1, 1]."""
        given = self.node(INPUT, "Placeholder", dtype=_FLOAT)
        shape = self.graph.node[-1].attr["shape"].shape
        for size in (-1, -1, 3):
            shape.dim.add(size=size)
        whole = self.slice("strided_slice", given, [0, 0, 0], [0, 0, 0], begin=7, end=7)
        batch = self.slice("strided_slice_1", whole, [0], [0], new_axis=1)
        return self.binary("sub", "Sub", self.binary("truediv", "RealDiv", batch, 127.5), 1.0)

    def conv(self, scope: str, x: str, stride: int = 1) -> str:
        made = self.node(
            f"{scope}/Conv2D",
            "Conv2D",
            x,
            f"{scope}/weights/read",
            T=_FLOAT,
            strides=[1, stride, stride, 1],
            padding=b"SAME",
            **_CONV_DEFAULTS,
            use_cudnn_on_gpu=True,
        )
        return self.node(f"{scope}/BiasAdd", "BiasAdd", made, f"{scope}/biases/read", T=_FLOAT, data_format=b"NHWC")

    def unet(self, photo: str, blocks: int) -> str:
        def conv(number: int, x: str, stride: int = 1) -> str:
            return self.conv(f"generator/{_numbered('Conv', number)}", x, stride)

        def leaky(name: str, x: str) -> str:
            return self.node(f"generator/{name}", "LeakyRelu", x, T=_FLOAT, alpha=LEAKY_SLOPE)

        def layer(number: int, x: str, stride: int = 1) -> str:
            return leaky(_numbered("LeakyRelu", number), conv(number, x, stride))

        full = layer(0, photo)
        half = layer(2, layer(1, full, 2))
        x = layer(4, layer(3, half, 2))
        for index in range(blocks):
            block = f"block_{index}"
            changed = self.conv(f"generator/{block}/conv1", x)
            changed = self.conv(f"generator/{block}/conv2", leaky(f"{block}/LeakyRelu", changed))
            x = self.binary(f"generator/{block}/add", "AddV2", changed, x)
        x = self.binary("generator/add", "AddV2", self.twice(0, layer(5, x)), half)
        x = self.binary("generator/add_1", "AddV2", self.twice(1, layer(7, layer(6, x))), full)
        return conv(9, layer(8, x))

    def twice(self, number: int, x: str) -> str:
        """Add TensorFlow 1's bilinear resize to twice the size."""
        doubled = []
        for axis in (1, 2):
            at = 2 * number + axis - 1
            shape = self.shape(_numbered("generator/Shape", at), x)
            side = self.side(_numbered("generator/strided_slice", at), shape, axis)
            doubled.append(self.binary(_numbered("generator/mul", at), "Mul", side, 2, _INT))
        name = _numbered("generator/ResizeBilinear", number)
        size = self.node(f"{name}/size", "Pack", *doubled, T=_INT, N=2, axis=0)
        return self.node(name, "ResizeBilinear", x, size, T=_FLOAT, align_corners=False, half_pixel_centers=False)

    def box(self, number: int, x: str, channels: int) -> str:
        """Add the sum over a window, divided by its size, zeros beyond the border."""
        side = 2 * _FILTER_RADIUS + 1
        name = _numbered("depthwise", number)
        window = self.constant(f"{name}/filter_in", np.full((side, side, channels, 1), 1 / side**2))
        return self.node(
            name, "DepthwiseConv2dNative", x, window, T=_FLOAT, strides=[1, 1, 1, 1], padding=b"SAME", **_CONV_DEFAULTS
        )

    def guided_filter(self, guide: str, made: str) -> str:
        given = self.shape("Shape", guide)
        height, width = (self.side(f"strided_slice_{axis + 1}", given, axis) for axis in (1, 2))
        one, last = (self.constant(f"ones/packed/{at}", 1, _INT) for at in (0, 3))
        shape = self.node("ones/packed", "Pack", one, height, width, last, T=_INT, N=4, axis=0)
        ones = self.node("ones", "Fill", shape, self.constant("ones/Const", 1.0), T=_FLOAT, index_type=_INT)
        inside = self.box(0, ones, 1)

        def mean(number: int, x: str) -> str:
            return self.binary(_numbered("truediv", number), "RealDiv", self.box(number, x, 3), inside)

        def times(number: int, x: str, y: str) -> str:
            return self.binary(_numbered("mul", number), "Mul", x, y)

        def minus(number: int, x: str, y: str) -> str:
            return self.binary(_numbered("sub", number), "Sub", x, y)

        mean_x, mean_y = mean(1, guide), mean(2, made)
        covariance = minus(1, mean(3, times(0, guide, made)), times(1, mean_x, mean_y))
        variance = minus(2, mean(4, times(2, guide, guide)), times(3, mean_x, mean_x))
        slope = self.binary("slope", "RealDiv", covariance, self.binary("add", "AddV2", variance, _FILTER_EPS))
        offset = minus(3, mean_y, times(4, slope, mean_x))
        mean_slope, mean_offset = mean(5, slope), mean(6, offset)
        return self.binary("add_1", "AddV2", times(5, mean_slope, guide), mean_offset)

    def levels(self, made: str) -> str:
        """Add the way from [1, H, W, 3] in about [-1, 1] to `output_image`."""
        picture = self.slice("strided_slice_4", made, [0], [1], shrink_axis=1)
        below = self.binary("clip_by_value/Minimum", "Minimum", picture, _CLIP)
        clipped = self.binary("clip_by_value", "Maximum", below, -_CLIP)
        scaled = self.binary("mul_6", "Mul", self.binary("add_2", "AddV2", clipped, 1.0), 127.5)
        return self.node(OUTPUT, "Cast", scaled, SrcT=_FLOAT, DstT=_UINT8, Truncate=False)


_CONV_DEFAULTS: dict[str, Any] = {"data_format": b"NHWC", "dilations": [1, 1, 1, 1], "explicit_paddings": []}


def _numbered(name: str, number: int) -> str:
    return f"{name}_{number}" if number else name


def require_graphs() -> None:
    """Refuse before any work what would end in a `.pb`.

    Raises:
        MissingPartError: If the package that describes the format is not installed.
    """
    _proto()


def _proto() -> Any:
    """Return the module that describes TensorFlow's graphs; TensorBoard brings it along, without TensorFlow."""
    try:
        from tensorboard.compat.proto import graph_pb2
    except ImportError as error:
        raise MissingPartError("tensorboard", "tensorboard", "Reading or writing a ModelScope .pb") from error
    return graph_pb2
