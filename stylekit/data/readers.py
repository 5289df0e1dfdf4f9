"""Pictures as data sets come: folders, FFHQ, CelebA, photographs beside cartoons, zip files and webdataset shards.

Nothing is unpacked. A source gives its pictures one by one, always in the same order; each names the file or the place in an
archive where its bytes lie, so that another process can read it without the others.
"""

from __future__ import annotations

import os
import re
import struct
import unicodedata
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Literal, Protocol

from stylekit.assets.pairs import find_pairs
from stylekit.data.archives import (
    DamagedError,
    Member,
    Span,
    expand_braces,
    is_picture,
    is_visible,
    read_shard,
    read_span,
    read_zip_index,
)
from stylekit.errors import DataError, ImageError
from stylekit.images import UNREAD_SUFFIXES
from stylekit.paths import sha256_bytes

Layout = Literal["folder", "ffhq", "celeba", "pair", "shards"]
Part = Literal["photo", "cartoon"]
SourceSplit = Literal["train", "eval", "test"]

MAX_PICTURE_BYTES = 1 << 30
"""Longest picture that is read: more than 128 megapixels (`images.MAX_PIXELS`) take as 16-bit RGBA without compression."""

_TEST_FOLDERS = {"trainA": "testA", "trainB": "testB"}
_FFHQ = ("images1024x1024", "in-the-wild-images", "thumbnails128x128")  # of the same pictures, best first
_CELEBA = ("img_align_celeba", "img_align_celeba_png", "img_celeba")
_CELEBA_PLACES = ("", "Img", "Eval", "Anno")
_PARTITION = ("list_eval_partition.txt", "list_eval_partition.csv")
_IDENTITY = ("identity_CelebA.txt",)
_PARTITION_SPLITS: dict[str, SourceSplit] = {"0": "train", "1": "eval", "2": "test"}
_SPLITS: dict[str, SourceSplit] = {
    "train": "train", "training": "train", "eval": "eval", "val": "eval", "validation": "eval", "test": "test",
}  # fmt: skip
_RESERVED = re.compile(r"con|prn|aux|nul|(com|lpt)[0-9¹²³]", re.IGNORECASE)  # names of devices on Windows
_MAX_TEXT_BYTES = 64 << 20
_DEPTH = 3
_SHOWN = 6
_EXPECTED = (
    "Expected: pictures, images1024x1024/ (FFHQ), img_align_celeba/ (CelebA), face_photo/ and face_cartoon/, trainA/ and "
    "trainB/, a zip file of one of these, or shards (.tar)."
)


@dataclass(frozen=True, slots=True)
class Item:
    """One picture of a source. It can be pickled, and read in any process.

    Attributes:
        name: Its path within the source, with `/`.
        stem: What to call what is made of it: letters, digits, `.`, `-` and `_`; no two of a source are alike on any disk.
        path: The file, or the archive that it lies in.
        span: Where in the archive.
        split: Which part of the data set it belongs to, where the data set says so.
        person: Who it shows, where the data set says so.
        fault: Why it cannot be read, if that is known already.
    """

    name: str
    stem: str
    path: Path
    span: Span | None = None
    split: SourceSplit | None = None
    person: str | None = None
    fault: str | None = None

    def read(self) -> bytes:
        """Return the bytes of the picture file.

        Raises:
            ImageError: If it is gone, damaged, encrypted or longer than 1 GiB.
        """
        if self.fault is not None:
            raise ImageError(f"{self.name} cannot be read: {self.fault}.")
        try:
            with self.path.open("rb") as stream:
                length = os.fstat(stream.fileno()).st_size if self.span is None else max(self.span.stored, self.span.length)
                if length > MAX_PICTURE_BYTES:
                    raise ImageError(f"{self.name} has {length >> 20} MB; the limit is {MAX_PICTURE_BYTES >> 20} MB.")
                return stream.read() if self.span is None else read_span(stream, self.span)
        except OSError as error:
            raise ImageError(f"{self.name} cannot be read: {error.strerror or error}.") from error
        except (DamagedError, zlib.error, struct.error) as error:
            raise ImageError(f"{self.name} cannot be read: it is damaged or cut short in {self.path.name}.") from error


