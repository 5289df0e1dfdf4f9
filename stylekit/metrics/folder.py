"""Pictures that another tool made of the photographs' crops: which belongs to which, and which cannot be measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stylekit.errors import DataError, ImageError
from stylekit.images import Rgb, list_images, read_rgb

_SQUARE = 1.02  # longer side to shorter; more is not the same frame as the crop


class PictureFolder:
    """A folder of pictures, each named as the crop that it was made of is named, but for the suffix.

    Pictures of no crop are passed over.

    Args:
        path: The folder; pictures in folders below it count too.

    Raises:
        ImageError: If it is not a folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._by_stem: dict[str, list[Path]] = {}
        for file in list_images(path):
            self._by_stem.setdefault(file.stem, []).append(file)

    def file(self, stem: str) -> Path:
        """Return the picture of the crop whose file has this stem.

        Raises:
            ImageError: If there is none, or several.
        """
        files = self._by_stem.get(stem, [])
        if not files:
            raise ImageError(f"{self.path} has no pictures named {stem}.")
        if len(files) > 1:
            raise ImageError(f"{self.path} has {len(files)} pictures named {stem}: {' and '.join(map(str, files))}.")
        return files[0]

    def read(self, stem: str) -> Rgb:
        """Return that picture, RGB uint8 [H,W,3], the longer side at most 1.02 times the shorter.

        Raises:
            ImageError: If there is none, or several, or it cannot be read or is not square as crops are.
        """
        file = self.file(stem)
        picture = read_rgb(file)
        height, width = picture.shape[:2]
        if max(height, width) > _SQUARE * min(height, width):
            raise ImageError(f"{file} is not square, as the photograph's crop is, but {width}x{height}.")
        return picture

    def check(self, stems: Sequence[str]) -> None:
        """Read the pictures of all crops once.

        Raises:
            DataError: If any is missing, doubled, unreadable or not square; the message names every one.
        """
        missing = [stem for stem in stems if stem not in self._by_stem]
        wrong = []
        for stem in stems:
            if stem in self._by_stem:
                try:
                    self.read(stem)
                except ImageError as error:
                    wrong.append(error.message.removesuffix("."))
        if missing or wrong:
            said = [*([f"no picture of {', '.join(missing)}"] if missing else []), *wrong]
            raise DataError(
                f"{self.path} has no usable picture of {len(missing) + len(wrong)} of the {len(stems)} photographs: "
                f"{'; '.join(said)}.",
                "Draw each crop that stylekit compare --write-photos DIR writes, whole, and keep its name.",
            )
