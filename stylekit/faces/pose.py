"""Where a head looks, from the face mesh's own depth."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_ACROSS = ((33, 263), (61, 291), (234, 454))  # outer eye corners, mouth corners, sides of the face
_FOREHEAD, _CHIN = 10, 152
_LEVEL_PITCH_DEG = 9.6  # slope from forehead to chin of a level head: the median of 82 photographs


def head_pose(points: NDArray[np.floating]) -> tuple[float, float, float]:
    """Return roll, yaw and pitch in degrees: the head turned clockwise, to the right, downward, as seen in the picture.

    Args:
        points: The face mesh, [468,3], z in the unit of x and y and smaller nearer the camera.
    """
    points = np.asarray(points, np.float64)
    right, left = (points[list(side)].sum(axis=0) for side in zip(*_ACROSS, strict=True))
    across, down = left - right, points[_CHIN] - points[_FOREHEAD]
    roll = np.arctan2(across[1], across[0])
    yaw = np.arctan2(across[2], np.hypot(across[0], across[1]))
    pitch = np.arctan2(down[2], np.hypot(down[0], down[1]))
    return float(np.degrees(roll)), float(np.degrees(yaw)), float(np.degrees(pitch)) - _LEVEL_PITCH_DEG
