"""The processes of one launch by Accelerate or torchrun, on one host or several, that make the pictures of one style together.

Nothing is computed together; they only meet now and then, all at once, for a word from each. The main process leads: it deals
out the pictures, and the others follow until it says that it has ended. Each writes its own part of the journal, on a disk
that all of them see.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from datetime import timedelta
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

from stylekit.errors import GenerationError, Interrupted, StylekitError
from stylekit.generate.journal import Part
from stylekit.generate.workers import Done, Job, in_one, last_words, work

_PATIENCE = timedelta(days=30)  # for one of them to finish its share, where torch's own are 10 and 30 minutes

T = TypeVar("T")


class _End(NamedTuple):
    """The main process's last word: what it returns, or why it fails."""

    result: Any
    failure: StylekitError | None


class _EndedError(Exception):
    def __init__(self, end: _End) -> None:
        super().__init__()
        self.end = end


class Launch:
    """This process among those of its launch.

    Args:
        rank: Its number, from 0, which is the main process's.
        number: How many there are.
        group: Theirs, of torch.distributed, over which Python objects can be sent.
    """

    def __init__(self, rank: int, number: int, group: Any) -> None:
        self.rank = rank
        self.number = number
        self.is_main = rank == 0
        self._group = group

    def lead(self, action: Callable[[], T]) -> T:
        """Carry out an action in the main process; the others, that `follow`, return its result or raise its error."""
        try:
            result = action()
        except Interrupted:  # the user stopped all of them, so there is none to meet
            raise
        except Exception as error:
            self._meet(_End(None, GenerationError(*_said(error))))
            raise
        self._meet(_End(result, None))
        return result

    def follow(self) -> Any:
        """Do what the main process deals out until it has ended, and return its result.

        Raises:
            GenerationError: If it has failed.
        """
        try:
            while True:
                jobs: Sequence[Job] = self._meet(None)[0]
                for _ in self._share(jobs[self.rank] if self.rank < len(jobs) else None, _nothing):
                    pass
        except _EndedError as error:
            result, failure = error.end
            if failure:
                raise failure from None
            return result

    def paint(self, jobs: Sequence[Job], clear: Callable[[], None]) -> Generator[Done]:
        """Carry out the jobs, one in each process, as `workers.paint` does; called in the main process.

        Args:
            jobs: One for each process, at most.
            clear: Called once, before the first picture is written.

        Yields:
            Every picture that was written or left out.

        Raises:
            GenerationError: If a process failed; what it and the others have made is kept.
        """
        parts = [Part(job.folder, job.number) for job in jobs]
        self._meet(jobs)
        for done in self._share(jobs[0], clear):
            if done.problem:
                yield done
            yield from (Done(file) for part in parts for file in part.news())
        yield from (Done(file) for part in parts for file in part.news())

    def _share(self, job: Job | None, clear: Callable[[], None]) -> Generator[Done]:
        """Do one's own share, in step with the others; the main process raises what went wrong in any."""
        failure: StylekitError | None = None
        left_out: list[Done] = []
        waiting = True

        def permission(ready: bool = True) -> None:
            nonlocal waiting
            waiting = False
            if any(self._meet(ready)):
                self._together(clear)

        try:
            for done in work(job, permission) if job else ():
                if done.problem:
                    left_out.append(done)
                else:
                    yield done
        except _EndedError:
            raise
        except Exception as error:
            failure = last_words(error)
        if waiting:
            permission(ready=False)
        words = self._meet((left_out, failure and _said(failure)))
        if self.is_main:
            failures = {rank: GenerationError(*said) for rank, (_, said) in enumerate(words) if said}
            yield from (done for theirs, _ in words for done in theirs)
            if failures:
                raise in_one(failures, self.number)

    def _together(self, action: Callable[[], None]) -> None:
        """Carry out an action in the main process while the others wait for it; all raise what it raises."""
        failure = None
        if self.is_main:
            try:
                action()
            except Exception as error:
                failure = _said(error)
        if said := self._meet(failure)[0]:
            raise GenerationError(*said)

    def _meet(self, word: Any) -> list[Any]:
        """Wait for all processes and return the word of each."""
        import torch

        words = [None] * self.number
        try:
            torch.distributed.all_gather_object(words, word, group=self._group)
        except RuntimeError as error:
            raise GenerationError("A process of the launch has ended too early.", "Run the same command to go on.") from error
        if isinstance(words[0], _End) and not self.is_main:
            raise _EndedError(words[0])
        return words


def _nothing() -> None:
    pass


def _said(error: Exception) -> tuple[str, str]:
    said = last_words(error)
    return said.message, said.hint


@lru_cache(maxsize=1)
def launched() -> Launch | None:
    """Return this process's place in its launch; None if it was started alone.

    Each process of a launch takes the device that Accelerate gives it.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return None
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available())
    group = torch.distributed.new_group(backend="gloo", timeout=_PATIENCE)
    return Launch(state.process_index, state.num_processes, group)
