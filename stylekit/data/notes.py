"""`align.db`: what was found in each picture, noted once its crops are on disk.

It makes aligning resumable: a picture whose note still fits is not looked at again. All that any limit of the recipe could ask of
a face is noted, so that a limit can be moved without looking again. It is an SQLite file, so that the notes of any number of
pictures take no memory.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stylekit.data.duplicates import COLOUR_BYTES, HASH_BYTES
from stylekit.data.manifest import ManifestLine, to_json_line
from stylekit.errors import StylekitError
from stylekit.paths import refusal

_VERSION = 2  # of the tables
_COMMIT_EVERY_S = 1.0
_TABLES = """
CREATE TABLE pictures (
    id INTEGER PRIMARY KEY,
    input TEXT NOT NULL UNIQUE,
    place INTEGER,  -- in the source, null until this run has come to it
    sha256 TEXT,
    stamp TEXT,
    settings TEXT NOT NULL,
    limits TEXT NOT NULL
);
CREATE INDEX places ON pictures(place);
CREATE TABLE faces (
    picture INTEGER NOT NULL REFERENCES pictures(id),
    number INTEGER NOT NULL,
    line TEXT NOT NULL,
    is_used INTEGER NOT NULL,
    name TEXT,  -- of the crop, without its folder
    bytes INTEGER NOT NULL,
    merit REAL NOT NULL,
    hash BLOB NOT NULL,
    colours BLOB NOT NULL,
    embedding BLOB NOT NULL,
    split TEXT,
    person TEXT,
    PRIMARY KEY (picture, number)
) WITHOUT ROWID;
CREATE INDEX names ON faces(name);
CREATE TABLE decided (digest TEXT NOT NULL, decisions TEXT NOT NULL);
"""


@dataclass(frozen=True)
class FaceNote:
    """One face, or one picture that gave none.

    Attributes:
        line: Its line of the manifest, as far as this picture alone decides it.
        length: Of its file, in bytes.
        merit: Which of two near-duplicates is kept: the one with more.
        bits: Of `duplicates.fingerprint`.
        colours: Of `duplicates.fingerprint`.
        embedding: float32 [D] of a face that some limits would let pass; of photographs who it shows, of cartoons what they look
            like.
    """

    line: ManifestLine
    length: int = 0
    merit: float = 0.0
    bits: bytes = bytes(HASH_BYTES)
    colours: bytes = bytes(COLOUR_BYTES)
    embedding: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class PictureNote:
    """What is known of a picture that was looked at before.

    Attributes:
        sha256: Of the picture; None if it could not be read or looked at.
        stamp: What tells without reading that it is still the same (`Input.stamp`); None if nothing does.
        settings: Digest of all else that the measures of its faces depend on.
        limits: Digest of what its faces were judged by.
        files: Its crops and rejected pictures by name, without folder, with their lengths in bytes.
    """

    sha256: str | None
    stamp: str | None
    settings: str
    limits: str
    files: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class UsedFaces:
    """The faces that are good on their own, in the order of the manifest, as arrays over all N.

    Attributes:
        inputs: The pictures.
        stems: What the crops are called.
        merits: float64 [N].
        hashes: uint64 [N].
        colours: uint8 [N,768].
        embeddings: float32 [N,D].
        splits: Which side each picture's data set puts it on; None where it does not say.
        persons: Who each picture shows by its data set; None where it does not say.
    """

    inputs: list[str]
    stems: list[str]
    merits: NDArray[np.float64]
    hashes: NDArray[np.uint64]
    colours: NDArray[np.uint8]
    embeddings: NDArray[np.float32]
    splits: list[str | None]
    persons: list[str | None]


class Notes:
    """The notes file, open to be added to by this process alone.

    Args:
        path: The file; need not exist. One that is damaged or of another version is begun anew.

    Raises:
        StylekitError: If it cannot be written, or another process is writing it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.open("ab").close()
        except OSError as error:
            raise refusal(path, error) from error
        with self._refusing():
            try:
                self._open()
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError:  # damaged
                self._database.close()
                path.unlink()
                self._open()

    def _open(self) -> None:
        self._database = sqlite3.connect(self.path, isolation_level=None, timeout=0)
        self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._database.execute("BEGIN EXCLUSIVE")
        self._begun = time.monotonic()
        if self._database.execute("PRAGMA user_version").fetchone() != (_VERSION,):
            for kind, name in self._database.execute(
                "SELECT type, name FROM sqlite_master WHERE sql IS NOT NULL ORDER BY type"
            ).fetchall():
                self._database.execute(f'DROP {kind} "{name}"')
            for statement in _TABLES.split(";"):
                self._database.execute(statement)
            self._database.execute(f"PRAGMA user_version = {_VERSION}")
        self._database.execute("UPDATE pictures SET place = NULL")

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if "locked" in str(error):
                raise StylekitError(f"{self.path} is in use: another align is at work there.", "Wait until it ends.") from error
            raise StylekitError(f"Cannot write {self.path}: {error}.", "Free some space and run again.") from error

    def find(self, name: str) -> PictureNote | None:
        """Return what is known of a picture, named as the manifest names it."""
        with self._refusing():
            query = "SELECT id, sha256, stamp, settings, limits FROM pictures WHERE input = ?"
            row = self._database.execute(query, (name,)).fetchone()
            if row is None:
                return None
            picture, sha256, stamp, settings, limits = row
            files = self._database.execute("SELECT name, bytes FROM faces WHERE picture = ? AND name IS NOT NULL", (picture,))
            return PictureNote(sha256, stamp, settings, limits, dict(files.fetchall()))

    def keep(self, name: str, place: int, stamp: str | None) -> None:
        """Say where in the source a picture stands whose note still fits, and its stamp as it is now."""
        with self._refusing():
            self._database.execute("UPDATE pictures SET place = ?, stamp = ? WHERE input = ?", (place, stamp, name))
            self._commit_now_and_then()

    def judge_again(self, name: str, limits: str, judge: Callable[[ManifestLine], ManifestLine]) -> None:
        """Give the faces of a picture the lines that `judge` makes of them, by limits of this digest."""
        with self._refusing():
            ((picture,),) = self._database.execute("SELECT id FROM pictures WHERE input = ?", (name,)).fetchall()
            for number, text in self._database.execute("SELECT number, line FROM faces WHERE picture = ?", (picture,)).fetchall():
                line = judge(ManifestLine.model_validate_json(text))
                values = (to_json_line(line), line.status == "used", picture, number)
                self._database.execute("UPDATE faces SET line = ?, is_used = ? WHERE picture = ? AND number = ?", values)
            self._database.execute("UPDATE pictures SET limits = ? WHERE id = ?", (limits, picture))
            self._commit_now_and_then()

    def put(
        self,
        place: int,
        note: PictureNote,
        faces: list[FaceNote],
        split: str | None = None,
        person: str | None = None,
    ) -> list[str]:
        """Note the faces of a picture in place of what was known of it.

        Args:
            place: Where it stands in the source.
            note: Its digests; `files` is not looked at.
            faces: At least one, since a picture without a face has a line too.
            split: Its side, where its data set says so.
            person: Who it shows, where its data set says so.

        Returns:
            The names of crops that it gave before and nothing gives any more.
        """
        name = faces[0].line.input
        with self._refusing():
            columns = {
                "place": place,
                "sha256": note.sha256,
                "stamp": note.stamp,
                "settings": note.settings,
                "limits": note.limits,
            }
            query = f"INSERT INTO pictures (input, {', '.join(columns)}) VALUES (?{', ?' * len(columns)}) ON CONFLICT (input) "
            query += f"DO UPDATE SET {', '.join(f'{column} = excluded.{column}' for column in columns)} RETURNING id"
            ((picture,),) = self._database.execute(query, (name, *columns.values())).fetchall()
            stale = self._names("SELECT name FROM faces WHERE picture = ?", picture)
            self._database.execute("DELETE FROM faces WHERE picture = ?", (picture,))
            rows = [
                (
                    *(picture, number, to_json_line(face.line), face.line.status == "used", _name(face.line), face.length),
                    *(face.merit, face.bits, face.colours, b"" if face.embedding is None else face.embedding.tobytes()),
                    *(split, person),
                )
                for number, face in enumerate(faces)
            ]
            self._database.executemany(f"INSERT INTO faces VALUES ({', '.join('?' * 12)})", rows)
            self._commit_now_and_then()
            return self._unowned(stale)

    def forget_unseen(self) -> list[str]:
        """Forget the pictures that this run did not come to; return the names of crops that nothing gives any more."""
        with self._refusing():
            stale = self._names("SELECT name FROM faces JOIN pictures ON id = picture WHERE place IS NULL")
            self._database.execute("DELETE FROM faces WHERE picture IN (SELECT id FROM pictures WHERE place IS NULL)")
            self._database.execute("DELETE FROM pictures WHERE place IS NULL")
            return self._unowned(stale)

    def _names(self, query: str, *values: int) -> list[str]:
        return [name for (name,) in self._database.execute(query, values) if name]

    def _unowned(self, names: list[str]) -> list[str]:
        return [name for name in names if not self._database.execute("SELECT 1 FROM faces WHERE name = ?", (name,)).fetchone()]

    def used(self) -> UsedFaces:
        """Return the faces that are good on their own."""
        with self._refusing():
            query = "SELECT count(*), max(length(embedding)) FROM faces JOIN pictures ON id = picture"
            count, width = self._database.execute(f"{query} WHERE is_used AND place IS NOT NULL").fetchone()
            faces = UsedFaces(
                [],
                [],
                np.empty(count, np.float64),
                np.empty(count, np.uint64),
                np.empty((count, COLOUR_BYTES), np.uint8),
                np.zeros((count, (width or 0) // 4), np.float32),
                [],
                [],
            )
            columns = "input, name, merit, hash, colours, embedding, split, person"
            for index, row in enumerate(self._rows(columns, "AND is_used")):
                name, file, merit, bits, colours, embedding, split, person = row
                faces.inputs.append(name)
                faces.stems.append(Path(file).stem)
                faces.merits[index] = merit
                faces.hashes[index] = int.from_bytes(bits, "little")
                faces.colours[index] = np.frombuffer(colours, np.uint8)
                if embedding:
                    faces.embeddings[index] = np.frombuffer(embedding, np.float32)
                faces.splits.append(split)
                faces.persons.append(person)
            return faces

    def decided(self, digest: str) -> str | None:
        """Return what `remember` kept last, if it was for faces of this digest."""
        with self._refusing():
            row = self._database.execute("SELECT decisions FROM decided WHERE digest = ?", (digest,)).fetchone()
            return str(row[0]) if row else None

    def remember(self, digest: str, decisions: str) -> None:
        """Keep what was decided of all used faces together, in place of what was before."""
        with self._refusing():
            self._database.execute("DELETE FROM decided")
            self._database.execute("INSERT INTO decided VALUES (?, ?)", (digest, decisions))
            self.commit()

    def lines(self) -> Iterator[ManifestLine]:
        """Yield the line of every face, in the order of the source."""
        with self._refusing():
            for (line,) in self._rows("line", ""):
                yield ManifestLine.model_validate_json(line)

    def _rows(self, columns: str, condition: str) -> Iterator[tuple[Any, ...]]:
        tables = "pictures INDEXED BY places CROSS JOIN faces ON id = picture"  # in order by themselves, nothing is sorted
        return self._database.execute(
            f"SELECT {columns} FROM {tables} WHERE place IS NOT NULL {condition} ORDER BY place, number"
        )

    def _commit_now_and_then(self) -> None:
        if time.monotonic() - self._begun >= _COMMIT_EVERY_S:
            self.commit()

    def commit(self) -> None:
        """Make safe what was noted."""
        with self._refusing():
            self._database.execute("COMMIT")
            self._database.execute("BEGIN")
            self._begun = time.monotonic()

    def close(self) -> None:
        """Make safe what was noted, and let others write."""
        try:
            self.commit()
        finally:
            with suppress(sqlite3.Error):
                self._database.close()


def _name(line: ManifestLine) -> str | None:
    return line.file.partition("/")[2] if line.file else None
