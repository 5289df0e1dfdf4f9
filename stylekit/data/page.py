"""`report.html`: what `report.py` found, as one page that needs nothing else: no network, no script, pictures inside."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

from stylekit.data.advice import kind_name, number
from stylekit.data.balance import Figure, Group
from stylekit.data.report import Gallery, SetReport, Shown, report
from stylekit.errors import ImageError
from stylekit.images import read_rgb
from stylekit.pages.charts import WIDTH, drawing, shorten
from stylekit.pages.document import Document, Section, table, tiles
from stylekit.pages.pictures import image
from stylekit.paths import atomic_write_text

PAGE = "report.html"
"""The page's name in the set's folder."""

_SKIN_SWATCH = {  # CIELAB of the middle of each class, lightness as in Del Bino and Bernerd 2013, to sRGB
    "very light": "#f2d9c9",
    "light": "#e6c3a8",
    "intermediate": "#d3a582",
    "tan": "#b9855e",
    "brown": "#85573b",
    "dark": "#4a3026",
}
_LEFT, _RIGHT = 8, 312
_ROW, _LABEL_X, _BARS_X, _BARS_WIDTH = 24, 104, 112, 122
_TOP, _FLOOR, _HEIGHT = 26, 112, 132
_TICKS = 7
_SIGNS = {"good": "✓", "add": "+", "look": "!"}
_KINDS = {"good": "Good", "add": "More of these", "look": "Worth a look"}


def write_report(folder: Path, output: Path | None = None) -> Path:
    """Judge an aligned data set and write the page; return where it is.

    Args:
        folder: The data set, with `manifest.jsonl`.
        output: Where to write; `report.html` in the folder by default.

    Raises:
        DataError: If there is no manifest, or a damaged one.
        StylekitError: If the page cannot be written.
    """
    path = output or folder / PAGE
    atomic_write_text(path, render(report(folder)))
    return path


def render(found: SetReport) -> str:
    """Return the page, whole: pictures are read from the set's folder, those that are gone are marked."""
    name = found.folder.resolve().name
    sections = [
        Section("help", "What would help", _advice(found)),
        Section("balance", "Who and what is in it", _figures(found)),
        Section("pictures", "The pictures", _pictures(found)),
        Section("left-out", "Left out, and why", _galleries(found.folder, found.left_out)),
        Section("duplicates", "Near-duplicates", _clusters(found)),
        Section("unreadable", "Files that could not be read", _unreadable(found)),
        Section("sources", "Where they come from", _sources(found)),
        Section("limits", "Limits in force", _limits(found)),
    ]
    header = f"""<p class="eyebrow">Data report, {kind_name(found.kind)}s</p>
<h1>{escape(name)}</h1>
<p class="headline">{escape(found.headline)}</p>
{_tiles(found)}"""
    footer = (
        "Made by stylekit data report from <code>manifest.jsonl</code>. The page holds pictures of the set: share it only where "
        "you may share them."
    )
    return str(Document(f"{name}: data report", header, sections, footer, styles=[style_sheet()]))


def style_sheet() -> str:
    """Return the style of what only data sets have."""
    return files("stylekit.data").joinpath("report.css").read_text("utf-8")


def _tiles(found: SetReport) -> str:
    counts = {
        "usable": found.used,
        "left out": found.rejected - found.near_duplicates,
        "near-duplicates": found.near_duplicates,
        "unreadable": found.unreadable_count,
    }
    if found.persons:
        counts |= {"persons": found.persons, "to train on": found.train, "held out": found.held_out}
    return tiles({name: f"{count:,}" for name, count in counts.items()})


def _advice(found: SetReport) -> str:
    items = "\n".join(
        f'<li class="{advice.kind}"><span class="sign" role="img" aria-label="{_KINDS[advice.kind]}">{_SIGNS[advice.kind]}</span>'
        f'<div><p>{escape(advice.text)}</p><p class="rule">Rule: {escape(advice.rule)}</p></div></li>'
        for advice in found.advice
    )
    return f'<ul class="advice">\n{items}\n</ul>'


def _figures(found: SetReport) -> str:
    if not found.used:
        return ""
    cards = "\n".join(figure_card(figure) for figure in found.figures)
    missing = ""
    if found.not_measured:
        names = ", ".join(escape(title) for title in found.not_measured)
        missing = f'<p class="note">Not measured in this set: {names}. Align it again to have them measured.</p>'
    return f'<div class="cards">\n{cards}\n</div>\n{missing}'


