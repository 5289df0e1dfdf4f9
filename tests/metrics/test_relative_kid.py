import numpy as np
import pytest

from stylekit.errors import DataError
from stylekit.metrics.kid import kid_all, kid_over_persons
from stylekit.metrics.persons import Resampling
from stylekit.metrics.relative_kid import PhotographsKid

PERSONS = [f"p{i // 2}" for i in range(24)]
DRAWS = Resampling(PERSONS, 200, 0)
WIDTHS = {"small": (8, 1.0), "large": (16, 3.0)}


def features(seed, shift, count):
    """Return features by extractor; the second's are three times as far from each other."""
    drawn = np.random.default_rng(seed)
    return {name: scale * (drawn.normal(size=(count, width)) + shift) for name, (width, scale) in WIDTHS.items()}


CARTOONS, PHOTOS, HALFWAY = features(0, 0.0, 40), features(1, 1.0, 24), features(2, 0.5, 24)


def test_the_photographs_are_1_whoever_is_drawn():
    found = PhotographsKid(CARTOONS, PHOTOS, DRAWS).relative(PHOTOS)
    assert (found.value, found.low, found.high) == pytest.approx((1, 1, 1))


def test_it_is_the_mean_of_the_extractors_shares_and_has_an_interval_about_it():
    found = PhotographsKid(CARTOONS, PHOTOS, DRAWS).relative(HALFWAY)
    shares = [kid_all(CARTOONS[name], HALFWAY[name]) / kid_all(CARTOONS[name], PHOTOS[name]) for name in WIDTHS]
    assert found.value == pytest.approx(np.mean(shares))
    assert found.low < found.value < found.high
    assert found.kids == pytest.approx({name: kid_all(CARTOONS[name], HALFWAY[name]) for name in WIDTHS})
    assert all(low < found.kids[name] < high for name, (low, high) in found.intervals.items())


def test_what_the_draw_of_persons_moves_before_and_after_alike_is_no_spread():
    nearer = {name: array * 0.9 for name, array in PHOTOS.items()}
    found = PhotographsKid(CARTOONS, PHOTOS, DRAWS).relative(nearer)
    low, high = found.intervals["small"]
    assert (found.high - found.low) / found.value < 0.5 * (high - low) / found.kids["small"]


def test_photographs_as_near_as_the_cartoons_themselves_make_no_share_of_nothing():
    same = {name: array[:24] for name, array in CARTOONS.items()}
    scale = PhotographsKid(CARTOONS, same, DRAWS)
    assert all(kid_all(CARTOONS[name], same[name]) < 0 for name in WIDTHS)
    spreads = {name: kid_over_persons(CARTOONS[name], same[name], DRAWS).std(ddof=1) for name in WIDTHS}
    expected = np.mean([kid_all(CARTOONS[name], PHOTOS[name]) / spreads[name] for name in WIDTHS])
    assert scale.relative(PHOTOS).value == pytest.approx(expected)
    assert scale.relative(PHOTOS).value > scale.relative(HALFWAY).value > scale.relative(same).value


def test_photographs_that_are_one_cartoon_are_refused():
    alike = {name: np.ones((24, width)) for name, (width, _) in WIDTHS.items()}
    with pytest.raises(DataError, match="By small the photographs lie no farther"):
        PhotographsKid({name: np.ones((5, width)) for name, (width, _) in WIDTHS.items()}, alike, DRAWS)
