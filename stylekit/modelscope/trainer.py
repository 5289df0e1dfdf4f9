"""`stylekit train --engine modelscope`: upstream's own trainer on our data sets, its results in a run folder like any other.

Beside what every run holds, `upstream/` has what upstream's CartoonTranslationTrainer itself writes: `saved_models/model-N`,
`images/`, `train_log/` (TensorBoard), and `upstream.log` with what it prints, which stays where upstream fails. Upstream counts
steps from 0: its `model-99` is our `step-000100`.
"""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image
from safetensors.numpy import save_file

from stylekit.assets import Resolved, resolve
from stylekit.config.schema import Recipe
from stylekit.data.datasets import PictureFile
from stylekit.engine.checkpoint import Meta, checkpoint_folders, latest_checkpoint, read_meta
from stylekit.engine.exchange import tf_arrays
from stylekit.engine.log import TrainingLog
from stylekit.engine.preview import PHOTOS
from stylekit.engine.start import Start, read_start
from stylekit.engine.train import (
    TrainingPictures,
    TrainReport,
    check_unchanged,
    continued,
    first_meta,
    resumed,
    run_folder,
    training_pictures,
    versions,
)
from stylekit.engine.trainer import stop_on_interrupt
from stylekit.errors import DataError, Interrupted, TrainingError, UsageError
from stylekit.images import read_rgb, write_image
from stylekit.modelscope.graph.folder import CONFIGURATION_FILE
from stylekit.modelscope.graph.weights import Arrays, discriminator_arrays, generator_arrays, optimizer_arrays
from stylekit.modelscope.runtime.process import Child, require_packages, visible_devices
from stylekit.nn.vgg import Vgg, load_vgg19_caffe
from stylekit.paths import Workspace, atomic_write_text
from stylekit.progress import Progress, silent

UPSTREAM, LOG = "upstream", "upstream.log"
SMALLEST_BATCH = 16
"""Upstream's preview is a grid of 4 x 4 pictures of the batch (`write_batch_image` in its models/cv/cartoon/utils.py)."""

_PURPOSE = "Upstream's trainer"
_TASK = "stylekit.modelscope.steps:train"
_CONTENT, _CONTENT_LAYER = "vgg19-caffe", "conv4_4"  # the last that upstream's Vgg19 builds (its models/cv/cartoon/loss.py)


class _UpstreamError(TrainingError):
    """Upstream's code failed; what it printed says more."""


def check(recipe: Recipe, *, workspace: Workspace | None = None, device: str | None = None, resume: bool = False) -> None:
    """Refuse what can be refused before any picture is made or read, and without TensorFlow.

    Args:
        recipe: What to train and how; its `train.engine` is `modelscope`.
        workspace: As `train` takes it; nothing in it is asked for.
        device: As `train` takes it.
        resume: A run goes on, with the weights it has.

    Raises:
        UsageError: If the batch is smaller than upstream can take, or TensorFlow cannot use such a device.
        MissingPartError: If a package that upstream imports is not installed.
        AssetError: If `vgg19.npy` is missing, or is not that; or a published style to start from cannot be had.
        CheckpointError: If there is nothing to start from, or it is damaged.
        TrainingError: If it does not fit the recipe.
    """
    visible_devices(device or "auto")
    _check_batch(recipe.train.batch_size)
    require_packages(_PURPOSE)
    _content_network()
    if not resume:
        read_start(recipe)


def train(
    recipe: Recipe,
    *,
    workspace: Workspace | None = None,
    resume: bool = False,
    device: str | None = None,
    progress: Progress = silent,
) -> TrainReport:
    """Train a style with upstream's CartoonTranslationTrainer, unmodified, in a child process.

    Args:
        recipe: What to train and how; its `train.engine` is `modelscope`.
        workspace: The project; the current folder by default.
        resume: Go on with the style's newest run, from its newest checkpoint.
        device: `cpu`, `cuda` or `cuda:1`; None takes what TensorFlow finds.
        progress: Shows rate, time left and losses.

    Raises:
        UsageError: If the batch is smaller than upstream can take, or TensorFlow does not see the device.
        MissingPartError: If a package that upstream imports is not installed.
        DataError: If a data set is missing or smaller than the batch.
        ImageError: If a picture cannot be decoded.
        AssetError: If `vgg19.npy` is missing, or is not that.
        CheckpointError: If there is nothing to resume, or the recipe, data or frozen network are others than before.
        Interrupted: After Ctrl-C; the step is finished and saved.
        TrainingError: If the weights to start from do not fit, another process trains in the run, a loss or a weight of the
            generator is not finite, or upstream's code fails.
    """
    workspace = workspace or Workspace()
    with resumed(recipe.style, workspace, recipe.train.method) if resume else nullcontext() as run:
        return _train(recipe, workspace, run, device, progress)


