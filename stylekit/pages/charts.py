"""Charts as inline SVG: curves over steps, dots with whiskers, and points in a plane.

Drawings are in units of about a pixel; a phone's page is 320 of them wide.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

import numpy as np

from stylekit.pages.document import resource

WIDTH = 320
"""Width of a chart in a card."""

_MOST_POINTS = 240
_ROW = 24
_LETTER = {"leading": 7.6, "other": 6.5}  # mean width of a letter, 12 px, of the widest of the usual fonts
_TICKS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Scale:
    """A straight line from values to places in a drawing.

    Attributes:
        low: The value at `start`.
        high: The value at `end`.
        start: A place, in units of the drawing.
        end: Another; it may lie before `start`, as on an axis that points up.
    """

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the place of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, about: int) -> list[float]:
        """Return round values within the scale, about so many."""
        step = _round_step((self.high - self.low) / max(about, 1))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [float(f"{number * step:.10g}") for number in range(first, last + 1)]


def scale_of(values: Iterable[float], start: float, end: float, *, with_zero: bool = False) -> Scale:
    """Return a scale that holds all finite values with a little room; a single value stands in its middle, but 0 below 1."""
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    if with_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if not low and not high:
        return Scale(-0.06, 1.0, start, end)
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        room = abs(high) * 0.1
        return Scale(low - room, high + room, start, end)
    room = (high - low) * 0.06
    return Scale(low if with_zero and low == 0 else low - room, high if with_zero and high == 0 else high + room, start, end)


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return power * next(nice for nice in _TICKS if nice * power >= step * (1 - 1e-9))


@dataclass(frozen=True)
class Point:
    """A value at a step, with the ends of its interval where it has one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


def thinned(points: Sequence[Point], most: int = _MOST_POINTS) -> list[Point]:
    """Return at most so many points, each the mean of neighbours, whose least and greatest become its interval."""
    if len(points) <= most:
        return list(points)
    return [
        Point(
            x=float(np.mean([point.x for point in part])),
            y=float(np.mean([point.y for point in part])),
            low=min(point.y for point in part),
            high=max(point.y for point in part),
        )
        for part in (points[bounds[0] : bounds[-1] + 1] for bounds in np.array_split(np.arange(len(points)), most))
    ]


def curve(
    points: Sequence[Point],
    *,
    title: str,
    anchor: str,
    mark: tuple[float, str] | None = None,
    floor: tuple[float, str] | None = None,
) -> str:
    """Draw one value over the steps of a training, its interval as a band.

    Args:
        points: At least one, in order.
        title: What is drawn, for those who do not see it.
        anchor: An id that no other drawing of the page has.
        mark: A step to mark, and what to write there.
        floor: A level to draw across, and what to write there.
    """
    left, right, top, bottom, height = 40, WIDTH - 8, 20, 128, 150
    x = scale_of([point.x for point in points], left, right, with_zero=True)
    x = Scale(x.low, max(point.x for point in points) or 1.0, left, right)
    ends = [value for point in points for value in (point.y, point.low, point.high) if value is not None]
    y = scale_of([*ends, *([floor[0]] if floor else [])], bottom, top)
    shapes = _frame(x, y, left, right, bottom)
    banded = [point for point in points if point.low is not None and point.high is not None]
    if len(banded) > 1:
        upper = [f"{x(point.x):.1f},{y(point.high or 0.0):.1f}" for point in banded]
        lower = [f"{x(point.x):.1f},{y(point.low or 0.0):.1f}" for point in reversed(banded)]
        shapes.append(f'<polygon class="band" points="{" ".join([*upper, *lower])}"/>')
    if floor:
        shapes.append(f'<line class="limit" x1="{left}" y1="{y(floor[0]):.1f}" x2="{right}" y2="{y(floor[0]):.1f}"/>')
        shapes.append(f'<text class="limit" x="{left + 4}" y="{y(floor[0]) - 4:.1f}">{escape(floor[1])}</text>')
    line = " ".join(f"{x(point.x):.1f},{y(point.y):.1f}" for point in points)
    shapes.append(f'<polyline class="line" points="{line}"/>')
    if len(points) <= 40:
        shapes += [f'<circle class="mark" cx="{x(point.x):.1f}" cy="{y(point.y):.1f}" r="2.5"/>' for point in points]
    if mark:
        at, anchoring = x(mark[0]), "start" if x(mark[0]) < (left + right) / 2 else "end"
        beside = at + (4 if anchoring == "start" else -4)
        shapes.append(f'<line class="best" x1="{at:.1f}" y1="8" x2="{at:.1f}" y2="{bottom}"/>')
        shapes.append(f'<text class="best" x="{beside:.1f}" y="14" text-anchor="{anchoring}">{escape(mark[1])}</text>')
    first, last = points[0], points[-1]
    said = f"From {number(first.y)} at step {first.x:,.0f} to {number(last.y)} at step {last.x:,.0f}."
    return drawing(WIDTH, height, shapes, title=title, description=said, anchor=anchor)