@dataclass(frozen=True)
class Source:
    """A data set that was recognised.

    Attributes:
        path: The folder or file; of several shards, the folder they lie in.
        layout: What it was recognised as.
        description: The same in a few words, for people.
        notes: What else there is to say, one sentence each: what was passed over.
    """

    path: Path
    layout: Layout
    description: str
    notes: tuple[str, ...]
    _list: Callable[[], Iterator[Item]]

    def items(self) -> Iterator[Item]:
        """Yield the pictures, every time in the same order; memory does not grow with what was yielded.

        Raises:
            DataError: If the source cannot be listed.
        """
        seen: set[int] = set()
        alike: set[int] = set()
        for item in self._list():
            (alike if (key := hash(item.stem.casefold())) in seen else seen).add(key)
        del seen
        times = Counter[str]()
        for item in self._list():
            if hash(item.stem.casefold()) not in alike:
                yield item
                continue
            times[item.name] += 1  # an archive may hold a name twice
            name = item.name if times[item.name] == 1 else f"{item.name}#{times[item.name]}"
            digest = sha256_bytes(name.encode("utf-8", "backslashreplace"))
            yield replace(item, name=name, stem=f"{item.stem}-{digest[:8]}")

    def count(self) -> int:
        """Return how many pictures there are; they are listed for it."""
        return sum(1 for _ in self._list())


def open_source(source: str | Path, part: Part | None = None) -> Source:
    """Recognise a data set.

    Args:
        source: A folder, a picture, a zip file, a webdataset shard (.tar), or a pattern of shards: `shards/{000000..000069}.tar`.
        part: Which pictures to take of a data set that holds photographs and cartoons; others do not look at it.

    Raises:
        DataError: If there is nothing of this name, no picture in it, its layout is not clear, or `part` is not said and
            needed; the message says what is there, the hint what is expected.
    """
    text = str(source)
    if re.search(r"\{.*\}", text) and not Path(text).expanduser().exists():
        return _shards([Path(path).expanduser() for path in expand_braces(text)], Path(text).expanduser().parent)
    path = Path(source).expanduser()
    if path.is_dir():
        found = _open_folder(path, part)
        return replace(found, notes=(*found.notes, note)) if (note := not_read(path)) else found
    if path.is_file() and is_picture(path.name):
        return Source(path.parent, "folder", "one picture", (), lambda: iter([Item(path.name, stem_of(path.name), path)]))
    if not path.is_file():
        raise DataError(f"There is no folder or file {path}.", "Name a folder of pictures, a zip file, or shards (.tar).")
    if path.suffix.lower() == ".tar":
        return _shards([path], path)
    if zipfile.is_zipfile(path):
        return _recognise(_Zip(path), part)
    raise DataError(f"{path} is not a folder, a zip file or an uncompressed tar file.", _EXPECTED)


def not_read(folder: Path) -> str:
    """Return a sentence that counts the pictures below a folder whose kind is not read; empty if there are none."""
    names = (name for _, _, files in os.walk(folder) for name in files if is_visible(name))
    kinds = Counter(UNREAD_SUFFIXES.get(Path(name).suffix.lower()) for name in names)
    del kinds[None]
    if not kinds:
        return ""
    counted = " and ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
    rest = "file is not read: convert it" if kinds.total() == 1 else "files are not read: convert them"
    return f"{counted} {rest} to JPEG or PNG."


@dataclass(frozen=True, slots=True)
class _Picture:
    """A picture file of a tree: its name there, and how to get at it."""

    name: str
    path: Path
    span: Span | None = None
    fault: str | None = None


class _Tree(Protocol):
    """A folder, or what a zip file holds, as one looks at it to recognise a layout; names have `/` and no leading one."""

    @property
    def path(self) -> Path:
        """The folder or zip file."""

    def folders(self, at: str) -> list[str]:
        """Return the names of visible folders in a folder, sorted."""

    def pictures(self, at: str) -> Iterator[_Picture]:
        """Yield the visible pictures below a folder, sorted by path; links to folders elsewhere are followed."""

    def text(self, name: str) -> str | None:
        """Return a text file, None if it is not there."""


