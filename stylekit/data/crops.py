"""From one picture to its face crops, each with its measures and the reasons to leave it out."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from stylekit.config.schema import AlignRecipe
from stylekit.data.appearance import LookEmbedder
from stylekit.data.duplicates import fingerprint
from stylekit.data.inputs import Input
from stylekit.data.manifest import Kind, ManifestLine
from stylekit.data.notes import FaceNote
from stylekit.data.pairs import disagreement, measure_pair
from stylekit.errors import ImageError, StylekitError, UsageError
from stylekit.faces.align import face_matrix, warp
from stylekit.faces.detect import CARTOON_THRESHOLD, PHOTO_THRESHOLD
from stylekit.faces.finder import FaceFinder, FoundFace, face_finder
from stylekit.faces.identity import FaceEmbedder
from stylekit.faces.quality import assess, reasons
from stylekit.images import Rgb, read_rgb, resize, write_image
from stylekit.paths import sha256_bytes

FOLDERS: dict[Kind, str] = {"photo": "cropped", "cartoon": "cartoon"}
REJECTED = "rejected"
_REJECTED_PX = 512
_JUDGED_PX = 256  # whatever the size of the crops, so that the recipe's limits mean the same
_FACE_MARK = "+"  # stands in no stem, so that face 1 of "a" and a picture called "a-1" do not meet
_FAST = 1  # PNG compression
LIMITS = ("min_face_px", "min_sharpness", "max_yaw_deg")
"""What of `AlignRecipe` judges a face and measures nothing, so that it can be moved without looking at the picture again."""

_NO_LIMITS = AlignRecipe(min_face_px=1, min_sharpness=0, max_yaw_deg=90)

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """A picture to look at.

    Attributes:
        place: Where it stands in the source.
        input: The picture.
        stamp: Its `Input.stamp` before it is read.
    """

    place: int
    input: Input
    stamp: str | None = None


@dataclass(frozen=True)
class Found:
    """What came of a picture.

    Attributes:
        sha256: Of the picture; None if it could not be read or looked at, so that it is tried again next time.
        faces: Its notes, at least one.
    """

    sha256: str | None
    faces: list[FaceNote]


class CropMaker:
    """Finds, crops and judges the faces of pictures; loads its networks when the first picture needs them.

    Args:
        kind: What the pictures are.
        recipe: How faces are found, cropped and judged.
        output: Where the folders for used and for rejected crops lie.
    """

    def __init__(self, kind: Kind, recipe: AlignRecipe, output: Path) -> None:
        self.kind = kind
        self.recipe = recipe
        self.output = output

    @cached_property
    def _finder(self) -> FaceFinder:
        return face_finder(self.recipe.landmarks)

    @cached_property
    def _embedder(self) -> FaceEmbedder:
        return FaceEmbedder()

    @cached_property
    def _look(self) -> LookEmbedder:
        return LookEmbedder()

    def __call__(self, task: Task) -> Found:
        """Write the crops of one picture and return a note for each; one note if there is no face in it.

        Raises:
            StylekitError: If a crop cannot be written, or a network is missing: what concerns not this picture alone.
        """
        picture = task.input
        try:
            data = picture.item.read()
        except ImageError as error:
            return Found(None, [unreadable(picture, error.message)])
        sha256 = sha256_bytes(data)
        try:
            rgb = read_rgb(data, name=picture.name)
        except ImageError as error:
            return Found(sha256, [unreadable(picture, error.message, sha256)])
        try:
            return Found(sha256, self._look_at(rgb, picture, sha256))
        except StylekitError:
            raise
        except Exception as error:
            _LOG.debug("%s", picture.name, exc_info=True)
            return Found(None, [unreadable(picture, f"could not be aligned: {type(error).__name__}: {error}")])

    def _look_at(self, rgb: Rgb, picture: Input, sha256: str) -> list[FaceNote]:
        line = _line(picture, sha256)
        is_photo = self.kind == "photo"
        faces = self._finder.find(rgb, PHOTO_THRESHOLD if is_photo else CARTOON_THRESHOLD)
        if not faces:
            file = f"{REJECTED}/{picture.stem}.jpg"
            write_image(self.output / file, shrink_to(rgb, _REJECTED_PX), durable=False)
            return [self._note(line, file=file, status="rejected", reasons=["no face"])]
        takes_all = is_photo if self.recipe.faces == "auto" else self.recipe.faces == "all"
        chosen = faces if takes_all else faces[:1]
        return [self._crop(rgb, face, index, picture, line) for index, face in enumerate(chosen)]

    def _crop(self, rgb: Rgb, found: FoundFace, index: int, picture: Input, line: ManifestLine) -> FaceNote:
        recipe = self.recipe
        try:
            matrix = face_matrix(found.landmarks_5, recipe.template, recipe.size)
        except UsageError as error:
            return self._note(line, face_index=index, status="rejected", reasons=[error.message])
        crop = warp(rgb, matrix, recipe.size)
        judged = crop
        if recipe.size != _JUDGED_PX:
            judged = warp(rgb, face_matrix(found.landmarks_5, recipe.template, _JUDGED_PX), _JUDGED_PX)
        quality = assess(rgb, found.face, found.mesh, judged)
        name = f"{picture.stem}{_FACE_MARK}{index}.png" if index else f"{picture.stem}.png"
        line = line.model_copy(
            update={
                "file": f"{FOLDERS[self.kind]}/{name}",
                "face_index": index,
                "landmarks_5": np.round(found.landmarks_5.astype(float), 3).tolist(),
                "matrix": matrix.tolist(),
                "template": recipe.template,
                "crop_size": recipe.size,
                "quality": {name: round(value, 4) for name, value in quality.items()},
            }
        )
        if picture.origin and picture.origin.photo:
            finder, embedder = self._finder, self._embedder
            pair = measure_pair(picture.origin, line, rgb, found, self.output, finder=finder, embedder=embedder)
            line = line.model_copy(update={"pair": pair})
        line = judge(line, recipe, self.kind)
        folder, other = (FOLDERS[self.kind], REJECTED) if line.status == "used" else (REJECTED, FOLDERS[self.kind])
        (self.output / other / name).unlink(missing_ok=True)
        write_image(self.output / folder / name, crop, compression=_FAST, durable=False)
        note = self._note(line, file=f"{folder}/{name}")
        if judge(line, _NO_LIMITS, self.kind).status != "used":
            return note
        is_photo = self.kind == "photo"
        embedding = self._embedder.embed([rgb], [found.mesh.points]) if is_photo else self._look.embed([crop])
        bits, colours = fingerprint(crop)
        merit = quality["face_score" if is_photo else "face_px"]
        return replace(note, merit=merit, bits=bits, colours=colours, embedding=embedding[0])

    def _note(self, line: ManifestLine, *, file: str | None = None, **fields: Any) -> FaceNote:
        length = (self.output / file).stat().st_size if file else 0
        return FaceNote(line.model_copy(update={"file": file, **fields}), length)


def _line(picture: Input, sha256: str | None) -> ManifestLine:
    source = picture.origin.model_dump(exclude={"file", "sha256", "photo", "photo_sha256"}) if picture.origin else {}
    return ManifestLine(
        file=None, input=picture.name, input_sha256=sha256, status="unreadable", partition=picture.partition, **source
    )


def judge(line: ManifestLine, recipe: AlignRecipe, kind: Kind) -> ManifestLine:
    """Return the line of a face with the status and the reasons that its measures give it; one without measures as it is."""
    if not line.quality:
        return line
    faults = [*reasons(line.quality, recipe, kind), *disagreement(line.pair)]
    return line.model_copy(update={"status": "rejected" if faults else "used", "reasons": faults})


def unreadable(picture: Input, reason: str, sha256: str | None = None) -> FaceNote:
    """Return the note of a picture that nothing could be made of."""
    return FaceNote(_line(picture, sha256).model_copy(update={"reasons": [reason]}))


def shrink_to(rgb: Rgb, side: int) -> Rgb:
    """Return a picture whose long side is at most `side` px, in its own proportions."""
    height, width = rgb.shape[:2]
    scale = min(1.0, side / max(height, width))
    return resize(rgb, (max(1, round(width * scale)), max(1, round(height * scale))))
