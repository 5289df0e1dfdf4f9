"""The verb `train`: from a recipe and two data sets to a run folder."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import filelock
import torch
from accelerate import Accelerator

from stylekit.assets import Resolved, resolve
from stylekit.config.load import dump_recipe, parse_recipe
from stylekit.config.schema import Recipe
from stylekit.data.datasets import PictureFile, PictureSet, list_pictures
from stylekit.data.shards import photo_set
from stylekit.data.superpixel import superpixel_of_photo
from stylekit.engine.checkpoint import (
    AssetUse,
    Meta,
    best_checkpoint,
    describe_checkpoint,
    latest_checkpoint,
    load_checkpoint,
    newest_run,
    read_meta,
)
from stylekit.engine.evaluations import read_evaluations
from stylekit.engine.page import update_run_page
from stylekit.engine.selection import open_held_out
from stylekit.engine.start import Start, begin, read_start
from stylekit.engine.teacher import TEACHER_FILE, find_teacher, teach, write_teacher
from stylekit.engine.trainer import BatchLoader, fit
from stylekit.errors import CheckpointError, DataError, Interrupted, OtherRunError, TrainingError, UsageError
from stylekit.methods.base import create_method
from stylekit.nn.cpu import keep_freed_memory
from stylekit.nn.device import find_device, set_up_cuda
from stylekit.nn.ema import Ema
from stylekit.paths import Workspace, atomic_write_text, sha256_bytes
from stylekit.progress import Progress, silent

# What may change when a run goes on: how long, how often it is looked at, and what runs it; never what is learned.
_FREE_ON_RESUME = {
    "engine",
    "max_steps",
    "log_every",
    "sample_every",
    "save_every",
    "keep_checkpoints",
    "report_to",
    "eval_every",
    "patience",
    "compile",
    "low_vram",
}
_LOCK, _CHILD_LOCK = ".lock", ".child.lock"
_PATIENCE_S = 5.0  # how long the child of a trainer that was killed may take for its last step


@dataclass(frozen=True)
class TrainReport:
    """Where a run lies and how far it is.

    Attributes:
        run: Its folder.
        step: Steps done.
        train_s: Seconds of training.
        content_network: What saw the content.
        best: The step that is kept as the best; None where none is.
        evaluations: How many steps were evaluated.
        ended_early: Whether `train.patience` ended it before its last step.
    """

    run: Path
    step: int
    train_s: float
    content_network: str
    best: int | None = None
    evaluations: int = 0
    ended_early: bool = False


@dataclass(frozen=True)
class TrainingPictures:
    """What a style is trained with.

    Attributes:
        photos: Photographs.
        cartoons: Cartoons.
        shown: Photographs of the sample sheets: those held out, where there are any.
    """

    photos: list[PictureFile]
    cartoons: list[PictureFile]
    shown: list[PictureFile]

    def fingerprints(self) -> dict[str, str]:
        """Return for photos and cartoons a digest of names and sizes in order: what the sampler's indices mean."""
        return {kind: _fingerprint(getattr(self, kind)) for kind in ("photos", "cartoons")}

    def check(self, batch_size: int) -> None:
        """Refuse sets that are smaller than a batch.

        Raises:
            DataError: If there are too few; the message counts them.
        """
        for kind in ("photos", "cartoons"):
            if (count := len(getattr(self, kind))) < batch_size:
                raise DataError(
                    f"There are {count} {kind} to train with, fewer than the batch of {batch_size}.",
                    f"Add pictures, or use --batch-size {count}.",
                )


def training_pictures(recipe: Recipe, workspace: Workspace) -> TrainingPictures:
    """Return the pictures that a recipe trains with.

    Raises:
        DataError: If a data set is missing or has no usable picture.
    """
    photos = photo_set(recipe.photos.source, workspace)
    used = list_pictures(photos, "train")
    return TrainingPictures(used, list_pictures(workspace.style(recipe.style), "train"), _held_out(photos) or used)


def resolve_recipe(recipe: Recipe, assets: Mapping[str, Resolved] | None = None) -> Recipe:
    """Replace every `auto` by what it stands for on this machine.

    Args:
        recipe: A recipe.
        assets: Frozen networks, by role, that take the place of the catalogue's.

    Raises:
        AssetError: If nothing that could serve is to be had.
    """
    train = recipe.train
    if train.content.network != "auto" or (train.preset == "default" and not train.loss.lambda_content):
        return recipe
    content = train.content.model_copy(update={"network": ((assets or {}).get("content") or resolve("content")).name})
    return recipe.model_copy(update={"train": train.model_copy(update={"content": content})})


