"""Lids and iris of both eyes by MediaPipe's iris network (Ablavatski et al. 2020, arXiv:2006.11341)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stylekit.assets import fetch
from stylekit.faces.align import invert, warp
from stylekit.faces.litert import Floats, LiteNetwork

_MARGIN = 2.3  # MediaPipe iris_landmark_landmarks_to_roi.pbtxt: the network sees a square of 2.3 eye widths
_EYE_CORNERS = ((33, 133), (362, 263))  # of the mesh, each from left to right in the picture
_OUTER, _INNER, _LOWER_LID, _UPPER_LID = 0, 8, 4, 12  # of the 71 points of lids and brow


@dataclass(frozen=True, eq=False)
class Eye:
    """One eye.

    Attributes:
        contour: float32 [71,2], (x,y) in pixels of the picture: the lids (16 points), lines around them, and the brow.
        iris: float32 [5,2], the iris' middle and four points of its rim.
        side: "left" or "right" in the picture.
    """

    contour: Floats
    iris: Floats
    side: str

    @property
    def corners(self) -> Floats:
        """The two corners, [2,2], the one on the picture's left first."""
        return self.contour[[_OUTER, _INNER] if self.side == "left" else [_INNER, _OUTER]]

    @property
    def openness(self) -> float:
        """Distance of the lids' middles as a share of the eye's width; NaN where the corners coincide."""
        gap = np.linalg.norm(self.contour[_UPPER_LID] - self.contour[_LOWER_LID])
        width = float(np.linalg.norm(self.corners[1] - self.corners[0]))
        return float(gap) / width if width > 0 else float("nan")

    @property
    def gaze(self) -> tuple[float, float]:
        """How far the iris lies to the right of and below the corners' middle, in eye widths; NaN where they coincide."""
        left, right = self.corners.astype(np.float64)
        across = right - left
        offset = self.iris[0] - (left + right) / 2
        square = float(across @ across)
        if square == 0:
            return float("nan"), float("nan")
        return float(offset @ across) / square, float(across[0] * offset[1] - across[1] * offset[0]) / square


class IrisNetwork:
    """Finds lids and iris where a face mesh has its eyes.

    Args:
        path: The network as `.tflite`; the asset `iris` by default.
        threads: CPU threads for one call.

    Raises:
        AssetError: If the network is missing or damaged.
    """

    def __init__(self, path: Path | None = None, threads: int = 1) -> None:
        self._network = LiteNetwork(path or fetch("iris"), threads)

    def eyes(self, rgb: NDArray[np.uint8], points: NDArray[np.floating]) -> tuple[Eye, Eye]:
        """Return both eyes, the one on the picture's left first.

        Args:
            rgb: The picture, uint8 [H,W,3].
            points: The face's mesh, [468, 2 or 3].

        Raises:
            UsageError: If an eye's corners coincide.
        """
        left, right = (np.asarray(points[list(corners), :2], np.float64) for corners in _EYE_CORNERS)
        return self._eye(rgb, left, "left"), self._eye(rgb, right, "right")

    def _eye(self, rgb: NDArray[np.uint8], corners: NDArray[np.float64], side: str) -> Eye:
        """Show the network a level square around the eye, the right one mirrored, for it knows left ones only."""
        size = self._network.side
        across = corners[1] - corners[0]
        width = max(float(np.hypot(*across)), 1e-9)
        cosine, sine = across / width * (size / (_MARGIN * width))
        turn = np.array([[cosine, sine], [-sine, cosine]])
        matrix = np.column_stack([turn, (size - 1) / 2 - turn @ corners.mean(axis=0)])
        if side == "right":
            matrix = np.array([[-1, 0], [0, 1]]) @ matrix + np.array([[0, 0, size - 1], [0, 0, 0]])
        crop = warp(rgb, matrix, size, "black").astype(np.float32) / 255.0
        back = invert(matrix)
        contour, iris = (
            ((values.reshape(-1, 3)[:, :2].astype(np.float64) - 0.5) @ back[:, :2].T + back[:, 2]).astype(np.float32)
            for values in sorted(self._network(crop), key=np.size, reverse=True)
        )
        return Eye(contour, iris, side)
