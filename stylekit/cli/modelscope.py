"""`stylekit modelscope`: upstream's own code on today's Python."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(help="Run code written for ModelScope.", no_args_is_help=True)

_AS_GIVEN = {"ignore_unknown_options": True, "allow_interspersed_args": False}


@app.command("run", context_settings=_AS_GIVEN, no_args_is_help=True)
def run(
    arguments: Annotated[
        list[str], typer.Argument(metavar="SCRIPT [ARGUMENT]...", help="A script and its own arguments, as for python.")
    ],
) -> None:
    """Run a script that uses ModelScope's CartoonTranslationTrainer, exporter or pipelines, unmodified, on today's Python."""
    from stylekit.modelscope.script import run_script

    run_script(arguments)
