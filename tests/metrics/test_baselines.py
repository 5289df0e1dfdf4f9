import numpy as np
import pytest
from skimage.color import lab2rgb, rgb2lab

from stylekit.metrics.baselines import LEVELS, colour_statistics, posterise, transfer_colour


def noise(seed, low=0, high=256, side=24):
    return np.random.default_rng(seed).integers(low, high, (side, side, 3), dtype=np.uint8)


def test_posterise_leaves_six_levels_a_channel_and_keeps_them():
    ramp = np.repeat(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], 3, 2).repeat(64, 0)
    assert set(np.unique(posterise(ramp))) == {0, 51, 102, 153, 204, 255}
    assert len(np.unique(posterise(noise(0)))) <= LEVELS
    flat = np.full((20, 20, 3), 102, np.uint8)
    assert np.array_equal(posterise(flat), flat)


def test_posterise_smooths_grain_and_keeps_a_strong_edge():
    picture = np.full((40, 40, 3), 60, np.uint8)
    picture[:, 20:] = 200
    grainy = np.clip(picture + np.random.default_rng(0).integers(-12, 13, picture.shape), 0, 255).astype(np.uint8)
    assert np.array_equal(posterise(grainy)[:, :16], posterise(picture)[:, :16])
    assert posterise(grainy)[20, 18, 0] < 100 < posterise(grainy)[20, 21, 0]


def test_colour_statistics_are_those_of_all_pixels_together():
    pictures = [noise(0), noise(1, 50, 120, side=40)]
    pixels = np.concatenate([rgb2lab(picture).reshape(-1, 3) for picture in pictures])
    found = colour_statistics(pictures)
    assert found.mean == pytest.approx(pixels.mean(0), abs=0.3)
    assert found.deviation == pytest.approx(pixels.std(0), abs=0.3)


def test_transferred_picture_has_the_targets_colours():
    target = colour_statistics([noise(1, 100, 160)])
    moved = colour_statistics([transfer_colour(noise(0, 60, 140), target)])
    assert moved.mean == pytest.approx(target.mean, abs=0.3)
    assert moved.deviation == pytest.approx(target.deviation, abs=0.3)


def test_transfer_equals_the_formula_in_scikit_images_lab():
    picture, target = noise(0, 60, 140), colour_statistics([noise(1, 100, 160)])
    lab = rgb2lab(picture)
    lab = (lab - lab.mean((0, 1))) / lab.std((0, 1)) * target.deviation + target.mean
    expected = np.clip(lab2rgb(lab), 0, 1) * 255
    assert np.abs(transfer_colour(picture, target) - expected).max() <= 1.5


def test_transfer_to_itself_changes_nothing_and_one_colour_is_no_trap():
    picture = noise(0)
    assert np.abs(transfer_colour(picture, colour_statistics([picture])).astype(int) - picture).max() <= 1
    flat = np.full((8, 8, 3), 77, np.uint8)
    assert len(np.unique(transfer_colour(flat, colour_statistics([picture])).reshape(-1, 3), axis=0)) == 1
