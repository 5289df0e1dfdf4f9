"""How a crop fades into the picture it came from."""

from __future__ import annotations

import cv2
import numpy as np

from stylekit.faces.litert import Floats

_HALF_AXES = (0.4, 0.49)
_FEATHER = 0.15


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
