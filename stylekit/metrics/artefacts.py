"""Blemishes that a network leaves at eyes and mouth: dots, dark lines, blur."""

from __future__ import annotations

from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from stylekit.faces.align import Matrix, warp
from stylekit.metrics.measure import Arrays, Batch

Values: TypeAlias = NDArray[np.float64]

VERSION = 1
REGIONS = ("eyes", "mouth")

_UNIT_PX = 64.0  # what the face's size (`_frame`) becomes; at 128 px a face is about 35 px in this measure
_EYE_PX, _EYE_LIFT = (64, 64), 0.1  # crop of one eye and its brow, and how far its middle lies above the eye
_MOUTH_PX, _MOUTH_DROP = (96, 80), 0.2  # crop from the nose to the chin
_EYE_HALF_AXES_PX = (19.0, 10.0)  # the eye itself, where spots and strokes belong
_SMOOTHED_PX, _DISC_PX = 1.0, 19  # marks narrower than the disc are small
_CONTRAST = 14.0  # of lightness, 0..255, between a mark and what surrounds it
_LEAST_AREA_PX = 12
_ROUND = 2.2  # a speck is at most that many times longer than wide, and little larger than the disc
_LARGEST_AREA_PX = 400
_RING_PX, _ISOLATED = 7, 0.85  # a speck differs from all around it but for this share of the ring
_FINE_PX = 2.0  # detail finer than this counts as sharp
_NORMAL = (5.0, 95.0)


class ArtefactGauge:
    """Measures eye and mouth crops, laid out by the five points.

    Arrays, of both regions: `artefacts/<region>_specks`, the share in percent of the region that isolated small dark or bright
    spots cover; `artefacts/<region>_lines`, that of thin dark strokes; `artefacts/<region>_sharpness`, the share of the region's
    contrast that is finer than a thirtieth of the face, 0..1. Of the two eyes the mean is taken.
    """

    @property
    def key(self) -> str:
        """What the arrays depend on beside the pictures."""
        return f"artefacts/{VERSION}"

    def __call__(self, batch: Batch) -> Arrays:
        """Measure every picture; NaN where its five points coincide."""
        names = [f"artefacts/{region}_{kind}" for region in REGIONS for kind in ("specks", "lines", "sharpness")]
        values = np.array([_measure(*pair) for pair in zip(batch.pictures, batch.landmarks, strict=True)], np.float32)
        return dict(zip(names, values.reshape(-1, len(names)).T, strict=True))


def judge(reference: Arrays, row: Arrays, photo: Arrays | None = None) -> dict[str, Values]:
    """Return what lies outside the range that the style's own cartoons show.

    Args:
        reference: Arrays of the cartoons.
        row: Arrays of the pictures to judge, N of them.
        photo: Arrays of the photographs they were made from: spots and strokes that lie there already, glasses for one, are
            not held against the picture.

    Returns:
        Each float64 [N], 0 where all is well. `artefact_eyes` and `artefact_mouth`: by how many percent of the region specks
        and lines exceed the 95th percentile of the cartoons'. `blur_eyes` and `blur_mouth`: by what share the sharpness falls
        short of the cartoons' 5th percentile.
    """
    found: dict[str, Values] = {}
    for region in REGIONS:
        excess = np.zeros(len(row[f"artefacts/{region}_specks"]))
        for kind in ("specks", "lines"):
            name = f"artefacts/{region}_{kind}"
            allowed = np.full(len(excess), _percentile(reference[name], _NORMAL[1]))
            if photo is not None:
                allowed = np.fmax(allowed, photo[name])
            excess = excess + np.maximum(row[name] - allowed, 0)
        sharpness = f"artefacts/{region}_sharpness"
        least = _percentile(reference[sharpness], _NORMAL[0])
        found[f"artefact_{region}"] = excess
        found[f"blur_{region}"] = np.maximum(least - np.asarray(row[sharpness], np.float64), 0) / max(least, 1e-12)
    return found


def _percentile(values: NDArray[np.float32], share: float) -> float:
    known = values[np.isfinite(values)]
    return float(np.percentile(known, share)) if len(known) else float("nan")


def crops(picture: NDArray[np.uint8], landmarks: Values) -> list[NDArray[np.uint8]] | None:
    """Return the crops of the left eye, the right eye and the mouth; None where the five points coincide.

    Args:
        picture: uint8 RGB [S,S,3].
        landmarks: The five points, float64 [5,2].
    """
    eyes, mouth = landmarks[:2], landmarks[3:].mean(axis=0)
    across = eyes[1] - eyes[0]
    span = float(np.hypot(*across))
    size = max(span, float(np.hypot(*(mouth - eyes.mean(axis=0)))))
    if not (np.isfinite(size) and span > 1e-3 * size):
        return None
    right = across / span
    down = np.array([-right[1], right[0]])
    turn = np.stack([right, down]) * (_UNIT_PX / size)
    middles = [*(eyes - _EYE_LIFT * size * down), mouth + _MOUTH_DROP * size * down]
    sizes = [_EYE_PX, _EYE_PX, _MOUTH_PX]
    return [warp(picture, _around(turn, *pair), pair[1], "soft") for pair in zip(middles, sizes, strict=True)]


