"""Work spread over processes, one piece at a time each, so that a piece that kills or hangs its process costs only itself.

The processes are plain `python -c` children that speak over their standard streams: they need no guarded `__main__`, and end by
themselves when the parent is gone. They find modules where the parent does, and none in the current folder.
"""

from __future__ import annotations

import logging
import os
import pickle
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue
from threading import Thread, Timer
from typing import IO, Any, Generic, TypeVar

from stylekit.errors import StylekitError

Task = TypeVar("Task")
Result = TypeVar("Result")

_LENGTH = struct.Struct(">Q")
_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")
_TAIL_BYTES = 2000


@dataclass(frozen=True)
class Lost:
    """What stands for the result of a piece of work that has none.

    Attributes:
        reason: Why, in a few words.
    """

    reason: str


def spread(
    work: Callable[[Task], Result], tasks: Iterable[Task], processes: int, limit_s: float
) -> Generator[tuple[Task, Result | Lost], None, None]:
    """Yield every task with its result, as they come; at most two tasks for each process are taken in advance.

    Args:
        work: Can be pickled; each process unpickles its own once, so it may load what it needs at the first task.
        tasks: Can be pickled.
        processes: How many; each has one thread for the mathematics.
        limit_s: A task that takes longer is cut off.

    Raises:
        StylekitError: If a process cannot start, or `work` raises it; that ends all work.
    """
    waiting: Queue[Task | None] = Queue()
    done: Queue[tuple[Task, Result | Lost] | Exception] = Queue()
    hands = [_Hand(pickle.dumps(work), waiting, done, limit_s) for _ in range(processes)]
    try:
        under_way = 0
        for task in tasks:
            while not done.empty() or under_way >= 2 * processes:
                yield _taken(done)
                under_way -= 1
            if under_way < processes and (fresh := next((hand for hand in hands if hand.ident is None), None)):
                fresh.start()
            waiting.put(task)
            under_way += 1
        for _ in range(under_way):
            yield _taken(done)
    finally:
        begun = [hand for hand in hands if hand.is_alive()]
        for hand in begun:
            hand.stop()
        for hand in begun:
            hand.join()