def _frame(x: Scale, y: Scale, left: float, right: float, bottom: float) -> list[str]:
    """Draw the axis below, faint lines across, and the numbers of both."""
    shapes = []
    for value in y.ticks(3):
        shapes.append(f'<line class="grid" x1="{left}" y1="{y(value):.1f}" x2="{right}" y2="{y(value):.1f}"/>')
        shapes.append(f'<text class="tick" x="{left - 5}" y="{y(value) + 4:.1f}" text-anchor="end">{number(value)}</text>')
    shapes.append(f'<line class="axis" x1="{left}" y1="{bottom}" x2="{right}" y2="{bottom}"/>')
    for value in x.ticks(4):
        place = "end" if x(value) > right - 14 else "middle"
        shapes.append(f'<text class="tick" x="{x(value):.1f}" y="{bottom + 15}" text-anchor="{place}">{brief(value)}</text>')
    return shapes


@dataclass(frozen=True)
class Dot:
    """A value of one row with the ends of its interval; `leading` rows stand out."""

    name: str
    value: float
    interval: tuple[float, float] | None = None
    leading: bool = False


def dots(rows: Sequence[Dot], *, title: str, anchor: str, form: str, floor: float | None = None) -> str:
    """Draw values one below the other on one axis, each a dot with its interval as whiskers.

    Args:
        rows: At least one, in order.
        title: What is drawn, for those who do not see it.
        anchor: An id that no other drawing of the page has.
        form: How a value is written.
        floor: A level to draw across.
    """
    left, right = 120, WIDTH - 56
    ends = [value for row in rows for value in (row.value, *(row.interval or ()))]
    x = scale_of([*ends, *([floor] if floor is not None else [])], left, right)
    bottom = len(rows) * _ROW + 4
    shapes = []
    for value in x.ticks(3):
        shapes.append(f'<line class="grid" x1="{x(value):.1f}" y1="0" x2="{x(value):.1f}" y2="{bottom}"/>')
        shapes.append(f'<text class="tick" x="{x(value):.1f}" y="{bottom + 13}" text-anchor="middle">{number(value)}</text>')
    if floor is not None:
        shapes.append(f'<line class="limit" x1="{x(floor):.1f}" y1="0" x2="{x(floor):.1f}" y2="{bottom}"/>')
    shown = {
        leading: iter(shorten([row.name for row in rows if row.leading == leading], most))
        for leading, most in ((True, 13), (False, 17))
    }
    for index, row in enumerate(rows):
        middle = index * _ROW + _ROW / 2
        kind, name = "leading" if row.leading else "other", next(shown[row.leading])
        shapes.append(f'<text class="row {kind}" x="{left - 8}" y="{middle + 4:g}" text-anchor="end">{name}</text>')
        if row.interval:
            low, high = map(x, row.interval)
            ends_at = f'x1="{low:.1f}" y1="{middle:g}" x2="{high:.1f}" y2="{middle:g}"'
            shapes.append(f'<line class="whisker {kind}" {ends_at}/>')
        shapes.append(f'<circle class="mark {kind}" cx="{x(row.value):.1f}" cy="{middle:g}" r="4.5"/>')
        written = signed(format(row.value, form))
        shapes.append(f'<text class="{kind}" x="{WIDTH}" y="{middle + 4:g}" text-anchor="end">{written}</text>')
    said = "; ".join(f"{row.name}: {format(row.value, form)}{_between(row, form)}" for row in rows)
    return drawing(WIDTH, bottom + 18, shapes, title=title, description=said, anchor=anchor)


def _between(row: Dot, form: str) -> str:
    return f" ({format(row.interval[0], form)} to {format(row.interval[1], form)})" if row.interval else ""


