"""`align`: from pictures to aligned, judged face crops with a manifest.

Finding and cropping faces is done once for each picture and noted (`notes.py`), so that a killed run goes on where it stopped
and a later one looks only at what is new. What depends on all pictures together (near-duplicates, persons, the split) is
decided anew from the notes each time.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stylekit.config.schema import AlignRecipe
from stylekit.data.crops import FOLDERS, REJECTED, CropMaker, Kind, shrink_to
from stylekit.data.inputs import Input, Source, list_inputs
from stylekit.data.manifest import ManifestLine, write_manifest
from stylekit.data.notes import FaceNote, Notes, PictureKey, PictureNote, decode
from stylekit.data.split import split_by_person
from stylekit.errors import Interrupted
from stylekit.faces.identity import cluster_persons, link_persons
from stylekit.faces.quality import near_duplicates
from stylekit.images import Rgb, contact_sheet, read_rgb, write_image
from stylekit.paths import remove_partials, sha256_bytes
from stylekit.progress import Progress, silent

_VERSION = 1  # of what is noted for a picture; another number makes every picture be looked at again
_SHEET_PICTURES = 160
_SHEET_COLUMNS = 16
_SHEET_CELL_PX = 96


@dataclass(frozen=True)
class AlignReport:
    """What `align` left behind.

    Attributes:
        used: Crops ready for training.
        rejected: Faces and pictures left out, each in `rejected/` and with its reasons in the manifest.
        unreadable: Files that are not pictures, by name, with what is wrong with them.
        changed: Pictures that were looked at in this run; the others were done before.
        reasons: How often each reason to leave something out came up.
    """

    used: int
    rejected: int
    unreadable: dict[str, str]
    changed: int
    reasons: dict[str, int]
    manifest: Path
    contact_sheet: Path


def align(
    source: Source,
    *,
    kind: Kind,
    output: Path,
    recipe: AlignRecipe | None = None,
    seed: int = 0,
    eval_fraction: float = 0.2,
    progress: Progress = silent,
) -> AlignReport:
    """Find, crop and judge the faces of pictures.

    Photographs give every face that is large and clear enough, are grouped into persons and split into train and eval by
    person. Cartoons give the largest face and all belong to train. Writes `cropped/` (photographs) or `cartoon/`,
    `rejected/`, `manifest.jsonl`, `contact_sheet.jpg` and `align.jsonl` into `output`.

    Args:
        source: A folder, a list of files, or `asset:NAME`.
        kind: What the pictures are.
        output: Where to write; may hold the source.
        recipe: How faces are cropped and judged.
        seed: Decides who is held out.
        eval_fraction: Share of the persons held out, for photographs.
        progress: Where progress is reported.

    Raises:
        DataError: If there are no pictures.
        AssetError: If a network or the source cannot be had.
        StylekitError: If the output cannot be written.
        Interrupted: If the user stops it; what is done is kept.
    """
    recipe = recipe or AlignRecipe()
    inputs = list_inputs(source, output)
    for folder in (output, output / FOLDERS[kind], output / REJECTED):
        remove_partials(folder)
    notes = Notes(output / "align.jsonl")
    before = notes.all()
    now, changed = _note_all(inputs, notes, CropMaker(kind, recipe, output), progress)
    _drop_stale(before, now, kind, output)
    notes.replace(now)

    lines = _decide([face for note in now for face in note.faces], kind, seed, eval_fraction, output)
    lines = [_place(line, kind, output) for line in lines]
    manifest, sheet = output / "manifest.jsonl", output / "contact_sheet.jpg"
    if write_manifest(manifest, lines) or not sheet.is_file():
        _draw_sheet(sheet, [output / line.file for line in lines if line.status == "used" and line.file])
    status = Counter(line.status for line in lines)
    return AlignReport(
        used=status["used"],
        rejected=status["rejected"],
        unreadable={line.input: line.reasons[0] for line in lines if line.status == "unreadable"},
        changed=changed,
        reasons=dict(Counter(_gist(reason) for line in lines if line.status == "rejected" for reason in line.reasons)),
        manifest=manifest,
        contact_sheet=sheet,
    )


def _note_all(inputs: Sequence[Input], notes: Notes, make: CropMaker, progress: Progress) -> tuple[list[PictureNote], int]:
    """Return a note for every input, and for how many it had to be made."""
    settings = sha256_bytes(json.dumps([_VERSION, make.kind, make.recipe.model_dump(mode="json")]).encode())
    now: list[PictureNote] = []
    changed = 0
    try:
        with progress(f"Aligning {make.kind}s", len(inputs)) as bar:
            for each in inputs:
                data = _read(each.path)
                sha256 = sha256_bytes(data) if isinstance(data, bytes) else None
                key = PictureKey(input=each.name, stem=each.stem, sha256=sha256, settings=settings)
                note = notes[key]
                if note is None or not all(_find(file, make.kind, make.output).is_file() for file in note.files):
                    note = PictureNote(key=key, faces=make(each, data, sha256))
                    notes.add(note)
                    changed += 1
                now.append(note)
                bar.advance()
    except KeyboardInterrupt:
        raise Interrupted(f"Stopped after {len(now)} of {len(inputs)} pictures.", "Run the same command to go on.") from None
    return now, changed


def _read(path: Path) -> bytes | OSError:
    try:
        return path.read_bytes()
    except OSError as error:
        return error


def _places(file: str, kind: Kind) -> tuple[str, str]:
    """Return where a crop lies if it is used, and if it is rejected."""
    name = file.partition("/")[2]
    return f"{FOLDERS[kind]}/{name}", f"{REJECTED}/{name}"


def _find(file: str, kind: Kind, output: Path) -> Path:
    """Return where a crop lies now; near-duplicates are moved after they were noted."""
    used, rejected = (output / place for place in _places(file, kind))
    return used if used.is_file() else rejected


def _place(line: ManifestLine, kind: Kind, output: Path) -> ManifestLine:
    """Move a crop to the folder its status asks for."""
    if line.file is None:
        return line
    target = _places(line.file, kind)[0 if line.status == "used" else 1]
    current = _find(line.file, kind, output)
    if current != output / target:
        (output / target).parent.mkdir(parents=True, exist_ok=True)
        current.replace(output / target)
    return line.model_copy(update={"file": target})


def _drop_stale(before: Iterable[PictureNote], now: Iterable[PictureNote], kind: Kind, output: Path) -> None:
    """Delete crops of earlier runs that no picture gives any more."""
    old, new = ({place for note in notes for file in note.files for place in _places(file, kind)} for notes in (before, now))
    for place in old - new:
        (output / place).unlink(missing_ok=True)


def _decide(faces: Sequence[FaceNote], kind: Kind, seed: int, eval_fraction: float, output: Path) -> list[ManifestLine]:
    """Return the manifest: of near-duplicates only the best is used, persons are named, every used crop has its split."""
    lines = [face.line for face in faces]
    used = [place for place, line in enumerate(lines) if line.status == "used"]
    used.sort(key=lambda place: _merit(lines[place]), reverse=True)
    crops = _Crops([_find(lines[place].file or "", kind, output) for place in used])
    embeddings = np.stack([decode(faces[place].embedding) for place in used]) if kind == "photo" and used else None
    for place, better in zip(used, near_duplicates(crops, embeddings), strict=True):
        if better is not None:
            reason = f"near-duplicate: {lines[used[better]].input}"
            lines[place] = lines[place].model_copy(update={"status": "rejected", "reasons": [reason]})
    kept = [place for place, line in enumerate(lines) if line.status == "used"]
    if kind == "cartoon":
        for place in kept:
            lines[place] = lines[place].model_copy(update={"split": "train"})
    elif kept:
        embeddings = np.stack([decode(faces[place].embedding) for place in kept])
        labels = cluster_persons(embeddings)
        persons, groups = (
            _name_persons(each.tolist(), [lines[place] for place in kept]) for each in (labels, link_persons(embeddings, labels))
        )
        sides = split_by_person(persons, eval_fraction, seed, dict(zip(persons, groups, strict=True)))
        for place, person, group in zip(kept, persons, groups, strict=True):
            lines[place] = lines[place].model_copy(update={"person": person, "group": group, "split": sides[person]})
    return lines


def _merit(line: ManifestLine) -> float:
    return line.quality["sharpness"] * line.quality["face_px"]


class _Crops(Sequence[Rgb]):
    """Crops read from disk one at a time, so that a large set need not fit into memory."""

    def __init__(self, files: list[Path]) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: Any) -> Any:
        return read_rgb(self._files[index])


def _name_persons(labels: Sequence[int], lines: Sequence[ManifestLine]) -> list[str]:
    """Name each person after their first crop, which stays the same when others come or go."""
    first: dict[int, str] = {}
    for label, line in zip(labels, lines, strict=True):
        first.setdefault(label, Path(line.file or "").stem)
    return [first[label] for label in labels]


def _gist(reason: str) -> str:
    """Return a reason without its figures, so that the same ones can be counted together."""
    return re.sub(r"\d[\d.]*", "N", reason.partition(":")[0])


def _draw_sheet(path: Path, files: Sequence[Path]) -> None:
    shown = np.linspace(0, len(files) - 1, min(len(files), _SHEET_PICTURES)).astype(int)
    pictures = [shrink_to(read_rgb(files[place]), _SHEET_CELL_PX) for place in shown]
    write_image(path, contact_sheet(pictures, _SHEET_COLUMNS, _SHEET_CELL_PX))
