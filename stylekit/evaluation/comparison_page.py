"""`compare.html`: several sets of pictures under one protocol, as one page; and its Pareto picture as a file of its own."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from stylekit.errors import ImageError
from stylekit.evaluation.comparison import ComparedRow, Comparison, explained_mark, mark
from stylekit.images import read_rgb
from stylekit.metrics.glossary import GLOSSARY
from stylekit.metrics.report import PAPER_PROTOCOL
from stylekit.pages.charts import Dot, Spot, dots, frontier, plane, signed
from stylekit.pages.document import Document, Section, paragraphs, table, tiles, wide
from stylekit.pages.pictures import image

_COLUMNS = ("kid_x1000", "fid", "neighbour_coverage", "id_centred", "id_recognised")
_CHARTS = (*_COLUMNS, "coverage", "precision", "recall", "expression_eyes", "expression_mouth", "content", "colour_shift")
_PREFERENCES = {
    "pref_a": "Pref.A: better stylized",
    "pref_b": "Pref.B: keeps the person better",
}
_CELL_PX = 160
_MOST_ROWS = 9  # photographs shown side by side


def render_comparison(comparison: Comparison, folder: Path) -> str:
    """Return the page, whole.

    Args:
        comparison: What `compare.json` says.
        folder: Where `compare.json` lies; the pictures' files are relative to it. Those that are gone are marked.
    """
    runs = [row for row in comparison.rows if row.kind != "trivial"]
    trivial = [row for row in comparison.rows if row.kind == "trivial"]
    sections = [
        Section("verdicts", "Which of them are good", _verdicts(comparison, runs)),
        Section("figures", "Figures", _figures(comparison, runs, trivial)),
        Section("pareto", "Style against likeness", _pareto_section(comparison)),
        Section("pictures", "The same people", _pictures(comparison, folder)),
        Section("intervals", "Figure by figure", _charts(comparison)),
        Section("preferences", "What people chose", _preferences(comparison)),
        Section("published", "Published elsewhere", _published(comparison)),
        Section("protocol", "How it was measured", _protocol(comparison)),
        Section("skipped", "Left out", _skipped(comparison)),
    ]
    header = f"""<p class="eyebrow">Comparison under the protocol {escape(comparison.protocol.name)}</p>
