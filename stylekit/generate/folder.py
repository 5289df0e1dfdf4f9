"""Engine `folder`: the user's own pictures, copied; what was copied before from elsewhere goes (`Journal.mirror`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from stylekit.config.schema import GenerateRecipe
from stylekit.data.manifest import Origin
from stylekit.data.readers import not_read
from stylekit.errors import GenerationError, UsageError
from stylekit.generate.engine import NotGenerated
from stylekit.images import list_images
from stylekit.paths import sha256_bytes


class OwnPictures(NotGenerated):
    """Copies every picture of a folder, subfolders included.

    Args:
        recipe: `model` names the folder.

    Raises:
        UsageError: If no folder is named.
        GenerationError: If it holds no pictures.
    """

    def __init__(self, recipe: GenerateRecipe) -> None:
        if not recipe.model:
            raise UsageError("The engine folder needs a folder of pictures.", "Name one with --model DIR.")
        self._folder = Path(recipe.model).expanduser()
        found = list_images(self._folder) if self._folder.is_dir() else []
        if not found:
            hint = not_read(self._folder) or "Put JPEG, PNG, WebP, BMP or TIFF files there."
            raise GenerationError(f"There are no pictures in {self._folder}.", hint)
        self.files = [path.relative_to(self._folder).as_posix() for path in found]
        self.left_out: dict[str, str] = {}
        self.note = not_read(self._folder)

    def pictures(self, wanted: Mapping[int, str]) -> Iterator[tuple[Origin, bytes]]:
        """Read the pictures one after another; one that cannot be read is left out (`left_out`)."""
        for file in wanted.values():
            try:
                data = (self._folder / file).read_bytes()
            except OSError as error:
                self.left_out[file] = f"It cannot be read: {error.strerror or error}."
                continue
            yield Origin(file=file, sha256=sha256_bytes(data)), data
