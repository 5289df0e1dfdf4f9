from __future__ import annotations

import numpy as np
import pytest
from skimage.color import rgb2lab

from stylekit.metrics.colour import ColourGauge, by_tone, shift, tones
from stylekit.metrics.measure import Arrays, Batch

DARK, TAN, LIGHT = 0, 1, 2  # of the portraits


@pytest.fixture(scope="module")
def gauge(asset_home) -> ColourGauge:
    return ColourGauge()


@pytest.fixture(scope="module")
def measured(gauge, portraits) -> Arrays:
    return gauge(portraits)


def arrays(**places: list[float]) -> Arrays:
    return {f"colour/{name}": np.array([places.get(name, [60.0, 10, 20])], np.float32) for name in ("skin", "face", "background")}


def test_distances_are_those_of_cielab_and_of_their_own_place():
    found = shift(arrays(), arrays(face=[63.0, 14, 20]))
    assert {name: float(value[0]) for name, value in found.items()} == pytest.approx(
        {"colour_shift": 5.0, "background_shift": 0.0, "ita_shift_deg": 0.0}
    )
    assert shift(arrays(), arrays(background=[60.0, 10, 32]))["background_shift"] == pytest.approx(12)


def test_the_typology_angle_grows_where_skin_is_lightened():
    lighter = shift(arrays(), arrays(skin=[70.0, 10, 20]))["ita_shift_deg"]
    assert lighter == pytest.approx(np.degrees(np.arctan(20 / 20) - np.arctan(10 / 20)), rel=1e-5)
    assert shift(arrays(skin=[70.0, 10, 20]), arrays())["ita_shift_deg"] == pytest.approx(-lighter)
    assert np.isnan(shift(arrays(), arrays(skin=[70.0, 0, 1]))["ita_shift_deg"])  # gray: no skin's colour


def test_portraits_have_the_tones_that_the_eye_sees(measured):
    found = tones(measured)
    assert [found[index] for index in (DARK, TAN, LIGHT)] == ["dark", "tan", "light"]
    assert tones(arrays(skin=[70.0, 0, -5])) == ["unknown"]


def test_groups_have_means_of_what_is_known():
    values = np.array([1.0, 3.0, np.nan, -4.0, np.nan])
    assert by_tone(values, ["tan", "tan", "tan", "dark", "brown"]) == {"tan": (2.0, 2), "dark": (-4.0, 1)}


def test_a_plain_picture_has_its_own_colour_where_the_photograph_has_its_places(gauge, portraits, measured):
    colour = (200, 120, 60)
    plain = Batch(np.full_like(portraits.pictures, colour), portraits.landmarks, portraits.photos)
    expected = rgb2lab(np.array(colour, np.float64)[None, None] / 255)[0, 0]
    found = gauge(plain)
    for place in ("skin", "face", "background"):
        known = np.isfinite(measured[f"colour/{place}"][:, 0])
        np.testing.assert_allclose(found[f"colour/{place}"][known], np.tile(expected, (known.sum(), 1)), atol=0.3)
        assert np.isnan(found[f"colour/{place}"][~known]).all()
        assert known.sum() >= 6


def test_a_repainted_background_moves_its_figure_and_not_the_faces(gauge, portraits, measured):
    pictures = portraits.pictures.copy()
    pictures[:, :12, :12] = (0, 255, 0)  # a corner that is background in most of them
    found = shift(measured, gauge(Batch(pictures, portraits.landmarks, portraits.photos)))
    assert (found["background_shift"] > 1).sum() >= 5
    assert found["colour_shift"].max() == 0
    assert np.nanmax(np.abs(found["ita_shift_deg"])) == 0


def test_a_photograph_without_face_or_background_gives_nan_and_no_error(gauge, wretched):
    found = gauge(wretched)
    assert np.isnan(found["colour/skin"][:2]).all()
    assert np.isnan(found["colour/face"][:2]).all()
    assert tones(found)[:2] == ["unknown", "unknown"]
    assert {array.shape for array in found.values()} == {(4, 3)}


def test_cartoons_are_measured_at_their_own_places(gauge, portraits, measured):
    alone = gauge(Batch(portraits.pictures[:2], portraits.landmarks[:2]))
    for name, array in alone.items():
        np.testing.assert_array_equal(array, measured[name][:2])
