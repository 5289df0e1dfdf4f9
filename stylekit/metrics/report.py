"""What an evaluation found: `eval.json`, and the same as a table to read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from stylekit.errors import DataError
from stylekit.faces.traits import SKIN_TONES
from stylekit.paths import atomic_write_text

# The table of DCT-Net's model card (ModelScope, damo/cv_unet_person-image-cartoon): FID, ID.
PAPER_ROWS = {
    "CycleGAN": (57.08, 0.55),
    "U-GAT-IT": (68.40, 0.58),
    "Toonify": (55.27, 0.62),
    "pSp": (69.38, 0.60),
    "DCT-Net": (35.92, 0.71),
}
PAPER_PROTOCOL = (
    "another protocol: 5,000 CelebA photographs, style sets and ID network unpublished; never compare with the rows above"
)
Interval = tuple[float, float]


class Record(BaseModel):
    """A part of a report: frozen, and refusing what it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class UsedAsset(Record):
    """A file that took part in the measurement."""

    name: str
    role: str
    source: str
    sha256: str
    licence: str


class Conditions(Record):
    """Everything that two evaluations must share for their figures to compare.

    Attributes:
        name: The protocol; it holds only where `deviations` is empty.
        deviations: Where this evaluation differs from it.
        n: Held-out photographs, of `persons` persons.
        held_out_sha256: What of them was measured, whatever the order: the crops' pixels, and where the faces are.
        photos_manifest_sha256: Digest of the list they come from.
        template: How the crops are aligned.
        crop_size_px: Their side; of made pictures it does not count.
        size_px: Every picture is brought to this side (area when shrinking) in 8 bits, and measured there.
        reference: Style of the cartoons; `reference_n` of them, listed in the manifest of that digest.
        extractors: Networks of KID, FID, precision, recall and coverage, each with its resize; the first leads.
        embedders: Networks of the identity figures, each with its crop and template; the first leads.
        gauges: What else took part in the measurement, with versions and digests of weights.
        kid_subset_size: Half the smaller set; `kid_subsets` of them are drawn.
        resamples: Bootstrap draws of persons behind every interval.
        identity_centre: Mean embedding of the `identity_centre_n` photographs trained on, by embedder.
        assets: The networks' files.
    """

    name: str
    deviations: list[str]
    n: int
    persons: int
    held_out_sha256: str
    photos_manifest_sha256: str
    template: list[str]
    crop_size_px: list[int]
    size_px: int
    reference: str
    reference_n: int
    reference_manifest_sha256: str
    extractors: list[str]
    embedders: list[str]
    gauges: list[str]
    kid_subsets: int
    kid_subset_size: int
    resamples: int
    identity_centre: dict[str, list[float]]
    identity_centre_n: int
    seed: int
    assets: list[UsedAsset]


class MeasuredNetwork(Record):
    """The network that made the stylized pictures.

    Attributes:
        step: Training steps done; `sha256` of the checkpoint's weights.
        size_px: Side at which it saw the photographs.
        trained_on: The networks of this evaluation that also served in training as a loss; they flatter the stylized row.
    """

    step: int
    sha256: str
    size_px: int
    trained_on: list[str]


class Delta(Record):
    """KID (x1000, all pictures at once) of the stylized pictures less that of the photographs; negative is nearer the style.

    Attributes:
        kid_x1000: The difference.
        low: Lower end of its 95 % interval, the same persons drawn for both.
        high: Upper end.
    """

    kid_x1000: float
    low: float
    high: float


class Skipped(Record):
    """A picture left out, and why."""

    file: str
    reason: str


class WorstPicture(Record):
    """One of the stylized pictures that came out worst.

    Attributes:
        file: Crop of the photograph.
        reasons: Figures by which it stands among the worst, with their values.
    """

    file: str
    person: str
    reasons: list[str]


