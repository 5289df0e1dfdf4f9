"""Cartoons that were painted over photographs: each crop with its photograph's, how far the face moved, who it still is."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from stylekit.data.manifest import ManifestLine, Origin, Pair, stream_manifest
from stylekit.errors import ImageError
from stylekit.faces.align import warp
from stylekit.faces.detect import PHOTO_THRESHOLD
from stylekit.faces.finder import FaceFinder, FoundFace
from stylekit.faces.identity import FaceEmbedder
from stylekit.images import Rgb, read_rgb, write_image

_LOG = logging.getLogger(__name__)

PHOTOS = "photos"
"""Folder beside raw cartoons, with the photographs they were painted over."""

PHOTO = "photo"
"""Folder beside `cartoon/`, with the photographs' crops."""

MAX_LANDMARK_SHIFT = 0.7
"""Eye distances beyond which the face found in a cartoon is not the photograph's.

Of 61 photographs that were smoothed and drawn over with edges, 54 shifted by less than 0.5, two by 0.6 to 0.7 with
the right face, and five by more, which all were false finds.
"""

_STRANGERS = 0.684  # mean squared distance of dlib's embeddings of two persons, over the 82 starter photographs


@dataclass(frozen=True)
class PairFile:
    """A cartoon crop and its photograph's, pixel on pixel.

    Attributes:
        cartoon: The cartoon's crop.
        photo: The photograph's crop, of the same size.
        pair: How far they agree.
    """

    cartoon: Path
    photo: Path
    pair: Pair


def list_pairs(folder: Path) -> list[PairFile]:
    """Return the pairs of an aligned data set that are used, in the manifest's order.

    Args:
        folder: The data set, `datasets/<style>/`.

    Raises:
        DataError: If it has no manifest, or a damaged one.
    """
    return [
        PairFile(folder / line.file, folder / line.pair.photo, line.pair)
        for line in stream_manifest(folder / "manifest.jsonl")
        if line.status == "used" and line.file and line.pair
    ]


def photo_beside(picture: str, origin: Origin) -> str | None:
    """Return where the photograph of a raw picture lies, in the terms in which `picture` names that one; None if it has none."""
    if origin.photo is None:
        return None
    raw = PurePosixPath(picture).parents[len(PurePosixPath(origin.file).parts) - 1]
    return str(raw / origin.photo)


def paired_photos(manifest: Path) -> set[str]:
    """Return the photographs' crops that a manifest names, relative to its folder; none if it is missing or damaged."""
    if not manifest.is_file():
        return set()
    with manifest.open("rb") as rows, suppress(ValueError):
        lines = (ManifestLine.model_validate_json(row) for row in rows if b'"pair"' in row)
        return {line.pair.photo for line in lines if line.pair}
    return set()


def compare(photo: Rgb, cartoon: Rgb, face: FoundFace, finder: FaceFinder, embedder: FaceEmbedder) -> tuple[float, float] | None:
    """Return landmark shift and identity, as `Pair` has them, of a photograph and the cartoon painted over it.

    Of several faces in the photograph the one nearest the cartoon's counts. None if there is none.

    Args:
        photo: uint8 [H,W,3].
        cartoon: uint8 [H,W,3], in the same frame.
        face: The cartoon's face.
        finder: Finds the photograph's.
        embedder: Says who they are.
    """
    found = finder.find(photo, PHOTO_THRESHOLD)
    if not found:
        return None
    shift, same = min(((_shift(each, face), each) for each in found), key=lambda pair: pair[0])
    a, b = embedder.embed([photo, cartoon], [same.mesh.points, face.mesh.points])
    return shift, likeness(a, b)


def _shift(photo: FoundFace, cartoon: FoundFace) -> float:
    points = photo.landmarks_5.astype(np.float64)
    eyes = float(np.hypot(*(points[1] - points[0])))
    return float(np.linalg.norm(cartoon.landmarks_5 - points, axis=1).mean()) / max(eyes, 1e-6)


def likeness(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Return how alike two faces are by their embeddings [128]: 1 the same picture, 0 strangers on average.

    One minus the squared distance in shares of that of strangers. It is on the scale of the centred cosine (`identity.cosine`)
    and needs no reference set: strangers have 0.0 on average and 0.36 at the 95th percentile, mirrored or heavily
    smoothed photographs of one person 0.9 in the median, measured on the 82 starter photographs. Below 0 it has no floor.
    """
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    return 1 - float(difference @ difference) / _STRANGERS


def measure_pair(
    origin: Origin,
    line: ManifestLine,
    cartoon: Rgb,
    face: FoundFace,
    output: Path,
    *,
    finder: FaceFinder,
    embedder: FaceEmbedder,
) -> Pair | None:
    """Cut the photograph of a raw cartoon as the cartoon was cut, and measure how far they agree.

    Returns:
        The pair; None, with a warning, if the photograph is gone or is not in the cartoon's frame.

    Args:
        origin: Of the raw cartoon.
        line: Of the manifest, with `file`, `input`, `matrix` and `crop_size`.
        cartoon: The raw cartoon, uint8 [H,W,3].
        face: The face that was cropped.
        output: The data set's folder.
        finder: Finds the photograph's face.
        embedder: Says who they are.

    Raises:
        StylekitError: If the crop cannot be written.
    """
    source = photo_beside(line.input, origin)
    if source is None or line.file is None:
        return None
    name = f"{PHOTO}/{PurePosixPath(line.file).name}"
    try:
        photo = read_rgb(_locate(source, output))
    except ImageError as error:
        _LOG.warning("%s makes no pair: %s", line.input, error.message)
        return None
    if photo.shape != cartoon.shape:
        _LOG.warning("%s makes no pair: its photograph has another size.", line.input)
        return None
    _cut(photo, line, output / name)
    measures = compare(photo, cartoon, face, finder, embedder)
    shift, identity = (round(value, 4) for value in measures) if measures else (None, None)
    return Pair(photo=name, photo_input=source, photo_sha256=origin.photo_sha256, landmark_shift=shift, identity=identity)


def disagreement(pair: Pair | None) -> list[str]:
    """Return why the cartoon of a pair should be left out; empty to keep it."""
    if pair is None or pair.landmark_shift is None or pair.landmark_shift <= MAX_LANDMARK_SHIFT:
        return []
    return [f"not the photograph's face: {pair.landmark_shift:.1f} eye distances from it"]


def settle_pair(line: ManifestLine, output: Path) -> ManifestLine:
    """Take its photograph's crop from a rejected cartoon, or cut it again where it is missing; return the line as it is now.

    Args:
        line: A finished line of the manifest; without a pair it stays as it is.
        output: The data set's folder.

    Raises:
        StylekitError: If the crop cannot be written.
    """
    if line.pair is None:
        return line
    path = output / line.pair.photo
    if line.status == "used":
        if path.is_file():
            return line
        try:
            photo = read_rgb(_locate(line.pair.photo_input, output))
        except ImageError as error:
            _LOG.warning("%s makes no pair: %s", line.input, error.message)
        else:
            _cut(photo, line, path)
            return line
    path.unlink(missing_ok=True)
    return line.model_copy(update={"pair": None})


def _cut(photo: Rgb, line: ManifestLine, path: Path) -> None:
    assert line.matrix is not None
    assert line.crop_size is not None
    write_image(path, warp(photo, np.array(line.matrix), line.crop_size), compression=1)


def _locate(name: str, output: Path) -> Path:
    """Return the file that the manifest calls `name`: relative to its folder if it lies there."""
    inside = output / name
    return inside if inside.is_file() else Path(name)
