from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stylekit.errors import UsageError
from stylekit.faces.align import (
    face_matrix,
    ffhq_matrix,
    invert,
    paste_back,
    scale_of,
    similarity,
    template_points,
    umeyama,
    warp,
)

SOURCE = np.array([(300.5, 250.25), (400, 245), (352, 310), (310, 360), (395, 355.5)])


def turn_scale_move(degrees: float, scale: float, x: float, y: float) -> np.ndarray:
    c, s = scale * np.cos(np.radians(degrees)), scale * np.sin(np.radians(degrees))
    return np.array([[c, s, x], [-s, c, y]])


def move(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return points @ matrix[:, :2].T + matrix[:, 2]


def smooth_picture(width: int, height: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).uniform(0, 255, (height, width, 3)).astype(np.float32)
    blurred = cv2.GaussianBlur(noise, (0, 0), 6)
    return ((blurred - blurred.min()) / np.ptp(blurred) * 255).astype(np.uint8)


def dot(width: int, height: int, x: float, y: float, sigma: float) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return (255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))).astype(np.float32)


def centroid(picture: np.ndarray) -> np.ndarray:
    rows, columns = np.mgrid[: picture.shape[0], : picture.shape[1]]
    return np.array([(picture * columns).sum(), (picture * rows).sum()]) / picture.sum()


matrices = st.builds(
    turn_scale_move,
    degrees=st.floats(-180, 180),
    scale=st.floats(0.02, 20),
    x=st.floats(-500, 500),
    y=st.floats(-500, 500),
)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (288, [(111.7824, 137.6286), (179.7399, 137.2527), (145.9772, 176.2777), (118.0594, 216.0620), (174.3362, 215.7508)]),
        (256, [(99.3622, 122.3365), (159.7688, 122.0024), (129.7575, 156.6913), (104.9417, 192.0551), (154.9655, 191.7785)]),
    ],
)
def test_dctnet_template_is_upstreams(size, expected):
    np.testing.assert_allclose(template_points("dctnet", size), expected, atol=1e-4)


ARCFACE = np.array([(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)])


@pytest.mark.parametrize("size", [112, 256, 1024])
def test_arcface_template_is_insightfaces_scaled(size):
    np.testing.assert_allclose(template_points("arcface", size), ARCFACE * size / 112, rtol=1e-12)
    np.testing.assert_allclose((template_points("dctnet", 112) - 56) / 0.75 + 56, ARCFACE + 1, atol=1e-4)


def test_arcface_fit_is_least_in_the_crop():
    matrix = face_matrix(SOURCE, "arcface", 112)
    np.testing.assert_allclose(matrix, umeyama(SOURCE, ARCFACE))
    assert np.abs(matrix - similarity(SOURCE, ARCFACE)).max() > 0.1


def test_similarity_is_upstreams_source_space_fit():
    matrix = similarity(SOURCE, template_points("dctnet", 288))
    np.testing.assert_allclose(matrix[:, :2], [[0.6966938, -0.0193996], [0.0193996, 0.6966938]], atol=1e-6)
    np.testing.assert_allclose(matrix[:, 2], [-93.0084477, -42.1240157], atol=1e-4)  # upstream's template is float32
    np.testing.assert_allclose(invert(matrix)[:, :2], [[1.4342388, 0.0399367], [-0.0399367, 1.4342388]], atol=1e-6)
    np.testing.assert_allclose(invert(matrix)[:, 2], [135.0786230, 56.7014438], atol=1e-4)


def test_umeyama_differs_from_the_source_space_fit():
    matrix = umeyama(SOURCE, template_points("dctnet", 288))
    np.testing.assert_allclose(matrix[:, :2], [[0.6942446, -0.0193314], [0.0193314, 0.6942446]], atol=1e-6)


@given(matrices)
def test_both_fits_recover_an_exact_similarity(matrix):
    target = move(SOURCE, matrix)
    for fit in (similarity, umeyama):
        np.testing.assert_allclose(move(SOURCE, fit(SOURCE, target)), target, atol=1e-6)


@given(matrices)
def test_invert_takes_points_back(matrix):
    np.testing.assert_allclose(move(move(SOURCE, matrix), invert(matrix)), SOURCE, atol=1e-6)


@pytest.mark.parametrize("template", ["dctnet", "ffhq", "arcface"])
def test_coinciding_points_are_an_error(template):
    with pytest.raises(UsageError, match="coincide"):
        face_matrix(np.full((5, 2), 7.0), template, 256)


@pytest.mark.parametrize("template", ["dctnet", "ffhq", "arcface"])
@given(matrix=matrices)
def test_a_face_that_matches_the_template_stays_where_it_is(template, matrix):
    points = template_points(template, 256)
    tolerance = 1.5 if template == "ffhq" else 1e-6  # FFHQ's points are a typical face's
    np.testing.assert_allclose(face_matrix(points, template, 256), [[1, 0, 0], [0, 1, 0]], atol=tolerance)
    np.testing.assert_allclose(
        move(move(points, matrix), face_matrix(move(points, matrix), template, 256)), points, atol=tolerance
    )


def test_unknown_template_is_an_error():
    with pytest.raises(UsageError, match="passport"):
        template_points("passport", 256)