class _Folder:
    def __init__(self, path: Path) -> None:
        self.path = path

    def folders(self, at: str) -> list[str]:
        place = self.path / at
        return (
            sorted(entry.name for entry in _scan(place) if is_visible(entry.name) and _is(entry.is_dir)) if place.is_dir() else []
        )

    def pictures(self, at: str) -> Iterator[_Picture]:
        if (self.path / at).is_dir():
            yield from self._below(at, [self.path.resolve(), (self.path / at).resolve()])

    def _below(self, at: str, known: list[Path]) -> Iterator[_Picture]:
        for entry in sorted(_scan(self.path / at), key=lambda entry: entry.name):
            name = f"{at}/{entry.name}" if at else entry.name
            if not is_visible(entry.name):
                continue
            if entry.is_dir(follow_symlinks=False) or (_is(entry.is_dir) and _leads_on(Path(entry.path), known)):
                yield from self._below(name, known)
            elif is_picture(entry.name) and _is(entry.is_file):
                yield _Picture(name, Path(entry.path))

    def text(self, name: str) -> str | None:
        return _read_text(self.path / name)

    def archives(self) -> dict[str, list[Path]]:
        """Return zip and tar files directly in the folder, by suffix."""
        files = sorted(Path(entry.path) for entry in _scan(self.path) if is_visible(entry.name) and _is(entry.is_file))
        return {suffix: [file for file in files if file.suffix.lower() == suffix] for suffix in (".zip", ".tar")}


