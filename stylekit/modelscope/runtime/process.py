"""The parent's side of upstream's code: a child process, its events, and its failures as our errors."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import stylekit.errors
from stylekit.errors import MissingPartError, StylekitError, UsageError

Event = dict[str, Any]
PACKAGES = ("modelscope", "tensorflow", "tf_slim", "addict", "datasets", "easydict", "joblib", "simplejson", "sortedcontainers")
"""What the extra `modelscope` installs, by import name."""

_TAIL_BYTES = 4096

_LOG = logging.getLogger(__name__)


def missing_packages() -> list[str]:
    """Return those of `PACKAGES` that are not installed, without importing any; a folder of that name is no package."""
    return [name for name in PACKAGES if (spec := find_spec(name)) is None or spec.origin is None]


def require_packages(purpose: str) -> None:
    """Refuse before anything is started.

    Args:
        purpose: What needs them, as the beginning of a sentence.

    Raises:
        MissingPartError: If packages are not installed; the message names them all.
    """
    if missing := missing_packages():
        raise MissingPartError(missing, "modelscope", purpose)


def visible_devices(device: str) -> dict[str, str]:
    """Return the environment in which TensorFlow sees what is asked for: `auto`, `cpu`, `cuda` or `cuda:1`.

    `cuda:1` is the second of those GPUs that `CUDA_VISIBLE_DEVICES` shows, as it is for torch.

    Raises:
        UsageError: If TensorFlow cannot use such a device, or that GPU is hidden.
    """
    if device in ("auto", "cuda"):
        return {}
    if device == "cpu":
        return {"CUDA_VISIBLE_DEVICES": ""}
    kind, _, number = device.partition(":")
    if kind != "cuda" or not number.isdecimal():
        raise UsageError(f"Upstream's code cannot use the device {device}.", "Use --device cpu or cuda.")
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shown is None:
        return {"CUDA_VISIBLE_DEVICES": number}
    gpus = [name.strip() for name in shown.split(",") if name.strip() not in ("", "-1")]
    if int(number) >= len(gpus):
        raise UsageError(f"CUDA_VISIBLE_DEVICES is {shown!r} and shows no {device}.", "Use --device cuda or cpu.")
    return {"CUDA_VISIBLE_DEVICES": gpus[int(number)]}


class Child:
    """One task under the compatibility layer, in a process of its own.

    Args:
        task: `module:function` of what to do, called with the job and a `child.Link`.
        job: Its arguments; anything JSON can hold.
        purpose: What it is for, as the beginning of a sentence about a failure: "Upstream's trainer".
        error: The error to raise when upstream's code fails.
        log: Where upstream's own output goes; a temporary file by default.
        environment: Variables to set for it beside the process's own.

    Example:
        with Child("stylekit.modelscope.runtime.checkpoints:read", {"prefix": "model-0"}, "Reading a checkpoint") as child:
            result = child.result()
    """

    def __init__(
        self,
        task: str,
        job: Mapping[str, Any],
        purpose: str,
        *,
        error: type[StylekitError] = StylekitError,
        log: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._order = json.dumps({"task": task, "job": dict(job)})
        self._purpose, self._error, self._log = purpose, error, log
        self._environment = {**os.environ, "PYTHONSAFEPATH": "1", **(environment or {})}  # the current folder's files are data
        self._result: Event | None = None

    def __enter__(self) -> Self:
        self._output: IO[bytes] = self._log.open("ab") if self._log else tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "stylekit.modelscope.runtime.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._output,
            env=self._environment,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # so that Ctrl-C reaches it only through `stop`
        )
        self._send(self._order)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end()
        for stream in (self._process.stdin, self._process.stdout, self._output):
            with suppress(OSError):
                if stream:
                    stream.close()

    def _end(self) -> None:
        """End it and what it has started; a task that is done has nothing left to do."""
        with suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()
        self._process.wait()

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def stop(self) -> None:
        """Ask the task to come to a good end soon."""
        self._send("stop")

    def events(self) -> Iterator[Event]:
        """Yield what the task reports, until it ends.

        Raises:
            MissingPartError: If a package is missing.
            StylekitError: What the task raised, or `error` where upstream's code failed or the process ended without a word.
        """
        assert self._process.stdout is not None
        for line in self._process.stdout:
            event: Event = json.loads(line)
            if event["event"] == "failed":
                raise self._failure(event)
            if event["event"] == "done":
                self._result = event["result"]
                return
            if event["event"] == "warning":
                _LOG.warning("%s", event["message"])
            else:
                yield event
        code = self._process.wait()
        end = f"was ended by signal {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        raise self._error(f"{self._purpose} {end}.", self._where())

    def result(self) -> Event:
        """Return what the task returned, after reading its remaining events."""
        if self._result is None:
            for _ in self.events():
                pass
        assert self._result is not None
        return self._result

    def _failure(self, event: Event) -> StylekitError:
        if event["kind"] == "missing":
            return MissingPartError(event["type"], "modelscope", self._purpose)
        if event["kind"] == "stylekit":
            known = getattr(stylekit.errors, event["type"], StylekitError)
            mended: StylekitError = known.__new__(known)
            StylekitError.__init__(mended, event["message"], event["hint"])
            return mended
        return self._error(f"{self._purpose} failed: {event['type']}: {event['message']}.", self._where())

    def _where(self) -> str:
        if self._log is not None:
            return f"What it printed is in {self._log}."
        self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, self._output.tell() - _TAIL_BYTES))
        last = self._output.read().decode("utf-8", "replace").strip().splitlines()[-1:]
        return f"The last it printed: {last[0]}" if last else ""
