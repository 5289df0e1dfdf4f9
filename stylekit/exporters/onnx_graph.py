"""The generator as an ONNX graph of any batch, height and width."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

OPSET = 20
_TRACED = (2, 3, 32, 48)  # no two alike, so that an axis frozen by mistake shows in the verification
_LARGEST_PX = 16384


def to_onnx(module: nn.Module, *, half: bool) -> bytes:
    """Return the network as ONNX: `photo` [N, 3, H, W] in [-1, 1] to `stylized`, H and W multiples of 4, unclipped.

    Args:
        module: The generator, in eval mode.
        half: Store weights as float16 behind casts, which onnxruntime folds when it loads the file: half the size, the same
            speed, float32 arithmetic.
    """
    batch, height, width = (
        torch.export.Dim(name, min=1, max=_LARGEST_PX) for name in ("batch", "quarter_height", "quarter_width")
    )
    with _quiet():
        program = torch.onnx.export(
            module,
            (torch.zeros(_TRACED),),
            dynamo=True,
            dynamic_shapes=({0: batch, 2: 4 * height, 3: 4 * width},),
            input_names=["photo"],
            output_names=["stylized"],
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _forget_source(model.graph)
    for value in (*model.graph.input, *model.graph.output):
        for axis, name in zip((0, 2, 3), ("batch", "height", "width"), strict=True):
            value.type.tensor_type.shape.dim[axis].dim_param = name
    if half:
        _store_half(model.graph)
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString()
    return data


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the exporter's notes on packages and types that this network has nothing to do with."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _forget_source(graph: onnx.GraphProto) -> None:
    """Drop stack traces and intermediate shapes: the first tell where the exporting machine keeps its files."""
    for item in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del item.metadata_props[:]
    del graph.value_info[:]


def _store_half(graph: onnx.GraphProto) -> None:
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.dims:
            name = tensor.name
            stored = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(stored, f"{name}.half"))
            casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
