from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from stylekit.errors import AssetError
from stylekit.faces.detect import FaceDetector, _merge, _roll


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


def test_a_group_of_small_faces_is_searched_in_tiles_and_each_is_found_once(detector, portrait):
    canvas = np.full((1000, 1600, 3), 90, np.uint8)
    places = [(60, 80), (520, 60), (1100, 100), (300, 560), (1300, 600)]
    for (x, y), side in zip(places, (150, 200, 260, 180, 220), strict=True):
        canvas[y : y + side, x : x + side] = cv2.resize(portrait[20:240, 110:330], (side, side), interpolation=cv2.INTER_AREA)
    found = [centre(face) for face in detector.detect(canvas)]
    hits = [sum(x < at[0] < x + 260 and y < at[1] < y + 260 for at in found) for x, y in places]
    assert hits == [1] * 5
    assert len(found) == 5


def test_two_people_in_front_lead_to_the_smaller_ones_behind(detector, portrait):
    canvas = np.full((900, 1200, 3), 90, np.uint8)
    places = [(0, 300, 600), (610, 310, 580), (40, 20, 260), (470, 20, 260), (900, 20, 260)]
    for x, y, side in places:
        canvas[y : y + side, x : x + side] = cv2.resize(portrait[20:240, 110:330], (side, side))[: 900 - y, : 1200 - x]
    found = [centre(face) for face in detector.detect(canvas)]
    assert [sum(x < at[0] < x + side and y < at[1] < y + side for at in found) for x, y, side in places] == [1] * 5


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_a_face_that_lies_or_stands_on_its_head_is_not_seen_the_wrong_way_up(detector, starter_photos, turns):
    rolls = []
    for name in ("tabler/female/30", "tabler/male/39"):
        face = detector.detect(np.ascontiguousarray(np.rot90(starter_photos[name], turns)))[0]
        rolls.append(_roll(np.concatenate([[face.score], face.box, face.keypoints.ravel()])))
    off = [abs((roll + 90 * turns + 180) % 360 - 180) for roll in rolls]
    assert max(off) < 35


def test_a_face_that_the_network_takes_for_upright_is_turned_over(detector, starter_photos):
    for name in ("soft-ui/bruce-mars", "soft-ui/kal-visuals-square", "tabler/male/10", "tabler/male/17", "tabler/male/6"):
        upright = starter_photos[name]
        for picture, eyes_above_mouth in ((upright, True), (np.ascontiguousarray(upright[::-1, ::-1]), False)):
            points = detector.detect(picture)[0].keypoints
            assert (points[:2, 1].mean() < points[3, 1]) == eyes_above_mouth, name


def test_a_quarter_turn_gives_the_same_boxes_and_points_turned(detector, portrait):
    turned = np.ascontiguousarray(np.rot90(portrait))
    view = (100.0, 0.0, 280.0)
    upright = max(detector._look_at(portrait, view, 0.5), key=lambda row: row[0])
    again = max(detector._look_at(turned, (view[1], 512 - view[0] - view[2], view[2]), 0.5, 3), key=lambda row: row[0])
    np.testing.assert_allclose(511 - again[2::2][[1, 0, *range(2, 8)]], upright[1::2], atol=2)
    np.testing.assert_allclose(again[1::2], upright[2::2], atol=2)


def test_picture_without_a_face_has_none(detector):
    gradient = np.tile(np.linspace(0, 255, 300).astype(np.uint8)[None, :, None], (200, 1, 3))
    assert detector.detect(gradient) == []


def test_merging_weighs_by_score_and_keeps_apart_what_is_apart():
    def row(score: float, left: float) -> np.ndarray:
        return np.concatenate([[score, left, 0, left + 10, 10], np.zeros(12)])

    merged = _merge(np.stack([row(0.3, 2), row(0.9, 0), row(0.8, 50)]))
    assert [round(float(m[0]), 2) for m in merged] == [0.9, 0.8]
    assert merged[0][1] == pytest.approx(0.3 * 2 / 1.2)


def test_merging_drops_the_part_of_a_face_that_a_tile_cut():
    whole = np.concatenate([[0.9, 0, 0, 100, 100], np.zeros(12)])
    part = np.concatenate([[0.6, 40, 40, 80, 80], np.zeros(12)])
    (merged,) = _merge(np.stack([part, whole]))
    np.testing.assert_array_equal(merged[:5], whole[:5])


def test_every_starter_photograph_has_a_face(detector, starter_photos):
    assert len(starter_photos) == 82
    assert [name for name, rgb in starter_photos.items() if not detector.detect(rgb)] == []


def test_damaged_network_is_named(tmp_path: Path):
    broken = tmp_path / "face.tflite"
    broken.write_bytes(b"not a network")
    with pytest.raises(AssetError, match=r"face\.tflite"):
        FaceDetector(broken)
