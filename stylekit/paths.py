"""Where things lie on disk, and how they are written so that a crash never leaves half a file."""

from __future__ import annotations

import errno
import filecmp
import hashlib
import json
import os
import re
import secrets
import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from stylekit.errors import StylekitError, UsageError

_PARTIAL = ".partial-"
_SHARED_NAMES = ("face_photo", "trainA")
_OLD = f"{_PARTIAL}old-"  # holds a folder while another takes its place


def home() -> Path:
    """Return the cache folder: `$STYLEKIT_HOME`, else the platform's own cache folder for stylekit."""
    if configured := os.environ.get("STYLEKIT_HOME"):
        return Path(configured).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("stylekit", appauthor=False))


def sha256_bytes(data: bytes) -> str:
    """Return the hexadecimal SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def refusal(path: Path, error: OSError) -> StylekitError:
    """Return the error that says why `path` cannot be written, and what to do."""
    locked = error.errno in (errno.EROFS, errno.EACCES, errno.EPERM)
    mend = "Make that folder writable" if locked else "Free some space"
    return StylekitError(f"Cannot write {path}: {error.strerror or error}.", f"{mend}, or write to another folder.")


def atomic_write_bytes(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write `data` to `path` so that readers see the old file or the whole new one, never a part.

    Args:
        path: Where to; missing folders are made.
        data: What to write.
        durable: Wait until the disk has it, so that it outlives a power failure too.

    Raises:
        StylekitError: If the folder is read-only, the disk is full, or the path cannot be written.
    """
    with _written_beside(path, [data], durable) as temporary:
        os.replace(temporary, path)


def replace_if_other(path: Path, chunks: Iterable[bytes]) -> bool:
    """Write a file of any length as `atomic_write_bytes` does, unless it already says so.

    Args:
        path: Where to; missing folders are made.
        chunks: What to write, piece by piece.

    Returns:
        Whether the file is another now; if not, it was not touched.

    Raises:
        StylekitError: If the folder is read-only, the disk is full, or the path cannot be written.
    """
    with _written_beside(path, chunks) as temporary:
        if path.is_file() and filecmp.cmp(temporary, path, shallow=False):
            return False
        os.replace(temporary, path)
    return True


