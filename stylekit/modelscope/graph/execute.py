"""Running a frozen graph with torch: the few dozen lines of TensorFlow that upstream's exported networks are made of.

It shows what a `.pb` draws where TensorFlow is not installed, and so whether it is the network that its names promise. Nodes
are evaluated as TensorFlow defines them; whatever is not in the table below is refused by name. A graph is never trusted: each
node is planned on shapes alone before it may take memory, and neither it nor all that is kept may have more numbers than a
network of this kind needs for the picture.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stylekit.errors import CheckpointError

INPUT, OUTPUT = "input_image", "output_image"

_TYPES = {1: torch.float32, 3: torch.int32, 4: torch.uint8}  # DataType of TensorFlow's types.proto: FLOAT, INT32, UINT8
_NUMPY = {1: np.dtype("<f4"), 3: np.dtype("<i4")}
_MOST_CHANNELS = 1024
_MOST_NODES = 2000
_MOST_REPEATED = 1 << 16
_MOST_KEPT = 4  # results of the largest size that wait to be read, at one time; a U-Net's skips are two
_MOST_SIZES = 8  # numbers in a shape, or in the bounds of a slice
_HINT = "Give a graph that ModelScope's CartoonTranslationExporter wrote."


@dataclass(frozen=True)
class Network:
    """The part of a frozen graph that leads to its picture.

    Attributes:
        prefix: What importing the graph elsewhere put before every name, such as `model_anime_head/`; mostly empty.
        nodes: Nodes by name, each after those that it reads or waits for.
    """

    prefix: str
    nodes: Mapping[str, Any]


def find_network(graph: Any, source: str = "The graph") -> Network:
    """Return the nodes between `input_image` and `output_image`.

    Args:
        graph: A GraphDef.
        source: What error messages call it.

    Raises:
        CheckpointError: If there is not exactly one such pair, or the way between them is broken, circular or far too long.
    """
    nodes = {node.name: node for node in graph.node}
    ends = [name for name in nodes if name == OUTPUT or name.endswith(f"/{OUTPUT}")]
    if len(ends) != 1:
        found = ", ".join(sorted(ends)[:3]) or "none"
        raise CheckpointError(f"{source} should have one node {OUTPUT}, and has {found}.", _HINT)
    prefix = ends[0].removesuffix(OUTPUT)
    ordered: dict[str, Any] = {}
    entered: set[str] = set()
    waiting = [ends[0]]
    while waiting:
        name = waiting[-1]
        if name in ordered:
            waiting.pop()
            continue
        if name not in nodes:
            raise CheckpointError(f"{source} has no node {name}, which another one reads.", _HINT)
        missing = [source_name for source_name in _needs(nodes[name]) if source_name not in ordered]
        if not missing:
            ordered[waiting.pop()] = nodes[name]
        elif name in entered or len(entered) > _MOST_NODES:
            raise CheckpointError(f"{source}: node {name} is part of a circle or of a far larger network.", _HINT)
        else:
            entered.add(name)
            waiting += missing
    if f"{prefix}{INPUT}" not in ordered or ordered[f"{prefix}{INPUT}"].op != "Placeholder":
        raise CheckpointError(f"{source}: {ends[0]} does not depend on a placeholder {prefix}{INPUT}.", _HINT)
    return Network(prefix, ordered)


def execute(graph: Any, picture: NDArray[Any], source: str = "The graph") -> NDArray[np.uint8]:
    """Run a frozen graph on one picture.

    Args:
        graph: A GraphDef.
        picture: B, G, R, uint8 or float32 [H, W, 3] from 0 to 255; H and W multiples of 4.
        source: What error messages call it.

    Returns:
        B, G, R, uint8 [H, W, 3].

    Raises:
        CheckpointError: If the graph has an operation that upstream's networks do not have, or cannot be evaluated.
    """
    return run_network(find_network(graph, source), picture, source)


@torch.inference_mode()
def run_network(network: Network, picture: NDArray[Any], source: str = "The graph") -> NDArray[np.uint8]:
    """Run what `find_network` found on one picture, as `execute` does."""
    given = torch.from_numpy(np.ascontiguousarray(picture, np.float32))
    limit = given.shape[0] * given.shape[1] * _MOST_CHANNELS
    readers = Counter(name for node in network.nodes.values() for name in _needs(node))
    values: dict[str, Tensor] = {}
    kept: Counter[str] = Counter()
    result = given
    for name, node in network.nodes.items():
        inputs = [values[each] for each in _inputs(node)]
        if name == f"{network.prefix}{INPUT}":
            result = given
        elif node.op == "Const":
            result = torch.from_numpy(constant(node, source))
        elif node.op in _OPERATIONS:
            result = _apply(node, inputs, limit, source)
            kept[name] = kept[_inputs(node)[0]] if node.op == "Identity" else result.untyped_storage().nbytes()
            if kept.total() > _MOST_KEPT * limit * given.itemsize:
                raise CheckpointError(f"{source}: up to node {name} more is kept than a network of this kind needs.", _HINT)
        else:
            raise CheckpointError(f"{source}: node {name} is a {node.op}, which this network has no use for.", _HINT)
        values[name] = result
        for each in _needs(node):
            readers[each] -= 1
            if not readers[each]:
                del values[each], kept[each]
    if result.dtype != torch.uint8 or result.shape != given.shape:
        raise CheckpointError(f"{source} does not give uint8 pictures of the size of what it is given.", _HINT)
    return result.contiguous().numpy()


def constant(node: Any, source: str = "The graph") -> NDArray[Any]:
    """Return the value of a Const node, float32 or int32.

    Raises:
        CheckpointError: If it is of another type, or does not hold the numbers that its shape promises.
    """
    tensor = node.attr["value"].tensor
    kind = _NUMPY.get(tensor.dtype)
    if kind is None:
        raise CheckpointError(f"{source}: {node.name} holds neither float32 nor int32.", _HINT)
    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    count = math.prod(shape)
    single = tensor.float_val if kind.kind == "f" else tensor.int_val
    if not tensor.tensor_shape.unknown_rank and min(shape, default=1) >= 0:
        if len(tensor.tensor_content) == count * kind.itemsize and not single:
            return np.frombuffer(tensor.tensor_content, kind).reshape(shape).astype(kind.newbyteorder("="))
        if not tensor.tensor_content and 0 < len(single) <= count and (len(single) == count or count <= _MOST_REPEATED):
            values = np.array(single, kind.newbyteorder("="))
            return np.pad(values, (0, count - len(values)), mode="edge").reshape(shape)  # the last one counts for the rest
    raise CheckpointError(f"{source}: {node.name} does not hold what its shape {list(shape)} promises.", "The file is damaged.")


def _inputs(node: Any) -> list[str]:
    """Return the names of the nodes that a node reads; `:0`, the first output, is implied."""
    return [str(name).removesuffix(":0") for name in node.input if not name.startswith("^")]


def _needs(node: Any) -> list[str]:
    """Return the names of the nodes that run before a node: those that it reads, and those that it waits for, `^name`."""
    return [str(name).removeprefix("^").removesuffix(":0") for name in node.input]


class _Planning(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses whatever would have more than `most` numbers on the way; to be used on tensors without memory."""

    def __init__(self, most: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._most = most

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for each in tree_leaves(made):
            if isinstance(each, Tensor) and each.numel() > self._most:
                raise ValueError(f"it asks for {each.numel():,} numbers")
        return made


def _apply(node: Any, inputs: list[Tensor], limit: int, source: str) -> Tensor:
    """Evaluate one node, on shapes alone first, so that a hostile one is refused before it takes the memory."""
    operation, sizes = _OPERATIONS[node.op], _SIZES.get(node.op, ())
    try:
        if any(inputs[at].is_floating_point() or inputs[at].numel() > _MOST_SIZES for at in sizes):
            raise ValueError("a size is a few whole numbers")
        with _Planning(max(limit, *(x.numel() for x in inputs))):
            planned = operation(node.attr, *(x if at in sizes else x.to("meta") for at, x in enumerate(inputs)))
        if planned.numel() > limit and node.op != "Identity":
            raise ValueError(f"it asks for {planned.numel():,} numbers")
        return operation(node.attr, *inputs)
    except (RuntimeError, ValueError, LookupError, TypeError, ArithmeticError, MemoryError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise CheckpointError(f"{source}: node {node.name} ({node.op}) cannot be evaluated: {reason}.", _HINT) from error


def _nhwc(attr: Any) -> None:
    if attr["data_format"].s not in (b"", b"NHWC") or set(attr["dilations"].list.i) - {1}:
        raise ValueError("only the NHWC layout without dilation is known")


def _same(x: Tensor, kernel: tuple[int, int], attr: Any) -> tuple[Tensor, tuple[int, int]]:
    """Return x [N, C, H, W] padded as SAME asks for, the odd pixel right and below, and the stride."""
    _nhwc(attr)
    stride = (int(attr["strides"].list.i[1]), int(attr["strides"].list.i[2]))
    if attr["padding"].s != b"SAME" or min(stride) < 1:
        raise ValueError("only SAME padding is known")
    pads: list[int] = []
    for size, side, step in zip(x.shape[:1:-1], kernel[::-1], stride[::-1], strict=True):
        total = max((-(-size // step) - 1) * step + side - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads), stride


def _conv2d(attr: Any, x: Tensor, kernel: Tensor) -> Tensor:
    padded, stride = _same(x.permute(0, 3, 1, 2), (kernel.shape[0], kernel.shape[1]), attr)
    return F.conv2d(padded, kernel.permute(3, 2, 0, 1), stride=stride).permute(0, 2, 3, 1)


def _depthwise(attr: Any, x: Tensor, kernel: Tensor) -> Tensor:
    height, width, channels, times = kernel.shape
    padded, stride = _same(x.permute(0, 3, 1, 2), (height, width), attr)
    weight = kernel.permute(2, 3, 0, 1).reshape(channels * times, 1, height, width)
    return F.conv2d(padded, weight, stride=stride, groups=channels).permute(0, 2, 3, 1)


def _bias_add(attr: Any, x: Tensor, bias: Tensor) -> Tensor:
    _nhwc(attr)
    if bias.shape != x.shape[-1:]:
        raise ValueError("the bias does not fit the channels")
    return x + bias


def _resize_bilinear(attr: Any, x: Tensor, size: Tensor) -> Tensor:
    if attr["align_corners"].b or attr["half_pixel_centers"].b:
        raise ValueError("only TensorFlow 1's own rule is known")
    for axis, wanted in zip((1, 2), size.tolist(), strict=True):
        there = x.shape[axis]
        at = torch.arange(wanted, device=x.device, dtype=torch.float32) * (there / wanted)
        low = at.long()
        high = (low + 1).clamp_max(there - 1)
        share = (at - low).reshape([-1, 1, 1] if axis == 1 else [-1, 1])
        first = x.index_select(axis, low)
        x = first + (x.index_select(axis, high) - first) * share
    return x


def _strided_slice(attr: Any, x: Tensor, begin: Tensor, end: Tensor, strides: Tensor) -> Tensor:
    masks = {name: int(attr[f"{name}_mask"].i) for name in ("begin", "end", "new_axis", "shrink_axis", "ellipsis")}
    if masks["ellipsis"]:
        raise ValueError("an ellipsis is not known")
    index: list[int | slice | None] = []
    for at, (first, last, step) in enumerate(zip(begin.tolist(), end.tolist(), strides.tolist(), strict=True)):
        marked = {name for name, mask in masks.items() if mask >> at & 1}
        if "new_axis" in marked:
            index.append(None)
        elif "shrink_axis" in marked:
            index.append(first)
        else:
            index.append(slice(None if "begin" in marked else first, None if "end" in marked else last, step))
    return x[tuple(index)]


def _fill(attr: Any, dims: Tensor, value: Tensor) -> Tensor:
    return value.expand(dims.tolist()).contiguous()


_OPERATIONS: dict[str, Callable[..., Tensor]] = {
    "Add": lambda attr, x, y: x + y,
    "AddV2": lambda attr, x, y: x + y,
    "BiasAdd": _bias_add,
    "Cast": lambda attr, x: x.to(_TYPES[attr["DstT"].type]),  # to uint8 by truncation
    "Conv2D": _conv2d,
    "DepthwiseConv2dNative": _depthwise,
    "ExpandDims": lambda attr, x, axis: x.unsqueeze(int(axis)),
    "Fill": _fill,
    "Identity": lambda attr, x: x,
    "LeakyRelu": lambda attr, x: F.leaky_relu(x, attr["alpha"].f if "alpha" in attr else 0.2),
    "Maximum": lambda attr, x, y: torch.maximum(x, y),
    "Minimum": lambda attr, x, y: torch.minimum(x, y),
    "Mul": lambda attr, x, y: x * y,
    "Pack": lambda attr, *parts: torch.stack(parts, int(attr["axis"].i)),
    "RealDiv": lambda attr, x, y: x / y,
    "ResizeBilinear": _resize_bilinear,
    "Shape": lambda attr, x: torch.tensor(x.shape, dtype=torch.int32),
    "StridedSlice": _strided_slice,
    "Sub": lambda attr, x, y: x - y,
}

_SIZES = {"ExpandDims": (1,), "Fill": (0,), "ResizeBilinear": (1,), "StridedSlice": (1, 2, 3)}
"""Which inputs of an operation say how large its result is; the others' numbers do not."""
