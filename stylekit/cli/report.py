"""`stylekit report`."""

from __future__ import annotations

from stylekit.cli.console import Outcome
from stylekit.cli.options import Run, Style
from stylekit.errors import CheckpointError
from stylekit.paths import Workspace


def report(style: Style = None, run: Run = None) -> Outcome:
    """Write the page of a training run anew: previews, curves, figures, best and worst pictures, data, recipe."""
    from stylekit.engine.checkpoint import newest_run
    from stylekit.engine.page import write_run_page

    workspace = Workspace()
    folder = run or newest_run(workspace, style or workspace.current_style())
    if folder is None:
        raise CheckpointError("There is no run to report on.", "Train one: stylekit train")
    page = write_run_page(folder)
    return Outcome({"page": page, "run": folder}, f"Open it in a browser: {page}")
