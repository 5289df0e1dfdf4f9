"""The one training loop: batch, step, average, and at intervals log, sample, evaluate and save. It never learns a loss's name."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor

from stylekit.config.schema import Recipe
from stylekit.data.augment import draw_affine, transform
from stylekit.data.datasets import PictureSet
from stylekit.data.sampler import EndlessSampler, generator_for
from stylekit.engine.checkpoint import Meta, save_checkpoint
from stylekit.engine.evaluations import is_due, is_over
from stylekit.engine.log import TrainingLog, diverged
from stylekit.engine.page import update_run_page
from stylekit.engine.preview import write_sample_sheet
from stylekit.engine.selection import HeldOut, Selection, rewind
from stylekit.errors import Interrupted
from stylekit.images import from_levels
from stylekit.methods.base import Batch, Drawn, Method, StepContext
from stylekit.nn.device import send
from stylekit.nn.ema import Ema
from stylekit.progress import Progress

_READERS = 4
_AHEAD = 2

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Read:
    indices: list[int]
    levels: Tensor
    affine: Tensor | None


class BatchLoader:
    """Batches by step, the next two read while the current one is used.

    Pictures travel to the device as bytes, and are converted, flipped, zoomed and turned there.

    Args:
        photos: Photographs, with superpixels behind them if the recipe asks for those of the photo.
        cartoons: Cartoons.
        recipe: Batch size, seed, preset and geometry.
        accelerator: Its processes draw different batches.
    """

    def __init__(self, photos: PictureSet, cartoons: PictureSet, recipe: Recipe, accelerator: Accelerator) -> None:
        self._sets = {"photo": photos, "cartoon": cartoons}
        self._recipe, self._accelerator = recipe, accelerator
        epochs = recipe.train.preset != "upstream"
        self._samplers = {
            name: EndlessSampler(len(pictures), recipe.train.batch_size, recipe.seed, name, epochs=epochs)
            for name, pictures in self._sets.items()
        }
        self._readers = ThreadPoolExecutor(_READERS)
        self._ahead = ThreadPoolExecutor(1)
        self._next: dict[int, Future[dict[str, _Read]]] = {}

    def index(self, step: int) -> int:
        """Return which batch of the endless sequence this process takes at a step."""
        return int(step * self._accelerator.num_processes + self._accelerator.process_index)

    def _read(self, step: int) -> dict[str, _Read]:
        pinned = self._accelerator.device.type == "cuda"
        augment = self._recipe.train.augment
        found = {}
        for name, sampler in self._samplers.items():
            indices = sampler.indices(self.index(step))
            levels = torch.from_numpy(self._sets[name].batch(indices, self._readers))
            affine = None
            if augment.flip or augment.scale != (1.0, 1.0) or augment.rotate_deg:
                generator = generator_for(self._recipe.seed, f"augment_{name}", self.index(step))
                affine = draw_affine(len(indices), augment, generator)
            if pinned:
                levels, affine = levels.pin_memory(), None if affine is None else affine.pin_memory()
            found[name] = _Read(indices, levels, affine)
        return found

    def get(self, step: int) -> Batch:
        """Return the batch of a step on the accelerator's device.

        Raises:
            ImageError: If a picture cannot be read.
        """
        ahead = self._next.pop(step, None)
        self._next = {n: self._next.get(n) or self._ahead.submit(self._read, n) for n in range(step + 1, step + 1 + _AHEAD)}
        read = ahead.result() if ahead else self._read(step)
        photo, cartoon = (self._on_device(read[name]) for name in ("photo", "cartoon"))
        drawn = None
        if self._recipe.train.cache_photo_features:
            affine = read["photo"].affine
            mirrored = [False] * len(photo[0]) if affine is None else (affine[:, 0, 0] < 0).tolist()
            drawn = Drawn(self._sets["photo"], tuple(zip(read["photo"].indices, mirrored, strict=True)))
        return Batch(photo[0], cartoon[0], photo[1] if len(photo) > 1 else None, drawn)

    def _on_device(self, read: _Read) -> list[Tensor]:
        """Return the pictures, and what was derived from them, as bytes sent to the device and made ready there."""
        device = self._accelerator.device
        levels = send(read.levels, device)
        pictures = [from_levels(levels[..., c : c + 3]) for c in range(0, levels.shape[-1], 3)]
        if read.affine is None:
            return pictures
        affine = send(read.affine, device)
        return [transform(part, affine) for part in pictures]

    def close(self) -> None:
        """Stop reading ahead."""
        self._ahead.shutdown(cancel_futures=True)
        self._readers.shutdown(cancel_futures=True)


@contextmanager
def stop_on_interrupt(then: Callable[[], None] = lambda: None) -> Iterator[threading.Event]:
    """While inside, the first Ctrl-C only sets the event and calls `then`; a second one interrupts at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def note(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        _LOG.warning("Finishing this step, then saving; Ctrl-C again ends at once.")
        then()

    previous = signal.signal(signal.SIGINT, note)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, previous)