def test_ffhq_matrix_takes_the_quad_to_the_crop():
    eye_left, eye_right, mouth_left, mouth_right = SOURCE[0], SOURCE[1], SOURCE[3], SOURCE[4]
    eye_avg, mouth_avg = (eye_left + eye_right) / 2, (mouth_left + mouth_right) / 2
    e2e, e2m = eye_right - eye_left, mouth_avg - eye_avg
    x = e2e - np.array([-e2m[1], e2m[0]])
    x = x / np.hypot(*x) * max(np.hypot(*e2e) * 2.0, np.hypot(*e2m) * 1.8)
    y = np.array([-x[1], x[0]])
    c = eye_avg + e2m * 0.1
    quad = np.stack([c - x - y, c - x + y, c + x + y, c + x - y])  # the script adds 0.5 for PIL, whose pixel 0 spans 0 to 1
    corners = move(quad, ffhq_matrix(SOURCE, 256)) + 0.5
    np.testing.assert_allclose(corners, [(0, 0), (0, 256), (256, 256), (256, 0)], atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.floats(-180, 180), st.floats(0.06, 2.5))
def test_warp_puts_things_where_the_matrix_says(degrees, scale):
    x, y, size = 311.3, 258.6, 128
    matrix = turn_scale_move(degrees, scale, 0, 0)
    matrix[:, 2] = np.array([60.2, 66.9]) - matrix[:, :2] @ (x, y)
    crop = warp(dot(640, 512, x, y, max(3 / scale, 4)), matrix, size, "black")
    np.testing.assert_allclose(centroid(crop), (60.2, 66.9), atol=0.06)


@settings(max_examples=40, deadline=None)
@given(st.floats(-180, 180), st.floats(0.6, 3), st.floats(20, 44), st.floats(20, 44))
def test_paste_back_undoes_warp(degrees, scale, x, y):
    picture = smooth_picture(160, 140)
    matrix = turn_scale_move(degrees, scale, 0, 0)
    matrix[:, 2] = np.array([32.0, 32.0]) - matrix[:, :2] @ (x + 48, y + 38)
    crop = warp(picture, matrix, 64)
    restored = paste_back(picture // 2, crop, matrix, np.ones((64, 64), np.float32))
    rows, columns = np.mgrid[:140, :160]
    inside = move(np.stack([columns, rows], axis=-1).reshape(-1, 2).astype(float), matrix).reshape(140, 160, 2)
    interior = ((inside > 2) & (inside < 61)).all(axis=-1)
    reach = 2 * max(1, scale)  # two pixels of the picture, since the crop is averaged on its way back to fewer
    exterior = ((inside < -reach) | (inside > 63 + reach)).any(axis=-1)
    difference = np.abs(restored.astype(int) - picture)
    assert difference[interior].max() <= 6
    assert difference[interior].mean() <= 1.5
    np.testing.assert_array_equal(restored[exterior], (picture // 2)[exterior])


def test_paste_back_of_a_crop_beside_the_picture_changes_nothing():
    picture = smooth_picture(50, 40)
    crop = np.zeros((32, 32, 3), np.uint8)
    pasted = paste_back(picture, crop, np.array([[1.0, 0, 500], [0, 1, 0]]), np.ones((32, 32), np.float32))
    np.testing.assert_array_equal(pasted, picture)


def test_paste_back_blends_by_the_mask():
    picture = np.full((40, 40, 3), 200, np.uint8)
    crop = np.zeros((20, 20, 3), np.uint8)
    pasted = paste_back(picture, crop, np.array([[1.0, 0, -10], [0, 1, -10]]), np.full((20, 20), 0.25, np.float32))
    assert (pasted[12:28, 12:28] == 150).all()


def test_a_crop_of_a_large_picture_does_not_alias():
    stripes = np.tile(np.array([0, 0, 255], np.uint8), (1200, 400))
    matrix = turn_scale_move(7, 0.1, 20, 10)
    plain = cv2.warpAffine(stripes, matrix, (100, 100), flags=cv2.INTER_LINEAR)
    assert plain[30:80, 40:90].std() > 80
    crop = warp(stripes, matrix, 100)[30:80, 40:90]
    assert crop.std() < 10
    assert abs(crop.mean() - 85) < 2


def test_white_border_is_white_and_exact():
    picture = np.full((20, 20, 3), 100, np.uint8)
    crop = warp(picture, np.array([[1.0, 0, 10], [0, 1, 10]]), 40, "white")
    assert (crop[:9] == 255).all()
    assert (crop[10:30, 10:30] == 100).all()


def test_soft_border_mirrors_nothing_and_keeps_the_picture():
    picture = np.full((64, 64, 3), 120, np.uint8)
    picture[24:30, 6:12] = 255  # an eye near the left edge; a mirror would show it again on the other side
    crop = warp(picture, np.array([[1.0, 0, 40], [0, 1, 0]]), (104, 64), "soft")
    np.testing.assert_array_equal(crop[:, 41:], picture[:, 1:])
    assert np.abs(crop[:, :39].astype(int) - 120).max() <= 12


def test_soft_border_starts_as_the_edge_and_grows_smooth():
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[::2] = 200
    crop = warp(picture, np.array([[1.0, 0, 96], [0, 1, 0]]), (160, 64), "soft").astype(float)
    rough = np.abs(np.diff(crop[..., 0], axis=0)).mean(axis=0)
    assert rough[97] > 190
    assert rough[80] < 20
    assert rough[5] < 1


def test_a_crop_that_misses_the_picture_is_all_border():
    picture = smooth_picture(30, 30)
    far = np.array([[1.0, 0, 1000], [0, 1, 1000]])
    assert (warp(picture, far, 16, "white") == 255).all()
    assert warp(picture, far, 16, "soft").shape == (16, 16, 3)


def test_scale_of_ignores_the_turn():
    assert scale_of(turn_scale_move(33, 0.4, 5, 6)) == pytest.approx(0.4)
