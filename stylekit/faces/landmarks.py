"""468 face landmarks by MediaPipe's face mesh (Kartynnik et al. 2019, arXiv:1907.06724)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stylekit.assets import fetch
from stylekit.faces.align import invert, warp
from stylekit.faces.detect import Face
from stylekit.faces.litert import Floats, LiteNetwork

_MARGIN = 1.5  # MediaPipe: the mesh sees a square of 1.5 times the box's long side
_FIVE = ((33, 133), (362, 263), (1,), (61,), (291,))
_OUTER_EYE_CORNERS = (33, 263)
_HALF_BOX = 1.2  # half of the mesh's extent, in the greater of the eyes' distance and that from eyes to mouth; 82 photographs
_LEAST_FACE_PX = 1.0


@dataclass(frozen=True, eq=False)
class Mesh:
    """The face mesh of one face.

    Attributes:
        points: float32 [468,3]: x and y in pixels of the picture, z in the same unit, smaller nearer the camera.
        presence: Probability in [0,1] that there is a face. Meaningless on cartoons.
        shift: How far the five points moved when the mesh was fitted a second time, as a share of the face's size. Near 0 on
            a face; larger where there is none for the mesh to settle on.
    """

    points: Floats
    presence: float
    shift: float

    @property
    def landmarks_5(self) -> Floats:
        """The five alignment points, as `landmarks_5` gives them."""
        return landmarks_5(self.points)


class FaceMesh:
    """Fits the face mesh to a detected face.

    Args:
        path: The mesh network as `.tflite`; the asset `face-mesh` by default.
        threads: CPU threads for one call.

    Raises:
        AssetError: If the network is missing or damaged.
    """

    def __init__(self, path: Path | None = None, threads: int = 1) -> None:
        self._network = LiteNetwork(path or fetch("face-mesh"), threads)

    def mesh(self, rgb: NDArray[np.uint8], face: Face) -> Mesh:
        """Return the mesh of `face` in the picture `rgb`, uint8 [H,W,3].

        It is fitted twice, to the detector's box and then to its own extent, as MediaPipe does from frame to frame.
        """
        first, presence = self._fit(rgb, face.box, face.keypoints[1] - face.keypoints[0])
        extent = np.concatenate([first[:, :2].min(axis=0), first[:, :2].max(axis=0)])
        right, left = first[list(_OUTER_EYE_CORNERS), :2]
        second, presence_again = self._fit(rgb, extent, left - right)
        moved = np.linalg.norm(landmarks_5(second) - landmarks_5(first), axis=1).mean()
        return Mesh(second, max(presence, presence_again), float(moved) / face.size)

    def _fit(self, rgb: NDArray[np.uint8], box: Floats, across: Floats) -> tuple[Floats, float]:
        """Fit the mesh to what lies in `box`, turned so that `across` lies level; return points and presence."""
        side = self._network.side
        scale = side / (_MARGIN * float(max(box[2:] - box[:2])))
        centre = (box[:2] + box[2:]).astype(np.float64) / 2
        cosine, sine = across.astype(np.float64) / max(float(np.hypot(*across)), 1e-6) * scale
        turn = np.array([[cosine, sine], [-sine, cosine]])
        matrix = np.hstack([turn, ((side - 1) / 2 - turn @ centre)[:, None]])
        crop = warp(rgb, matrix, side, "black").astype(np.float32) / 255.0
        values, logit = sorted(self._network(crop), key=np.size, reverse=True)
        points = values.reshape(468, 3).astype(np.float64) - (0.5, 0.5, 0)
        back = invert(matrix)
        xy = points[:, :2] @ back[:, :2].T + back[:, 2]
        presence = 1 / (1 + np.exp(-np.clip(logit.item(), -50, 50)))
        return np.column_stack([xy, points[:, 2] / scale]).astype(np.float32), float(presence)


def landmarks_5(points: NDArray[np.floating]) -> Floats:
    """Return eyes, nose tip and mouth corners, float32 [5,2], the eye on the picture's left first, from a mesh [468,2 or 3].

    An eye is the mean of its two corners.
    """
    return np.stack([points[list(indices), :2].mean(axis=0) for indices in _FIVE]).astype(np.float32)


def face_at(landmarks_5: NDArray[np.floating]) -> Face | None:
    """Return the face that has these five points, [5,2], as the mesh wants it; None where they coincide or are not numbers.

    The box is square. On 75 photographs and 80 cartoons the mesh that it gives lies within 0.04 of the face's size of the points.
    """
    five = np.asarray(landmarks_5, np.float64)
    eyes, mouth = five[:2].mean(axis=0), five[3:].mean(axis=0)
    size = max(float(np.linalg.norm(five[1] - five[0])), float(np.linalg.norm(mouth - eyes)))
    if not (np.isfinite(five).all() and size > _LEAST_FACE_PX):
        return None
    middle, half = (eyes + mouth) / 2, _HALF_BOX * size
    keypoints = np.stack([*five[:3], mouth, *five[:2]])
    return Face(np.concatenate([middle - half, middle + half]).astype(np.float32), 1.0, keypoints.astype(np.float32))
