"""Filters that need no training: what a trained style is measured against.

KID rewards flat colour, so a filter can lie nearer to the cartoons than a network does; the rows say by how much.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from stylekit.images import Rgb

LEVELS = 6
_BILATERAL_DIAMETER_PX = 9
_BILATERAL_COLOUR_SIGMA = 75.0
_BILATERAL_SPACE_SIGMA_PX = 75.0
_EDGE_BLUR_PX, _EDGE_WINDOWS, _EDGE_CONTRAST = 3, 14, 7


def posterise(rgb: Rgb) -> Rgb:
    """Return the picture smoothed by a bilateral filter, each channel rounded to six levels."""
    smooth = cv2.bilateralFilter(rgb, _BILATERAL_DIAMETER_PX, _BILATERAL_COLOUR_SIGMA, _BILATERAL_SPACE_SIGMA_PX)
    step = 255 / (LEVELS - 1)
    return np.asarray(np.rint(np.rint(smooth / step) * step), np.uint8)


def bilateral_edges(rgb: Rgb) -> Rgb:
    """Return the picture as the usual cartoon filter draws it: flat colours by `posterise`, dark lines where the light changes.

    The lines are OpenCV's adaptive threshold of the median-blurred gray picture, its window a fourteenth of the picture's side,
    as far as both have to be odd.
    """
    gray = cv2.medianBlur(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), _EDGE_BLUR_PX)
    window = max(rgb.shape[0] // _EDGE_WINDOWS | 1, 3)
    lines = cv2.adaptiveThreshold(gray, 255, cv2.ADAPTIVE_THRESH_MEAN_C, cv2.THRESH_BINARY, window, _EDGE_CONTRAST)
    return np.asarray(cv2.bitwise_and(posterise(rgb), cv2.cvtColor(lines, cv2.COLOR_GRAY2RGB)), np.uint8)


@dataclass(frozen=True, eq=False)
class ColourStatistics:
    """Mean and standard deviation of L*, a* and b*, float64 [3] each."""

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]


def colour_statistics(pictures: Iterable[Rgb]) -> ColourStatistics:
    """Return the statistics of all pixels of all pictures together."""
    moments = np.zeros((2, 3))
    pixels = 0
    for picture in pictures:
        lab = _to_lab(picture).reshape(-1, 3).astype(np.float64)
        moments += lab.sum(axis=0), (lab**2).sum(axis=0)
        pixels += len(lab)
    mean, square = moments / pixels
    return ColourStatistics(mean, np.sqrt(np.maximum(square - mean**2, 0)))


def transfer_colour(rgb: Rgb, target: ColourStatistics) -> Rgb:
    """Return the picture with the colour statistics of `target` (Reinhard et al. 2001).

    Taken in CIE L*a*b* as is usual since: the paper's own l-alpha-beta space has a logarithm that near-black pixels dominate.
    """
    own = colour_statistics([rgb])
    gain = target.deviation / np.maximum(own.deviation, 1e-3)
    lab = (_to_lab(rgb) - own.mean) * gain + target.mean
    back = cv2.cvtColor(np.asarray(lab, np.float32), cv2.COLOR_LAB2RGB)
    return np.asarray(np.rint(np.clip(back, 0, 1) * 255), np.uint8)


def _to_lab(rgb: Rgb) -> NDArray[np.float32]:
    return np.asarray(cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2LAB), np.float32)
