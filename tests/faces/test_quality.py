from __future__ import annotations

import cv2
import numpy as np
import pytest

from stylekit.config.schema import AlignRecipe
from stylekit.faces.align import face_matrix, warp
from stylekit.faces.quality import assess, face_score, reasons

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

pytestmark = pytest.mark.usefixtures("faces_found_once")


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


def test_less_light_costs_little_sharpness_and_score(measured, starter_photos):
    for name in ("tabler/female/28", "soft-ui/team-2", "soft-ui/charles"):
        lit = starter_photos[name]
        darkened = ((lit / 255.0) * 0.5 ** (1 / 2.2) * 255).round().astype(np.uint8)  # half of the light
        face, dark = measured(lit)[0], measured(darkened)[0]
        assert dark["brightness"] < 0.8 * face["brightness"]
        assert dark["sharpness"] > 0.75 * face["sharpness"]
        assert dark["face_score"] > 0.85 * face["face_score"]


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
def test_each_fault_is_named_and_of_cartoons_only_a_small_face(change, reason):
    assert reasons(GOOD, RECIPE, "photo") == []
    (found,) = reasons(GOOD | change, RECIPE, "photo")
    assert reason in found
    assert reasons(GOOD | change, RECIPE, "cartoon") == ([found] if "face_px" in change else [])


def test_a_sure_face_may_shift():
    assert reasons(GOOD | {"presence": 0.95, "mesh_shift": 0.1}, RECIPE, "photo") == []


def test_the_face_score_is_the_product_it_says():
    assert face_score(GOOD) == pytest.approx(0.9 * 1 * 100 / 125)
    turned = GOOD | {"yaw_deg": 60.0, "pitch_deg": -60.0, "face_px": 40.0, "dark": 0.25, "bright": 0.25}
    assert face_score(turned) == pytest.approx(0.9 * 0.25 * 0.8 * 0.25 * 0.5)


@pytest.mark.parametrize(
    "worse",
    [
        {"score": 0.5},
        {"face_px": 60.0},
        {"sharpness": 20.0},
        {"yaw_deg": -40.0},
        {"pitch_deg": 40.0},
        {"dark": 0.2},
        {"bright": 0.2},
    ],
)
def test_each_fault_lowers_the_face_score(worse):
    assert 0 < face_score(GOOD | worse) < face_score(GOOD)


def test_brightness_does_not_lower_the_face_score():
    assert face_score(GOOD | {"brightness": 40.0}) == face_score(GOOD)


def test_every_measure_is_a_finite_number(measured, portrait):
    quality, _ = measured(portrait)
    assert np.isfinite(list(quality.values())).all()
    assert 0 <= quality["face_score"] <= 1
    assert {"ita_deg", "glasses", "mouth_open", "face_score"} <= quality.keys()
