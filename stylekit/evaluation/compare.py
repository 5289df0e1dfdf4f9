"""Measure several runs, or folders of pictures made by any other tool, under one protocol."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from stylekit.config.load import style_recipe
from stylekit.config.schema import Recipe
from stylekit.data.datasets import is_described, used_crops
from stylekit.data.shards import photo_set
from stylekit.engine.selection import served_in_training
from stylekit.errors import DataError, ImageError, UsageError
from stylekit.evaluation.bench import Bench, Maker, as_they_are, open_bench, pictures_of_folder, square
from stylekit.evaluation.comparison import (
    FLOORED,
    PUBLISHED,
    ComparedRow,
    Comparison,
    Cost,
    Preference,
    markdown,
)
from stylekit.evaluation.comparison_page import pareto_svg, render_comparison
from stylekit.evaluation.evaluate import settings_with
from stylekit.evaluation.figures import KID_SCALE, RowFigures
from stylekit.evaluation.makers import network_maker
from stylekit.evaluation.split import split_deviations
from stylekit.evaluation.trivial import COPIES, FILTERS, UNTRAINED, TrivialRows
from stylekit.images import Rgb, to_tensor, write_image
from stylekit.metrics.measure import Arrays
from stylekit.metrics.persons import interval_of
from stylekit.metrics.protocol import Protocol, find_photographs, fitting_protocol, load_protocol, read_photographs
from stylekit.metrics.report import Skipped
from stylekit.nn.device import find_device
from stylekit.paths import Workspace, atomic_write_text, slug
from stylekit.preference.entries import OpenEntry, open_entry
from stylekit.preference.result import find_preferences, studies_elsewhere
from stylekit.progress import Progress, silent

COMPARISON, PAGE, MARKDOWN, PARETO = "compare.json", "compare.html", "compare.md", "pareto.svg"
_SHOWN, _SHOWN_PX = 6, 256
_ROUNDS = 7

T = TypeVar("T")
Differences = dict[str, dict[str, tuple[float, float, float]]]


@dataclass(frozen=True, eq=False)
class _Row:
    """A row on its way: what it is, what it measured, and the network that made it."""

    name: str
    kind: str
    source: str
    make: Maker
    arrays: Arrays
    entry: OpenEntry | None = None


@torch.random.fork_rng(devices=[])  # networks draw first weights when they are built
def compare(
    entries: Sequence[str | Path] = (),
    *,
    workspace: Workspace | None = None,
    style: str | None = None,
    extractors: Sequence[str] | None = None,
    embedders: Sequence[str] | None = None,
    protocol: str | None = None,
    photos: str | None = None,
    paper: bool = False,
    output: Path | None = None,
    batch_size: int = 16,
    device: str | None = None,
    progress: Progress = silent,
) -> Comparison:
    """Measure runs and folders of pictures beside six rows that need no training, all under one protocol.

    Writes `compare.json`, `compare.html`, `compare.md`, `pareto.svg` and the pictures they show.

    Args:
        entries: Runs, checkpoints, style bundles, and folders of pictures that another tool made of the held-out photographs,
            each named as the photograph's crop is; every trained run of the style by default.
        workspace: Where the data sets and runs lie; the working folder by default.
        style: Whose cartoons are the reference; the runs' own style by default.
        extractors: Networks of KID and FID, in place of the recipe's.
        embedders: Networks of the identity figures, in place of the recipe's.
        protocol: Name of the protocol; the one that fits the photographs by default.
        photos: Where the photographs come from; the source of the first run's recipe by default.
        paper: Show the rows that DCT-Net's model card published, as another protocol.
        output: Folder for the files; `work_dirs/comparisons/<style>/` by default.
        batch_size: Pictures measured at once; changes no figure.
        device: Where networks run; the best there is by default.
        progress: Shows how far it is.

    Raises:
        UsageError: If an entry is nothing of this kind, or the runs are of several styles and none was named.
        DataError: If a data set is missing or too small, a folder has no usable picture of a photograph (the message names every
            one), or a held-out photograph served to train one of the runs.
        CheckpointError: If a run has no sound checkpoint.
        AssetError: If a network is missing.
    """
    workspace = workspace or Workspace()
    opened, repeated = _open(entries or _runs_of(workspace, style or workspace.current_style()), workspace)
    recipes = [each.meta.recipe for each in opened if each.meta is not None]
    style = style or _style_of(recipes, workspace)
    recipe = recipes[0] if recipes else style_recipe(style, workspace=workspace)
    served = {name for each in opened if each.meta for name in served_in_training(each.meta.recipe, each.meta.assets)}
    settings = settings_with(recipe.eval, extractors, embedders)
    settings = settings.model_copy(update={"extractors": tuple(sorted(settings.extractors, key=served.__contains__))})
    bench = open_bench(
        workspace,
        style,
        settings,
        photos=photos,
        own_photos=recipe.photos.source,
        protocol=protocol,
        batch_size=batch_size,
        device=device,
        progress=progress,
    )
    _refuse_known(bench, recipes, workspace)
    place = str(find_device(device))
    rows = [_measured(bench, each, place) for each in opened]
    trivial = TrivialRows(bench, recipe)
    for name in TrivialRows.names:
        row = trivial[name]
        rows.append(_Row(name, "trivial", row.source, row.make, bench.measure(row.make, row.key, name)))
    folder = output or folder_of(style, workspace)
    comparison = _comparison(
        bench,
        rows,
        workspace,
        folder=folder,
        device=place,
        paper=paper,
        served=served & set(settings.extractors),
        split=split_deviations(
            {each.entry.label: each.meta for each in opened if each.meta is not None}, bench.photos.source, workspace
        ),
        notes=repeated,
    )
    atomic_write_text(folder / COMPARISON, comparison.model_dump_json(indent=1) + "\n")
    atomic_write_text(folder / MARKDOWN, markdown(comparison))
    atomic_write_text(folder / PARETO, pareto_svg(comparison))
    atomic_write_text(folder / PAGE, render_comparison(comparison, folder))
    return comparison


def folder_of(style: str, workspace: Workspace | None = None) -> Path:
    """Return where a style's comparison lies: `work_dirs/comparisons/<style>/`."""
    return (workspace or Workspace()).runs / "comparisons" / style


