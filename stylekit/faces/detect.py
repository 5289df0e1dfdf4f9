"""Face boxes by BlazeFace (Bazarevsky et al. 2019, arXiv:1907.05047), MediaPipe's short-range network."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from stylekit.assets import fetch
from stylekit.faces.align import warp
from stylekit.faces.litert import Floats, LiteNetwork

PHOTO_THRESHOLD = 0.5
CARTOON_THRESHOLD = 0.3

_GRIDS = ((16, 2), (8, 6))  # (cells a side, anchors a cell): strides 8, then 16 three times, two anchors each
_LOGIT_LIMIT = 100.0  # MediaPipe clips the logits so that the sigmoid cannot overflow
_MERGE_IOU = 0.3
_WIDENED = 1.6  # finds 25 of 82 faces cut to 0.84 of their box that the picture alone does not show

View: TypeAlias = tuple[float, float, float]  # left, top and side of a square, which may reach beyond the picture


@dataclass(frozen=True, eq=False)
class Face:
    """One face found in a picture; all coordinates in its pixels, pixel centres at whole numbers.

    Attributes:
        box: float32 [4], x1 y1 x2 y2 from brow to chin; may reach beyond the picture.
        score: Detector confidence in [0,1].
        keypoints: float32 [6,2], (x,y) of the right eye, left eye (the person's own right and left), nose tip, mouth,
            right ear, left ear.
    """

    box: Floats
    score: float
    keypoints: Floats

    @property
    def size(self) -> float:
        """Long side of the box in pixels."""
        return float(max(self.box[2] - self.box[0], self.box[3] - self.box[1]))


class FaceDetector:
    """Finds faces in photographs and, with a lower threshold, in cartoons.

    Args:
        path: BlazeFace short range as `.tflite`; the asset `face-detector` by default.
        threads: CPU threads for one call.

    Raises:
        AssetError: If the network is missing or damaged.
    """

    def __init__(self, path: Path | None = None, threads: int = 1) -> None:
        self._network = LiteNetwork(path or fetch("face-detector"), threads)
        self._anchors = np.concatenate(
            [
                np.repeat([((x + 0.5) / cells, (y + 0.5) / cells) for y, x in product(range(cells), repeat=2)], anchors, axis=0)
                for cells, anchors in _GRIDS
            ]
        )

    def detect(self, rgb: NDArray[np.uint8], threshold: float = PHOTO_THRESHOLD) -> list[Face]:
        """Return the faces of a picture, largest first.

        The network sees 128 px, so it misses faces much smaller or larger than a third of the picture. Where the whole
        picture shows none, it looks at the picture with a margin, at overlapping tiles of half the long side and at tiles of
        a quarter, and takes what is seen in the way of looking that gave the best score. Small faces beside a large one are
        not sought, and tiles of pictures without people give false finds, see `quality.shows_face`.

        Args:
            rgb: uint8 [H,W,3].
            threshold: Least score, `PHOTO_THRESHOLD` or `CARTOON_THRESHOLD`.
        """
        height, width = rgb.shape[:2]
        whole, *closer = _ways(width, height)
        found = self._look(rgb, whole, threshold)
        if not len(found):
            found = max((self._look(rgb, views, threshold) for views in closer), key=lambda rows: rows[:, 0].max(initial=0))
        faces = [
            Face(row[1:5].astype(np.float32), float(row[0]), row[5:].reshape(6, 2).astype(np.float32)) for row in _merge(found)
        ]
        return sorted(faces, key=lambda face: face.size, reverse=True)

    def _look(self, rgb: NDArray[np.uint8], views: list[View], threshold: float) -> NDArray[np.float64]:
        return np.concatenate([self._look_at(rgb, view, threshold) for view in views])

    def _look_at(self, rgb: NDArray[np.uint8], view: View, threshold: float) -> NDArray[np.float64]:
        """Return [n,17] rows of score, box and keypoints seen in the square `view` (left, top, side)."""
        left, top, side = view
        size = self._network.side
        scale = size / side
        matrix = np.array([[scale, 0, scale * (0.5 - left) - 0.5], [0, scale, scale * (0.5 - top) - 0.5]])
        regressors, logits = self._network(warp(rgb, matrix, size, "black").astype(np.float32) / 127.5 - 1)
        scores = 1 / (1 + np.exp(-np.clip(logits[0, :, 0].astype(np.float64), -_LOGIT_LIMIT, _LOGIT_LIMIT)))
        kept = scores >= threshold
        values = regressors[0, kept].reshape(-1, 8, 2) / size
        anchors = self._anchors[kept, None]
        centre, half = values[:, :1] + anchors, values[:, 1:2] / 2
        points = np.concatenate([centre - half, centre + half, values[:, 2:] + anchors], axis=1)
        pixels = points * side + (left, top) - 0.5
        return np.concatenate([scores[kept, None], pixels.reshape(-1, 16)], axis=1)


def _ways(width: int, height: int) -> list[list[View]]:
    """Return the ways to look at a picture, each a list of views: the whole, with a margin, in large tiles, in small tiles."""
    long = max(width, height)
    squares = [[((width - side) / 2, (height - side) / 2, side)] for side in (long, _WIDENED * long)]
    tiles = [[(x, y, side) for y, x in product(_starts(height, side), _starts(width, side))] for side in (long / 2, long / 4)]
    return squares + tiles


def _starts(length: int, side: float) -> list[float]:
    """Return where tiles of `side` begin so that they cover `length` and overlap by half or more."""
    if length <= side:
        return [(length - side) / 2]
    count = int(np.ceil((length - side) / (side / 2))) + 1
    return [float(start) for start in np.linspace(0, length - side, count)]


def _merge(rows: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Merge rows of the same face: the best score, and the mean of the coordinates weighted by score."""
    merged = []
    rows = rows[np.argsort(-rows[:, 0], kind="stable")]
    while len(rows):
        same = _iou(rows[0, 1:5], rows[:, 1:5]) > _MERGE_IOU
        same[0] = True
        group, rows = rows[same], rows[~same]
        merged.append(np.concatenate([group[0, :1], np.average(group[:, 1:], axis=0, weights=group[:, 0])]))
    return merged


def _iou(box: NDArray[np.float64], boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    overlap = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    shared = np.prod(np.clip(overlap, 0, None), axis=1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    union = np.prod(box[2:] - box[:2]) + areas - shared
    return np.asarray(shared / np.maximum(union, np.finfo(np.float64).tiny))