@contextmanager
def _written_beside(path: Path, chunks: Iterable[bytes], durable: bool = True) -> Iterator[Path]:
    """Give a file beside `path` that holds `chunks`; if it is not moved, it is gone afterwards."""
    temporary = _beside(path, _PARTIAL)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as stream:
            stream.writelines(chunks)
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        yield temporary
    except OSError as error:
        raise refusal(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _beside(path: Path, prefix: str) -> Path:
    """Return a name that nothing in the folder of `path` has."""
    return path.with_name(f"{prefix}{secrets.token_hex(8)}")


def atomic_write_text(path: Path, text: str) -> None:
    """Write UTF-8 text as `atomic_write_bytes` does."""
    atomic_write_bytes(path, text.encode("utf-8"))


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder beside `path`; on success it takes the place of `path` in one rename.

    A folder already at `path` is replaced only after the new one is complete. On any error nothing at `path` changes; after a
    kill at the very moment of the replacement, `remove_partials` brings it back.

    Raises:
        StylekitError: If the folder cannot be written.
    """
    try:
        temporary = _beside(path, f"{_PARTIAL}new-{path.name}-")
        temporary.mkdir(parents=True)
    except OSError as error:
        raise refusal(path, error) from error
    try:
        yield temporary
        _settle(temporary)
        if path.exists():
            old = _beside(path, _OLD)
            old.mkdir()
            try:
                os.replace(path, old / path.name)
                os.replace(temporary, path)
            finally:
                _discard(old)
        else:
            os.replace(temporary, path)
    except OSError as error:
        raise refusal(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _settle(folder: Path) -> None:
    """Put every file safely on disk, no more private than a plain `open` would have made it (some libraries write 0600)."""
    mode = folder.stat().st_mode & 0o666  # as the process's umask left it
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink():
            file.chmod(file.stat().st_mode | mode)
            with file.open("r+b") as stream:
                os.fsync(stream.fileno())


def _discard(old: Path) -> None:
    """Delete the folder that was replaced, or put it back if nothing has taken its place."""
    for kept in old.iterdir():
        if not (place := old.with_name(kept.name)).exists():
            os.replace(kept, place)
    shutil.rmtree(old, ignore_errors=True)


def remove_partials(folder: Path) -> None:
    """Clear up after an `atomic_write_bytes` or `atomic_folder` that was killed in `folder`.

    What it had not finished is deleted; a folder that it had moved away to replace it is put back.
    """
    if not folder.is_dir():
        return
    for leftover in folder.glob(f"{_PARTIAL}*"):
        if leftover.name.startswith(_OLD):
            _discard(leftover)
        elif leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def slug(text: str) -> str:
    """Return `text` as a folder name: lower case, words joined by hyphens ("Archer style" -> "archer-style").

    Raises:
        UsageError: If nothing is left.
    """
    name = re.sub(r"[\W_]+", "-", text.strip().lower()).strip("-")
    if not name:
        raise UsageError(f"{text!r} cannot be made into a style name.", "Use letters or digits.")
    return name


def style_name(text: str) -> str:
    """Return the style's name in `text`: a `slug` of letters a to z and digits, which every disk, hub and shell can take.

    Raises:
        UsageError: If it has other letters.
    """
    name = slug(text)
    if not re.fullmatch("[a-z0-9-]+", name):
        raise UsageError(
            f"{text!r} cannot be made into a style name.",
            "Name it with letters a to z or digits: stylekit gen-data PROMPT --style NAME.",
        )
    return name


def _first_input(data_set: Path) -> str | None:
    """Return a picture that a data set was made of, as its manifest names it; that of a run that was stopped, by its notes."""
    with suppress(OSError, ValueError, KeyError), (data_set / "manifest.jsonl").open("rb") as lines:
        return str(json.loads(next(lines, b""))["input"])
    notes = data_set / "align.db"
    if notes.is_file():
        with (
            suppress(sqlite3.Error),
            closing(sqlite3.connect(notes.resolve().as_uri() + "?mode=ro", uri=True, timeout=0)) as database,
        ):
            row = database.execute("SELECT input FROM pictures LIMIT 1").fetchone()
            return str(row[0]) if row else None
    return None


@dataclass(frozen=True)
class Workspace:
    """The folders of one project: `datasets/`, `recipes/` and `work_dirs/` below `root`."""

    root: Path = Path()

    @property
    def photos(self) -> Path:
        """`datasets/photos/`, with `raw/ cropped/ rejected/ manifest.jsonl`."""
        return self.root / "datasets" / "photos"

    def photo_set(self, source: str) -> Path:
        """The data set of a recipe's `photos.source`: `datasets/photos/`, or `datasets/photos-<folder>/` for a folder.

        A folder that every data set of its kind has (`face_photo`, `trainA`), and a pattern of shards, is named together with the
        folder it lies in. Where the data set of that name was made of another source, four digits of a digest of this one follow.
        """
        if source.startswith("asset:"):
            return self.photos
        folder = Path(source).resolve()
        names = folder.parts[-2:] if folder.name in _SHARED_NAMES or "{" in folder.name else folder.parts[-1:]
        plain = self.photos.with_name(f"photos-{slug(' '.join(names))}")
        if self._is_made_of(plain, folder.parent if "{" in folder.name else folder):
            return plain
        return plain.with_name(f"{plain.name}-{sha256_bytes(os.fsencode(folder))[:4]}")

    def _is_made_of(self, data_set: Path, source: Path) -> bool:
        """Tell whether a data set was made of a source, or is still to be made."""
        picture = _first_input(data_set)
        if picture is None or picture.startswith("asset:"):
            return True
        places = (place / picture for place in (Path.cwd(), self.root, data_set))
        return any(path.is_relative_to(source) for place in places for path in (place.resolve(), place.parent.resolve()))

    def style(self, name: str) -> Path:
        """`datasets/<style>/`, with `raw/ cartoon/ rejected/ manifest.jsonl`."""
        return self.root / "datasets" / name

    @property
    def recipes(self) -> Path:
        """`recipes/`, the project's own recipe files."""
        return self.root / "recipes"

    @property
    def runs(self) -> Path:
        """`work_dirs/`, one folder for each training run."""
        return self.root / "work_dirs"

    @property
    def _current(self) -> Path:
        return self.root / "datasets" / "current"

    def current_style(self) -> str | None:
        """Return the style last named, or None in a folder that has none."""
        return self._current.read_text("utf-8").strip() or None if self._current.is_file() else None

    def set_current_style(self, name: str) -> None:
        """Make `name` the style that commands use when none is given."""
        atomic_write_text(self._current, name + "\n")

    def run_folders(self, style: str | None = None, method: str | None = None) -> list[Path]:
        """Return the run folders, oldest first by number, only those of `style`, and of its `method`, if they are given."""
        if not self.runs.is_dir():
            return []
        found = [p for p in self.runs.iterdir() if p.is_dir() and re.match(r"\d{5}-", p.name)]
        if style is not None:
            by = re.escape(method) if method else "[a-z0-9_]+"
            found = [p for p in found if re.fullmatch(rf"\d{{5}}-{re.escape(style)}-{by}", p.name)]
        return sorted(found, key=lambda p: int(p.name[:5]))

    def new_run_folder(self, style: str, method: str) -> Path:
        """Create and return `work_dirs/<NNNNN>-<style>-<method>/` with the next free number.

        Raises:
            StylekitError: If the folder cannot be made.
        """
        number = max((int(p.name[:5]) for p in self.run_folders()), default=-1) + 1
        while True:
            folder = self.runs / f"{number:05d}-{style}-{method}"
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                number += 1
            except OSError as error:
                raise refusal(folder, error) from error
            else:
                return folder
