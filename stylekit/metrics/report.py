"""What an evaluation found: `eval.json`, and the same as a table to read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from stylekit.errors import DataError
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
RowName = Literal["stylized", "photo", "posterise", "colour-transfer"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class UsedAsset(_Record):
    """A file that took part in the measurement."""

    name: str
    role: str
    source: str
    sha256: str
    licence: str


class Conditions(_Record):
    """Everything that two evaluations must share for their figures to compare.

    Attributes:
        name: The protocol asked for; it holds only where `deviations` is empty.
        deviations: Where this evaluation differs from it.
        n: Held-out photographs, of `persons` persons.
        held_out_sha256: Which photographs those are, whatever the order.
        size_px: Crops and cartoons are resized to this side (area when shrinking), stylized and compared there in 8 bits.
        reference: Style of the cartoons; `reference_n` of them, listed in the manifest of that digest.
        extractors: Networks of KID and FID, each with its resize. The first leads: one that did not serve in training, if any.
        trained_on: The networks of this evaluation that also served in training as a loss; they flatter the stylized row.
        identity_centre: Mean embedding of the `identity_centre_n` photographs trained on.
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
    kid_subsets: int
    kid_subset_size: int
    resamples: int
    embedder: str
    identity_centre: list[float]
    identity_centre_n: int
    seed: int
    checkpoint_step: int
    checkpoint_sha256: str
    assets: list[UsedAsset]
    trained_on: list[str]


class Delta(_Record):
    """KID (x1000, all pictures at once) of the stylized pictures less that of the photographs; negative is nearer the style.

    Attributes:
        kid_x1000: The difference.
        paired_mean_x1000: Its mean when persons are resampled, the same for both.
        paired_std_x1000: Its standard deviation then.
        paired_spreads: The difference in units of `paired_std_x1000`: how sure it is that training moved towards the style.
        photo_spreads: The difference in units of the photographs' own spread over persons.
    """

    kid_x1000: float
    paired_mean_x1000: float
    paired_std_x1000: float
    paired_spreads: float
    photo_spreads: float


class Skipped(_Record):
    """A picture left out, and why."""

    file: str
    reason: str


class EvalReport(_Record):
    """One evaluation of one checkpoint.

    Attributes:
        rows: For each set of pictures its figures, under names that carry network, resize and count (`metric_name`).
        delta: For each of the protocol's extractors.
        notes: What a reader must know before comparing.
    """

    format_version: Literal[1] = 1
    style: str
    run: str
    protocol: Conditions
    rows: dict[RowName, dict[str, float]]
    delta: dict[str, Delta]
    notes: list[str]
    skipped: list[Skipped]

    def value(self, row: RowName, metric: str, network: str | None = None) -> float | None:
        """Return a figure by its short name (`kid_x1000`), None where it was not taken.

        Args:
            row: Which set of pictures.
            metric: The short name.
            network: Which network, as `protocol` names it; of KID and FID the leading extractor by default.
        """
        protocol = self.protocol
        networks = (network,) if network else (*protocol.extractors[:1], protocol.embedder)
        names = (metric_name(metric, each, protocol.n) for each in networks)
        return next((self.rows[row][name] for name in names if name in self.rows[row]), None)


def metric_name(metric: str, network: str, n: int) -> str:
    """Return the full name of a figure: `kid_x1000/efficientnet-lite0@224-bilinear-antialias/n16`."""
    return f"{metric}/{network}/n{n}"


def write_report(path: Path, report: EvalReport) -> None:
    """Write `eval.json` atomically.

    Raises:
        StylekitError: If it cannot be written.
    """
    atomic_write_text(path, report.model_dump_json(indent=2) + "\n")


def read_report(path: Path) -> EvalReport:
    """Read `eval.json`.

    Raises:
        DataError: If it is missing or not of this form.
    """
    try:
        return EvalReport.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}.", "Run: stylekit eval") from error
    except ValidationError as error:
        raise DataError(f"{path} is not an evaluation: {error.errors()[0]['msg']}.", "Run: stylekit eval") from error


_STYLE_COLUMNS = (
    ("KIDx1000", "kid_x1000", ".1f"),
    ("+-subsets", "kid_x1000_subset_std", ".1f"),
    ("+-persons", "kid_x1000_person_std", ".1f"),
    ("FID", "fid", ".1f"),
)
_IDENTITY_COLUMNS = (
    ("ID", "id_centred", ".3f"),
    ("ID raw", "id_raw", ".3f"),
    ("ID L2", "id_l2", ".3f"),
    ("rank-1", "id_rank_1", ".2f"),
)


def table(report: EvalReport) -> str:
    """Return the evaluation as plain text: the rows, the differences, what to know, and the paper's rows set apart."""
    conditions = report.protocol
    lead, *others = conditions.extractors
    lines = [
        f"{report.style}, step {conditions.checkpoint_step}, protocol {conditions.name}"
        + (" (deviating)" if conditions.deviations else ""),
        f"{conditions.n} held-out photographs of {conditions.persons} persons against {conditions.reference_n} cartoons, "
        f"{conditions.size_px} px; ID on {conditions.embedder}",
        *_block(report, lead, (*_STYLE_COLUMNS, *_IDENTITY_COLUMNS)),
        *(line for other in others for line in _block(report, other, _STYLE_COLUMNS)),
        "",
        *(f"deviates from {conditions.name}: {deviation}" for deviation in conditions.deviations),
        *(f"note: {note}" for note in report.notes),
        *(f"left out: {skipped.file}: {skipped.reason}" for skipped in report.skipped),
        "",
        f"Published ({PAPER_PROTOCOL})",
        f"{'':<16}{'FID':>11}{'ID':>11}",
        *(f"{method:<16}{fid:>11.2f}{identity:>11.2f}" for method, (fid, identity) in PAPER_ROWS.items()),
    ]
    return "\n".join(lines)


def _block(report: EvalReport, extractor: str, columns: Sequence[tuple[str, str, str]]) -> list[str]:
    """Return the rows with KID and FID of one extractor, and how far stylized lies from photo."""
    served = [use for use in report.protocol.trained_on if use.partition(":")[0] == extractor.partition("@")[0]]
    delta = report.delta[extractor]
    lines = [
        "",
        f"KID and FID on {extractor}" + (" (served in training)" if served else ""),
        f"{'':<16}" + "".join(f"{heading:>11}" for heading, _, _ in columns),
    ]
    for row in report.rows:
        own = {metric: report.value(row, metric, extractor) for _, metric, _ in _STYLE_COLUMNS}
        cells = (_cell(own.get(metric, report.value(row, metric)), form) for _, metric, form in columns)
        lines.append(f"{row:<16}" + "".join(f"{cell:>11}" for cell in cells))
    return [
        *lines,
        f"stylized less photo: KIDx1000 {delta.kid_x1000:+.1f}, paired over persons {delta.paired_mean_x1000:+.1f} +- "
        f"{delta.paired_std_x1000:.1f} ({delta.paired_spreads:+.1f} spreads; {delta.photo_spreads:+.1f} of the photographs' own)",
    ]


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
