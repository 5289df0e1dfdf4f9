"""Puts the compatibility layer into every Python that finds this folder first in PYTHONPATH, before any of its code runs.

It leaves `sys.path` as it would have been, and runs the sitecustomize that it hides.
"""

import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path

if __name__ == "sitecustomize":
    sys.path[:] = [entry for entry in sys.path if Path(entry) != Path(__file__).parent]
    try:
        from stylekit.modelscope.runtime import layer
    except ImportError:  # another Python, which the script calls
        pass
    else:
        layer.install()
    if (spec := PathFinder.find_spec(__name__)) and spec.loader:
        spec.loader.exec_module(module_from_spec(spec))
