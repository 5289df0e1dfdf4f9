"""What a face looks like, for the balance of a data set: skin tone, glasses, an open mouth. No verdict rests on these."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from stylekit.faces.align import umeyama, warp
from stylekit.faces.landmarks import Mesh
from stylekit.faces.litert import Floats

SKIN_TONES = ((55.0, "very light"), (41.0, "light"), (28.0, "intermediate"), (10.0, "tan"), (-30.0, "brown"))
"""Least angle in degrees and name of five classes; below the last lies "dark" (Del Bino and Bernerd 2013)."""

# Face mesh indices. A cheek's ring lies below the eye, beside the nose and above the smile line.
_CHEEKS = ((117, 118, 101, 205, 187, 123), (346, 347, 330, 425, 411, 352))
_EYE_CORNERS = ((33, 133), (362, 263))
_LOWER_LIDS, _CHEEK_TOPS = (145, 374), (50, 280)
_SKIN = (50, 280, 205, 425, 101, 330)
_BRIDGE, _NOSE = 168, 5
_INNER_EYE_CORNERS = (133, 362)
_LIPS, _MOUTH_CORNERS = (13, 14), (61, 291)

_LEAST_YELLOW = 3.0  # b* of CIELAB; below it, in black-and-white or blue light, the angle says nothing of skin

_PATCH = (128, 96)
_PATCH_EYES = np.array([(40.0, 36.0), (88.0, 36.0)])
_BAR_SIGMA = 6.0  # in samples of the bridge, 48 from above the eyes to the nose's end
_GLASSES_MIDDLE, _GLASSES_STEEPNESS = -5.4, 4.0  # chosen on 80 photographs, 14 of them with glasses


def skin_tone(ita_deg: float) -> str:
    """Return the class of an individual typology angle: very light, light, intermediate, tan, brown or dark.

    The limits 55, 41, 28, 10 and -30 degrees are those of Chardon et al. 1991 and Del Bino and Bernerd 2013. They hold for
    skin under a known light; in a photograph, light and exposure shift the angle, so only many faces together say something.
    """
    return next((name for least, name in SKIN_TONES if ita_deg > least), "dark")


def traits(rgb: NDArray[np.uint8], mesh: Mesh) -> dict[str, float]:
    """Measure what a face looks like.

    Args:
        rgb: The picture, uint8 [H,W,3].
        mesh: The face's mesh in it.

    Returns:
        `ita_deg`, the individual typology angle arctan((L* - 50) / b*) of the cheeks in degrees (`skin_tone`), left out
        where they are not of a skin's colour; `glasses`, 0..1, above 0.5 where a bar crosses the bridge of the nose and edges
        lie below the eyes, worthless on faces in profile; `mouth_open`, the gap between the lips as a share of the mouth's
        width. Nothing where the eyes coincide.
    """
    if (cut := _cut(rgb, mesh)) is None:
        return {}
    patch, points = cut
    upper, lower = points[list(_LIPS)]
    left, right = points[list(_MOUTH_CORNERS)]
    found = {
        "glasses": _glasses(cv2.cvtColor(patch, cv2.COLOR_RGB2GRAY).astype(np.float32), points),
        "mouth_open": float(np.linalg.norm(lower - upper) / max(float(np.linalg.norm(right - left)), 1e-6)),
    }
    colour = _cheek_colour(patch, points)
    angle = None if colour is None else typology_angle(colour)
    return found if angle is None else {"ita_deg": angle, **found}


def cheek_colour(rgb: NDArray[np.uint8], mesh: Mesh) -> NDArray[np.float64] | None:
    """Return the median L*, a* and b* of the cheeks, float64 [3]; None where there are none to see.

    Args:
        rgb: The picture, uint8 [H,W,3], taken for sRGB; the white point is D65.
        mesh: The face's mesh in it.
    """
    cut = _cut(rgb, mesh)
    return None if cut is None else _cheek_colour(*cut)


def typology_angle(lab: NDArray[np.floating]) -> float | None:
    """Return the individual typology angle in degrees of a colour in CIELAB, [3]; None where it is not a skin's."""
    lightness, _, yellow = (float(value) for value in lab)
    return float(np.degrees(np.arctan((lightness - 50) / yellow))) if yellow >= _LEAST_YELLOW else None


