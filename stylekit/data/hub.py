"""Data sets that come with photographs and cartoons, from ModelScope's hub or a folder of that layout, made into a style."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from stylekit import assets
from stylekit.config.load import UNSIGNED, save_recipe, style_recipe
from stylekit.errors import DataError
from stylekit.images import list_images
from stylekit.paths import Workspace, slug

_HUB = "ms:"


@dataclass(frozen=True)
class AddedData:
    """A style that is ready to be trained.

    Attributes:
        recipe: Its recipe file.
        cartoons: How many pictures of the style there are.
        photos: How many photographs there are.
        source: Where they came from, as a record says it: `ms:datasets/...`, `user:FOLDER`, or the folder itself.
    """

    style: str
    recipe: Path
    cartoons: int
    photos: int
    source: str


def add_data(source: str, *, style: str | None = None, workspace: Workspace | None = None) -> AddedData:
    """Make a data set's photographs and cartoons the pictures of a style, which becomes the current one.

    Args:
        source: `ms:NAMESPACE/NAME`, fetched once into the cache, or a folder, whose pictures stay where they are. Either holds
            `face_photo/` and `face_cartoon/`, or `trainA/` and `trainB/` (`assets.find_pair`).
        style: The style's name; by default the data set's own.
        workspace: Whose `recipes/` gets the style's recipe.

    Raises:
        UsageError: If a name is not sound, or the style's recipe is already there with other content.
        AssetError: If the data set cannot be fetched; the hint says what to bring.
        DataError: If the folder is not there, has another layout or has no pictures.
    """
    workspace = workspace or Workspace()
    if source.startswith(_HUB):
        found = assets.resolve("dataset", prefer=source)
        folder, origin, name = found.path, found.source, source.rpartition("/")[2]
    else:
        folder = Path(source).expanduser()
        origin, name = str(folder), folder.resolve().name
        if not folder.is_dir():
            raise DataError(f"There is no folder {folder}.", "Name a folder, or a data set of ModelScope: ms:NAMESPACE/NAME.")
    pair = assets.find_pair(folder)
    counts = {each: len(list_images(each)) for each in (pair.cartoons, pair.photos)}
    for each, count in counts.items():
        if not count:
            raise DataError(f"There are no pictures in {each}.", "Put JPEG, PNG, WebP, BMP or TIFF files there.")
    name = slug(style or name)
    changes = ["generate.engine=folder", f"generate.model={_text(pair.cartoons)}", f"photos.source={_text(pair.photos)}"]
    if style_recipe(name, (), workspace).generate.engine != "folder":
        changes = [*UNSIGNED, *changes]
    recipe = style_recipe(name, changes, workspace)
    path = save_recipe(recipe, workspace)
    workspace.set_current_style(recipe.style)
    return AddedData(recipe.style, path, counts[pair.cartoons], counts[pair.photos], origin)


def _text(path: Path) -> str:
    return json.dumps(str(path), ensure_ascii=False)
