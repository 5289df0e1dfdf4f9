"""What training starts from (`train.init`): our own runs and bundles, ModelScope's graphs, folders, checkpoints and styles."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from stylekit.assets import find_style, modelscope_style, names_style
from stylekit.bundle.style import STYLE_FILE, read_bundle
from stylekit.bundle.weights import unpack_generator
from stylekit.config.schema import Recipe
from stylekit.engine.checkpoint import META, latest_checkpoint, load_generator, load_optimizer, unwrap
from stylekit.errors import CheckpointError, MissingPartError, TrainingError, UsageError
from stylekit.methods.base import Method
from stylekit.modelscope.graph.frozen import read_frozen
from stylekit.modelscope.graph.weights import TrainingWeights, generator_from, training_weights_from
from stylekit.modelscope.runtime.checkpoints import checkpoint_prefix, read_checkpoint
from stylekit.nn.generators import network_of

HEAD_GRAPH, CHECKPOINTS, CONFIGURATION = "cartoon_h.pb", "tf_ckpts", "configuration.json"

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """Weights to start from.

    Attributes:
        source: Where they were found, for the log.
        weights: The generator, and what else is there beside it.
        step: Steps that the run counts as done: those of a checkpoint whose training goes on, 0 for a new style.
        notes: What else the log should say.
    """

    source: str
    weights: TrainingWeights
    step: int = 0
    notes: tuple[str, ...] = ()

    def log(self, taken: Sequence[str], left: Sequence[str] = ()) -> None:
        """Say what was taken, and what was left out."""
        for note in self.notes:
            _LOG.warning("%s", note)
        age = "" if self.weights.step is None else f", {self.weights.step} steps old"
        without = f"; left out: {', '.join(left)}" if left else ""
        _LOG.info("Starting from %s%s: %s%s.", self.source, age, ", ".join(taken), without)


def read_start(recipe: Recipe, counted: int | None = None) -> Start | None:
    """Read what the recipe's `train.init` names, as `find_start` does; None if it names nothing.

    Args:
        recipe: A recipe.
        counted: Steps to count as done, whatever the weights say.

    Raises:
        TrainingError: If its network has another size than the recipe's, or the recipe's last step is not after its own.
    """
    if not recipe.train.init:
        return None
    start = find_start(recipe.train.init)
    if counted is not None:
        start = replace(start, step=counted)
    found, wanted = network_of(start.weights.generator), recipe.train.network
    if found != wanted:
        arch = "" if found.arch == wanted.arch else f"--set train.network.arch={found.arch} "
        fit = f"{arch}--set train.network.width={found.width} --set train.network.blocks={found.blocks}"
        raise TrainingError(
            f"{start.source} holds a {found.arch} of width {found.width} with {found.blocks} residual blocks, the recipe a "
            f"{wanted.arch} of width {wanted.width} with {wanted.blocks}.",
            f"Use {fit}{' --preset default' if recipe.train.preset == 'upstream' else ''}",
        )
    if start.step >= recipe.train.max_steps:
        raise TrainingError(
            f"{start.source} has {start.step} steps behind it, and train.max_steps, which counts them too, is "
            f"{recipe.train.max_steps}.",
            f"Use --max-steps {start.step + 1000} for 1000 more, or start a new style from its model folder or .pb file.",
        )
    return start


def find_start(source: str) -> Start:
    """Read weights.

    Args:
        source: A run (its newest checkpoint's averaged generator) or one of its checkpoints; a style bundle, folder or zip; a
            frozen graph `.pb`; a model folder of ModelScope (the `tf_ckpts/model-N` that its configuration resumes, else the
            newest, else `cartoon_h.pb`); one of the published styles, by `modelscope:NAME` or its id; or a TensorFlow
            checkpoint, by its prefix or one of its files. The last continues that training, with Adam's moments and its count
            of steps; all others start a new one.

    Raises:
        CheckpointError: If there is nothing of the kind, or it is damaged.
        ExportError: If a style bundle is damaged.
        UsageError: If there is no published style of that name.
        AssetError: If it cannot be had.
        MissingPartError: If reading it needs a package that is not installed.
    """
    path = Path(source).expanduser()
    if names_style(source) and not path.exists():
        start = _read_folder(modelscope_style(source).path)
        return replace(start, source=f"{source} ({start.source})")
    return _read(path)


def begin(method: Method, start: Start) -> None:
    """Put weights into a built method: all that is there and fits its networks. One line of the log says what was taken.

    Adam's moments of the discriminators count only where both discriminators, and no others, are trained.
    """
    weights = start.weights
    unwrap(method.generator).load_state_dict(weights.generator.state_dict())
    taken, left = ["the generator"], list[str]()
    discriminators = weights.discriminators or {}
    for name, network in discriminators.items():
        fits = name in method.networks and _shapes(method.networks[name]) == _shapes(network)
        (taken if fits else left).append(name)
        if fits:
            unwrap(method.networks[name]).load_state_dict(network.state_dict())
    trained = {name for name in method.networks if name.startswith("disc_")}
    for name, state in (weights.optimizers or {}).items():
        fits = name in method.optimizers and (name == "generator" or trained == set(discriminators) <= set(taken))
        (taken if fits else left).append(f"Adam's moments of the {name}")
        if fits:
            own = method.optimizers[name]
            load_optimizer(own, {**own.state_dict(), "state": state["state"]})
    start.log(taken, left)


def _read(path: Path) -> Start:
    if path.suffix == ".zip" or (path / STYLE_FILE).is_file():
        bundle = read_bundle(path)
        return Start(str(path), TrainingWeights(unpack_generator(bundle, bundle.style.networks.face)))
    if (path / META).is_file() or (path / "checkpoints").is_dir():
        loaded = load_generator(latest_checkpoint(path))
        return Start(str(path), TrainingWeights(loaded.module, step=loaded.step))
    if prefix := checkpoint_prefix(path):
        return _read_tensorflow(prefix)
    if path.suffix == ".pb":
        return Start(str(path), TrainingWeights(generator_from(read_frozen(path), str(path))))
    if (path / HEAD_GRAPH).is_file() or (path / CHECKPOINTS).is_dir():
        return _read_folder(path)
    raise CheckpointError(f"There is nothing to start from at {path}.", _instead_of(path))


def _instead_of(path: Path) -> str:
    """Return what was probably meant by a path that holds nothing to start from."""
    for folder in (path, path / "saved_models"):
        if newest := _newest(folder):
            return f"Name one of its checkpoints, such as {newest}."
    with suppress(UsageError):
        return f"Did you mean modelscope:{find_style(str(path)).name.removeprefix('modelscope-')}?"
    return "Name a run, a checkpoint, a style bundle, a .pb file, a folder with cartoon_h.pb, or modelscope:NAME."


def _read_folder(folder: Path) -> Start:
    """Read a model folder of ModelScope for a new style: its checkpoint without Adam's moments, else the head's graph."""
    graph, chosen = folder / HEAD_GRAPH, _resumed(folder) or _newest(folder / CHECKPOINTS)
    if chosen is None:
        if not graph.is_file():
            raise CheckpointError(
                f"{folder} has neither {HEAD_GRAPH} nor {CHECKPOINTS}/model-N.index.", "Copy the whole model folder."
            )
        return _read(graph)
    try:
        start = _read_tensorflow(chosen)
    except MissingPartError as missing:
        if not graph.is_file():
            raise
        return replace(_read(graph), notes=(f"{missing.message} Until then {graph} alone is used. {missing.hint}",))
    return replace(start, step=0, weights=replace(start.weights, optimizers=None))


def _resumed(folder: Path) -> Path | None:
    """Return the checkpoint that a model folder's configuration says to resume, if it is there."""
    try:
        epoch = json.loads((folder / CONFIGURATION).read_text("utf-8"))["train"]["resume_epoch"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return checkpoint_prefix(folder / CHECKPOINTS / f"model-{epoch}") if epoch and isinstance(epoch, int) else None


def _newest(folder: Path) -> Path | None:
    prefixes = [file.with_suffix("") for file in folder.glob("model-*.index")]
    return max((p for p in prefixes if _number(p) is not None), key=lambda p: _number(p) or 0, default=None)


def _read_tensorflow(prefix: Path) -> Start:
    number = _number(prefix)  # counted from 0: what was saved after the first step is model-0
    step = None if number is None else number + 1
    weights = training_weights_from(read_checkpoint(prefix), step=step, source=str(prefix))
    return Start(str(prefix), weights, step=weights.step or 0 if weights.optimizers else 0)


def _number(prefix: Path) -> int | None:
    found = re.search(r"-(\d+)$", prefix.name)
    return int(found[1]) if found else None


def _shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in unwrap(network).state_dict().items()}
