"""`dropped.txt`: the crops that a person took out of a data set (`review.drop`), and that align keeps out."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from stylekit.data.manifest import ManifestLine
from stylekit.errors import DataError
from stylekit.paths import atomic_write_text

DROPPED = "dropped.txt"
"""The list, beside the manifest: one crop's file name a line, without its folder, sorted; UTF-8."""

REASON = "dropped by hand"
"""What the manifest gives as the reason."""

_HEADING = "# Crops taken out by hand, one file name a line. To bring one back: stylekit data drop --undo NAME\n"


def read_dropped(folder: Path) -> frozenset[str]:
    """Return the file names of the crops that were taken out of a data set; none if there is no list.

    Blank lines and lines that begin with `#` are passed over.

    Raises:
        DataError: If the list cannot be read.
    """
    path = folder / DROPPED
    if not path.is_file():
        return frozenset()
    try:
        rows = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}.", "It holds one file name a line, in UTF-8.") from error
    return frozenset(row.strip() for row in rows if row.strip() and not row.startswith("#"))


def write_dropped(folder: Path, names: Iterable[str]) -> None:
    """Write the list atomically.

    Raises:
        StylekitError: If it cannot be written.
    """
    atomic_write_text(folder / DROPPED, _HEADING + "".join(f"{name}\n" for name in sorted(names)))


def without_dropped(line: ManifestLine, dropped: frozenset[str]) -> ManifestLine:
    """Return a used line as a rejected one if its crop was taken out, and any other line as it is.

    It keeps its person, side, measures and pair. What is decided of the others does not depend on it, so that taking a crop
    out or bringing it back changes nothing else.
    """
    if line.status != "used" or line.file is None or PurePosixPath(line.file).name not in dropped:
        return line
    return line.model_copy(update={"status": "rejected", "reasons": [REASON]})
