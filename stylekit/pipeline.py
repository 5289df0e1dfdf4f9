"""A recipe from end to end: every stage that is not yet done, in order."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from stylekit.config.schema import EvalRecipe, PhotoRecipe, Recipe
from stylekit.data.advice import stage
from stylekit.data.datasets import used_crops
from stylekit.data.inputs import Inputs
from stylekit.data.manifest import read_manifest, stream_manifest
from stylekit.data.prepare import AlignReport, align
from stylekit.data.rules import STAGES
from stylekit.data.shards import is_aligned, photo_set, read_index
from stylekit.engine.checkpoint import Meta, chosen_checkpoint, latest_checkpoint, newest_run, read_meta
from stylekit.engine.evaluations import is_over, name_step
from stylekit.engine.train import TrainReport
from stylekit.errors import DataError, OtherRunError, TooFewError
from stylekit.evaluation.evaluate import asked_for, evaluate
from stylekit.exporters import up_to_date
from stylekit.exporters.build import BUNDLE_FOLDER, MODELSCOPE_FOLDER
from stylekit.generate.api import gen_data
from stylekit.hubs import publish
from stylekit.images import list_images
from stylekit.metrics.report import EvalReport, read_report, table
from stylekit.paths import Workspace
from stylekit.progress import Progress, silent

MANIFEST, EVAL_FILE, SHEET_FILE = "manifest.jsonl", "eval.json", "eval_sheet.jpg"


_ENGINES = {"torch": "stylekit.engine.train", "modelscope": "stylekit.modelscope.trainer"}
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """One stage of a recipe.

    Attributes:
        name: `gen-data`, `align`, `train`, `eval`, `export` or `publish`.
        did: Whether there was anything to do.
        summary: What stands now, in a few words.
    """

    name: str
    did: bool
    summary: str


@dataclass
class RunReport:
    """What `run` did and where the results lie."""

    style: str
    stages: list[Stage] = field(default_factory=list)
    run: Path | None = None
    samples: Path | None = None
    metrics: EvalReport | None = None
    published: Path | None = None

    def __str__(self) -> str:
        lines = [f"{stage.name:9} {'done now' if stage.did else 'as it was':9}  {stage.summary}" for stage in self.stages]
        if self.metrics is not None:
            lines += ["", table(self.metrics)]
        if self.run is not None:
            lines += ["", f"Sheet    {self.run / SHEET_FILE}", f"Metrics  {self.run / EVAL_FILE}"]
        if self.published is not None:
            lines += [f"Style    {self.published}", f"Try it   stylekit stylize me.jpg --style {self.style}"]
        return "\n".join(lines)


def prepare(recipe: Recipe, *, workspace: Workspace | None = None, progress: Progress = silent) -> None:
    """Make the cartoons and align the photographs that a recipe trains with, where they or some of them are not there yet.

    Raises:
        StylekitError: As `gen_data` and `align` do.
    """
    workspace = workspace or Workspace()
    own = Path(recipe.generate.model or "").expanduser() if recipe.generate.engine == "folder" else None
    if _lacks(workspace.style(recipe.style) / MANIFEST, own, named=lambda file: f"raw/{file.relative_to(own or '').as_posix()}"):
        _tell(gen_data(recipe=recipe, workspace=workspace, progress=progress).aligned)
    if _lacks_photos(recipe.photos.source, photo_set(recipe.photos.source, workspace)):
        align_photos(recipe, workspace, progress)
    elif note := starter_note(recipe.photos.source, workspace):
        _LOG.info("%s", note)


def starter_note(source: str, workspace: Workspace) -> str | None:
    """Return what to say where a style is trained against the starter photographs, and None where it is not.

    What so many are enough for it says as their report does.
    """
    if source != PhotoRecipe().source:
        return None
    counted = judged = ""
    if (workspace.photos / MANIFEST).is_file():
        used = sum(1 for _ in used_crops(workspace.photos))
        counted, judged = f"{used} ", f", {STAGES['photo'][stage(used, 'photo')][1]}"
    return f"It is trained against the {counted}starter photographs{judged}; add your own with: stylekit data add DIR"


def _lacks_photos(source: str, aligned: Path) -> bool:
    if is_aligned(aligned):
        return False
    if not (aligned / MANIFEST).is_file():
        return True
    if source.startswith("asset:"):
        return False
    known = {line.input for line in stream_manifest(aligned / MANIFEST)}
    try:
        return known != {picture.name for picture in Inputs(source, aligned, "photo")}
    except DataError:  # the source is gone; what was aligned is still there
        return False


def _lacks(manifest: Path, folder: Path | None, named: Callable[[Path], str]) -> bool:
    """Tell whether a data set is not there, or pictures have come into its folder since, or gone from it."""
    if not manifest.is_file():
        return True
    known = {line.input for line in read_manifest(manifest)}
    return folder is not None and folder.is_dir() and known != set(map(named, list_images(folder)))


def _tell(report: AlignReport | None) -> None:
    """Say what of the user's pictures is not trained with."""
    if report is None:
        return
    for note in report.notes:
        _LOG.warning("%s", note)
    for problem in report.unreadable.values():
        _LOG.warning("%s", problem)
    if report.rejected:
        _LOG.info("%d pictures or faces are left out; the reasons are in %s.", report.rejected, report.manifest)


