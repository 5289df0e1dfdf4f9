"""The compatibility layer: what ModelScope's DCT-Net classes, written for TensorFlow 1 and Python 3.7, lack on today's Python.

It is installed into a child process (`process.Child`, `stylekit modelscope run`) and never into the caller's own. Nothing is
changed on disk; each mend waits until the module that needs it is imported.
"""

from __future__ import annotations

import builtins
import importlib.machinery
import os
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial, wraps
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import Any

from stylekit.errors import StylekitError

_DIFFUSERS = "modelscope.pipelines.multi_modal.diffusers_wrapped.stable_diffusion"

TESTED = {"modelscope": "1.40", "tensorflow": "2.21"}
"""The versions that the mends were made for and are tested with."""

Mend = Callable[[ModuleType], AbstractContextManager[None]]


class _AroundImport(MetaPathFinder):
    """Lets each mend surround the import of its module."""

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
                spec.loader.exec_module = _within(mend, spec.loader.exec_module)  # type: ignore[method-assign, assignment]
                return spec
        return None


def _within(mend: Mend, load: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
    def load_mended(module: ModuleType) -> None:
        loaded = False
        try:
            with mend(module):
                load(module)
                loaded = True
        except AttributeError as error:  # what is to be mended is not there
            if not loaded:
                raise
            package = module.__name__.partition(".")[0]
            found, tested = getattr(sys.modules[package], "__version__", ""), TESTED.get(package, "")
            warnings.warn(
                f"{module.__name__} of {package} {found} is left unmended, which may not work; {tested} is tested: {error}.",
                RuntimeWarning,
                stacklevel=1,
            )

    return load_mended


def install() -> None:
    """Make this process able to import and run upstream's DCT-Net classes. To be called before they are imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.meta_path.insert(
        0,
        _AroundImport(
            {
                "tensorflow": _become_tensorflow_1,
                "modelscope.hub.check_model": _take_local_models_as_they_are,
                "modelscope.hub.snapshot_download": partial(_find_brought_styles, name="snapshot_download", parameter="model_id"),
                "modelscope.pipelines.builder": partial(_find_brought_styles, name="pipeline", parameter="model"),
                "modelscope.models.cv.cartoon.facelib.config": _keep_devices,
                "modelscope.models.cv.cartoon.loss": _mend_losses,
                "modelscope.trainers.cv.cartoon_translation_trainer": _honour_patch_size,
                "modelscope.exporters.cv.cartoon_translation_exporter": _export_without_trainer,
                "modelscope.msdatasets.ms_dataset": _find_added_datasets,
                "modelscope.utils.import_utils": _ask_for_no_torchvision,
                f"{_DIFFUSERS}.stable_diffusion_pipeline": _load_stable_diffusion_as_asked,
            }
        ),
    )


@contextmanager
def _become_tensorflow_1(tensorflow: ModuleType) -> Iterator[None]:
    """Let `import tensorflow` give TensorFlow 1's names and graphs, with `tensorflow.contrib.slim` beside them."""
    yield
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


@contextmanager
def _take_local_models_as_they_are(module: ModuleType) -> Iterator[None]:
    """Do not ask the hub whether it has a newer version of a local folder: upstream would only log it, and waits for the hub."""
    yield
    _ = module.check_local_model_is_latest
    module.check_local_model_is_latest = lambda *_, **__: None  # type: ignore[attr-defined]


@contextmanager
def _find_brought_styles(module: ModuleType, name: str, parameter: str) -> Iterator[None]:
    """Let the id of a published style mean the folder that stylekit or ModelScope's cache has, before the hub is asked."""
    yield
    ask_hub = getattr(module, name)
    parameters = signature(ask_hub)

    @wraps(ask_hub)
    def find(*args: Any, **options: Any) -> Any:
        given = parameters.bind(*args, **options)
        wanted = given.arguments.get(parameter)
        style = _published_style(wanted) if isinstance(wanted, str) and not Path(wanted).exists() else ""
        if style and (folder := _working_copy(style)):
            if name == "snapshot_download":
                return str(folder)
            given.arguments[parameter] = str(folder)
        try:
            return ask_hub(*given.args, **given.kwargs)
        except Exception as error:
            if style and not folder:
                error.add_note(
                    f"Without the hub, bring its folder once: stylekit assets add modelscope-style FOLDER --name {style}"
                )
            raise

    setattr(module, name, find)


def _published_style(model: str) -> str:
    """Return the asset that a model's id means, empty if it is none of the published styles."""
    from stylekit.assets import find_style, names_style

    try:
        return find_style(model).name if names_style(model) else ""
    except StylekitError:
        return ""


def _working_copy(style: str) -> Path | None:
    """Return a style's folder that a script may write into, as scripts do into ModelScope's own cache; None if it is not here."""
    from stylekit.assets import style_at_hand
    from stylekit.paths import atomic_folder, home

    folder = style_at_hand(style)
    if folder is None or not folder.is_relative_to(home()):
        return folder
    copy = home() / "modelscope" / f"{style}-{folder.stat().st_mtime_ns}"
    if not copy.is_dir():
        with atomic_folder(copy) as fresh:
            shutil.copytree(folder, fresh, dirs_exist_ok=True)
    return copy


@contextmanager
def _keep_devices(module: ModuleType) -> Iterator[None]:
    """Undo what importing facelib does: it makes every GPU but the first invisible."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    yield
    if visible is None:
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible


@contextmanager
def _mend_losses(module: ModuleType) -> Iterator[None]:
    with _start_a_process_per_core(module), _unpickle_only_arrays(module):
        yield


@contextmanager
def _unpickle_only_arrays(module: ModuleType) -> Iterator[None]:
    """Let `vgg19.npy` be seen to hold arrays and nothing else before upstream unpickles it, and with it whatever it asks for."""
    yield
    network: Any = module.Vgg19
    start = network.__init__

    @wraps(start)
    def start_checked(self: Any, vgg19_npy_path: Any = None) -> None:
        from stylekit.nn.vgg import read_array_dict

        if vgg19_npy_path is not None:
            read_array_dict(Path(vgg19_npy_path))
        start(self, vgg19_npy_path)

    network.__init__ = start_checked


@contextmanager
def _start_a_process_per_core(module: ModuleType) -> Iterator[None]:
    """Let superpixels be made by as many processes as there are cores; upstream starts one for every picture of the batch."""
    yield
    parallel, cores = module.Parallel, import_module("joblib").cpu_count()
    module.Parallel = lambda n_jobs: parallel(n_jobs=min(n_jobs, cores))  # type: ignore[attr-defined]


@contextmanager
def _honour_patch_size(module: ModuleType) -> Iterator[None]:
    """Let the trainer load pictures of its `patch_size`; its loader has 256 px built in, whatever the configuration says."""
    yield
    trainer: Any = module.CartoonTranslationTrainer
    train = trainer.train

    @wraps(train)
    def train_at_patch_size(self: Any, *args: Any, **options: Any) -> Any:
        loader: Any = import_module("modelscope.models.cv.cartoon.utils")
        loader.read_image.__defaults__ = (self.params["patch_size"],)
        return train(self, *args, **options)

    trainer.train = train_at_patch_size


@contextmanager
def _export_without_trainer(module: ModuleType) -> Iterator[None]:
    """Let the exporter work without a trainer's graph, whose variables it takes as given: it gets a graph that has them."""
    yield
    exporter: Any = module.CartoonTranslationExporter
    export = exporter.export_frozen_graph_def

    @wraps(export)
    def export_from_own_graph(self: Any, *args: Any, **options: Any) -> Any:
        tf: Any = import_module("tensorflow")
        with tf.Graph().as_default():
            module.CartoonModel("")(tf.placeholder(tf.float32, (None, None, None, 3)))
            return export(self, *args, **options)

    exporter.export_frozen_graph_def = export_from_own_graph


@contextmanager
def _ask_for_no_torchvision(module: ModuleType) -> Iterator[None]:
    """Let upstream not refuse a module that names torchvision among its imports; what really needs it fails by itself."""
    yield
    module.REQUIREMENTS_MAAPING["torchvision"] = (lambda: True, "")


@contextmanager
def _load_stable_diffusion_as_asked(module: ModuleType) -> Iterator[None]:
    """Let Stable Diffusion be loaded without torchvision, in the given precision, from whichever weight files there are.

    Its module imports torchvision and never uses it. It asks for `torch_type` where published scripts say `torch_dtype`; a CPU,
    which is far slower in float16, stays with float32. It insists on `.bin` files, which transformers no longer writes.
    """
    stand_ins = {}
    if find_spec("torchvision") is None:
        _ = import_module("diffusers").DiffusionPipeline  # before the stand-in is there, which it would take for torchvision
        stand_ins = {name: ModuleType(name) for name in ("torchvision", "torchvision.transforms")}
    sys.modules |= stand_ins
    try:
        yield
    finally:
        for name in stand_ins:
            del sys.modules[name]
    pipeline: Any = module.StableDiffusionPipeline
    start = pipeline.__init__

    @wraps(start)
    def start_as_asked(self: Any, *args: Any, **options: Any) -> None:
        torch: Any = import_module("torch")
        asked = options.pop("torch_dtype", None)
        if asked is not None and (asked != torch.float16 or torch.cuda.is_available()):
            options["torch_type"] = asked
        start(self, *args, **{"use_safetensors": None, **options})

    pipeline.__init__ = start_as_asked


@contextmanager
def _find_added_datasets(module: ModuleType) -> Iterator[None]:
    """Let `MsDataset.load` find local folders, and data sets that `stylekit data add` brought, as it finds the hub's own.

    Whoever loads such a data set reads `config_kwargs["split_config"][split]`, which is the folder.
    """
    yield
    dataset: Any = module.MsDataset
    load_from_hub = dataset.load
    parameters = signature(load_from_hub)

    @wraps(load_from_hub)
    def load(*args: Any, **options: Any) -> Any:
        given = parameters.bind(*args, **options)
        given.apply_defaults()
        folder = _added_dataset(given.arguments["dataset_name"], given.arguments["namespace"])
        if folder is None:
            try:
                return load_from_hub(*args, **options)
            except Exception as error:
                name = given.arguments["dataset_name"]
                name = name if "/" in str(name) else f"{given.arguments['namespace']}/{name}"
                error.add_note(f"Without the hub, bring it once: stylekit assets add dataset FOLDER --name ms:{name}")
                raise
        from modelscope.msdatasets.dataset_cls import ExternalDataset

        return dataset.to_ms_dataset(ExternalDataset({given.arguments["split"] or "train": str(folder)}, {}))

    dataset.load = staticmethod(load)


def _added_dataset(name: Any, namespace: str | None) -> Path | None:
    """Return the folder of face pictures that a data set's name, or the path of a local one, means; None if there is none."""
    from stylekit.assets import dataset_folder

    if not isinstance(name, str):
        return None
    local = Path(name).expanduser()
    if local.exists():
        return local if (local / "face_photo").is_dir() else None
    name = name if "/" in name or not namespace else f"{namespace}/{name}"
    return dataset_folder(name) if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) else None
