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
_GROUP_SHARE = 0.2  # of the long side; smaller is seldom a portrait
_TILE_THRESHOLD = 0.7  # keeps out what tiles without people show
_CLOSER = 3.0  # sides of the face's box; the network sees best what fills a third of the view
_SURE = 0.8  # 77 of 82 upright portraits score more, 2 of 80 upside down
_UPRIGHT_MORE = 0.1  # how much surer of a turned face than of an upright one
_DOUBTED = 0.9  # 55 of 75 upright portraits score more, none of those that were seen upside down
_OVER_MORE = 0.06  # of 142 faces seen rightly at most 0.04, of 6 seen upside down at least 0.085

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
        a quarter, and takes what is seen in the way of looking that gave the best score. Where the whole picture shows
        several faces, or none as large as a fifth of its long side, it looks at the tiles too. What tiles show beyond that
        is looked at again where it fills a third of the view. Small faces beside a single large one are not sought, and
        pictures without people give false finds, see `quality.shows_face`.

        The network was made for upright heads: lying ones it often sees the wrong way up. A face with its eyes far from
        level, or with a score below 0.8, is looked at in four quarter turns, and is what the surest of them shows. One with a
        score below 0.9 is looked at both ways up, and turned over if it is clearly surer so. Neither is done below
        `PHOTO_THRESHOLD`, for cartoons are drawn upright and their scores say little.

        Args:
            rgb: uint8 [H,W,3].
            threshold: Least score, `PHOTO_THRESHOLD` or `CARTOON_THRESHOLD`.
        """
        height, width = rgb.shape[:2]
        whole, margin, *tiles = _ways(width, height)
        found = self._look(rgb, whole, threshold)
        sure = max(threshold, _TILE_THRESHOLD)
        if not len(found):
            ways = [self._look(rgb, views, threshold) for views in (margin, *tiles)]
            found = max(ways, key=lambda rows: rows[:, 0].max(initial=0))
            more = [rows[rows[:, 0] >= sure] for rows in ways[1:]]
        elif _size(found).max() < _GROUP_SHARE * max(width, height):
            more = [self._look(rgb, views, sure) for views in tiles]
        elif len(_merge(found)) > 1:
            more = [self._look(rgb, tiles[0], sure)]
        else:
            more = []
        if sum(map(len, more)):
            parts = _merge(np.concatenate(more))
            again = [self._closer(rgb, row, threshold) for row in parts]
            found = np.concatenate([found, *(seen if len(seen) else row[None] for seen, row in zip(again, parts, strict=True))])
        rows = _merge(found)
        if threshold >= PHOTO_THRESHOLD:
            rows = [self._turned(rgb, row, threshold) for row in rows]
        faces = [Face(row[1:5].astype(np.float32), float(row[0]), row[5:].reshape(6, 2).astype(np.float32)) for row in rows]
        return sorted(faces, key=lambda face: face.size, reverse=True)

    def _closer(self, rgb: NDArray[np.uint8], row: NDArray[np.float64], threshold: float, turn: int = 0) -> NDArray[np.float64]:
        """Look again at one face where it fills a third of the view; return [1,17], or [0,17] if it is not seen there."""
        side = _CLOSER * float(_size(row))
        left, top = (row[1:3] + row[3:5] + 1 - side) / 2
        seen = self._look_at(rgb, (left, top, side), threshold, turn)
        same = seen[_iou(row[1:5], seen[:, 1:5]) > _MERGE_IOU]
        return same[np.argsort(-same[:, 0], kind="stable")[:1]]

    def _turned(self, rgb: NDArray[np.uint8], row: NDArray[np.float64], threshold: float) -> NDArray[np.float64]:
        """Return the face as it is seen best in four quarter turns, an upright one only if it is clearly seen the other way."""
        lies = abs(_roll(row)) > 45
        if not lies and row[0] < _DOUBTED:
            over, same = (self._closer(rgb, row, 0.0, turn) for turn in (2, 0))
            if over.size and over[0, 0] >= _SURE and over[0, 0] > same[:, 0].max(initial=0.0) + _OVER_MORE:
                return np.asarray(over[0])
        if row[0] >= _SURE and not lies:
            return row
        seen = [each for turn in range(4) for each in self._closer(rgb, row, threshold, turn)]
        rivals = [each for each in seen if lies or abs((_roll(each) - _roll(row) + 180) % 360 - 180) > 45]
        best = max(rivals, key=_score, default=row)
        own = [row, *(each for each in seen if not any(each is rival for rival in rivals))]
        return best if lies or best[0] > max(map(_score, own)) + _UPRIGHT_MORE else row

    def _look(self, rgb: NDArray[np.uint8], views: list[View], threshold: float) -> NDArray[np.float64]:
        return np.concatenate([self._look_at(rgb, view, threshold) for view in views])

    def _look_at(self, rgb: NDArray[np.uint8], view: View, threshold: float, turn: int = 0) -> NDArray[np.float64]:
        """Return [n,17] rows of score, box and keypoints seen in `view`, shown in `turn` quarter turns anticlockwise."""
        left, top, side = view
        size = self._network.side
        scale = size / side
        matrix = np.array([[scale, 0, scale * (0.5 - left) - 0.5], [0, scale, scale * (0.5 - top) - 0.5]])
        shown = np.ascontiguousarray(np.rot90(warp(rgb, matrix, size, "black"), turn))
        regressors, logits = self._network(shown.astype(np.float32) / 127.5 - 1)
        scores = 1 / (1 + np.exp(-np.clip(logits[0, :, 0].astype(np.float64), -_LOGIT_LIMIT, _LOGIT_LIMIT)))
        kept = scores >= threshold
        values = regressors[0, kept].reshape(-1, 8, 2) / size
        anchors = self._anchors[kept, None]
        centre, half = values[:, :1] + anchors, values[:, 1:2] / 2
        points = np.concatenate([centre - half, centre + half, values[:, 2:] + anchors], axis=1)
        for _ in range(turn):
            points = np.stack([1 - points[..., 1], points[..., 0]], axis=-1)
        points[:, :2] = np.sort(points[:, :2], axis=1)
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


def _score(row: NDArray[np.float64]) -> float:
    return float(row[0])


def _size(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((rows[..., 3:5] - rows[..., 1:3]).max(axis=-1))


def _roll(row: NDArray[np.float64]) -> float:
    """Return how the eyes lie, in degrees clockwise from level."""
    x, y = row[7:9] - row[5:7]
    return float(np.degrees(np.arctan2(y, x)))


def _merge(rows: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Merge rows of the same face: the best score, and the mean of the coordinates weighted by score.

    Rows that overlap the best one less, but whose middle lies in its box, are what a tile cut of the face; they are dropped.
    """
    merged = []
    rows = rows[np.argsort(-rows[:, 0], kind="stable")]
    while len(rows):
        same = _iou(rows[0, 1:5], rows[:, 1:5]) > _MERGE_IOU
        same[0] = True
        middles = (rows[:, 1:3] + rows[:, 3:5]) / 2
        within = ((middles > rows[0, 1:3]) & (middles < rows[0, 3:5])).all(axis=1)
        group, rows = rows[same], rows[~same & ~within]
        merged.append(np.concatenate([group[0, :1], np.average(group[:, 1:], axis=0, weights=group[:, 0])]))
    return merged


def _iou(box: NDArray[np.float64], boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    overlap = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    shared = np.prod(np.clip(overlap, 0, None), axis=1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    union = np.prod(box[2:] - box[:2]) + areas - shared
    return np.asarray(shared / np.maximum(union, np.finfo(np.float64).tiny))