def align_photos(recipe: Recipe, workspace: Workspace, progress: Progress) -> Stage:
    """Align the recipe's photographs into their data set; shards of aligned ones are taken as they are."""
    aligned = photo_set(recipe.photos.source, workspace)
    if is_aligned(aligned):
        return Stage("align", False, f"{read_index(aligned).samples} photographs in shards")
    report = align(
        recipe.photos.source,
        kind="photo",
        output=aligned,
        recipe=recipe.align,
        seed=recipe.seed,
        eval_fraction=recipe.photos.eval_fraction,
        progress=progress,
    )
    _tell(report)
    if note := starter_note(recipe.photos.source, workspace):
        _LOG.info("%s", note)
    return Stage("align", report.changed > 0, f"{report.used} photographs usable, {report.rejected} left out")


def check(recipe: Recipe, *, workspace: Workspace | None = None, resume: bool = False, device: str | None = None) -> None:
    """Refuse what the recipe's engine cannot train, before any picture is made; a run that is finished needs nothing.

    Args:
        recipe: What to train and how.
        workspace: The project; the current folder by default.
        resume: The style's newest run goes on.
        device: As `train` takes it.

    Raises:
        StylekitError: As `train` does, of what can be known beforehand.
    """
    workspace = workspace or Workspace()
    run = newest_run(workspace, recipe.style, recipe.train.method) if resume else None
    if run is None or not is_over(run, recipe.train, read_meta(latest_checkpoint(run)).step):
        import_module(_ENGINES[recipe.train.engine]).check(recipe, workspace=workspace, device=device, resume=resume)


def train(
    recipe: Recipe,
    *,
    workspace: Workspace | None = None,
    resume: bool = False,
    device: str | None = None,
    progress: Progress = silent,
) -> TrainReport:
    """Train a style with the recipe's engine, on pictures that are there already.

    Args:
        recipe: What to train and how; `auto` is resolved before the first step.
        workspace: The project; the current folder by default.
        resume: Go on with the style's newest run, from its newest checkpoint.
        device: `cpu`, `cuda`, `cuda:1`, `mps`; None takes the best.
        progress: Shows rate and time left.

    Raises:
        DataError: If a data set is missing or smaller than the batch.
        CheckpointError: If there is nothing to resume, or the recipe, data or frozen networks are others than before.
        MissingPartError: If the engine needs a package that is not installed.
        Interrupted: After Ctrl-C; the step is finished and saved.
        TrainingError: If training cannot start, or a loss or a weight of the generator is not finite.
    """
    engine = import_module(_ENGINES[recipe.train.engine])
    report: TrainReport = engine.train(recipe, workspace=workspace, resume=resume, device=device, progress=progress)
    return report