@dataclass(frozen=True)
class Spot:
    """A point in a plane.

    Attributes:
        name: What it stands for.
        x: Its value across.
        y: Its value upwards.
        area: Its size as an area, in any unit; None draws a small ring.
        label: What stands below the name.
        leading: Whether it stands out.
    """

    name: str
    x: float
    y: float
    area: float | None = None
    label: str = ""
    leading: bool = False


def frontier(spots: Sequence[Spot]) -> list[Spot]:
    """Return the points that no other one beats in both, less x and more y, from left to right."""
    best: list[Spot] = []
    for spot in sorted(spots, key=lambda each: (each.x, -each.y)):
        if not best or spot.y > best[-1].y:
            best.append(spot)
    return best


def plane(
    spots: Sequence[Spot],
    *,
    title: str,
    anchor: str,
    x_name: str,
    y_name: str,
    width: float = 640,
    height: float = 420,
    line: Sequence[Spot] = (),
    alone: bool = False,
) -> str:
    """Draw points in a plane with their names, which give way to each other.

    Args:
        spots: At least one.
        title: What is drawn, for those who do not see it.
        anchor: An id that no other drawing of the page has.
        x_name: What lies across.
        y_name: What goes up.
        width: Of the drawing.
        height: Of the drawing.
        line: Points joined by a line, as `frontier` returns them.
        alone: Whether it is to be a file of its own, which brings its style along.
    """
    left, right, top, bottom = 48, width - 24, 16, height - 44
    x = scale_of([spot.x for spot in spots], left + 16, right - 16)
    y = scale_of([spot.y for spot in spots], bottom - 16, top + 16)
    shapes = []
    for value in y.ticks(5):
        shapes.append(f'<line class="grid" x1="{left}" y1="{y(value):.1f}" x2="{right}" y2="{y(value):.1f}"/>')
        shapes.append(f'<text class="tick" x="{left - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{number(value)}</text>')
    for value in x.ticks(6):
        shapes.append(f'<line class="grid" x1="{x(value):.1f}" y1="{top}" x2="{x(value):.1f}" y2="{bottom}"/>')
        shapes.append(f'<text class="tick" x="{x(value):.1f}" y="{bottom + 16}" text-anchor="middle">{number(value)}</text>')
    shapes.append(f'<line class="axis" x1="{left}" y1="{bottom}" x2="{right}" y2="{bottom}"/>')
    shapes.append(f'<text class="tick" x="{right}" y="{height - 8:g}" text-anchor="end">{escape(x_name)}</text>')
    shapes.append(f'<text class="tick named" x="{left + 6}" y="{top + 8}">{escape(y_name)}</text>')
    if len(line) > 1:
        joined = " ".join(f"{x(spot.x):.1f},{y(spot.y):.1f}" for spot in line)
        shapes.append(f'<polyline class="frontier" points="{joined}"/>')
    most = max((spot.area for spot in spots if spot.area), default=1.0)
    radii = [4.0 if not spot.area else max(4.0, 16 * math.sqrt(spot.area / most)) for spot in spots]
    around = [radius + 4 for radius in radii]
    taken = [(x(s.x) - r, y(s.y) - r, x(s.x) + r, y(s.y) + r) for s, r in zip(spots, around, strict=True)]
    taken += [box for a, b in pairwise(line) for box in _boxes_along((x(a.x), y(a.y)), (x(b.x), y(b.y)))]
    taken.append((left + 6, top - 3, left + 6 + 6.5 * len(y_name), top + 11))
    for spot, radius in sorted(zip(spots, radii, strict=True), key=lambda each: -each[1]):
        kind = ("leading" if spot.leading else "other") + ("" if spot.area else " ring")
        shapes.append(f'<circle class="mark spot {kind}" cx="{x(spot.x):.1f}" cy="{y(spot.y):.1f}" r="{radius:.1f}"/>')
    names = []
    for spot, radius in sorted(zip(spots, radii, strict=True), key=lambda each: not each[0].leading):
        kind = "leading" if spot.leading else "other"
        length = max(_LETTER[kind] * len(spot.name), _LETTER["other"] * len(spot.label))
        place, anchoring, box = _free_place(
            (x(spot.x), y(spot.y)), radius, (length, 27 if spot.label else 14), taken=taken, within=(left, top, right, bottom)
        )
        taken.append(box)
        shapes += _leader((x(spot.x), y(spot.y)), radius, box)
        at = f'x="{place[0]:.1f}" text-anchor="{anchoring}"'
        names.append(f'<text class="{kind} named" y="{place[1]:.1f}" {at}>{escape(spot.name)}</text>')
        if spot.label:
            names.append(f'<text class="tick named" y="{place[1] + 13:.1f}" {at}>{escape(spot.label)}</text>')
    said = "; ".join(f"{spot.name}: {x_name} {number(spot.x)}, {y_name} {number(spot.y)}" for spot in spots)
    return drawing(width, height, [*shapes, *names], title=title, description=said, anchor=anchor, alone=alone)


