"""The child process: carries out one task under the compatibility layer and reports it as lines of JSON.

On its standard input come the task and its job, then, if ever, `stop`; the end of the input means the parent is gone. On its
standard output go events, the last of them `done` or `failed`. What upstream itself prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from importlib import import_module
from typing import Any, NoReturn, TextIO

from stylekit.errors import StylekitError
from stylekit.modelscope.runtime import layer

Job = dict[str, Any]
_GRACE_S = 600.0


class Link:
    """The child's end of the line.

    Attributes:
        stopping: Set when the parent wants the task to come to a good end soon, or is gone.
    """

    def __init__(self, out: TextIO) -> None:
        self.stopping = threading.Event()
        self._out, self._lock = out, threading.Lock()

    def tell(self, event: str, **fields: Any) -> None:
        """Report an event; a parent that is gone hears nothing."""
        with self._lock:
            try:
                print(json.dumps({"event": event, **fields}), file=self._out, flush=True)
            except OSError:
                self.stopping.set()

    def warn(self, message: str) -> None:
        """Have the parent log a warning."""
        self.tell("warning", message=message)

    def listen(self) -> None:
        """Wait for `stop`, or for the parent's end, and make sure that this process does not outlive it for long."""
        if sys.stdin.readline():
            self.stopping.set()
            sys.stdin.read()
        self.stopping.set()
        threading.Event().wait(_GRACE_S)
        _leave()


Task = Callable[[Job, Link], Job | None]


def main() -> None:
    """Read one task from standard input, carry it out, report, and leave."""
    link = Link(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)
    order = json.loads(sys.stdin.readline())
    threading.Thread(target=link.listen, daemon=True).start()
    layer.install()
    try:
        module, _, name = str(order["task"]).partition(":")
        task: Task = getattr(import_module(module), name)
        result = task(order["job"], link) or {}
    except BaseException as error:
        traceback.print_exc()
        end: Job = {"event": "failed", **_describe(error)}
    else:
        end = {"event": "done", "result": result}
    sys.stdout.flush()
    sys.stderr.flush()
    link.tell(**end)
    _leave()


def _leave() -> NoReturn:
    """End at once, and with this process all that it has started: joblib's workers would outlive a parent that is gone.

    TensorFlow's and joblib's own clearing up at exit takes seconds and serves nobody.
    """
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(0)


def _describe(error: BaseException) -> dict[str, str]:
    if isinstance(error, StylekitError):
        return {"kind": "stylekit", "type": type(error).__name__, "message": error.message, "hint": error.hint}
    if isinstance(error, ModuleNotFoundError) and error.name:
        return {"kind": "missing", "type": error.name.partition(".")[0], "message": str(error)}
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return {"kind": "upstream", "type": type(error).__name__, "message": lines[0].rstrip(" .:")}


if __name__ == "__main__":
    main()
