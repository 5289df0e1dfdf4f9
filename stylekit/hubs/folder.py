"""The verb `publish`: a finished style, with its licence and card, to where others can take it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from stylekit.bundle import Bundle, Style, load_style, write_bundle
from stylekit.bundle.card import documents
from stylekit.bundle.style import STYLE_FILE
from stylekit.errors import UsageError
from stylekit.exporters import up_to_date
from stylekit.paths import Workspace
from stylekit.progress import Progress, silent

_FOLDER = "dir:"
_HUBS = ("hf:", "ms:")
_SPDX = re.compile(r"[A-Za-z0-9.+()-]+( (AND|OR|WITH) [A-Za-z0-9.+()-]+)*")  # SPDX 2.3, annex D


@dataclass(frozen=True)
class PublishReport:
    """Where a style was published, and what its `style.json` says."""

    path: Path
    style: Style


def publish(
    style: str | Path | None = None,
    *,
    to: str = "dir:exports",
    licence: str | None = None,
    workspace: Workspace | None = None,
    progress: Progress = silent,
) -> PublishReport:
    """Write a style, its card and its licence into `FOLDER/<style>/`, in one rename.

    Args:
        style: A style's name, a run, a checkpoint or a bundle; None takes the current style. What was trained here is exported
            first where its bundle is missing or out of date.
        to: `dir:FOLDER`, relative to the workspace.
        licence: SPDX expression (`CC-BY-4.0`); by default the recipe's.
        workspace: The project; the current folder by default.
        progress: Shows what is under way.

    Raises:
        UsageError: If there is no licence, or `to` is not a folder.
        StylekitError: As `export` does, or if the folder cannot be written.
    """
    workspace = workspace or Workspace()
    folder = workspace.root / _target(to)
    if licence is not None:
        _check_licence(licence)
    bundle = _bundle(style, workspace, progress)
    granted = licence or bundle.style.licence
    if granted is None:
        raise UsageError(
            f"The style {bundle.style.name} has no licence, so nobody may use it.",
            "Name one that your cartoons allow: stylekit publish --license CC-BY-4.0",
        )
    _check_licence(granted)
    licensed = bundle.style.model_copy(update={"licence": granted})
    path = folder / licensed.name
    return PublishReport(path, write_bundle(path, licensed, {**bundle.files, **documents(licensed)}))


def _bundle(style: str | Path | None, workspace: Workspace, progress: Progress) -> Bundle:
    if style is not None and (Path(style).suffix == ".zip" or (Path(style) / STYLE_FILE).is_file()):
        return load_style(style, workspace)
    return up_to_date(style, workspace=workspace, progress=progress)


def _target(to: str) -> Path:
    if to.startswith(_HUBS):
        raise UsageError(f"Publishing to a hub ({to}) comes with a later version.", "Publish to a folder: --to dir:exports")
    if not to.startswith(_FOLDER) or to == _FOLDER:
        raise UsageError(f"{to!r} is not a place to publish to.", "Write --to dir:FOLDER")
    return Path(to.removeprefix(_FOLDER)).expanduser()


def _check_licence(licence: str) -> None:
    if not _SPDX.fullmatch(licence):
        raise UsageError(f"{licence!r} is not an SPDX licence expression.", "Write for example CC-BY-4.0, CC0-1.0 or Apache-2.0.")
