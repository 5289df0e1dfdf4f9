"""Packs for raters elsewhere: anonymous pairs and a table to fill in. What unblinds them stays in the study."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from stylekit.errors import DataError, StylekitError, UsageError
from stylekit.paths import Workspace, atomic_folder
from stylekit.preference.records import Choice, Plan, Rater, RaterKind, Record, Study, Trial, TrialId, rater_key
from stylekit.preference.study import PICTURES, list_studies, plan_of, read_plans, read_study
from stylekit.preference.votes import VoteLog

ANSWERS = "answers.csv"
_COLUMNS = ("trial", "question", "left", "right", "photograph", "answer")
_SIDES = {"left": "left", "l": "left", "1": "left", "right": "right", "r": "right", "2": "right"}
_LARGEST_BYTES = 64 * 2**20
_RATER: TypeAdapter[str] = TypeAdapter(Rater)


class PackReport(Record):
    """What was exported.

    Attributes:
        name: What the study calls the pack.
    """

    path: Path
    study: Path
    name: str
    trials: int


class BadLine(Record):
    """A line that could not be taken over, and why."""

    line: int
    reason: str


class ImportReport(Record):
    """What was imported.

    Attributes:
        new: Votes that were not there.
        known: Votes that the same rater had already cast.
        empty: Trials without an answer.
    """

    study: Path
    rater: str
    kind: RaterKind
    new: int
    known: int
    empty: int
    bad: tuple[BadLine, ...]


def _side(value: object) -> object:
    text = str(value if value is not None else "").strip().lower()
    return _SIDES.get(text, text)


class _Answer(BaseModel):
    """One line: what else stands in it is the pack's own and is not read."""

    model_config = ConfigDict(extra="ignore")

    trial: TrialId
    answer: Annotated[Literal["left", "right", ""], BeforeValidator(_side)]
    response_ms: Annotated[int, Field(ge=0)] | None = None


def rater_name(text: str) -> str:
    """Return a rater's name as it is kept.

    Raises:
        UsageError: If it is empty, longer than 40 characters, or has other signs than letters, digits, blanks and `.,'@+-_`.
    """
    try:
        return _RATER.validate_python(" ".join(text.split()))
    except ValidationError as error:
        raise UsageError(f"{text[:60]!r} is no name for a rater.", "Use at most 40 letters, digits and blanks.") from error


