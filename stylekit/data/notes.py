"""`align.jsonl`: what was found in each picture, noted as soon as its crops are on disk.

It makes aligning resumable: a picture whose note still fits is not looked at again.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from stylekit.data.manifest import ManifestLine
from stylekit.errors import StylekitError
from stylekit.paths import atomic_write_text


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FaceNote(_Frozen):
    """One face, or one picture that gave none.

    Attributes:
        line: Its line of the manifest, as far as this picture alone decides it.
        embedding: Identity embedding, `encode`d; of photographs that are used.
    """

    line: ManifestLine
    embedding: str = ""


class PictureKey(_Frozen):
    """What the faces of a picture depend on.

    Attributes:
        input: The picture, as the manifest names it.
        stem: What its crops are called.
        sha256: Of the picture; None if it could not be read at all.
        settings: Digest of everything else.
    """

    input: str
    stem: str
    sha256: str | None
    settings: str


class PictureNote(_Frozen):
    """All faces of one picture."""

    key: PictureKey
    faces: list[FaceNote]

    @property
    def files(self) -> list[str]:
        """Crops and rejected pictures, where they were written first."""
        return [face.line.file for face in self.faces if face.line.file]


def encode(vector: NDArray[np.float32]) -> str:
    """Return a float32 vector as text."""
    return base64.b64encode(np.asarray(vector, np.float32).tobytes()).decode()


def decode(text: str) -> NDArray[np.float32]:
    """Return the vector that `encode` made into text."""
    return np.frombuffer(base64.b64decode(text), np.float32)


class Notes:
    """The notes file, open to be added to.

    Args:
        path: The file; need not exist. Lines that cannot be read, such as the last one of a killed run, count as not there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._notes: dict[str, PictureNote] = {}
        for row in path.read_bytes().splitlines() if path.is_file() else ():
            try:
                note = PictureNote.model_validate_json(row)
            except ValidationError:
                continue
            self._notes[note.key.input] = note
        self.replace(self.all())

    def __getitem__(self, key: PictureKey) -> PictureNote | None:
        note = self._notes.get(key.input)
        return note if note is not None and note.key == key else None

    def all(self) -> list[PictureNote]:
        """Return every note of the file."""
        return list(self._notes.values())

    def add(self, note: PictureNote) -> None:
        """Append a note durably.

        Raises:
            StylekitError: If the file cannot be written.
        """
        try:
            with self.path.open("a", encoding="utf-8", newline="\n") as stream:
                stream.write(_row(note))
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            reason = error.strerror or error
            raise StylekitError(f"Cannot write {self.path}: {reason}.", "Free some space and run again.") from error
        self._notes[note.key.input] = note

    def replace(self, notes: Iterable[PictureNote]) -> None:
        """Make these the notes of the file.

        Raises:
            StylekitError: If the file cannot be written.
        """
        self._notes = {note.key.input: note for note in notes}
        text = "".join(map(_row, self._notes.values()))
        if not self.path.is_file() or self.path.read_text("utf-8") != text:
            atomic_write_text(self.path, text)


def _row(note: PictureNote) -> str:
    return note.model_dump_json(exclude_defaults=True) + "\n"