def make_accelerator(device: str | None, mixed_precision: str, *, allow_tf32: bool = True, low_vram: bool = False) -> Accelerator:
    """Return an accelerator, and set how the process computes on NVIDIA GPUs, or keeps its memory on a CPU.

    Args:
        device: `cpu`, `cuda`, `cuda:1` or `mps`; None takes the best there is.
        mixed_precision: As the recipe says it, like the other two.
        allow_tf32: Whether float32 convolutions may take TF32.
        low_vram: Whether memory counts for more than the fastest algorithms.

    Raises:
        UsageError: If the device is not there.
    """
    if device is not None:
        place = find_device(device)
        if place.type == "cuda" and place.index is not None:
            torch.cuda.set_device(place)  # the one that Accelerator takes
    set_up_cuda(allow_tf32=allow_tf32, benchmark=not low_vram)
    try:
        accelerator = Accelerator(cpu=device == "cpu", mixed_precision=mixed_precision)
    except ValueError as error:
        raise UsageError(f"Mixed precision {mixed_precision} does not work here: {error}.", "Use --mixed-precision no") from error
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    return accelerator


def check(recipe: Recipe, *, workspace: Workspace | None = None, device: str | None = None, resume: bool = False) -> None:
    """Refuse what can be refused before any picture is made or read.

    Args:
        recipe: What to train and how.
        workspace: The project; the current folder by default.
        device: As `train` takes it.
        resume: A run goes on, with the weights it has.

    Raises:
        UsageError: If the device is not there.
        AssetError: If the content network, or a published style to start from, cannot be had.
        CheckpointError: If there is nothing to start from or to learn from, or it is damaged.
        ExportError: If there is no style to learn from, or its bundle is damaged.
        TrainingError: If it does not fit the recipe.
    """
    if device is not None:
        find_device(device)
    if not resume:
        resolve_recipe(recipe)
        read_start(recipe)
    if recipe.train.student_of:
        find_teacher(recipe.train.student_of, workspace or Workspace())


def train(
    recipe: Recipe,
    *,
    workspace: Workspace | None = None,
    resume: bool = False,
    device: str | None = None,
    progress: Progress = silent,
    pictures: TrainingPictures | None = None,
    assets: Mapping[str, Resolved] | None = None,
    saved: Callable[[Path], None] | None = None,
    counted: int | None = None,
) -> TrainReport:
    """Train a style with torch.

    Args:
        recipe: What to train and how; `auto` is resolved before the first step.
        workspace: The project; the current folder by default.
        resume: Go on with the style's newest run, from its newest checkpoint, as if it had not stopped.
        device: `cpu`, `cuda`, `cuda:1`, `mps`; None takes the best.
        progress: Shows rate and time left.
        pictures: What to train with instead of the recipe's own data sets.
        assets: Frozen networks, by role, that take the place of the catalogue's.
        saved: Called with every checkpoint that was written.
        counted: Steps to count as done at the start, whatever the weights to start from say.

    Raises:
        UsageError: If the recipe names another engine, or the device is not there.
        DataError: If a data set is missing or smaller than the batch.
        CheckpointError: If there is nothing to resume, or the recipe, data or frozen networks are others than before.
        Interrupted: After Ctrl-C; the step is finished and saved.
        TrainingError: If the weights to start from do not fit, another process trains in the run, or a loss or a weight of the
            generator is not finite.
    """
    if recipe.train.engine != "torch":
        raise UsageError(
            f"The recipe's engine is {recipe.train.engine}, and this trains with torch.",
            "Call stylekit.train, or use --engine torch.",
        )
    workspace = workspace or Workspace()
    how = recipe.train
    accelerator = make_accelerator(device, how.mixed_precision, allow_tf32=how.allow_tf32, low_vram=how.low_vram)
    with resumed(recipe.style, workspace, recipe.train.method) if resume else nullcontext() as run:
        recipe = continued(recipe, run) if run else resolve_recipe(recipe, assets)
        own = pictures is None  # the recipe's, with persons held out
        pictures = pictures or training_pictures(recipe, workspace)
        pictures.check(recipe.train.batch_size)
        start = read_start(recipe, counted) if run is None else None

        method = create_method(recipe.train.method)
        method.build(recipe, accelerator, assets)
        teacher = find_teacher(recipe.train.student_of, workspace) if recipe.train.student_of else None
        if teacher is not None:
            teach(method, teacher)
        if start is not None:
            begin(method, start)
        average = Ema(accelerator.unwrap_model(method.generator), recipe.train.ema_half_life_images)
        meta = first_meta(recipe, method.assets, pictures, start)
        if run is not None:
            checkpoint = latest_checkpoint(run)
            check_unchanged(run, read_meta(checkpoint), meta)
            meta = load_checkpoint(checkpoint, method, average).model_copy(update={"recipe": recipe})
        derive = superpixel_of_photo if recipe.train.superpixels == "photo" else None
        photos, cartoons = (
            PictureSet(pictures.photos, recipe.train.size, derive),
            PictureSet(pictures.cartoons, recipe.train.size),
        )
        shown = PictureSet(pictures.shown, recipe.train.size)
        held_out = None
        if own and accelerator.is_main_process:
            held_out = open_held_out(meta, workspace, accelerator.device, run, teacher.network if teacher else None)
        loader = BatchLoader(photos, cartoons, recipe, accelerator)
        try:
            with (
                run_folder(recipe, workspace, _environment(accelerator), run) as folder,
                _page(folder, accelerator.is_main_process),
            ):
                if teacher is not None and accelerator.is_main_process and not (folder / TEACHER_FILE).is_file():
                    write_teacher(folder, teacher, held_out.measure(teacher.network, meta) if held_out else None)
                meta = fit(
                    method,
                    average,
                    loader,
                    accelerator,
                    run=folder,
                    start=meta,
                    shown=shown,
                    progress=progress,
                    held_out=held_out,
                    saved=saved,
                )
        finally:
            loader.close()
    return _report(folder, meta)