def _cut(rgb: NDArray[np.uint8], mesh: Mesh) -> tuple[NDArray[np.uint8], NDArray[np.float64]] | None:
    """Return the face upright in a patch of a fixed size, and the mesh in its pixels; None where the eyes coincide."""
    points = mesh.points[:, :2].astype(np.float64)
    eyes = np.stack([points[list(corners)].mean(axis=0) for corners in _EYE_CORNERS])
    if not np.linalg.norm(eyes[1] - eyes[0]) > 1:
        return None
    matrix = umeyama(eyes, _PATCH_EYES)
    return warp(rgb, matrix, _PATCH, "soft"), np.clip(points @ matrix[:, :2].T + matrix[:, 2], -1e4, 1e4)


def _cheek_colour(patch: NDArray[np.uint8], points: NDArray[np.float64]) -> NDArray[np.float64] | None:
    mask = np.zeros(patch.shape[:2], np.uint8)
    for ring in _CHEEKS:
        cv2.fillConvexPoly(mask, np.rint(points[list(ring)]).astype(np.int32), 1)
    cheeks = patch[mask > 0]
    if not len(cheeks):
        return None
    lab = cv2.cvtColor(cheeks[None].astype(np.float32) / 255, cv2.COLOR_RGB2Lab)[0]
    return np.asarray(np.median(lab, axis=0), np.float64)


def _glasses(gray: Floats, points: NDArray[np.float64]) -> float:
    """Return how much the face looks like wearing glasses.

    Two things tell, and either alone also comes from shadows or wrinkles: the frame crosses the bridge of the nose, and its
    lower rims run below the eyes. Both are taken relative to the skin's brightness.
    """
    gray = cv2.GaussianBlur(gray, (0, 0), 0.8)
    skin = float(np.median(_sample(gray, points[list(_SKIN)][:, None]))) + 10
    along = points[_BRIDGE] + np.linspace(-0.15, 1, 48)[:, None] * (points[_NOSE] - points[_BRIDGE])
    width = points[_INNER_EYE_CORNERS[1], 0] - points[_INNER_EYE_CORNERS[0], 0]
    across = np.linspace(-0.22, 0.22, 9)[:, None] * (width, 0.0)
    bridge = _sample(gray, along[:, None] + across).mean(axis=1)
    level = cv2.GaussianBlur(bridge[:, None], (1, 31), _BAR_SIGMA, borderType=cv2.BORDER_REPLICATE)[:, 0]
    bar = float(np.abs(bridge - level).max())
    rims = []
    for (first, last), lid, cheek in zip(_EYE_CORNERS, _LOWER_LIDS, _CHEEK_TOPS, strict=True):
        x = np.linspace(points[first, 0], points[last, 0], 15)
        y = points[lid, 1] + np.linspace(0.15, 0.9, 24) * (points[cheek, 1] - points[lid, 1])
        below = _sample(gray, np.stack(np.meshgrid(x, y), axis=-1))
        rims.append(float(np.median(np.abs(np.diff(below, axis=0)).max(axis=0))))
    likeness = np.log(bar / skin + 1e-6) + np.log(np.mean(rims) / skin + 1e-6)
    return float(1 / (1 + np.exp(-_GLASSES_STEEPNESS * (likeness - _GLASSES_MIDDLE))))


def _sample(gray: Floats, xy: NDArray[np.float64]) -> Floats:
    """Return the picture's values at `xy` [R,C,2], float32 [R,C]."""
    return np.asarray(cv2.remap(gray, xy.astype(np.float32), None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))