class EvalReport(Record):
    """One evaluation of one checkpoint.

    Attributes:
        protocol: What another evaluation must share to compare.
        network: What was measured.
        rows: For each set of pictures its figures, under names that carry network, resize and count (`metric_name`).
        intervals: 95 % intervals over persons of those figures that have one, under the same names.
        delta: For each extractor.
        notes: What a reader must know before comparing.
        worst: The worst stylized pictures, worst first.
        made_from: Digest of all that was asked for: checkpoint, protocol, settings, networks, photographs and cartoons.
    """

    format_version: Literal[2] = 2
    style: str
    run: str
    protocol: Conditions
    network: MeasuredNetwork
    rows: dict[str, dict[str, float]]
    intervals: dict[str, dict[str, Interval]]
    delta: dict[str, Delta]
    notes: list[str]
    skipped: list[Skipped]
    worst: list[WorstPicture]
    made_from: str

    def name(self, metric: str, network: str | None = None) -> str:
        """Return the full name of a figure.

        Args:
            metric: The short name (`kid_x1000`).
            network: Which network, as `protocol` names it; the leading one of its kind by default.
        """
        return full_name(self.protocol, metric, network)

    def value(self, row: str, metric: str, network: str | None = None) -> float | None:
        """Return a figure by its short name, None where it was not taken; arguments as of `name`."""
        return self.rows[row].get(self.name(metric, network))

    def interval(self, row: str, metric: str, network: str | None = None) -> Interval | None:
        """Return the 95 % interval of a figure by its short name, None where there is none; arguments as of `name`."""
        return self.intervals.get(row, {}).get(self.name(metric, network))

    def by_tone(self, row: str) -> dict[str, tuple[float, int]]:
        """Return a row's mean shift of the skin's typology angle in degrees, and of how many, by the photographs' skin tone.

        From the lightest tone to the darkest, and last the faces whose tone is not known; tones that nobody has are left out.
        """
        found = {}
        for name, shift in self.rows.get(row, {}).items():
            metric, *group, count = name.split("/")
            if metric == "ita_shift_deg" and group:
                found[group[0].replace("-", " ")] = shift, int(count.removeprefix("n"))
        order = (*(name for _, name in SKIN_TONES), "dark", "unknown")
        return {tone: found[tone] for tone in order if tone in found}


OF_EXTRACTOR = (
    "kid_x1000",
    "kid_x1000_std",
    "kid_x1000_all",
    "kid_x1000_person_std",
    "fid",
    "precision",
    "recall",
    "coverage",
    "neighbour_coverage",
)
"""Short names of the figures that are taken with every extractor; those that begin with `id_` with every embedder."""

HEADLINES = (
    "kid_x1000",
    "fid",
    "neighbour_coverage",
    "id_centred",
    "id_recognised",
    "expression_mouth",
    "content",
    "colour_shift",
)
"""Short names of the figures that a card shows."""


def full_name(conditions: Conditions, metric: str, network: str | None = None) -> str:
    """Return the full name of a figure under these conditions, of the leading network of its kind by default."""
    if network is None and metric in OF_EXTRACTOR:
        network = conditions.extractors[0]
    elif network is None and metric.startswith("id_"):
        network = conditions.embedders[0]
    return metric_name(metric, network, conditions.n)


def metric_name(metric: str, network: str | None, n: int) -> str:
    """Return the full name of a figure: `kid_x1000/efficientnet-lite0@224-bilinear-antialias/n16`, `content/n16`."""
    return "/".join(filter(None, (metric, network, f"n{n}")))


def write_report(path: Path, report: EvalReport) -> None:
    """Write `eval.json` atomically.

    Raises:
        StylekitError: If it cannot be written.
    """
    atomic_write_text(path, report.model_dump_json(indent=2) + "\n")


def read_report(path: Path) -> EvalReport:
    """Read `eval.json`.

    Raises:
        DataError: If it is missing, of another format, or not of this form.
    """
    mend = "Run: stylekit eval"
    try:
        content = json.loads(path.read_bytes())
        if isinstance(content, dict) and (version := content.get("format_version", 2)) != 2:
            raise DataError(f"{path} has the figures of another stylekit (format {version}; this one reads format 2).", mend)
        return EvalReport.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}.", mend) from error
    except ValidationError as error:
        raise DataError(f"{path} is not an evaluation: {error.errors()[0]['msg']}.", mend) from error
    except ValueError as error:
        raise DataError(f"{path} is not an evaluation: {error}.", mend) from error


