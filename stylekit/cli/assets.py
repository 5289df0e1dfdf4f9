"""`stylekit assets`: what stylekit reads besides your pictures, where it comes from, and your own in its place."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stylekit.cli.console import Outcome
from stylekit.cli.options import EVERYWHERE
from stylekit.errors import UsageError

app = typer.Typer(help="Weights and data sets: list, fetch, or bring your own.", no_args_is_help=True)

Verify = Annotated[bool, typer.Option("--verify", help="Read every cached file and compare its SHA-256.")]


@app.command("ls", epilog=EVERYWHERE)
def ls(verify: Verify = False) -> Outcome:
    """List every asset: role, state, size, source, licence."""
    from stylekit.assets import statuses

    found = statuses(verify=verify)
    width = max(len(status.name) for status in found)
    lines = []
    for status in found:
        size = f"{status.size / 1e6:6.1f} MB" if status.size else " " * 9
        lines.append(
            f"{status.name:<{width}}  {status.state:<8} {size}  {status.licence}, {status.source} ({', '.join(status.roles)})"
        )
        if status.problem:
            lines.append(f"{'':<{width}}  {status.problem}. Run: {status.mend}")
    return Outcome({"assets": found}, "\n".join(lines))


@app.command("fetch", epilog=EVERYWHERE)
def fetch(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Names, as `assets ls` shows them.")],
    verify: Verify = False,
) -> Outcome:
    """Fetch assets into the cache, so that later commands need no network."""
    from stylekit import assets

    paths = {name: assets.fetch(name, verify=verify) for name in names}
    return Outcome({"assets": paths}, "\n".join(f"{name}: {path}" for name, path in paths.items()))


@app.command("add", epilog=EVERYWHERE)
def add(
    role: Annotated[str, typer.Argument(metavar="ROLE", help="What it is for, as `assets ls` shows in brackets.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Your own file or folder; it is copied.")],
    name: Annotated[str | None, typer.Option("--name", help="The asset it stands in for, where that is not clear.")] = None,
) -> Outcome:
    """Use your own file in the place of an asset."""
    from stylekit.assets import add as add_asset

    added = add_asset(role, file, name)
    return Outcome(added, f"{added.name} is now read from your file ({added.path}).")


@app.command("slim", epilog=EVERYWHERE)
def slim(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="`vgg19.npy`, 548 MB.")],
    into: Annotated[Path, typer.Argument(metavar="INTO", help="The file to write, 21 MB.")],
) -> Outcome:
    """Write what training needs of VGG-19 as float16, to carry it to another machine: conv1_1 to conv4_4."""
    from stylekit.nn.vgg import slim_vgg19

    if into.exists():
        raise UsageError(f"{into} exists.", "Name a new file.")
    size = slim_vgg19(file, into)
    return Outcome(
        {"path": into, "bytes": size},
        f"{into}: {size / 1e6:.1f} MB\nNext, there: stylekit assets add content {into.name} --name vgg19-caffe",
    )
