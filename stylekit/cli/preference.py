"""`stylekit prefer`: blind choices by people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from stylekit.cli import console
from stylekit.cli.console import Outcome
from stylekit.cli.options import Seed
from stylekit.errors import UsageError

if TYPE_CHECKING:
    from stylekit.preference.records import Question

_QUESTIONS: dict[str, tuple[Question, ...]] = {"stylized": ("pref_a",), "person": ("pref_b",), "both": ("pref_a", "pref_b")}


def prefer(
    entries: Annotated[
        list[str] | None,
        typer.Argument(metavar="RUN...", help="Runs, checkpoints, styles, or folders of pictures made by another tool."),
    ] = None,
    *,
    question: Annotated[
        Literal["stylized", "person", "both"] | None,
        typer.Option("--question", help="Which is better stylized, which keeps the person better, or both (the default)."),
    ] = None,
    pairs: Annotated[int | None, typer.Option("--pairs", min=1, help="Pairs of each question for one rater; 40.")] = None,
    photos_limit: Annotated[int | None, typer.Option("--photos-limit", min=2, help="Photographs in use; all held out.")] = None,
    seed: Seed = None,
    rater: Annotated[str | None, typer.Option("--rater", metavar="NAME", help="Who chooses; else the page asks.")] = None,
    rater_kind: Annotated[
        Literal["person", "model"] | None,
        typer.Option("--rater-kind", help="With --import: whose answers they are; a model's are kept apart."),
    ] = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Where the page listens; any that is free.")] = 0,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the page's address and open nothing.")] = False,
    result: Annotated[bool, typer.Option("--result", help="Show the result so far; draw and serve nothing.")] = False,
    export_pack: Annotated[
        Path | None, typer.Option("--export-pack", metavar="DIR", help="Write the pairs for a rater elsewhere.")
    ] = None,
    import_file: Annotated[
        Path | None, typer.Option("--import", metavar="FILE", help="Read answers back: the pack's answers.csv, or JSON lines.")
    ] = None,
) -> Outcome:
    """Let people choose blindly between runs, on a page on this machine."""
    from stylekit.preference.study import find_study, open_study

    if import_file is not None:
        if rater is None:
            raise UsageError("Whose answers are they?", "Say so with --rater NAME.")
        if rater_kind is None:
            raise UsageError(f"Is {rater} a person or a model?", "Say so with --rater-kind person, or --rater-kind model.")
        return _import(import_file, rater, rater_kind)
    if rater_kind is not None:
        raise UsageError("--rater-kind speaks of imported answers.", "Leave it out: who chooses on the page is a person.")
    names = entries or []
    questions: tuple[Question, ...] | None = _QUESTIONS[question] if question else None
    if result:
        known = find_study(names, questions=questions, pairs=pairs, photos_limit=photos_limit, seed=seed)
        if known is None:
            raise UsageError(
                "There is no study of these entries with these settings.",
                "Name the same --pairs, --question, --photos-limit and --seed as before, or leave out --result to begin one.",
            )
        return _outcome(known)
    study = open_study(names, questions=questions, pairs=pairs, photos_limit=photos_limit, seed=seed, progress=console.progress())
    if export_pack is not None:
        from stylekit.preference.pack import export_pack as write_pack

        report = write_pack(study, export_pack)
        lines = [f"{report.path}: {report.trials} choices, with a README for the rater", f"The key stays in {study}"]
        left_out = _left_out(study)
        return Outcome(report, "\n".join([*lines, *left_out]), console.PART_FAILED if left_out else 0)
    _serve(study, port, rater, open_page=not no_browser)
    return _outcome(study)


def _serve(study: Path, port: int, rater: str | None, open_page: bool) -> None:
    from urllib.parse import urlencode

    from stylekit.preference.pack import rater_name
    from stylekit.preference.server import PreferenceServer, serve

    greeted = f"?{urlencode({'rater': rater_name(rater)})}" if rater else ""
    server = PreferenceServer(study, port=port)
    url = server.url + greeted
    notes = [*_left_out(study), f"Choose at {url}", f"Votes go to {study}. Stop with Ctrl-C: that shows the result."]
    console.show_note("\n".join(notes))
    if open_page:
        import webbrowser

        webbrowser.open(url)
    serve(server)


def _outcome(study: Path, note: str = "", exit_code: int = 0) -> Outcome:
    from stylekit.preference.result import RESULT, table, write_result

    found = write_result(study)
    return Outcome(found, "\n".join(line for line in (note, table(found), f"{study / RESULT}") if line), exit_code)


def _left_out(study: Path) -> list[str]:
    """Return a line for each picture that the study does without, and why."""
    from stylekit.preference.study import read_study

    return list(console.unreadable({each.file: each.reason for each in read_study(study).skipped}, "left out"))


def _import(file: Path, rater: str, kind: Literal["person", "model"]) -> Outcome:
    from stylekit.preference.pack import import_votes
    from stylekit.preference.result import table, write_result

    report = import_votes(file, rater, kind)
    lines = [f"{report.new} new votes of {report.rater}, {report.known} that were known, {report.empty} trials without an answer"]
    lines += console.unreadable({f"line {bad.line}": bad.reason for bad in report.bad}, "not taken over")
    found = write_result(report.study)
    data = {**report.model_dump(mode="json"), "result": found.model_dump(mode="json")}
    return Outcome(data, "\n".join([*lines, table(found)]), console.PART_FAILED if report.bad else 0)
