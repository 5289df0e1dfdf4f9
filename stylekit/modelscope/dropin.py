"""ModelScope's `CartoonTranslationTrainer` and `CartoonTranslationExporter` on our own engine, for scripts that name them.

    from stylekit.modelscope import CartoonTranslationExporter, CartoonTranslationTrainer

    CartoonTranslationTrainer(model=folder, work_dir="out", photo="face_photo", cartoon="face_cartoon", max_steps=1000).train()
    CartoonTranslationExporter().export_frozen_graph_def("out/saved_models/model-0", "out/cartoon_h.pb")

Arguments, configuration and what outranks what are upstream's; the training is `--preset upstream` of `stylekit train`, without
TensorFlow. Every `model-N` that upstream would save is a frozen graph `saved_models/model-N.pb`, which upstream's pipeline takes;
whole checkpoints lie in the run below `work_dirs/` of the working folder. After a `resume_epoch` the numbers go on from it, where
upstream begins at 0 again; `max_steps` are further steps, as they are there.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from stylekit.assets import Resolved, modelscope_style
from stylekit.config.explain import explain
from stylekit.config.schema import Recipe
from stylekit.data.datasets import PictureFile
from stylekit.engine.checkpoint import load_generator
from stylekit.engine.start import CHECKPOINTS, find_start
from stylekit.engine.train import TrainingPictures, TrainReport, train
from stylekit.errors import DataError, Interrupted, UsageError
from stylekit.modelscope.graph.frozen import frozen_graph, require_graphs
from stylekit.modelscope.runtime.checkpoints import checkpoint_prefix
from stylekit.paths import Workspace, atomic_write_bytes, sha256_file
from stylekit.progress import Bar, Progress

STYLE = "cartoon-translation"
_CONFIGURATION, _CONTENT, _SAVED = "configuration.json", "vgg19.npy", "saved_models"
_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".JPG"})  # those of upstream's all_file
_PLACES = ("photo", "cartoon", "work_dir")
# Upstream's keys of the section `train`, and ours.
_KEYS = {
    "patch_size": "size",
    "batch_size": "batch_size",
    "adv_train_lr": "learning_rate",
    "max_steps": "max_steps",
    "logging_interval": "log_every",
    "ckpt_period_interval": "save_every",
}

_LOG = logging.getLogger(__name__)


class CartoonTranslationTrainer:
    """Trains as upstream's class of this name does, from the same arguments.

    Args:
        model: A model folder of ModelScope with `configuration.json`, or the id of one of the published styles.
        cfg_file: Another configuration file.
        work_dir: Where to write; outranks the configuration, as the next three do.
        photo: Folder of photographs, taken as they are, at any depth.
        cartoon: Folder of cartoons, likewise.
        max_steps: Training steps.
        *args: Passed over, as upstream does.
        **kwargs: Passed over, as upstream does.

    Attributes:
        params: The section `train` of the configuration, with what outranks it.
        recipe: The same as a recipe; its `max_steps` count those before `resume_epoch` too.

    Raises:
        MissingPartError: If the package that describes frozen graphs is not installed.
        UsageError: If there is no such model or configuration, or it lacks a key.
        RecipeError: If a value is outside its range.
        DataError: If a folder has no pictures, or fewer than a batch.
        AssetError: If a published style cannot be had.
    """

    def __init__(  # noqa: PLR0917 - upstream's own arguments
        self,
        model: str,
        cfg_file: str | None = None,
        work_dir: str | None = None,
        photo: str | None = None,
        cartoon: str | None = None,
        max_steps: int | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        require_graphs()
        folder = Path(model).expanduser()
        self.model_dir = folder if folder.exists() else modelscope_style(model).path
        file = Path(cfg_file).expanduser() if cfg_file else self.model_dir / _CONFIGURATION
        given = {"work_dir": work_dir, "photo": photo, "cartoon": cartoon, "max_steps": max_steps}
        self.params = _read_settings(file) | {key: value for key, value in given.items() if value is not None}
        if missing := [key for key in (*_PLACES, *_KEYS, "resume_epoch") if key not in self.params]:
            mend = f"Pass {missing[0]}=..., or add it to the file." if missing[0] in given else "Add it to the file."
            raise UsageError(f"{file} has no train.{missing[0]}.", mend)
        _check_types(self.params, file)
        self.recipe = _recipe(self.params, self.model_dir, file)
        self.pictures = _list_pictures(self.params)
        self.pictures.check(self.recipe.train.batch_size)
        self._assets = _content_network(self.model_dir)
        self._saved = Path(self.params["work_dir"]).expanduser() / _SAVED

    def train(self, *args: Any, resume: bool = False, progress: Progress | None = None, **kwargs: Any) -> TrainReport:
        """Train into `work_dir`: `saved_models/model-N.pb` at upstream's steps and at the last one, the run below `work_dirs/`.

        Args:
            *args: Passed over, as upstream does.
            resume: Go on with the newest run in `work_dir` as if it had not stopped.
            progress: Shows rate and time left; by default the log has a line every `logging_interval`, and is shown on stderr
                if the script does nothing else with it.
            **kwargs: Passed over, as upstream does.

        Raises:
            StylekitError: As `stylekit.engine.train.train` does.
        """
        _show_log()
        try:
            return train(
                self.recipe,
                workspace=Workspace(self._saved.parent),
                resume=resume,
                progress=progress or self._logged,
                pictures=self.pictures,
                assets=self._assets,
                saved=self._keep,
                counted=_steps_before(self.params),
            )
        except Interrupted as stopped:
            raise Interrupted(stopped.message, "Go on with: trainer.train(resume=True)") from None

    def evaluate(self, checkpoint_path: str | None = None, *args: Any, **kwargs: Any) -> NoReturn:
        """Not supported, as in upstream's class; `stylekit eval` measures."""
        raise NotImplementedError("evaluate is not supported by CartoonTranslationTrainer; measure with: stylekit eval")

    @contextmanager
    def _logged(self, description: str, total: int | None = None) -> Iterator[Bar]:
        yield _Lines(description, total, self.recipe.train.log_every)

    def _keep(self, checkpoint: Path) -> None:
        loaded = load_generator(checkpoint)
        atomic_write_bytes(self._saved / f"model-{loaded.step - 1}.pb", frozen_graph(loaded.module))


