"""The verb `train`: from a recipe and two data sets to a run folder."""

from __future__ import annotations

import json
import platform
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from accelerate import Accelerator

from stylekit.assets import resolve
from stylekit.config.load import dump_recipe, parse_recipe
from stylekit.config.schema import Recipe
from stylekit.data.datasets import PictureFile, PictureSet, list_pictures
from stylekit.data.superpixel import superpixel_of_photo
from stylekit.engine.checkpoint import (
    AssetUse,
    Meta,
    latest_checkpoint,
    load_checkpoint,
    load_generator,
    newest_run,
    read_meta,
)
from stylekit.engine.trainer import BatchLoader, fit
from stylekit.errors import CheckpointError, DataError, OtherRunError, TrainingError, UsageError
from stylekit.methods.base import Method, create_method
from stylekit.nn.device import find_device
from stylekit.nn.ema import Ema
from stylekit.paths import Workspace, atomic_write_text, sha256_bytes
from stylekit.progress import Progress, silent

# What may change when a run goes on: how long, how often it is looked at, and where it runs; never what is learned.
_FREE_ON_RESUME = {"max_steps", "log_every", "sample_every", "save_every", "keep_checkpoints", "report_to"}


@dataclass(frozen=True)
class TrainReport:
    """Where a run lies and how far it is."""

    run: Path
    step: int
    train_s: float
    content_network: str


def resolve_recipe(recipe: Recipe) -> Recipe:
    """Replace every `auto` by what it stands for on this machine.

    Raises:
        AssetError: If nothing that could serve is to be had.
    """
    train = recipe.train
    if train.content.network != "auto" or (train.preset == "default" and not train.loss.lambda_content):
        return recipe
    content = train.content.model_copy(update={"network": resolve("content").name})
    return recipe.model_copy(update={"train": train.model_copy(update={"content": content})})


def make_accelerator(device: str | None, mixed_precision: str) -> Accelerator:
    """Return an accelerator on the named device (`cpu`, `cuda`, `cuda:1`, `mps`); None takes the best one there is.

    Raises:
        UsageError: If the device is not there.
    """
    if device is not None:
        place = find_device(device)
        if place.type == "cuda" and place.index is not None:
            torch.cuda.set_device(place)  # the one that Accelerator takes
    try:
        return Accelerator(cpu=device == "cpu", mixed_precision=mixed_precision)
    except ValueError as error:
        raise UsageError(f"Mixed precision {mixed_precision} does not work here: {error}.", "Use --mixed-precision no") from error