@dataclass(frozen=True)
class WrittenPhotographs:
    """The held-out photographs' crops as files.

    Attributes:
        files: What was written.
        skipped: Crops that cannot be read.
    """

    files: list[Path]
    skipped: list[Skipped]


def export_photographs(
    folder: Path,
    *,
    workspace: Workspace | None = None,
    style: str | None = None,
    protocol: str | None = None,
    photos: str | None = None,
) -> WrittenPhotographs:
    """Write the held-out photographs' crops, for another tool to stylize; its pictures keep their names.

    Args:
        folder: Where to.
        workspace: Where the data sets lie; the working folder by default.
        style: Whose recipe names the photographs; the current style by default.
        protocol: As of `compare`.
        photos: As of `compare`.

    Raises:
        DataError: If a data set is missing or too small.
        UsageError: If no style is named.
    """
    workspace = workspace or Workspace()
    style = style or _style_of([], workspace)
    recipe = style_recipe(style, workspace=workspace)
    own = photo_set(recipe.photos.source, workspace)
    found = find_photographs(photos, workspace, own=recipe.photos.source)
    _, held_out = read_photographs(found, load_protocol(protocol) if protocol else fitting_protocol(found), own=own)
    done = WrittenPhotographs([], [])
    for line in held_out.lines:
        try:
            crop = held_out.read(line)
        except ImageError as error:
            done.skipped.append(Skipped(file=str(line.file), reason=error.message))
        else:
            done.files.append(folder / f"{Path(str(line.file)).stem}.png")
            write_image(done.files[-1], crop)
    return done


def _runs_of(workspace: Workspace, style: str | None) -> list[Path]:
    found = [run for run in workspace.run_folders(style) if any((run / "checkpoints").glob("*"))]
    if not found:
        of_style = f" of the style {style}" if style else ""
        raise UsageError(
            f"{workspace.runs} has no trained run{of_style} to compare.",
            "Name runs or folders of pictures: stylekit compare RUN FOLDER",
        )
    return found


def _open(entries: Sequence[str | Path], workspace: Workspace) -> tuple[list[OpenEntry], list[str]]:
    """Return the entries, each of its own name, and which were left out because another is the same, one sentence each."""
    opened: dict[str, OpenEntry] = {}
    notes = []
    for name in entries:
        entry = open_entry(name, workspace)
        first = opened.setdefault(entry.entry.digest, entry)
        if first is not entry:
            notes.append(f"{name} is the same as {first.entry.source} and stands in the table once.")
    labels = [*TrivialRows.names, *(each.entry.label for each in opened.values())]
    return [each if labels.count(each.entry.label) == 1 else _told_apart(each) for each in opened.values()], notes


def _told_apart(opened: OpenEntry) -> OpenEntry:
    label = f"{opened.entry.source} ({opened.entry.kind})"
    return replace(opened, entry=opened.entry.model_copy(update={"label": label}))


def _style_of(recipes: Sequence[Recipe], workspace: Workspace) -> str:
    styles = sorted({recipe.style for recipe in recipes})
    if len(styles) > 1:
        raise UsageError(f"These runs are of several styles: {', '.join(styles)}.", "Name whose cartoons to measure by: --style")
    if styles:
        return styles[0]
    current = workspace.current_style()
    if current is None:
        raise UsageError("There is no style to measure by.", "Name one: --style NAME")
    return current


