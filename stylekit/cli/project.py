"""`stylekit doctor` and `stylekit init`."""

from __future__ import annotations

from typing import Annotated

import typer

from stylekit.cli.console import Outcome
from stylekit.cli.options import Sets
from stylekit.config.load import copy_recipe, load_recipe
from stylekit.paths import Workspace


def doctor(
    verify: Annotated[bool, typer.Option("--verify", help="Read every cached asset and compare its SHA-256.")] = False,
) -> Outcome:
    """Check Python, devices, packages and assets; each lack comes with the command that mends it."""
    from stylekit.doctor import doctor as examine

    checks = examine(verify=verify)
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        mark = "ok  " if check.ok else "FAIL" if check.required else "-   "
        lines.append(f"{mark} {check.name:<{width}}  {check.detail}{f'. {check.mend}' if check.mend else ''}")
    sound = all(check.ok or not check.required for check in checks)
    return Outcome({"ok": sound, "checks": checks}, "\n".join(lines), exit_code=0 if sound else 1)


def init(
    style: Annotated[str, typer.Argument(metavar="STYLE", help="Name of the new style.")],
    recipe: Annotated[str, typer.Option("--recipe", help="The recipe to start from.")] = "demo",
    sets: Sets = None,
) -> Outcome:
    """Start a style in this folder: its recipe, and its name as the current style."""
    workspace = Workspace()
    path = copy_recipe(recipe, style, workspace, sets or ())
    name = load_recipe(path).style
    workspace.set_current_style(name)
    return Outcome({"style": name, "recipe": path}, f"{path}\nNext: change it to your liking, then run: stylekit gen-data")
