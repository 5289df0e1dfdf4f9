"""`stylekit align` and `stylekit data`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from stylekit.cli import console
from stylekit.cli.console import Outcome
from stylekit.cli.options import EVERYWHERE, Output, Seed, Sets, Style, choose_recipe, overrides
from stylekit.config.load import style_recipe
from stylekit.paths import Workspace

app = typer.Typer(help="Photographs and cartoons that belong together.", no_args_is_help=True)


def align(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A folder of pictures, or asset:NAME.")],
    *,
    kind: Annotated[Literal["photo", "cartoon"], typer.Option("--kind", help="What the pictures are.")] = "photo",
    output: Output = None,
    style: Style = None,
    landmarks: Annotated[Literal["mesh"] | None, typer.Option("--landmarks", help="How the points of a face are found.")] = None,
    template: Annotated[Literal["dctnet", "ffhq"] | None, typer.Option("--template", help="How a face is cropped.")] = None,
    size: Annotated[int | None, typer.Option("--size", help="Side of the crops in pixels.")] = None,
    seed: Seed = None,
    sets: Sets = None,
) -> Outcome:
    """Find, crop and judge the faces of pictures: photographs for training, or the cartoons of a style."""
    workspace = Workspace()
    flags = {"seed": seed, "align.landmarks": landmarks, "align.template": template, "align.size": size}
    changes = overrides(flags, sets)
    if kind == "photo" and style is None and workspace.current_style() is None:
        recipe = style_recipe("photos", changes, workspace)
    else:
        recipe = choose_recipe(style, changes, workspace)

    from stylekit.data.prepare import align as align_faces

    report = align_faces(
        source,
        kind=kind,
        output=output or (workspace.photo_set(source) if kind == "photo" else workspace.style(recipe.style)),
        recipe=recipe.align,
        seed=recipe.seed,
        eval_fraction=recipe.photos.eval_fraction,
        progress=console.progress(),
    )
    lines = [f"{report.used} faces aligned, {report.rejected} left out, {len(report.unreadable)} unreadable"]
    lines += [f"left out, {reason}: {number}" for reason, number in report.reasons.items()]
    lines += [f"unreadable: {name}: {problem}" for name, problem in report.unreadable.items()]
    lines.append(f"Look at them: {report.contact_sheet}")
    return Outcome(report, "\n".join(lines), console.PART_FAILED if report.unreadable else 0)


@app.command("add", epilog=EVERYWHERE)
def add(
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="ms:NAMESPACE/NAME, or a folder with face_photo/ and face_cartoon/.")
    ],
    style: Annotated[
        str | None, typer.Option("--style", metavar="NAME", help="What to call the style; else as the data set.")
    ] = None,
) -> Outcome:
    """Start a style from a data set of photographs and cartoons, ready to be trained."""
    from stylekit.data.hub import add_data

    added = add_data(source, style=style)
    pictures = f"{added.style}: {added.cartoons} cartoons and {added.photos} photographs of {added.source}"
    return Outcome(added, f"{pictures}\n{added.recipe}\nNext: stylekit train")
