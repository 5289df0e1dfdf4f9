"""One measurement in a process of its own, with a cap on its memory and on its time.

So its peak memory is its own, and what does not fit ends alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal

import psutil

from stylekit import process
from stylekit.errors import StylekitError
from stylekit.speed.memory import GB, resident_bytes

Job = dict[str, Any]
State = Literal["measured", "over memory", "over time", "failed"]

_LOOK_S = 0.1
_FULL = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "bad_alloc",
    "Unable to allocate",
    "Cannot allocate memory",
)


@dataclass(frozen=True)
class Outcome:
    """What came of a measurement.

    Attributes:
        state: Whether there is a result, and if not, why.
        result: What the task returned; empty where there is none.
        reason: A sentence where there is no result.
        hint: The next step, where one is known.
    """

    state: State
    result: Job = field(default_factory=dict)
    reason: str = ""
    hint: str = ""


def measure_apart(
    task: str,
    job: Mapping[str, Any],
    *,
    memory_gb: float | None = None,
    limit_s: float | None = None,
    environment: Mapping[str, str] | None = None,
) -> Outcome:
    """Carry out a task in a new process.

    Args:
        task: `module:function`; it takes the job and returns what JSON can hold.
        job: Its arguments; what JSON can hold.
        memory_gb: Most resident memory of the process and all below it, in 10^9 bytes; a task that uses CUDA caps itself.
        limit_s: Most seconds it may take, its start among them.
        environment: Variables to set for it beside the process's own.

    Returns:
        The result, or why there is none; a task that exceeds a limit is ended.
    """
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(
            [sys.executable, "-m", "stylekit.speed.apart"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            env={**os.environ, "PYTHONSAFEPATH": "1", **(environment or {})},
        )
        ended: list[Outcome] = []
        watcher = threading.Thread(target=_watch, args=(child, memory_gb, limit_s, ended), daemon=True)
        watcher.start()
        try:
            answer, _ = child.communicate(json.dumps({"task": task, "job": dict(job)}).encode())
        finally:
            _end(child)
            watcher.join()
        if ended:
            return ended[0]
        if child.returncode == 0 and answer:
            return Outcome(**json.loads(answer))
        said.seek(0, os.SEEK_END)
        said.seek(max(0, said.tell() - 4096))
        last = said.read().decode("utf-8", "replace").strip().splitlines()[-1:] or ["it said nothing"]
    if child.returncode == -9:
        return Outcome("over memory", reason="The system ended the process, as it does when memory runs out.")
    return _failed(f"The process ended with code {child.returncode}: {last[0]}")


def _watch(child: subprocess.Popen[bytes], memory_gb: float | None, limit_s: float | None, ended: list[Outcome]) -> None:
    began = time.monotonic()
    while child.poll() is None:
        if memory_gb is not None and resident_bytes(child.pid) > memory_gb * GB:
            ended.append(Outcome("over memory", reason=f"It needs more than {memory_gb:g} GB."))
        elif limit_s is not None and time.monotonic() - began > limit_s:
            ended.append(Outcome("over time", reason=f"It takes more than {limit_s:g} s."))
        if ended:
            return _end(child)
        time.sleep(_LOOK_S)


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a process and all below it."""
    with suppress(psutil.Error):
        for below in psutil.Process(child.pid).children(recursive=True):
            with suppress(psutil.Error):
                below.kill()
    with suppress(OSError):
        child.kill()
    child.wait()


def _failed(reason: str, hint: str = "") -> Outcome:
    full = any(sign in reason for sign in _FULL)
    return Outcome("over memory" if full else "failed", reason=reason, hint=hint)


def main() -> None:
    """Read one order from standard input, carry it out as a command would be, and print its outcome as JSON."""
    process.prepare()
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    order = json.loads(sys.stdin.read())
    module, _, name = str(order["task"]).partition(":")
    try:
        outcome = Outcome("measured", getattr(import_module(module), name)(order["job"]))
    except StylekitError as error:
        outcome = _failed(error.message, error.hint)
    except (MemoryError, RuntimeError) as error:
        outcome = _failed(
            f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'out of memory'}"
        )
    print(json.dumps(outcome.__dict__), file=out, flush=True)


if __name__ == "__main__":
    main()
