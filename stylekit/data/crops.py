"""From one picture to its face crops, each with its measures and the reasons to leave it out."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from stylekit.config.schema import AlignRecipe
from stylekit.data.inputs import Input
from stylekit.data.manifest import ManifestLine
from stylekit.data.notes import FaceNote, encode
from stylekit.errors import ImageError, UsageError
from stylekit.faces.align import face_matrix, warp
from stylekit.faces.detect import CARTOON_THRESHOLD, PHOTO_THRESHOLD, Face, FaceDetector
from stylekit.faces.identity import FaceEmbedder
from stylekit.faces.landmarks import FaceMesh
from stylekit.faces.quality import assess, reasons
from stylekit.images import Rgb, read_rgb, resize, write_image

Kind = Literal["photo", "cartoon"]

FOLDERS: dict[Kind, str] = {"photo": "cropped", "cartoon": "cartoon"}
REJECTED = "rejected"
_REJECTED_PX = 512
_JUDGED_PX = 256  # whatever the size of the crops, so that the recipe's limits mean the same
_FACE_MARK = "+"  # stands in no stem, so that face 1 of "a" and a picture called "a-1" do not meet


class CropMaker:
    """Finds, crops and judges the faces of pictures; loads its networks when the first picture needs them.

    Photographs give every face, cartoons the largest.

    Args:
        kind: What the pictures are.
        recipe: How faces are cropped and judged.
        output: Where the folders for used and for rejected crops lie.
    """

    def __init__(self, kind: Kind, recipe: AlignRecipe, output: Path) -> None:
        self.kind = kind
        self.recipe = recipe
        self.output = output

    @cached_property
    def _detector(self) -> FaceDetector:
        return FaceDetector()

    @cached_property
    def _mesh(self) -> FaceMesh:
        return FaceMesh()

    @cached_property
    def _embedder(self) -> FaceEmbedder:
        return FaceEmbedder()

    def __call__(self, picture: Input, data: bytes | OSError, sha256: str | None) -> list[FaceNote]:
        """Write the crops of one picture and return a note for each; one note if there is no face in it.

        Args:
            picture: Where it comes from and what to call its crops.
            data: Its bytes, or why they could not be read.
            sha256: Of the bytes.
        """
        source = picture.origin.model_dump(exclude={"file", "sha256"}) if picture.origin else {}
        line = ManifestLine(file=None, input=picture.name, input_sha256=sha256, status="unreadable", **source)
        if isinstance(data, OSError):
            return [_note(line, reasons=[f"cannot be read: {data.strerror or data}"])]
        try:
            rgb = read_rgb(data, name=picture.path.name)
        except ImageError as error:
            return [_note(line, reasons=[error.message])]
        is_photo = self.kind == "photo"
        faces = self._detector.detect(rgb, PHOTO_THRESHOLD if is_photo else CARTOON_THRESHOLD)
        if not faces:
            file = f"{REJECTED}/{picture.stem}.jpg"
            write_image(self.output / file, shrink_to(rgb, _REJECTED_PX))
            return [_note(line, file=file, status="rejected", reasons=["no face"])]
        return [self._crop(rgb, face, index, picture.stem, line) for index, face in enumerate(faces if is_photo else faces[:1])]

    def _crop(self, rgb: Rgb, face: Face, index: int, stem: str, line: ManifestLine) -> FaceNote:
        recipe = self.recipe
        mesh = self._mesh.mesh(rgb, face)
        try:
            matrix = face_matrix(mesh.landmarks_5, recipe.template, recipe.size)
        except UsageError as error:
            return _note(line, face_index=index, status="rejected", reasons=[error.message])
        crop = warp(rgb, matrix, recipe.size)
        judged = warp(rgb, face_matrix(mesh.landmarks_5, recipe.template, _JUDGED_PX), _JUDGED_PX)
        quality = assess(rgb, face, mesh, judged)
        faults = reasons(quality, recipe, self.kind)
        name = f"{stem}{_FACE_MARK}{index}.png" if index else f"{stem}.png"
        folder, other = (REJECTED, FOLDERS[self.kind]) if faults else (FOLDERS[self.kind], REJECTED)
        file = f"{folder}/{name}"
        (self.output / other / name).unlink(missing_ok=True)
        write_image(self.output / file, crop)
        needs_person = self.kind == "photo" and not faults
        return _note(
            line,
            embedding=encode(self._embedder.embed([rgb], [mesh.points])[0]) if needs_person else "",
            file=file,
            face_index=index,
            status="rejected" if faults else "used",
            reasons=faults,
            landmarks_5=np.round(mesh.landmarks_5.astype(float), 3).tolist(),
            matrix=matrix.tolist(),
            template=recipe.template,
            crop_size=recipe.size,
            quality={name: round(value, 4) for name, value in quality.items()},
        )


def _note(line: ManifestLine, embedding: str = "", **fields: Any) -> FaceNote:
    return FaceNote(line=line.model_copy(update=fields), embedding=embedding)


def shrink_to(rgb: Rgb, side: int) -> Rgb:
    """Return a picture whose long side is at most `side` px, in its own proportions."""
    height, width = rgb.shape[:2]
    scale = min(1.0, side / max(height, width))
    return resize(rgb, (max(1, round(width * scale)), max(1, round(height * scale))))
