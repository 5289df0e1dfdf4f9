"""`stylekit align` and `stylekit data`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from stylekit.cli import console
from stylekit.cli.console import Outcome
from stylekit.cli.options import EVERYWHERE, Output, Seed, Sets, Style, choose_recipe, keep_recipe, overrides, own_recipe
from stylekit.config.load import OTHER_ENGINE, UNSIGNED, style_recipe
from stylekit.config.schema import Recipe
from stylekit.errors import UsageError
from stylekit.paths import Workspace, slug

_MOST_LISTED = 20

app = typer.Typer(help="Add, judge, weed out, pack and remake the pictures that a style is trained with.", no_args_is_help=True)


def align(
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="Pictures: a folder, FFHQ, CelebA, a zip file, shards, or asset:NAME.")
    ],
    *,
    kind: Annotated[Literal["photo", "cartoon"], typer.Option("--kind", help="What the pictures are.")] = "photo",
    output: Output = None,
    style: Style = None,
    landmarks: Annotated[
        Literal["mesh", "face-alignment", "dlib"] | None,
        typer.Option("--landmarks", help="What finds the faces and their points."),
    ] = None,
    template: Annotated[
        Literal["dctnet", "ffhq", "arcface"] | None, typer.Option("--template", help="How a face is cropped.")
    ] = None,
    size: Annotated[int | None, typer.Option("--size", help="Side of the crops in pixels.")] = None,
    faces: Annotated[Literal["auto", "all", "largest"] | None, typer.Option("--faces", help="Which faces of a picture.")] = None,
    min_face: Annotated[int | None, typer.Option("--min-face", metavar="PX", help="Smallest face that is used.")] = None,
    min_sharpness: Annotated[
        float | None, typer.Option("--min-sharpness", metavar="N", help="Blurred photographs lie below; 0 takes all.")
    ] = None,
    max_yaw: Annotated[
        float | None, typer.Option("--max-yaw", metavar="DEGREES", help="Furthest turn of a photographed head.")
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option("--processes", metavar="N", min=1, help="Pictures worked on at once; else one per core, as memory allows."),
    ] = None,
    seed: Seed = None,
    sets: Sets = None,
) -> Outcome:
    """Find, crop and judge the faces of pictures: photographs for training, or the cartoons of a style."""
    workspace = Workspace()
    flags = {
        "seed": seed,
        "align.landmarks": landmarks,
        "align.template": template,
        "align.size": size,
        "align.faces": faces,
        "align.min_face_px": min_face,
        "align.min_sharpness": min_sharpness,
        "align.max_yaw_deg": max_yaw,
    }
    changes = overrides(flags, sets)
    if kind == "cartoon" and style is None and workspace.current_style() is None:
        raise UsageError("Cartoons belong to a style.", f"Name it: stylekit align {source} --kind cartoon --style NAME")
    if kind == "photo" and style is None and workspace.current_style() is None:
        recipe, whose = style_recipe("photos", changes, workspace), "Default limits"
    else:
        recipe = choose_recipe(style, changes, workspace)
        whose = f"Limits of the recipe {recipe.style}"

    from stylekit.data.advice import number
    from stylekit.data.prepare import align as align_faces

    report = align_faces(
        source,
        kind=kind,
        output=output or (workspace.photo_set(source) if kind == "photo" else workspace.style(recipe.style)),
        recipe=recipe.align,
        seed=recipe.seed,
        eval_fraction=recipe.photos.eval_fraction,
        processes=processes,
        progress=console.progress(),
    )
    counts = f"{number(report.used, 'face')} of {number(report.pictures, 'picture')} aligned"
    limits = ", ".join(f"{name} {value:g}" for name, value in report.limits.items())
    lines = [
        f"{counts}, {report.rejected} left out, {len(report.unreadable)} unreadable",
        f"{whose}: {limits}",
        *report.notes,
    ]
    lines += [f"left out, {reason}: {times}" for reason, times in report.reasons.items()]
    lines += console.unreadable(report.unreadable)
    lines.append(f"Look at them: {report.contact_sheet}")
    lines.append(f"Good enough? {report.page}")
    if kind == "cartoon" and output is None and style is not None and _is_of_its_own(source, recipe, workspace):
        own = f"generate.model={json.dumps(source, ensure_ascii=False)}"
        keep_recipe(
            choose_recipe(style, [*UNSIGNED, *OTHER_ENGINE, "generate.engine=folder", own, *changes], workspace), workspace
        )
    if kind == "cartoon" or recipe.photos.source == source:
        lines.append("Next: look at the page, then run: stylekit train")
    else:
        lines.append(f"Next: look at the page, then train with them: stylekit data add {source}")
    return Outcome(report, "\n".join(lines), console.PART_FAILED if report.unreadable else 0)


def _is_of_its_own(source: str, recipe: Recipe, workspace: Workspace) -> bool:
    """Tell whether a folder of cartoons is all that is known of a style."""
    raw = workspace.style(recipe.style) / "raw"
    return Path(source).is_dir() and Path(source).resolve() != raw.resolve() and own_recipe(recipe.style, workspace) is None


@app.command("add", epilog=EVERYWHERE)
def add(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="Photographs (a folder, FFHQ, CelebA, a zip file, shards), cartoons, or both (trainA/ and trainB/, face_photo/ "
            "and face_cartoon/, ms:NAMESPACE/NAME).",
        ),
    ],
    style: Annotated[
        str | None, typer.Option("--style", metavar="NAME", help="The style; with a plain folder, which then holds its cartoons.")
    ] = None,
    kind: Annotated[
        Literal["photo", "cartoon"] | None, typer.Option("--kind", help="What a plain folder holds, if that is otherwise.")
    ] = None,
) -> Outcome:
    """Take photographs, cartoons or both into a style; the layout is recognised, the pictures stay where they are."""
    from stylekit.data.hub import add_data

    added = add_data(source, style=style, kind=kind)
    counts = {"cartoons": added.cartoons, "photographs": added.photos}
    pictures = " and ".join(f"{count} {name}" for name, count in counts.items() if count is not None)
    lines = [f"{added.style}: {pictures} of {added.source}", f"Recognised: {added.layout}", *added.notes, str(added.recipe)]
    return Outcome(added, "\n".join([*lines, "Next: stylekit train"]))


@app.command("shard", epilog=EVERYWHERE)
def shard(
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="An aligned data set (datasets/photos), or any that data add recognises.")
    ],
    *,
    output: Output = None,
    size: Annotated[int | None, typer.Option("--size", help="Side of the pictures in pixels; else as they are.")] = None,
    shard_mb: Annotated[int, typer.Option("--shard-mb", help="Megabytes of a shard.")] = 256,
    kind: Annotated[
        Literal["photo", "cartoon"] | None, typer.Option("--kind", help="Which half of a set of photographs and cartoons.")
    ] = None,
) -> Outcome:
    """Write a data set as webdataset shards (.tar), which stream from any disk and train as they are."""
    from stylekit.data.shards import shard as write_shards

    report = write_shards(source, output, size=size, shard_mb=shard_mb, part=kind, progress=console.progress())
    shards = f"{report.shards} shards" if report.shards != 1 else "one shard"
    new = f"{report.made} of them new" if report.made else "none of them new"
    lines = [f"{report.samples} pictures in {shards}, {new}, {report.bytes / 1e6:.1f} MB: {report.folder}"]
    lines += console.unreadable(report.skipped)
    lines.append(f"Next: stylekit {'train --photos' if report.aligned else 'data add'} {report.folder}")
    return Outcome(report, "\n".join(lines), console.PART_FAILED if report.skipped else 0)


@app.command("remake", epilog=EVERYWHERE)
def remake(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Pictures that gen-data made, or crops of them.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Where the new ones go.")] = Path("remade"),
) -> Outcome:
    """Make pictures again from what the manifest says of them, and say whether they are the same."""
    from stylekit.generate.remake import remake as make_again

    remade = make_again(files, output, console.progress())
    said = {True: "the same, to the last byte", False: "not the same bytes: another machine, or other versions of packages"}
    told = {each.file: each.problem if each.identical is None else f"{each.made}, {said[each.identical]}" for each in remade}
    lines = [f"{file}: {what}" for file, what in told.items()]
    return Outcome({"pictures": remade}, "\n".join(lines), console.PART_FAILED if any(each.problem for each in remade) else 0)


@app.command("report", epilog=EVERYWHERE)
def report(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[FOLDER]", help="An aligned data set; else the style's cartoons.")
    ] = None,
    *,
    style: Style = None,
    output: Output = None,
) -> Outcome:
    """Say whether a data set is good enough and what would help, as a page to open in a browser."""
    from stylekit.data.page import PAGE, render
    from stylekit.data.report import report as judge
    from stylekit.paths import atomic_write_text

    found = judge(folder or _aligned_set(style))
    page = output or found.folder / PAGE
    atomic_write_text(page, render(found))
    lines = [found.headline, *(f"{advice.kind}: {advice.text}" for advice in found.advice), f"Open it in a browser: {page}"]
    return Outcome({"page": page, **vars(found)}, "\n".join(lines))


@app.command("drop", epilog=EVERYWHERE)
def drop(
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME...", help="Crops, as the report names them, as files, or as patterns such as '0001*'."),
    ],
    *,
    folder: Annotated[
        Path | None, typer.Option("--in", metavar="FOLDER", help="An aligned data set; else the style's cartoons.")
    ] = None,
    style: Style = None,
    undo: Annotated[bool, typer.Option("--undo", help="Bring them back.")] = False,
) -> Outcome:
    """Take pictures out of a data set by hand, and keep them out; nothing is deleted."""
    from stylekit.data.review import drop as take_out

    report = take_out(folder or _aligned_set(style), names, undo=undo)
    counts = f"{len(report.changed)} {'brought back' if undo else 'dropped'}, {report.used} left to train with"
    lines = [f"{counts}; {report.folder}", *report.changed[:_MOST_LISTED]]
    if len(report.changed) > _MOST_LISTED:
        lines.append(f"and {len(report.changed) - _MOST_LISTED} more")
    if not undo:
        lines.append("To bring one back: stylekit data drop --undo NAME")
    return Outcome(report, "\n".join(lines))


def _aligned_set(style: str | None) -> Path:
    """Return the cartoons of the named or current style, else the photographs."""
    workspace = Workspace()
    name = style or workspace.current_style()
    return workspace.style(slug(name)) if name else workspace.photos
