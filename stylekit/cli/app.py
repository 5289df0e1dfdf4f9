"""The commands put together, and the one place where errors become sentences and exit codes."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from difflib import get_close_matches
from typing import Annotated, NoReturn

import typer
from typer.exceptions import TyperException

from stylekit import __version__, process
from stylekit.cli import (
    assets,
    bench,
    console,
    data,
    evaluation,
    generate,
    modelscope,
    preference,
    project,
    recipes,
    report,
    results,
    training,
)
from stylekit.cli.console import Outcome
from stylekit.cli.options import EVERYWHERE, EXAMPLES

app = typer.Typer(
    name="stylekit",
    help="A hundred pictures of a style become a fast portrait stylizer that you own.",
    epilog="Start here: stylekit run demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"stylekit {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    pass


for verb in (
    project.doctor,
    project.init,
    generate.gen_data,
    data.align,
    training.train,
    training.run,
    evaluation.evaluate,
    evaluation.compare,
    report.report,
    results.export,
    results.stylize,
    results.publish,
    preference.prefer,
):
    epilog = f"{EXAMPLES[verb.__name__]}\n\n{EVERYWHERE}" if verb.__name__ in EXAMPLES else EVERYWHERE
    app.command(epilog=epilog, name={"evaluate": "eval"}.get(verb.__name__))(verb)
app.add_typer(recipes.app, name="recipe")
app.add_typer(assets.app, name="assets")
app.add_typer(data.app, name="data")
app.add_typer(bench.app, name="bench")
app.add_typer(modelscope.app, name="modelscope")


def run(arguments: Sequence[str] | None = None) -> int:
    """Carry out one command line and return its exit code.

    Args:
        arguments: What follows `stylekit`; the process's own by default.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    end = _own(given)
    debug, as_json = ("--debug" in given[:end]), ("--json" in given[:end])
    given = [part for part in given[:end] if part not in ("--debug", "--json")] + given[end:]
    console.show_log()
    try:
        if as_json:
            with redirect_stdout(sys.stderr):
                result = app(given, prog_name="stylekit", standalone_mode=False)
        else:
            result = app(given, prog_name="stylekit", standalone_mode=False)
        if isinstance(result, Outcome):
            print(console.to_json(result.data) if as_json else result.text, flush=True)
            return result.exit_code
        if result == console.INTERRUPTED:  # what Typer makes of KeyboardInterrupt
            return _fail(*console.describe(KeyboardInterrupt()), as_json)
        return result if isinstance(result, int) else 0
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that Python's own flush at exit stays silent
        return 1
    except TyperException as error:
        if not error.format_message():  # a bare command: its help was shown
            return error.exit_code
        context = getattr(error, "ctx", None)
        hint = f"Run: {context.command_path} --help" if context else ""
        message = error.format_message().replace("Value error, ", "")
        if near := _near_choice(message):
            hint = f"Did you mean {near}?"
        return _fail(message, hint, error.exit_code, as_json)
    except Exception as error:
        if debug:
            console.show_traceback(error)
        return _fail(*console.describe(error), as_json)


def _near_choice(message: str) -> str | None:
    """Return which of a flag's choices was probably meant, from Typer's message ("'floder' is not one of 'a', 'b'")."""
    given, _, choices = message.rpartition(" is not one of ")
    words = re.findall(r"'([^']*)'", given)
    near = get_close_matches(words[-1], re.findall(r"'([^']*)'", choices), n=1) if words else []
    return near[0] if near else None


def _own(given: Sequence[str]) -> int:
    """Return how many of the arguments are stylekit's own: those before `--`, and before a script that brings its own."""
    words = [i for i, part in enumerate(given) if not part.startswith("-")][:2]
    ends = words[1:] if [given[i] for i in words] == ["modelscope", "run"] else []
    return min([*ends, *(i for i, part in enumerate(given) if part == "--")], default=len(given))


def _fail(message: str, hint: str, exit_code: int, as_json: bool) -> int:
    console.show_error(message, hint)
    if as_json:
        print(console.to_json({"error": message, "hint": hint, "exit_code": exit_code}), flush=True)
    return exit_code


def main() -> NoReturn:
    """Run the command line of this process and leave with its exit code."""
    process.prepare()
    sys.exit(run())
