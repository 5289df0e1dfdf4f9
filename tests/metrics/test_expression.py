from __future__ import annotations

import cv2
import numpy as np
import pytest

from stylekit.assets import resolve
from stylekit.metrics.expression import ExpressionGauge, agreement, correlation
from stylekit.metrics.measure import Arrays, Batch, join


@pytest.fixture(scope="module")
def gauge(asset_home) -> ExpressionGauge:
    return ExpressionGauge()


@pytest.fixture(scope="module")
def measured(gauge, portraits) -> Arrays:
    return gauge(portraits)


def arrays(n: int = 1, **values: object) -> Arrays:
    """Arrays of `n` faces at rest, looking straight ahead, but for what is given."""
    rest = {"eyes": [0.3] * 2, "mouth": [0.0, 0.1, 0.9], "gaze": [0.0] * 4, "head_deg": [0.0] * 3, "face_found": 1.0}
    return {f"expression/{name}": np.array([value] * n, np.float32) for name, value in (rest | values).items()}


def test_what_moved_is_what_moves_and_nothing_else():
    moved = {
        "expression_eyes": ({"eyes": [0.1, 0.2]}, 0.15),
        "expression_mouth": ({"mouth": [0.3, 0.1, 0.6]}, 0.2),
        "gaze": ({"gaze": [0.3, 0.4, 0.3, 0.4]}, 0.5),
        "pose_deg": ({"head_deg": [0, 30, 0]}, 30),
    }
    for figure, (change, amount) in moved.items():
        found = agreement(arrays(), arrays(**change))
        assert found.pop(figure) == pytest.approx(amount, rel=1e-5), figure
        assert found.pop("face_found") == 1
        assert all(value == pytest.approx(0, abs=1e-6) for value in found.values()), figure


def test_irises_that_part_cancel_and_the_angle_between_heads_is_that_of_their_directions():
    assert agreement(arrays(), arrays(gaze=[-0.1, 0, 0.1, 0]))["gaze"] == pytest.approx(0, abs=1e-7)
    assert agreement(arrays(), arrays(head_deg=[40, 0, 0]))["pose_deg"] == pytest.approx(0)  # roll turns no direction
    diagonal = agreement(arrays(head_deg=[0, 30, 0]), arrays(head_deg=[0, 0, 40]))["pose_deg"]
    assert diagonal == pytest.approx(np.degrees(np.arccos(np.cos(np.radians(30)) * np.cos(np.radians(40)))), rel=1e-5)


def test_a_style_that_draws_all_mouths_larger_moves_agreement_and_not_correlation(measured):
    larger = measured | {"expression/mouth": measured["expression/mouth"] * 2 + 0.1}
    assert agreement(measured, larger)["expression_mouth"].min() > 0.1
    assert correlation(measured, larger)["expression_mouth"] == pytest.approx(1)


def test_correlation_is_pearsons_of_what_is_known():
    rng = np.random.default_rng(0)
    photo, row = ({"expression/head_deg": rng.normal(0, 20, (9, 3)).astype(np.float32)} for _ in range(2))
    photo, row = arrays(9) | photo, arrays(9) | row
    expected = [np.corrcoef(photo["expression/head_deg"][1:, k], row["expression/head_deg"][1:, k])[0, 1] for k in (1, 2)]
    row["expression/head_deg"][0] = np.nan
    found = correlation(photo, row)
    assert found["pose"] == pytest.approx(np.mean(expected), rel=1e-5)
    assert np.isnan([found["expression_eyes"], found["expression_mouth"], found["gaze"]]).all()  # nothing varies
    assert np.isnan(correlation({k: v[:2] for k, v in photo.items()}, {k: v[:2] for k, v in row.items()})["pose"])


def test_photographs_agree_with_themselves_and_strangers_do_not(measured):
    itself = agreement(measured, measured)
    assert itself.pop("face_found").min() == 1
    assert max(float(value.max()) for value in itself.values()) == 0
    others = agreement(measured, {name: np.roll(array, 1, axis=0) for name, array in measured.items()})
    assert np.median(others["expression_eyes"]) > 0.04
    assert np.median(others["expression_mouth"]) > 0.05
    assert np.median(others["gaze"]) > 0.05
    assert np.median(others["pose_deg"]) > 12


def test_one_by_one_is_as_all_at_once_and_no_picture_is_no_row(gauge, portraits, measured):
    single = [Batch(portraits.pictures[i : i + 1], portraits.landmarks[i : i + 1]) for i in range(3)]
    again = join([gauge(batch) for batch in single])
    for name, array in again.items():
        np.testing.assert_array_equal(array, measured[name][:3])
    empty = gauge(Batch(portraits.pictures[:0], portraits.landmarks[:0]))
    assert {name: array.shape for name, array in empty.items()} == {n: (0, *a.shape[1:]) for n, a in measured.items()}


def test_a_laugh_is_open_and_lifted_and_a_head_turned_as_seen(measured):
    marie, charles = 3, 4
    gap, lift, _ = measured["expression/mouth"].T
    assert gap[charles] == gap.max() > 0.3
    assert lift[charles] > lift[marie] + 0.1
    assert measured["expression/head_deg"][marie, 1] > 10


def test_a_face_elsewhere_or_far_smaller_is_not_the_photographs_face(gauge, portraits):
    picture, landmarks = portraits.pictures[2], portraits.landmarks[2]
    small = np.full_like(picture, 255)
    small[40:82, 43:85] = cv2.resize(picture, (42, 42), interpolation=cv2.INTER_AREA)
    moved = np.full_like(picture, 255)
    moved[:76, :76] = cv2.resize(picture, (76, 76), interpolation=cv2.INTER_AREA)
    lower = landmarks + np.array((40, 60))
    found = gauge(Batch(np.stack([picture, small, moved, moved]), np.stack([landmarks, landmarks, lower, landmarks * 0.6])))
    assert found["expression/face_found"].tolist() == [1, 0, 0, 1]


def test_wretched_pictures_and_points_give_nan_and_no_error(gauge, wretched):
    found = gauge(wretched)
    assert np.isnan(found["expression/head_deg"][:2]).all()
    assert np.isnan(found["expression/face_found"]).tolist() == [True, True, False, False]
    assert found["expression/face_found"][2:].tolist() == [0, 0]
    values = agreement(found, found)
    assert all(np.isnan(value[:2]).all() for value in values.values())


def test_the_key_names_version_and_weights(gauge):
    digests = [resolve(role).sha256[:12] for role in ("face-detector", "face-mesh", "iris")]
    assert gauge.key == f"expression/1/{'/'.join(digests)}"
