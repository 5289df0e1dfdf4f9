"""Progress of long work: the library reports, the caller decides whether and how it is shown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Bar(Protocol):
    """One piece of work under way."""

    def advance(self, n: int = 1, **fields: str | float) -> None:
        """Report `n` more units done, with values worth showing beside the bar (`loss=0.31`)."""


class Progress(Protocol):
    """What library functions accept as `progress`; `silent` is the default everywhere.

    Example:
        with progress("Aligning photos", total=len(files)) as bar:
            for file in files:
                ...
                bar.advance()
    """

    def __call__(self, description: str, total: int | None = None) -> AbstractContextManager[Bar]:
        """Begin a piece of work of `total` units, None when their number is not known."""


class _Silence:
    def advance(self, n: int = 1, **fields: str | float) -> None:
        """Show nothing."""


@contextmanager
def silent(description: str, total: int | None = None) -> Iterator[Bar]:
    """The `Progress` that shows nothing."""
    yield _Silence()
