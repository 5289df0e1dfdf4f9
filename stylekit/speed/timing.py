"""Repeated calls on a clock, the parts of a step, and the most memory that was held at once."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import torch

from stylekit.speed.memory import GB, resident_bytes

_SAMPLE_S = 0.05


def settle(device: torch.device) -> None:
    """Wait until the device has done all it was given; a CPU already has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the wall time of one call, to the end of what it gave the device."""
    settle(device)
    began = time.perf_counter()
    work()
    settle(device)
    return time.perf_counter() - began


def alternate(
    works: Mapping[str, Callable[[], object]], rounds: int, device: torch.device, *, warm: int = 1
) -> dict[str, list[float]]:
    """Time several works in turns, so that all of them see the same machine.

    Args:
        works: What is timed, by name.
        rounds: Timed calls of each; every second round goes through them backwards.
        device: Where they run.
        warm: Calls of each beforehand that are not timed.

    Returns:
        Seconds of every timed call, by name.
    """
    for work in works.values():
        for _ in range(warm):
            work()
    found: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds):
        for name in list(works)[:: -1 if number % 2 else 1]:
            found[name].append(seconds(works[name], device))
    return found


def median(values: list[float]) -> float:
    """Return the median of what was measured."""
    return statistics.median(values)


class Parts:
    """Seconds by part of a step; a part within another one counts to the outer.

    Args:
        device: Where the work runs; it is waited for at the start and end of every part.
    """

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._device = device
        self._began = 0.0
        self._depth = 0
        self._lock = threading.Lock()  # a network's hooks are called by all threads that a batch is divided among

    def enter(self) -> None:
        """Begin a part."""
        with self._lock:
            if self._depth == 0:
                settle(self._device)
                self._began = time.perf_counter()
            self._depth += 1

    def leave(self, name: str) -> None:
        """End the part that was begun last."""
        with self._lock:
            self._depth -= 1
            if self._depth == 0:
                settle(self._device)
                self.seconds[name] += time.perf_counter() - self._began

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what happens inside to a part."""
        self.enter()
        try:
            yield
        finally:
            self.leave(name)

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with all its calls counted to a part."""

        def counted(*given: Any, **named: Any) -> Any:
            with self.part(name):
                return function(*given, **named)

        return counted


class PeakMemory:
    """The most memory held while inside: what torch reserved of a GPU, or else the resident memory of a process and all below it.

    What torch reserved is what it takes from the card, freed blocks that it keeps among it. CUDA's own context comes on top.

    Args:
        device: Where the work runs.
        pid: The process, this one by default.
        alone: Leave out the processes below it.

    Attributes:
        bytes: The peak, once outside. Resident memory is looked at 20 times a second, so a shorter peak may be missed.
    """

    def __init__(self, device: torch.device, pid: int | None = None, *, alone: bool = False) -> None:
        self.bytes = 0
        self._alone = alone
        self._device, self._pid = device, pid or os.getpid()
        self._end = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    @property
    def gb(self) -> float:
        """The peak in units of 10^9 bytes."""
        return self.bytes / GB

    def __enter__(self) -> Self:
        if self._device.type == "cuda":
            torch.cuda.init()  # type: ignore[no-untyped-call]  # a device with an index has no statistics before
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            self._watcher.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._device.type == "cuda":
            self.bytes = torch.cuda.max_memory_reserved(self._device)
            return
        self._end.set()
        self._watcher.join()

    def _watch(self) -> None:
        while True:
            self.bytes = max(self.bytes, resident_bytes(self._pid, alone=self._alone))
            if self._end.wait(_SAMPLE_S):
                return
