"""What a data set holds, whether that is enough, and what would help. `page.py` draws it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

import numpy as np
from pydantic import ValidationError

from stylekit.config.schema import AlignRecipe
from stylekit.data.advice import Advice, advise, headline, is_duplicate, reason_kind, stage
from stylekit.data.appearance import UNLIKE
from stylekit.data.balance import Figure, figures
from stylekit.data.entries import Entry, stream_entries
from stylekit.data.manifest import Kind
from stylekit.data.rules import STAGES
from stylekit.errors import DataError

Element = TypeVar("Element")

SETTINGS = "align.json"
"""What a data set was aligned with: the recipe's section `align`, beside the manifest."""

_SHEET = 24
_PER_REASON = 8
_CLUSTERS = 12
_PER_CLUSTER = 6
_UNLIKE_SHOWN = 16
_LISTED = 200


@dataclass(frozen=True)
class Shown:
    """A picture to show: its file relative to the set's folder, and what stands below it."""

    file: str
    caption: str


@dataclass(frozen=True)
class Gallery:
    """Some pictures with something in common.

    Attributes:
        name: Which gallery: `best`, `poorest`, `sample`, `unlike`, or a reason to leave pictures out.
        title: Its heading.
        count: How many pictures there are; `pictures` may be a sample.
        pictures: Those to show.
    """

    name: str
    title: str
    count: int
    pictures: tuple[Shown, ...]


@dataclass(frozen=True)
class Provenance:
    """Where pictures come from, on what terms, and how many they are."""

    source: str
    licence: str | None
    attribution: str | None
    count: int


@dataclass(frozen=True)
class SetReport:
    """All that the page says.

    Attributes:
        folder: The data set.
        kind: What its pictures are.
        headline: The whole in one sentence.
        stage: What the number of pictures is enough for.
        advice: What to do, the weightiest first.
        used: Crops ready for training.
        rejected: Faces and pictures left out, near-duplicates among them.
        near_duplicates: Crops left out because they repeat another.
        unreadable: The first 200 files that are not pictures, with what is wrong with them.
        unreadable_count: How many there are.
        persons: Persons, where they were told apart.
        held_out_persons: Those of them held out for evaluation.
        train: Used crops of the split train.
        held_out: Used crops of the split eval.
        reasons: How often each reason to leave something out came up.
        figures: What was measured, in the order to show it.
        not_measured: Titles of figures that the manifest says nothing of.
        sheets: Used crops: photographs the best and the poorest, cartoons a sample; and those unlike the others.
        left_out: Crops and pictures left out, by reason.
        clusters: Near-duplicates: each the one that was kept and those that repeat it, the largest first.
        cluster_count: How many clusters there are.
        origins: Where the used pictures come from.
        limits: The limits in force: recipe key and value; empty if they are not known.
    """

    folder: Path
    kind: Kind
    headline: str
    stage: str
    advice: tuple[Advice, ...]
    used: int
    rejected: int
    near_duplicates: int
    unreadable: dict[str, str]
    unreadable_count: int
    persons: int
    held_out_persons: int
    train: int
    held_out: int
    reasons: dict[str, int]
    figures: tuple[Figure, ...]
    not_measured: tuple[str, ...]
    sheets: tuple[Gallery, ...]
    left_out: tuple[Gallery, ...]
    clusters: tuple[tuple[Shown, ...], ...]
    cluster_count: int
    origins: tuple[Provenance, ...]
    limits: dict[str, str]


def report(folder: Path) -> SetReport:
    """Judge an aligned data set by its manifest.

    Args:
        folder: The data set, with `manifest.jsonl` and, for the limits, `align.json`.

    Raises:
        DataError: If there is no manifest, or a damaged one.
    """
    if not (folder / "manifest.jsonl").is_file():
        raise no_data_set(folder)
    lines = list(stream_entries(folder / "manifest.jsonl"))
    used = [line for line in lines if line.status == "used" and line.file]
    rejected = [line for line in lines if line.status == "rejected"]
    unreadable = [line for line in lines if line.status == "unreadable"]
    held_out = [line for line in used if line.held_out]
    kind = _kind(folder, used)
    shown, not_measured = figures(used, kind)
    clusters = _clusters(used, rejected)
    reasons = Counter(reason_kind(reason) for line in rejected for reason in line.reasons)
    return SetReport(
        folder=folder,
        kind=kind,
        headline=headline(lines, kind, shown),
        stage=STAGES[kind][stage(len(used), kind)][1],
        advice=advise(lines, kind, shown),
        used=len(used),
        rejected=len(rejected),
        near_duplicates=sum(map(is_duplicate, rejected)),
        unreadable={line.input: (line.reasons or ["unreadable"])[0] for line in unreadable[:_LISTED]},
        unreadable_count=len(unreadable),
        persons=len({line.person for line in used if line.person}),
        held_out_persons=len({line.person for line in held_out if line.person}),
        train=len(used) - len(held_out),
        held_out=len(held_out),
        reasons=dict(reasons.most_common()),
        figures=shown,
        not_measured=not_measured,
        sheets=_sheets(used, kind),
        left_out=_left_out(rejected, reasons),
        clusters=clusters[:_CLUSTERS],
        cluster_count=len(clusters),
        origins=tuple(Provenance(*source, n) for source, n in Counter(line.source for line in used).most_common()),
        limits=_limits(folder, kind),
    )