def export_pack(study_folder: Path, output: Path) -> PackReport:
    """Write a pack: pictures under names that tell nothing, `answers.csv` to fill in, and a page for the rater.

    Sides and order are drawn anew for every pack; repeats and controls are among its trials, and nothing tells them apart.

    Args:
        study_folder: The study.
        output: A folder that is not there yet, or is empty.

    Raises:
        UsageError: If there is something at `output`.
        StylekitError: If it cannot be written.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"{output} is already there.", "Name a folder that is not.")
    study = read_study(study_folder)
    taken = {rater_key(plan.rater) for plan in read_plans(study_folder)}
    name = next(name for number in range(1, len(taken) + 2) if (name := f"pack {number}") not in taken)
    plan = plan_of(study_folder, study, name)
    with atomic_folder(output) as folder:
        _write_pack(folder, study, study_folder / PICTURES, plan)
    return PackReport(path=output, study=study_folder, name=name, trials=len(plan.trials))


def _write_pack(folder: Path, study: Study, pictures: Path, plan: Plan) -> None:
    (folder / PICTURES).mkdir()
    (folder / "style").mkdir()
    table = io.StringIO()
    writer = csv.DictWriter(table, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for trial in plan.trials:
        shown = {"left": trial.left, "right": trial.right} | ({"photograph": trial.photograph} if trial.photograph else {})
        named = {part: f"{PICTURES}/{trial.id}-{part}.png" for part in shown}
        for part, picture in shown.items():
            shutil.copyfile(pictures / f"{picture}.png", folder / named[part])
        writer.writerow({"trial": trial.id, "question": trial.question, "answer": "", **named})
    for number, picture in enumerate(study.references, 1):
        shutil.copyfile(pictures / f"{picture}.png", folder / "style" / f"{number}.png")
    (folder / ANSWERS).write_text(table.getvalue(), "utf-8")
    text = files("stylekit.preference").joinpath("pack.md").read_text("utf-8")
    (folder / "README.md").write_text(text.replace("{trials}", str(len(plan.trials))), "utf-8")


def import_votes(file: Path, rater: str, kind: RaterKind, *, workspace: Workspace | None = None) -> ImportReport:
    """Read back a filled-in `answers.csv`, or a file of JSON lines `{"trial": ..., "answer": "left"}`.

    The study is found by the trials' ids. The same file again changes nothing.

    Args:
        file: Ends in `.csv`, or `.jsonl`.
        rater: Who answered.
        kind: A `person`, or a `model`, whose votes are kept apart.
        workspace: Where the studies lie; the working folder by default.

    Raises:
        UsageError: If the rater's name cannot be used, or is known as of the other kind.
        DataError: If the file cannot be read, or no line of it belongs to a study.
    """
    rater = rater_name(rater)
    bad: list[BadLine] = []
    answers: dict[int, _Answer] = {}
    for number, row in _rows(file, bad):
        try:
            answers[number] = _Answer.model_validate(row)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the line"
            value = "missing" if first["type"] == "missing" else repr(first["input"])[:60]
            wanted = {"answer": "left or right", "trial": "twelve hexadecimal digits", "response_ms": "a whole number"}
            bad.append(BadLine(line=number, reason=f"{where} is {value}, but must be {wanted.get(where, 'an object')}"))
    study, trials = _find_study(file, {answer.trial for answer in answers.values()}, workspace or Workspace())
    log = VoteLog(study)
    counts = {"new": 0, "known": 0, "empty": 0}
    for number, answer in answers.items():
        try:
            counts[_cast(log, rater, kind, trials.get(answer.trial), answer)] += 1
        except _BadAnswerError as error:
            bad.append(BadLine(line=number, reason=error.message))
    bad.sort(key=lambda each: each.line)
    return ImportReport(study=study, rater=rater, kind=kind, bad=tuple(bad), **counts)


class _BadAnswerError(StylekitError):
    """One answer cannot be taken over."""


def _cast(log: VoteLog, rater: str, kind: RaterKind, trial: Trial | None, answer: _Answer) -> str:
    if trial is None:
        raise _BadAnswerError(f"the study has no trial {answer.trial}")
    if not answer.answer:
        return "empty"
    choice: Choice = answer.answer
    before = log.choices_of(rater).get(trial.id)
    if before not in (None, choice):
        raise _BadAnswerError(f"{rater} has already chosen {before} in {trial.id}")
    return "new" if log.cast(rater, kind, trial, choice, answer.response_ms) else "known"


def _rows(file: Path, bad: list[BadLine]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the rows with their line numbers; lines that are none are noted."""
    try:
        if file.stat().st_size > _LARGEST_BYTES:
            raise DataError(f"{file} is larger than {_LARGEST_BYTES >> 20} MB, so it is no table of answers.")
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"Cannot read {file}: {error.strerror}.", "Check the path.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not text in UTF-8.", "Save it as CSV in UTF-8.") from error
    if file.suffix.lower() in (".jsonl", ".ndjson"):
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except (ValueError, RecursionError):
                    bad.append(BadLine(line=number, reason="is not JSON"))
        return
    head = text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=";" if ";" in head else ",")  # as spreadsheets write it
    if not {"trial", "answer"} <= set(reader.fieldnames or ()):
        raise DataError(f"{file} has no columns trial and answer.", f"Fill in the pack's {ANSWERS}.")
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        bad.append(BadLine(line=reader.line_num, reason=f"is not CSV: {error}"))


def _find_study(file: Path, wanted: set[str], workspace: Workspace) -> tuple[Path, dict[str, Trial]]:
    """Return the study that most of the trials belong to."""
    best: tuple[Path, dict[str, Trial]] | None = None
    most = 0
    for folder, _ in list_studies(workspace):
        trials = {trial.id: trial for plan in read_plans(folder) for trial in plan.trials}
        if (hits := len(wanted & trials.keys())) > most:
            best, most = (folder, trials), hits
    if best is None:
        raise DataError(
            f"No line of {file} belongs to a study of this folder.", "Import it where the pack was exported, with its trial ids."
        )
    return best
