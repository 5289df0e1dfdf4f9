"""`align`: from pictures to aligned, judged face crops with a manifest.

Finding and cropping faces is done once for each picture, in several processes, and noted (`notes.py`), so that a killed run goes
on where it stopped and a later one looks only at what is new. The limits judge what is noted, so moving them looks at nothing
again. What depends on all pictures together (`decisions.py`) is decided anew when the faces that pass are others.

No picture stays in memory. What the decision compares does, 1.3 kB a face and some of it twice; with all else 4 to 6 kB a face.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from stylekit.config.schema import AlignRecipe
from stylekit.data.advice import reason_kind
from stylekit.data.crops import FOLDERS, LIMITS, REJECTED, CropMaker, Found, Task, judge, shrink_to, unreadable
from stylekit.data.decisions import Decisions, decide, digest
from stylekit.data.dropped import REASON, read_dropped, without_dropped
from stylekit.data.inputs import Input, Inputs, Source
from stylekit.data.manifest import Kind, ManifestLine, write_manifest
from stylekit.data.notes import Notes, PictureNote, UsedFaces
from stylekit.data.page import PAGE, write_report
from stylekit.data.pairs import PHOTO, paired_photos, settle_pair
from stylekit.data.report import SETTINGS
from stylekit.data.workers import Lost, fitting, spread
from stylekit.errors import ImageError, Interrupted
from stylekit.images import contact_sheet, read_rgb, write_image
from stylekit.paths import remove_partials, replace_if_other, sha256_bytes
from stylekit.progress import Progress, silent

PICTURE_LIMIT_S = 180.0
"""A picture that a process of its own works on for longer is given up."""

_VERSION = 3  # of what is noted for a picture; another number makes every picture be looked at again
_WORTH_PROCESSES = 100  # pictures; starting processes takes seconds
_PROCESS_BYTES = 500_000_000  # one was measured at 402 MB
_SHEET_PICTURES = 160
_SHEET_COLUMNS = 16
_SHEET_CELL_PX = 96


@dataclass(frozen=True)
class AlignReport:
    """What `align` left behind.

    Attributes:
        used: Crops ready for training.
        rejected: Faces and pictures left out, each in `rejected/` and with its reasons in the manifest.
        unreadable: Files that nothing could be made of, by name, with what is wrong with them.
        changed: Pictures that were looked at in this run; the others were done before.
        reasons: How often each reason to leave something out came up.
        page: `report.html`, which says whether the set is good enough.
        limits: The thresholds in force, by their key in the recipe.
        pictures: How many there are in the source; each may give several faces.
        notes: What else there is to say of the source, one sentence each: what is not read.
    """

    used: int
    rejected: int
    unreadable: dict[str, str]
    changed: int
    reasons: dict[str, int]
    manifest: Path
    contact_sheet: Path
    page: Path
    limits: dict[str, float] = field(default_factory=dict)
    pictures: int = 0
    notes: tuple[str, ...] = ()


def align(
    source: Source,
    *,
    kind: Kind,
    output: Path,
    recipe: AlignRecipe | None = None,
    seed: int = 0,
    eval_fraction: float = 0.2,
    processes: int | None = None,
    progress: Progress = silent,
) -> AlignReport:
    """Find, crop and judge the faces of pictures.

    Photographs give every face that is large and clear enough, are grouped into persons and split into train and eval by
    person. Cartoons give the largest face and all belong to train. Writes `cropped/` (photographs) or `cartoon/`,
    `rejected/`, `manifest.jsonl`, `contact_sheet.jpg`, `report.html`, `align.json` and `align.db` into `output`.

    Args:
        source: A folder, zip file or shards of any layout that `open_source` knows, a list of files, or `asset:NAME`.
        kind: What the pictures are.
        output: Where to write; may hold the source.
        recipe: How faces are found, cropped and judged.
        seed: Decides who is held out.
        eval_fraction: Share of the persons held out, for photographs.
        processes: How many pictures are worked on at once, each in a process of its own, which may die or hang without
            harm to the others. 1 works in this process. By default one per CPU core, as far as memory goes, but 1 for fewer
            than 100 pictures, and for face-alignment's networks on a GPU, which they fill.
        progress: Where progress is reported.

    Raises:
        DataError: If there are no pictures.
        AssetError: If a network or the source cannot be had.
        StylekitError: If the output cannot be written, or another align is writing it.
        Interrupted: If the user stops it; what is done is kept.
    """
    recipe = recipe or AlignRecipe()
    inputs = Inputs(source, output, kind)
    with closing(Notes(output / "align.db")) as notes:
        for folder in (output, output / FOLDERS[kind], output / REJECTED, output / PHOTO):
            remove_partials(folder)
        number = processes or _processes(len(inputs), recipe)
        changed = _note_all(inputs, notes, CropMaker(kind, recipe, output), number, progress)
        _delete(notes.forget_unseen(), kind, output)
        used = notes.used()
        decisions = _decide(notes, used, kind, seed=seed, eval_fraction=eval_fraction, progress=progress)
        counts = _Counts()
        manifest, sheet = output / "manifest.jsonl", output / "contact_sheet.jpg"
        dropped = read_dropped(output)
        lines = (settle(without_dropped(line, dropped), kind, output) for line in _decided(notes, used, decisions))
        paired = paired_photos(manifest)
        is_other = write_manifest(manifest, counts.of(lines))
        for photo in paired - paired_photos(manifest):
            (output / photo).unlink(missing_ok=True)
    if is_other or not sheet.is_file():
        stems = [stem for stem, better in zip(used.stems, decisions.better.tolist(), strict=True) if better < 0]
        draw_sheet(sheet, output / FOLDERS[kind], [stem for stem in stems if f"{stem}.png" not in dropped])
    moved_limits = replace_if_other(output / SETTINGS, [recipe.model_dump_json(indent=2).encode() + b"\n"])
    if is_other or moved_limits or not (output / PAGE).is_file():
        write_report(output)
    return AlignReport(
        used=counts.status["used"],
        rejected=counts.status["rejected"],
        unreadable=counts.unreadable,
        changed=changed,
        reasons=dict(counts.reasons),
        manifest=manifest,
        contact_sheet=sheet,
        page=output / PAGE,
        limits=_limits(recipe, kind),
        pictures=len(inputs),
        notes=inputs.notes,
    )


def _processes(pictures: int, recipe: AlignRecipe) -> int:
    """Return how many processes are best for so many pictures."""
    if pictures < _WORTH_PROCESSES:
        return 1
    if recipe.landmarks == "face-alignment":
        from stylekit.nn.device import find_device

        if find_device().type != "cpu":
            return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return fitting(cores, _PROCESS_BYTES)


def _limits(recipe: AlignRecipe, kind: Kind) -> dict[str, float]:
    return {name: getattr(recipe, name) for name in (LIMITS if kind == "photo" else LIMITS[:1])}


def _decide(notes: Notes, used: UsedFaces, kind: Kind, *, seed: int, eval_fraction: float, progress: Progress) -> Decisions:
    """Return what was decided of these faces before, or decide it."""
    what = digest(used, kind, seed, eval_fraction)
    if known := notes.decided(what):
        return Decisions.from_json(known)
    try:
        decisions = decide(used, kind, seed, eval_fraction, progress)
    except KeyboardInterrupt:
        raise Interrupted("Stopped while the faces were compared.", "Run the same command to go on.") from None
    notes.remember(what, decisions.to_json())
    return decisions


def _note_all(inputs: Inputs, notes: Notes, make: CropMaker, processes: int, progress: Progress) -> int:
    """Note every input; return how many were looked at."""
    changed = done = 0
    limits = _judged_by(make)

    def tasks() -> Iterator[Task]:
        nonlocal done
        for place, picture in enumerate(inputs):
            note, stamp = notes.find(picture.name), picture.stamp()
            if note is None or not _fits(note, picture, stamp, make):
                yield Task(place, picture, stamp)
                continue
            notes.keep(picture.name, place, stamp)
            if note.limits != limits:
                notes.judge_again(picture.name, limits, lambda line: judge(line, make.recipe, make.kind))
            done += 1
            bar.advance()

    with progress(f"Aligning {make.kind}s", len(inputs)) as bar:
        here: Generator[tuple[Task, Found | Lost], None, None] = ((task, make(task)) for task in tasks())
        found = spread(make, tasks(), processes, PICTURE_LIMIT_S) if processes > 1 else here
        try:
            with closing(found):
                for task, result in found:
                    changed += _note(task, result, notes, make)
                    done += 1
                    bar.advance()
        except KeyboardInterrupt:
            raise Interrupted(f"Stopped after {done} of {len(inputs)} pictures.", "Run the same command to go on.") from None
    return changed


def _settings(picture: Input, make: CropMaker) -> str:
    """Return a digest of all that the measures of a picture's faces depend on, beside its bytes."""
    origin = picture.origin.model_dump(mode="json") if picture.origin else None
    recipe = make.recipe.model_dump(mode="json", exclude=set(LIMITS))
    what = [_VERSION, make.kind, recipe, picture.stem, origin, picture.partition, picture.person]
    return sha256_bytes(json.dumps(what).encode())