@dataclass(frozen=True)
class _Column:
    heading: str
    metric: str
    form: str


_DISTRIBUTION = (
    _Column("KIDx1000", "kid_x1000", ".1f"),
    _Column("FID", "fid", ".1f"),
    _Column("precision", "precision", ".2f"),
    _Column("recall", "recall", ".2f"),
    _Column("coverage", "coverage", ".2f"),
    _Column("variety", "neighbour_coverage", ".2f"),
)
_IDENTITY = (
    _Column("ID", "id_centred", ".2f"),
    _Column("recognised", "id_recognised", ".2f"),
    _Column("rank-1", "id_rank_1", ".2f"),
    _Column("ID raw", "id_raw", ".2f"),
    _Column("ID L2", "id_l2", ".2f"),
)
_FACE = (
    _Column("face found", "face_found", ".2f"),
    _Column("eyes", "expression_eyes", ".3f"),
    _Column("mouth", "expression_mouth", ".3f"),
    _Column("gaze", "gaze", ".3f"),
    _Column("pose", "pose_deg", ".1f"),
)
_PICTURE = (
    _Column("content", "content", ".3f"),
    _Column("colour", "colour_shift", ".1f"),
    _Column("ITA", "ita_shift_deg", "+.1f"),
    _Column("eye faults", "artefact_eyes", ".2f"),
    _Column("mouth faults", "artefact_mouth", ".2f"),
)


def in_words(conditions: Conditions) -> str:
    """Return the conditions as a headline says them."""
    deviating = " (deviating)" if conditions.deviations else ""
    return (
        f"protocol {conditions.name}{deviating}: {conditions.n} held-out photographs of {conditions.persons} persons "
        f"against {conditions.reference_n} cartoons, {conditions.size_px} px"
    )


def table(report: EvalReport) -> str:
    """Return the evaluation as plain text: the rows, the differences, what to know, and the paper's rows set apart."""
    conditions = report.protocol
    lines = [
        f"{report.style}, step {report.network.step}, {in_words(conditions)}",
        "95 % intervals over persons in brackets",
    ]
    for extractor in conditions.extractors:
        lines += _block(report, f"Style, on {extractor}", _DISTRIBUTION, extractor)
        delta = report.delta[extractor]
        lines.append(f"stylized less photo: KIDx1000 {delta.kid_x1000:+.1f} [{delta.low:+.1f} {delta.high:+.1f}]")
    for embedder in conditions.embedders:
        lines += _block(report, f"Person, on {embedder}", _IDENTITY, embedder)
    lines += _block(report, "Face, against the photograph", _FACE)
    lines += _block(report, "Picture", _PICTURE)
    lines += _skin_tones(report)
    lines += [
        "",
        *_remarks(report),
        "",
        f"Published ({PAPER_PROTOCOL})",
        f"{'':<16}{'FID':>11}{'ID':>11}",
        *(f"{method:<16}{fid:>11.2f}{identity:>11.2f}" for method, (fid, identity) in PAPER_ROWS.items()),
    ]
    return "\n".join(lines)


def _skin_tones(report: EvalReport) -> list[str]:
    """Return the line of how far the stylized skin was lightened or darkened, by the photographs' skin tone."""
    found = [f"{tone} {shift:+.1f} (n={count})" for tone, (shift, count) in report.by_tone("stylized").items()]
    return [f"ITA by skin tone: {', '.join(found)}"] if found else []


