"""Charts: what stands in the drawing is where its axis says."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stylekit.pages.charts import (
    Dot,
    Point,
    Scale,
    Spot,
    brief,
    curve,
    dots,
    frontier,
    number,
    plane,
    scale_of,
    shorten,
    signed,
    thinned,
)

VALUE = st.floats(-1e6, 1e6).map(lambda value: round(value, 3))


def read(svg: str) -> ElementTree.Element:
    root = ElementTree.fromstring(svg)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


def having(root: ElementTree.Element, tag: str, style: str) -> list[ElementTree.Element]:
    return [element for element in root.iter(tag) if style in element.get("class", "").split()]


def value_of(text: str) -> float:
    factor = 1000 if text.endswith("k") else 1
    return float(text.removesuffix("k").replace("−", "-").replace(",", "")) * factor


def axis(root: ElementTree.Element, along: str) -> np.poly1d:
    """Return what turns a place into a value, by nothing but the numbers written at the axis."""
    across = {"x": "y", "y": "x"}[along]
    ticks = [tick for tick in having(root, "text", "tick") if re.fullmatch(r"[−\d.,k]+", tick.text or "")]
    level = max(float(tick.get("y", 0)) for tick in ticks)
    below = [tick for tick in ticks if float(tick.get("y", 0)) == level]
    chosen = below if along == "x" else [tick for tick in ticks if tick not in below]
    shift = 4 if along == "y" else 0  # a text's y is its foot
    places = [float(tick.get(along, 0)) - shift for tick in chosen if tick.get("text-anchor") == "middle" or across == "x"]
    values = [value_of(tick.text or "") for tick in chosen if tick.get("text-anchor") == "middle" or across == "x"]
    assert len(values) >= 2
    return np.poly1d(np.polyfit(places, values, 1))


def test_a_curve_is_where_its_axes_say_and_so_are_band_and_best_step() -> None:
    points = [Point(500.0 * i, y, y - 3, y + 5) for i, y in enumerate((40.0, 22.0, 17.5, 19.0), 1)]
    root = read(curve(points, title="KID", anchor="kid", mark=(1500, "best"), floor=(30.0, "floor")))
    x, y = axis(root, "x"), axis(root, "y")
    drawn = [tuple(map(float, pair.split(","))) for pair in having(root, "polyline", "line")[0].get("points", "").split()]
    assert [x(a) for a, _ in drawn] == pytest.approx([500, 1000, 1500, 2000], abs=5)
    assert [y(b) for _, b in drawn] == pytest.approx([40, 22, 17.5, 19], abs=0.2)
    band = [tuple(map(float, pair.split(","))) for pair in having(root, "polygon", "band")[0].get("points", "").split()]
    assert [y(b) for _, b in band] == pytest.approx([45, 27, 22.5, 24, 16, 14.5, 19, 37], abs=0.2)
    assert x(float(having(root, "line", "best")[0].get("x1", 0))) == pytest.approx(1500, abs=5)
    assert y(float(having(root, "line", "limit")[0].get("y1", 0))) == pytest.approx(30, abs=0.2)
    assert "From 40 at step 500 to 19 at step 2,000." in (root.find("desc").text or "")


def test_dots_and_whiskers_are_where_the_axis_says() -> None:
    rows = [Dot("this", 15.2, (10.0, 22.0), leading=True), Dot("photo", 140.0, (120.0, 151.0)), Dot("other", -3.0)]
    root = read(dots(rows, title="KID", anchor="kid", form=".1f", floor=50.0))
    x = axis(root, "x")
    assert [x(float(dot.get("cx", 0))) for dot in root.iter("circle")] == pytest.approx([15.2, 140, -3], abs=0.5)
    whiskers = having(root, "line", "whisker")
    assert [x(float(line.get(end, 0))) for line in whiskers for end in ("x1", "x2")] == pytest.approx([10, 22, 120, 151], abs=0.5)
    assert [line.get("y1") for line in whiskers] == [dot.get("cy") for dot in root.iter("circle")][:2]
    assert x(float(having(root, "line", "limit")[0].get("x1", 0))) == pytest.approx(50, abs=0.5)
    assert [text.text for text in root.iter("text") if text.get("x") == "320"] == ["15.2", "140.0", "−3.0"]


SPOTS = [
    Spot("small", 20.0, 0.5, area=3.0, label="12 ms", leading=True),
    Spot("large", 15.0, 0.4, area=12.0, label="40 ms", leading=True),
    Spot("beaten", 30.0, 0.45, area=3.0, leading=True),
    Spot("photo", 140.0, 1.0),
]


def test_the_plane_shows_places_areas_and_the_frontier() -> None:
    trained = SPOTS[:3]
    root = read(plane(SPOTS, title="p", anchor="p", x_name="KID", y_name="ID", line=frontier(trained), alone=True))
    x, y = axis(root, "x"), axis(root, "y")
    circles = {
        (round(x(float(c.get("cx", 0)))), round(y(float(c.get("cy", 0))), 2)): float(c.get("r", 0)) for c in root.iter("circle")
    }
    assert set(circles) == {(20, 0.5), (15, 0.4), (30, 0.45), (140, 1.0)}
    assert circles[15, 0.4] / circles[20, 0.5] == pytest.approx(2, rel=0.02)  # four times the area
    joined = [tuple(map(float, pair.split(","))) for pair in having(root, "polyline", "frontier")[0].get("points", "").split()]
    assert [round(x(a)) for a, _ in joined] == [15, 20]
    names = [text.text for text in root.iter("text")]
    assert {"small", "12 ms", "large", "40 ms", "beaten", "photo"} <= set(names)
    assert root.find("style") is not None


def test_names_in_a_plane_do_not_lie_on_each_other() -> None:
    spots = [Spot(f"run-number-{i}", 10 + i * 0.1, 0.5 + i * 0.002, leading=True) for i in range(5)]
    root = read(plane([*spots, Spot("far", 100.0, 0.9)], title="p", anchor="p", x_name="x", y_name="y"))
    named = [text for text in root.iter("text") if (text.text or "").startswith("run-")]
    boxes = []
    for text in named:
        length, at = len(text.text or "") * 6.6, float(text.get("x", 0))
        start = {"start": at, "end": at - length, "middle": at - length / 2}[text.get("text-anchor", "start")]
        boxes.append((start, float(text.get("y", 0)), start + length))
    for i, a in enumerate(boxes):
        assert not any(a[0] < b[2] and b[0] < a[2] and abs(a[1] - b[1]) < 10 for b in boxes[:i])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(VALUE, VALUE), min_size=1, max_size=12))
def test_the_frontier_is_what_nothing_beats(pairs: list[tuple[float, float]]) -> None:
    spots = [Spot(str(i), x, y) for i, (x, y) in enumerate(pairs)]

    def beats(a: Spot, b: Spot) -> bool:
        return a.x <= b.x and a.y >= b.y and (a.x, a.y) != (b.x, b.y)

    expected = {(s.x, s.y) for s in spots if not any(beats(other, s) for other in spots)}
    assert [(s.x, s.y) for s in frontier(spots)] == sorted(expected)


@settings(max_examples=60, deadline=None)
@given(st.lists(VALUE, min_size=1, max_size=20), st.integers(2, 8), st.booleans())
def test_every_value_lies_within_its_scale_and_ticks_are_few_and_round(values: list[float], about: int, zero: bool) -> None:
    scale = scale_of(values, 40, 300, with_zero=zero)
    assert all(40 - 1e-6 <= scale(value) <= 300 + 1e-6 for value in values)
    assert not zero or 40 - 1e-6 <= scale(0) <= 300 + 1e-6
    ticks = scale.ticks(about)
    assert len(ticks) <= about + 1
    assert all(scale.low - 1e-6 * abs(scale.low) <= tick <= scale.high + 1e-6 * abs(scale.high) for tick in ticks)
    if len(ticks) > 2:
        assert np.ptp(np.diff(ticks)) <= 1e-6 * np.abs(ticks).max()


def test_a_scale_may_point_upwards() -> None:
    assert [Scale(0, 10, 128, 20)(value) for value in (0, 5, 10)] == [128, 74, 20]


@settings(max_examples=30, deadline=None)
@given(st.lists(VALUE, min_size=1, max_size=60), st.integers(1, 20))
def test_thinning_keeps_means_and_extremes(values: list[float], most: int) -> None:
    points = [Point(i, value) for i, value in enumerate(values)]
    fewer = thinned(points, most)
    assert len(fewer) == min(len(points), most)
    if len(points) > most:
        assert min(p.low for p in fewer if p.low is not None) == min(values)
        assert max(p.high for p in fewer if p.high is not None) == max(values)
        assert all(p.low <= p.y + 1e-6 and p.y <= p.high + 1e-6 for p in fewer if p.low is not None and p.high is not None)


def test_a_name_that_is_markup_stays_text() -> None:
    name = "<b>&"
    for svg in (
        dots([Dot(name, 1.0)], title=name, anchor="a", form=".1f"),
        plane([Spot(name, 1.0, 1.0)], title=name, anchor="a", x_name="x", y_name="y"),
        curve([Point(1, 1)], title=name, anchor="a", mark=(1, name)),
    ):
        root = read(svg)
        assert name in [text.text for text in root.iter("text")]
        assert root.find("title").text == name


def test_long_names_keep_both_ends_and_stay_apart() -> None:
    assert shorten(["photo", "00000-archer-style-dctnet@2000"], 15) == ["photo", "00000-a…et@2000"]
    names = [f"results-of-{tool}-at-256-px" for tool in ("cyclegan", "pix2pix", "toonify")]
    shown = shorten(names, 15)
    assert len(set(shown)) == 3
    assert max(map(len, shown)) == 15
    assert shorten(["<b>" * 9], 4) == ["&lt;…b&gt;"]


def test_numbers_are_short_and_have_a_true_minus() -> None:
    assert [number(v) for v in (0.25, 12.5, 1200.0, -3.0, -0.0)] == ["0.25", "12.5", "1,200", "−3", "0"]
    assert [brief(v) for v in (250, 2000, 300_000, 1500)] == ["250", "2k", "300k", "1.5k"]
    assert signed("-0.00") == "0.00"