def train(
    recipe: Recipe,
    *,
    workspace: Workspace | None = None,
    resume: bool = False,
    device: str | None = None,
    progress: Progress = silent,
) -> TrainReport:
    """Train a style.

    Args:
        recipe: What to train and how; `auto` is resolved before the first step.
        workspace: The project; the current folder by default.
        resume: Go on with the style's newest run, from its newest checkpoint, as if it had not stopped.
        device: `cpu`, `cuda`, `cuda:1`, `mps`; None takes the best.
        progress: Shows rate and time left.

    Raises:
        DataError: If a data set is missing or smaller than the batch.
        CheckpointError: If there is nothing to resume, or the recipe, data or frozen networks are others than before.
        Interrupted: After Ctrl-C; the step is finished and saved.
        TrainingError: If a loss or a weight of the generator is not finite.
    """
    workspace = workspace or Workspace()
    accelerator = make_accelerator(device, recipe.train.mixed_precision)
    run = run_to_resume(recipe.style, workspace) if resume else None
    recipe = _continued(recipe, run) if run else resolve_recipe(recipe)

    files = {
        "photos": list_pictures(workspace.photo_set(recipe.photos.source), "train"),
        "cartoons": list_pictures(workspace.style(recipe.style), "train"),
    }
    for kind, found in files.items():
        if len(found) < recipe.train.batch_size:
            raise DataError(
                f"There are {len(found)} {kind} to train with, fewer than the batch of {recipe.train.batch_size}.",
                f"Add pictures, or use --batch-size {len(found)}.",
            )
    derive = superpixel_of_photo if recipe.train.superpixels == "photo" else None
    photos = PictureSet(files["photos"], recipe.train.size, derive)
    cartoons = PictureSet(files["cartoons"], recipe.train.size)

    method = create_method(recipe.train.method)
    method.build(recipe, accelerator)
    if recipe.train.init and run is None:
        _start_from(Path(recipe.train.init), method)
    average = Ema(accelerator.unwrap_model(method.generator), recipe.train.ema_half_life_images)
    meta = Meta(
        step=0,
        images_seen=0,
        recipe=recipe,
        assets={role: AssetUse(name=a.name, sha256=a.sha256, source=a.source) for role, a in method.assets.items()},
        data={kind: _fingerprint(found) for kind, found in files.items()},
    )
    if run is not None:
        meta = _resumed(run, method, average, meta)
    shown = PictureSet(_held_out(workspace.photo_set(recipe.photos.source)) or files["photos"], recipe.train.size)
    loader = BatchLoader(photos, cartoons, recipe, accelerator)
    run = run or workspace.new_run_folder(recipe.style, recipe.train.method)
    try:
        atomic_write_text(run / "recipe.yaml", dump_recipe(recipe))
        atomic_write_text(run / "env.json", json.dumps(_environment(accelerator), indent=1) + "\n")
        meta = fit(method, average, loader, accelerator, run=run, start=meta, shown=shown, progress=progress)
    finally:
        loader.close()
        if not any((run / made).exists() for made in ("stats.jsonl", "samples", "checkpoints")):
            shutil.rmtree(run, ignore_errors=True)  # it failed before it came to anything
    return TrainReport(run, meta.step, meta.train_s, recipe.train.content.network)


def run_to_resume(style: str, workspace: Workspace) -> Path:
    """Return the style's newest run that has a checkpoint.

    Raises:
        CheckpointError: If there is none.
    """
    run = newest_run(workspace, style)
    if run is None:
        raise CheckpointError(f"There is no run of {style} with a checkpoint to resume.", "Start one: stylekit train")
    return run


def _continued(recipe: Recipe, run: Path) -> Recipe:
    """Return the run's own recipe with what may change taken from `recipe`; refuse any other difference."""
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
            f"Leave them as they were, or start a new run from it: stylekit train --set train.init={run}",
        )
    return after


def _differences(a: object, b: object, key: str = "") -> list[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        return [found for k in a for found in _differences(a[k], b.get(k), f"{key}.{k}" if key else str(k))]
    return [] if a == b else [key]


def _resumed(run: Path, method: Method, average: Ema, expected: Meta) -> Meta:
    checkpoint = latest_checkpoint(run)
    before = read_meta(checkpoint)
    for role, now in expected.assets.items():
        then = before.assets.get(role)
        if then is None or then.sha256 != now.sha256:
            raise OtherRunError(
                f"{run} was trained with another {role} network ({then.name if then else 'none'}, now {now.name}).",
                "Make the same file available (stylekit assets ls), or start a new run.",
            )
    for kind, digest in expected.data.items():
        if before.data.get(kind) != digest:
            raise OtherRunError(
                f"The {kind} are not the ones {run} was trained with.",
                f"Bring them back, or start a new run from it: stylekit train --set train.init={run}",
            )
    meta = load_checkpoint(checkpoint, method, average)
    return meta.model_copy(update={"recipe": expected.recipe})


def _start_from(source: Path, method: Method) -> None:
    """Take the averaged generator of a run or checkpoint as the first weights."""
    loaded = load_generator(source)
    try:
        getattr(method.generator, "module", method.generator).load_state_dict(loaded.module.state_dict())
    except RuntimeError as error:
        raise TrainingError(f"{source} holds a network of another size.", "Use the same train.network as that run.") from error


def _fingerprint(files: list[PictureFile]) -> str:
    """Digest of names and sizes in order: what the sampler's indices mean."""
    return sha256_bytes("\n".join(f"{f.path.name} {f.path.stat().st_size}" for f in files).encode())


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
    for package in ("stylekit", "torch", "accelerate", "numpy", "scikit-image", "safetensors"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
