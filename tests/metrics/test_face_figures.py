"""Known changes of photographs move the figure that they should, and leave the others."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from stylekit.faces.align import umeyama, warp
from stylekit.metrics import artefacts, colour, expression
from stylekit.metrics.measure import Batch, measure_batch

pytestmark = pytest.mark.slow

FIGURES = ("expression_eyes", "expression_mouth", "gaze", "pose_deg", "colour_shift", "artefact_mouth", "blur_mouth")
UNMOVED = {  # twice what half a pixel's shift or JPEG at quality 75 moves 75 photographs, the greater of both
    "expression_eyes": 0.01,
    "expression_mouth": 0.01,
    "gaze": 0.026,
    "pose_deg": 1.25,
    "colour_shift": 0.41,
    "artefact_mouth": 1.1,
    "blur_mouth": 0.1,
}


@pytest.fixture(scope="module")
def moved(portraits) -> Callable[[np.ndarray], dict[str, float]]:
    """Measures changed photographs against the photographs; returns the median of each figure."""
    gauges = (expression.ExpressionGauge(), colour.ColourGauge(), artefacts.ArtefactGauge())
    photo = measure_batch(portraits, gauges)
    flat = photo | {name: np.zeros_like(array) for name, array in photo.items() if name.endswith(("_specks", "_lines"))}

    def measure(pictures: np.ndarray) -> dict[str, float]:
        row = measure_batch(Batch(pictures, portraits.landmarks, portraits.photos), gauges)
        found = expression.agreement(photo, row) | colour.shift(photo, row) | artefacts.judge(flat, row, photo)
        assert found["face_found"].mean() > 0.8
        return {name: float(np.nanmedian(values)) for name, values in found.items()}

    return measure


def only(found: dict[str, float], **expected: float) -> None:
    """Demand that these figures moved by that much or more, and all others by next to nothing."""
    for name, least in expected.items():
        assert found[name] > least > UNMOVED.get(name, 0.0), name
    assert {name: found[name] for name in FIGURES if name not in expected and found[name] > UNMOVED[name]} == {}


def spot(centre: np.ndarray, across: float, down: float) -> np.ndarray:
    """A soft ellipse of those half axes, 0..1, [128,128,1]."""
    y, x = np.mgrid[:128, :128]
    return np.clip((1 - np.hypot((x - centre[0]) / across, (y - centre[1]) / down)) * 4, 0, 1)[..., None]


def blend(picture: np.ndarray, other: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return np.rint(picture * (1 - weight) + other * weight).astype(np.uint8)


def test_a_turn_of_hue_and_more_light_move_colour_alone(moved, portraits):
    hsv = [cv2.cvtColor(picture, cv2.COLOR_RGB2HSV).astype(int) for picture in portraits.pictures]
    turned = [np.stack([(h[..., 0] + 10) % 180, h[..., 1], h[..., 2]], -1).astype(np.uint8) for h in hsv]
    only(moved(np.stack([cv2.cvtColor(h, cv2.COLOR_HSV2RGB) for h in turned])), colour_shift=5)
    lighter = moved(np.rint(255 * (portraits.pictures / 255) ** 0.8).astype(np.uint8))
    only(lighter, colour_shift=4)
    darker = moved(np.rint(255 * (portraits.pictures / 255) ** 1.25).astype(np.uint8))
    assert lighter["ita_shift_deg"] > 4
    assert darker["ita_shift_deg"] < -4


def test_blur_moves_sharpness_and_little_else(moved, portraits):
    found = moved(np.stack([cv2.GaussianBlur(picture, (0, 0), 2) for picture in portraits.pictures]))
    assert found["blur_mouth"] > 0.2
    assert found["blur_eyes"] > 0.2
    assert found["colour_shift"] < UNMOVED["colour_shift"]
    assert found["expression_mouth"] < 0.06


def test_noise_leaves_the_face_where_it_was(moved, portraits):
    noise = np.random.default_rng(0).normal(0, 10, portraits.pictures.shape)
    found = moved(np.clip(portraits.pictures + noise, 0, 255).astype(np.uint8))
    assert found["pose_deg"] < 2
    assert found["expression_eyes"] < 0.02
    assert found["expression_mouth"] < 0.02
    assert found["colour_shift"] < 1


def test_another_persons_mouth_moves_the_mouth_and_painted_lids_the_eyes(moved, portraits):
    pictures, landmarks = portraits.pictures, portraits.landmarks
    mouths, lids = [], []
    for index, (picture, five) in enumerate(zip(pictures, landmarks, strict=True)):
        other = (index + 3) % len(pictures)
        span = float(np.linalg.norm(five[1] - five[0]))
        fitted = warp(pictures[other], umeyama(landmarks[other], five), 128)
        mouths.append(blend(picture, fitted, spot(five[3:].mean(axis=0), 0.62 * span, 0.42 * span)))
        skin = cv2.warpAffine(picture, np.array([[1, 0, 0], [0, 1, -0.28 * span]]), (128, 128), borderMode=cv2.BORDER_REPLICATE)
        weight = np.maximum(*(spot(eye, 0.3 * span, 0.17 * span) for eye in five[:2]))
        lids.append(blend(picture, skin, weight))
    mouth, lid = moved(np.stack(mouths)), moved(np.stack(lids))
    assert mouth["expression_mouth"] > 0.03 > 2 * lid["expression_mouth"]
    assert lid["expression_eyes"] > 0.03
    assert lid["expression_eyes"] > 2 * mouth["expression_eyes"]


def test_somebody_else_moves_everything(moved, portraits):
    found = moved(np.roll(portraits.pictures, 3, axis=0))
    assert found["expression_eyes"] > 0.03
    assert found["expression_mouth"] > 0.05
    assert found["gaze"] > 0.05
    assert found["pose_deg"] > 12
    assert found["colour_shift"] > 8


def test_dots_on_chins_move_the_artefacts_of_the_mouth(moved, portraits):
    spotted = portraits.pictures.copy()
    for picture, five in zip(spotted, portraits.landmarks, strict=True):
        below = five[3:].mean(axis=0) + np.array((0, 0.33)) * np.linalg.norm(five[1] - five[0])
        cv2.circle(picture, tuple(int(value) for value in np.rint(below)), 3, (30, 30, 30), -1, cv2.LINE_AA)
    found = moved(spotted)
    assert found["artefact_mouth"] > 1
    assert found["artefact_eyes"] == 0
    assert found["expression_eyes"] < UNMOVED["expression_eyes"] * 2
    assert found["colour_shift"] < 2
