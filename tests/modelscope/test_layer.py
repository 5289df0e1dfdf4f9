"""The compatibility layer, mend by mend. Whole scripts under it are in test_script.py."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from stylekit.assets import add
from stylekit.errors import AssetError
from stylekit.modelscope.graph.frozen import read_frozen
from stylekit.modelscope.graph.weights import generator_arrays
from stylekit.modelscope.runtime import layer
from stylekit.modelscope.runtime.checkpoints import write_checkpoint
from tests.modelscope.folders import data_folder, model_folder, toned_generator
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


def test_what_is_to_be_mended_and_is_not_there_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "__version__ = '9.1'\nVALUE = 1", "changed.py")
    write(tmp_path, "VALUE = 1\nVALUE.nothing", "broken.py")
    for name in ("changed", "broken"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    mends = {"changed": layer._honour_patch_size, "broken": layer._honour_patch_size}
    monkeypatch.setattr(sys, "meta_path", [layer._AroundImport(mends), *sys.meta_path])
    with pytest.warns(RuntimeWarning, match=r"^changed of changed 9\.1 is left unmended.*CartoonTranslationTrainer"):
        assert import_module("changed").VALUE == 1
    with pytest.raises(AttributeError, match="nothing"):
        import_module("broken")


@pytest.mark.parametrize(
    "mend",
    [
        layer._become_tensorflow_1,
        layer._take_local_models_as_they_are,
        layer._start_a_process_per_core,
        layer._honour_patch_size,
        layer._export_without_trainer,
        layer._ask_for_no_torchvision,
        layer._find_added_datasets,
    ],
)
def test_every_mend_notices_that_its_target_is_not_there(mend: layer.Mend, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tf_slim", "joblib"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    with pytest.raises(AttributeError), mend(ModuleType("another_version")):
        pass


class Hub:
    """Stands for upstream's MsDataset, with the parameters of `load` in its order."""

    @staticmethod
    def load(dataset_name, namespace="modelscope", target=None, version="master", hub=None, subset_name=None, split=None, **more):  # type: ignore[no-untyped-def]  # noqa: PLR0917
        if namespace == "closed":
            raise OSError("no way")
        return "hub", dataset_name, namespace, target, version, split, more

    @staticmethod
    def to_ms_dataset(found):  # type: ignore[no-untyped-def]
        return found


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, empty_home: Path) -> Callable[..., Any]:
    """Return the mended `MsDataset.load` of a module that is not upstream's."""
    classes = ModuleType("modelscope.msdatasets.dataset_cls")
    classes.ExternalDataset = lambda splits, _: splits  # type: ignore[attr-defined]
    for name in ("modelscope", "modelscope.msdatasets"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, classes.__name__, classes)
    module = ModuleType("upstream")
    module.MsDataset = type("MsDataset", (Hub,), {})  # type: ignore[attr-defined]
    with layer._find_added_datasets(module):
        pass
    return module.MsDataset.load  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["clue", "/abs/x.csv", "./a.json", "a/b/c", "no folder", "a/none-here", ["a", "b"]])
def test_other_data_sets_are_loaded_as_ever(name: Any, load: Callable[..., Any]) -> None:
    assert load(name) == ("hub", name, "modelscope", None, "master", None, {})
    given = load(name, "me", "text", "v2", None, None, "test", use_streaming=True)
    assert given == ("hub", name, "me", "text", "v2", "test", {"use_streaming": True})
    assert load(dataset_name=name, namespace=None)[2] is None


def test_an_added_data_set_is_found_however_it_is_named(tmp_path: Path, load: Callable[..., Any]) -> None:
    data = data_folder(tmp_path / "set", count=1)
    assert load(str(data)) == load(str(data), "me") == {"train": str(data)}
    added = add("dataset", data, "ms:me/faces").path
    for given in (load("me/faces"), load("faces", "me"), load("faces", namespace="me")):
        assert given == {"train": str(added)}
    assert load("faces", "me", None, "master", None, None, "test") == {"test": str(added)}


@pytest.fixture
def snapshot(empty_home: Path) -> Callable[..., Any]:
    """Return the mended `snapshot_download` of a module whose hub is closed."""

    def closed(model_id: str, revision: str | None = None) -> str:
        raise OSError(f"no way to {model_id}")

    module = ModuleType("upstream")
    module.snapshot_download = closed  # type: ignore[attr-defined]
    with layer._find_brought_styles(module, name="snapshot_download", parameter="model_id"):
        pass
    return module.snapshot_download  # type: ignore[no-any-return]


