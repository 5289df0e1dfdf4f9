"""`stylekit gen-data`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

import typer

from stylekit.cli import console
from stylekit.cli.console import Outcome
from stylekit.cli.options import Seed, Sets, Style, choose_recipe, keep_recipe, overrides
from stylekit.config.load import OTHER_ENGINE, UNSIGNED, load_recipe, style_recipe
from stylekit.config.schema import Recipe
from stylekit.errors import StylekitError, UsageError
from stylekit.paths import Workspace, slug

_DEMO = "demo"
_MODEL, _PICTURE, _PHOTOS, _MACHINE = "What paints", "What it paints", "Over photographs", "On this machine"


def gen_data(
    prompt: Annotated[
        str | None,
        typer.Argument(metavar="[PROMPT]", help='The style in a few words ("archer style"), or a prompt with {person} in it.'),
    ] = None,
    *,
    style: Style = None,
    count: Annotated[int | None, typer.Option("--count", "-n", help="Pictures to make.")] = None,
    size: Annotated[int | None, typer.Option("--size", help="Side of a picture in pixels.")] = None,
    seed: Seed = None,
    resume: Annotated[bool, typer.Option("--resume/--fresh", help="Keep the pictures already made, or begin anew.")] = True,
    engine: Annotated[
        Literal["diffusers", "modelscope", "edit", "dicebear", "folder"] | None,
        typer.Option("--engine", help="What makes them.", rich_help_panel=_MODEL),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="A model id, a folder, a known style (clipart) or a drawing style.", rich_help_panel=_MODEL),
    ] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(
            "--lora",
            metavar="FILE|ID[:WEIGHT]",
            help="A LoRA to lay on the model, a file or an id; may be repeated.",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    people: Annotated[
        str | None,
        typer.Option(
            "--people",
            metavar="WHO",
            help="Who is {person}: balanced, celebrities, or a text file, one a line.",
            rich_help_panel=_PICTURE,
        ),
    ] = None,
    negative: Annotated[
        str | None, typer.Option("--negative", help="What the pictures should not show.", rich_help_panel=_PICTURE)
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Denoising steps.", rich_help_panel=_PICTURE)] = None,
    guidance: Annotated[
        float | None, typer.Option("--guidance", help="How closely the prompt is followed.", rich_help_panel=_PICTURE)
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option("--scheduler", metavar="CLASS", help="diffusers' name of a scheduler, or auto.", rich_help_panel=_PICTURE),
    ] = None,
    from_photos: Annotated[
        str | None,
        typer.Option(
            "--from-photos", metavar="DIR", help="The photographs that the engine edit paints over.", rich_help_panel=_PHOTOS
        ),
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option("--strength", help="How far it may leave the photograph, above 0 to 1.", rich_help_panel=_PHOTOS),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", help="Pictures at once; else found by memory.", rich_help_panel=_MACHINE)
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option("--processes", min=1, help="Processes at work; else one for each GPU.", rich_help_panel=_MACHINE),
    ] = None,
    precision: Annotated[
        Literal["auto", "fp32", "fp16", "bf16"] | None,
        typer.Option("--precision", help="Of the model's numbers.", rich_help_panel=_MACHINE),
    ] = None,
    memory: Annotated[
        Literal["auto", "slice", "offload"] | None,
        typer.Option("--memory", help="How to save memory, slower each; auto: when it runs out.", rich_help_panel=_MACHINE),
    ] = None,
    sets: Sets = None,
) -> Outcome | int:
    """Make the cartoon faces of a style, aligned and with a contact sheet."""
    from stylekit.generate.ranks import launched

    launch = launched()
    if launch and not launch.is_main:
        # The main process says what is wrong, which the launcher would not let it do if another failed before it.
        with suppress(StylekitError, KeyboardInterrupt):
            launch.follow()
        return 0
    flags = {
        "seed": seed,
        "generate.engine": engine,
        "generate.model": model,
        "generate.lora": lora or None,
        "generate.people": people,
        "generate.count": count,
        "generate.steps": steps,
        "generate.guidance": guidance,
        "generate.negative": negative,
        "generate.scheduler": scheduler,
        "generate.size": size,
        "generate.from_photos": from_photos,
        "generate.strength": strength,
        "generate.precision": precision,
        "generate.memory": memory,
        "generate.batch_size": batch_size,
    }
    if engine is None and from_photos is not None:
        flags["generate.engine"] = "edit"
    workspace = Workspace()
    changes = overrides(flags, sets)
    keys = [
        *(change.partition("=")[0].strip() for change in changes),
        *(change.partition("=")[0] for change in OTHER_ENGINE),
        *(["generate.prompt"] if prompt else []),
    ]
    if engine in ("dicebear", "folder") and prompt is not None:
        raise UsageError(
            f"The engine {engine} has no use for a prompt.",
            f"Name the style instead: stylekit gen-data --style {style or slug(prompt)} --engine {engine} --model "
            + (model or ("toon-head" if engine == "dicebear" else "DIR")),
        )
    if engine == "folder" and model and not style:
        style, changes = slug(Path(model).expanduser().resolve().name), [*UNSIGNED, *changes]
    recipe = _recipe_to_draw(prompt, style, changes, workspace, engine=engine)

    from stylekit.data.advice import number
    from stylekit.generate.api import gen_data as generate
    from stylekit.generate.api import with_phrase
    from stylekit.generate.engine import check_read

    recipe = with_phrase(recipe, prompt)
    check_read(recipe.generate, _set_keys(changes))
    told: list[str] = []
    report = generate(
        recipe=recipe,
        workspace=workspace,
        resume=resume,
        processes=processes,
        progress=console.progress(),
        begun=lambda: told.append(keep_recipe(recipe, workspace, keys)),
    )
    aligned = report.aligned
    is_useless = aligned is not None and not aligned.used
    made = f"{report.made} pictures made" if report.made or report.skipped else "nothing new"
    lines = [
        f"{report.style}: {made}, {report.kept} kept, {len(report.skipped)} left out; {report.folder}",
        *filter(None, told[:1]),
    ]
    if report.others:
        lines.append(f"{report.others} more from before are kept and used too; --fresh makes {recipe.generate.count} alone")
    if aligned:
        counts = f"{number(aligned.used, 'face')} of {number(aligned.pictures, 'picture')} aligned"
        lines.append(f"{counts}, {aligned.rejected} left out, {len(aligned.unreadable)} unreadable")
        lines += [f"left out, {reason}: {times}" for reason, times in aligned.reasons.items()]
        lines += console.unreadable(aligned.unreadable)
        lines.append(f"Look at them: {report.contact_sheet}")
        lines.append(f"Good enough? {aligned.page}")
        if not aligned.used:
            lines.append("No face can be used, so there is nothing to train with.")
            lines.append("Look at the page, then try another prompt or --model with --fresh, or --set align.min_face_px=PX.")
        from stylekit.pipeline import starter_note  # loads torch

        if note := starter_note(recipe.photos.source, workspace):
            lines.append(note)
    lines += console.unreadable(report.skipped, "left out")
    if aligned and aligned.used:
        lines.append("Next: look at the page, then run: stylekit train")
    failed = report.skipped or is_useless or (aligned and aligned.unreadable)
    return Outcome(report, "\n".join(lines), console.PART_FAILED if failed else 0)


def _set_keys(changes: list[str]) -> set[str]:
    """Return the keys of `generate` that the command line sets, but for the engine's own."""
    keys = (change.partition("=")[0].split(".") for change in changes)
    return {key[1] for key in keys if key[0] == "generate" and len(key) > 1} - {"engine"}


def _recipe_to_draw(
    prompt: str | None, style: str | None, changes: list[str], workspace: Workspace, *, engine: str | None
) -> Recipe:
    def load(changes: Sequence[str]) -> Recipe:
        if style is None and prompt is not None:
            return style_recipe(slug(prompt), changes, workspace)
        if style is None and workspace.current_style() is None:
            return load_recipe(_DEMO, changes, workspace)
        return choose_recipe(style, changes, workspace)

    own = load(()).generate.engine
    is_other = engine is not None and engine != own and not {engine, own} <= {"diffusers", "modelscope", "edit"}
    recipe = load([*(OTHER_ENGINE if is_other else ()), *changes])
    if (style, prompt, workspace.current_style(), is_other) == (None, None, None, False):
        console.show_note(f"No style was named, so this is the demo: {recipe.style}, drawn by {recipe.generate.engine}.")
    return recipe
