"""`stylekit export`, `stylize` and `publish`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from stylekit.cli import console
from stylekit.cli.console import Outcome
from stylekit.cli.options import Device, Output, Run, Style
from stylekit.config.load import style_recipe
from stylekit.errors import UsageError
from stylekit.paths import Workspace, slug


def export(
    style: Style = None,
    run: Run = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format", metavar="NAME", help="onnx, onnx-int8, safetensors, torchscript or modelscope; may be repeated."
        ),
    ] = None,
    output: Output = None,
    faces: Annotated[
        str | None,
        typer.Option(
            "--faces", metavar="MODEL", help="modelscope: take detector.pb and keypoints.pb from this folder or modelscope:NAME."
        ),
    ] = None,
) -> Outcome:
    """Write the style for use elsewhere, as a bundle or a ModelScope folder, each network compared with the trained one."""
    from stylekit.exporters import export as build
    from stylekit.exporters.build import Format

    report = build(
        run or style, formats=cast("list[Format] | None", formats), output=output, faces=faces, progress=console.progress()
    )
    lines = [
        f"{kind}: at most {parity.max_levels:.3g}, on average {parity.mean_levels:.2g} of 255 levels from the trained network"
        for kind, parity in report.parity.items()
    ]
    if report.modelscope is None or report.modelscope.path != report.path:
        lines.append(f"{report.path}")
    if report.modelscope:
        lines += [f"{report.modelscope}", *report.notes]
    return Outcome(report, "\n".join(lines))


def stylize(
    inputs: Annotated[list[Path], typer.Argument(metavar="PICTURE...", help="Pictures, or folders of them.")],
    *,
    style: Style = None,
    engine: Annotated[
        Literal["stylekit", "modelscope"], typer.Option("--engine", help="modelscope: upstream's own pipeline, to compare with.")
    ] = "stylekit",
    output: Output = None,
    mode: Annotated[Literal["full", "face"], typer.Option("--mode", help="The whole picture, or each face's crop.")] = "full",
    size: Annotated[
        int | None, typer.Option("--size", help="full: short side the network sees; face: side of the crops.")
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option("--strength", min=0, max=1, help="How much of the style shows, 0 to 1; else what the style says."),
    ] = None,
    file_format: Annotated[Literal["png", "jpg", "webp"], typer.Option("--format", help="Of the files in a folder.")] = "png",
    quality: Annotated[int, typer.Option("--quality", min=1, max=100, help="For jpg and webp.")] = 92,
    device: Device = None,
    fast: Annotated[bool, typer.Option("--fast", help="On a CPU: in 8 bits, where the style has that and it is faster.")] = False,
) -> Outcome:
    """Stylize pictures."""
    if engine == "modelscope":
        from stylekit.modelscope.portrait import stylize as draw

        if mode == "face" or size or strength is not None or fast:
            raise UsageError(
                "Upstream's pipeline draws whole pictures at sizes of its own, in full strength.",
                "Leave out --mode, --size, --strength and --fast.",
            )
    else:
        from stylekit.nn.cpu import keep_freed_memory
        from stylekit.stylizer import stylize

        keep_freed_memory()
        draw = partial(stylize, mode=mode, size=size, strength=strength, fast=fast)
    report = draw(
        inputs,
        style=style,
        output=output,
        file_format=file_format,
        quality=quality,
        device=device or "auto",
        progress=console.progress(),
    )
    lines = [f"{path}" for file in report.done for path in file.outputs]
    lines += [f"no face found: {path}" for path in report.faceless]
    lines += [f"failed: {reason}" for reason in report.failed.values()]
    return Outcome(report, "\n".join(lines), report.exit_code)


def publish(
    style: Style = None,
    to: Annotated[str | None, typer.Option("--to", metavar="PLACE", help="dir:FOLDER; else what the recipe says.")] = None,
    licence: Annotated[str | None, typer.Option("--license", metavar="SPDX", help="Licence of the published style.")] = None,
) -> Outcome:
    """Publish the style with its card and licence."""
    from stylekit.hubs import publish as publish_style

    workspace = Workspace()
    name = style or workspace.current_style()
    place = to or (style_recipe(slug(Path(name).stem), workspace=workspace).publish.to if name else "dir:exports")
    report = publish_style(style, to=place, licence=licence, progress=console.progress())
    return Outcome(report, f"{report.path}")
