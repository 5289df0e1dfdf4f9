"""Whether upstream's own code runs here: it is imported, in a child process, by the names that its users write."""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True)
class Upstream:
    """What upstream's trainer, exporter and pipeline run on.

    Attributes:
        versions: Packages and their versions.
        sees_gpu: Whether TensorFlow sees a GPU.
    """

    versions: dict[str, str]
    sees_gpu: bool


@cache
def look() -> Upstream:
    """Import upstream's trainer, exporter and pipeline; takes seconds.

    Raises:
        MissingPartError: If a package is not installed.
        StylekitError: If one of the three cannot be imported.
    """
    with Child("stylekit.modelscope.runtime.probe:probe", {}, "Importing upstream's code") as child:
        return Upstream(**child.result())


def probe(job: Job, link: Link) -> Job:
    """In the child: import all three."""
    import tensorflow as tf

    for module, name in _NAMES.items():
        getattr(import_module(module), name)
    versions = {"modelscope": version("modelscope"), "tensorflow": tf.__version__, "tf_slim": version("tf_slim")}
    return {"versions": versions, "sees_gpu": bool(tf.config.list_physical_devices("GPU"))}
