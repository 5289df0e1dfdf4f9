"""A study: the same photographs as several methods draw them, under names that tell nothing."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import ValidationError

from stylekit.config.load import style_recipe
from stylekit.config.schema import Recipe
from stylekit.data.datasets import used_crops
from stylekit.data.manifest import ManifestLine
from stylekit.errors import DataError, ImageError, StylekitError, TooFewError, UsageError
from stylekit.images import Rgb, resize, write_image
from stylekit.metrics.measure import crop_digest
from stylekit.metrics.protocol import PictureSet, Protocol, find_photographs, fitting_protocol, read_photographs
from stylekit.paths import Workspace, atomic_folder, atomic_write_text, sha256_bytes, slug
from stylekit.preference.records import QUESTIONS, Photograph, Plan, Question, Record, Skipped, Study, rater_key
from stylekit.preference.trials import make_plan
from stylekit.progress import Progress, silent

if TYPE_CHECKING:
    from stylekit.preference.entries import Maker, OpenEntry

T = TypeVar("T", bound=Record)

STUDY, PICTURES, PLANS = "study.json", "pictures", "trials"
PAIRS = 40
"""Pairs of each question that a rater sees unless said otherwise: with both questions, about eight minutes."""

_SMALLEST_SET = 2
_REFERENCES = 6
_CARTOONS = 12
_SMALLEST_PX, _LARGEST_PX = 256, 1024
_COMPRESSION = 1


def studies_folder(workspace: Workspace) -> Path:
    """Return `work_dirs/preference/`."""
    return workspace.runs / "preference"


def open_study(
    entries: Sequence[str | Path],
    *,
    workspace: Workspace | None = None,
    questions: Sequence[Question] | None = None,
    pairs: int | None = None,
    photos_limit: int | None = None,
    seed: int | None = None,
    progress: Progress = silent,
) -> Path:
    """Return the folder of the study of these entries, made anew where there is none.

    The newest study of the same entries (by digest, in any order) goes on, unless an argument that is given differs from it.

    Args:
        entries: Two or more; see `open_entries`.
        workspace: Where the data sets and runs lie; the working folder by default.
        questions: What is asked; both by default.
        pairs: Most pairs that one rater sees for each question; 40 by default.
        photos_limit: Most photographs in use; all that are held out by default.
        seed: Where chance starts; 0 by default.
        progress: Shows how far it is.

    Raises:
        UsageError: If an entry cannot be used, or their faces are aligned otherwise than the photographs.
        DataError: If there are no photographs, or a person is both among those held out and those trained on.
        TooFewError: If fewer than four photographs of two persons are held out, or fewer than two have a picture of every entry.
        CheckpointError: If a run has no sound checkpoint.
        ExportError: If a bundle is damaged.
    """
    from stylekit.preference.entries import open_entries  # with torch, which nothing else of a study needs

    workspace = workspace or Workspace()
    found = open_entries(entries, workspace)
    settings = _Settings(tuple(questions) if questions else None, pairs, photos_limit, seed)
    return _study_of(found, workspace, settings) or _make(found, workspace, settings, progress)


def find_study(
    entries: Sequence[str | Path],
    *,
    workspace: Workspace | None = None,
    questions: Sequence[Question] | None = None,
    pairs: int | None = None,
    photos_limit: int | None = None,
    seed: int | None = None,
) -> Path | None:
    """Return the folder of the study that `open_study` would go on with; None where it would make one.

    Raises:
        UsageError: If an entry cannot be used.
        DataError: If a folder has no pictures.
        CheckpointError: If a run has no sound checkpoint.
        ExportError: If a bundle is damaged.
    """
    from stylekit.preference.entries import open_entries

    workspace = workspace or Workspace()
    settings = _Settings(tuple(questions) if questions else None, pairs, photos_limit, seed)
    return _study_of(open_entries(entries, workspace), workspace, settings)


@dataclass(frozen=True)
class _Settings:
    """What a study is to be like; None leaves it to the study that is there, or to the defaults."""

    questions: tuple[Question, ...] | None
    pairs: int | None
    photos_limit: int | None
    seed: int | None

    def agree(self, study: Study) -> bool:
        return all(value in (None, getattr(study, key)) for key, value in vars(self).items())


def _study_of(found: Sequence[OpenEntry], workspace: Workspace, settings: _Settings) -> Path | None:
    digests = sorted(one.entry.digest for one in found)
    for folder, study in reversed(list_studies(workspace)):
        if sorted(entry.digest for entry in study.entries) == digests and settings.agree(study):
            return folder
    return None


def read_study(folder: Path) -> Study:
    """Read `study.json`.

    Raises:
        DataError: If it is missing or damaged.
    """
    return _read_record(folder / STUDY, Study)


def list_studies(workspace: Workspace) -> list[tuple[Path, Study]]:
    """Return the readable studies of a workspace, oldest first."""
    folders = sorted(studies_folder(workspace).glob(f"[0-9]*/{STUDY}"))
    found = []
    for file in folders:
        with suppress(DataError):
            found.append((file.parent, read_study(file.parent)))
    return found


def plan_of(folder: Path, study: Study, rater: str) -> Plan:
    """Return the trials of a rater, drawn and written down when they are first asked for.

    Raises:
        DataError: If they are damaged.
    """
    path = folder / PLANS / f"{sha256_bytes(rater_key(rater).encode())[:16]}.json"
    if not path.is_file():
        plan = make_plan(study, rater)
        atomic_write_text(path, plan.model_dump_json(indent=1, exclude_none=True) + "\n")
    return _read_record(path, Plan)


def read_plans(folder: Path) -> Iterator[Plan]:
    """Yield the trials of all raters and packs."""
    for path in sorted((folder / PLANS).glob("*.json")):
        yield _read_record(path, Plan)


def _read_record(path: Path, kind: type[T]) -> T:
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}.") from error
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise DataError(f"{path}: {where or 'the file'}: {error.errors()[0]['msg']}.") from error


def _make(found: list[OpenEntry], workspace: Workspace, settings: _Settings, progress: Progress) -> Path:
    recipe = _recipe(found, workspace)
    photos = find_photographs(None, workspace, own=recipe.photos.source) if recipe else workspace.photos
    protocol, held_out = _held_out(photos, found)
    lines = list(held_out.lines)
    seed, limit = settings.seed or 0, settings.photos_limit or len(lines)
    chance = random.Random(f"{seed}/photographs")
    chance.shuffle(lines)
    size = min(_LARGEST_PX, max(_SMALLEST_PX, *(one.size for one in found)))
    folder = _new_folder(workspace, found)
    notes = [*held_out.notes, *_notes(found, recipe)]
    with atomic_folder(folder) as place:
        pictures = _Pictures(place / PICTURES, size, f"{folder.name}/{seed}")
        makers = [one.maker() for one in found]
        photographs: list[Photograph] = []
        skipped: list[Skipped] = []
        with progress("Drawing", min(len(lines), limit)) as bar:
            for line in lines:
                if len(photographs) == limit:
                    break
                try:
                    photographs.append(_draw(line, held_out.read(line), makers, pictures))
                except ImageError as error:
                    skipped.append(Skipped(file=str(line.file), reason=error.message))
                else:
                    bar.advance()
        if len(photographs) < _SMALLEST_SET:
            reason = f" The first left out: {skipped[0].reason}" if skipped else ""
            raise TooFewError(
                f"Of {len(lines)} held-out photographs {len(photographs)} have a picture of every entry, "
                f"and a study needs {_SMALLEST_SET}.{reason}",
                "Name a folder's pictures as the photographs' crops are named.",
            )
        cartoons = _cartoons(recipe, workspace, pictures, chance, skipped)
        if not cartoons:
            notes.append("No cartoons of the style are at hand, so Pref.A has no references and no controls.")
        study = Study(
            name=folder.name,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            style=recipe.style if recipe and cartoons else None,
            questions=settings.questions or QUESTIONS,
            seed=seed,
            pairs=settings.pairs or PAIRS,
            photos_limit=settings.photos_limit,
            template=str(lines[0].template),
            protocol=protocol.name,
            photographs_manifest_sha256=held_out.manifest_sha256,
            size_px=size,
            entries=tuple(one.entry for one in found),
            photographs=tuple(photographs),
            references=tuple(cartoons[:_REFERENCES]),
            cartoons=tuple(cartoons[_REFERENCES:] or cartoons),
            skipped=tuple(skipped),
            notes=tuple(notes),
        )
        atomic_write_text(place / STUDY, study.model_dump_json(indent=1) + "\n")
    return folder


def _recipe(found: list[OpenEntry], workspace: Workspace) -> Recipe | None:
    """Return the recipe of the first run, else that of the current style."""
    if of_run := next((one.recipe for one in found if one.recipe), None):
        return of_run
    style = workspace.current_style()
    return style_recipe(style, workspace=workspace) if style else None


def _notes(found: list[OpenEntry], recipe: Recipe | None) -> list[str]:
    if recipe is None:
        return []
    others = {one.recipe.photos.source for one in found if one.recipe} - {recipe.photos.source}
    return [
        f"The photographs are held out of {recipe.photos.source}; a run trained with {source} may have seen them."
        for source in sorted(others)
    ]


def _held_out(photos: Path, found: list[OpenEntry]) -> tuple[Protocol, PictureSet]:
    """Return the photographs that an evaluation holds out, and the protocol that says so."""
    protocol = fitting_protocol(photos)
    _, held_out = read_photographs(photos, protocol)
    templates = {line.template for line in held_out.lines}
    for one in found:
        if one.template is not None and (others := templates - {one.template, None}):
            raise UsageError(
                f"{one.entry.source} takes faces aligned as {one.template}; those of {photos} are aligned as "
                f"{', '.join(sorted(map(str, others)))}.",
                "Align the photographs anew with that template.",
            )
    return protocol, held_out


def _new_folder(workspace: Workspace, found: list[OpenEntry]) -> Path:
    """Return `work_dirs/preference/<NNN>-<first>-vs-<second>`."""
    place = studies_folder(workspace)
    taken = [int(path.name.split("-")[0]) for path in place.glob("[0-9]*-*") if path.name.split("-")[0].isdigit()]
    names = "-vs-".join(slug(one.entry.label)[:32].strip("-") for one in found[:2])
    more = f"-and-{len(found) - 2}" if len(found) > 2 else ""
    return place / f"{max(taken, default=-1) + 1:03d}-{names}{more}"


class _Pictures:
    """The study's pictures, each under an id that tells nothing of what it shows."""

    def __init__(self, folder: Path, size: int, name: str) -> None:
        self._folder, self._size, self._name, self._count = folder, size, name, 0

    def add(self, picture: Rgb) -> str:
        self._count += 1
        key = sha256_bytes(f"{self._name}/{self._count}".encode())[:16]
        write_image(
            self._folder / f"{key}.png", resize(picture, (self._size, self._size)), compression=_COMPRESSION, durable=False
        )
        return key


def _draw(line: ManifestLine, crop: Rgb, makers: list[Maker], pictures: _Pictures) -> Photograph:
    made = [make(Path(str(line.file)).stem, crop) for make in makers]
    return Photograph(
        file=str(line.file),
        group=line.group or line.person or str(line.file),
        sha256=crop_digest(crop),
        picture=pictures.add(crop),
        pictures=tuple(map(pictures.add, made)),
    )


def _cartoons(
    recipe: Recipe | None, workspace: Workspace, pictures: _Pictures, chance: random.Random, skipped: list[Skipped]
) -> list[str]:
    """Add some cartoons of the style; none where there is no style, or no data set of it."""
    if recipe is None:
        return []
    try:
        drawn = list(used_crops(workspace.style(recipe.style)))
    except StylekitError:
        return []
    added: list[str] = []
    for line, file in chance.sample(drawn, len(drawn)):
        if len(added) == _CARTOONS:
            break
        try:
            added.append(pictures.add(file.read()))
        except ImageError as error:
            skipped.append(Skipped(file=str(line.file), reason=error.message))
    return added
