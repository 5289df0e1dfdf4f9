"""What is measured of every picture: gauges turn batches of pictures into arrays with one row a picture.

Everything a table says is computed from these arrays alone, so a set of pictures is seen once, batch by batch, on one machine
or on many, and its arrays can be kept.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from stylekit.errors import DataError
from stylekit.images import Rgb
from stylekit.paths import atomic_write_bytes, home, sha256_bytes

CHUNK = 512
"""Pictures kept on disk together: what a killed process has to measure again."""

_FORMAT = 1  # of the kept arrays; part of their key
_LOG = logging.getLogger(__name__)

Arrays: TypeAlias = dict[str, NDArray[np.float32]]
"""Arrays by name, each with one row a picture; NaN where a picture has no such value."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Pictures of one size, beside the photographs that they were made from.

    Attributes:
        pictures: uint8 RGB [N,S,S,3].
        landmarks: float64 [N,5,2], (x, y) in pixels of S: the photographs' five points; of reference cartoons their own.
        photos: uint8 RGB [N,S,S,3]; None for reference cartoons, which were made from none.
    """

    pictures: NDArray[np.uint8]
    landmarks: NDArray[np.float64]
    photos: NDArray[np.uint8] | None = None


class Gauge(Protocol):
    """Measures every picture of a batch."""

    @property
    def key(self) -> str:
        """What the arrays depend on beside the pictures: the gauge, its version, its resize, the digest of its weights."""

    def __call__(self, batch: Batch) -> Arrays:
        """Return its arrays; those that need photographs are left out where there are none."""


def measure_batch(batch: Batch, gauges: Iterable[Gauge]) -> Arrays:
    """Return what all gauges say of one batch."""
    return {name: array for gauge in gauges for name, array in gauge(batch).items()}


def join(parts: Sequence[Arrays]) -> Arrays:
    """Return the arrays of all batches in order as those of one."""
    return {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else {})}


@dataclass(frozen=True, eq=False)
class Chunk:
    """Some pictures of a set, few enough to measure again after a killed process.

    Attributes:
        key: What its arrays depend on beside the gauges: pictures, photographs, landmarks, size. None keeps
            nothing.
        files: A name for each picture.
        batches: Makes its batches, in the order of `files`; called only where something is to be measured.
    """

    key: str | None
    files: Sequence[str]
    batches: Callable[[], Iterable[Batch]]


def crop_digest(crop: Rgb) -> str:
    """Return the SHA-256 of a crop's side and pixels."""
    return hashlib.sha256(repr(crop.shape).encode() + np.ascontiguousarray(crop).data).hexdigest()


def chunk_key(made: str, size: int, digests: Sequence[str], landmarks: NDArray[np.float64]) -> str:
    """Return the `Chunk.key` of pictures made of crops: who measures the same anew, in training or afterwards, finds it kept.

    Args:
        made: What was made of the crops: `photo` is the crops themselves, `reference` those of cartoons.
        size: Side in pixels at which they are measured.
        digests: `crop_digest` of each crop.
        landmarks: float64 [N,5,2], `PictureSet.landmarks` at `size`.
    """
    pairs = [list(pair) for pair in zip(digests, landmarks.tolist(), strict=True)]
    return hashlib.sha256(json.dumps([made, size, pairs]).encode()).hexdigest()


class Kept:
    """Arrays on disk: one file for what one gauge says of one chunk, below `$STYLEKIT_HOME/measured/`.

    Nothing is lost with these files but the time to measure again, so the folder may be deleted at any time.

    Args:
        folder: Where they lie.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or home() / "measured"

    def path(self, gauge: Gauge, chunk: Chunk) -> Path:
        """Return where the arrays lie, by a digest of all they depend on."""
        return self.folder / f"{sha256_bytes(json.dumps([_FORMAT, gauge.key, chunk.key]).encode())}.npz"

    def read(self, gauge: Gauge, chunk: Chunk) -> Arrays | None:
        """Return what is kept, None where there is nothing or the file is damaged, which is said."""
        path = self.path(gauge, chunk)
        if chunk.key is None or not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as stored:
                arrays = {name: np.asarray(stored[name], np.float32) for name in stored.files}
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
            _LOG.warning("%s is damaged (%s); its pictures are measured again.", path, error)
            return None
        if any(len(array) != len(chunk.files) for array in arrays.values()):
            _LOG.warning("%s holds other pictures than it should; they are measured again.", path)
            return None
        return arrays

    def write(self, gauge: Gauge, chunk: Chunk, arrays: Arrays) -> None:
        """Keep arrays, atomically.

        Raises:
            StylekitError: If they cannot be written.
        """
        if chunk.key is not None:
            buffer = io.BytesIO()
            np.savez(buffer, **arrays)  # type: ignore[arg-type]  # numpy's own flag comes after the arrays
            atomic_write_bytes(self.path(gauge, chunk), buffer.getvalue(), durable=False)


def measure(
    chunks: Iterable[Chunk],
    gauges: Sequence[Gauge],
    *,
    kept: Kept,
    title: str,
    advance: Callable[[int], object] = lambda count: None,
) -> Arrays:
    """Return what all gauges say of all pictures; pictures are in memory one batch at a time.

    Args:
        chunks: The pictures, in order.
        gauges: What measures them. What is kept of a gauge is not measured again.
        kept: Where arrays are kept.
        title: What an error calls these pictures.
        advance: Hears of every batch or kept chunk how many pictures it held.

    Raises:
        DataError: If features or an embedding are not finite.
        StylekitError: If arrays cannot be kept.
    """
    return join([_measure_chunk(chunk, gauges, kept, title, advance) for chunk in chunks])


def _measure_chunk(chunk: Chunk, gauges: Sequence[Gauge], kept: Kept, title: str, advance: Callable[[int], object]) -> Arrays:
    found = {gauge.key: kept.read(gauge, chunk) for gauge in gauges}
    missing = [gauge for gauge in gauges if found[gauge.key] is None]
    if missing:
        parts: dict[str, list[Arrays]] = {gauge.key: [] for gauge in missing}
        for batch in chunk.batches():
            for gauge in missing:
                parts[gauge.key].append(measure_batch(batch, [gauge]))
            advance(len(batch.pictures))
        for gauge in missing:
            arrays = join(parts[gauge.key])
            _check_finite(arrays, chunk.files, title)
            kept.write(gauge, chunk, arrays)
            found[gauge.key] = arrays
    else:
        advance(len(chunk.files))
    return {name: array for arrays in found.values() for name, array in (arrays or {}).items()}


def _check_finite(arrays: Arrays, files: Sequence[str], title: str) -> None:
    """Refuse features and embeddings that no distance can be taken of; other values may be missing."""
    for name, array in arrays.items():
        if name.startswith(("features/", "embedding/")) and not (finite := np.isfinite(array).all(axis=1)).all():
            file = files[int(np.argmin(finite))]
            raise DataError(
                f"{title}: {name} of {file} is not finite ({int((~finite).sum())} of {len(files)} pictures).",
                "Look at that picture, and at the network's weights file.",
            )
