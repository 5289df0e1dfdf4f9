"""Several processes that make the pictures of one style, one for each device, each with its own share of them.

Painting needs no talk between devices, so the workers are processes of their own, and one that dies takes no other along. (In
a launch by Accelerate, `ranks`, the launcher ends all as soon as one dies; but it reaches over several hosts.) The parent
gives each its job as the first line of its standard input, and a second line once pictures may be written; what a worker has
to say it prints as one JSON object a line. When its input ends, so does the worker, though never while it writes: so the
parent stops it, and so no parent that was killed leaves one behind.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from stylekit.config.schema import GenerateRecipe
from stylekit.data.manifest import Generation, Origin
from stylekit.errors import GenerationError, StylekitError
from stylekit.generate.engine import create
from stylekit.generate.journal import Part

_LOG = logging.getLogger(__name__)
_LARGEST_BLOCK = 16
_ONCE_LOADED = ("model", "revision", "scheduler")
_PATIENCE_S = 10.0
_AT_ANY_TIME = nullcontext()


@dataclass(frozen=True)
class Job:
    """What a worker is to do.

    Attributes:
        recipe: The recipe of the pictures.
        seed: The recipe's seed.
        folder: The raw folder.
        number: Of the worker, from 0; it names its part of the journal.
        indices: Its pictures.
        kept: The record of a picture that is there already and must be of the same model; None if there is none.
    """

    recipe: GenerateRecipe
    seed: int
    folder: Path
    number: int
    indices: Sequence[int]
    kept: Generation | None


class Done(NamedTuple):
    """A picture that is made, or left out.

    Attributes:
        file: Its name.
        problem: Why it is left out; empty if it is made.
    """

    file: str
    problem: str = ""


def devices(recipe: GenerateRecipe) -> int:
    """Return how many devices there are to paint with: the CUDA devices this process may see, else one."""
    if recipe.engine in ("dicebear", "folder"):
        return 1
    import torch

    return max(1, torch.cuda.device_count())


def at_once(recipe: GenerateRecipe) -> int | None:
    """Return how many pictures are made at once; None where a GPU's memory decides."""
    if recipe.batch_size or recipe.engine in ("dicebear", "folder"):
        return recipe.batch_size or 1
    import torch

    return None if torch.cuda.is_available() else 1


