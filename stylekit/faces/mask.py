"""Where the person is in a picture, and how a crop fades into the picture it came from."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from stylekit.assets import fetch
from stylekit.faces.litert import Floats, LiteNetwork

_HALF_AXES = (0.4, 0.49)
_FEATHER = 0.15


class PortraitMask:
    """Separates persons from the background with MediaPipe's selfie segmentation.

    Args:
        path: The network as `.tflite`; the asset `portrait-mask` by default.
        threads: CPU threads for one call.

    Raises:
        AssetError: If the network is missing or damaged.
    """

    def __init__(self, path: Path | None = None, threads: int = 1) -> None:
        self._network = LiteNetwork(path or fetch("portrait-mask"), threads)

    def __call__(self, rgb: NDArray[np.uint8]) -> Floats:
        """Return how likely each pixel of `rgb`, uint8 [H,W,3], shows a person: float32 [H,W] in [0,1].

        The network sees 256 px, so edges are soft in large pictures.
        """
        height, width = rgb.shape[:2]
        side = self._network.side
        shrinking = max(height, width) > side
        small = cv2.resize(rgb, (side, side), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR)
        (person,) = self._network(small.astype(np.float32) / 255.0)
        full = np.asarray(cv2.resize(person[0, :, :, 0], (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
        return np.clip(full, 0, 1)


def feather_mask(size: int) -> Floats:
    """Return the mask that pastes a crop of `size` px: float32 [size,size], 1 over the face, 0 at the borders.

    An ellipse whose rim fades inward over 0.15 of the side (menyifang/DCT-Net `source/utils.py`).
    """
    from_middle = np.arange(size) - (size - 1) / 2
    across, down = from_middle / int(_HALF_AXES[0] * size), from_middle[:, None] / int(_HALF_AXES[1] * size)
    inside = (across**2 + down**2 <= 1).astype(np.uint8)
    distance = np.asarray(cv2.distanceTransform(inside, cv2.DIST_L2, 3), np.float32)
    mask: Floats = np.clip(distance / np.float32(_FEATHER * size), 0, 1)
    return mask