def _judged_by(make: CropMaker) -> str:
    """Return a digest of what measures are judged by."""
    return sha256_bytes(json.dumps([_VERSION, make.kind, _limits(make.recipe, make.kind)]).encode())


def _fits(note: PictureNote, picture: Input, stamp: str | None, make: CropMaker) -> bool:
    """Tell whether a note says what looking at the picture would, and its crops are there."""
    if note.sha256 is None or note.settings != _settings(picture, make):
        return False
    if any(_length(name, make.kind, make.output) != length for name, length in note.files.items()):
        return False
    if stamp is not None and stamp == note.stamp:
        return True
    try:
        return sha256_bytes(picture.item.read()) == note.sha256
    except ImageError:
        return False


def _note(task: Task, result: Found | Lost, notes: Notes, make: CropMaker) -> bool:
    """Note what came of a picture; tell whether it was looked at."""
    picture = task.input
    if isinstance(result, Lost):
        result = Found(None, [unreadable(picture, f"could not be aligned: it {result.reason}")])
    note = PictureNote(result.sha256, task.stamp, _settings(picture, make), _judged_by(make))
    known = notes.find(picture.name)
    _delete(notes.put(task.place, note, result.faces, picture.split, picture.person), make.kind, make.output)
    return result.sha256 is not None or known is None or known.sha256 is not None