def figure_card(figure: Figure, anchor: str | None = None) -> str:
    """Return what was measured as a card: a drawing, its facts, and the figures folded.

    Args:
        figure: What was measured.
        anchor: An id that no other drawing of the page has; made of the figure's name by default.
    """
    anchor = anchor or f"{figure.name}-title"
    drawing = _columns(figure, anchor) if figure.edges else _rows(figure, anchor)
    things = "persons" if figure.name == "person" else "pictures"
    facts = [f"{figure.measured:,} {things}"]
    if figure.median is not None:
        facts.append(f"median {_with_unit(figure.median, figure.unit)}")
    groups = "".join(map(_group, figure.groups))
    table = "".join(
        f"<tr><th scope=row>{escape(bar.name)}</th><td>{bar.count:,}</td><td>{_percent(bar)}</td></tr>" for bar in figure.bars
    )
    heading = f"{escape(figure.title)}{f', {figure.unit}' if figure.unit and figure.edges else ''}"
    return f"""<figure class="card">
<h3>{heading}</h3>
{drawing}
<figcaption>
<p class="facts">{", ".join(facts)}</p>
{f'<ul class="groups">{groups}</ul>' if groups else ""}
<p>{escape(figure.about)}</p>
<details><summary>Figures</summary>
<table><tr><th scope=col>{heading}</th><th scope=col>{things}</th><th scope=col>share</th></tr>{table}</table></details>
</figcaption>
</figure>"""


def _group(group: Group) -> str:
    if group.wanted is None:
        return f"<li>{escape(group.name)}: {group.count:,} ({_percent(group)})</li>"
    verdict = f"wanted {group.wanted:.0%}{f': {group.more:,} more' if group.more else ''}"
    sign = f'<span class="sign" aria-hidden="true">{_SIGNS["add" if group.more else "good"]}</span>'
    state = "short" if group.more else "fine"
    return f'<li class="{state}">{sign}{escape(group.name)}: {group.count:,} ({_percent(group)}), {verdict}</li>'


def _percent(group: Group) -> str:
    return f"{group.share:.0%}" if group.share >= 0.1 or not group.count else f"{group.share:.1%}"


def _with_unit(value: float, unit: str) -> str:
    digits = 0 if unit else 1 if abs(value) >= 10 else 2
    number = f"{round(value, digits) + 0:.{digits}f}".replace("-", "−")
    return f"{number}{unit}" if unit == "°" else f"{number} {unit}".rstrip()


def _describe(figure: Figure) -> str:
    return "; ".join(f"{bar.name}: {bar.count:,}" for bar in figure.bars)


def _rows(figure: Figure, anchor: str) -> str:
    """Draw bars lying one below the other, each with its name and number."""
    most = max((bar.count for bar in figure.bars), default=0) or 1
    shapes = []
    names = shorten([bar.name for bar in figure.bars], 16)
    for index, (bar, name) in enumerate(zip(figure.bars, names, strict=True)):
        middle = index * _ROW + _ROW / 2
        width = bar.count / most * _BARS_WIDTH
        x = _BARS_X
        shapes.append(f'<text class="name" x="{_LABEL_X}" y="{middle + 4:g}" text-anchor="end">{name}</text>')
        if swatch := _SKIN_SWATCH.get(bar.name) if figure.name == "ita_deg" else None:
            shapes.append(f'<circle class="swatch" cx="{x + 7}" cy="{middle:g}" r="7" fill="{swatch}"/>')
            x += 20
        shapes.append(f'<rect class="bar" x="{x}" y="{middle - 7:g}" width="{width:.1f}" height="14" rx="2"/>')
        shapes.append(
            f'<text x="{x + width + 6:.1f}" y="{middle + 4:g}">{bar.count:,} <tspan class="quiet">{_percent(bar)}</tspan></text>'
        )
    return drawing(WIDTH, len(figure.bars) * _ROW, shapes, title=figure.title, description=_describe(figure), anchor=anchor)