def fitting(processes: int, need: int) -> int:
    """Return how many of so many processes the free memory has room for, at least one; all of them where that is not known.

    Args:
        processes: How many there shall be at most.
        need: Bytes that each of them takes.
    """
    free = _free_memory()
    return processes if free is None else max(1, min(processes, free // need))


def _free_memory(system: Path = Path("/")) -> int | None:
    """Return the bytes of memory that Linux says can be had, within the limit of the control group (v2); else None."""
    free = []
    with suppress(OSError, ValueError, IndexError):
        free.append(int((system / "proc/meminfo").read_text().partition("MemAvailable:")[2].split()[0]) * 1024)
    with suppress(OSError, ValueError, IndexError):  # the limit may be "max"
        group = system / "sys/fs/cgroup"
        held = int((group / "memory.current").read_text())
        cached = int((group / "memory.stat").read_text().partition("inactive_file ")[2].split()[0])
        free.append(int((group / "memory.max").read_text()) - held + cached)
    return min(free, default=None)


def _taken(done: Queue[tuple[Task, Result | Lost] | Exception]) -> tuple[Task, Result | Lost]:
    result = done.get()
    if isinstance(result, Exception):
        raise result
    return result


class _Hand(Thread, Generic[Task, Result]):
    """Takes tasks one after the other, gives them to a process of its own and starts another one when that is gone."""

    def __init__(
        self,
        work: bytes,
        waiting: Queue[Task | None],
        done: Queue[tuple[Task, Result | Lost] | Exception],
        limit_s: float,
    ) -> None:
        super().__init__(daemon=True)
        self._work, self._waiting, self._done, self._limit_s = work, waiting, done, limit_s
        self._child: _Child | None = None
        self._stopped = False

    def run(self) -> None:
        try:
            while (task := self._waiting.get()) is not None:
                self._child = self._child or _Child(self._work)
                if self._stopped:
                    break
                answer = self._child.ask(task, self._limit_s)
                if isinstance(answer, Lost):
                    self._child.end()
                    self._child = None
                self._done.put((task, answer))
        except Exception as error:
            self._done.put(error)
        finally:
            if self._child is not None:
                self._child.end()

    def stop(self) -> None:
        """End the process, whatever it is at, and soon after the thread."""
        self._stopped = True
        self._waiting.put(None)
        if (child := self._child) is not None:
            child.kill()


@dataclass
class _Answer:
    value: Any = None
    error: Exception | None = None
    log: list[tuple[str, int, str]] = field(default_factory=list)


class _Child:
    """A process that does one task at a time."""

    def __init__(self, work: bytes) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `end`
        modules = [*filter(None, sys.path), str(Path(__file__).parents[2])]
        environment = os.environ | dict.fromkeys(_ONE_THREAD, "1") | {"PYTHONPATH": os.pathsep.join(modules)}
        own_group = {"process_group": 0} if os.name == "posix" else {}  # Ctrl-C reaches the parent, which ends the children
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", f"from {__name__} import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env=environment,
            **own_group,  # type: ignore[call-overload]
        )
        self._work: bytes | None = work

    def kill(self) -> None:
        """End the process at once; may be called from another thread."""
        self._process.kill()

    def ask(self, task: Any, limit_s: float) -> Any:
        """Return the result of a task, or `Lost`.

        Raises:
            StylekitError: If the process cannot start.
            Exception: What the work raised.
        """
        if self._work is not None:
            self._begin(self._work)
            self._work = None
        timer = Timer(limit_s, self._process.kill)
        timer.start()
        try:
            _send(self._process.stdin, pickle.dumps(task))
            answer = pickle.loads(_receive(self._process.stdout))
        except (OSError, EOFError, ValueError):
            if not timer.is_alive():
                return Lost(f"was cut off after {limit_s:g} s")
            code = self._process.wait()
            return Lost(f"ended its process ({'signal' if code < 0 else 'exit code'} {abs(code)})")
        finally:
            timer.cancel()
        for name, level, message in answer.log:
            logging.getLogger(name).log(level, "%s", message)
        if answer.error is not None:
            raise answer.error
        return answer.value

    def _begin(self, work: bytes) -> None:
        try:
            _send(self._process.stdin, work)
            _receive(self._process.stdout)
        except (OSError, EOFError) as error:
            self._process.wait()
            raise StylekitError(f"A process for the work could not start: {self._last_words()}.") from error

    def _last_words(self) -> str:
        self._said.seek(0, os.SEEK_END)
        self._said.seek(max(0, self._said.tell() - _TAIL_BYTES))
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit code {self._process.returncode}"

    def end(self) -> None:
        """End the process and let go of its streams."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._said):
            with suppress(OSError):
                if stream is not None:
                    stream.close()


def serve() -> None:
    """Be a child: read the work and then task after task from standard input, write the results to standard output."""
    tasks, answers = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever prints shall not speak in between
    heard = _Ear()
    logging.getLogger("stylekit").addHandler(heard)
    try:
        work = pickle.loads(_receive(tasks))
        _send(answers, b"")
        while True:
            _send(answers, pickle.dumps(_answer(work, pickle.loads(_receive(tasks)), heard)))
    except (EOFError, BrokenPipeError):
        os._exit(0)  # the parent is gone


def _answer(work: Callable[[Any], Any], task: Any, heard: _Ear) -> _Answer:
    answer = _Answer(log=heard.records)
    heard.records = []
    try:
        answer.value = work(task)
    except StylekitError as error:
        answer.error = StylekitError(error.message, error.hint)
        with suppress(Exception):
            answer.error = pickle.loads(pickle.dumps(error))
    except Exception as error:
        answer.error = RuntimeError(f"{type(error).__name__}: {error}")
    answer.log = answer.log + heard.records
    heard.records = []
    return answer


class _Ear(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[tuple[str, int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append((record.name, record.levelno, record.getMessage()))


def _send(stream: IO[bytes] | None, data: bytes) -> None:
    assert stream is not None
    stream.write(_LENGTH.pack(len(data)) + data)
    stream.flush()


def _receive(stream: IO[bytes] | None) -> bytes:
    assert stream is not None
    return _exactly(stream, _LENGTH.unpack(_exactly(stream, _LENGTH.size))[0])


def _exactly(stream: IO[bytes], length: int) -> bytes:
    data = stream.read(length)
    if len(data) != length:
        raise EOFError
    return data