@contextmanager
def _page(run: Path, main: bool) -> Iterator[None]:
    """Write the run's page, in the main process, once training has ended, also after Ctrl-C."""
    try:
        yield
    except Interrupted:
        if main:
            update_run_page(run)
        raise
    if main:
        update_run_page(run)


def _report(run: Path, meta: Meta) -> TrainReport:
    train, best = meta.recipe.train, best_checkpoint(run)
    return TrainReport(
        run,
        meta.step,
        meta.train_s,
        train.content.network,
        best=describe_checkpoint(best).step if best else None,
        evaluations=len(read_evaluations(run)),
        ended_early=meta.step < train.max_steps,
    )


@contextmanager
def run_folder(recipe: Recipe, workspace: Workspace, environment: Mapping[str, str], run: Path | None = None) -> Iterator[Path]:
    """Give a run's folder, with `recipe.yaml` and `env.json` written.

    Args:
        recipe: The recipe it is trained by.
        workspace: Where the run lies.
        environment: What `env.json` says.
        run: A run that goes on, held by `resumed`; by default a new one, which is removed if it comes to nothing.

    Raises:
        StylekitError: If it cannot be written.
    """
    with nullcontext(run) if run else _new_run(recipe, workspace) as folder:
        atomic_write_text(folder / "recipe.yaml", dump_recipe(recipe))
        atomic_write_text(folder / "env.json", json.dumps(environment, indent=1) + "\n")
        yield folder


@contextmanager
def _new_run(recipe: Recipe, workspace: Workspace) -> Iterator[Path]:
    run = workspace.new_run_folder(recipe.style, recipe.train.method)
    try:
        with hold(run):
            yield run
    finally:
        if not any((run / made).exists() for made in ("stats.jsonl", "samples", "checkpoints", "upstream")):
            shutil.rmtree(run, ignore_errors=True)


@contextmanager
def resumed(style: str, workspace: Workspace, method: str) -> Iterator[Path]:
    """Give the style's newest run by a method that has a checkpoint, and keep everybody else from training in it meanwhile.

    Raises:
        CheckpointError: If there is none.
        TrainingError: If another process trains in it.
    """
    run = run_to_resume(style, workspace, method)
    with hold(run):
        yield run


