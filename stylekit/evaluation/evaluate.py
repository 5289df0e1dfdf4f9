"""Measure a trained generator on photographs of people it never saw."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from pydantic import ValidationError

from stylekit.config.schema import EvalRecipe
from stylekit.data.shards import photo_set
from stylekit.engine.checkpoint import WEIGHTS, chosen_checkpoint, describe_checkpoint, load_generator, newest_run, read_meta
from stylekit.engine.page import update_run_page
from stylekit.engine.selection import served_in_training
from stylekit.errors import CheckpointError, DataError, UsageError
from stylekit.evaluation.bench import Bench, Maker, measured_with, open_bench
from stylekit.evaluation.figures import RowFigures
from stylekit.evaluation.makers import network_maker
from stylekit.evaluation.sheets import captioned_sheet, pair_sheet
from stylekit.evaluation.split import split_deviations
from stylekit.evaluation.trivial import FILTERS, TrivialRows
from stylekit.images import write_image
from stylekit.metrics.measure import Arrays
from stylekit.metrics.pictures import worst_pictures, write_pictures
from stylekit.metrics.protocol import (
    find_photographs,
    fitting_protocol,
    load_protocol,
    read_cartoons,
    read_photographs,
    same_protocol,
)
from stylekit.metrics.report import (
    Delta,
    EvalReport,
    MeasuredNetwork,
    WorstPicture,
    read_report,
    shared_networks,
    write_report,
)
from stylekit.nn.device import find_device
from stylekit.paths import Workspace, sha256_bytes
from stylekit.progress import Progress, silent

EVAL_FILE, PICTURES_FILE, SHEET_FILE, WORST_FILE = "eval.json", "eval_pictures.csv", "eval_sheet.jpg", "eval_worst.jpg"
_SHEET_PAIRS = 24
_WORST = 10
_FEW = 100  # docs/perturbations.md: of 15 real cartoons coverage is 0.28, of 117 it is 0.97


@torch.random.fork_rng(devices=[])  # networks draw first weights when they are built
def evaluate(
    run: Path | None = None,
    *,
    workspace: Workspace | None = None,
    style: str | None = None,
    settings: EvalRecipe | None = None,
    extractors: Sequence[str] | None = None,
    embedders: Sequence[str] | None = None,
    protocol: str | None = None,
    photos: str | None = None,
    output: Path | None = None,
    batch_size: int = 16,
    device: str | None = None,
    progress: Progress = silent,
) -> EvalReport:
    """Measure a checkpoint on the held-out photographs.

    Writes `eval.json`, `eval_pictures.csv` (every figure of every stylized picture), `eval_sheet.jpg` (photo | stylized) and
    `eval_worst.jpg` (the ten worst, with why). The photographs themselves and two filters are measured beside it.

    Args:
        run: A run or checkpoint folder; the newest run of the style by default.
        workspace: Where the data sets and runs lie; the working folder by default.
        style: Whose cartoons are the reference; the run's own style by default, and without a run the current style.
        settings: Extractors, embedders and KID subsets; the run's recipe by default.
        extractors: Networks of KID and FID, in place of the settings'.
        embedders: Networks of the identity figures, in place of the settings'.
        protocol: Name of the protocol, the one that fits the photographs by default; deviations from it are listed, not refused.
        photos: Where the photographs come from; the source of the run's recipe by default.
        output: Folder for the files; by default `report_folder` of the run.
        batch_size: Pictures seen at once; changes no figure.
        device: Where networks run; the best there is by default.
        progress: Shows how far it is.

    Raises:
        DataError: If there is no run, or a data set is missing, too small, or has a person in both splits.
        CheckpointError: If the run has no sound checkpoint.
        AssetError: If a network is missing.
        UsageError: If there is no such network, protocol or device.
    """
    workspace = workspace or Workspace()
    run = run or _trained_run(workspace, style or workspace.current_style())
    generator = load_generator(run)
    settings = settings_with(settings or generator.recipe.eval, extractors, embedders)
    trainers = served_in_training(generator.recipe, generator.meta.assets)
    style = style or generator.recipe.style
    bench = open_bench(
        workspace,
        style,
        settings.model_copy(update={"extractors": tuple(sorted(settings.extractors, key=trainers.__contains__))}),
        photos=photos,
        own_photos=generator.recipe.photos.source,
        protocol=protocol,
        batch_size=batch_size,
        device=device,
        progress=progress,
    )
    make = network_maker(generator.module, generator.recipe.train.size, generator.sha256, str(find_device(device)))
    arrays = {"stylized": bench.measure(*make, "stylized"), "photo": bench.photo}
    trivial = TrivialRows(bench, generator.recipe)
    arrays |= {name: bench.measure(trivial[name].make, trivial[name].key, name) for name in FILTERS}
    figures = {title: bench.figures(row) for title, row in arrays.items()}
    served = [f"{name}: {purpose}" for name in (*settings.embedders, *settings.extractors) for purpose in trainers.get(name, ())]
    folder = output or report_folder(run)
    split = split_deviations({"the run": generator.meta}, bench.photos.source, workspace)
    report = EvalReport(
        style=style,
        run=run_folder(run).name,
        protocol=bench.conditions(split),
        network=MeasuredNetwork(
            step=generator.step, sha256=generator.sha256, size_px=generator.recipe.train.size, trained_on=served
        ),
        rows={title: row.values for title, row in figures.items()},
        intervals={title: row.intervals for title, row in figures.items()},
        delta=_deltas(bench, arrays["stylized"], arrays["photo"]),
        notes=[*bench.notes, *_notes(bench, served), *bench.disagreements(arrays)],
        skipped=bench.skipped,
        worst=_write_pictures(folder, bench, make[0], figures["stylized"]),
        made_from=asked_for(run, workspace, style=style, settings=settings, protocol=protocol, photos=photos),
    )
    write_report(folder / EVAL_FILE, report)
    if folder == run_folder(run):
        update_run_page(folder)
    return report


def asked_for(
    run: Path,
    workspace: Workspace,
    *,
    style: str | None = None,
    settings: EvalRecipe | None = None,
    protocol: str | None = None,
    photos: str | None = None,
) -> str:
    """Return a digest of all that an evaluation depends on, as `EvalReport.made_from` keeps it; arguments as of `evaluate`.

    Raises:
        StylekitError: As `evaluate` does of what is missing.
    """
    meta = read_meta(chosen_checkpoint(run))
    own = meta.recipe.photos.source
    folder = find_photographs(photos, workspace, own=own)
    rules = load_protocol(protocol) if protocol else fitting_protocol(folder)
    sets = (
        *read_photographs(folder, rules, own=photo_set(own, workspace)),
        read_cartoons(workspace.style(style or meta.recipe.style)),
    )
    depends = [
        meta.sha256[WEIGHTS],
        meta.recipe.train.size,
        rules.model_dump(mode="json"),
        (settings or meta.recipe.eval).model_dump(mode="json"),
        [(each.digest, each.manifest_sha256) for each in sets],
        split_deviations({"the run": meta}, sets[1], workspace),
        measured_with(settings or meta.recipe.eval),
    ]
    return sha256_bytes(json.dumps(depends, sort_keys=True).encode())


def read_reports(files: Sequence[Path]) -> list[EvalReport]:
    """Read several evaluations for one table.

    Raises:
        DataError: If one cannot be read, or two were taken under different conditions; the message names what differs.
    """
    reports = [read_report(file) for file in files]
    require_one_protocol(reports)
    return reports


def require_one_protocol(reports: Sequence[EvalReport]) -> None:
    """Refuse to put evaluations into one table that were taken under different conditions.

    Raises:
        DataError: If two differ, or all have no network in common; the message names what.
    """
    for one, other in combinations(reports, 2):
        if differences := same_protocol(one.protocol, other.protocol):
            raise DataError(
                f"The figures of {one.run} and {other.run} do not compare: {'; '.join(differences)}.",
                "Measure both under one protocol: stylekit eval --run RUN --protocol NAME",
            )
    shared_networks(reports)


def settings_with(
    settings: EvalRecipe, extractors: Sequence[str] | None = None, embedders: Sequence[str] | None = None
) -> EvalRecipe:
    """Return settings with other networks, where some are named.

    Raises:
        UsageError: If there is no such network.
    """
    named = {"extractors": extractors, "embedders": embedders}
    try:
        return EvalRecipe.model_validate(settings.model_dump() | {key: tuple(names) for key, names in named.items() if names})
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"There is no network {first['input']!r} for {first['loc'][0]}.", f"{first['msg']}.") from error


def _trained_run(workspace: Workspace, style: str | None) -> Path:
    run = newest_run(workspace, style)
    if run is None:
        of_style = f" of the style {style}" if style else ""
        raise DataError(f"{workspace.runs} has no trained run{of_style}.", "Run: stylekit train")
    return run


def report_folder(run: Path) -> Path:
    """Return where the figures of a run or a checkpoint lie by default.

    They lie in the run folder where they are of the checkpoint that stands for the run, else in the checkpoint's own folder.
    """
    whole = run_folder(run)
    if whole == run:
        return run
    try:
        chosen = describe_checkpoint(chosen_checkpoint(whole))
    except CheckpointError:
        return run
    return whole if chosen.sha256 == describe_checkpoint(run).sha256 else run


def run_folder(run: Path) -> Path:
    """Return the run folder of a run or of one of its checkpoints."""
    return run.parent.parent if run.parent.name == "checkpoints" else run


def _deltas(bench: Bench, stylized: Arrays, photo: Arrays) -> dict[str, Delta]:
    found = {label: bench.paired(stylized, photo, label) for label in bench.extractors}
    return {label: Delta(kid_x1000=each.value, low=each.low, high=each.high) for label, each in found.items()}


def _write_pictures(folder: Path, bench: Bench, make: Maker, figures: RowFigures) -> list[WorstPicture]:
    """Write the table of pictures and both sheets; return the worst pictures."""
    photos = bench.photos
    write_pictures(folder / PICTURES_FILE, photos.files, photos.persons, figures.pictures)
    shown = [int(index) for index in np.linspace(0, bench.n - 1, min(bench.n, _SHEET_PAIRS)).round()]
    write_image(folder / SHEET_FILE, pair_sheet([photos.read(index) for index in shown], bench.pictures(make, shown)))
    verdicts = worst_pictures(figures.pictures, _WORST)
    worst = [verdict.index for verdict in verdicts]
    captions = [[f"{place}. {photos.files[v.index]}", *v.reasons] for place, v in enumerate(verdicts, 1)]
    write_image(
        folder / WORST_FILE, captioned_sheet([photos.read(index) for index in worst], bench.pictures(make, worst), captions)
    )
    return [WorstPicture(file=photos.files[v.index], person=photos.persons[v.index], reasons=v.reasons) for v in verdicts]


def _notes(bench: Bench, served: list[str]) -> list[str]:
    few = min(bench.n, len(bench.cartoons))
    notes = ["KID rewards flat colour: read it beside ID, the filters' rows and the sheets."]
    if any(width > few for width in bench.widths):
        notes.append(f"FID of {few} pictures is mostly bias: it compares only at n={bench.n} against {len(bench.cartoons)}.")
    if few < _FEW:
        notes.append(f"Of {few} pictures precision, recall and coverage say little; variety says more.")
    if served:
        notes.append(f"Also served in training, which flatters the stylized row: {'; '.join(served)}.")
    return notes