class _Lines:
    """A line of the log every so many steps."""

    def __init__(self, description: str, total: int | None, every: int) -> None:
        self._description, self._total, self._every, self._done = description, total, every, 0

    def advance(self, n: int = 1, **fields: str | float) -> None:
        self._done += n
        if n == 1 and self._done % self._every == 0:
            _LOG.info("%s: step %d of %s", self._description, self._done, self._total)


def _show_log() -> None:
    """Show the log on stderr where nobody listens to it, as upstream's own logger does."""
    log = logging.getLogger("stylekit")
    if not log.hasHandlers():
        log.addHandler(logging.StreamHandler())
        log.setLevel(logging.INFO)


class CartoonTranslationExporter:
    """Writes frozen graphs as upstream's class of this name does.

    Args:
        model: Passed over, as upstream does.
    """

    def __init__(self, model: object = None) -> None:
        self.model = model

    def export_frozen_graph_def(self, ckpt_path: str, frozen_graph_path: str, **kwargs: Any) -> dict[str, str]:
        """Write a frozen graph, picture [H, W, 3] B, G, R in 0..255 -> the same, stylized.

        Args:
            ckpt_path: `work_dir/saved_models/model-N` of the trainer, a TensorFlow checkpoint, or whatever `--init` takes.
            frozen_graph_path: The `.pb` file to write.
            **kwargs: Passed over, as upstream does.

        Returns:
            `{"model": frozen_graph_path}`.

        Raises:
            CheckpointError: If there is no such checkpoint, or it is damaged.
            MissingPartError: If a package that reading or writing needs is not installed.
            StylekitError: If the file cannot be written.
        """
        start = find_start(str(_saved_weights(Path(ckpt_path))))
        atomic_write_bytes(Path(frozen_graph_path), frozen_graph(start.weights.generator))
        return {"model": frozen_graph_path}

    def export_saved_model(self, output_dir: str, **kwargs: Any) -> NoReturn:
        """Not supported, as in upstream's class."""
        raise NotImplementedError("Exporting saved model is not supported by CartoonTranslationExporter currently.")

    def export_onnx(self, output_dir: str, **kwargs: Any) -> NoReturn:
        """Not supported, as in upstream's class; `stylekit export` writes ONNX."""
        raise NotImplementedError("Exporting onnx model is not supported here; use: stylekit export --format onnx")


