"""`votes.jsonl`: votes are only ever appended, each safely on disk before it is answered for."""

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock
from pydantic import ValidationError

from stylekit.errors import StylekitError, UsageError
from stylekit.paths import refusal
from stylekit.preference.records import Choice, RaterKind, Trial, Vote, rater_key

VOTES = "votes.jsonl"
_LOCK = ".votes.lock"
_PATIENCE_S = 30


class VoteConflictError(UsageError):
    """A rater has already answered a trial otherwise."""


class VoteLog:
    """The votes of a study. Any number of threads and processes may cast at the same time.

    Args:
        folder: The study.

    """

    def __init__(self, folder: Path) -> None:
        self._damaged: list[int] = []
        self._torn = False
        self._path = folder / VOTES
        self._thread_lock = threading.Lock()
        self._file_lock = FileLock(folder / _LOCK, timeout=_PATIENCE_S, thread_local=False)
        self._last: dict[tuple[str, str], Vote] = {}
        self._kinds: dict[str, RaterKind] = {}
        self._read_to, self._lines = 0, 0
        with self._thread_lock:
            self._read_on()

    def votes(self) -> list[Vote]:
        """Return the votes that count, in the order they were cast: the last of each rater and trial, unless taken back."""
        with self._thread_lock:
            self._read_on()
            return [vote for vote in self._last.values() if vote.choice is not None]

    @property
    def damaged(self) -> list[int]:
        """Numbers of the lines that are no votes, such as one that a power failure cut short."""
        return [*self._damaged, self._lines + 1] if self._torn else list(self._damaged)

    def choices_of(self, rater: str) -> dict[str, Choice]:
        """Return what a rater has chosen, by trial."""
        key = rater_key(rater)
        return {vote.trial.id: vote.choice for vote in self.votes() if rater_key(vote.rater) == key and vote.choice is not None}

    def cast(self, rater: str, kind: RaterKind, trial: Trial, choice: Choice | None, response_ms: int | None = None) -> bool:
        """Append a vote, on disk when this returns.

        Args:
            rater: Who votes; capitals make no other rater.
            kind: What that is.
            trial: What was shown.
            choice: Which side; None takes the vote back.
            response_ms: How long it took.

        Returns:
            Whether it is new; the same vote again changes nothing.

        Raises:
            VoteConflictError: If the rater has already answered the trial otherwise.
            UsageError: If the rater is known as of the other kind.
            StylekitError: If the file cannot be written.
        """
        key = rater_key(rater)
        with self._thread_lock, self._file_lock:
            self._read_on()
            if self._kinds.get(key, kind) != kind:
                raise UsageError(f"The rater {rater} is known as a {self._kinds[key]}.", "Choose another name.")
            before = self._last.get((key, trial.id))
            chosen = before.choice if before else None
            if chosen == choice:
                return False
            if chosen is not None and choice is not None:
                raise VoteConflictError(f"{rater} has already chosen {chosen} in {trial.id}.", "Take it back first.")
            at = datetime.now(UTC).isoformat(timespec="milliseconds")
            self._append(Vote(rater=rater, kind=kind, choice=choice, response_ms=response_ms, at=at, trial=trial))
            self._read_on()
            return True

    def _append(self, vote: Vote) -> None:
        line = vote.model_dump_json(exclude_defaults=True).encode() + b"\n"
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                size = os.fstat(descriptor).st_size
                if size and os.pread(descriptor, 1, size - 1) != b"\n":
                    line = b"\n" + line  # after a line that was cut short
                written = os.write(descriptor, line)
                if written < len(line):
                    raise StylekitError(f"Cannot write {self._path}: the disk is full.", "Free some space, and vote again.")
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise refusal(self._path, error) from error

    def _read_on(self) -> None:
        """Take in the whole lines that were appended since."""
        try:
            with self._path.open("rb") as stream:
                stream.seek(self._read_to)
                data = stream.read()
        except FileNotFoundError:
            return
        whole, newline, rest = data.rpartition(b"\n")
        self._torn = bool(rest)
        self._read_to += len(whole) + len(newline)
        for line in (whole + newline).splitlines():
            self._lines += 1
            try:
                vote = Vote.model_validate_json(line)
            except ValidationError:
                self._damaged.append(self._lines)
                continue
            key = rater_key(vote.rater)
            self._last.pop((key, vote.trial.id), None)
            self._last[key, vote.trial.id] = vote
            self._kinds[key] = vote.kind