def _refuse_known(bench: Bench, recipes: Sequence[Recipe], workspace: Workspace) -> None:
    """Refuse held-out photographs that one of the runs was trained with."""
    held_out = {str(line.input_sha256): str(line.file) for line in bench.photos.lines}
    for source in dict.fromkeys(recipe.photos.source for recipe in recipes):
        folder = photo_set(source, workspace)
        known = (
            {str(line.input_sha256) for line, _ in used_crops(folder) if line.split != "eval"} if is_described(folder) else set()
        )
        if shared := sorted(str(held_out[digest]) for digest in known & held_out.keys()):
            raise DataError(
                f"{len(shared)} of the held-out photographs, first {shared[0]}, served to train on {source}.",
                "Compare on photographs that no run has seen: --photos SOURCE",
            )


def _measured(bench: Bench, opened: OpenEntry, device: str) -> _Row:
    entry = opened.entry
    if opened.network is None:
        make, key = pictures_of_folder(Path(entry.source), bench.photos)
    else:
        make, key = network_maker(opened.network, opened.size, entry.digest, device)
    return _Row(
        entry.label,
        "folder" if entry.kind == "folder" else "run",
        entry.source,
        make,
        bench.measure(make, key, entry.label),
        opened,
    )


def _comparison(
    bench: Bench,
    rows: Sequence[_Row],
    workspace: Workspace,
    *,
    folder: Path,
    device: str,
    paper: bool,
    served: set[str],
    split: Sequence[str],
    notes: Sequence[str],
) -> Comparison:
    figures = {row.name: bench.figures(row.arrays) for row in rows}
    by_extractor = {extractor: _differences(figures, extractor) for extractor in bench.extractors}
    against = by_extractor[bench.extractors[0]]
    floors = bench.protocol.floors.model_dump()
    short = {name: _short(bench, found.values) for name, found in figures.items()}
    above = {name: all(short[name].get(key, -np.inf) >= least for key, least in floors.items()) for name in short}
    rivals = [row.name for row in rows if row.kind == "trivial" and above[row.name]]
    costs = _costs(rows, device)
    digests = {row.name: row.entry.entry.digest for row in rows if row.entry is not None}
    shown_crops = set(bench.photos.digests)
    preferences = find_preferences(workspace, set(digests.values()), shown_crops)
    photographs, pictures = _write_pictures(bench, rows, folder)
    compared = []
    for row in rows:
        better = [other for other in against[row.name] if all(each[row.name][other][2] < 0 for each in by_extractor.values())]
        reasons = [] if row.kind == "trivial" else _reasons(short[row.name], floors, rivals, better)
        compared.append(
            ComparedRow(
                name=row.name,
                kind=row.kind,
                source=row.source,
                figures=short[row.name],
                intervals=_short(bench, figures[row.name].intervals),
                against=against[row.name],
                better_than=better,
                above_floors=above[row.name],
                good=None if row.kind == "trivial" else not reasons,
                reasons=reasons,
                cost=costs.get(row.name),
                preferences={
                    column: Preference(share=each.share, low=each.low, high=each.high, votes=each.votes)
                    for column, each in preferences.get(digests.get(row.name, ""), {}).items()
                    if column.startswith("pref_")
                },
                pictures=pictures[row.name],
            )
        )
    return Comparison(
        style=bench.style,
        protocol=bench.conditions(split),
        floors=floors,
        rows=compared,
        weaknesses=_weaknesses(bench.protocol, short, rivals, compared),
        published=list(PUBLISHED) if paper else [],
        photographs=photographs,
        notes=[
            *notes,
            *bench.notes,
            *bench.disagreements({row.name: row.arrays for row in rows}),
            *_contradicted(rows, by_extractor),
            *studies_elsewhere(workspace, set(digests.values()), shown_crops),
            *([f"Also served in training, which flatters the runs: {', '.join(sorted(served))}."] if served else []),
        ],
        skipped=bench.skipped,
    )


def _short(bench: Bench, by_name: Mapping[str, T]) -> dict[str, T]:
    """Return the figures of the leading networks, and of none, by short name."""
    leading = {bench.extractors[0], bench.embedders[0]}
    found: dict[str, T] = {}
    for name, value in by_name.items():
        metric, *network, _ = name.split("/")
        if not network or network[0] in leading:
            found[metric] = value
    return found