def test_a_brought_style_is_found_by_its_id_and_kept_from_harm(
    tmp_path: Path, snapshot: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = "iic/cv_unet_person-image-cartoon-sketch_compound-models"
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "cache"))
    brought = add("modelscope-style", model_folder(tmp_path / "model"), "modelscope-sketch").path
    found = Path(snapshot(model))
    assert found == Path(snapshot(model_id=model, revision="v1"))
    assert {file.name for file in found.iterdir()} == {file.name for file in brought.iterdir()}
    before = (brought / "cartoon_h.pb").read_bytes()
    (found / "cartoon_h.pb").write_bytes(b"the script's own")
    assert (brought / "cartoon_h.pb").read_bytes() == before
    assert (Path(snapshot(model)) / "cartoon_h.pb").read_bytes() == b"the script's own"


def test_a_style_in_modelscopes_own_cache_is_used_where_it_lies(
    tmp_path: Path, snapshot: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "cache"))
    model = "damo/cv_unet_person-image-cartoon_compound-models"
    folder = model_folder(tmp_path / "cache" / "hub" / model)
    assert snapshot(model) == str(folder)


@pytest.mark.parametrize("model", ["damo/nlp_something", "me/mine"])
def test_other_models_are_asked_of_the_hub_as_ever(model: str, snapshot: Callable[..., Any]) -> None:
    with pytest.raises(OSError, match=f"no way to {model}") as caught:
        snapshot(model)
    assert not getattr(caught.value, "__notes__", [])


def test_a_closed_hub_says_what_to_bring(
    tmp_path: Path, snapshot: Callable[..., Any], load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(OSError, match="no way") as caught:
        snapshot("damo/cv_unet_person-image-cartoon-3d_compound-models")
    assert "assets add modelscope-style FOLDER --name modelscope-3d" in caught.value.__notes__[0]
    with pytest.raises(OSError, match="no way") as caught_too:
        load("faces", "closed")
    assert "assets add dataset FOLDER --name ms:closed/faces" in caught_too.value.__notes__[0]


@pytest.mark.parametrize("visible", [None, "", "3"])
def test_no_device_is_hidden(visible: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible or "")
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with layer._keep_devices(ModuleType("facelib")):
        os.environ["CUDA_VISIBLE_DEVICES"] = "0"
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == visible


class Hostile:
    """What runs a command of whoever wrote a pickle."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch executed",)


@pytest.mark.modelscope
def test_a_weight_file_that_runs_commands_is_refused_before_upstream_reads_it(tmp_path: Path) -> None:
    layers = np.array({"conv1_1": [np.zeros((3, 3, 3, 64), np.float32), Hostile()]}, dtype=object)
    np.save(tmp_path / "vgg19.npy", layers, allow_pickle=True)
    text = """
        from modelscope.models.cv.cartoon.loss import Vgg19
        from stylekit.errors import AssetError
        try:
            Vgg19("vgg19.npy")
        except AssetError as error:
            print(error.message)
    """
    said = stylekit("modelscope", "run", write(tmp_path, text), cwd=tmp_path)
    assert "vgg19.npy is not a safe VGG weight file: it asks for posix.system." in said
    assert not (tmp_path / "executed").exists()


def test_a_weight_file_of_arrays_is_read_as_ever(tmp_path: Path) -> None:
    class Vgg19:
        def __init__(self, vgg19_npy_path: str | None = None) -> None:
            self.read = vgg19_npy_path

    losses = ModuleType("losses")
    losses.Vgg19 = Vgg19  # type: ignore[attr-defined]
    with layer._unpickle_only_arrays(losses):
        pass
    file = tmp_path / "vgg19.npy"
    np.save(file, np.array({"conv1_1": [np.zeros(3, np.float32)]}, dtype=object), allow_pickle=True)
    assert (Vgg19(str(file)).read, Vgg19().read) == (str(file), None)
    file.write_bytes(b"no weights")
    with pytest.raises(AssetError, match=r"vgg19\.npy is not a safe"):
        Vgg19(vgg19_npy_path=str(file))


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
