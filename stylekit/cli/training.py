"""`stylekit train` and `stylekit run`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from stylekit.cli import console
from stylekit.cli.console import Outcome
from stylekit.cli.options import (
    BatchSize,
    Device,
    MaxSteps,
    MixedPrecision,
    ReportTo,
    Resume,
    Seed,
    Sets,
    Style,
    choose_recipe,
    keep_recipe,
    overrides,
)
from stylekit.config.load import STUDENT_CHANGES, UNSIGNED, UPSTREAM_CHANGES, UPSTREAM_ENGINE_CHANGES, load_recipe
from stylekit.errors import UsageError
from stylekit.paths import Workspace, slug


def train(
    *,
    style: Style = None,
    cartoons: Annotated[Path | None, typer.Option("--cartoons", metavar="DIR", help="Your own pictures of the style.")] = None,
    photos: Annotated[str | None, typer.Option("--photos", metavar="DIR", help="Photographs, or asset:NAME.")] = None,
    method: Annotated[str | None, typer.Option("--method", help="How the style is learned.")] = None,
    engine: Annotated[
        Literal["torch", "modelscope"] | None, typer.Option("--engine", help="Whose trainer: ours, or upstream's own.")
    ] = None,
    preset: Annotated[Literal["default", "upstream"] | None, typer.Option("--preset", help="Whose mathematics.")] = None,
    init: Annotated[
        str | None,
        typer.Option(
            "--init",
            metavar="FROM",
            help="A run, bundle, .pb, model folder or modelscope:NAME to start from; a TensorFlow checkpoint goes on.",
        ),
    ] = None,
    student_of: Annotated[
        str | None,
        typer.Option("--student-of", metavar="RUN", help="Train a small network to draw what a run, bundle or style draws."),
    ] = None,
    max_steps: MaxSteps = None,
    batch_size: BatchSize = None,
    mixed_precision: MixedPrecision = None,
    low_vram: Annotated[
        bool | None,
        typer.Option("--low-vram/--no-low-vram", help="Train in less memory, slower, with the same result."),
    ] = None,
    compiled: Annotated[
        Literal["auto", "no", "reduce-overhead"] | None,
        typer.Option("--compile", help="torch.compile: on CUDA, never, or on CUDA with graphs."),
    ] = None,
    device: Device = None,
    seed: Seed = None,
    resume: Resume = False,
    eval_every: Annotated[
        int | None, typer.Option("--eval-every", help="Steps between evaluations on the held-out photographs; 0 never.")
    ] = None,
    patience: Annotated[
        int | None, typer.Option("--patience", help="Evaluations without a better one that end training; 0 never ends it early.")
    ] = None,
    report_to: ReportTo = None,
    sets: Sets = None,
) -> Outcome:
    """Train the style: the current one, or straight from two folders of pictures."""
    if engine == "modelscope" and preset == "default":
        raise UsageError("Upstream's own trainer knows no preset but its own.", "Leave out --preset, or use --engine torch.")
    flags = {
        "seed": seed,
        "generate.engine": "folder" if cartoons else None,
        "generate.model": str(cartoons) if cartoons else None,
        "photos.source": photos,
        "train.method": method,
        "train.engine": engine,
        "train.preset": preset,
        "train.init": init,
        "train.max_steps": max_steps,
        "train.batch_size": batch_size,
        "train.mixed_precision": mixed_precision,
        "train.low_vram": low_vram,
        "train.compile": compiled,
        "train.eval_every": eval_every,
        "train.patience": patience,
        "train.report_to": report_to,
    }
    workspace = Workspace()
    name = style or (slug(cartoons.resolve().name) if cartoons else None)
    changes = overrides(flags, sets)

    if resume:
        from stylekit.engine.train import run_to_resume

        if student_of:
            raise UsageError(
                "A student goes on with the teacher it has.", "Use --resume --method student, or leave out --resume."
            )
        stopped = run_to_resume(choose_recipe(name, (), workspace).style, workspace, method)
        recipe = load_recipe(stopped / "recipe.yaml", changes, workspace)
    else:
        if student_of:
            from stylekit.engine.teacher import find_teacher

            teacher = find_teacher(student_of, workspace)
            name = name or teacher.style
            taught = f"train.student_of={json.dumps(teacher.source)}"
            changes = [*teacher.inherits, *STUDENT_CHANGES, taught, *changes]
        if cartoons and choose_recipe(name, (), workspace).generate.engine != "folder":
            changes = [*UNSIGNED, *changes]
        if engine == "modelscope":
            changes = [*UPSTREAM_ENGINE_CHANGES, *changes]
        elif preset == "upstream":
            changes = [*UPSTREAM_CHANGES, *changes]
        recipe = choose_recipe(name, changes, workspace)
        if init and recipe.train.preset != "upstream":
            from stylekit.engine.start import find_start
            from stylekit.nn.generators import network_of

            network = network_of(find_start(init).weights.generator)  # as large as what it starts from, unless told otherwise
            recipe = choose_recipe(name, [f"train.network={network.model_dump_json()}", *changes], workspace)

    from stylekit.engine.checkpoint import chosen_checkpoint
    from stylekit.engine.evaluations import name_step
    from stylekit.engine.page import PAGE
    from stylekit.pipeline import check, prepare
    from stylekit.pipeline import train as train_style

    check(recipe, workspace=workspace, resume=resume, device=device)
    prepare(recipe, workspace=workspace, progress=console.progress())
    keep_recipe(recipe if recipe.train.student_of is None else choose_recipe(recipe.style, (), workspace), workspace)
    report = train_style(recipe, workspace=workspace, resume=resume, device=device, progress=console.progress())
    lines = [f"{recipe.style}: {report.step} steps in {report.run}, {report.train_s / 60:.1f} minutes of training"]
    if report.ended_early:
        lines.append("It ended early: the last evaluations were not noticeably better. To train on: --resume --patience 0")
    if report.best is not None:
        lines.append(f"Kept: {name_step(chosen_checkpoint(report.run))}")
    if (page := report.run / PAGE).is_file():
        lines.append(f"Page: {page}")
    lines.append("Next: stylekit eval")
    return Outcome(report, "\n".join(lines))


def run(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe's name or file.")],
    *,
    max_steps: MaxSteps = None,
    batch_size: BatchSize = None,
    device: Device = None,
    seed: Seed = None,
    sets: Sets = None,
) -> Outcome:
    """Carry out every stage of a recipe that is not yet done, from pictures to a published style."""
    workspace = Workspace()
    flags = {"seed": seed, "train.max_steps": max_steps, "train.batch_size": batch_size}
    loaded = load_recipe(recipe, overrides(flags, sets), workspace)

    from stylekit.pipeline import run as run_stages

    report = run_stages(
        loaded,
        workspace=workspace,
        device=device,
        progress=console.progress(),
        checked=lambda: keep_recipe(loaded, workspace),
    )
    return Outcome(report, str(report))
