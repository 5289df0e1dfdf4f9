"""`stylekit bench`: how fast this machine is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from stylekit.cli import console
from stylekit.cli.console import Outcome
from stylekit.cli.options import EVERYWHERE, Device, MaxSteps, MixedPrecision, Sets, Style, choose_recipe, overrides
from stylekit.config.load import UPSTREAM_CHANGES
from stylekit.config.schema import Recipe
from stylekit.paths import Workspace

if TYPE_CHECKING:
    from stylekit.speed.training import TrainPoint, TrainReport

app = typer.Typer(help="How fast this machine trains, stylizes, aligns and evaluates.", no_args_is_help=True)


@app.command("train", epilog=EVERYWHERE)
def train(
    *,
    style: Style = None,
    preset: Annotated[Literal["default", "upstream"] | None, typer.Option("--preset", help="Whose mathematics.")] = None,
    batch_size: Annotated[
        list[int] | None, typer.Option("--batch-size", help="Pictures at once; may be repeated. Else the recipe's.")
    ] = None,
    size: Annotated[
        list[int] | None, typer.Option("--size", help="Picture side in pixels; may be repeated. Else the recipe's.")
    ] = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Steps to time of each; on a GPU groups of ten.")] = 3,
    max_steps: MaxSteps = None,
    memory: Annotated[
        float | None, typer.Option("--memory", metavar="GB", help="Most memory of each, to see what fits a smaller machine.")
    ] = None,
    mixed_precision: MixedPrecision = None,
    device: Device = None,
    sets: Sets = None,
) -> Outcome:
    """Time a few training steps for every batch and size: steps a second, their parts, memory, hours of the whole training."""
    from stylekit.speed.training import bench_train

    workspace = Workspace()
    flags = {"train.preset": preset, "train.max_steps": max_steps, "train.mixed_precision": mixed_precision}
    changes = [*(UPSTREAM_CHANGES if preset == "upstream" else ()), *overrides(flags, sets)]
    recipe = _recipe(style, changes, workspace)
    report = bench_train(
        recipe,
        workspace=workspace,
        batch_sizes=batch_size or (),
        sizes=size or (),
        steps=steps,
        device=device,
        memory_gb=memory,
        progress=console.progress(),
    )
    failed = [point for point in report.points if point.state == "failed"]
    if len(failed) == len(report.points):
        from stylekit.errors import TrainingError

        raise TrainingError(failed[0].reason, failed[0].hint)
    return Outcome(report, _train_text(report), console.PART_FAILED if failed else 0)


def _recipe(style: str | None, changes: list[str], workspace: Workspace) -> Recipe:
    """Return the recipe of a style, of the current one, or the defaults where a folder has none."""
    if style is None and workspace.current_style() is None:
        from stylekit.config.load import parse_recipe

        return parse_recipe("style: defaults", changes)
    return choose_recipe(style, changes, workspace)


def _train_text(report: TrainReport) -> str:
    lines = [
        str(report.machine),
        f"{report.style}, preset {report.preset}, {report.pictures} pictures"
        + ("" if report.precision == "no" else f", mixed precision {report.precision}"),
    ]
    described = next((point.speed for point in report.points if point.speed), None)
    if described is not None and described.content is not None:
        drawn = " (its weights drawn, since its file is not here)" if described.is_random else ""
        lines.append(f"content network {described.content}{drawn}")
    if described is not None and described.superpixels is not None:
        lines.append(f"superpixels by {described.superpixels}")
    lines += [
        "",
        f"{'batch':>5} {'px':>5} {'s/step':>9} {'steps/s':>9} {'pictures/s':>10} {'memory':>9}  {report.max_steps:,} steps",
    ]
    lines += [_train_row(point) for point in report.points]
    for point in report.points:
        if point.speed:
            whole = sum(point.speed.parts.values())
            shares = ", ".join(f"{name} {part / whole:.0%}" for name, part in point.speed.parts.items())
            lines += ["", f"of a step at batch {point.batch_size}, {point.size} px: {shares}"]
            lines.append(f"the loader alone gives {point.speed.batches_per_s:.3g} batches a second")
    return "\n".join(lines)


def _train_row(point: TrainPoint) -> str:
    head = f"{point.batch_size:>5} {point.size:>5}"
    if point.speed is None or point.hours is None:
        return f"{head}  {point.state}: {point.reason}"
    speed = point.speed
    return (
        f"{head} {speed.step_s:>9.3g} {1 / speed.step_s:>9.3g} {point.batch_size / speed.step_s:>10.3g} "
        f"{speed.peak_memory_gb:>6.2f} GB  {point.hours:,.1f} hours"
    )


@app.command("stylize", epilog=EVERYWHERE)
def stylize(
    *,
    style: Annotated[
        str | None, typer.Option("--style", metavar="NAME", help="A style by name, bundle or run; else the current one.")
    ] = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Pictures to time with each engine at each size.")] = 3,
    device: Device = None,
) -> Outcome:
    """Time the style's network for a face and a whole picture, at the sizes it sees them, in onnxruntime and torch."""
    from stylekit.speed.stylizing import bench_stylize

    report = bench_stylize(Path(style) if style and Path(style).exists() else style, rounds=steps, device=device)
    lines = [f"{report.machine}", report.style, "", f"{'engine':<14} {'picture':>9} {'ms':>9} {'pictures/s':>10}"]
    lines += [
        f"{each.engine:<14} {f'{each.height}x{each.width}':>9} {each.picture_s * 1000:>9.4g} {1 / each.picture_s:>10.3g}"
        for each in report.times
    ]
    return Outcome(report, "\n".join(lines))


@app.command("align", epilog=EVERYWHERE)
def align(
    *,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Photographs.")] = 24,
) -> Outcome:
    """Time the aligning of starter photographs."""
    from stylekit.speed.aligning import bench_align

    report = bench_align(count=count, progress=console.progress())
    text = (
        f"{report.machine}\n{report.pictures} starter photographs, {report.crops} crops, landmarks {report.landmarks}: "
        f"{report.pictures_per_s:.3g} pictures a second"
    )
    return Outcome(report, text)


@app.command("eval", epilog=EVERYWHERE)
def evaluate(
    *,
    style: Style = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Rounds to time.")] = 2,
    device: Device = None,
) -> Outcome:
    """Time every gauge of an evaluation on crops of starter photographs."""
    from stylekit.speed.evaluating import bench_eval

    settings = _recipe(style, [], Workspace()).eval
    report = bench_eval(settings, rounds=steps, device=device, progress=console.progress())
    lines = [str(report.machine), f"{report.pictures} pictures of {report.size} px", "", f"{'gauge':<30} {'ms a picture':>12}"]
    lines += [f"{name:<30} {each * 1000:>12.3g}" for name, each in report.picture_s.items()]
    return Outcome(report, "\n".join([*lines, f"{'all':<30} {sum(report.picture_s.values()) * 1000:>12.3g}"]))
