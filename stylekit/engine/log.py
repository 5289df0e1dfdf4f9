"""`stats.jsonl`: one line each time the loop logs; TensorBoard beside it where the recipe asks for it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stylekit.engine.checkpoint import checkpoint_folders
from stylekit.errors import MissingPartError, TrainingError
from stylekit.paths import atomic_write_text


def diverged(message: str, run: Path) -> TrainingError:
    """Return the error of a run whose numbers are no longer finite, with where to begin anew."""
    start = f" from its last checkpoint: --init {run}" if checkpoint_folders(run) else "."
    return TrainingError(message, f"Start anew with a lower train.learning_rate{start}")


class TrainingLog:
    """Collects losses on the device and writes their means, so that the loop waits for the device only when it logs.

    Args:
        run: The run folder.
        report_to: `none` or `tensorboard`.
        first_step: Lines at or after this step (of a run that was cut off after its last checkpoint) are dropped.

    Raises:
        MissingPartError: If TensorBoard is asked for and not installed.
    """

    def __init__(self, run: Path, report_to: str, first_step: int) -> None:
        self._file = run / "stats.jsonl"
        self._pending: list[tuple[int, dict[str, Tensor]]] = []
        self._since = time.perf_counter()
        self._writer: Any = None
        if self._file.is_file():
            kept = [row for row in self._file.read_text("utf-8").splitlines() if _step(row) <= first_step]
            atomic_write_text(self._file, "".join(row + "\n" for row in kept))
        if report_to == "tensorboard":
            try:
                from torch.utils.tensorboard.writer import SummaryWriter
            except ImportError as error:
                raise MissingPartError("tensorboard", "tensorboard", "--report-to tensorboard") from error
            self._writer = SummaryWriter(str(run / "tensorboard"), purge_step=first_step)

    def add(self, step: int, losses: dict[str, Tensor]) -> None:
        """Keep the losses of one step."""
        self._pending.append((step, losses))

    def _means(self) -> dict[str, float]:
        sums: dict[str, list[float]] = {}
        values = [value for _, losses in self._pending for value in losses.values()]
        numbers = iter(torch.stack(values).tolist() if values else ())  # one wait for the device, not one for each loss
        for step, losses in self._pending:
            for name in losses:
                number = next(numbers)
                if not math.isfinite(number):
                    raise diverged(f"{name} became {number} at step {step}.", self._file.parent)
                sums.setdefault(name, []).append(number)
        self._pending.clear()
        return {name: sum(values) / len(values) for name, values in sums.items()}

    def write(self, step: int, images_seen: int) -> None:
        """Append one line: the mean of each loss since the last line, and the time a step took; `step` counts the steps done.

        Raises:
            TrainingError: If any loss was not a finite number; the message names the step and the loss.
        """
        count = len(self._pending)
        values = self._means()
        now = time.perf_counter()
        if not count:
            return
        values |= {"images_seen": images_seen, "time/step_s": (now - self._since) / count}
        self._since = now
        with self._file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, **values}) + "\n")
        self.scalars(step, values)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done inside does not count as the time of a step."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._since += time.perf_counter() - began

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Show figures in TensorBoard, where that is asked for."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush what is buffered."""
        if self._writer is not None:
            self._writer.close()


def _step(row: str) -> int:
    try:
        return int(json.loads(row)["step"])
    except (ValueError, KeyError, TypeError):
        return 1 << 62