def _differences(figures: Mapping[str, RowFigures], extractor: str) -> Differences:
    """Return KID (x1000) of every row less that of every other by an extractor, the same persons drawn for both."""
    of = {name: row.kids[extractor] for name, row in figures.items()}
    found: Differences = {}
    for one, (value, draws) in of.items():
        found[one] = {}
        for other, (other_value, other_draws) in of.items():
            if one != other:
                difference = value - other_value
                low, high = interval_of(draws - other_draws, difference)
                found[one][other] = (KID_SCALE * difference, KID_SCALE * low, KID_SCALE * high)
    return found


def _contradicted(rows: Sequence[_Row], by_extractor: Mapping[str, Differences]) -> list[str]:
    """Return where another extractor puts two of the compared rows, beyond doubt, the other way round than the leading one."""
    leading, *others = by_extractor
    return [
        f"Extractors disagree: {one.name} is nearer to the style than {two.name} by {leading}, and further by {extractor}, each "
        "beyond doubt."
        for extractor in others
        for one, two in permutations([row for row in rows if row.kind != "trivial"], 2)
        if by_extractor[leading][one.name][two.name][2] < 0 < by_extractor[extractor][one.name][two.name][1]
    ]


def _reasons(
    figures: Mapping[str, float], floors: Mapping[str, float], rivals: Sequence[str], better: Sequence[str]
) -> list[str]:
    reasons = [
        f"{FLOORED.get(key, key)} {figures.get(key, float('nan')):.2f}, below the floor of {least:g}"
        for key, least in floors.items()
        if not figures.get(key, -np.inf) >= least
    ]
    unbeaten = ", ".join(rival for rival in rivals if rival not in better)
    return [*reasons, *([f"not beyond doubt nearer to the style than {unbeaten}"] if unbeaten else [])]


def _weaknesses(
    protocol: Protocol, figures: Mapping[str, Mapping[str, float]], rivals: Sequence[str], compared: Sequence[ComparedRow]
) -> list[str]:
    """Return what shows that the protocol is too weak, one sentence each; `rivals` are the trivial rows above its floors."""
    least = protocol.floors.id_recognised
    found = [
        f"{name} reaches the identity floor: recognised {figures[name]['id_recognised']:.2f}, floor {least:g}."
        for name in COPIES
        if figures[name]["id_recognised"] >= least
    ]
    if figures["photo"]["id_recognised"] < least:
        found.append("The embedder does not tell these people apart: the photographs themselves are below the identity floor.")
    measured = {row.name for row in compared if row.kind != "trivial"}
    found += [
        f"{name}, which learned nothing, is above the floors, and beyond doubt nearer to the style than everything compared."
        for row in compared
        if (name := row.name) in (*FILTERS, UNTRAINED) and name in rivals and measured <= set(row.better_than)
    ]
    return found


def _costs(rows: Sequence[_Row], device: str) -> dict[str, Cost]:
    """Return what every network costs; they take turns, so that what else the machine does meets all of them."""
    networks = {row.name: row.entry for row in rows if row.entry is not None and row.entry.network is not None}
    times: dict[str, list[float]] = {name: [] for name in networks}
    for number in range(_ROUNDS + 1):
        for name, entry in networks.items():
            assert entry.network is not None
            seconds = _timed(entry.network, entry.size, device)
            if number:  # the first warms up
                times[name].append(seconds)
    return {
        name: Cost(
            milliseconds=1000 * statistics.median(times[name]),
            size_px=entry.size,
            megabytes=2e-6 * sum(p.numel() for p in entry.network.parameters()) if entry.network else 0.0,
            device=device,
        )
        for name, entry in networks.items()
    }


@torch.inference_mode()
def _timed(network: nn.Module, size: int, device: str) -> float:
    picture = to_tensor(np.zeros((size, size, 3), np.uint8)).to(device)
    began = time.perf_counter()
    network(picture).cpu()
    return time.perf_counter() - began


def _write_pictures(bench: Bench, rows: Sequence[_Row], folder: Path) -> tuple[list[str], dict[str, list[str]]]:
    """Write some photographs, and what each row makes of them; return the files relative to `folder`."""
    shown = [int(index) for index in np.linspace(0, bench.n - 1, min(bench.n, _SHOWN)).round()]
    names = [f"pictures/photograph-{number}.jpg" for number in range(len(shown))]
    for index, name in zip(shown, names, strict=True):
        write_image(folder / name, _at_shown_size(bench.photos.read(index)))
    found: dict[str, list[str]] = {}
    for place, row in enumerate(rows):
        if row.make is as_they_are:
            found[row.name] = names
            continue
        found[row.name] = [f"pictures/{place}-{slug(row.name)}-{number}.jpg" for number in range(len(shown))]
        for name, picture in zip(found[row.name], bench.pictures(row.make, shown), strict=True):
            write_image(folder / name, _at_shown_size(picture))
    return names, found


def _at_shown_size(picture: Rgb) -> Rgb:
    return square(picture, _SHOWN_PX)
