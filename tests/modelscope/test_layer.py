"""The compatibility layer, mend by mend. Whole scripts under it are in test_script.py."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from stylekit.modelscope.graph.frozen import read_frozen
from stylekit.modelscope.graph.weights import generator_arrays
from stylekit.modelscope.runtime import layer
from stylekit.modelscope.runtime.checkpoints import write_checkpoint
from tests.modelscope.folders import data_folder, toned_generator
from tests.modelscope.test_script import stylekit, write


def test_a_mend_surrounds_the_import_of_its_module_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    @contextmanager
    def mend(module: ModuleType) -> Iterator[None]:
        seen.append(f"before {hasattr(module, 'VALUE')}")
        yield
        seen.append(f"after {module.VALUE}")
        module.VALUE = 2

    for name in ("mended_one", "left_alone"):
        write(tmp_path, "VALUE = 1", f"{name}.py")
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", [layer._AroundImport({"mended_one": mend, "nowhere": mend}), *sys.meta_path])
    assert (import_module("mended_one").VALUE, import_module("left_alone").VALUE) == (2, 1)
    assert seen == ["before False", "after 1"]
    with pytest.raises(ModuleNotFoundError):
        import_module("nowhere")


@pytest.mark.parametrize("visible", [None, "", "3"])
def test_no_device_is_hidden(visible: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible or "")
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with layer._keep_devices(ModuleType("facelib")):
        os.environ["CUDA_VISIBLE_DEVICES"] = "0"
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == visible


@pytest.fixture
def upstream(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Stand for the module of upstream's Stable Diffusion, with diffusers installed."""
    diffusers, module = ModuleType("diffusers"), ModuleType("upstream")
    diffusers.DiffusionPipeline = module.StableDiffusionPipeline = type("Pipeline", (), {})
    monkeypatch.setitem(sys.modules, "diffusers", diffusers)
    return module


@pytest.mark.parametrize("installed", [False, True])
def test_a_stand_in_is_there_where_needed_and_only_meanwhile(
    upstream: ModuleType, installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layer, "find_spec", lambda name: object() if installed else None)
    with layer._load_stable_diffusion_as_asked(upstream):
        assert ("torchvision.transforms" in sys.modules) == (not installed)
    assert "torchvision.transforms" not in sys.modules


def test_a_stand_in_goes_when_the_import_fails_too(upstream: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer, "find_spec", lambda name: None)
    with pytest.raises(ImportError), layer._load_stable_diffusion_as_asked(upstream):
        raise ImportError("broken")
    assert "torchvision" not in sys.modules


LOOK = """
    import os
    import sys
    import tensorflow as tf
    from tensorflow.contrib import slim
    import tensorflow.contrib.slim
    import tf_slim
    from modelscope.msdatasets import MsDataset
    from modelscope.models.cv.cartoon import CartoonModel, FaceAna

    assert not tf.executing_eagerly() and slim is tf_slim is tf.contrib.slim
    with tf.Graph().as_default():
        assert type(tf.get_variable('a', [2])).__name__ == 'RefVariable'
    for split in ('train', 'test'):
        assert MsDataset.load(sys.argv[1], split=split).config_kwargs['split_config'] == {split: sys.argv[1]}
    print('CUDA_VISIBLE_DEVICES' in os.environ)
"""

EXPORT = """
    import sys
    from modelscope.exporters.cv import CartoonTranslationExporter
    import tensorflow as tf

    for checkpoint, graph in zip(sys.argv[1::2], sys.argv[2::2]):
        told = CartoonTranslationExporter().export_frozen_graph_def(ckpt_path=checkpoint, frozen_graph_path=graph)
        assert told == {'model': graph}
    print(len(tf.global_variables()))
"""


@pytest.mark.modelscope
@pytest.mark.slow
def test_tensorflow_is_what_upstream_was_written_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    data = data_folder(tmp_path / "set", count=1)
    assert stylekit("modelscope", "run", write(tmp_path, LOOK), str(data), cwd=tmp_path).splitlines()[-1] == "False"


@pytest.mark.modelscope
@pytest.mark.slow
def test_the_exporter_works_without_a_trainer_and_more_than_once(tmp_path: Path) -> None:
    arrays = [generator_arrays(toned_generator(seed)) for seed in range(2)]
    arguments = []
    for index, each in enumerate(arrays):
        write_checkpoint(each, tmp_path / f"model-{index}")
        arguments += [f"model-{index}", f"{index}.pb"]
    printed = stylekit("modelscope", "run", write(tmp_path, EXPORT), *arguments, cwd=tmp_path)
    assert printed.splitlines()[-1] == "0"
    for index, each in enumerate(arrays):
        frozen = read_frozen(tmp_path / f"{index}.pb")
        assert frozen.keys() == each.keys()
        assert all(np.array_equal(frozen[name], each[name]) for name in each)