def _columns(figure: Figure, anchor: str) -> str:
    """Draw bars standing side by side over an axis of numbers, which need not be even, with the limits across."""
    most = max(bar.count for bar in figure.bars) or 1
    step = (_RIGHT - _LEFT) / len(figure.bars)
    shapes = []
    for index, bar in enumerate(figure.bars):
        height = bar.count / most * (_FLOOR - _TOP)
        x = _LEFT + index * step
        if bar.count:
            top = _FLOOR - max(height, 1)
            shapes.append(
                f'<rect class="bar" x="{x + 1:.1f}" y="{top:.1f}" width="{step - 2:.1f}" height="{_FLOOR - top:.1f}" rx="2"/>'
            )
            shapes.append(
                f'<text class="count" x="{x + step / 2:.1f}" y="{top - 4:.1f}" text-anchor="middle">{_brief(bar.count)}</text>'
            )
    shapes.append(f'<line class="axis" x1="{_LEFT}" y1="{_FLOOR}" x2="{_RIGHT}" y2="{_FLOOR}"/>')
    every = -(-len(figure.edges) // _TICKS)
    for index in range(0, len(figure.edges), every):
        x = _LEFT + index * step
        place = "start" if index == 0 else "end" if index == len(figure.edges) - 1 else "middle"
        at = {"start": x - 4, "end": x + 4}.get(place, x)
        shapes.append(
            f'<text class="tick" x="{at:.1f}" y="{_FLOOR + 15}" text-anchor="{place}">{_tick(figure.edges[index])}</text>'
        )
    for value, what in figure.limits:
        x = _LEFT + _place(figure.edges, value) * step
        shapes.append(f'<line class="limit" x1="{x:.1f}" y1="10" x2="{x:.1f}" y2="{_FLOOR}"/>')
        shapes.append(f'<text class="limit" x="{x + 4:.1f}" y="12">{what}</text>')
    return drawing(WIDTH, _HEIGHT, shapes, title=figure.title, description=_describe(figure), anchor=anchor)


def _place(edges: Sequence[float], value: float) -> float:
    """Return where between the edges a value stands, counted in bars."""
    for index, (low, high) in enumerate(pairwise(edges)):
        if value <= high:
            return index + (value - low) / (high - low)
    return len(edges) - 1


def _tick(value: float) -> str:
    return f"{value:g}".replace("-", "−")


def _brief(count: int) -> str:
    return f"{count:,}" if count < 10_000 else f"{count / 1000:.0f}k"


def _pictures(found: SetReport) -> str:
    if not found.sheets:
        return ""
    where = f"--in {shlex.quote(str(found.folder))}"
    note = f"To take pictures out, name them: <code>stylekit data drop NAME {escape(where)}</code>"
    return f'<p class="note">{note}</p>\n{_galleries(found.folder, found.sheets)}'


def _galleries(folder: Path, galleries: Iterable[Gallery]) -> str:
    return "\n".join(
        f"<h3>{escape(gallery.title[0].upper() + gallery.title[1:])} "
        f'<span class="quiet">{_of(len(gallery.pictures), gallery.count)}</span></h3>\n{_sheet(folder, gallery.pictures)}'
        for gallery in galleries
    )


def _of(shown: int, count: int) -> str:
    return f"{count:,}" if shown == count else f"{shown} of {count:,}"


def _sheet(folder: Path, pictures: Iterable[Shown]) -> str:
    return f'<div class="sheet">{"".join(_thumbnail(folder, picture) for picture in pictures)}</div>'


def _thumbnail(folder: Path, picture: Shown) -> str:
    name = escape(Path(picture.file).stem, quote=True)
    caption = f'<figcaption><span class="name">{name}</span>{escape(picture.caption)}</figcaption>'
    try:
        rgb = read_rgb(folder / picture.file)
    except ImageError:
        return f'<figure class="thumb"><div class="gone">{name} is gone</div>{caption}</figure>'
    return f'<figure class="thumb">{image(rgb, Path(picture.file).stem)}{caption}</figure>'


def _clusters(found: SetReport) -> str:
    if not found.clusters:
        return ""
    shown = f" The {len(found.clusters)} largest of {found.cluster_count:,}:" if len(found.clusters) < found.cluster_count else ""
    note = f'<p class="note">In each row the first was kept, the others repeat it.{shown}</p>\n'
    return note + "\n".join(f'<div class="cluster">{_sheet(found.folder, cluster)}</div>' for cluster in found.clusters)


def _unreadable(found: SetReport) -> str:
    if not found.unreadable:
        return ""
    more = found.unreadable_count - len(found.unreadable)
    rest = f'<p class="note">and {number(more, "other file")}; all of them stand in manifest.jsonl.</p>' if more else ""
    return table(("file", "what is wrong"), found.unreadable.items()) + rest


def _sources(found: SetReport) -> str:
    rows = [
        (origin.source, f"{origin.count:,}", origin.licence or "not noted", origin.attribution or "not noted")
        for origin in found.origins
    ]
    return table(("source", "pictures", "licence", "by"), rows) if rows else ""


def _limits(found: SetReport) -> str:
    if not found.limits:
        return ""
    note = '<p class="note">Faces beyond these were left out. Set them in the recipe or with --set.</p>\n'
    return note + table(("recipe key", "value"), found.limits.items())