class _Zip:
    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _members(self) -> list[Member]:
        return read_zip_index(self.path)

    @cached_property
    def _folders(self) -> dict[str, set[str]]:
        inside: dict[str, set[str]] = {}
        for parent in {member.name.rpartition("/")[0] for member in self._members}:
            parts = parent.split("/") if parent else []
            for depth, part in enumerate(parts):
                inside.setdefault("/".join(parts[:depth]), set()).add(part)
        return inside

    def folders(self, at: str) -> list[str]:
        return sorted(self._folders.get(at, ()))

    def pictures(self, at: str) -> Iterator[_Picture]:
        prefix = f"{at}/" if at else ""
        for member in self._members:
            if member.name.startswith(prefix):
                yield _Picture(member.name, self.path, member.span, member.fault)

    def text(self, name: str) -> str | None:
        with zipfile.ZipFile(self.path) as archive:
            try:
                info = archive.getinfo(name)
            except KeyError:
                return None
            try:
                with archive.open(info) as stream:
                    return _decoded(stream.read(_MAX_TEXT_BYTES + 1), name)
            except (RuntimeError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
                raise DataError(f"{name} in {self.path} cannot be read: {error}.") from error


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise DataError(f"{folder} cannot be listed: {error.strerror}.", "Check its permissions.") from error


def _leads_on(link: Path, known: list[Path]) -> bool:
    """Tell whether a link leads out of the known folders, and add where to."""
    target = link.resolve()
    if any(target.is_relative_to(folder) for folder in known):
        return False
    known.append(target)
    return True


def _is(kind: Callable[[], bool]) -> bool:
    """Ask a directory entry what it is; a link to itself is nothing."""
    try:
        return kind()
    except OSError:
        return False


def _read_text(path: Path) -> str | None:
    if not path.is_file():
        return None
    try:
        with path.open("rb") as stream:
            return _decoded(stream.read(_MAX_TEXT_BYTES + 1), str(path))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error


def _decoded(data: bytes, name: str) -> str:
    if len(data) > _MAX_TEXT_BYTES:
        raise DataError(f"{name} has more than {_MAX_TEXT_BYTES >> 20} MB.", "That is not a list of pictures.")
    return data.decode("utf-8-sig", "replace")


def _open_folder(path: Path, part: Part | None) -> Source:
    tree = _Folder(path)
    archives = tree.archives()
    if next(tree.pictures(""), None) is not None:
        over = [file.name for files in archives.values() for file in files]
        source = _recognise(tree, part)
        return replace(source, notes=(*source.notes, f"Passed over: {_some(over)}.")) if over else source
    if archives[".tar"]:
        return _shards(archives[".tar"], path)
    zips = archives[".zip"] or [path / place / f"{name}.zip" for place in _CELEBA_PLACES for name in _CELEBA]
    zips = [file for file in zips if file.is_file()]
    best = [file for name in (*_FFHQ, *_CELEBA) for file in zips if file.stem == name][:1] or zips
    if len(best) == 1:
        return _recognise(_Zip(best[0]), part, beside=path)
    if best:
        raise DataError(f"{path} holds several zip files: {_some([file.name for file in best])}.", "Name one of them.")
    held = _some(_seen(tree)) or "nothing"
    raise DataError(f"There are no pictures in {path}; it holds {held}.", not_read(path) or _EXPECTED)


def _seen(tree: _Folder) -> list[str]:
    return sorted(entry.name + "/" * _is(entry.is_dir) for entry in _scan(tree.path) if is_visible(entry.name))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _recognise(tree: _Tree, part: Part | None, beside: Path | None = None) -> Source:
    """Recognise the layout of a folder or zip file; in a single folder of folders it is looked for further down."""
    if next(tree.pictures(""), None) is None:
        raise DataError(f"There are no pictures in {tree.path}.", _EXPECTED)
    if pair := _find_pair(tree):
        return _pair(tree, *pair, part)
    base = ""
    for _ in range(_DEPTH):
        name = PurePosixPath(base).name or tree.path.stem
        folders = tree.folders(base)
        if (found := _find_celeba(tree, base, name, folders)) is not None:
            return _celeba(tree, found, beside or tree.path.parent)
        if (found := _find_ffhq(tree, base, name, folders)) is not None:
            return _ffhq(tree, found)
        if len(folders) != 1 or any("/" not in _below(base, each.name) for each in _first(tree, base, folders)):
            break
        base = _join(base, folders[0])
    kind = "zip file" if isinstance(tree, _Zip) else "folder"
    return Source(tree.path, "folder", f"a {kind} of pictures", (), lambda: _items(tree.pictures("")))


def _first(tree: _Tree, base: str, folders: Sequence[str]) -> Iterator[_Picture]:
    """Yield the pictures that lie in a folder itself, for a start."""
    for picture in tree.pictures(base):
        if "/" not in _below(base, picture.name):
            yield picture
            return


def _join(base: str, name: str) -> str:
    return f"{base}/{name}".strip("/")


def _below(base: str, name: str) -> str:
    return name[len(base) + 1 :] if base else name


def _find_pair(tree: _Tree) -> tuple[str, str, str] | None:
    """Return folder, photographs and cartoons of a pair set."""
    found = find_pairs(tree.folders)
    if len(found) > 1:
        raise DataError(
            f"{tree.path} holds several sets of photographs: {', '.join(_join(place, photos) for place, photos, _ in found)}.",
            "Name the folder of one of them.",
        )
    return found[0] if found else None


def _pair(tree: _Tree, place: str, photos: str, cartoons: str, part: Part | None) -> Source:
    if part is None:
        raise DataError(
            f"{tree.path} holds photographs ({photos}/) and cartoons ({cartoons}/).", f"Run: stylekit data add {tree.path}"
        )
    train = photos if part == "photo" else cartoons
    test = _TEST_FOLDERS.get(train)
    known = test is not None and test in tree.folders(place)

    def items() -> Iterator[Item]:
        yield from _items(tree.pictures(_join(place, train)), place, split="train" if known else None)
        if known:
            yield from _items(tree.pictures(_join(place, str(test))), place, split="test")

    names = f"{train}/ and {test}/" if known else f"{train}/"
    return Source(tree.path, "pair", f"the {part}s ({names}) of a set of photographs and cartoons", (), items)


def _find_ffhq(tree: _Tree, base: str, name: str, folders: Sequence[str]) -> str | None:
    for known in _FFHQ:
        if known in folders:
            return _join(base, known)
    if name in _FFHQ:
        return base
    # Its folders hold a thousand pictures each: 05000/05123.png.
    if folders and all(re.fullmatch(r"\d\d000", folder) for folder in folders):
        first = next(tree.pictures(base))
        if re.fullmatch(r"(\d\d)000/\1\d{3}\.(png|jpg|jpeg|webp)", _below(base, first.name)):
            return base
    return None


def _ffhq(tree: _Tree, base: str) -> Source:
    name = PurePosixPath(base).name
    said = f"FFHQ ({name if name in _FFHQ else tree.path.name})"
    return Source(tree.path, "ffhq", said, (), lambda: _items(tree.pictures(base), short=True))


def _find_celeba(tree: _Tree, base: str, name: str, folders: Sequence[str]) -> str | None:
    for place in _CELEBA_PLACES:
        inside = _join(base, place)
        for known in _CELEBA:
            if known in (folders if not place else tree.folders(inside) if place in folders else ()):
                return _join(inside, known)
    return base if name in _CELEBA else None


def _celeba(tree: _Tree, base: str, beside: Path) -> Source:
    """Read CelebA; its lists lie within the tree, or beside or above it, in folders of their own or not."""
    above = [str(parent) for parent in PurePosixPath(base).parents] if base else []
    inner = [_join("" if parent == "." else parent, place) for parent in above or ["."] for place in _CELEBA_PLACES]
    outer = [folder / place for folder in (beside, beside.parent) for place in _CELEBA_PLACES]

    def find(names: Sequence[str]) -> tuple[str, str] | None:
        for name in names:
            for place in inner:
                if (text := tree.text(_join(place, name))) is not None:
                    return name, text
            for folder in outer:
                if (text := _read_text(folder / name)) is not None:
                    return name, text
        return None

    partition, identity = find(_PARTITION), find(_IDENTITY)
    splits = parse_partition(partition[1], partition[0]) if partition else {}
    persons = parse_identities(identity[1], identity[0]) if identity else {}
    lists = " and ".join(each[0] for each in (partition, identity) if each)

    def items() -> Iterator[Item]:
        for item in _items(tree.pictures(base), short=True):
            key = PurePosixPath(item.name).stem
            yield replace(item, split=splits.get(key), person=persons.get(key))

    return Source(tree.path, "celeba", f"CelebA, with {lists}" if lists else "CelebA, without its partition", (), items)


def parse_partition(text: str, name: str = _PARTITION[0]) -> dict[str, SourceSplit]:
    """Return the split of each picture, by its name without suffix, from CelebA's partition file.

    Args:
        text: Lines `000001.jpg 0` (or with a comma, below a heading): 0 is train, 1 validation, 2 test.
        name: What error messages call the file.

    Raises:
        DataError: If a line has another form; the message names it.
    """
    return {key: _PARTITION_SPLITS[value] for key, value in _columns(text, name, "[012]", "0, 1 or 2")}


def parse_identities(text: str, name: str = _IDENTITY[0]) -> dict[str, str]:
    """Return who each picture shows, by its name without suffix, from CelebA's `identity_CelebA.txt`: `000001.jpg 2880`.

    Raises:
        DataError: If a line has another form; the message names it.
    """
    return dict(_columns(text, name, r"\d+", "a number"))


def _columns(text: str, name: str, value: str, wanted: str) -> Iterator[tuple[str, str]]:
    row = re.compile(rf"(\S+?)(?:\.\w+)?[\s,]\s*({value})", re.ASCII)
    for number, line in enumerate(map(str.strip, text.split("\n")), 1):
        if not line or (number == 1 and re.match(r"image_id\b", line)):
            continue
        if not (found := row.fullmatch(line)):
            raise DataError(f"{name}, line {number}: {line[:60]!r} is not a picture and {wanted}.", "Fetch the list again.")
        yield found[1], found[2]


def _items(
    pictures: Iterator[_Picture], base: str = "", *, split: SourceSplit | None = None, short: bool = False
) -> Iterator[Item]:
    """Make items of picture files; `short` names what comes of them after the file alone, which is enough in known sets."""
    for picture in pictures:
        stem = stem_of(PurePosixPath(picture.name).name if short else _below(base, picture.name))
        yield Item(picture.name, stem, picture.path, picture.span, split, fault=picture.fault)


def stem_of(name: str) -> str:
    """Return what to call what is made of a picture: "women-a" for "women/a.jpg", on every disk the same name."""
    stem = unicodedata.normalize("NFC", str(PurePosixPath(name).with_suffix("")))
    stem = re.sub(r"[^\w.-]+", "-", stem.replace("/", "-"))
    return f"_{stem}" if _RESERVED.fullmatch(stem.partition(".")[0]) else stem


def _shards(files: Sequence[Path], path: Path) -> Source:
    if missing := [file for file in files if not file.is_file()]:
        raise DataError(f"There is no shard {missing[0]}; {len(missing)} of {len(files)} are missing.", "Fetch the rest.")
    number = f"{len(files)} shards" if len(files) > 1 else "one shard"
    source = Source(path, "shards", f"{number} (webdataset)", (), lambda: (item for file in files for item in _shard_items(file)))
    if next((item for item in source._list() if item.fault is None), None) is None:
        raise DataError(f"There are no pictures in {files[0]}{' and the others' * (len(files) > 1)}.", _EXPECTED)
    return source


def _shard_items(file: Path) -> Iterator[Item]:
    """Yield the pictures of a shard: members of one key stand together, and `KEY.json` says more of `KEY.png`."""
    for sample in read_shard(file):
        split, person = _SPLITS.get(str(sample.notes.get("split"))), sample.notes.get("person")
        whose = str(person) if isinstance(person, str | int) else None
        for name, span in sample.pictures.items():
            yield Item(f"{file.name}/{name}", stem_of(name), file, span, split, whose)
        if sample.fault is not None:
            yield Item(file.name, stem_of(file.name), file, fault=sample.fault)
