"""Photographs to be painted over: each framed around its largest face."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from stylekit.assets import fetch
from stylekit.config.schema import AlignRecipe
from stylekit.data.readers import open_source
from stylekit.errors import GenerationError, ImageError
from stylekit.faces.align import Matrix, ffhq_matrix, warp
from stylekit.faces.detect import PHOTO_THRESHOLD
from stylekit.faces.finder import FaceFinder, face_finder
from stylekit.faces.quality import shows_face
from stylekit.images import Rgb, read_rgb
from stylekit.paths import sha256_bytes

_SURROUNDINGS = 1.25  # sides of FFHQ's quad; each template's crop lies within, moved by a tenth of its side too
_ASSET = "asset:"
_LEAST_FACE_PX = AlignRecipe().min_face_px


def frame_matrix(points: NDArray[np.floating], size: int) -> Matrix:
    """Return the matrix from a photograph to the square around a face: FFHQ's quad, upright, 1.25 times as wide.

    Args:
        points: `landmarks_5` [5,2] in the photograph's pixels.
        size: Side of the frame in pixels.

    Raises:
        UsageError: If the points coincide.
    """
    matrix = ffhq_matrix(points, size)
    middle = (size - 1) / 2
    matrix[:, 2] -= middle
    matrix /= _SURROUNDINGS
    matrix[:, 2] += middle
    return matrix


@dataclass(frozen=True, eq=False)
class Framed:
    """A photograph, framed.

    Attributes:
        photo: What lies in the frame, uint8 [S,S,3].
        matrix: Photograph -> frame, float64 [2,3].
        shape: Height and width of the whole photograph.
    """

    photo: Rgb
    matrix: Matrix
    shape: tuple[int, int]


class Photographs:
    """The photographs of a data set, by index.

    Args:
        source: A folder or whatever else `readers.open_source` takes, or `asset:NAME`.
        size: Side of the frame in pixels.
        count: At most so many, the first ones; None takes all.

    Attributes:
        items: The photographs.
        known: Those and the ones that `count` leaves out.
        note: How many there are, if not all of them are taken; else empty.

    Raises:
        DataError: If there is no such source or there are no photographs in it.
        AssetError: If the asset cannot be had.
    """

    def __init__(self, source: str, size: int, count: int | None = None) -> None:
        folder = fetch(source.removeprefix(_ASSET)) if source.startswith(_ASSET) else source
        self.known = list(open_source(folder, "photo").items())
        self.items = self.known[:count]
        taken, there = len(self.items), len(self.known)
        self.note = f"{taken:,} of {there:,} photographs are taken; --count takes more." if taken < there else ""
        self._size = size
        self._digests: dict[int, str | None] = {}

    def sha256(self, index: int) -> str | None:
        """Return the digest of a photograph's file; None if it cannot be read."""
        if index not in self._digests:
            try:
                self._digests[index] = sha256_bytes(self.items[index].read())
            except ImageError:
                self._digests[index] = None
        return self._digests[index]

    def framed(self, index: int) -> Framed:
        """Return a photograph framed around its largest face.

        Raises:
            ImageError: If it cannot be read.
            GenerationError: If there is no face in it, or only a small one.
        """
        name = self.items[index].name
        data = self.items[index].read()
        self._digests[index] = sha256_bytes(data)
        rgb = read_rgb(data, name=name)
        faces = [each for each in self._finder.find(rgb, PHOTO_THRESHOLD) if shows_face(each.mesh.presence, each.mesh.shift)]
        if not faces:
            raise GenerationError(f"{name} shows no face.", "Leave it out.")
        if (px := faces[0].face.size) < _LEAST_FACE_PX:
            raise GenerationError(
                f"{name} shows a face of {px:.0f} px, smaller than {_LEAST_FACE_PX}.", "Bring a larger picture."
            )
        matrix = frame_matrix(faces[0].landmarks_5, self._size)
        return Framed(warp(rgb, matrix, self._size), matrix, (rgb.shape[0], rgb.shape[1]))

    @cached_property
    def _finder(self) -> FaceFinder:
        return face_finder()