def no_data_set(folder: Path) -> DataError:
    """Return the error that says that a folder is no aligned data set; its hint names one beside it with a like name."""
    beside = [place.parent for place in sorted(folder.absolute().parent.glob("*/manifest.jsonl"))]
    likely = get_close_matches(folder.name, [place.name for place in beside], n=1)
    hint = f"Did you mean {folder.with_name(likely[0])}?" if likely else ""
    return DataError(
        f"There is no aligned data set at {folder}.",
        hint or "Make one with stylekit gen-data or stylekit align, or name its folder.",
    )


def _kind(folder: Path, used: Sequence[Entry]) -> Kind:
    if used:
        return "photo" if str(used[0].file).startswith("cropped/") else "cartoon"
    return "photo" if (folder / "cropped").is_dir() else "cartoon"


def _score(line: Entry) -> float:
    """Return what photographs are ranked by: the face's score, where it is not known its sharpness and size."""
    quality = line.quality
    return quality.get("face_score", quality.get("sharpness", 0.0) * quality.get("face_px", 0.0) * 1e-9)


def _spread(items: Sequence[Element], count: int) -> list[Element]:
    """Return at most so many of the items, evenly spread."""
    return [items[place] for place in np.linspace(0, len(items) - 1, min(len(items), count)).astype(int)]


def _show(line: Entry, caption: str = "") -> Shown:
    return Shown(line.file or "", caption)


def _sheets(used: Sequence[Entry], kind: Kind) -> tuple[Gallery, ...]:
    """Return photographs by rank, and a sample of cartoons: the score was made for photographs and belittles dark drawings."""
    if kind == "cartoon":
        sheets = [Gallery("sample", "A sample", len(used), tuple(map(_show, _spread(used, 2 * _SHEET))))]
    else:
        ranked = sorted(used, key=lambda line: (-_score(line), line.file))
        shown = [_show(line, f"{line.quality['face_score']:.2f}" if "face_score" in line.quality else "") for line in ranked]
        if len(shown) <= 2 * _SHEET:
            sheets = [Gallery("best", "All of them, the best first", len(shown), tuple(shown))]
        else:
            sheets = [
                Gallery("best", "The best", len(shown), tuple(shown[:_SHEET])),
                Gallery("poorest", "The poorest, the poorest last", len(shown), tuple(shown[-_SHEET:])),
            ]
    unlike = sorted(
        (line for line in used if line.quality.get("outlier", 0.0) > UNLIKE), key=lambda line: -line.quality["outlier"]
    )
    if unlike:
        pictures = tuple(_show(line, f"{line.quality['outlier']:.1f}") for line in unlike[:_UNLIKE_SHOWN])
        sheets.append(Gallery("unlike", "Unlike the others, the most unlike first", len(unlike), pictures))
    return tuple(sheets)


def _left_out(rejected: Sequence[Entry], reasons: Counter[str]) -> tuple[Gallery, ...]:
    by_reason: dict[str, list[Shown]] = defaultdict(list)
    for line in rejected:
        for reason in line.reasons:
            if line.file and not reason.startswith("near-duplicate"):
                by_reason[reason_kind(reason)].append(_show(line, reason))
    galleries = []
    for reason, count in reasons.most_common():
        if pictures := by_reason[reason]:
            galleries.append(Gallery(reason, reason, count, tuple(_spread(pictures, _PER_REASON))))
    return tuple(galleries)


def _clusters(used: Sequence[Entry], rejected: Sequence[Entry]) -> tuple[tuple[Shown, ...], ...]:
    repeated: dict[str, list[Entry]] = defaultdict(list)
    for line in rejected:
        for reason in line.reasons:
            if reason.startswith("near-duplicate: ") and line.file:
                repeated[reason.partition(": ")[2]].append(line)
    kept = {line.input: line for line in reversed(used) if line.input in repeated}
    return tuple(
        (_show(kept[name], "kept"), *map(_show, lines[:_PER_CLUSTER]))
        for name, lines in sorted(repeated.items(), key=lambda item: (-len(item[1]), item[0]))
        if name in kept
    )


def _limits(folder: Path, kind: Kind) -> dict[str, str]:
    """Return the settings that decided about this kind of picture; none if they were not written down."""
    try:
        recipe = AlignRecipe.model_validate_json((folder / SETTINGS).read_bytes())
    except (OSError, ValidationError):
        return {}
    said = {
        "align.landmarks": recipe.landmarks,
        "align.template": recipe.template,
        "align.size": f"{recipe.size} px",
        "align.faces": recipe.faces,
        "align.min_face_px": f"{recipe.min_face_px} px",
    }
    if kind == "photo":
        said |= {"align.min_sharpness": f"{recipe.min_sharpness:g}", "align.max_yaw_deg": f"{recipe.max_yaw_deg:g}°"}
    return said
