"""The generator as an ONNX graph of any batch, height and width, in the operators that onnxruntime is fast at.

Measured with onnxruntime's profiler on a CPU. What its blocked layout (NCHWc) has no kernel for costs a change of layout there
and back, and average pooling has fast kernels up to operator set 18 only.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxscript import opset18
from torch import nn

from stylekit.nn.unet import UPSAMPLE_LEGACY

OPSET = 18
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
            custom_translation_table={UPSAMPLE_LEGACY: _resize},
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _draw_in_blocks(model.graph)
    _forget_source(model.graph)
    for value in (*model.graph.input, *model.graph.output):
        for axis, name in zip((0, 2, 3), ("batch", "height", "width"), strict=True):
            value.type.tensor_type.shape.dim[axis].dim_param = name
    if half:
        _store_half(model.graph)
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString()
    return data


def _resize(x: opset18.FLOAT) -> opset18.FLOAT:
    scales = opset18.Constant(value_floats=[1.0, 1.0, 2.0, 2.0])
    return opset18.Resize(x, None, scales, mode="linear", coordinate_transformation_mode="asymmetric")


def _draw_in_blocks(graph: onnx.GraphProto) -> None:
    """Have the convolution that draws the picture give 2x2 pixels at each second place, 12 channels instead of 3.

    onnxruntime computes 16 channels at a time (8 on AVX2), so that three cost as much as sixteen. Where the kernel has k x k
    taps, the one for a block has (k + 1) x (k + 1), most of them shared: the 7x7 head takes a third of its time.
    """
    arrays = {tensor.name: tensor for tensor in graph.initializer}
    picture = [axis.dim_param or axis.dim_value for axis in graph.output[0].type.tensor_type.shape.dim]
    drawn = {
        value.name
        for value in graph.value_info
        if [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim] == picture
    }
    for place, node in enumerate(graph.node):
        if node.op_type != "Conv" or node.output[0] not in drawn:
            continue
        kernel = numpy_helper.to_array(arrays[node.input[1]])
        given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        size, pad = kernel.shape[-1], kernel.shape[-1] // 2
        plain = [1, 1] == given["strides"] == given["dilations"] and given["group"] == 1 and given["pads"] == [pad] * 4
        if not plain or kernel.shape[-2:] != (size, size) or size % 2 == 0 or size == 1:
            continue
        arrays[node.input[1]].CopyFrom(numpy_helper.from_array(_for_blocks(kernel), node.input[1]))
        for name in node.input[2:]:
            arrays[name].CopyFrom(numpy_helper.from_array(np.repeat(numpy_helper.to_array(arrays[name]), 4), name))
        blocks = f"{node.output[0]}_blocks"
        conv = helper.make_node(
            "Conv", node.input, [blocks], node.name, kernel_shape=[size + 1] * 2, strides=[2, 2], pads=[pad] * 4
        )
        pixels = helper.make_node("DepthToSpace", [blocks], node.output, f"{node.name}_pixels", blocksize=2, mode="CRD")
        node.CopyFrom(conv)
        graph.node.insert(place + 1, pixels)
        return


def _for_blocks(kernel: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the kernel [4C, I, k + 1, k + 1] that draws blocks of 2x2 pixels, channels as `DepthToSpace` wants them."""
    channels, inputs, size, _ = kernel.shape
    blocks = np.zeros((channels, 2, 2, inputs, size + 1, size + 1), np.float32)
    for row in range(2):
        for column in range(2):
            blocks[:, row, column, :, row : row + size, column : column + size] = kernel
    return blocks.reshape(4 * channels, inputs, size + 1, size + 1)


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
