"""What happens to colours: skin above all, the face, what lies behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from stylekit.assets import resolve
from stylekit.faces.landmarks import FaceMesh, Mesh, face_at
from stylekit.faces.litert import LiteNetwork
from stylekit.faces.traits import cheek_colour, skin_tone, typology_angle
from stylekit.metrics.measure import Arrays, Batch

Values: TypeAlias = NDArray[np.float64]

VERSION = 1
UNKNOWN_TONE = "unknown"

_PLACES = ("skin", "face", "background")
_SURELY_BEHIND = 0.1  # the mask's probability of the person
_LEAST_BEHIND = 0.02  # share of the picture
_NOWHERE = np.full(3, np.nan)


class ColourGauge:
    """Takes mean colours where the photograph has cheeks, face and background.

    Arrays, each [N,3] of L*, a* and b* (sRGB, white point D65): `colour/skin`, the median of the cheeks; `colour/face`, the mean
    within the mesh's outline; `colour/background`, the mean where the portrait mask is sure that nobody is, NaN where that is
    less than 2 % of the picture. All places are taken from the photograph, of reference cartoons from themselves.

    Raises:
        AssetError: If a network is missing or damaged.
    """

    def __init__(self) -> None:
        mesh, mask = resolve("face-mesh"), resolve("portrait-mask")
        self._mesh, self._mask = FaceMesh(mesh.path), LiteNetwork(mask.path)
        self._weights = f"{mesh.sha256[:12]}/{mask.sha256[:12]}"

    @property
    def key(self) -> str:
        """What the arrays depend on beside the pictures."""
        return f"colour/{VERSION}/{self._weights}"

    def __call__(self, batch: Batch) -> Arrays:
        """Measure every picture; NaN where the photograph has no such place."""
        places = batch.pictures if batch.photos is None else batch.photos
        values = [self._measure(*one) for one in zip(batch.pictures, places, batch.landmarks, strict=True)]
        columns = np.array(values, np.float32).reshape(len(values), len(_PLACES), 3)
        return {f"colour/{name}": columns[:, index] for index, name in enumerate(_PLACES)}

    def _measure(self, picture: NDArray[np.uint8], photo: NDArray[np.uint8], landmarks: Values) -> list[Values]:
        lab = cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2Lab)
        behind = self._background(photo)
        background = lab[behind].mean(axis=0) if behind.mean() >= _LEAST_BEHIND else _NOWHERE
        if (found := face_at(landmarks)) is None:
            return [_NOWHERE, _NOWHERE, background]
        mesh = self._mesh.mesh(photo, found)
        skin = cheek_colour(picture, mesh)
        face = lab[_outline(mesh, lab.shape)]
        return [_NOWHERE if skin is None else skin, face.mean(axis=0) if len(face) else _NOWHERE, background]

    def _background(self, photo: NDArray[np.uint8]) -> NDArray[np.bool_]:
        side = self._mask.side
        shown = cv2.resize(photo, (side, side), interpolation=cv2.INTER_LINEAR).astype(np.float32) / 255
        (person,) = self._mask(shown)
        sized = cv2.resize(person.reshape(side, side), (photo.shape[1], photo.shape[0]), interpolation=cv2.INTER_AREA)
        return np.asarray(sized < _SURELY_BEHIND)


def _outline(mesh: Mesh, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    mask = np.zeros(shape[:2], np.uint8)
    points = np.rint(np.clip(mesh.points[:, :2], -1e4, 1e4)).astype(np.int32)
    cv2.fillConvexPoly(mask, cv2.convexHull(points), 1)
    return mask.astype(bool)


def shift(photo: Arrays, row: Arrays) -> dict[str, Values]:
    """Return how far each picture's colours lie from its photograph's.

    Args:
        photo: Arrays of the photographs.
        row: Arrays of the pictures made from them, in the same order, N of them.

    Returns:
        Each float64 [N], NaN where it cannot be told: `colour_shift` and `background_shift`, CIE 1976 colour differences
        (Delta E) of the mean colours of face and background; `ita_shift_deg`, by how many degrees the individual typology angle
        of the cheeks grew, above 0 where the skin was lightened.
    """
    differences = {name: _of(row, name) - _of(photo, name) for name in _PLACES}
    return {
        "colour_shift": np.linalg.norm(differences["face"], axis=1),
        "background_shift": np.linalg.norm(differences["background"], axis=1),
        "ita_shift_deg": _ita(row) - _ita(photo),
    }


def tones(photo: Arrays) -> list[str]:
    """Return the class of skin tone in every photograph, `skin_tone`'s or "unknown"."""
    return [skin_tone(float(angle)) if np.isfinite(angle) else UNKNOWN_TONE for angle in _ita(photo)]


def by_tone(values: Values, groups: Sequence[str]) -> dict[str, tuple[float, int]]:
    """Return mean and number of the known values of each group.

    Args:
        values: One figure of every picture, [N], such as `ita_shift_deg`.
        groups: N names, as `tones` gives them.
    """
    names, known = np.asarray(groups), np.isfinite(values)
    kinds = dict.fromkeys(groups)
    picked = {kind: np.asarray(values)[known & (names == kind)] for kind in kinds}
    return {kind: (float(some.mean()), len(some)) for kind, some in picked.items() if len(some)}


def _of(arrays: Arrays, name: str) -> Values:
    return np.asarray(arrays[f"colour/{name}"], np.float64).reshape(-1, 3)


def _ita(arrays: Arrays) -> Values:
    angles = [typology_angle(lab) for lab in _of(arrays, "skin")]
    return np.array([np.nan if angle is None else angle for angle in angles], np.float64)