Box = tuple[float, float, float, float]


def _leader(point: tuple[float, float], radius: float, box: Box) -> list[str]:
    """Draw a thin line from a point to its name where the name does not stand right beside it."""
    (x, y), (left, top, right, bottom) = point, box
    end = (min(max(x, left), right), min(max(y, top + 4), bottom - 4))
    away = math.dist(point, end)
    if away <= radius + 8:
        return []
    share = radius / away
    start = (x + share * (end[0] - x), y + share * (end[1] - y))
    return [f'<line class="leader" x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}"/>']


def _boxes_along(start: tuple[float, float], end: tuple[float, float]) -> list[Box]:
    """Return small boxes that cover a line."""
    count = max(2, math.ceil(math.dist(start, end) / 6))
    places = np.linspace(start, end, count)
    return [(x - 3, y - 3, x + 3, y + 3) for x, y in places.tolist()]


def _free_place(
    point: tuple[float, float], radius: float, size: tuple[float, float], *, taken: Sequence[Box], within: Box
) -> tuple[tuple[float, float], str, Box]:
    """Return where the first line of a name begins so that the whole covers as little as may be of what is there."""
    (x, y), (length, height) = point, size
    choices: list[tuple[tuple[float, float], str, Box]] = []
    for shift in sorted(range(-130, 131, 13), key=abs):
        top = y - height / 2 + shift
        after, before = x + radius + 5, x - radius - 5
        choices.append(((after, top + 11), "start", (after, top, after + length, top + height)))
        choices.append(((before, top + 11), "end", (before - length, top, before, top + height)))
    for top in (y - radius - 2 - height, y + radius + 2):
        choices.append(((x, top + 11), "middle", (x - length / 2, top, x + length / 2, top + height)))
    return min(choices, key=lambda choice: sum(_shared(choice[2], box) for box in taken) + 10 * _outside(choice[2], within))


def _shared(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _outside(box: Box, within: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1]) - _shared(box, within)


def drawing(
    width: float, height: float, shapes: Iterable[str], *, title: str, description: str, anchor: str, alone: bool = False
) -> str:
    """Return shapes as an SVG that names and describes itself; all texts but the shapes are plain."""
    name = escape(anchor, quote=True)
    head = f'<title id="{name}">{escape(title)}</title><desc id="{name}-d">{escape(description)}</desc>'
    own = f' xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}"' if alone else ""
    style = f"<style>{resource('alone.css')}{resource('charts.css')}</style>" if alone else ""
    return (
        f'<svg{own} viewBox="0 0 {width:g} {height:g}" role="img" aria-labelledby="{name} {name}-d">{head}{style}\n'
        + "\n".join(shapes)
        + "\n</svg>"
    )


def number(value: float) -> str:
    """Return a number in as few digits as tell it: 0.25, 12.5, 1,200."""
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return signed(text)


def signed(text: str) -> str:
    """Return a number as text with a true minus sign, and zero without one."""
    return text.removeprefix("-") if not text.strip("-0.,") else text.replace("-", "−")


def brief(value: float) -> str:
    """Return a step in few characters: 250, 2k, 300k."""
    return f"{value / 1000:g}k" if abs(value) >= 1000 else f"{value:g}"


def shorten(names: Sequence[str], most: int) -> list[str]:
    """Return names as escaped texts of at most so many characters each.

    The middle gives way, for ends tell runs and steps apart; where names that differ would look alike, another part does.
    """
    cuts = sorted(range(most), key=lambda tail: abs(tail - most // 2))
    texts = [
        [name if len(name) <= most else f"{name[: most - 1 - tail]}…{name[len(name) - tail :]}" for name in names]
        for tail in cuts
    ]
    return [escape(text) for text in max(texts, key=lambda each: len(set(each)))]
