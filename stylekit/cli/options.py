"""The flags that mean the same everywhere, and how they become a recipe."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from stylekit.config.load import Override, list_recipes, load_recipe, save_recipe, set_keys, style_recipe
from stylekit.config.schema import Recipe
from stylekit.errors import UsageError
from stylekit.paths import Workspace, slug

Style = Annotated[
    str | None, typer.Option("--style", metavar="NAME", help="The style, by name or recipe file; else the current one.")
]
Run = Annotated[
    Path | None, typer.Option("--run", metavar="DIR", help="A run or checkpoint folder; else the style's newest run.")
]
Output = Annotated[Path | None, typer.Option("--output", "-o", metavar="PATH", help="Where to write.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Where chance starts; the same seed gives the same result.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where the last run stopped, by its own recipe.")]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1 or mps; else the best there is.")]
MixedPrecision = Annotated[Literal["no", "fp16", "bf16"] | None, typer.Option("--mixed-precision", help="Precision of training.")]
MaxSteps = Annotated[int | None, typer.Option("--max-steps", help="Training steps.")]
BatchSize = Annotated[int | None, typer.Option("--batch-size", help="Pictures at once.")]
ReportTo = Annotated[Literal["none", "tensorboard"] | None, typer.Option("--report-to", help="Where else the log goes.")]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set any key of the recipe; may be repeated.")]


EVERYWHERE = "On every command: --json prints one JSON object on stdout; --debug shows where an error came from."


EXAMPLES = {
    "gen_data": 'For example: stylekit gen-data "archer style" -n 200, or: stylekit gen-data --engine folder --model my-drawings',
    "align": "For example: stylekit align my-photos, or: stylekit align my-drawings --kind cartoon --style mine",
}
"""What the help of a command shows below its flags, by the name of its function."""

_FLAGS = {
    "align.min_face_px": "--min-face",
    "align.max_yaw_deg": "--max-yaw",
    "photos.source": "--photos",
}


def overrides(flags: Mapping[str, object], sets: Sequence[str] | None) -> list[str]:
    """Return the flags that were given as `key=value`, then what `--set` gave, which therefore wins."""
    named = [
        Override(f"{key}={json.dumps(value, ensure_ascii=False)}", f"{_flag(key)} {value}")
        for key, value in flags.items()
        if value is not None
    ]
    return [*named, *(sets or ())]


def _flag(key: str) -> str:
    return _FLAGS.get(key) or f"--{key.rpartition('.')[2].replace('_', '-')}"


def choose_recipe(style: str | None, changes: Sequence[str], workspace: Workspace) -> Recipe:
    """Return the recipe of the named style or recipe file, else of the current style.

    Raises:
        UsageError: If none is named and the folder has no current style.
        RecipeError: If the recipe is not sound.
    """
    name = style or workspace.current_style()
    if name is None:
        raise UsageError("This folder has no current style.", "Start one with: stylekit gen-data, or name one with --style.")
    if name.endswith((".yaml", ".yml")):
        return load_recipe(name, changes, workspace)
    return style_recipe(slug(name), changes, workspace)


def own_recipe(style: str, workspace: Workspace) -> tuple[Path, Recipe] | None:
    """Return the recipe of a style that lies in the project's `recipes/`, and its file; None if there is none."""
    own = (entry for entry in list_recipes(workspace) if entry.path.is_relative_to(workspace.recipes))
    return next(((entry.path, entry.recipe) for entry in own if entry.recipe and entry.recipe.style == style), None)


def keep_recipe(recipe: Recipe, workspace: Workspace, keys: Iterable[str] = ()) -> str:
    """Make the style the current one, with its recipe in the project's `recipes/`.

    Args:
        recipe: The recipe that is carried out.
        workspace: The project.
        keys: Those of its keys that a recipe of the style that is there already takes over too; all else in it stays.

    Returns:
        What was changed in a recipe that was there, in a sentence; empty if nothing was.
    """
    told = ""
    if (own := own_recipe(recipe.style, workspace)) is None:
        save_recipe(recipe, workspace)
    else:
        path, old = own
        before, now = old.model_dump(mode="json"), recipe.model_dump(mode="json")
        lines = dict.fromkeys(".".join(key.split(".")[:2]) for key in keys)
        changes = {key: _value(now, key) for key in lines if _value(before, key) != _value(now, key)}
        if changes:
            told = _take_over(path, changes)
    workspace.set_current_style(recipe.style)
    return told


def _take_over(path: Path, changes: Mapping[str, object]) -> str:
    try:
        set_keys(path, changes)
    except UsageError as error:
        return f"{error.message} {error.hint}"
    said = ", ".join(f"{key.removeprefix('generate.')} {value}" for key, value in changes.items() if value is not None)
    return f"{path} has the new settings: {said}"


def _value(content: Mapping[str, Any], key: str) -> Any:
    section, _, rest = key.partition(".")
    return _value(content[section], rest) if rest else content[section]
