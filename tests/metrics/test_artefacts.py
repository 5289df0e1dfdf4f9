from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stylekit.metrics.artefacts import ArtefactGauge, crops, judge, marks
from stylekit.metrics.measure import Arrays, Batch

FIVE = np.array([(48.0, 50), (80, 50), (64, 66), (52, 86), (76, 86)])
SKIN = (200, 160, 130)


def drawn_face(side: int = 128) -> np.ndarray:
    """A flat face with brows, eyes and a mouth."""
    picture = np.full((128, 128, 3), SKIN, np.uint8)
    for x in (48, 80):
        cv2.circle(picture, (x, 50), 5, (40, 30, 30), -1, cv2.LINE_AA)
        cv2.line(picture, (x - 9, 38), (x + 9, 38), (60, 40, 30), 2, cv2.LINE_AA)
    cv2.line(picture, (52, 86), (76, 86), (90, 40, 40), 2, cv2.LINE_AA)
    return cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)


def dot(picture: np.ndarray, x: int, y: int, colour: tuple[int, int, int] = (40, 30, 30)) -> np.ndarray:
    return cv2.circle(picture.copy(), (x, y), 3, colour, -1, cv2.LINE_AA)


def measure(*pictures: np.ndarray, landmarks: np.ndarray = FIVE) -> Arrays:
    return ArtefactGauge()(Batch(np.stack(pictures), np.stack([landmarks] * len(pictures))))


def judged(picture: np.ndarray, photo: np.ndarray | None = None) -> dict[str, float]:
    found = judge(measure(drawn_face()), measure(picture), None if photo is None else measure(photo))
    return {name: float(value[0]) for name, value in found.items()}


def test_a_flawless_picture_is_within_what_cartoons_show():
    assert judged(drawn_face()) == dict.fromkeys(("artefact_eyes", "artefact_mouth", "blur_eyes", "blur_mouth"), 0.0)


@pytest.mark.parametrize("colour", [(40, 30, 30), (255, 250, 245)])
def test_a_dot_on_the_chin_is_found_at_the_mouth_alone(colour):
    found = judged(dot(drawn_face(), 64, 98, colour))
    assert found["artefact_mouth"] > 0.7
    assert found["artefact_eyes"] == 0
    assert judged(dot(dot(drawn_face(), 64, 98, colour), 52, 94, colour))["artefact_mouth"] > 1.6 * found["artefact_mouth"]


def test_a_dark_line_between_eye_and_brow_is_found_at_the_eyes_alone():
    picture = drawn_face()
    for x in (48, 80):
        cv2.line(picture, (x - 9, 43), (x + 9, 43), (30, 20, 20), 1, cv2.LINE_AA)
    found = judged(picture)
    assert found["artefact_eyes"] > 1
    assert found["artefact_mouth"] == 0


def test_what_the_photograph_has_already_is_no_artefact():
    spotted = dot(drawn_face(), 64, 98)
    assert judged(spotted, photo=spotted)["artefact_mouth"] == 0
    assert judged(spotted, photo=drawn_face())["artefact_mouth"] > 0.7


def test_blur_is_found_and_grows():
    some, more = (judged(cv2.GaussianBlur(drawn_face(), (0, 0), sigma)) for sigma in (1, 2))
    assert 0.1 < some["blur_eyes"] < more["blur_eyes"] < 1
    assert 0.1 < some["blur_mouth"] < more["blur_mouth"] < 1


@settings(max_examples=8, deadline=None)
@given(st.floats(-180, 180), st.floats(0.9, 1.6))
def test_marks_do_not_depend_on_where_and_how_large_the_face_lies(angle, scale):
    matrix = cv2.getRotationMatrix2D((64, 64), angle, scale) + np.array([[0, 0, 64.0], [0, 0, 64]])
    spotted = dot(drawn_face(), 64, 98)
    turned = cv2.warpAffine(spotted, matrix, (256, 256), borderMode=cv2.BORDER_CONSTANT, borderValue=SKIN)
    there, here = measure(turned, landmarks=FIVE @ matrix[:, :2].T + matrix[:, 2]), measure(spotted)
    name = "artefacts/mouth_specks"
    assert there[name][0] == pytest.approx(here[name][0], rel=0.35)
    assert here[name][0] > 0.7


def test_a_spot_is_not_a_stroke_and_a_step_is_neither():
    plain = np.full((60, 60), 150, np.uint8)
    spot, stroke, step = (
        cv2.circle(plain.copy(), (30, 30), 5, 60, -1),
        cv2.line(plain.copy(), (10, 30), (50, 35), 60, 3),
        plain.copy(),
    )
    step[:, 30:] = 60
    for picture, expected in ((plain, (False, False)), (spot, (True, False)), (stroke, (False, True)), (step, (False, False))):
        assert tuple(bool(part.any()) for part in marks(picture)) == expected
    specks, _ = marks(spot)
    np.testing.assert_allclose(np.argwhere(specks).mean(axis=0), (30, 30), atol=0.3)


def test_crops_show_eyes_in_their_middle_and_the_mouth_above_it():
    coloured = np.zeros((128, 128, 3), np.uint8)
    for (x, y), colour in zip(FIVE[[0, 1, 3, 4]].astype(int), ((255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 255)), strict=True):
        cv2.circle(coloured, (x, y), 2, colour, -1)
    for crop, channel, (x, y) in zip(crops(coloured, FIVE), range(3), ((31.5, 37.9), (31.5, 37.9), (47.5, 26.7)), strict=True):
        spot = np.argwhere(crop[..., channel] > 128).mean(axis=0)
        np.testing.assert_allclose(spot, (y, x), atol=1)


def test_wretched_pictures_and_points_give_nan_and_no_error(wretched):
    found = ArtefactGauge()(wretched)
    assert all(np.isnan(array[:2]).all() and np.isfinite(array[2:]).all() for array in found.values())
    values = judge(found, found)
    assert all(np.isnan(value[:2]).all() for value in values.values())
    empty = ArtefactGauge()(Batch(wretched.pictures[:0], wretched.landmarks[:0]))
    assert {array.shape for array in empty.values()} == {(0,)}
