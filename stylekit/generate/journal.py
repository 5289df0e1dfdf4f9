"""The journal of a folder of raw pictures: what is in it, where each came from, and what is still to be made."""

from __future__ import annotations

import os
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from stylekit.data.manifest import Origin, read_origins, to_json_line
from stylekit.errors import GenerationError, StylekitError
from stylekit.paths import atomic_write_bytes, atomic_write_text, home, remove_partials, sha256_bytes

_NAME = "origin.jsonl"
_PARTS = "origin-*.part.jsonl"


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Keep a raw folder to this process; the lock ends with the process, however that ends.

    Raises:
        GenerationError: If another process has it.
        StylekitError: If the cache folder, where the lock lies, cannot be written.
    """
    locks = home() / "locks"
    try:
        locks.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StylekitError(f"Cannot write {locks}: {error.strerror}.", "Set STYLEKIT_HOME to a folder you can write.") from error
    lock = filelock.FileLock(locks / f"raw-{sha256_bytes(str(folder.resolve()).encode())[:16]}.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise GenerationError(
            f"Another gen-data is at work in {folder}.", "Wait until it has ended, or name another style with --style."
        ) from None
    try:
        yield
    finally:
        lock.release()


class Part:
    """What one of several processes adds to a raw folder, in a file of its own beside the journal; others may read along.

    Args:
        folder: The raw folder.
        number: Of the process.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self._folder = folder
        self._path = folder / _PARTS.replace("*", str(number))
        self._read = 0

    def add(self, origin: Origin, data: bytes) -> None:
        """Write a picture, then its line.

        Raises:
            StylekitError: If either cannot be written.
        """
        _add(self._folder, self._path, origin, data)

    def news(self) -> list[str]:
        """Return the pictures that were added, by whichever process, since this was last asked."""
        if not self._path.is_file():
            return []
        with self._path.open("rb") as stream:
            stream.seek(self._read)
            *lines, rest = stream.read().split(b"\n")
            self._read = stream.tell() - len(rest)
        return [Origin.model_validate_json(line).file for line in lines]


class Journal:
    """`raw/` and its `origin.jsonl`, one line for each picture, added after the picture itself is safely on disk.

    A process killed at any moment leaves at most one picture without a line, which is then made again. The parts that several
    processes have left are merged in.

    Args:
        folder: The raw folder; made with the first picture.
        licence: Of generated pictures whose model has none that is known; None if the user has named none.

    Raises:
        DataError: If `origin.jsonl` is damaged anywhere but in its last line.
        StylekitError: If the folder cannot be written.
    """

    def __init__(self, folder: Path, licence: str | None = None) -> None:
        self.folder = folder
        self.path = folder / _NAME
        self._licence = licence
        remove_partials(folder)
        self._origins: dict[str, Origin] = {}
        self._merge()

    @contextmanager
    def parts(self) -> Iterator[None]:
        """Let several processes write their parts, and merge them however that ends."""
        try:
            yield
        finally:
            self._merge()

    def _merge(self) -> None:
        parts = sorted(self.folder.glob(_PARTS))
        lines = [origin for path in (self.path, *parts) for origin in read_origins(path)]
        self._origins = {origin.file: self._licensed(origin) for origin in lines if self._is_whole(origin)}
        if parts or self.path.is_file():
            self._write()
        for part in parts:
            part.unlink(missing_ok=True)

    def _licensed(self, origin: Origin) -> Origin:
        return origin.model_copy(update={"licence": self._licence}) if origin.generation and not origin.licence else origin

    def _is_whole(self, origin: Origin) -> bool:
        return all((self.folder / file).is_file() for file in _files(origin))

    def _write(self) -> None:
        atomic_write_text(self.path, "".join(map(to_json_line, self._origins.values())))

    def __len__(self) -> int:
        """Return the number of pictures it lists."""
        return len(self._origins)

    def get(self, file: str) -> Origin | None:
        """Return where a picture came from; None if it is not there, or not by this journal."""
        return self._origins.get(file)

    def add(self, origin: Origin, data: bytes) -> bool:
        """Write a picture, then its line; return False if that very picture is already there.

        Raises:
            StylekitError: If either cannot be written.
        """
        origin = self._licensed(origin)
        if self._origins.get(origin.file) == origin:
            return False
        _add(self.folder, self.path, origin, data)
        self._origins[origin.file] = origin
        return True

    def clear(self) -> None:
        """Delete the pictures the journal lists, and nothing else."""
        self._drop(list(self._origins))

    def mirror(self, files: Container[str]) -> None:
        """Delete the copied pictures that are not among `files`; generated ones and files it does not list stay."""
        self._drop([file for file, origin in self._origins.items() if origin.generation is None and file not in files])

    def _drop(self, files: list[str]) -> None:
        for file in files:
            for path in _files(self._origins.pop(file)):
                (self.folder / path).unlink(missing_ok=True)
        if files:
            self._write()


def _files(origin: Origin) -> tuple[str, ...]:
    """Return the picture, and the photograph it was painted over."""
    return (origin.file,) if origin.photo is None else (origin.file, origin.photo)


def _add(folder: Path, path: Path, origin: Origin, data: bytes) -> None:
    atomic_write_bytes(folder / origin.file, data)
    try:
        with path.open("a", encoding="utf-8", newline="\n") as stream:
            stream.write(to_json_line(origin))
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise StylekitError(f"Cannot write {path}: {error.strerror or error}.", "Free some space and run again.") from error
