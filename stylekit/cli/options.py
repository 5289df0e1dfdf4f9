"""The flags that mean the same everywhere, and how they become a recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from stylekit.config.load import list_recipes, load_recipe, save_recipe, style_recipe
from stylekit.config.schema import Recipe
from stylekit.errors import UsageError
from stylekit.paths import Workspace, slug

Style = Annotated[
    str | None, typer.Option("--style", metavar="NAME", help="The style, by name or recipe file; else the current one.")
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


def overrides(flags: Mapping[str, object], sets: Sequence[str] | None) -> list[str]:
    """Return the flags that were given as `key=value`, then what `--set` gave, which therefore wins."""
    named = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in flags.items() if value is not None]
    return named + list(sets or ())


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


def keep_recipe(recipe: Recipe, workspace: Workspace) -> None:
    """Make the style the current one, with its recipe in the project's `recipes/` unless one of that style is there."""
    own = (entry.recipe for entry in list_recipes(workspace) if entry.path.is_relative_to(workspace.recipes))
    if recipe.style not in {known.style for known in own if known}:
        save_recipe(recipe, workspace)
    workspace.set_current_style(recipe.style)