def _train(recipe: Recipe, workspace: Workspace, run: Path | None, device: str | None, progress: Progress) -> TrainReport:
    environment = visible_devices(device or "auto")
    recipe = _with_its_content_network(continued(recipe, run) if run else recipe)
    checkpoint = latest_checkpoint(run) if run else None
    before = read_meta(checkpoint) if checkpoint else None
    finished = before is not None and before.step >= recipe.train.max_steps
    if not finished:
        _check_batch(recipe.train.batch_size)
        require_packages(_PURPOSE)
    pictures = training_pictures(recipe, workspace)
    _check_pictures(pictures, recipe.train.batch_size)
    content, vgg = _content_network()
    start = None if run else read_start(recipe)
    meta = first_meta(recipe, {"content": content}, pictures, start)
    arrays: Arrays = {}
    if run and before and checkpoint:
        check_unchanged(run, before, meta)
        meta = before.model_copy(update={"recipe": recipe})
        if finished:
            return TrainReport(run, meta.step, meta.train_s, recipe.train.content.network)
        arrays = tf_arrays(checkpoint)
    elif start:
        arrays = _starting(start)

    said = {"python": platform.python_version(), "platform": platform.platform(), "engine": recipe.train.engine}
    said |= {"device": device or "auto"} | versions("stylekit", "modelscope", "tensorflow", "tf_slim", "numpy", "scikit-image")
    with TemporaryDirectory() as scratch, run_folder(recipe, workspace, said, run) as folder:
        job = {
            "model": str(_model_folder(Path(scratch), folder / UPSTREAM, recipe, pictures, vgg)),
            "weights": str(_saved(arrays, Path(scratch) / "start.safetensors")),
            "start": meta.model_dump(mode="json"),
            "run": str(folder.resolve()),
            "shown": [str(file) for file in _gather(pictures.shown[:PHOTOS], Path(scratch) / "shown")],
            "device": device,
        }
        try:
            with _undecodable_named(pictures):
                meta = _follow(job, meta, folder, said=said, environment=environment, progress=progress)
        except BaseException as failure:
            if not isinstance(failure, _UpstreamError) and not (folder / "stats.jsonl").is_file():
                shutil.rmtree(folder / UPSTREAM, ignore_errors=True)
            raise
    return TrainReport(folder, meta.step, meta.train_s, recipe.train.content.network)


@contextmanager
def _undecodable_named(pictures: TrainingPictures) -> Iterator[None]:
    """Name the picture that cannot be decoded, if that was why upstream's code failed."""
    try:
        yield
    except _UpstreamError as failure:
        if "InvalidArgument" in failure.message:
            for file in (*pictures.photos, *pictures.cartoons):
                file.read()
        raise


def _with_its_content_network(recipe: Recipe) -> Recipe:
    """Name the content network where the recipe leaves it open; upstream knows one."""
    content = recipe.train.content.model_copy(update={"network": _CONTENT})
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"content": content})})


def _content_network() -> tuple[Resolved, Vgg]:
    content = resolve("content", prefer=_CONTENT)
    return content, load_vgg19_caffe(content.path, _CONTENT_LAYER)


def _check_batch(size: int) -> None:
    if size < SMALLEST_BATCH:
        raise UsageError(
            f"Upstream's trainer needs a batch of {SMALLEST_BATCH} or more, since its sample grid shows that many pictures of "
            f"it; the recipe's is {size}.",
            f"Use --batch-size {SMALLEST_BATCH}, or --engine torch.",
        )


def _check_pictures(pictures: TrainingPictures, batch_size: int) -> None:
    try:
        pictures.check(batch_size)
    except DataError as few:
        if min(len(pictures.photos), len(pictures.cartoons)) < SMALLEST_BATCH:
            raise DataError(few.message, "Add pictures, or use --engine torch, which takes smaller batches.") from few
        raise


def _starting(start: Start) -> Arrays:
    """Return what there is to start from by TensorFlow's names; the rest keeps upstream's own fresh values."""
    weights = start.weights
    arrays, taken = generator_arrays(weights.generator), ["the generator"]
    if weights.discriminators is not None:
        arrays |= discriminator_arrays(weights.discriminators)
        taken.append("the discriminators")
        if weights.optimizers is not None:
            arrays |= optimizer_arrays(weights.optimizers, {"generator": weights.generator, **weights.discriminators})
            taken.append("Adam's moments")
    start.log(taken)
    return arrays


