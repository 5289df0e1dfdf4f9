"""Upstream's own code, step by step: a child under the compatibility layer that does one thing each time it is told.

Its classes and functions run as they are published. Arrays travel in safetensors files; pictures are B, G, R and channels last.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from safetensors.numpy import load_file, save_file

from stylekit.modelscope.runtime.child import Job, Link
from stylekit.modelscope.runtime.process import Child, Event

GRAY_DRAWS = ("random_uniform", "random_uniform_1", "random_uniform_2")
"""Upstream's draws of the gray weights by name, in the order blue, green, red."""

SEGMENTS = 200

_ROOT = Path(__file__).parents[1]
_PARTS = (
    ("backward", re.compile(r"^gradients")),
    ("optimizer", re.compile(r"^Adam|/Adam")),
    ("generator", re.compile(r"^generator/")),
    ("discriminators", re.compile(r"^disc_")),
    ("content", re.compile(r"^(conv\d_\d|pool\d)")),
)
"""Parts of a step by the names of operations in upstream's graph, the first that fits."""


class Upstream:
    """The parent's side.

    Args:
        task: A function of this module.
        job: Its arguments.
        folder: For what passes between the two.

    Attributes:
        pid: Of the child.
        found: What it said when it was ready.
    """

    def __init__(self, task: str, job: Mapping[str, Any], folder: Path) -> None:
        self._orders = folder / "orders"
        os.mkfifo(self._orders)
        given = {**job, "orders": str(self._orders), "folder": str(folder)}
        where = {"PYTHONPATH": str(_ROOT)}
        self._child = Child(f"benchmarks.upstream:{task}", given, f"Upstream's {task}", environment=where)

    def __enter__(self) -> Self:
        self._pipe = os.open(self._orders, os.O_RDWR)
        self._child.__enter__()
        try:
            self._events = self._child.events()
            self.found: Event = next(self._events)
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        self.pid: int = self.found["pid"]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._pipe)
        self._child.__exit__(kind, error, trace)

    def ask(self, **order: Any) -> Event:
        """Tell the child to do something, and return what it reports of it."""
        os.write(self._pipe, (json.dumps(order) + "\n").encode())
        return next(self._events)


def _orders(job: Job) -> Iterator[Job]:
    with Path(job["orders"]).open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def train(job: Job, link: Link) -> Job:
    """Take steps of CartoonTranslationTrainer with its own tensors and its own superpixels, in the order of its own loop.

    The job has `model`, a folder it starts from, and `weights`, all its tensors; each order `batch`, a file of photo and cartoon,
    `gray`, the [2, 3] weights B, G, R of both updates in place of what it draws, and `trace`, whether to find out the parts.
    Reported are seconds, losses, and with `trace` seconds by part.
    """
    import tensorflow as tf
    from modelscope.models.cv.cartoon import simple_superpixel
    from modelscope.trainers.cv.cartoon_translation_trainer import CartoonTranslationTrainer

    trainer: Any = CartoonTranslationTrainer(job["model"], work_dir=str(Path(job["folder"]) / "work"))
    session = trainer._session
    weights = load_file(job["weights"])
    for variable in tf.global_variables():
        variable.load(weights[variable.op.name], session)
    link.tell("ready", pid=os.getpid(), version=tf.__version__)
    for number, order in enumerate(_orders(job)):
        given = load_file(order["batch"])
        gray = np.asarray(order["gray"], np.float32)
        traced = _Traces(tf) if order["trace"] else None
        how = traced.options if traced else {}

        began = time.perf_counter()
        made = session.run(trainer.output_cartoon, {trainer.input_photo: given["photo"]}, **how)
        forward = time.perf_counter()
        target = simple_superpixel(made, seg_num=SEGMENTS)
        painted = time.perf_counter()
        feed = {
            trainer.input_photo: given["photo"],
            trainer.input_superpixel: target,
            trainer.input_cartoon: given["cartoon"],
        }
        g_loss, _ = session.run([trainer.g_loss, trainer.g_optim], feed | _drawn(gray[0]), **how)
        g_part = traced.take() if traced else {}
        d_loss, _, summary = session.run([trainer.d_loss, trainer.d_optim, trainer.summary_op], feed | _drawn(gray[1]), **how)
        trainer.train_writer.add_summary(summary, number)
        ended = time.perf_counter()

        parts = {}
        if traced:
            updates = _shared(_sum(g_part, traced.take()), ended - painted)
            parts = _sum(updates, {"generator": forward - began, "superpixel": painted - forward})
        link.tell("step", seconds=ended - began, losses={"g_loss": float(g_loss), "d_loss": float(d_loss)}, parts=parts)
    return {}


class _Traces:
    """The time of every operation of a session's run, by part."""

    def __init__(self, tf: Any) -> None:
        self._metadata = tf.RunMetadata()
        self.options = {
            "options": tf.RunOptions(trace_level=tf.RunOptions.FULL_TRACE),
            "run_metadata": self._metadata,
        }

    def take(self) -> dict[str, float]:
        """Return the seconds of the last run by part, those of operations that ran at once each by itself."""
        found: dict[str, float] = defaultdict(float)
        for device in self._metadata.step_stats.dev_stats:
            for node in device.node_stats:
                part = next((name for name, form in _PARTS if form.search(node.node_name)), "other")
                found[part] += (node.op_end_rel_micros - node.op_start_rel_micros) / 1e6
        return dict(found)


def _sum(*found: Mapping[str, float]) -> dict[str, float]:
    return {name: sum(each.get(name, 0.0) for each in found) for name in dict.fromkeys(n for each in found for n in each)}


def _shared(parts: Mapping[str, float], whole: float) -> dict[str, float]:
    """Return the parts as shares of a whole, since operations that ran at once took longer together."""
    return {name: whole * part / sum(parts.values()) for name, part in parts.items()}


def _drawn(gray: np.ndarray[Any, Any]) -> dict[str, Any]:
    return {f"{name}:0": gray[index : index + 1] for index, name in enumerate(GRAY_DRAWS)}


def stylize(job: Job, link: Link) -> Job:
    """Run pictures through a frozen graph. The job has `graph`; each order `photo`, a file of levels, and `into`."""
    import tensorflow as tf

    graph = tf.GraphDef.FromString(Path(job["graph"]).read_bytes())
    with tf.Graph().as_default(), tf.Session() as session:
        tf.import_graph_def(graph, name="model")
        link.tell("ready", pid=os.getpid(), version=tf.__version__)
        for order in _orders(job):
            levels = load_file(order["photo"])["photo"]
            began = time.perf_counter()
            made = session.run("model/output_image:0", {"model/input_image:0": levels})
            elapsed = time.perf_counter() - began
            if order["into"]:
                save_file({"stylized": np.ascontiguousarray(made)}, order["into"])
            link.tell("picture", seconds=elapsed)
    return {}
