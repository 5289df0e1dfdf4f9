from __future__ import annotations

import cv2
import numpy as np

from stylekit.faces.align import face_matrix, template_points
from stylekit.faces.landmarks import face_at


def test_five_points_lie_on_eyes_nose_and_mouth(detector, face_mesh, portrait):
    face = detector.detect(portrait)[0]
    mesh = face_mesh.mesh(portrait, face)
    assert mesh.points.shape == (468, 3)
    assert mesh.presence > 0.99
    assert mesh.shift < 0.05
    five = mesh.landmarks_5
    expected = [face.keypoints[0], face.keypoints[1], face.keypoints[2]]
    np.testing.assert_allclose(five[:3], expected, atol=0.08 * face.size)
    np.testing.assert_allclose(five[3:].mean(axis=0), face.keypoints[3], atol=0.1 * face.size)
    assert five[3, 0] < five[4, 0]


def test_mesh_turns_and_grows_with_the_picture(detector, face_mesh, portrait):
    upright = face_mesh.mesh(portrait, detector.detect(portrait)[0])
    matrix = cv2.getRotationMatrix2D((225, 127), 20, 1.5)
    matrix[:, 2] += (150, 150)
    turned = cv2.warpAffine(portrait, matrix, (800, 700), borderMode=cv2.BORDER_REPLICATE)
    mesh = face_mesh.mesh(turned, detector.detect(turned)[0])
    expected = upright.points[:, :2] @ matrix[:, :2].T + matrix[:, 2]
    error = np.linalg.norm(mesh.points[:, :2] - expected, axis=1)
    eyes = np.linalg.norm(expected[33] - expected[263])
    assert np.median(error) < 0.02 * eyes


def test_aligned_crop_shows_the_face_where_the_template_wants_it(detector, face_mesh, starter_photos):
    sides = []
    for name in ("soft-ui/team-1", "soft-ui/kal-visuals-square", "tabler/male/34"):
        rgb = starter_photos[name]
        five = face_mesh.mesh(rgb, detector.detect(rgb)[0]).landmarks_5
        matrix = face_matrix(five, "dctnet", 256)
        sides.append(five @ matrix[:, :2].T + matrix[:, 2])
    np.testing.assert_allclose(np.mean(sides, axis=0), template_points("dctnet", 256), atol=12)


def test_the_mesh_finds_back_the_points_it_is_fitted_by(detector, face_mesh, starter_photos):
    for name in ("soft-ui/team-1", "soft-ui/team-4", "tabler/male/34"):  # the second in profile
        rgb = starter_photos[name]
        face = detector.detect(rgb)[0]
        five = face_mesh.mesh(rgb, face).landmarks_5
        fitted = face_at(five)
        assert fitted is not None
        found = face_mesh.mesh(rgb, fitted)
        assert found.presence > 0.9
        assert 0.6 < fitted.size / face.size < 1.7
        np.testing.assert_allclose(found.landmarks_5, five, atol=0.03 * fitted.size)


def test_points_that_coincide_or_are_no_numbers_are_no_face():
    assert face_at(np.full((5, 2), 7.0)) is None
    assert face_at(np.full((5, 2), np.nan)) is None
