from __future__ import annotations

import cv2
import numpy as np
import pytest

from stylekit.config.schema import AlignRecipe
from stylekit.faces.align import face_matrix, warp
from stylekit.faces.quality import assess, near_duplicates, reasons

GOOD = {
    "face_px": 200.0,
    "inside": 1.0,
    "score": 0.9,
    "presence": 1.0,
    "mesh_shift": 0.01,
    "sharpness": 100.0,
    "brightness": 120.0,
    "dark": 0.0,
    "bright": 0.0,
    "roll_deg": 0.0,
    "yaw_deg": 0.0,
    "pitch_deg": 0.0,
}
RECIPE = AlignRecipe(min_face_px=24, min_sharpness=3, max_yaw_deg=60)


@pytest.fixture(scope="module")
def measured(detector, face_mesh):
    def measure(rgb: np.ndarray) -> tuple[dict[str, float], np.ndarray]:
        face = detector.detect(rgb)[0]
        mesh = face_mesh.mesh(rgb, face)
        crop = warp(rgb, face_matrix(mesh.landmarks_5, "dctnet", 256), 256)
        return assess(rgb, face, mesh, crop), crop

    return measure


def test_only_the_toy_and_the_covered_face_are_not_people(measured, starter_photos):
    doubted = [name for name, rgb in starter_photos.items() if reasons(measured(rgb)[0], RECIPE, "photo")]
    assert doubted == ["tabler/male/18", "tabler/male/24"]


def test_blur_lowers_sharpness(measured, portrait):
    sharp = measured(portrait)[0]["sharpness"]
    assert measured(cv2.GaussianBlur(portrait, (0, 0), 2))[0]["sharpness"] < 0.3 * sharp


def test_darkness_and_glare_are_measured_on_the_face(measured, portrait):
    normal = measured(portrait)[0]
    assert normal["bright"] < 0.1
    glaring = np.clip(portrait.astype(int) * 2 + 40, 0, 255).astype(np.uint8)
    assert measured(glaring)[0]["bright"] > 0.4
    assert measured((portrait * 0.4).astype(np.uint8))[0]["brightness"] < 0.5 * normal["brightness"]


def test_roll_follows_the_picture(measured, portrait):
    upright = measured(portrait)[0]["roll_deg"]
    clockwise = cv2.warpAffine(portrait, cv2.getRotationMatrix2D((225, 127), -20, 1), (512, 512))
    assert measured(clockwise)[0]["roll_deg"] - upright == pytest.approx(20, abs=3)


def test_yaw_is_positive_to_the_right_and_mirrors(measured, starter_photos):
    right = starter_photos["soft-ui/team-4"]
    assert measured(right)[0]["yaw_deg"] > 40
    assert measured(np.ascontiguousarray(right[:, ::-1]))[0]["yaw_deg"] < -40
    assert abs(measured(starter_photos["tabler/male/34"])[0]["yaw_deg"]) < 12


def test_pitch_is_positive_downward(measured, starter_photos):
    assert measured(starter_photos["tabler/male/32"])[0]["pitch_deg"] > 12
    assert measured(starter_photos["soft-ui/charles"])[0]["pitch_deg"] < -12


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"face_px": 20.0}, "smaller than 24"),
        ({"sharpness": 1.0}, "blurred"),
        ({"yaw_deg": -70.0}, "turned by 70"),
        ({"brightness": 10.0}, "too dark"),
        ({"dark": 0.7}, "too dark"),
        ({"bright": 0.7}, "too bright"),
        ({"presence": 0.02}, "no clear human face"),
        ({"presence": 0.6, "mesh_shift": 0.1}, "no clear human face"),
    ],
)
def test_each_fault_is_named_for_photographs_only(change, reason):
    assert reasons(GOOD, RECIPE, "photo") == []
    (found,) = reasons(GOOD | change, RECIPE, "photo")
    assert reason in found
    assert reasons(GOOD | change, RECIPE, "cartoon") == []


def test_a_sure_face_may_shift():
    assert reasons(GOOD | {"presence": 0.95, "mesh_shift": 0.1}, RECIPE, "photo") == []


def degraded(crop: np.ndarray) -> np.ndarray:
    small = cv2.resize(crop, (96, 96), interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", cv2.resize(small, crop.shape[1::-1]), [cv2.IMWRITE_JPEG_QUALITY, 60])
    return cv2.imdecode(data, cv2.IMREAD_COLOR)


def test_recompressed_crops_repeat_the_first_and_others_do_not(measured, starter_photos):
    crops = [measured(rgb)[1] for name, rgb in starter_photos.items() if name.startswith("tabler/female")]
    found = near_duplicates(crops + [degraded(crop) for crop in crops])
    assert found == [None] * len(crops) + list(range(len(crops)))


def test_same_drawing_in_other_colours_is_kept():
    drawing = np.full((128, 128, 3), 220, np.uint8)
    cv2.circle(drawing, (64, 60), 40, (240, 190, 150), -1)
    cv2.circle(drawing, (50, 55), 6, (20, 20, 20), -1)
    cv2.rectangle(drawing, (44, 80), (84, 88), (160, 30, 30), -1)
    other = drawing[..., ::-1].copy()
    assert near_duplicates([drawing, other, drawing]) == [None, None, 0]


def test_embeddings_find_the_same_photograph_cut_differently():
    random = np.random.default_rng(0)
    crops = list(random.integers(0, 255, (3, 64, 64, 3), np.uint8))
    embeddings = random.normal(size=(3, 128)).astype(np.float32)
    embeddings[2] = embeddings[0] + 0.001
    assert near_duplicates(crops) == [None, None, None]
    assert near_duplicates(crops, embeddings) == [None, None, 0]


def test_a_copy_of_a_copy_repeats_the_first():
    crops = list(np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3), np.uint8))
    embeddings = np.zeros((3, 128), np.float32)
    embeddings[:, 0] = (0.0, 0.1, 0.2)
    assert near_duplicates(crops, embeddings) == [None, 0, 0]


def test_no_crops_have_no_duplicates():
    assert near_duplicates([]) == []
