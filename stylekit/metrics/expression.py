"""Whether the face still does what it did: eyes, mouth, gaze and pose of the head, from the face mesh."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from stylekit.assets import resolve
from stylekit.errors import UsageError
from stylekit.faces.detect import CARTOON_THRESHOLD, Face, FaceDetector
from stylekit.faces.iris import IrisNetwork
from stylekit.faces.landmarks import FaceMesh, face_at
from stylekit.faces.pose import head_pose
from stylekit.metrics.measure import Arrays, Batch

Values: TypeAlias = NDArray[np.float64]

VERSION = 1

# Face mesh indices; the picture's left first.
_EYE_CORNERS = ((33, 133), (362, 263))
_LIDS = ((159, 145), (386, 374))  # upper, lower
_LIPS, _MOUTH_CORNERS = (13, 14), (61, 291)

_MOST_TIMES_LARGER = 2.0
_WIDTHS = {"eyes": 2, "mouth": 3, "gaze": 4, "head_deg": 3}


class ExpressionGauge:
    """Fits the face mesh where the photograph's face lies, found by its five points and by no detector, which drawings defeat.

    Arrays:
        `expression/eyes` [N,2]: distance of the lids as a share of the eye's width, the eye on the picture's left first.
        `expression/mouth` [N,3]: gap of the lips and how far the mouth's corners lie above them, as shares of its width; and
            its width as a share of the eyes' distance.
        `expression/gaze` [N,4]: how far each iris lies to the right of and below the eye's middle, in eye widths.
        `expression/head_deg` [N,3]: roll, yaw and pitch, see `head_pose`.
        `expression/face_found` [N]: 1 where the short-range detector, with the threshold for cartoons, finds a face there whose
            size is that of the photograph's within a factor of 2, else 0.

    Raises:
        AssetError: If a network is missing or damaged.
    """

    def __init__(self) -> None:
        detector, mesh, iris = (resolve(role) for role in ("face-detector", "face-mesh", "iris"))
        self._detector, self._mesh, self._iris = FaceDetector(detector.path), FaceMesh(mesh.path), IrisNetwork(iris.path)
        self._weights = "/".join(asset.sha256[:12] for asset in (detector, mesh, iris))

    @property
    def key(self) -> str:
        """What the arrays depend on beside the pictures."""
        return f"expression/{VERSION}/{self._weights}"

    def __call__(self, batch: Batch) -> Arrays:
        """Measure every picture; NaN where its five points coincide, or the mesh or the iris cannot be had."""
        faces = [face_at(points) for points in batch.landmarks]
        found = [self._is_found(*pair) for pair in zip(batch.pictures, faces, strict=True)]
        values = [self._measure(*pair) for pair in zip(batch.pictures, faces, strict=True)]
        columns = np.array(values, np.float32).reshape(len(values), sum(_WIDTHS.values()))
        parts = np.split(columns, np.cumsum(list(_WIDTHS.values()))[:-1], axis=1)
        return {
            "expression/face_found": np.array(found, np.float32),
            **{f"expression/{name}": part for name, part in zip(_WIDTHS, parts, strict=True)},
        }

    def _is_found(self, picture: NDArray[np.uint8], face: Face | None) -> float:
        if face is None:
            return float("nan")
        low, high = face.box[:2], face.box[2:]
        for other in self._detector.detect(picture, CARTOON_THRESHOLD):
            middle = (other.box[:2] + other.box[2:]) / 2
            is_near = bool(((middle > low) & (middle < high)).all())
            if is_near and 1 / _MOST_TIMES_LARGER <= other.size / face.size <= _MOST_TIMES_LARGER:
                return 1.0
        return 0.0

    def _measure(self, picture: NDArray[np.uint8], face: Face | None) -> list[float]:
        nothing = [float("nan")]
        if face is None:
            return nothing * sum(_WIDTHS.values())
        points = self._mesh.mesh(picture, face).points.astype(np.float64)
        try:
            gaze = [number for eye in self._iris.eyes(picture, points) for number in eye.gaze]
        except UsageError:  # a collapsed mesh
            gaze = nothing * _WIDTHS["gaze"]
        return [*_eyes(points), *_mouth(points), *gaze, *head_pose(points)]


def _eyes(points: Values) -> list[float]:
    return [_span(points, lids) / (_span(points, eye) or np.nan) for lids, eye in zip(_LIDS, _EYE_CORNERS, strict=True)]


def _mouth(points: Values) -> list[float]:
    left, right = (points[list(corners), :2].mean(axis=0) for corners in _EYE_CORNERS)
    across = right - left
    apart = float(np.hypot(*across)) or np.nan
    width = _span(points, _MOUTH_CORNERS) or np.nan
    rise = points[list(_LIPS), :2].mean(axis=0) - points[list(_MOUTH_CORNERS), :2].mean(axis=0)
    lift = float(across[0] * rise[1] - across[1] * rise[0]) / apart
    return [_span(points, _LIPS) / width, lift / width, width / apart]


def _span(points: Values, pair: tuple[int, int]) -> float:
    return float(np.linalg.norm(points[pair[1], :2] - points[pair[0], :2]))


def agreement(photo: Arrays, row: Arrays) -> dict[str, Values]:
    """Return how far each picture's face moved from its photograph's.

    Args:
        photo: Arrays of the photographs.
        row: Arrays of the pictures made from them, in the same order, N of them.

    Returns:
        Each float64 [N], 0 where nothing moved, NaN where either was not measured: `expression_eyes`, the change of the eyes'
        openness in eye widths, mean of both; `expression_mouth`, the mean change of the three measures of the mouth;
        `gaze`, the way of the irises in eye widths, of their mean shift in both eyes, so that squints and noise cancel;
        `pose_deg`, the angle between the directions in which the head looks. `face_found` is the row's own, 1 or 0.
    """
    change = {name: _of(row, name) - _of(photo, name) for name in ("eyes", "mouth", "gaze")}
    directions = (_direction(_of(arrays, "head_deg")) for arrays in (photo, row))
    return {
        "face_found": np.asarray(row["expression/face_found"], np.float64),
        "expression_eyes": np.abs(change["eyes"]).mean(axis=1),
        "expression_mouth": np.abs(change["mouth"]).mean(axis=1),
        "gaze": np.linalg.norm(change["gaze"].reshape(-1, 2, 2).mean(axis=1), axis=1),
        "pose_deg": _angle_deg(*directions),
    }


def correlation(photo: Arrays, row: Arrays) -> dict[str, float]:
    """Return how well the measures of photographs and pictures go together over the set.

    A style may draw all eyes larger or all smiles flatter: that moves `agreement`, not this.

    Args:
        photo: Arrays of the photographs.
        row: Arrays of the pictures made from them, in the same order.

    Returns:
        Pearson's correlation, 1 where the pictures follow, 0 where they do not, NaN below three pictures or where nothing
        varies: `expression_eyes` (openness, mean of both eyes), `expression_mouth` (mean of its three measures), `gaze`
        (sideways, mean of both eyes; up and down it is too weak to be told), `pose` (mean of yaw and pitch).
    """
    pairs = {name: (_of(photo, name), _of(row, name)) for name in _WIDTHS}
    sideways = [arrays[:, [0, 2]].mean(axis=1, keepdims=True) for arrays in pairs["gaze"]]
    eyes = [arrays.mean(axis=1, keepdims=True) for arrays in pairs["eyes"]]
    turns = [arrays[:, 1:] for arrays in pairs["head_deg"]]
    columns = {"expression_eyes": eyes, "expression_mouth": list(pairs["mouth"]), "gaze": sideways, "pose": turns}
    return {name: float(np.mean([_pearson(*pair) for pair in zip(a.T, b.T, strict=True)])) for name, (a, b) in columns.items()}


def _of(arrays: Arrays, name: str) -> Values:
    return np.asarray(arrays[f"expression/{name}"], np.float64).reshape(-1, _WIDTHS[name])


def _pearson(a: Values, b: Values) -> float:
    known = np.isfinite(a) & np.isfinite(b)
    a, b = a[known], b[known]
    if len(a) < 3 or not a.std() or not b.std():
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def _direction(head_deg: Values) -> Values:
    """Return unit vectors [N,3] of where heads of that roll, yaw and pitch look."""
    _, yaw, pitch = np.radians(head_deg).T
    return np.stack([np.sin(yaw) * np.cos(pitch), np.sin(pitch), np.cos(yaw) * np.cos(pitch)], axis=1)


def _angle_deg(a: Values, b: Values) -> Values:
    return np.asarray(np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b), axis=1), (a * b).sum(axis=1))))
