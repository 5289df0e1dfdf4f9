"""Whether upstream's own code runs here: it is imported, in a child process, by the names that its users write."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

from stylekit.modelscope.runtime.process import Child

if TYPE_CHECKING:
    from stylekit.modelscope.runtime.child import Job, Link

_NAMES = {
    "modelscope.trainers.cv": "CartoonTranslationTrainer",
    "modelscope.exporters.cv": "CartoonTranslationExporter",
    "modelscope.pipelines.cv": "ImageCartoonPipeline",
}


@cache
def versions() -> dict[str, str]:
    """Return the versions of packages with which upstream's trainer, exporter and pipeline can be imported; takes seconds.

    Raises:
        MissingPartError: If a package is not installed.
        StylekitError: If one of the three cannot be imported.
    """
    with Child("stylekit.modelscope.runtime.probe:probe", {}, "Importing upstream's code") as child:
        return child.result()


def probe(job: Job, link: Link) -> Job:
    """In the child: import all three."""
    for module, name in _NAMES.items():
        getattr(import_module(module), name)
    return {name: version(name) for name in ("modelscope", "tensorflow", "tf_slim")}
