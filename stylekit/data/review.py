"""`data drop`: crops taken out of a data set by hand, and brought back."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from stylekit.data.crops import FOLDERS
from stylekit.data.dropped import REASON, read_dropped, without_dropped, write_dropped
from stylekit.data.manifest import Kind, ManifestLine, stream_manifest, write_manifest
from stylekit.data.page import write_report
from stylekit.data.prepare import draw_sheet, settle
from stylekit.data.report import no_data_set
from stylekit.errors import DataError, StylekitError


@dataclass(frozen=True)
class DropReport:
    """What `drop` changed.

    Attributes:
        folder: The data set.
        changed: The crops that were taken out now, or brought back, by file name.
        dropped: All that are out now.
        used: Crops that are left to train with.
        page: `report.html`, written anew.
    """

    folder: Path
    changed: tuple[str, ...]
    dropped: tuple[str, ...]
    used: int
    page: Path


def drop(folder: Path, names: Sequence[str], *, undo: bool = False) -> DropReport:
    """Take crops out of a data set, or bring them back. Nothing is deleted, and align keeps to it.

    Args:
        folder: The data set, with `manifest.jsonl`.
        names: Crops, each as the report names it (`000012`), as a file (`cartoon/000012.png`) or as a pattern (`0001*`). A
            raw picture (`raw/000012.png`) means all crops of it.
        undo: Bring them back instead.

    Raises:
        DataError: If there is no data set, or no crop of a name; then nothing is changed.
        StylekitError: If it cannot be written, or an align is at work there.
    """
    manifest = folder / "manifest.jsonl"
    if not manifest.is_file():
        raise no_data_set(folder)
    kind: Kind = "photo" if (folder / FOLDERS["photo"]).is_dir() else "cartoon"
    with _alone(folder):
        before = read_dropped(folder)
        is_meant = _is_dropped if undo else _is_used
        inputs = {_name(line): line.input for line in stream_manifest(manifest) if is_meant(line)}
        changed = {crop for name in names for crop in _find(name, inputs, folder, undo)}
        after = before - changed if undo else before | changed
        write_dropped(folder, after)
        used: list[str] = []

        def lines() -> Iterator[ManifestLine]:
            for line in stream_manifest(manifest):
                settled = settle(_changed(line, after), kind, folder) if _name(line) in changed else line
                if _is_used(settled):
                    used.append(PurePosixPath(_name(settled)).stem)
                yield settled

        write_manifest(manifest, lines())
    draw_sheet(folder / "contact_sheet.jpg", folder / FOLDERS[kind], used)
    return DropReport(folder, tuple(sorted(changed)), tuple(sorted(after)), len(used), write_report(folder))


def _changed(line: ManifestLine, dropped: frozenset[str]) -> ManifestLine:
    """Return a line as it is now that these crops are dropped."""
    kept = line.model_copy(update={"status": "used", "reasons": []}) if _is_dropped(line) else line
    return without_dropped(kept, dropped)


def _name(line: ManifestLine) -> str:
    return PurePosixPath(line.file or "").name


def _is_used(line: ManifestLine) -> bool:
    return line.status == "used" and line.file is not None


def _is_dropped(line: ManifestLine) -> bool:
    return line.status == "rejected" and line.reasons == [REASON]


def _find(name: str, inputs: Mapping[str, str], folder: Path, undo: bool) -> list[str]:
    """Return the crops that a name means; `inputs` says which picture each was cut from.

    Raises:
        DataError: If there is none.
    """
    whole = Path(name).resolve()
    inside = whole.relative_to(folder.resolve()).as_posix() if whole.is_relative_to(folder.resolve()) else name
    last = PurePosixPath(name.replace("\\", "/")).name
    found = [crop for crop, source in inputs.items() if source in (name, inside)]
    found = found or [crop for crop in inputs if fnmatchcase(crop, last) or fnmatchcase(PurePosixPath(crop).stem, last)]
    if found:
        return found
    likely = get_close_matches(last, [PurePosixPath(crop).stem for crop in inputs], n=1)
    hint = f"Did you mean {likely[0]}?" if likely else "Run stylekit data report: the names stand below the pictures."
    raise DataError(f"{folder} has no {'dropped' if undo else 'used'} crop called {name}.", hint)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep an align out meanwhile, by the lock that it takes itself."""
    if not (notes := folder / "align.db").is_file():
        yield
        return
    with closing(sqlite3.connect(notes, isolation_level=None, timeout=0)) as database:
        try:
            database.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            raise StylekitError(f"{folder} is in use: an align is at work there.", "Wait until it ends.") from error
        except sqlite3.DatabaseError:  # damaged: the next align begins it anew
            pass
        yield
