"""The compatibility layer: what ModelScope's DCT-Net classes, written for TensorFlow 1 and Python 3.7, lack on today's Python.

It is installed into a child process (`process.Child`, `stylekit modelscope run`) and never into the caller's own. Nothing is
changed on disk; each mend waits for the module that needs it and is applied when that is imported.
"""

from __future__ import annotations

import builtins
import importlib.machinery
import os
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

Mend = Callable[[ModuleType], None]


class _AfterImport(MetaPathFinder):
    """Applies each mend right after its module was imported."""

    def __init__(self, mends: dict[str, Mend]) -> None:
        self._mends = mends

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if (mend := self._mends.get(fullname)) is None:
            return None
        for finder in sys.meta_path:
            spec = finder.find_spec(fullname, path, target) if finder is not self else None
            if spec is not None and spec.loader is not None:
                spec.loader.exec_module = _then(spec.loader.exec_module, mend)  # type: ignore[method-assign]
                return spec
        return None


def _then(load: Mend, mend: Mend) -> Mend:
    def load_and_mend(module: ModuleType) -> None:
        load(module)
        mend(module)

    return load_and_mend


class _StandIn(MetaPathFinder):
    """Answers for a package that upstream imports and never uses, where it is not installed: an empty module."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self._names:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)  # type: ignore[arg-type]

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        return None


def install() -> None:
    """Make this process able to import and run upstream's DCT-Net classes. To be called before they are imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")

    def keep_devices(module: ModuleType) -> None:
        """Undo what importing facelib does: it makes every GPU but the first invisible."""
        if visible is None:
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = visible

    sys.meta_path.insert(
        0,
        _AfterImport(
            {
                "tensorflow": _become_tensorflow_1,
                "modelscope.models.cv.cartoon.facelib.config": keep_devices,
                "modelscope.msdatasets.ms_dataset": _find_added_datasets,
            }
        ),
    )
    sys.meta_path.append(_StandIn(frozenset(("torchvision", "torchvision.transforms"))))


def _become_tensorflow_1(tensorflow: ModuleType) -> None:
    """Let `import tensorflow` give TensorFlow 1's names and graphs, with `tensorflow.contrib.slim` beside them."""
    import tf_slim

    tf1: ModuleType = tensorflow.compat.v1
    tf1.disable_eager_execution()
    tf1.disable_resource_variables()
    contrib = ModuleType("tensorflow.contrib")
    contrib.slim = tf_slim  # type: ignore[attr-defined]
    tf1.contrib = contrib  # type: ignore[attr-defined]
    tf1.__path__ = [*tf1.__path__, *tensorflow.__path__]
    sys.modules |= {"tensorflow": tf1, "tensorflow.contrib": contrib, "tensorflow.contrib.slim": tf_slim}
    builtins._tf_version = tensorflow.__version__  # type: ignore[attr-defined]  # trainer and exporter name it without importing it


def _find_added_datasets(module: ModuleType) -> None:
    """Let `MsDataset.load` find local folders, and data sets that `stylekit data add` brought, as it finds the hub's own.

    Whoever loads such a data set reads `config_kwargs["split_config"][split]`, which is the folder.
    """
    from modelscope.msdatasets.dataset_cls import ExternalDataset

    from stylekit.assets import dataset_folder

    dataset: Any = module.MsDataset
    load_from_hub = dataset.load

    def load(dataset_name: Any, namespace: str | None = None, **options: Any) -> Any:
        if isinstance(dataset_name, str):
            local = Path(dataset_name).expanduser()
            name = dataset_name if "/" in dataset_name or not namespace else f"{namespace}/{dataset_name}"
            folder = local if (local / "face_photo").is_dir() else dataset_folder(name)
            if folder is not None:
                splits = {str(options.get("split") or "train"): str(folder)}
                return dataset.to_ms_dataset(ExternalDataset(splits, {}))
        given = {} if namespace is None else {"namespace": namespace}
        return load_from_hub(dataset_name, **given, **options)

    dataset.load = staticmethod(load)
