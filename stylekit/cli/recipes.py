"""`stylekit recipe`: look at, copy and check recipes."""

from __future__ import annotations

from typing import Annotated

import typer

from stylekit.cli.console import Outcome
from stylekit.cli.options import EVERYWHERE, Sets
from stylekit.config.load import copy_recipe, dump_recipe, find_recipe, list_recipes, load_recipe

app = typer.Typer(help="Look at, copy and check recipes.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe's name or file.")]


@app.command("ls", epilog=EVERYWHERE)
def ls() -> Outcome:
    """List the project's recipes and the built-in ones."""
    entries = list_recipes()
    rows = [
        {
            "name": entry.name,
            "path": entry.path,
            "built_in": entry.built_in,
            "style": entry.recipe.style if entry.recipe else None,
            "description": entry.recipe.description if entry.recipe else "",
            "error": entry.error,
        }
        for entry in entries
    ]
    width = max((len(entry.name) for entry in entries), default=0)
    lines = [f"{row['name']:<{width}}  {row['error'] and 'cannot be used: '}{row['error'] or row['description']}" for row in rows]
    return Outcome({"recipes": rows}, "\n".join(lines))


@app.command("show", epilog=EVERYWHERE)
def show(recipe: Name, sets: Sets = None) -> Outcome:
    """Print a recipe with every key, its value and its meaning."""
    loaded = load_recipe(recipe, sets or ())
    return Outcome(loaded, dump_recipe(loaded).rstrip())


@app.command("cp", epilog=EVERYWHERE)
def cp(
    recipe: Name, style: Annotated[str, typer.Argument(metavar="STYLE", help="Name of the new style.")], sets: Sets = None
) -> Outcome:
    """Copy a recipe into the project under another style's name."""
    path = copy_recipe(recipe, style, overrides=sets or ())
    name = load_recipe(path).style
    lines = [f"The style {name}: {path}", f"Next: change it to your liking, then run: stylekit gen-data --style {name}"]
    return Outcome({"path": path, "style": name}, "\n".join(lines))


@app.command("validate", epilog=EVERYWHERE)
def validate(recipe: Name, sets: Sets = None) -> Outcome:
    """Check a recipe."""
    loaded = load_recipe(recipe, sets or ())
    path = find_recipe(recipe)
    return Outcome({"path": path, "style": loaded.style, "valid": True}, f"{path} is a sound recipe for {loaded.style}.")