def shared_networks(reports: Sequence[EvalReport]) -> tuple[str, str]:
    """Return the extractor and the embedder by which evaluations are compared: of those in all, one that served in no training.

    Raises:
        DataError: If they have no extractor, or no embedder, in common.
    """
    served = {use.partition(":")[0] for report in reports for use in report.network.trained_on}

    def leading(kind: str, used: Sequence[Sequence[str]]) -> str:
        everywhere = [label for label in used[0] if all(label in each for each in used)]
        if not everywhere:
            raise DataError(
                f"The evaluations of {', '.join(report.run for report in reports)} have no {kind} in common.",
                f"Measure all with one: stylekit eval --run RUN --{kind} NAME",
            )
        return min(everywhere, key=lambda label: label.partition("@")[0] in served)

    return (
        leading("extractor", [report.protocol.extractors for report in reports]),
        leading("embedder", [report.protocol.embedders for report in reports]),
    )


def side_by_side(reports: Sequence[EvalReport]) -> str:
    """Return the stylized rows of several evaluations, taken under one protocol, as one table of plain text.

    Raises:
        DataError: If they have no extractor, or no embedder, in common.
    """
    extractor, embedder = shared_networks(reports)
    columns = [
        (each, network)
        for block, network in ((_DISTRIBUTION, extractor), (_IDENTITY, embedder))
        for each in block
        if each.metric in HEADLINES
    ]
    columns += [
        (_Column(f"KIDx1000 on {other.partition('@')[0]}", "kid_x1000", ".1f"), other)
        for other in reports[0].protocol.extractors
        if other != extractor and all(other in report.protocol.extractors for report in reports)
    ]
    names = [f"{report.run}@{report.network.step}" for report in reports]
    cells = [[_cell(report, "stylized", column, network) for column, network in columns] for report in reports]
    lines = [["", *(column.heading for column, _ in columns)], *([name, *row] for name, row in zip(names, cells, strict=True))]
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    remarks: dict[str, list[str]] = {}
    for name, report in zip(names, reports, strict=True):
        for remark in dict.fromkeys(_remarks(report)):
            remarks.setdefault(remark, []).append(name)
    deviating = [deviation for report in reports for deviation in report.protocol.deviations]
    return "\n".join(
        [
            f"{reports[0].style}, {in_words(reports[0].protocol.model_copy(update={'deviations': deviating}))}",
            f"Style on {extractor}, person on {embedder}; 95 % intervals over persons in brackets",
            "",
            *("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines),
            "",
            *(f"{'all' if whose == names else ', '.join(whose)}: {remark}" for remark, whose in remarks.items()),
        ]
    )


def _remarks(report: EvalReport) -> list[str]:
    """Return what is to be known of an evaluation's figures, one phrase each."""
    return [
        *(f"deviates from {report.protocol.name}: {deviation}" for deviation in report.protocol.deviations),
        *(f"note: {note}" for note in report.notes),
        *(f"left out: {skipped.file}: {skipped.reason}" for skipped in report.skipped),
    ]


def _block(report: EvalReport, title: str, columns: Sequence[_Column], network: str | None = None) -> list[str]:
    """Return the rows with some figures of one network, each with its interval; nothing where none was taken."""
    shown = [each for each in columns if any(report.value(row, each.metric, network) is not None for row in report.rows)]
    if not shown:
        return []
    served = [use for use in report.network.trained_on if use.partition(":")[0] == (network or "").partition("@")[0]]
    cells = {row: [_cell(report, row, column, network) for column in shown] for row in report.rows}
    widths = [max(len(column.heading), *(len(row[i]) for row in cells.values())) + 2 for i, column in enumerate(shown)]
    lines = [[column.heading for column in shown], *cells.values()]
    return [
        "",
        title + (" (served in training)" if served else ""),
        *(
            f"{name:<16}" + "".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True))
            for name, line in zip(("", *cells), lines, strict=True)
        ),
    ]


def _cell(report: EvalReport, row: str, column: _Column, network: str | None) -> str:
    value, interval = report.value(row, column.metric, network), report.interval(row, column.metric, network)
    if value is None:
        return "-"
    shown, ends = f"{value:{column.form}}", [f"{end:{column.form}}" for end in interval or ()]
    return f"{shown} [{' '.join(ends)}]" if set(ends) - {shown} else shown
