"""The journal of a folder of raw pictures: what is in it, where each came from, and what is still to be made."""

from __future__ import annotations

import os
from collections.abc import Container
from pathlib import Path

from stylekit.data.manifest import Generation, Origin, read_origins, to_json_line
from stylekit.errors import GenerationError, StylekitError
from stylekit.paths import atomic_write_bytes, atomic_write_text, remove_partials


class Journal:
    """`raw/` and its `origin.jsonl`, one line for each picture, added after the picture itself is safely on disk.

    A process killed at any moment leaves at most one picture without a line, which is then made again.

    Args:
        folder: The raw folder; made with the first picture.

    Raises:
        DataError: If `origin.jsonl` is damaged anywhere but in its last line.
        StylekitError: If the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "origin.jsonl"
        remove_partials(folder)
        self._origins = {origin.file: origin for origin in read_origins(self.path) if (folder / origin.file).is_file()}
        if self.path.is_file():
            self._write()

    def _write(self) -> None:
        atomic_write_text(self.path, "".join(map(to_json_line, self._origins.values())))

    def add(self, origin: Origin, data: bytes) -> bool:
        """Write a picture, then its line; return False if that very picture is already there.

        Raises:
            StylekitError: If either cannot be written.
        """
        if self._origins.get(origin.file) == origin:
            return False
        atomic_write_bytes(self.folder / origin.file, data)
        try:
            with self.path.open("a", encoding="utf-8", newline="\n") as stream:
                stream.write(to_json_line(origin))
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise StylekitError(
                f"Cannot write {self.path}: {error.strerror or error}.", "Free some space and run again."
            ) from error
        self._origins[origin.file] = origin
        return True

    def holds(self, file: str, wanted: Generation | None) -> bool:
        """Tell whether a generated picture is already there; of one that is not generated (None) only `add` can tell.

        Raises:
            GenerationError: If the file is there but was made with other settings.
        """
        origin = self._origins.get(file)
        if origin is None or (wanted is None and origin.generation is None):
            return False
        made = origin.generation.model_dump(exclude={"versions"}) if origin.generation else {}
        asked = wanted.model_dump(exclude={"versions"}) if wanted else {}
        changed = sorted(name for name in made.keys() | asked.keys() if made.get(name) != asked.get(name))
        if changed:
            raise GenerationError(
                f"{self.folder} already holds pictures made with other settings ({', '.join(changed)}).",
                "Name another style with --style, or make them anew with --fresh.",
            )
        return True

    def clear(self) -> None:
        """Delete the pictures the journal lists, and nothing else."""
        self._drop(list(self._origins))

    def mirror(self, files: Container[str]) -> None:
        """Delete the copied pictures that are not among `files`; generated ones and files it does not list stay."""
        self._drop([file for file, origin in self._origins.items() if origin.generation is None and file not in files])

    def _drop(self, files: list[str]) -> None:
        for file in files:
            (self.folder / file).unlink(missing_ok=True)
            del self._origins[file]
        if files:
            self._write()