def _saved(arrays: Arrays, file: Path) -> Path:
    save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, file)
    return file


def _model_folder(scratch: Path, work_dir: Path, recipe: Recipe, pictures: TrainingPictures, vgg: Vgg) -> Path:
    """Make what upstream's trainer starts from: configuration, content network, and one folder for each kind of pictures."""
    train = recipe.train
    sets = {"photo": pictures.photos, "cartoon": pictures.cartoons}
    for kind, files in sets.items():
        _gather(files, scratch / kind)
    settings = {kind: str(scratch / kind) for kind in sets} | {
        "work_dir": str(work_dir.resolve()),
        "patch_size": train.size,
        "batch_size": train.batch_size,
        "adv_train_lr": train.learning_rate,
        "max_steps": train.max_steps,
        "logging_interval": math.gcd(train.log_every, train.save_every),  # since it saves only where it logs
        "ckpt_period_interval": train.save_every,
        "resume_epoch": 0,
        "num_gpus": 1,
    }
    said = {"framework": "tensorflow", "task": "image-portrait-stylization", "train": settings}
    (scratch / CONFIGURATION_FILE).write_text(json.dumps(said), "utf-8")
    # Upstream unpickles this file, so it gets one that was just made of plain arrays, never the one it came from.
    layers: dict[str, list[Any]] = {}
    for name, layer in vgg.convs.items():
        weights = layer.state_dict()
        layers[name] = [np.ascontiguousarray(weights["weight"].permute(2, 3, 1, 0).numpy()), weights["bias"].numpy()]
    np.save(scratch / "vgg19.npy", np.array(layers, dtype=object), allow_pickle=True)
    return scratch


def _gather(files: Sequence[PictureFile], folder: Path) -> list[Path]:
    """Link pictures into a folder; what TensorFlow would not see, or see otherwise than we do, becomes a PNG file."""
    folder.mkdir()
    for index, file in enumerate(files):
        name = folder / f"{index:06d}"
        if file.span is not None:
            write_image(name.with_suffix(".png"), file.read())
        elif suffix := _suffix_as_it_is(file.path):
            _link(file.path.resolve(), name.with_suffix(suffix))
        else:
            write_image(name.with_suffix(".png"), read_rgb(file.path))
    return sorted(folder.iterdir())


def _suffix_as_it_is(path: Path) -> str | None:
    """Return `.png` or `.jpg` for a picture that TensorFlow reads as we do; it passes over orientation, profile and alpha."""
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as picture:
            exif = Image.Exif()
            exif.load(picture.info.get("exif") or b"")
            upright = exif.get(ExifTags.Base.Orientation, 1) == 1
            plain = picture.mode in ("L", "RGB") and not picture.has_transparency_data and "icc_profile" not in picture.info
            return {"PNG": ".png", "JPEG": ".jpg"}.get(picture.format or "") if upright and plain else None
    except Exception:  # whatever is wrong with it, `read_rgb` will say
        return None


def _link(source: Path, to: Path) -> None:
    for way in (os.symlink, os.link):
        try:
            return way(source, to)
        except OSError:
            continue
    shutil.copyfile(source, to)


def _follow(
    job: Mapping[str, Any],
    start: Meta,
    run: Path,
    *,
    said: Mapping[str, str],
    environment: Mapping[str, str],
    progress: Progress,
) -> Meta:
    """Run the child and log what it reports, to its end or until Ctrl-C."""
    train = start.recipe.train
    (run / UPSTREAM).mkdir(exist_ok=True)
    child = Child(_TASK, job, _PURPOSE, error=_UpstreamError, log=run / UPSTREAM / LOG, environment=environment)
    with child, stop_on_interrupt(child.stop) as stop, progress("Training", total=train.max_steps) as bar:
        bar.advance(start.step)
        events = child.events()
        found = next(events)["found"]
        atomic_write_text(run / "env.json", json.dumps({**said, **found}, indent=1) + "\n")
        log = TrainingLog(run, train.report_to, start.step)
        for event in events:
            step, losses = event["step"], event["losses"]
            log.add(step - 1, {f"loss/{name}": torch.tensor(value) for name, value in losses.items()})
            if event["saved"] or step % train.log_every == 0:
                log.write(step, start.images_seen + (step - start.step) * train.batch_size)
            bar.advance(**losses)
        meta = Meta.model_validate(child.result())
    log.close()
    if stop.is_set() and meta.step < train.max_steps:
        if not checkpoint_folders(run):
            raise Interrupted("Stopped before the first step.", "Start again with the same command.")
        raise Interrupted(f"Stopped after step {meta.step}; everything is saved in {run}.", "Go on with: stylekit train --resume")
    return meta
