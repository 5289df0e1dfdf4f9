"""What `stylekit compare` found: `compare.json`, and the same as a table to read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from stylekit.metrics.report import PAPER_PROTOCOL, PAPER_ROWS, Conditions, Interval, Record, Skipped, in_words


class Preference(Record):
    """What people chose.

    Attributes:
        share: Of the comparisons with other rows that this one won, 0 to 1.
        low: Lower end of Wilson's 95 % interval.
        high: Its upper end.
        votes: Comparisons.
    """

    share: float
    low: float
    high: float
    votes: int


class Cost(Record):
    """What a network costs, measured on this machine in the same run as the others'.

    Attributes:
        milliseconds: Median for one picture of the network's own size.
        megabytes: Its weights in 16-bit floats.
        size_px: Side of that picture: times of other sizes do not compare.
        device: Where it ran.
    """

    milliseconds: float
    size_px: int
    megabytes: float
    device: str


class ComparedRow(Record):
    """One set of pictures made from the protocol's photographs.

    Attributes:
        kind: A `run` or checkpoint, a `folder` of pictures made by another tool, or a `trivial` row that needs no training.
        source: Where it came from, in words.
        figures: By short name (`kid_x1000`), of the leading extractor and embedder.
        intervals: 95 % intervals over persons, of those figures that have one.
        against: For each other row by name, KID of this row less that row's, with its paired interval over persons.
        better_than: Rows whose KID lies above this row's beyond doubt by every extractor: the paired intervals exclude 0.
        above_floors: Whether identity and coverage reach the protocol's floors.
        good: Above the floors, and better than every trivial row that is above them; None for trivial rows.
        reasons: Why it is not good, in a few words each.
        pictures: Files of the shown photographs as this row draws them, in the order of `Comparison.photographs`.
    """

    name: str
    kind: Literal["run", "folder", "trivial"]
    source: str
    figures: dict[str, float]
    intervals: dict[str, Interval]
    against: dict[str, tuple[float, float, float]]
    better_than: list[str]
    above_floors: bool
    good: bool | None
    reasons: list[str]
    cost: Cost | None = None
    preferences: dict[str, Preference] = Field(default_factory=dict)
    pictures: list[str] = Field(default_factory=list)


class Published(Record):
    """A row of DCT-Net's model card: another protocol."""

    name: str
    fid: float
    identity: float
    pref_a: float
    pref_b: float


class Comparison(Record):
    """Several sets of pictures under one protocol.

    Attributes:
        floors: The protocol's least `id_recognised` and `neighbour_coverage`.
        weaknesses: Where the trivial rows show that the protocol is too weak to trust; empty where it is not.
        published: The paper's rows, where they were asked for.
        photographs: Files of the photographs that are shown, relative to the folder of `compare.json` as `pictures` are.
    """

    format_version: Literal[1] = 1
    style: str
    protocol: Conditions
    floors: dict[str, float]
    rows: list[ComparedRow]
    weaknesses: list[str]
    published: list[Published]
    photographs: list[str]
    notes: list[str]
    skipped: list[Skipped]


PUBLISHED = tuple(
    Published(name=name, fid=PAPER_ROWS[name][0], identity=PAPER_ROWS[name][1], pref_a=pref_a, pref_b=pref_b)
    for name, pref_a, pref_b in (
        ("CycleGAN", 7.1, 1.4),
        ("U-GAT-IT", 5.0, 1.5),
        ("Toonify", 3.7, 4.2),
        ("pSp", 1.6, 2.5),
        ("DCT-Net", 82.6, 90.5),
    )
)
"""The table of DCT-Net's model card; shares of preference in percent."""

FLOORED = {"id_recognised": "recognised", "neighbour_coverage": "variety"}
"""What the figures that have a floor are called in words."""

_MARK = "*"


@dataclass(frozen=True)
class _Column:
    heading: str
    cell: Callable[[ComparedRow], str]


