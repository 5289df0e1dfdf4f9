"""Decoded pictures, or what was computed from them, on disk: rows of bytes in one file, written on first use.

Nothing of it is kept in memory: rows are read with `pread`, so a set of any size costs only what the system's own file cache
can spare.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import shutil
import struct
import threading
import time
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

try:
    import fcntl
except ImportError:  # not on Windows, which itself does not delete files that are in use
    fcntl = None  # type: ignore[assignment]

_LOG = logging.getLogger(__name__)
_SUFFIX = ".rows"
_MARK_BYTES = 8
_RESERVE_BYTES = 2 << 30  # left free for checkpoints
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
_FORGOTTEN_S = 30 * 86400


class RowCache:
    """Rows of equal length by index, in one file. Any number of threads and processes may share it.

    The file begins with a mark for each row, its CRC-32, which is written after the row and checked when it is read: a row that a
    killed process left half written, or a power failure lost, counts as not there. A disk that is or becomes full costs the
    cache, never the caller.

    Args:
        folder: Where the file lies. Other caches in it that nobody has open are deleted.
        instead: Where it lies if `folder` is read-only, a folder of its own. Caches in the folders beside it that were not opened
            for 30 days are deleted.
        key: What the rows depend on; another key is another file.
        count: Rows there are.
        row_bytes: Bytes of a row.
        what: What happens again and again where nothing can be kept, for the log.
    """

    def __init__(
        self,
        folder: Path,
        key: str,
        count: int,
        row_bytes: int,
        *,
        instead: Path | None = None,
        what: str = "Pictures are decoded",
    ) -> None:
        self.path = folder / f"{key}{_SUFFIX}"
        self._count, self._row_bytes, self._what = count, row_bytes, what
        self._start = -(-count * _MARK_BYTES // 4096) * 4096
        self._seek = threading.Lock()
        self._file: int | None = None
        try:
            self._open(folder)
        except OSError as error:
            if instead is None or error.errno not in _READ_ONLY:
                self._warn(error)
                return
            self.path = instead / self.path.name
            try:
                self._open(instead)
                _delete_forgotten(instead.parent)
            except OSError as other:
                self._warn(other)

    @property
    def usable(self) -> bool:
        """Whether rows are kept."""
        return self._file is not None

    def _open(self, folder: Path) -> None:
        length = self._start + self._count * self._row_bytes
        folder.mkdir(parents=True, exist_ok=True)
        _delete_others(folder, self.path)
        there = self.path.stat().st_blocks * 512 if self.path.exists() and hasattr(os.stat_result, "st_blocks") else 0
        if shutil.disk_usage(folder).free + there < length + _RESERVE_BYTES:
            needed = f"{(length + _RESERVE_BYTES) / 1e9:.0f} GB free"
            _LOG.warning("%s anew each time: a cache of them in %s would need %s.", self._what, folder, needed)
            return
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_SH)
            if os.fstat(file).st_size != length:
                os.ftruncate(file, length)
            os.utime(self.path)
        except OSError:
            os.close(file)
            raise
        self._file = file

    def _warn(self, error: OSError) -> None:
        _LOG.warning("%s anew each time: %s cannot be written (%s).", self._what, self.path, error.strerror or error)

    def get(self, index: int) -> NDArray[np.uint8] | None:
        """Return a row, [row_bytes], or None if it was not put there or is not whole."""
        if self._file is None:
            return None
        length, crc = _unpack(self._read(index * _MARK_BYTES, _MARK_BYTES))
        if length != self._row_bytes:
            return None
        row = self._read(self._start + index * self._row_bytes, self._row_bytes)
        return np.frombuffer(row, np.uint8) if len(row) == self._row_bytes and zlib.crc32(row) == crc else None

    def put(self, index: int, row: NDArray[np.uint8]) -> None:
        """Keep a row."""
        if self._file is None:
            return
        data = row.tobytes()
        try:
            self._write(self._start + index * self._row_bytes, data)
            self._write(index * _MARK_BYTES, struct.pack("<II", len(data), zlib.crc32(data)))
        except OSError as error:
            file, self._file = self._file, None  # left open: another thread may be reading from it
            reason = error.strerror or error
            _LOG.warning("%s anew from here on: %s cannot be written (%s).", self._what, self.path, reason)
            with contextlib.suppress(OSError):
                os.ftruncate(file, 0)  # gives the disk back to the checkpoints
                self.path.unlink()

    def close(self) -> None:
        """Let go of the file, which stays for the next time."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            self.close()

    def _read(self, offset: int, length: int) -> bytes:
        file = self._file
        if file is None:
            return b""
        if hasattr(os, "pread"):
            return os.pread(file, length, offset)
        with self._seek:
            os.lseek(file, offset, os.SEEK_SET)
            return os.read(file, length)

    def _write(self, offset: int, data: bytes) -> None:
        if (file := self._file) is None:
            return
        if hasattr(os, "pwrite"):
            written = os.pwrite(file, data, offset)
        else:
            with self._seek:
                os.lseek(file, offset, os.SEEK_SET)
                written = os.write(file, data)
        if written != len(data):
            raise OSError("No space left on device")


def key_of(parts: Iterable[str]) -> str:
    """Return a file name that stands for these texts, in this order."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode("utf-8", "backslashreplace") + b"\0")
    return digest.hexdigest()[:24]


def _unpack(mark: bytes) -> tuple[int, int]:
    length, crc = struct.unpack("<II", mark) if len(mark) == _MARK_BYTES else (0, 0)
    return length, crc


def _delete_others(folder: Path, own: Path) -> None:
    for other in folder.glob(f"*{_SUFFIX}"):
        if other != own:
            _delete(other)


def _delete_forgotten(above: Path) -> None:
    for other in above.glob(f"*/*{_SUFFIX}"):
        with contextlib.suppress(OSError):
            if other.stat().st_mtime < time.time() - _FORGOTTEN_S:
                _delete(other)


def _delete(path: Path) -> None:
    """Delete a cache file that nobody has open."""
    with contextlib.suppress(OSError), path.open("rb") as stream:
        if fcntl is not None:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
