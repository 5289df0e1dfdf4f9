"""`stylekit modelscope run`: a user's unmodified script, with Python's own command line and the compatibility layer below it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from stylekit.errors import UsageError
from stylekit.modelscope import runtime
from stylekit.modelscope.runtime.process import require_packages

_STARTUP = Path(runtime.__file__).parent / "startup"


def run_script(arguments: Sequence[str]) -> NoReturn:
    """Become `python ARGUMENTS...` under the compatibility layer, as every Python will be that it starts.

    Where the system can replace a process this one is replaced; elsewhere it waits and leaves with the script's exit code.

    Args:
        arguments: A script and its arguments, or `-m module` or `-c code` and theirs.

    Raises:
        UsageError: If there is no such script.
        MissingPartError: If a package that upstream imports is not installed.
    """
    script = arguments[0]
    if script.startswith("-"):
        if script not in ("-m", "-c"):
            raise UsageError(f"There is no option {script} before the script.", "The script comes first, then its own options.")
    elif not Path(script).exists():
        raise UsageError(f"There is no script {script}.", "Run: stylekit modelscope run SCRIPT [ARGUMENT...]")
    require_packages("Upstream's code")
    sys.stdout.flush()
    sys.stderr.flush()
    command = [sys.executable, *arguments]
    if os.name == "posix":
        os.execve(sys.executable, command, environment())
    sys.exit(subprocess.run(command, env=environment(), check=False).returncode)


def environment(base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment in which Python puts on the layer before it runs anything."""
    return {**base, "PYTHONPATH": os.pathsep.join([str(_STARTUP), *filter(None, [base.get("PYTHONPATH")])])}