def text(comparison: Comparison) -> str:
    """Return the comparison as plain text: one table, the verdicts, what to know, and the published rows set apart."""
    conditions = comparison.protocol
    grid = _grid(comparison)
    widths = [max(len(row[column]) for row in grid) for column in range(len(grid[0]))]
    lines = [
        f"{comparison.style}, {in_words(conditions)}",
        "",
        *("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in grid),
        "",
        *_explained(comparison),
        "",
        *_verdicts(comparison),
        *(f"too weak: {weakness}" for weakness in comparison.weaknesses),
        *(f"deviates from {conditions.name}: {deviation}" for deviation in conditions.deviations),
        *(f"note: {note}" for note in comparison.notes),
        *(f"left out: {skipped.file}: {skipped.reason}" for skipped in comparison.skipped),
    ]
    if comparison.published:
        lines += ["", f"Published ({PAPER_PROTOCOL})", f"{'':<12}{'FID':>8}{'ID':>8}{'Pref.A':>8}{'Pref.B':>8}"]
        lines += [
            f"{row.name:<12}{row.fid:>8.2f}{row.identity:>8.2f}{row.pref_a:>7.1f}%{row.pref_b:>7.1f}%"
            for row in comparison.published
        ]
    return "\n".join(lines)


def markdown(comparison: Comparison) -> str:
    """Return the comparison as Markdown, to be pasted."""
    head, *rows = _grid(comparison)
    lines = [
        f"# {comparison.style}, {in_words(comparison.protocol)}",
        "",
        f"| {' | '.join(head)} |",
        f"|---|{'---:|' * (len(head) - 1)}",
        *(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows),
        "",
        *(f"{line}  " for line in _explained(comparison)),
        "",
        *(f"- {line}" for line in _verdicts(comparison)),
        *(f"- **too weak**: {weakness}" for weakness in comparison.weaknesses),
        *(f"- deviates from {comparison.protocol.name}: {deviation}" for deviation in comparison.protocol.deviations),
        *(f"- {note}" for note in comparison.notes),
        *(f"- left out: {skipped.file}: {skipped.reason}" for skipped in comparison.skipped),
    ]
    if comparison.published:
        lines += ["", f"Published: {PAPER_PROTOCOL}", "", "| | FID | ID | Pref.A | Pref.B |", "|---|---:|---:|---:|---:|"]
        lines += [
            f"| {row.name} | {row.fid:.2f} | {row.identity:.2f} | {row.pref_a:.1f} % | {row.pref_b:.1f} % |"
            for row in comparison.published
        ]
    return "\n".join(lines) + "\n"


def _grid(comparison: Comparison) -> list[list[str]]:
    """Return heading and rows of the table: the compared ones, then the trivial ones."""
    columns = _columns(comparison.rows)
    rows = sorted(comparison.rows, key=lambda row: row.kind == "trivial")
    return [
        ["", *(column.heading for column in columns)],
        *([row.name, *(column.cell(row) for column in columns)] for row in rows),
    ]


def _columns(rows: Sequence[ComparedRow]) -> list[_Column]:
    trivial = [row.name for row in rows if row.kind == "trivial"]

    def kid(row: ComparedRow) -> str:
        return f"{_figure(row, 'kid_x1000', '.0f')} {mark(row, trivial)}".rstrip()

    columns = [
        _Column("KIDx1000", kid),
        _Column("FID", lambda row: _figure(row, "fid", ".1f", interval=False)),
        _Column(FLOORED["neighbour_coverage"], lambda row: _figure(row, "neighbour_coverage", ".2f", interval=False)),
        _Column("ID", lambda row: _figure(row, "id_centred", ".2f")),
        _Column(FLOORED["id_recognised"], lambda row: _figure(row, "id_recognised", ".2f")),
        _Column("face found", lambda row: _figure(row, "face_found", ".2f", interval=False)),
        _Column("mouth", lambda row: _figure(row, "expression_mouth", ".3f", interval=False)),
    ]
    if any(row.cost for row in rows):
        columns += [
            _Column("ms", lambda row: f"{row.cost.milliseconds:.0f} at {row.cost.size_px} px" if row.cost else ""),
            _Column("MB", lambda row: f"{row.cost.megabytes:.1f}" if row.cost else ""),
        ]
    for key, heading in (("pref_a", "Pref.A"), ("pref_b", "Pref.B")):
        if any(key in row.preferences for row in rows):
            columns.append(_Column(heading, lambda row, key=key: _preference(row.preferences.get(key))))  # type: ignore[misc]
    return columns


def _figure(row: ComparedRow, metric: str, form: str, *, interval: bool = True) -> str:
    value = row.figures.get(metric)
    if value is None:
        return ""
    shown, ends = f"{value:z{form}}", [f"{end:z{form}}" for end in row.intervals.get(metric, ()) if interval]
    return f"{shown} [{' '.join(ends)}]" if set(ends) - {shown} else shown


def _preference(found: Preference | None) -> str:
    return f"{found.share:.0%} [{found.low:.0%} {found.high:.0%}] of {found.votes}" if found else ""


def _explained(comparison: Comparison) -> list[str]:
    floors = " and ".join(f"{FLOORED.get(key, key)} {least:g}" for key, least in comparison.floors.items())
    return ["In brackets 95 % intervals over persons.", explained_mark(comparison), f"Floors: {floors}."]


def mark(row: ComparedRow, trivial: Sequence[str]) -> str:
    """Return what stands beside a row's KID: `*N`, lower beyond doubt than that of N trivial rows; "" for these themselves."""
    return "" if row.kind == "trivial" else f"{_MARK}{sum(name in row.better_than for name in trivial)}"


def explained_mark(comparison: Comparison) -> str:
    """Return what `mark` says, in words."""
    trivial = sum(row.kind == "trivial" for row in comparison.rows)
    return (
        f"{_MARK}N: by every extractor KID is lower, beyond doubt, than in N of the {trivial} rows without training (the "
        "interval of the difference, paired over persons, lies below 0; not corrected for their number). "
        "The KID shown is the mean over subsets; differences are of all pictures at once."
    )


def _verdicts(comparison: Comparison) -> list[str]:
    return [
        f"{row.name}: "
        + (
            "good: above the floors, and nearer to the style than every trivial row that is"
            if row.good
            else "not good: " + "; ".join(row.reasons)
        )
        for row in comparison.rows
        if row.kind != "trivial"
    ]