def _places(name: str, kind: Kind) -> tuple[str, str]:
    """Return where a crop lies if it is used, and if it is rejected."""
    return f"{FOLDERS[kind]}/{name}", f"{REJECTED}/{name}"


def _length(name: str, kind: Kind, output: Path) -> int | None:
    """Return the length of a crop in bytes; None if it is gone."""
    for place in _places(name, kind):  # near-duplicates are moved after they were noted
        with suppress(OSError):
            return (output / place).stat().st_size
    return None


def _delete(names: Iterable[str], kind: Kind, output: Path) -> None:
    for name in names:
        for place in _places(name, kind):
            (output / place).unlink(missing_ok=True)


def _decided(notes: Notes, used: UsedFaces, decisions: Decisions) -> Iterator[ManifestLine]:
    """Yield the lines of the manifest: of near-duplicates only the best is used, every used crop has its person and split."""
    index = 0
    for line in notes.lines():
        if line.status != "used":
            yield line
            continue
        better = int(decisions.better[index])
        if better >= 0:
            yield line.model_copy(update={"status": "rejected", "reasons": [f"near-duplicate: {used.inputs[better]}"]})
        else:
            update = {
                "person": decisions.persons[index],
                "group": decisions.groups[index],
                "split": decisions.splits[index],
                "quality": {**line.quality, "outlier": decisions.outliers[index]},
            }
            yield line.model_copy(update=update)
        index += 1


def settle(line: ManifestLine, kind: Kind, output: Path) -> ManifestLine:
    """Move a crop to the folder its status asks for, and see to its photograph; return the line as it is then."""
    if line.file is None:
        return line
    name = line.file.partition("/")[2]
    used, rejected = _places(name, kind)
    target, other = (used, rejected) if line.status == "used" else (rejected, used)
    if (output / other).is_file():
        (output / target).parent.mkdir(parents=True, exist_ok=True)
        (output / other).replace(output / target)
    line = line.model_copy(update={"file": target})
    return line if line.reasons == [REASON] else settle_pair(line, output)


class _Counts:
    """What the report says of the lines that pass by."""

    def __init__(self) -> None:
        self.status: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.unreadable: dict[str, str] = {}

    def of(self, lines: Iterable[ManifestLine]) -> Iterator[ManifestLine]:
        for line in lines:
            self.status[line.status] += 1
            if line.status == "unreadable":
                self.unreadable[line.input] = line.reasons[0]
            elif line.status == "rejected":
                self.reasons.update(map(reason_kind, line.reasons))
            yield line


def draw_sheet(path: Path, folder: Path, stems: Sequence[str]) -> None:
    """Write the contact sheet of the crops of these names in a folder, or a sample of them."""
    shown = np.linspace(0, len(stems) - 1, min(len(stems), _SHEET_PICTURES)).astype(int)
    pictures = [shrink_to(read_rgb(folder / f"{stems[place]}.png"), _SHEET_CELL_PX) for place in shown]
    write_image(path, contact_sheet(pictures, _SHEET_COLUMNS, _SHEET_CELL_PX))
