from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stylekit.errors import AssetError, UsageError
from stylekit.faces.iris import Eye, IrisNetwork


@pytest.fixture(scope="module")
def iris(asset_home) -> IrisNetwork:
    return IrisNetwork()


@pytest.fixture(scope="module")
def gazes(iris, detector, face_mesh, starter_photos):
    def measure(name: str, mirrored: bool = False) -> np.ndarray:
        rgb = starter_photos[name]
        rgb = np.ascontiguousarray(rgb[:, ::-1]) if mirrored else rgb
        eyes = iris.eyes(rgb, face_mesh.mesh(rgb, detector.detect(rgb)[0]).points)
        return np.array([eye.gaze for eye in eyes])

    return measure


def drawn_eye(side: str) -> Eye:
    """An eye 10 wide and 4 open, its iris 1 to the right of and 0.5 below the middle."""
    contour, points = np.zeros((71, 2), np.float32), np.zeros((5, 2), np.float32)
    outer, inner = ((0, 0), (10, 0)) if side == "left" else ((10, 0), (0, 0))
    contour[[0, 8, 4, 12]] = outer, inner, (5, 2), (5, -2)
    points[0] = (6, 0.5)
    return Eye(contour, points, side)


@pytest.mark.parametrize("side", ["left", "right"])
@settings(max_examples=20, deadline=None)
@given(st.floats(-3, 3), st.floats(0.5, 20), st.floats(-100, 100))
def test_gaze_and_openness_of_a_known_eye_turn_and_grow_with_it(side, angle, scale, moved):
    cosine, sine = np.cos(angle) * scale, np.sin(angle) * scale
    turn = np.array([[cosine, -sine], [sine, cosine]])
    eye = drawn_eye(side)
    turned = Eye(*((part @ turn.T + moved).astype(np.float32) for part in (eye.contour, eye.iris)), side)
    assert turned.gaze == pytest.approx((0.1, 0.05), abs=1e-3)
    assert turned.openness == pytest.approx(0.4, abs=1e-3)


def test_an_eye_without_width_has_neither():
    nothing = Eye(np.ones((71, 2), np.float32), np.ones((5, 2), np.float32), "left")
    assert np.isnan([*nothing.gaze, nothing.openness]).all()


def test_lids_and_iris_lie_in_the_eyes(iris, detector, face_mesh, portrait):
    points = face_mesh.mesh(portrait, detector.detect(portrait)[0]).points
    for eye, corners in zip(iris.eyes(portrait, points), ((33, 133), (362, 263)), strict=True):
        width = np.linalg.norm(points[corners[1], :2] - points[corners[0], :2])
        np.testing.assert_allclose(eye.corners, points[list(corners), :2], atol=0.2 * width)
        middle = eye.corners.mean(axis=0)
        assert np.linalg.norm(eye.iris[0] - middle) < 0.3 * width
        assert 0.1 < eye.openness < 0.6
        spots = np.rint([eye.iris[0], middle + np.array((0, width))]).astype(int)
        darkness = [255 - portrait[y, x].mean() for x, y in spots]
        assert darkness[0] > darkness[1] + 30  # the pupil against the cheek


def test_who_looks_aside_is_told_to_which_side(gazes):
    right, left = (gazes(name)[:, 0].mean() for name in ("tabler/female/12", "tabler/male/28"))
    assert right > 0.12
    assert left < -0.08


def test_a_mirrored_picture_mirrors_the_gaze(gazes):
    seen, mirrored = gazes("soft-ui/marie"), gazes("soft-ui/marie", mirrored=True)
    np.testing.assert_allclose(mirrored[::-1] * (-1, 1), seen, atol=0.03)
    assert seen[:, 0].min() > 0.1


def test_coinciding_corners_are_refused(iris, portrait):
    with pytest.raises(UsageError, match="coincide"):
        iris.eyes(portrait, np.full((468, 3), 50.0))


def test_a_damaged_network_is_named(tmp_path):
    (tmp_path / "iris.tflite").write_bytes(b"nothing")
    with pytest.raises(AssetError, match=r"iris\.tflite"):
        IrisNetwork(tmp_path / "iris.tflite")
