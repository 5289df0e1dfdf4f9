from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stylekit import assets
from stylekit.errors import AssetError, MissingPartError, UsageError
from stylekit.faces.detect import CARTOON_THRESHOLD
from stylekit.faces.finder import DlibFinder, FanFinder, MeshFinder, _face_of_68, face_finder, landmarks_5_of_68
from tests.faces.fan import DETECTOR, LANDMARKS, write_random_weights


def test_the_mesh_finder_aligns_by_the_mesh_of_each_face(detector, face_mesh, portrait):
    (found,) = face_finder("mesh").find(portrait)
    (face,) = detector.detect(portrait)
    np.testing.assert_array_equal(found.face.box, face.box)
    np.testing.assert_array_equal(found.landmarks_5, face_mesh.mesh(portrait, face).landmarks_5)


def test_the_threshold_reaches_the_detector(portrait):
    finder = MeshFinder()
    assert len(finder.find(portrait, 0.5)) == 1
    assert finder.find(portrait, 0.999) == []


def test_unknown_landmarks_are_an_error():
    with pytest.raises(UsageError, match="mtcnn"):
        face_finder("mtcnn")


def points_68(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(10, 200, (68, 2))


def test_five_of_68_points_are_eye_means_nose_tip_and_mouth_corners():
    points = points_68()
    expected = [points[36:42].mean(axis=0), points[42:48].mean(axis=0), points[30], points[48], points[54]]
    np.testing.assert_allclose(landmarks_5_of_68(points), expected, rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 30), st.floats(-500, 500), st.floats(-500, 500))
