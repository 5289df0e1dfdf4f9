from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from stylekit.errors import AssetError
from stylekit.faces.detect import FaceDetector, _merge


def centre(face) -> np.ndarray:
    return (face.box[:2] + face.box[2:]) / 2


def test_finds_the_one_face_of_a_portrait(detector, portrait):
    (face,) = detector.detect(portrait)
    np.testing.assert_allclose(centre(face), (225, 127), atol=8)
    assert 80 < face.size < 130
    assert face.score > 0.8
    right_eye, left_eye, nose, mouth = face.keypoints[:4]
    assert right_eye[0] < nose[0] < left_eye[0]
    assert right_eye[1] < nose[1] < mouth[1]


def test_answers_in_the_pictures_own_pixels(detector, portrait):
    (small,) = detector.detect(portrait)
    (large,) = detector.detect(cv2.resize(portrait, None, fx=3, fy=3, interpolation=cv2.INTER_LINEAR))
    np.testing.assert_allclose((large.box + 0.5) / 3, small.box + 0.5, atol=2)
    wide = np.full((512, 900, 3), 90, np.uint8)
    wide[:, 300:812] = portrait
    (moved,) = detector.detect(wide)
    np.testing.assert_allclose(centre(moved) - (300, 0), centre(small), atol=8)


def test_small_face_in_a_large_picture_is_found_in_a_tile(detector, portrait):
    canvas = np.full((1500, 2400, 3), 90, np.uint8)
    canvas[1100:1400, 1900:2200] = portrait[:300, 80:380]
    (face,) = detector.detect(canvas)
    np.testing.assert_allclose(centre(face), (225 - 80 + 1900, 127 + 1100), atol=8)


def test_face_that_overfills_the_picture_is_found_with_a_margin(detector, portrait):
    (face,) = detector.detect(portrait[98:160, 192:258])
    np.testing.assert_allclose(centre(face), (225 - 192, 127 - 98), atol=8)


def test_faces_come_largest_first(detector, portrait):
    head = portrait[20:240, 110:330]
    canvas = np.full((350, 700, 3), 90, np.uint8)
    canvas[60:280, 60:280] = head
    canvas[:, 350:] = cv2.resize(head, (350, 350), interpolation=cv2.INTER_LINEAR)
    first, second = detector.detect(canvas)
    assert centre(first)[0] > 350 > centre(second)[0]


def test_picture_without_a_face_has_none(detector):
    gradient = np.tile(np.linspace(0, 255, 300).astype(np.uint8)[None, :, None], (200, 1, 3))
    assert detector.detect(gradient) == []


def test_merging_weighs_by_score_and_keeps_apart_what_is_apart():
    def row(score: float, left: float) -> np.ndarray:
        return np.concatenate([[score, left, 0, left + 10, 10], np.zeros(12)])

    merged = _merge(np.stack([row(0.3, 2), row(0.9, 0), row(0.8, 50)]))
    assert [round(float(m[0]), 2) for m in merged] == [0.9, 0.8]
    assert merged[0][1] == pytest.approx(0.3 * 2 / 1.2)


def test_every_starter_photograph_has_a_face(detector, starter_photos):
    assert len(starter_photos) == 82
    assert [name for name, rgb in starter_photos.items() if not detector.detect(rgb)] == []


def test_damaged_network_is_named(tmp_path: Path):
    broken = tmp_path / "face.tflite"
    broken.write_bytes(b"not a network")
    with pytest.raises(AssetError, match=r"face\.tflite"):
        FaceDetector(broken)