@contextmanager
def hold(run: Path, *, child: bool = False) -> Iterator[None]:
    """Be the only one who trains in a run while inside.

    Args:
        run: Its folder.
        child: For the process that an engine trains in, which may outlive the one that holds the run.

    Raises:
        TrainingError: If another process trains in it and does not end within a few seconds.
    """
    with ExitStack() as held:
        try:
            held.enter_context(filelock.FileLock(run / (_CHILD_LOCK if child else _LOCK), timeout=_PATIENCE_S))
            if not child:
                with filelock.FileLock(run / _CHILD_LOCK, timeout=_PATIENCE_S):
                    pass
        except filelock.Timeout as error:
            raise TrainingError(f"Another process trains in {run}.", "Wait until it has ended, or end it.") from error
        yield


def first_meta(recipe: Recipe, assets: Mapping[str, Resolved], pictures: TrainingPictures, start: Start | None = None) -> Meta:
    """Return what a checkpoint of this training says before its first step; what it starts from may have steps behind it."""
    used = {role: AssetUse(name=a.name, sha256=a.sha256, source=a.source) for role, a in assets.items()}
    step = start.step if start else 0
    return Meta(step=step, images_seen=step * recipe.train.batch_size, recipe=recipe, assets=used, data=pictures.fingerprints())


def run_to_resume(style: str, workspace: Workspace, method: str | None = None) -> Path:
    """Return the style's newest run that has a checkpoint, by one method if that is given.

    Raises:
        CheckpointError: If there is none.
    """
    run = newest_run(workspace, style, method)
    if run is None:
        wanted = f"{style} by method {method}" if method else style
        raise CheckpointError(f"There is no run of {wanted} with a checkpoint to resume.", "Start one: stylekit train")
    return run


def continued(recipe: Recipe, run: Path) -> Recipe:
    """Return a run's own recipe with what may change taken from `recipe`.

    Raises:
        OtherRunError: If anything else differs.
    """
    before = parse_recipe((run / "recipe.yaml").read_text("utf-8"), source=str(run / "recipe.yaml"))
    free = {key: getattr(recipe.train, key) for key in _FREE_ON_RESUME}
    after = before.model_copy(update={"train": before.train.model_copy(update=free)})
    asked = recipe.model_dump()
    if recipe.train.content.network == "auto":
        asked["train"]["content"]["network"] = before.train.content.network
    changed = _differences(
        {k: after.model_dump()[k] for k in ("seed", "photos", "train")}, {k: asked[k] for k in ("seed", "photos", "train")}
    )
    if changed:
        raise OtherRunError(
            f"{run} was trained with other values of {', '.join(changed)}.",
            f"Leave them as they were, or start a new run from it: stylekit train --init {run}",
        )
    return after


def _differences(a: object, b: object, key: str = "") -> list[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        return [found for k in a for found in _differences(a[k], b.get(k), f"{key}.{k}" if key else str(k))]
    return [] if a == b else [key]


def check_unchanged(run: Path, before: Meta, now: Meta) -> None:
    """See that a run goes on with the frozen networks and the pictures it had before.

    Raises:
        OtherRunError: If it would not.
    """
    for role, asset in now.assets.items():
        then = before.assets.get(role)
        if then is None or then.sha256 != asset.sha256:
            raise OtherRunError(
                f"{run} was trained with another {role} network ({then.name if then else 'none'}, now {asset.name}).",
                "Make the same file available (stylekit assets ls), or start a new run.",
            )
    for kind, digest in now.data.items():
        if before.data.get(kind) != digest:
            raise OtherRunError(
                f"The {kind} are not the ones {run} was trained with.",
                f"Bring them back, or start a new run from it: stylekit train --init {run}",
            )


def _fingerprint(files: list[PictureFile]) -> str:
    return sha256_bytes("\n".join(f"{f.name} {f.length()}" for f in files).encode())


def _held_out(folder: Path) -> list[PictureFile]:
    try:
        return list_pictures(folder, "eval")
    except DataError:
        return []


def _environment(accelerator: Accelerator) -> dict[str, str]:
    found = {"python": platform.python_version(), "platform": platform.platform(), "device": str(accelerator.device)}
    if accelerator.device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(accelerator.device)
    found["precision"] = accelerator.mixed_precision
    return found | versions("stylekit", "torch", "accelerate", "numpy", "scikit-image", "safetensors")


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of installed packages by name, for `env.json`."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