def run(
    recipe: Recipe,
    *,
    workspace: Workspace | None = None,
    device: str | None = None,
    progress: Progress = silent,
    checked: Callable[[], object] | None = None,
) -> RunReport:
    """Carry out every stage of a recipe that is not yet done.

    Pictures already made and aligned stay; a finished run of the same recipe and data is kept, a stopped one goes on, any other
    change starts a new one; what follows is done anew only for new weights.

    Args:
        recipe: What to make.
        workspace: The project; the current folder by default.
        device: What to train on, as `train` takes it.
        progress: Shows rate and time left.
        checked: Called once it is known that the recipe can be trained here.

    Raises:
        StylekitError: As the stages do; what is done stays done.
    """
    workspace = workspace or Workspace()
    check(recipe, workspace=workspace, resume=_to_go_on_with(recipe, workspace) is not None, device=device)
    if checked is not None:
        checked()
    report = RunReport(recipe.style)
    made = gen_data(recipe=recipe, workspace=workspace, progress=progress)
    aligned = made.aligned
    _tell(aligned)
    usable = f"{aligned.used} cartoons usable, {aligned.rejected} left out" if aligned else f"{made.made + made.kept} cartoons"
    report.stages.append(Stage("gen-data", made.made > 0, usable))
    report.stages.append(align_photos(recipe, workspace, progress))

    trained, did = _train_once(recipe, workspace, device, progress)
    report.run = trained.run
    kept = name_step(chosen_checkpoint(trained.run))
    summary = f"{trained.step} steps in {trained.train_s / 60:.1f} minutes, {trained.run}; kept: {kept}"
    report.stages.append(Stage("train", did, summary))

    try:
        report.metrics, did = _evaluate_once(trained.run, recipe.eval, workspace, progress)
        report.stages.append(Stage("eval", did, str(trained.run / EVAL_FILE)))
    except TooFewError as too_little:  # a handful of selfies trains a style, though nobody is left to measure it on
        report.stages.append(Stage("eval", False, f"not measured: {too_little.message}"))

    exported = _exported(trained.run)
    bundle = up_to_date(trained.run, workspace=workspace, progress=progress)
    report.stages.append(Stage("export", _exported(trained.run) != exported, str(bundle.path)))
    if recipe.licence is None:
        report.stages.append(Stage("publish", False, "skipped: no licence"))
    else:
        before = _described(workspace.root / recipe.publish.to.removeprefix("dir:") / recipe.style)
        report.published = publish(
            trained.run, to=recipe.publish.to, licence=recipe.licence, workspace=workspace, progress=progress
        ).path
        report.stages.append(Stage("publish", _described(report.published) != before, str(report.published)))
    return report


def _exported(run: Path) -> tuple[bytes, int]:
    """Return what changes when the bundle or the model folder of a run is written anew."""
    folder = run / MODELSCOPE_FOLDER
    return _described(run / BUNDLE_FOLDER), folder.stat().st_ctime_ns if folder.is_dir() else 0


def _described(bundle: Path) -> bytes:
    """Return a bundle's `style.json`, which lists the digest of every file; empty where there is none."""
    file = bundle / "style.json"
    return file.read_bytes() if file.is_file() else b""


def _train_once(recipe: Recipe, workspace: Workspace, device: str | None, progress: Progress) -> tuple[TrainReport, bool]:
    """Keep a finished run of the same recipe, go on with a stopped one, start a new one otherwise."""
    if meta := _to_go_on_with(recipe, workspace):
        try:
            report = train(recipe, workspace=workspace, resume=True, device=device, progress=progress)
            return report, report.step > meta.step
        except OtherRunError as other:
            _LOG.info("Starting a new run: %s", other.message)
    return train(recipe, workspace=workspace, device=device, progress=progress), True


def _to_go_on_with(recipe: Recipe, workspace: Workspace) -> Meta | None:
    """Return where the style's newest run by the recipe's method stands, if the recipe asks for as many steps or more."""
    newest = newest_run(workspace, recipe.style, recipe.train.method)
    meta = read_meta(latest_checkpoint(newest)) if newest else None
    return meta if meta and meta.step <= recipe.train.max_steps else None


def _evaluate_once(run: Path, settings: EvalRecipe, workspace: Workspace, progress: Progress) -> tuple[EvalReport, bool]:
    """Keep the figures that these very weights, settings, photographs and cartoons would give, take them otherwise."""
    if (run / EVAL_FILE).is_file():
        try:
            report = read_report(run / EVAL_FILE)
        except DataError as damaged:
            _LOG.warning("Measuring again: %s", damaged.message)
        else:
            if report.made_from == asked_for(run, workspace, settings=settings):
                return report, False
    return evaluate(run, workspace=workspace, settings=settings, progress=progress), True