<h1>{escape(comparison.style)}</h1>
<p class="headline">{escape(_headline(comparison, runs))}</p>
{_tiles(comparison, runs)}"""
    footer = (
        "Made by stylekit compare from <code>compare.json</code>. The page holds pictures of people: share it only where you may "
        "share them."
    )
    style = files("stylekit.evaluation").joinpath("comparison.css").read_text("utf-8")
    return str(Document(f"{comparison.style}: comparison", header, sections, footer, styles=[style]))


def pareto_svg(comparison: Comparison, *, alone: bool = True) -> str:
    """Return KID against likeness, one circle a row, its area the megabytes; empty where no row has both.

    Args:
        comparison: What `compare.json` says.
        alone: Whether it is a file of its own (`pareto.svg`) and not part of a page.
    """
    found = {row.name: spot for row in comparison.rows if (spot := _spot(row))}
    if not found:
        return ""
    line = frontier([found[row.name] for row in comparison.rows if row.kind != "trivial" and row.name in found])
    return plane(
        list(found.values()),
        title="KID against likeness",
        anchor="pareto-picture",
        x_name="KID x1000 (less is nearer the style)",
        y_name="ID (more is more like the person)",
        line=line,
        alone=alone,
    )


def _spot(row: ComparedRow) -> Spot | None:
    if "kid_x1000" not in row.figures or "id_centred" not in row.figures:
        return None
    cost = row.cost
    return Spot(
        row.name,
        row.figures["kid_x1000"],
        row.figures["id_centred"],
        area=cost.megabytes if cost else None,
        label=f"{cost.milliseconds:.0f} ms at {cost.size_px} px, {cost.megabytes:.1f} MB" if cost else "",
        leading=row.kind != "trivial",
    )


def _headline(comparison: Comparison, runs: Sequence[ComparedRow]) -> str:
    if comparison.weaknesses:
        return "The protocol is too weak to trust here: trivial rows pass that should not."
    good = [row.name for row in runs if row.good]
    if not good:
        return f"None of the {len(runs)} compared stands above the floors and beats every trivial row that does."
    if len(good) == len(runs) == 1:
        return f"{good[0]} stands above the floors and beats every trivial row that does."
    named = good[0] if len(good) == 1 else f"{', '.join(good[:-1])} and {good[-1]}"
    verb = "stands" if len(good) == 1 else "stand"
    return (
        f"Of {len(runs)} compared, {named} {verb} above the floors and beat{'s' * (len(good) == 1)} every trivial row that does."
    )


def _tiles(comparison: Comparison, runs: Sequence[ComparedRow]) -> str:
    protocol = comparison.protocol
    counts = {
        "compared": len(runs),
        "photographs": protocol.n,
        "people": protocol.persons,
        "reference cartoons": protocol.reference_n,
    }
    return tiles({name: f"{count:,}" for name, count in counts.items()})


def _verdicts(comparison: Comparison, runs: Sequence[ComparedRow]) -> str:
    items = "\n".join(_verdict(row) for row in runs)
    weak = paragraphs(comparison.weaknesses, "weakness")
    floors = ", ".join(
        f"{GLOSSARY[name].title if name in GLOSSARY else name} {value:g}" for name, value in comparison.floors.items()
    )
    rule = (
        f"Good means: above the protocol's floors ({floors}), and a lower KID than every trivial row above them, with the whole "
        "interval of the paired difference below 0."
    )
    return f'{weak}<ul class="verdicts">\n{items}\n</ul>\n{paragraphs([rule])}'


def _verdict(row: ComparedRow) -> str:
    sign, kind, label = ("✓", "good", "Good") if row.good else ("!", "not-good", "Not good")
    words = "is good" if row.good else "is not good: " + ("; ".join(row.reasons) or "the reason was not noted")
    better = (
        f'<p class="note">Nearer the style beyond doubt than: {escape(", ".join(row.better_than))}.</p>'
        if row.better_than
        else ""
    )
    source = f'<p class="note">{escape(row.source)}</p>' if row.source != row.name else ""
    return (
        f'<li class="{kind}"><span class="sign" role="img" aria-label="{label}">{sign}</span>'
        f"<div><p><b>{escape(row.name)}</b> {escape(words)}.</p>{source}{better}</div></li>"
    )


def _figures(comparison: Comparison, runs: Sequence[ComparedRow], trivial: Sequence[ComparedRow]) -> str:
    columns = [name for name in _COLUMNS if any(name in row.figures for row in comparison.rows)]
    preferences = [name for name in _PREFERENCES if any(name in row.preferences for row in comparison.rows)]
    costs = any(row.cost for row in comparison.rows)
    heads = [
        f"<th scope=col>{escape(GLOSSARY[name].title)}<br><span class=quiet>{GLOSSARY[name].better or ''}</span></th>"
        for name in columns
    ]
    heads += [
        f"<th scope=col>{escape(_PREFERENCES[name].partition(':')[0])}<br><span class=quiet>share won</span></th>"
        for name in preferences
    ]
    heads += [
        "<th scope=col>Size<br><span class=quiet>MB</span></th><th scope=col>Time<br><span class=quiet>ms</span></th>"
    ] * costs
    count = 2 + len(columns) + len(preferences) + 2 * costs
    body = "".join(_row(comparison, row, columns, preferences, costs=costs) for row in runs)
    if trivial:
        body += f'<tr class="apart"><th colspan="{count}" scope="rowgroup">Without any training</th></tr>'
        body += "".join(_row(comparison, row, columns, preferences, costs=costs) for row in trivial)
    head = f"<tr><th scope=col>row</th><th scope=col>above<br>the floors</th>{''.join(heads)}</tr>"
    note = f"In brackets 95% intervals over people. {explained_mark(comparison)} What fails a floor is struck through."
    return f"{wide(f'<table class=figures>{head}{body}</table>', 'Figures of all rows')}\n{paragraphs([note])}"


def _row(comparison: Comparison, row: ComparedRow, columns: Sequence[str], preferences: Sequence[str], *, costs: bool) -> str:
    standing = "yes" if row.above_floors else "no"
    trivial = [other.name for other in comparison.rows if other.kind == "trivial"]
    cells = [f"<th scope=row>{escape(row.name)}</th>", f'<td class="{standing}">{"✓ yes" if row.above_floors else "no"}</td>']
    for name in columns:
        value = row.figures.get(name)
        if value is None:
            cells.append("<td>–</td>")
            continue
        form = GLOSSARY[name].form
        shown = signed(format(value, form))
        if value < comparison.floors.get(name, float("-inf")):
            shown = f'<s title="below the floor">{shown}</s>'
        if name == "kid_x1000" and (marked := mark(row, trivial)):
            shown += f" <b>{marked}</b>"
        interval = row.intervals.get(name)
        cells.append(f"<td>{shown}{_between(*interval, form) if interval else ''}</td>")
    for name in preferences:
        if chosen := row.preferences.get(name):
            votes = f'<br><span class="quiet">{chosen.votes:,} votes</span>'
            cells.append(f"<td>{chosen.share:.0%}{_between(chosen.low, chosen.high, '.0%')}{votes}</td>")
        else:
            cells.append("<td>–</td>")
    if costs:
        cells += [
            f"<td>{row.cost.megabytes:.1f}</td>"
            f'<td>{row.cost.milliseconds:.0f}<br><span class="quiet">at {row.cost.size_px} px</span></td>'
            if row.cost
            else "<td>–</td><td>–</td>"
        ]
    return f'<tr class="{row.kind}">{"".join(cells)}</tr>'


def _between(low: float, high: float, form: str) -> str:
    ends = [signed(format(end, form)) for end in (low, high)]
    return f'<br><span class="quiet">[{", ".join(ends)}]</span>' if ends[0] != ends[1] else ""


def _pareto_section(comparison: Comparison) -> str:
    picture = pareto_svg(comparison, alone=False)
    if not picture:
        return ""
    note = (
        "Up and to the left is better. Below a name stand the time for one picture of its own size, and the megabytes, which the "
        "area of its circle shows too. Rings are rows without a network to time, grey where nothing was trained. The dotted line "
        "joins those compared that no other beats in both."
    )
    devices = sorted({row.cost.device for row in comparison.rows if row.cost})
    where = [f"Times taken on: {', '.join(devices)}."] if devices else []
    return f'<figure class="card pareto">{wide(picture, "KID against likeness")}</figure>\n{paragraphs([note, *where])}'


def _pictures(comparison: Comparison, folder: Path) -> str:
    shown = [row for row in comparison.rows if row.pictures and row.pictures != comparison.photographs]
    photographs = comparison.photographs[:_MOST_ROWS]
    if not photographs or not shown:
        return ""
    head = "".join(f"<th scope=col>{escape(name)}</th>" for name in ("photograph", *(row.name for row in shown)))
    body = ""
    for index, file in enumerate(photographs):
        name = Path(file).stem
        cells = [_picture(folder, file, f"{name}, the photograph")]
        cells += [
            _picture(folder, row.pictures[index], f"{name} by {row.name}") if index < len(row.pictures) else "" for row in shown
        ]
        body += f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
    return wide(
        f'<table class="gallery" style="--columns: {1 + len(shown)}"><tr>{head}</tr>{body}</table>',
        "Pictures of the same people by every row",
    )


def _picture(folder: Path, file: str, alt: str) -> str:
    try:
        return image(read_rgb(folder / file), alt, longest_px=_CELL_PX)
    except ImageError:
        return f'<div class="gone">{escape(Path(file).name)} is gone</div>'


def _charts(comparison: Comparison) -> str:
    cards = []
    for name in _CHARTS:
        rows = [
            Dot(row.name, row.figures[name], row.intervals.get(name), leading=row.kind != "trivial")
            for row in comparison.rows
            if name in row.figures
        ]
        if not rows:
            continue
        meaning = GLOSSARY[name]
        direction = f' <span class="quiet">{meaning.direction}</span>' if meaning.direction else ""
        drawn = dots(rows, title=meaning.title, anchor=f"figure-{name}", form=meaning.form, floor=comparison.floors.get(name))
        floor = " The dashed line is the protocol's floor." if name in comparison.floors else ""
        cards.append(
            f'<figure class="card"><h3>{escape(meaning.title)}{direction}</h3>\n{drawn}\n'
            f"<figcaption><p>{escape(meaning.sentence)}{floor}</p></figcaption></figure>"
        )
    return f'<div class="cards">{"".join(cards)}</div>' if cards else ""


def _preferences(comparison: Comparison) -> str:
    cards = []
    for name, title in _PREFERENCES.items():
        chosen = {row.name: row.preferences[name] for row in comparison.rows if name in row.preferences}
        if chosen:
            rows = [Dot(row, each.share, (each.low, each.high), leading=True) for row, each in chosen.items()]
            votes = ", ".join(f"{row} {each.votes:,}" for row, each in chosen.items())
            drawn = dots(rows, title=title, anchor=f"chosen-{name}", form=".0%")
            said = f"Share of blind comparisons won, with Wilson's 95% interval. Votes: {votes}."
            cards.append(
                f'<figure class="card"><h3>{escape(title)}</h3>\n{drawn}\n<figcaption><p>{escape(said)}</p></figcaption></figure>'
            )
    return f'<div class="cards">{"".join(cards)}</div>' if cards else ""


def _published(comparison: Comparison) -> str:
    if not comparison.published:
        return ""
    rows = [
        (each.name, f"{each.fid:.2f}", f"{each.identity:.2f}", f"{each.pref_a:.1f}%", f"{each.pref_b:.1f}%")
        for each in comparison.published
    ]
    said = f"Of DCT-Net's model card: {PAPER_PROTOCOL}."
    return f"{paragraphs([said])}\n{table(('method', 'FID', 'ID', 'Pref.A', 'Pref.B'), rows, 'Published rows')}"


def _protocol(comparison: Comparison) -> str:
    protocol = comparison.protocol
    rows = [
        ("protocol", protocol.name + (", with deviations" if protocol.deviations else "")),
        ("photographs", f"{protocol.n:,} of {protocol.persons:,} people, held out of training"),
        ("reference", f"{protocol.reference_n:,} cartoons of {protocol.reference}"),
        ("measured at", f"{protocol.size_px} px"),
        ("extractors", ", ".join(protocol.extractors)),
        ("embedders", ", ".join(protocol.embedders)),
        ("KID", f"{protocol.kid_subsets} subsets of {protocol.kid_subset_size} pictures"),
        ("intervals", f"{protocol.resamples:,} bootstrap draws of people"),
        ("seed", f"{protocol.seed}"),
        ("photographs, digest", protocol.held_out_sha256[:16]),
        ("cartoons, digest", protocol.reference_manifest_sha256[:16]),
    ]
    deviations = [f"Deviates from {protocol.name}: {deviation}" for deviation in protocol.deviations]
    return f"{table(('condition', 'value'), rows, 'Conditions')}\n{paragraphs([*deviations, *comparison.notes])}"


def _skipped(comparison: Comparison) -> str:
    rows = [(each.file, each.reason) for each in comparison.skipped]
    return table(("file", "why"), rows, "Left out") if rows else ""
