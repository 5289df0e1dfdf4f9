"""`stylekit gen-data`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from stylekit.cli import console
from stylekit.cli.console import Outcome
from stylekit.cli.options import BatchSize, Seed, Sets, Style, choose_recipe, keep_recipe, overrides
from stylekit.config.load import UNSIGNED, load_recipe, style_recipe
from stylekit.config.schema import Recipe
from stylekit.paths import Workspace, slug

_DEMO = "demo"


def gen_data(
    prompt: Annotated[str | None, typer.Argument(metavar="[PROMPT]", help='The style in a few words: "archer style".')] = None,
    *,
    style: Style = None,
    engine: Annotated[
        Literal["diffusers", "dicebear", "folder"] | None, typer.Option("--engine", help="What makes them.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="A model id, a drawing style, or a folder; see the recipe.")
    ] = None,
    count: Annotated[int | None, typer.Option("--count", "-n", help="Pictures to make.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Denoising steps.")] = None,
    guidance: Annotated[float | None, typer.Option("--guidance", help="How closely the prompt is followed.")] = None,
    negative: Annotated[str | None, typer.Option("--negative", help="What the pictures should not show.")] = None,
    size: Annotated[int | None, typer.Option("--size", help="Side in pixels.")] = None,
    batch_size: BatchSize = None,
    seed: Seed = None,
    resume: Annotated[bool, typer.Option("--resume/--fresh", help="Keep the pictures already made, or begin anew.")] = True,
    sets: Sets = None,
) -> Outcome:
    """Make the cartoon faces of a style, aligned and with a contact sheet."""
    flags = {
        "seed": seed,
        "generate.engine": engine,
        "generate.model": model,
        "generate.count": count,
        "generate.steps": steps,
        "generate.guidance": guidance,
        "generate.negative": negative,
        "generate.size": size,
        "generate.batch_size": batch_size,
    }
    workspace = Workspace()
    changes = overrides(flags, sets)
    if engine == "folder" and model and not (style or prompt):
        style, changes = slug(Path(model).expanduser().resolve().name), [*UNSIGNED, *changes]
    recipe = _recipe_to_draw(prompt, style, changes, workspace)

    from stylekit.generate.api import gen_data as generate
    from stylekit.generate.prompts import portrait_prompt

    if prompt is not None and recipe.generate.prompt is None and recipe.generate.engine == "diffusers":
        written = recipe.generate.model_copy(update={"prompt": portrait_prompt(prompt)})
        recipe = recipe.model_copy(update={"generate": written})
    report = generate(prompt, recipe=recipe, workspace=workspace, resume=resume, progress=console.progress())
    keep_recipe(recipe, workspace)
    aligned = report.aligned
    lines = [f"{report.style}: {report.made} pictures made, {report.kept} kept, {len(report.skipped)} failed; {report.folder}"]
    if aligned:
        lines.append(f"{aligned.used} faces aligned, {aligned.rejected} left out, {len(aligned.unreadable)} unreadable")
        lines.append(f"Look at them: {report.contact_sheet}")
    lines += [f"failed: {name}" for name in report.skipped]
    return Outcome(report, "\n".join(lines), console.PART_FAILED if report.skipped else 0)


def _recipe_to_draw(prompt: str | None, style: str | None, changes: list[str], workspace: Workspace) -> Recipe:
    if style is None and prompt is not None:
        return style_recipe(slug(prompt), changes, workspace)
    if style is None and workspace.current_style() is None:
        recipe = load_recipe(_DEMO, changes, workspace)
        console.show_note(f"No style was named, so this is the demo: {recipe.style}, drawn by {recipe.generate.engine}.")
        return recipe
    return choose_recipe(style, changes, workspace)
