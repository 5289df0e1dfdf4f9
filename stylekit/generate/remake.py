"""Pictures made again from what the manifest says of them, to see that it says all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from stylekit.data.manifest import Generation, read_origins, stream_manifest
from stylekit.data.pairs import PHOTOS
from stylekit.errors import DataError, StylekitError
from stylekit.generate import dicebear, edit, stable_diffusion
from stylekit.images import read_rgb
from stylekit.paths import atomic_write_bytes, sha256_bytes
from stylekit.progress import Progress, silent


@dataclass(frozen=True)
class Remade:
    """One picture that was made again, or could not be.

    Attributes:
        file: The picture or crop that was asked for.
        made: Where the new picture is; None if there is none.
        identical: Whether it is the old one to the last byte; None if there is none.
        problem: Why there is none; empty otherwise.
    """

    file: Path
    made: Path | None
    identical: bool | None
    problem: str = ""


def remake(files: Iterable[Path], output: Path, progress: Progress = silent) -> list[Remade]:
    """Make pictures again, each from its line in the manifest, or in `origin.jsonl` of the raw folder.

    The same machine with the same packages gives the same bytes; another one may round differently.

    Args:
        files: Raw pictures, or crops of them; of a crop the whole picture is made.
        output: The folder for the new pictures, which keep the names of the raw ones.
        progress: Where progress is reported.

    Returns:
        One entry for each file, in order; one that cannot be made says why.

    Raises:
        StylekitError: If the folder cannot be written.
    """
    records = _Records()
    found: list[Remade] = []
    asked: list[tuple[int, Path, str | None, Generation]] = []
    for place, file in enumerate(files):
        try:
            record = records.of(file)
        except StylekitError as error:
            found.append(Remade(file, None, None, str(error)))
        else:
            found.append(Remade(file, None, None))
            asked.append((place, *record))
    if not asked:
        return found
    with progress("Making again", len(asked)) as bar:
        for place, raw, sha256, generation in asked:
            file = found[place].file
            try:
                data = _make(generation, raw)
            except StylekitError as error:
                found[place] = Remade(file, None, None, str(error))
            else:
                target = _free(output / raw.name, {each.made for each in found})
                atomic_write_bytes(target, data)
                found[place] = Remade(file, target, sha256_bytes(data) == sha256)
            bar.advance()
    return found


class _Records:
    """The records of pictures; each folder's are read once."""

    def __init__(self) -> None:
        self._folders: dict[Path, dict[str, _Record] | None] = {}

    def of(self, file: Path) -> tuple[Path, str | None, Generation]:
        """Return where the raw picture of a file lies, its SHA-256, and how it was made.

        Raises:
            DataError: If there is no record, or the picture was not generated.
        """
        file = file.resolve()
        for folder in file.parents:
            if folder not in self._folders:
                self._folders[folder] = _read_records(folder)
            if (records := self._folders[folder]) is None:
                continue
            if (record := records.get(file.relative_to(folder).as_posix())) is None:
                raise DataError("The data set has no record of it.", "Name a picture that gen-data made, or a crop of one.")
            if record.generation is None:
                raise DataError("It was not generated: it is a copy of a picture, or was painted elsewhere.")
            return folder / record.picture, record.sha256, record.generation
        raise DataError("It lies in no data set.", "Name a picture in datasets/STYLE/raw or datasets/STYLE/cartoon.")


class _Record(NamedTuple):
    picture: str
    sha256: str | None
    generation: Generation | None


def _read_records(folder: Path) -> dict[str, _Record] | None:
    """Return the records of a folder by name, of raw pictures and crops; None if it keeps none."""
    if (folder / "origin.jsonl").is_file():
        origins = read_origins(folder / "origin.jsonl")
        return {line.file: _Record(line.file, line.sha256, line.generation) for line in origins}
    if not (folder / "manifest.jsonl").is_file():
        return None
    records: dict[str, _Record] = {}
    for line in stream_manifest(folder / "manifest.jsonl"):
        record = _Record(line.input, line.input_sha256, line.generation)
        records |= {name: record for name in (line.file, line.input) if name is not None}
    return records


def _make(generation: Generation, raw: Path) -> bytes:
    if generation.engine == "dicebear":
        return dicebear.redraw(generation)
    if generation.engine in ("diffusers", "modelscope"):
        return stable_diffusion.remake(generation)
    if generation.engine == "edit":
        return edit.repaint(generation, read_rgb(raw.parent / PHOTOS / raw.name))
    raise DataError(f"Pictures of the engine {generation.engine} cannot be made again from the manifest alone.")


def _free(path: Path, taken: set[Path | None]) -> Path:
    number, free = 1, path
    while free in taken:
        number += 1
        free = path.with_stem(f"{path.stem}-{number}")
    return free
