"""What the command line shows: results on stdout, progress, notes and errors on stderr."""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from stylekit.errors import StylekitError
from stylekit.progress import Bar, Progress

if TYPE_CHECKING:
    import rich.console
    import rich.progress

INTERRUPTED = 130
PART_FAILED = 3
_LINE_EVERY_S = 30.0
_AT_ONCE_S = 0.5
_MOST_LISTED = 20


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a verb gives back: `data` becomes the object of `--json`, `text` is for people."""

    data: Any
    text: str
    exit_code: int = 0


def to_json(data: Any) -> str:
    """Return `data` as one line of JSON; paths become text, data classes and pydantic models objects."""
    return json.dumps(_plain(data), ensure_ascii=False)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.as_posix() if isinstance(value, Path) else value


def describe(error: BaseException) -> tuple[str, str, int]:
    """Return what to say about an error, the next step, and the exit code."""
    if isinstance(error, StylekitError):
        return error.message, error.hint, error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return "Interrupted.", "Run the same command again to go on.", INTERRUPTED
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # the second is torch's
        return "There is not enough memory.", "Use a smaller --batch-size, or smaller pictures.", 1
    if isinstance(error, OSError) and error.errno is not None:
        subject = f"{error.filename}: " if error.filename else ""
        hint = "Free some space, or write to another disk with --output." if error.errno == errno.ENOSPC else ""
        return f"{subject}{error.strerror}.", hint, 1
    reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return (
        f"This is a bug in stylekit ({reason}).",
        "Run again with --debug to see where, and report it with `stylekit doctor`.",
        1,
    )


def show_error(message: str, hint: str) -> None:
    """Say what is wrong and what to do next."""
    _stderr().print(f"Error: {message}", markup=False, highlight=False, soft_wrap=True)
    if hint:
        _stderr().print(hint, markup=False, highlight=False, soft_wrap=True)


def show_note(text: str) -> None:
    """Say something that is not the result."""
    _stderr().print(text, markup=False, highlight=False, soft_wrap=True)


def show_traceback(error: BaseException) -> None:
    """Print where an error came from."""
    traceback.print_exception(error, file=sys.stderr)


def unreadable(problems: Mapping[str, str], said: str = "unreadable") -> Iterator[str]:
    """Yield a line for each of the first files that could not be had, and one for all the others."""
    for name, problem in islice(problems.items(), _MOST_LISTED):
        yield f"{said}: {problem if problem.startswith(name) else f'{name}: {problem}'}"
    if len(problems) > _MOST_LISTED:
        yield f"{said}: {len(problems) - _MOST_LISTED} more; --json lists them all"


@cache
def _stderr() -> rich.console.Console:
    from rich.console import Console

    return Console(stderr=True)


class _Notes(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        show_note(record.getMessage() if record.levelno < logging.WARNING else f"Warning: {record.getMessage()}")


def show_log() -> None:
    """Show what the library logs on stderr."""
    log = logging.getLogger("stylekit")
    log.setLevel(logging.INFO)
    if not any(isinstance(handler, _Notes) for handler in log.handlers):
        log.addHandler(_Notes())


def progress() -> Progress:
    """Return a bar with rate and time left where stderr is a terminal, else a line every half minute."""
    return _drawn if _stderr().is_terminal else _printed


@contextmanager
def _drawn(description: str, total: int | None = None) -> Iterator[Bar]:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    with Bars(*columns, TimeRemainingColumn(), TextColumn("{task.fields[values]}"), console=_stderr()) as bars:
        yield _DrawnBar(bars, bars.add_task(description, total=total, rate="", values=""))


class _DrawnBar:
    def __init__(self, bars: rich.progress.Progress, task: rich.progress.TaskID) -> None:
        self._bars, self._task, self._start = bars, task, time.monotonic()
        self._done, self._before, self._values = 0, 0, ""

    def advance(self, n: int = 1, **fields: str | float) -> None:
        elapsed = time.monotonic() - self._start
        self._before = self._before or _was_there(self._done, n, elapsed)
        self._done += n
        rate = _rate(self._done - self._before, elapsed)
        self._values = _values(fields) or self._values
        self._bars.update(self._task, advance=n, rate=rate, values=self._values)


@contextmanager
def _printed(description: str, total: int | None = None) -> Iterator[Bar]:
    bar = _PrintedBar(description, total)
    yield bar
    bar.finish()


class _PrintedBar:
    def __init__(self, description: str, total: int | None) -> None:
        self._description, self._total, self._done, self._done_shown = description, total, 0, -1
        self._start = self._shown = time.monotonic()
        self._before = 0
        self._fields: Mapping[str, str | float] = {}

    def advance(self, n: int = 1, **fields: str | float) -> None:
        now = time.monotonic()
        self._before = self._before or _was_there(self._done, n, now - self._start)
        self._done += n
        self._fields = fields or self._fields
        if now - self._shown >= _LINE_EVERY_S:
            self._show()

    def finish(self) -> None:
        if self._done != self._done_shown:
            self._show()

    def _show(self) -> None:
        self._shown, self._done_shown = time.monotonic(), self._done
        elapsed = self._shown - self._start
        new = self._done - self._before
        rate = "nothing new" if self._before and not new else _rate(new, elapsed)
        parts = [f"{self._description}: {self._done}{f'/{self._total}' if self._total else ''}", rate]
        if self._total and new and self._done < self._total:
            parts.append(f"{elapsed / new * (self._total - self._done):.0f} s left")
        show_note(", ".join(part for part in (*parts, _values(self._fields)) if part))


def _was_there(done: int, n: int, elapsed: float) -> int:
    """Return how many of the units were done before the work began: those reported in one go at its beginning."""
    return n if done == 0 and n > 1 and elapsed < _AT_ONCE_S else 0


def _rate(done: int, elapsed_s: float) -> str:
    if not done or elapsed_s < _AT_ONCE_S:
        return ""
    rate = done / elapsed_s
    return f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each"


def _values(fields: Mapping[str, str | float]) -> str:
    return " ".join(f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in fields.items())
