"""Engine `edit` with `folder:DIR`: photographs paired with pictures that were made from them elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath

import numpy as np

from stylekit.config.schema import GenerateRecipe
from stylekit.data.manifest import Origin
from stylekit.data.pairs import PHOTOS
from stylekit.data.readers import Item, open_source
from stylekit.errors import DataError, GenerationError, ImageError, UsageError
from stylekit.faces.align import Matrix, warp
from stylekit.generate.engine import ELSEWHERE, NotGenerated
from stylekit.generate.photographs import Framed, Photographs
from stylekit.images import Rgb, encode_png, read_rgb, write_image
from stylekit.paths import sha256_bytes

_ASPECT_TOLERANCE = 0.01


class EditedElsewhere(NotGenerated):
    """Cuts photographs and the pictures made from them with the same frame.

    A picture belongs to the photograph of the same path without suffix, or else of the same name; it may be scaled, but not cut.

    Args:
        recipe: `from_photos` names the photographs, of which the first `count` are taken; `model` is `folder:DIR`.
        raw: The raw folder, where the framed photographs go.

    Attributes:
        left_out: Why a picture could not be had, by file.
        note: How many photographs there are, if not all of them are taken; else empty.

    Raises:
        UsageError: If no photographs are named.
        DataError: If there are no photographs or no pictures.
    """

    def __init__(self, recipe: GenerateRecipe, raw: Path) -> None:
        folder = (recipe.model or "").removeprefix(ELSEWHERE)
        if not recipe.from_photos or not folder:
            raise UsageError(
                "Pictures made elsewhere need the photographs they were made from.",
                "Name both folders: --engine edit --from-photos DIR --model folder:DIR.",
            )
        self._raw = raw
        self._size = recipe.size
        self._photographs = Photographs(recipe.from_photos, recipe.size, recipe.count)
        self._pictures = _Named(list(open_source(folder, "cartoon").items()))
        self.files = [f"{item.stem}.png" for item in self._photographs.items]
        over = self._pictures.left_over(self._photographs.known)
        self.left_out = {item.name: f"There is no photograph called {PurePosixPath(item.name).stem}." for item in over}
        self.note = self._photographs.note

    def pictures(self, wanted: Mapping[int, str]) -> Iterator[tuple[Origin, bytes]]:
        """Frame the pictures of `wanted` (file name by index) in order; one that cannot be had is left out (`left_out`)."""
        for index, file in wanted.items():
            try:
                item = self._pictures.of(self._photographs.items[index])
                picture = read_rgb(item.read(), name=item.name)
                framed = self._photographs.framed(index)
                data = encode_png(warp(picture, _to_frame(framed, picture, item.name), self._size))
            except (ImageError, DataError, GenerationError, UsageError) as error:
                self.left_out[file] = error.message
                continue
            photo = f"{PHOTOS}/{file}"
            yield Origin(file=file, sha256=sha256_bytes(data), photo=photo, photo_sha256=self._photographs.sha256(index)), data
            write_image(self._raw / photo, framed.photo)  # last: without it the journal counts the picture as not made


class _Named:
    """Pictures, to be found by the name of the photograph they were made from."""

    def __init__(self, items: list[Item]) -> None:
        self._items = items
        self._by_path = _by(items, lambda item: str(PurePosixPath(item.name).with_suffix("")))
        self._by_stem = _by(items, lambda item: PurePosixPath(item.name).stem)

    def of(self, photograph: Item) -> Item:
        """Return the picture made from a photograph.

        Raises:
            DataError: If there is none, or more than one that it could be.
        """
        found = self._like(photograph)
        if not found:
            name = f"{PurePosixPath(photograph.name).stem}.png"
            raise DataError(f"There is no picture made from {photograph.name}.", f"It would be called {name}.")
        if len(found) > 1:
            raise DataError(f"{' and '.join(item.name for item in found)} could both be made from {photograph.name}.")
        return found[0]

    def left_over(self, photographs: list[Item]) -> list[Item]:
        """Return the pictures made from none of the photographs."""
        taken = {item.name for photograph in photographs for item in self._like(photograph)}
        return [item for item in self._items if item.name not in taken]

    def _like(self, photograph: Item) -> list[Item]:
        path = PurePosixPath(photograph.name)
        return self._by_path.get(str(path.with_suffix("")).casefold()) or self._by_stem.get(path.stem.casefold()) or []


def _by(items: list[Item], key: Callable[[Item], str]) -> dict[str, list[Item]]:
    found: dict[str, list[Item]] = {}
    for item in items:
        found.setdefault(key(item).casefold(), []).append(item)
    return found


def _to_frame(framed: Framed, picture: Rgb, name: str) -> Matrix:
    """Return the matrix from a picture made from a photograph to the photograph's frame.

    Raises:
        DataError: If the picture has other proportions than the photograph.
    """
    (height, width), (photo_height, photo_width) = picture.shape[:2], framed.shape
    x, y = photo_width / width, photo_height / height
    if abs(x / y - 1) > _ASPECT_TOLERANCE:
        raise DataError(f"{name} has other proportions than its photograph: {width}x{height}, not {photo_width}x{photo_height}.")
    linear, offset = framed.matrix[:, :2], framed.matrix[:, 2]
    scale = np.array([x, y])
    return np.column_stack([linear * scale, offset + linear @ ((scale - 1) / 2)])
