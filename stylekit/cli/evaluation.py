"""`stylekit eval` and `compare`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from stylekit.cli import console
from stylekit.cli.console import Outcome
from stylekit.cli.options import BatchSize, Device, Output, Run, Style
from stylekit.errors import UsageError

Protocol = Annotated[
    str | None, typer.Option("--protocol", metavar="NAME", help="Under which conditions; else those that fit the photographs.")
]
Photos = Annotated[
    str | None,
    typer.Option("--photos", metavar="SOURCE", help="A data set, or a source that was aligned; else the run's own photographs."),
]
Extractors = Annotated[
    list[str] | None,
    typer.Option("--extractor", metavar="NAME", help="Network of KID and FID; may be repeated. Else the recipe's."),
]
Embedders = Annotated[
    list[str] | None,
    typer.Option("--embedder", metavar="NAME", help="Network of the identity figures; may be repeated. Else the recipe's."),
]


def evaluate(
    *,
    style: Style = None,
    run: Run = None,
    protocol: Protocol = None,
    extractor: Extractors = None,
    embedder: Embedders = None,
    photos: Photos = None,
    output: Output = None,
    batch_size: BatchSize = None,
    device: Device = None,
) -> Outcome:
    """Measure the style on the held-out photographs: style, person, expression, colour and faults, with the protocol named."""
    from stylekit.evaluation.evaluate import SHEET_FILE, WORST_FILE, report_folder
    from stylekit.evaluation.evaluate import evaluate as measure
    from stylekit.metrics.report import table
    from stylekit.paths import Workspace

    report = measure(
        run,
        style=style,
        extractors=extractor,
        embedders=embedder,
        protocol=protocol,
        photos=photos,
        output=output,
        batch_size=batch_size or 16,
        device=device,
        progress=console.progress(),
    )
    folder = output or (report_folder(run) if run else Workspace().runs / report.run)
    look = f"Look at {folder / SHEET_FILE}, the worst in {folder / WORST_FILE}, and all figures in {folder}"
    return Outcome(report, f"{table(report)}\n\n{look}", console.PART_FAILED if report.skipped else 0)


def compare(
    entries: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN|FOLDER|EVAL.JSON...",
            help="Runs, checkpoints, styles, folders of pictures; else all runs of the style. Or only eval.json files of "
            "`stylekit eval`, which are set side by side and take no other option.",
        ),
    ] = None,
    *,
    style: Style = None,
    paper: Annotated[
        bool, typer.Option("--paper", help="Show the rows that DCT-Net's model card published beside them.")
    ] = False,
    protocol: Protocol = None,
    extractor: Extractors = None,
    embedder: Embedders = None,
    photos: Photos = None,
    write_photos: Annotated[
        Path | None,
        typer.Option("--write-photos", metavar="DIR", help="Only write the held-out photographs, for another tool to stylize."),
    ] = None,
    output: Output = None,
    batch_size: BatchSize = None,
    device: Device = None,
) -> Outcome:
    """Measure runs, or pictures made by any tool, in one table beside six rows that need no training."""
    from stylekit.evaluation import compare as comparing
    from stylekit.evaluation.comparison import text
    from stylekit.evaluation.evaluate import read_reports
    from stylekit.metrics.report import side_by_side

    evaluations = [entry for entry in entries or [] if entry.endswith(".json")]
    if evaluations:
        given = {
            "--style": style,
            "--paper": paper,
            "--protocol": protocol,
            "--extractor": extractor,
            "--embedder": embedder,
            "--photos": photos,
            "--write-photos": write_photos,
            "--output": output,
            "--batch-size": batch_size,
            "--device": device,
        }
        _refuse_what_evaluations_do_not_take([entry for entry in entries or [] if entry not in evaluations], given)
        reports = read_reports([Path(entry) for entry in evaluations])
        return Outcome({"evaluations": reports}, side_by_side(reports))
    if write_photos is not None:
        written = comparing.export_photographs(write_photos, style=style, protocol=protocol, photos=photos)
        lines = [
            f"{len(written.files)} photographs in {write_photos}; stylize them, keep the names, and run: stylekit compare FOLDER",
            *(f"left out: {skipped.file}: {skipped.reason}" for skipped in written.skipped),
        ]
        found = {"photographs": written.files, "skipped": written.skipped}
        return Outcome(found, "\n".join(lines), console.PART_FAILED if written.skipped else 0)
    compared = comparing.compare(
        entries or [],
        style=style,
        extractors=extractor,
        embedders=embedder,
        protocol=protocol,
        photos=photos,
        paper=paper,
        output=output,
        batch_size=batch_size or 16,
        device=device,
        progress=console.progress(),
    )
    folder = output or comparing.folder_of(compared.style)
    return Outcome(compared, f"{text(compared)}\n\n{folder / comparing.PAGE}", console.PART_FAILED if compared.skipped else 0)


def _refuse_what_evaluations_do_not_take(others: Sequence[str], given: Mapping[str, object]) -> None:
    if others:
        raise UsageError(
            f"{others[0]} is to be measured, and an eval.json file was measured before, so one call does not compare them.",
            "Name the runs in place of their eval.json files.",
        )
    if named := [option for option, value in given.items() if value]:
        raise UsageError(
            f"eval.json files are set side by side as they are, so {', '.join(named)} would change nothing.",
            "Leave it out, or name the runs in place of their eval.json files.",
        )
