"""`data add`: photographs and cartoons that are there already become what a style is trained with."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from stylekit import assets
from stylekit.config.load import UNSIGNED, list_recipes, load_recipe, save_recipe, set_key, style_recipe
from stylekit.config.schema import PhotoRecipe, Recipe
from stylekit.data.readers import Part, Source, not_read, open_source
from stylekit.data.shards import is_aligned
from stylekit.errors import DataError
from stylekit.images import list_images
from stylekit.paths import Workspace, slug

_HUB = "ms:"
_DEMO = "demo"


@dataclass(frozen=True)
class AddedData:
    """What a style is trained with from now on.

    Attributes:
        style: The style, which is the current one now.
        recipe: Its recipe file.
        cartoons: How many pictures of the style there are; None if only photographs were added.
        photos: How many photographs there are; None if only cartoons were added.
        source: Where they came from, as a record says it: `ms:datasets/...`, `user:FOLDER`, or the folder itself.
        layout: What the source was recognised as, in a few words.
        notes: What else there is to say about it, one sentence each.
    """

    style: str
    recipe: Path
    cartoons: int | None
    photos: int | None
    source: str
    layout: str
    notes: tuple[str, ...] = ()


def add_data(source: str, *, style: str | None = None, kind: Part | None = None, workspace: Workspace | None = None) -> AddedData:
    """Make a data set the pictures of a style, which becomes the current one. Nothing is copied but what comes from a hub.

    Photographs beside cartoons (`face_photo/` and `face_cartoon/`, `trainA/` and `trainB/`) start a style. Photographs alone
    become those of a style's recipe. A plain folder is taken for photographs, or with a `style` that
    has no recipe yet for its cartoons.

    Args:
        source: `ms:NAMESPACE/NAME`, fetched once into the cache; or whatever `open_source` reads.
        style: The style's name. By default the data set's own where a style is started, else the current one, else the demo's.
        kind: What a plain folder holds, where that is not as above.
        workspace: Whose `recipes/` gets the style's recipe.

    Raises:
        UsageError: If a name is not sound, or the style's recipe is already there with other cartoons.
        AssetError: If the data set cannot be fetched; the hint says what to bring.
        DataError: If the source is not there, has an unknown layout or no pictures.
    """
    workspace = workspace or Workspace()
    if source.startswith(_HUB):
        found = assets.resolve("dataset", prefer=source)
        return _add_pair(found.path, found.source, style or source.rpartition("/")[2], workspace)
    folder = Path(source).expanduser()
    if folder.is_dir() and assets.pairs_in(folder):
        return _add_pair(folder, str(folder), style or folder.resolve().name, workspace)
    if not folder.exists() and "{" not in source:
        raise DataError(
            f"There is no folder or file {folder}.",
            "Name a folder, a zip file, shards, or a data set of ModelScope: ms:NAMESPACE/NAME.",
        )
    if (folder / "manifest.jsonl").is_file():
        raise DataError(
            f"{folder} is an aligned data set already.",
            f"Name the folder it was made of, or make shards of it, which train as they are: stylekit data shard {folder}",
        )
    data = open_source(source, "photo")
    if data.layout == "pair":
        raise DataError(f"{folder} holds photographs and cartoons in a zip file.", "Unpack it, and add the folder.")
    notes: tuple[str, ...] = ()
    if kind is None and data.layout == "folder" and style is not None:
        kind = "photo" if _has_other_cartoons(slug(style), folder, workspace) else "cartoon"
        if kind == "photo":
            notes = (f"{slug(style)} has its cartoons, so these are its photographs.",)
    if kind != "cartoon":
        return _add_photographs(source, replace(data, notes=(*notes, *data.notes)), style, workspace)
    if data.layout != "folder" or not folder.is_dir():
        raise DataError(f"Cartoons come in a plain folder; {source} is {data.description}.", "Unpack it, and add the folder.")
    return _add_cartoons(folder, data, slug(style or folder.resolve().name), workspace)


def _add_pair(folder: Path, origin: str, name: str, workspace: Workspace) -> AddedData:
    pair = assets.find_pair(folder)
    place, layout = pair.photos.parent, f"{pair.photos.name}/ and {pair.cartoons.name}/"
    # What is set apart for testing stays apart: the whole set is the source, and its reader knows the parts.
    photos = place if pair.photos.name == "trainA" and (place / "testA").is_dir() else pair.photos
    counts = {each: len(list_images(each)) for each in (pair.cartoons, pair.photos)}
    for each, count in counts.items():
        if not count:
            raise DataError(f"There are no pictures in {each}.", "Put JPEG, PNG, WebP, BMP or TIFF files there.")
    recipe, path = _start(slug(name), [f"photos.source={_text(photos)}"], pair.cartoons, workspace)
    notes: tuple[str, ...] = ()
    if photos == place:
        held_out = len(list_images(place / "testA"))
        notes = (f"The {held_out} photographs of testA/ are held out for evaluation.",)
    notes += tuple(filter(None, map(not_read, counts)))
    return AddedData(recipe.style, path, counts[pair.cartoons], counts[pair.photos], origin, layout, notes)


def _add_cartoons(folder: Path, data: Source, name: str, workspace: Workspace) -> AddedData:
    recipe, path = _start(name, [], folder, workspace)
    return AddedData(recipe.style, path, data.count(), None, str(folder), data.description, data.notes)


def _start(name: str, changes: list[str], cartoons: Path, workspace: Workspace) -> tuple[Recipe, Path]:
    """Write the recipe of a style whose cartoons lie in a folder, and make it the current one."""
    changes = ["generate.engine=folder", f"generate.model={_text(cartoons)}", *changes]
    if style_recipe(name, (), workspace).generate.engine != "folder":
        changes = [*UNSIGNED, *changes]
    recipe = style_recipe(name, changes, workspace)
    path = save_recipe(recipe, workspace)
    workspace.set_current_style(recipe.style)
    return recipe, path


def _own_recipe(style: str, workspace: Workspace) -> tuple[Path, Recipe] | None:
    """Return the project's recipe of a style; None if it has none."""
    entries = (entry for entry in list_recipes(workspace) if not entry.built_in)
    return next(((entry.path, entry.recipe) for entry in entries if entry.recipe and entry.recipe.style == style), None)


def _has_other_cartoons(style: str, folder: Path, workspace: Workspace) -> bool:
    """Tell whether a style has its cartoons, other than those of a folder."""
    if (own := _own_recipe(style, workspace)) is None:
        return False
    made = own[1].generate
    return made.engine != "folder" or made.model is None or Path(made.model).expanduser().resolve() != folder.resolve()


def _add_photographs(source: str, data: Source, style: str | None, workspace: Workspace) -> AddedData:
    name = slug(style) if style else workspace.current_style()
    recipe = style_recipe(name, (), workspace) if name else load_recipe(_DEMO, (), workspace)
    notes = data.notes
    if (own := _own_recipe(recipe.style, workspace)) is not None:
        path, before = own[0], own[1].photos.source
        if before not in (source, PhotoRecipe().source):
            notes = (f"They are used instead of {before}.", *notes)
        set_key(path, "photos.source", source)
    else:
        photos = recipe.photos.model_copy(update={"source": source})
        path = save_recipe(recipe.model_copy(update={"photos": photos}), workspace)
    workspace.set_current_style(recipe.style)
    if is_aligned(Path(source).expanduser()):
        notes += ("They are aligned already; training reads them as they are.",)
    return AddedData(recipe.style, path, None, data.count(), source, data.description, notes)


def _text(path: Path) -> str:
    return json.dumps(str(path), ensure_ascii=False)
