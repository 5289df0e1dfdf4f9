"""The generator with its deepest convolutions in 8 bits, for CPUs that have instructions for that (VNNI, ARM's dot products)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from stylekit.assets import fetch
from stylekit.errors import ExportError
from stylekit.faces.align import face_matrix, warp
from stylekit.faces.finder import MeshFinder
from stylekit.images import list_images, read_rgb, to_tensor

Floats = NDArray[np.float32]

CALIBRATED, JUDGED = 32, 8
_PROBE = (1, 3, 64, 64)


@cache
def portraits(template: str, size: int) -> tuple[Floats, ...]:
    """Return faces of the starter photographs, aligned, each [1, 3, S, S] in [-1, 1]: to calibrate with, then to judge by.

    Args:
        template: How the network's faces are aligned.
        size: Side in pixels, a multiple of 4.

    Raises:
        AssetError: If the photographs cannot be had.
        ExportError: If too few of them show a face: with none left to judge by, anything would pass.
    """
    finder, found = MeshFinder(), list[Floats]()
    for path in list_images(fetch("starter-photos")):
        photo = read_rgb(path)
        for face in finder.find(photo)[:1]:
            crop = warp(photo, face_matrix(face.landmarks_5, template, size), size)
            found.append(np.asarray(to_tensor(crop).numpy(), np.float32))
        if len(found) == CALIBRATED + JUDGED:
            return tuple(found)
    raise ExportError(
        f"8 bits need {CALIBRATED + JUDGED} faces of the starter photographs, and {len(found)} were found.",
        "Run: stylekit assets fetch starter-photos; or export without onnx-int8.",
    )


def to_int8(data: bytes, calibration: Sequence[Floats]) -> bytes:
    """Return an ONNX network with the convolutions at its lowest resolution in 8 bits, all others in float32.

    There lies most of the arithmetic, and what rounding does there is averaged by what follows; in the convolutions that draw
    outlines it would show. Weights are signed, a scale for each channel; activations unsigned, ranges from `calibration`
    (onnxruntime's static quantization, minima and maxima).

    Args:
        data: What `to_onnx` gives, with float32 weights.
        calibration: Photographs as the network will see them, each [1, 3, H, W] in [-1, 1].

    Raises:
        ExportError: If there is nothing to calibrate with.
    """
    if not calibration:
        raise ExportError("There are no portraits to calibrate 8 bits with.", "Run: stylekit assets fetch starter-photos")
    model = onnx.load_from_string(data)
    deepest = _deepest(model)
    add_pre_process_metadata(model)  # its preparations are for graphs that were not exported for onnxruntime
    with TemporaryDirectory() as scratch:
        written = Path(scratch) / "int8.onnx"
        quantize_static(
            model,
            written,
            _Portraits(calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            nodes_to_quantize=deepest,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return written.read_bytes()


def _deepest(model: onnx.ModelProto) -> list[str]:
    """Return the names of the convolutions whose result is the lowest of all."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for axis, length in zip(fixed.graph.input[0].type.tensor_type.shape.dim, _PROBE, strict=True):
        axis.dim_value = length
    del fixed.graph.output[0].type.tensor_type.shape.dim[:]
    inferred = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph
    shapes = {value.name: [axis.dim_value for axis in value.type.tensor_type.shape.dim] for value in inferred.value_info}
    heights = {node.name: shapes[node.output[0]][2] for node in inferred.node if node.op_type == "Conv"}
    return [name for name, height in heights.items() if height == min(heights.values())]


class _Portraits(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, portraits: Sequence[Floats]) -> None:
        self._left = iter(portraits)

    def get_next(self) -> dict[str, Floats] | None:
        following = next(self._left, None)
        return None if following is None else {"photo": following}
