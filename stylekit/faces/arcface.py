"""Who a face shows, by an ArcFace network in an ONNX file: an embedder that no loss and no split of stylekit uses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from stylekit.assets import fetch
from stylekit.errors import AssetError
from stylekit.faces.align import Matrix, template_points, umeyama, warp
from stylekit.faces.landmarks import landmarks_5
from stylekit.faces.litert import Floats

SIDE = 112
"""Side in pixels of the crop that the network sees."""

FEATURES = 512

_BATCH = 16


def arcface_matrix(points: NDArray[np.floating]) -> Matrix:
    """Return the matrix from a picture to ArcFace's 112 px crop.

    Args:
        points: In the picture's pixels, `landmarks_5` [5,2] or a mesh [468,2 or 3].
    """
    return umeyama(points if len(points) == 5 else landmarks_5(points), template_points("arcface", SIDE))


def arcface_crops(pictures: Sequence[NDArray[np.uint8]], points: Sequence[NDArray[np.floating]]) -> Floats:
    """Return ArcFace's crops of faces, float32 RGB [N,3,112,112] in [-1,1]; black beyond the picture.

    InsightFace shows its networks (x-127.5)/127.5 of them; InsightFace_Pytorch's ToTensor and Normalize(0.5, 0.5) say the same.

    Args:
        pictures: Photographs or crops, uint8 RGB [H,W,3], of any sizes.
        points: For each picture `landmarks_5` [5,2] or a mesh [468,2 or 3] in its pixels.
    """
    crops = np.empty((len(pictures), 3, SIDE, SIDE), np.float32)
    for crop, picture, face in zip(crops, pictures, points, strict=True):
        crop[:] = warp(picture, arcface_matrix(face), SIDE, "black").transpose(2, 0, 1)
    crops -= 127.5
    crops /= 127.5
    return crops


class ArcFaceEmbedder:
    """Embeds faces; takes the place of `FaceEmbedder` where no gradients are needed.

    Args:
        path: ONNX file, RGB [N,3,112,112] in [-1,1] -> [N,512]; the asset `arcface` by default. Where its first axis is a fixed
            number, that many faces are shown at once, else sixteen.

    Raises:
        AssetError: If the file is missing, damaged or of another form.
    """

    def __init__(self, path: Path | None = None) -> None:
        path = path or fetch("arcface")
        mend = "Run: stylekit assets add identity FILE --name arcface"
        try:
            self._session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors share no class of their own
            raise AssetError(f"{path} is not an ONNX file that can be run: {error}", mend) from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        forms = [each.shape for each in inputs], [each.shape for each in outputs]
        if len(inputs) != 1 or forms[0][0][1:] != [3, SIDE, SIDE] or len(outputs) != 1 or forms[1][0][1:] != [FEATURES]:
            raise AssetError(
                f"{path} takes {forms[0]} and gives {forms[1]}; ArcFace takes [N,3,{SIDE},{SIDE}] and gives [N,{FEATURES}].", mend
            )
        self._input = inputs[0].name
        first = forms[0][0][0]
        self._fixed = first if isinstance(first, int) and first > 0 else None

    def embed(self, pictures: Sequence[NDArray[np.uint8]], points: Sequence[NDArray[np.floating]]) -> Floats:
        """Return one embedding of length 1 for each picture, float32 [N,512].

        Args:
            pictures: Photographs or crops, uint8 RGB [H,W,3], of any sizes.
            points: For each picture `landmarks_5` [5,2] or a mesh [468,2 or 3] in its pixels.
        """
        embeddings = np.empty((len(pictures), FEATURES), np.float32)
        step = self._fixed or _BATCH
        for start in range(0, len(pictures), step):
            part = slice(start, start + step)
            crops = arcface_crops(pictures[part], points[part])
            count = len(crops)
            if self._fixed:  # the last ones are filled up
                crops = np.concatenate([crops, np.zeros((self._fixed - count, *crops.shape[1:]), np.float32)])
            embeddings[part] = self._session.run(None, {self._input: crops})[0][:count]
        return np.asarray(embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12))