def fit(
    method: Method,
    average: Ema,
    loader: BatchLoader,
    accelerator: Accelerator,
    *,
    run: Path,
    start: Meta,
    shown: PictureSet,
    progress: Progress,
    held_out: HeldOut | None = None,
    saved: Callable[[Path], None] | None = None,
) -> Meta:
    """Train from `start` to the recipe's last step, or until `train.patience` ends it.

    What is measured on the way changes no weight. The main process measures, the others wait for it.

    Args:
        method: A built method, holding the weights of `start`.
        average: The generator's running mean, likewise.
        loader: Batches by step.
        accelerator: Device and precision.
        run: The run folder.
        start: Where training stands.
        shown: Photographs of the sample sheets.
        progress: Shows rate and time left.
        held_out: Measures the running mean every `train.eval_every` steps; only the main process needs it.
        saved: Called with every checkpoint that was written.

    Returns:
        Where training stands afterwards.

    Raises:
        Interrupted: After Ctrl-C; the step is finished and saved.
        TrainingError: If a loss or a weight of the generator is not finite.
    """
    recipe = start.recipe
    train = recipe.train
    log = TrainingLog(run, train.report_to, start.step)
    meta = start
    spent_before, began = start.train_s, time.perf_counter()
    over = is_over(run, train, start.step)
    if accelerator.is_main_process:
        rewind(run, start.step)
    selection = Selection(run, held_out, train, log) if held_out else None
    if selection is not None:
        selection.catch_up(average.network, start)
        over = over or selection.ends

    with stop_on_interrupt() as stop, progress("Training", total=train.max_steps) as bar:
        bar.advance(start.step)
        for step in range(start.step, start.step if over else train.max_steps):
            generator = generator_for(recipe.seed, "method", loader.index(step))
            result = method.step(loader.get(step), StepContext(step, generator))
            done = step + 1
            images = train.batch_size * accelerator.num_processes
            meta = meta.model_copy(update={"step": done, "images_seen": meta.images_seen + images})
            average.update(method.generator, images, meta.images_seen)
            log.add(step, result.losses)
            stopped = stop.is_set()  # asked once: a Ctrl-C from here on finishes the next step, which is then saved
            first = done == 1 and train.preset == "upstream"  # whose first checkpoint is model-0
            due = is_due(train, done)
            evaluation = None
            if due:
                if selection is not None:
                    _check_finite(method, step, run)
                    evaluation = selection.evaluate(average.network, meta)
                over = broadcast_object_list([selection is not None and selection.ends])[0]
            last = stopped or over or done == train.max_steps
            save = first or last or done % train.save_every == 0 or (evaluation is not None and evaluation.best)
            if accelerator.is_main_process:
                if save or done % train.log_every == 0:
                    log.write(meta.step, meta.images_seen)
                if save:
                    _check_finite(method, step, run)
                if last or done % train.sample_every == 0:
                    write_sample_sheet(run / "samples" / f"step-{done:06d}.jpg", average.network, shown)
                if save:
                    meta = meta.model_copy(update={"train_s": spent_before + time.perf_counter() - began})
                    checkpoint = save_checkpoint(run, method, average, meta, train.keep_checkpoints)
                    if saved is not None:
                        saved(checkpoint)
                if selection is not None and evaluation is not None:
                    selection.record(evaluation)
                if save and not last:
                    with log.paused():
                        update_run_page(run)
            bar.advance()
            if stopped and done < train.max_steps:
                log.close()
                raise Interrupted(
                    f"Stopped after step {done}; everything is saved in {run}.", "Go on with: stylekit train --resume"
                )
            if over:
                break
    if selection is not None:
        selection.conclude()
    if over and meta.step < train.max_steps:
        _LOG.info(
            "Training ended at step %d: %d evaluations in a row were not noticeably better (train.patience). "
            "To train on, use --resume --patience 0.",
            meta.step,
            train.patience,
        )
    log.close()
    return meta


def _check_finite(method: Method, step: int, run: Path) -> None:
    if not all(torch.isfinite(weight).all() for weight in method.generator.parameters()):
        raise diverged(f"The generator's weights are no longer finite at step {step}.", run)
