"""In the child: upstream's CartoonTranslationTrainer, watched step by step.

Its classes run as they are. What is replaced are names that its module looks up and attributes of its instance: the progress bar
around its loop, which is where a step begins and ends; the writer of its summaries, which knows the losses; the file names of its
pictures, which have spaces in them; and the seeds.
"""

from __future__ import annotations

import math
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from stylekit.data.datasets import PictureFile, PictureSet
from stylekit.data.sampler import generator_for
from stylekit.engine.checkpoint import Meta, write_checkpoint_folder
from stylekit.engine.exchange import native_state
from stylekit.engine.log import diverged
from stylekit.engine.preview import write_sample_sheet
from stylekit.engine.train import hold
from stylekit.errors import TrainingError
from stylekit.modelscope.graph.weights import Arrays, generator_from
from stylekit.modelscope.runtime.child import Job, Link
from stylekit.modelscope.runtime.device import found_device


def train(job: Job, link: Link) -> Job:
    """Train from `start` to its recipe's last step, or until the parent says stop or is gone.

    Args:
        job: `model`, a folder that upstream's trainer starts from; `weights`, a safetensors file of TensorFlow's names with what
            to start from; `start`, a `Meta`; `run`, its folder; `shown`, photographs of the sample sheets; `device`.
        link: Hears `ready` with what was found, and `step` after every step.

    Returns:
        The `Meta` at the end.
    """
    import tensorflow as tf
    from modelscope.trainers.cv import cartoon_translation_trainer as upstream

    start, run = Meta.model_validate(job["start"]), Path(job["run"])
    found = found_device(tf, job["device"], link)
    _seed(tf, generator_for(start.recipe.seed, "init", start.step).initial_seed() % 2**31)
    with hold(run, child=True), _named_memory(tf, start):
        trainer: Any = upstream.CartoonTranslationTrainer(model=job["model"])
        _assign(tf, trainer._session, load_file(job["weights"]))
        trainer.face_photo_list.sort()
        trainer.face_cartoon_list.sort()
        shown = PictureSet([PictureFile(Path(path)) for path in job["shown"]], start.recipe.train.size)
        watch = _Watch(tf, trainer, start, run, shown=shown, link=link)
        write_grid = upstream.write_batch_image
        upstream.write_batch_image = lambda pictures, folder, name, side: write_grid(
            pictures, folder, name.replace(" ", "0"), side
        )
        upstream.tqdm = watch.steps
        link.tell("ready", found=found)
        trainer.train()
        trainer.train_writer.close()
    return watch.meta.model_dump(mode="json")


@contextmanager
def _named_memory(tf: Any, start: Meta) -> Iterator[None]:
    """Say in our words that TensorFlow's memory did not suffice."""
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        train = start.recipe.train
        raise TrainingError(
            f"TensorFlow's memory does not suffice for a batch of {train.batch_size} pictures of {train.size} px.",
            "Use a smaller train.size, or --device cpu.",
        ) from error


class _Watch:
    """Stands where upstream's loop has its progress bar.

    Attributes:
        meta: Where training stands.
    """

    def __init__(self, tf: Any, trainer: Any, start: Meta, run: Path, *, shown: PictureSet, link: Link) -> None:
        self.meta = start
        self._start, self._run, self._shown, self._link = start, run, shown, link
        self._tf, self._trainer = tf, trainer
        self._saved_models = Path(trainer.params["work_dir"]) / "saved_models"
        self._losses: dict[str, float] = {}
        self._began = time.perf_counter()
        add = trainer.train_writer.add_summary

        def note(summary: bytes, step: int) -> None:
            self._losses = {value.tag.removesuffix("_loss"): value.simple_value for value in tf.Summary.FromString(summary).value}
            add(summary, step)

        trainer.train_writer.add_summary = note

    def steps(self, counted: range) -> Iterator[int]:
        """Yield the numbers of the steps still to do, counted from 0 as upstream does, and look after each that was done."""
        if not self._link.stopping.is_set():
            for index in counted[self._start.step :]:
                yield index
                if self._done(index + 1):
                    return

    def _done(self, step: int) -> bool:
        """Look after a step that was done, and return whether it was the last."""
        for name, value in self._losses.items():
            if not math.isfinite(value):
                raise diverged(f"loss/{name} became {value} at step {step - 1}.", self._run)
        train = self._start.recipe.train
        last = step == train.max_steps or self._link.stopping.is_set()
        save = step == 1 or last or step % train.save_every == 0
        draw = last or step % train.sample_every == 0
        images = self._start.images_seen + (step - self._start.step) * train.batch_size
        self.meta = self.meta.model_copy(update={"step": step, "images_seen": images})
        if save or draw:
            arrays = self._arrays()
            if not all(np.isfinite(array).all() for name, array in arrays.items() if name.startswith("generator/")):
                raise diverged(f"The generator's weights are no longer finite at step {step - 1}.", self._run)
            if draw:
                write_sample_sheet(self._run / "samples" / f"step-{step:06d}.jpg", generator_from(arrays), self._shown)
            if save:
                self._save(arrays)
        self._link.tell("step", step=step, losses=self._losses, saved=save)
        return last

    def _save(self, arrays: Arrays) -> None:
        """Save in upstream's form, where its loop has not just done so, and in ours; of either, keep the newest.

        Upstream's `model-0` stays with them, since the scripts of its model cards export it.
        """
        train, step = self._start.recipe.train, self.meta.step
        prefix = self._saved_models / "model"
        if f"{prefix}-{step - 1}" not in self._trainer.saver.last_checkpoints:
            self._trainer.saver.save(self._trainer._session, str(prefix), global_step=step - 1, write_meta_graph=False)
        self._trainer.train_writer.flush()
        spent = self._start.train_s + time.perf_counter() - self._began
        self.meta = self.meta.model_copy(update={"train_s": spent})
        weights, states = native_state(arrays, step, learning_rate=train.learning_rate)
        write_checkpoint_folder(self._run, weights, states, self.meta, train.keep_checkpoints)
        numbers = sorted(int(file.stem[6:]) for file in self._saved_models.glob("model-*.index"))
        for old in filter(None, numbers[: -train.keep_checkpoints]):
            for file in self._saved_models.glob(f"model-{old}.*"):
                file.unlink()

    def _arrays(self) -> Arrays:
        variables = {variable.op.name: variable for variable in self._tf.global_variables()}
        found: Arrays = self._trainer._session.run(variables)
        return found


def _seed(tf: Any, seed: int) -> None:
    """Make what upstream draws depend on the seed: fresh weights, gray weights, and which pictures make a batch.

    Its loop starts its shuffles anew at every step, and a shuffle under a graph's seed then gives the same batch every time; so
    each start of one gets a seed of its own, drawn under the graph's.
    """
    random.seed(seed)
    np.random.seed(seed)
    reset, shuffle = tf.reset_default_graph, tf.data.Dataset.shuffle

    def reset_and_seed() -> None:
        reset()
        tf.set_random_seed(seed)

    tf.reset_default_graph = reset_and_seed
    tf.data.Dataset.shuffle = lambda data, count: shuffle(data, count, seed=tf.random.uniform((), 0, sys.maxsize, tf.int64))


def _assign(tf: Any, session: Any, arrays: Arrays) -> None:
    """Give the trainer's variables these values, Adam's slots and powers among them; the others keep what they have."""
    variables = {variable.op.name: variable for variable in tf.global_variables()}
    if unknown := sorted(arrays.keys() - variables.keys()):
        raise TrainingError(f"Upstream's trainer has no variable {unknown[0]}.")
    for name, array in arrays.items():
        variables[name].load(array, session)