def _around(turn: Values, middle: Values, size: tuple[int, int]) -> Matrix:
    return np.column_stack([turn, (np.array(size) - 1) / 2 - turn @ middle])


def _measure(picture: NDArray[np.uint8], landmarks: Values) -> list[float]:
    regions = crops(picture, landmarks)
    if regions is None:
        return [float("nan")] * 6
    *eyes, mouth = (_of_region(crop, area) for crop, area in zip(regions, (_AROUND_EYE, _AROUND_EYE, _MOUTH), strict=True))
    return [*np.mean(eyes, axis=0), *mouth]


def _of_region(crop: NDArray[np.uint8], counted: NDArray[np.bool_]) -> list[float]:
    """Return percent of specks and of lines where they count, and sharpness within the ellipse that fills a crop."""
    lightness = cv2.cvtColor(crop, cv2.COLOR_RGB2LAB)[..., 0]
    inside = _ellipse(lightness.shape)
    specks, lines = marks(lightness)
    area = counted.sum() / 100
    values = lightness[inside].astype(np.float64)
    fine = lightness - cv2.GaussianBlur(lightness.astype(np.float32), (0, 0), _FINE_PX)
    sharpness = float(fine[inside].std() / max(values.std(), 1.0))
    return [float((specks & counted).sum() / area), float((lines & counted).sum() / area), sharpness]


def marks(lightness: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return where isolated small spots, dark or bright, and where thin dark strokes lie, each [H,W].

    Both are what a top-hat with a disc leaves; spots are small, compact and differ from their surroundings on all
    sides.

    Args:
        lightness: L* of a crop, 0..255, [H,W].
    """
    smooth = cv2.GaussianBlur(lightness, (0, 0), _SMOOTHED_PX)
    specks, lines = np.zeros(smooth.shape, bool), np.zeros(smooth.shape, bool)
    for is_dark in (True, False):
        raised = 255 - smooth if is_dark else smooth
        hat = cv2.morphologyEx(raised, cv2.MORPH_TOPHAT, _disc(_DISC_PX))
        count, labels, boxes, _ = cv2.connectedComponentsWithStats((hat > _CONTRAST).astype(np.uint8), connectivity=8)
        for index in range(1, count):
            x, y, width, height, area = (int(number) for number in boxes[index])
            if area < _LEAST_AREA_PX:
                continue
            top, left = max(y - _RING_PX, 0), max(x - _RING_PX, 0)
            window = np.s_[top : y + height + _RING_PX, left : x + width + _RING_PX]
            mark = labels[window] == index
            if area > _LARGEST_AREA_PX or _elongation(mark) > _ROUND:
                lines[window] |= mark & is_dark
            elif _is_isolated(raised[window], mark):
                specks[window] |= mark
    return specks, lines


def _elongation(mark: NDArray[np.bool_]) -> float:
    """Return length by width of the ellipse that has the mark's second moments."""
    y, x = np.nonzero(mark)
    short, long = np.linalg.eigvalsh(np.cov(np.stack([x, y])) + np.eye(2) / 12)
    return float(np.sqrt(long / short))


def _is_isolated(raised: NDArray[np.uint8], mark: NDArray[np.bool_]) -> bool:
    ring = cv2.dilate(mark.astype(np.uint8), _disc(_RING_PX)).astype(bool) & ~mark
    lower = raised[ring].astype(float) < raised[mark].mean() - _CONTRAST / 2
    return bool(lower.mean() >= _ISOLATED) if lower.size else False


def _disc(diameter: int) -> NDArray[np.uint8]:
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (diameter, diameter)), np.uint8)


def _ellipse(
    shape: tuple[int, ...], half_axes: tuple[float, float] | None = None, middle: tuple[float, float] | None = None
) -> NDArray[np.bool_]:
    """Return the ellipse of those half axes and middle (x, y), in pixels; by default the one that fills the shape."""
    height, width = shape
    a, b = half_axes or ((width - 1) / 2, (height - 1) / 2)
    x, y = middle or ((width - 1) / 2, (height - 1) / 2)
    return np.asarray(((np.arange(width) - x) / a) ** 2 + ((np.arange(height)[:, None] - y) / b) ** 2 <= 1)


_MOUTH = _ellipse(_MOUTH_PX[::-1])
_AROUND_EYE = _ellipse(_EYE_PX[::-1]) & ~_ellipse(
    _EYE_PX[::-1], _EYE_HALF_AXES_PX, ((_EYE_PX[0] - 1) / 2, (_EYE_PX[1] - 1) / 2 + _EYE_LIFT * _UNIT_PX)
)
