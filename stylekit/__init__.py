"""stylekit turns a hundred pictures of a style into a fast portrait stylizer that its user owns.

What the command line does, Python can do: `stylekit.train(...)`, `stylekit.Stylizer("archer-style")(photo)`. The names
below are loaded when they are first used, so that `import stylekit` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stylekit.config.load import load_recipe
    from stylekit.data.prepare import align
    from stylekit.evaluation.compare import compare
    from stylekit.evaluation.evaluate import evaluate
    from stylekit.exporters import export
    from stylekit.generate.api import gen_data
    from stylekit.hubs import publish
    from stylekit.pipeline import run, train
    from stylekit.stylizer import Stylizer, stylize

__version__ = "0.1.0"

__all__ = [
    "Stylizer",
    "align",
    "compare",
    "evaluate",
    "export",
    "gen_data",
    "load_recipe",
    "publish",
    "run",
    "stylize",
    "train",
]

_HOMES = {
    "Stylizer": "stylekit.stylizer",
    "align": "stylekit.data.prepare",
    "compare": "stylekit.evaluation.compare",
    "evaluate": "stylekit.evaluation.evaluate",
    "export": "stylekit.exporters",
    "gen_data": "stylekit.generate.api",
    "load_recipe": "stylekit.config.load",
    "publish": "stylekit.hubs",
    "run": "stylekit.pipeline",
    "stylize": "stylekit.stylizer",
    "train": "stylekit.pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'stylekit' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