def shares(indices: Sequence[int], number: int, batch_size: int | None) -> list[list[int]]:
    """Deal out pictures in whole batches, so that every batch is the same however many processes there are.

    Args:
        indices: The pictures to be made, in order.
        number: Processes; each gets pictures from the beginning, the middle and the end.
        batch_size: Pictures at once (`at_once`); None where memory decides: then in runs of a power of two up to 16, as
            the painter's batches are.

    Returns:
        At most `number` lists, none of them empty.
    """
    each = max(1, -(-len(indices) // number))
    block = batch_size or min(_LARGEST_BLOCK, 1 << (each - 1).bit_length())
    blocks: dict[int, list[int]] = {}
    for index in indices:
        blocks.setdefault(index // block, []).append(index)
    dealt: list[list[int]] = [[] for _ in range(min(number, len(blocks)))]
    for place, run in enumerate(blocks.values()):
        dealt[place % number] += run
    return dealt


def check_same_model(kept: Generation | None, made: Generation | None) -> None:
    """Refuse to mix the pictures of two models, or two revisions of one, in a folder.

    Raises:
        GenerationError: If a new picture is of another model, revision or scheduler than one that is there.
    """
    for name in _ONCE_LOADED if kept and made else ():
        old, new = getattr(kept, name), getattr(made, name)
        if old != new:
            pin = f"Set it with --set generate.{name}={old}, or make" if old and name != "model" else "Make"
            raise GenerationError(
                f"The pictures that are there were made with the {name} {old}, and now it would be {new}.",
                f"{pin} them all anew with --fresh.",
            )


def begin(
    pictures: Iterator[tuple[Origin, bytes]], kept: Generation | None, permission: Callable[[], None]
) -> Iterator[tuple[Origin, bytes]]:
    """Pass pictures on, once the first of them shows that they are of the right model and `permission` has returned.

    Raises:
        GenerationError: If they are not (`check_same_model`).
    """
    for number, (origin, data) in enumerate(pictures):
        if number == 0:
            check_same_model(kept, origin.generation)
            permission()
        yield origin, data


def paint(jobs: Sequence[Job], clear: Callable[[], None]) -> Generator[Done]:
    """Carry out the jobs, one process for each, and wait for all of them.

    Args:
        jobs: One for each process.
        clear: Called once, before the first picture is written.

    Yields:
        Every picture that was written or left out.

    Raises:
        GenerationError: If a worker failed; what it and the others have made is kept.
        KeyboardInterrupt: If the user stops it; the workers are ended.
    """
    events: queue.Queue[tuple[int, dict[str, Any]]] = queue.Queue()
    workers = [_start(job) for job in jobs]
    threads = [threading.Thread(target=_listen, args=(job.number, w, events)) for job, w in zip(jobs, workers, strict=True)]
    failures: dict[int, StylekitError] = {}
    running, cleared = len(workers), False
    try:
        for thread in threads:
            thread.start()
        while running:
            number, event = events.get()
            if "ready" in event:
                if not cleared:
                    clear()
                    cleared = True
                _tell(workers[number], "go")
            elif "done" in event:
                yield Done(**event["done"])
            elif "log" in event:
                _LOG.log(event["level"], "Process %d: %s", number, event["log"])
            elif "error" in event:
                failures[number] = GenerationError(event["error"], event["hint"])
            else:
                running -= 1
                if event["end"] and number not in failures:
                    failures[number] = GenerationError(f"It {_how_it_ended(event['end'])}.", "Run the same command to go on.")
    finally:
        _end(workers)
        for thread in threads:
            if thread.ident is not None:
                thread.join()
    if failures:
        raise in_one(failures, len(jobs))


def in_one(failures: Mapping[int, StylekitError], number: int) -> GenerationError:
    """Return the error that says which of `number` processes failed, and why the first of them did."""
    first, failure = min(failures.items())
    others = f" So did {len(failures) - 1} more." if len(failures) > 1 else ""
    return GenerationError(f"Process {first} of {number} failed: {failure.message}{others}", failure.hint)


def last_words(error: Exception) -> StylekitError:
    """Return what a process says that ends with an error, whatever went wrong."""
    if isinstance(error, StylekitError):
        return error
    reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return GenerationError(f"{reason}.", "Run the same command to go on.")


def _start(job: Job) -> subprocess.Popen[str]:
    # Without the current folder, in which a file may be called as a module is.
    command = [sys.executable, "-P", "-m", "stylekit.generate.workers"]
    modules = [*filter(None, sys.path), str(Path(__file__).parents[2])]
    environment = os.environ | _one_device(job.number) | {"PYTHONPATH": os.pathsep.join(modules)}
    # In a session of its own, so that Ctrl-C reaches the parent alone, which then ends the workers in good order.
    pipe = subprocess.PIPE
    worker = subprocess.Popen(
        command, stdin=pipe, stdout=pipe, encoding="utf-8", env=environment, start_new_session=True, bufsize=1
    )
    fields = {
        "recipe": job.recipe.model_dump(mode="json"),
        "seed": job.seed,
        "folder": str(job.folder),
        "number": job.number,
        "indices": list(job.indices),
        "kept": job.kept and job.kept.model_dump(mode="json"),
    }
    _tell(worker, json.dumps(fields))
    return worker


def _one_device(number: int) -> dict[str, str]:
    """Return the environment in which a worker sees one CUDA device alone, counted round; empty where there is none."""
    import torch

    if not (count := torch.cuda.device_count()):
        return {}
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    names = visible[:count] or list(map(str, range(count)))
    return {"CUDA_VISIBLE_DEVICES": names[number % len(names)]}


def _tell(worker: subprocess.Popen[str], line: str) -> None:
    assert worker.stdin is not None
    try:
        worker.stdin.write(line + "\n")
        worker.stdin.flush()
    except OSError:
        _LOG.debug("A worker ended before it was spoken to; its exit code says why.")


def _listen(number: int, worker: subprocess.Popen[str], events: queue.Queue[tuple[int, dict[str, Any]]]) -> None:
    assert worker.stdout is not None
    for line in worker.stdout:
        try:
            events.put((number, json.loads(line)))
        except ValueError:  # torn by a kill
            break
    events.put((number, {"end": worker.wait()}))


def _how_it_ended(code: int) -> str:
    if code < 0:
        return f"was ended by the signal {signal.Signals(-code).name}"
    return f"ended with the exit code {code}"


def _end(workers: Sequence[subprocess.Popen[str]]) -> None:
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.close()
    for worker in workers:
        try:
            worker.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


def work(job: Job, permission: Callable[[], None], writing: AbstractContextManager[object] = _AT_ANY_TIME) -> Iterator[Done]:
    """Make one process's share of the pictures.

    Args:
        job: The share.
        permission: Waits until pictures may be written; called before the first.
        writing: Held while a picture and its line are written.

    Yields:
        Every picture that was written, and at last those that are left out.

    Raises:
        StylekitError: As the engine does.
    """
    engine = create(job.recipe, job.seed, job.folder)
    part = Part(job.folder, job.number)
    wanted = {index: engine.files[index] for index in job.indices}
    for origin, data in begin(engine.pictures(wanted), job.kept, permission):
        with writing:
            part.add(origin, data)
        yield Done(origin.file)
    yield from itertools.starmap(Done, engine.left_out.items())


class _Notes(logging.Handler):
    """Gives the parent what the library logs."""

    def __init__(self, tell: Callable[[Mapping[str, object]], None]) -> None:
        super().__init__(logging.INFO)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self._tell({"log": record.getMessage(), "level": record.levelno})


def _lines(descriptor: int) -> Iterator[str]:
    """Read lines without a lock, which a thread that waits for the next would hold against the interpreter's end."""
    rest = b""
    while block := os.read(descriptor, 65536):
        *whole, rest = (rest + block).split(b"\n")
        yield from (line.decode() for line in whole)


def main() -> int:
    """Do one job, read from standard input; what libraries print goes to standard error."""
    answers: IO[str] = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    lock = threading.Lock()

    def tell(event: Mapping[str, object]) -> None:
        with lock:
            answers.write(json.dumps(event) + "\n")
            answers.flush()

    lines = _lines(0)
    fields = json.loads(next(lines))
    job = Job(
        recipe=GenerateRecipe.model_validate(fields["recipe"]),
        seed=fields["seed"],
        folder=Path(fields["folder"]),
        number=fields["number"],
        indices=fields["indices"],
        kept=fields["kept"] and Generation.model_validate(fields["kept"]),
    )
    may_write, writing = threading.Event(), threading.Lock()

    def watch() -> None:
        for _ in lines:
            may_write.set()
        with writing:
            os._exit(1)  # the parent is gone, or wants no more

    threading.Thread(target=watch, daemon=True).start()

    def permission() -> None:
        tell({"ready": True})
        may_write.wait()

    log = logging.getLogger("stylekit")
    log.setLevel(logging.INFO)
    log.addHandler(_Notes(tell))
    try:
        for done in work(job, permission, writing):
            tell({"done": done._asdict()})
    except Exception as error:
        said = last_words(error)
        tell({"error": said.message, "hint": said.hint})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