def test_the_face_of_68_points_is_the_square_around_them_and_moves_with_them(seed, scale, x, y):
    points = points_68(seed)
    face, moved = _face_of_68(points, 0.7), _face_of_68(points * scale + (x, y), 0.7)
    assert face.box[2] - face.box[0] == pytest.approx(face.box[3] - face.box[1], rel=1e-4)
    assert face.size == pytest.approx(float(np.ptp(points, axis=0).max()), rel=1e-4)
    np.testing.assert_allclose(moved.box, face.box * scale + np.array((x, y, x, y)), rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(moved.keypoints, face.keypoints * scale + (x, y), rtol=1e-3, atol=1e-2)


def test_points_that_coincide_still_give_a_face_of_some_size():
    assert _face_of_68(np.full((68, 2), 7.0), 0.5).size == 1


@pytest.mark.parametrize(("landmarks", "module"), [("face-alignment", "face_alignment"), ("dlib", "dlib")])
def test_a_missing_package_is_named_with_its_extra(monkeypatch, landmarks, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingPartError, match=r"stylekit\[faces\]"):
        face_finder(landmarks)


@pytest.fixture
def hub(empty_home: Path, tmp_path: Path):
    """torch's hub folder of this test's own."""
    before = torch.hub.get_dir()
    torch.hub.set_dir(tmp_path / "hub")
    yield tmp_path / "hub" / "checkpoints"
    torch.hub.set_dir(before)


@pytest.fixture
def network_assets(monkeypatch, asset_home: Path):
    """The face mesh stays at hand where the cache is an empty one."""
    mesh = assets.fetch("face-mesh")
    monkeypatch.setattr("stylekit.faces.landmarks.fetch", lambda name: mesh)


def test_missing_weights_say_what_to_bring(hub):
    pytest.importorskip("face_alignment")
    with pytest.raises(AssetError, match=rf"{DETECTOR} and {LANDMARKS}.*TORCH_HOME.*assets add face-alignment"):
        FanFinder()


def test_damaged_weights_are_named(hub):
    pytest.importorskip("face_alignment")
    hub.mkdir(parents=True)
    for name in (DETECTOR, LANDMARKS):
        (hub / name).write_bytes(b"not weights")
    with pytest.raises(AssetError, match=r"cannot use the weights in .*checkpoints"):
        FanFinder()
    assert torch.hub.get_dir() == str(hub.parent)


@pytest.mark.slow
def test_face_alignment_finds_faces_in_the_pictures_own_pixels(network_assets, hub, monkeypatch):
    pytest.importorskip("face_alignment")
    write_random_weights(hub, finds=True)
    monkeypatch.setattr("stylekit.faces.finder._SEARCHED_SIDE", 256)
    finder = FanFinder()
    seen = []

    def landmarks(rgb: np.ndarray, detected_faces: list[np.ndarray]) -> list[np.ndarray]:
        """Stand in for FAN, which takes long to warm up; the benchmark runs it."""
        seen.extend(detected_faces)
        return [points_68(number) for number in range(len(detected_faces))]

    monkeypatch.setattr(finder._network, "get_landmarks_from_image", landmarks)
    rgb = np.random.default_rng(0).integers(0, 255, (300, 512, 3), np.uint8)
    found = finder.find(rgb)
    assert len(found) == len(seen) > 0
    assert [box[2] - box[0] for box in seen] == pytest.approx([1024] * len(seen))  # 512 px in the half-size picture
    sizes = [each.face.size for each in found]
    assert sizes == sorted(sizes, reverse=True)
    for each in found:
        number = next(n for n in range(len(seen)) if _face_of_68(points_68(n), 0).size == each.face.size)
        np.testing.assert_array_equal(each.landmarks_5, landmarks_5_of_68(points_68(number)))
    assert found[0].face.score == pytest.approx(1 / (1 + np.exp(-2)), abs=1e-3)
    assert found[0].mesh.points.shape == (468, 3)
    assert finder.find(rgb, 0.95) == []


@pytest.mark.slow
def test_face_alignment_reads_the_folder_that_the_user_brought(network_assets, hub, tmp_path):
    pytest.importorskip("face_alignment")
    write_random_weights(tmp_path / "brought", finds=True)
    assets.add("face-alignment", tmp_path / "brought")
    FanFinder()
    assert torch.hub.get_dir() == str(hub.parent)


@pytest.fixture(scope="module")
def dlib_finder(asset_home: Path) -> DlibFinder:
    pytest.importorskip("dlib")
    return DlibFinder()


@pytest.mark.slow
def test_dlib_agrees_with_the_mesh(dlib_finder, portrait):
    found = dlib_finder.find(portrait)[0]
    (expected,) = face_finder("mesh").find(portrait)
    eyes = np.linalg.norm(expected.landmarks_5[1] - expected.landmarks_5[0])
    assert np.linalg.norm(found.landmarks_5 - expected.landmarks_5, axis=1).mean() < 0.08 * eyes
    assert found.face.size == pytest.approx(expected.face.size, rel=0.15)
    assert found.face.score > 0.5
    assert found.mesh.presence > 0.9
    assert np.median(np.linalg.norm(found.mesh.points - expected.mesh.points, axis=1)) < 0.05 * eyes


@pytest.mark.slow
def test_dlib_answers_in_the_pictures_own_pixels_and_heeds_the_threshold(dlib_finder, portrait):
    import cv2

    head = portrait[:300, 80:380]
    (small,) = dlib_finder.find(head)
    (large,) = dlib_finder.find(cv2.resize(head, None, fx=3, fy=3, interpolation=cv2.INTER_LINEAR))
    np.testing.assert_allclose((large.landmarks_5 + 0.5) / 3, small.landmarks_5 + 0.5, atol=4)
    assert dlib_finder.find(head, 0.99) == []
    assert len(dlib_finder.find(portrait, CARTOON_THRESHOLD)) > len(dlib_finder.find(portrait, 0.6)) > 0


def test_a_damaged_shape_predictor_is_named(tmp_path):
    pytest.importorskip("dlib")
    (tmp_path / "points.dat").write_bytes(b"not a predictor")
    with pytest.raises(AssetError, match=r"points\.dat"):
        DlibFinder(tmp_path / "points.dat")