def _read_settings(file: Path) -> dict[str, Any]:
    """Return the section `train` of a configuration."""
    try:
        settings = json.loads(file.read_text("utf-8"))["train"]
        if not isinstance(settings, dict):
            raise TypeError("its train is no section")
    except FileNotFoundError as error:
        raise UsageError(f"There is no configuration {file}.", "Name a whole model folder of ModelScope.") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = "it has no section train" if isinstance(error, KeyError) else str(error)
        raise UsageError(f"{file} cannot be used: {reason}.", "It should be ModelScope's configuration.json.") from error
    return settings


def _check_types(params: Mapping[str, Any], file: Path) -> None:
    """Refuse what is no folder or no number of a checkpoint; the recipe checks the rest."""
    for key in _PLACES:
        if not isinstance(params[key], str | Path) or not str(params[key]):
            raise UsageError(
                f"{file}: train.{key} is {json.dumps(params[key], default=str)}, but must name a folder.", f"Pass {key}=..."
            )
    epoch = params["resume_epoch"]
    if not isinstance(epoch, int) or epoch < 0:
        raise UsageError(
            f"{file}: train.resume_epoch is {json.dumps(epoch, default=str)}, but must be the N of {CHECKPOINTS}/model-N, or 0.",
            "Correct the file.",
        )


def _steps_before(params: Mapping[str, Any]) -> int:
    """Return the steps done at `resume_epoch`, which counts from 0, 0 itself being a new training."""
    return int(params["resume_epoch"] + 1 if params["resume_epoch"] else 0)


def _recipe(params: Mapping[str, Any], model_dir: Path, file: Path) -> Recipe:
    """Return upstream's settings as a recipe; checkpoints are saved at steps that are logged too, as upstream does."""
    epoch = params["resume_epoch"]
    init = str(_saved_weights(model_dir / CHECKPOINTS / f"model-{epoch}")) if epoch else None
    train = {ours: params[theirs] for theirs, ours in _KEYS.items()} | {"preset": "upstream", "init": init}
    try:
        recipe = Recipe.model_validate({"style": STYLE, "train": train})
    except ValidationError as error:
        raise explain(error, str(file), {f"train.{ours}": f"{file}, {theirs}" for theirs, ours in _KEYS.items()}) from error
    every = math.lcm(recipe.train.log_every, recipe.train.save_every)
    update = {"save_every": every, "sample_every": every, "max_steps": recipe.train.max_steps + _steps_before(params)}
    return recipe.model_copy(update={"train": recipe.train.model_copy(update=update)})


def _list_pictures(params: Mapping[str, Any]) -> TrainingPictures:
    found = {}
    for key in ("photo", "cartoon"):
        folder = Path(params[key]).expanduser()
        files = sorted(file for file in folder.rglob("*") if file.suffix in _SUFFIXES and file.is_file())
        if not files:
            raise DataError(f"There are no pictures in {folder}.", f"{key} names a folder of .jpg, .jpeg or .png files.")
        found[key] = [PictureFile(file) for file in files]
    return TrainingPictures(found["photo"], found["cartoon"], shown=found["photo"])


def _content_network(model_dir: Path) -> dict[str, Resolved]:
    """Return the model folder's own content network, where it has one."""
    file = model_dir / _CONTENT
    if not file.is_file():
        _LOG.warning("%s has no %s: the content loss uses another network than upstream's.", model_dir, _CONTENT)
        return {}
    network = Resolved(
        name="vgg19-caffe",
        role="content",
        path=file,
        source=f"user:{_CONTENT}",
        sha256=sha256_file(file),
        licence="unknown",
        attribution="the user's own file",
    )
    return {"content": network}


def _saved_weights(prefix: Path) -> Path:
    """Return the frozen graph that our trainer wrote where upstream would have written the checkpoint `prefix`, else `prefix`."""
    graph = prefix.with_name(f"{prefix.name}.pb")
    return graph if graph.is_file() and not checkpoint_prefix(prefix) else prefix
