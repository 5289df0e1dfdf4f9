"""Checkpoints: one folder each, written beside and renamed, so that a crash leaves the last good one.

    checkpoints/step-000200/weights.safetensors   every network, keys `<network>.<parameter>`, and `generator_ema.*`
                            state.pt              optimizers; read with weights_only=True
                            meta.json             step, images_seen, recipe, assets, data, sha256 of both files
    checkpoints/best/       the same files of the best step so far, where training measured one (`engine/selection.py`)

Random numbers and the samplers' positions are functions of the seed and the step (`data/sampler.py`), so they need no place here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from stylekit.config.schema import Recipe
from stylekit.errors import CheckpointError, RecipeError
from stylekit.methods.base import Method, build_generator
from stylekit.nn.ema import Ema
from stylekit.nn.generators import AnyGenerator
from stylekit.paths import Workspace, atomic_folder, atomic_write_text, remove_partials, sha256_file

WEIGHTS, STATE, META = "weights.safetensors", "state.pt", "meta.json"
AVERAGE = "generator_ema"
BEST = "best"


class AssetUse(BaseModel):
    """One frozen network a run used."""

    model_config = ConfigDict(frozen=True)

    name: str
    sha256: str
    source: str


class Meta(BaseModel):
    """What a checkpoint says of itself."""

    model_config = ConfigDict(frozen=True)

    step: int
    images_seen: int
    recipe: Recipe
    assets: dict[str, AssetUse]
    data: dict[str, str]
    train_s: float = 0.0
    sha256: dict[str, str] = {}


@dataclass(frozen=True)
class LoadedGenerator:
    """A trained generator with its averaged weights, in eval mode on the CPU.

    Attributes:
        module: photo [N, 3, H, W] RGB in [-1, 1], H and W multiples of 4 -> stylized, the same shape, not clipped.
        recipe: The resolved recipe it was trained by.
        step: Training steps done.
        sha256: Digest of the weights file.
        meta: Everything else the checkpoint says.
    """

    module: AnyGenerator
    recipe: Recipe
    step: int
    sha256: str
    meta: Meta


def checkpoint_folders(run: Path) -> list[Path]:
    """Return a run's checkpoints, oldest first by step."""
    folder = run / "checkpoints"
    found = [p for p in folder.glob("step-*") if re.fullmatch(r"step-\d+", p.name)] if folder.is_dir() else []
    return sorted(found, key=lambda p: int(p.name[5:]))


def newest_run(workspace: Workspace, style: str | None = None, method: str | None = None) -> Path | None:
    """Return the newest run, of `style` and its `method` if they are given, that has a checkpoint; None where there is none."""
    return next((run for run in reversed(workspace.run_folders(style, method)) if checkpoint_folders(run)), None)


def latest_checkpoint(run: Path) -> Path:
    """Return a run's newest checkpoint, or the folder itself if it is one.

    Raises:
        CheckpointError: If there is none.
    """
    if (run / META).is_file():
        return run
    found = checkpoint_folders(run)
    if not found:
        raise CheckpointError(f"{run} holds no checkpoint.", "Train first: stylekit train")
    return found[-1]


def step_folder(run: Path, step: int) -> Path:
    """Return where a run's checkpoint of a step lies, if it has one."""
    return run / "checkpoints" / f"step-{step:06d}"


def best_checkpoint(run: Path) -> Path | None:
    """Return the checkpoint of a run's best step; None where there is none."""
    best = run / "checkpoints" / BEST
    return best if (best / META).is_file() else None


def chosen_checkpoint(run: Path) -> Path:
    """Return the checkpoint that a run is judged, exported and shown by: its best, else its newest.

    A checkpoint folder is returned as it is. What training goes on from is `latest_checkpoint`.

    Raises:
        CheckpointError: If there is none.
    """
    return run if (run / META).is_file() else best_checkpoint(run) or latest_checkpoint(run)


def keep_as_best(run: Path, checkpoint: Path) -> Path:
    """Make a checkpoint of the run its `checkpoints/best` in one rename; the files are shared where the disk can do that.

    Raises:
        StylekitError: If it cannot be written; the best one before stays.
    """
    target = run / "checkpoints" / BEST
    with atomic_folder(target) as folder:
        for file in checkpoint.iterdir():
            try:
                os.link(file, folder / file.name)
            except OSError:
                shutil.copy2(file, folder / file.name)
    return target


def set_best_aside(run: Path) -> Path:
    """Move `checkpoints/best` out of the way, to `checkpoints/best-step-N`, and return where it lies now."""
    best = run / "checkpoints" / BEST
    aside = best.with_name(f"{BEST}-step-{describe_checkpoint(best).step:06d}")
    shutil.rmtree(aside, ignore_errors=True)
    return best.rename(aside)


def save_checkpoint(run: Path, method: Method, average: Ema, meta: Meta, keep: int) -> Path:
    """Write a method's checkpoint, as `write_checkpoint_folder` does."""
    weights = {f"{name}.{k}": v for name, net in method.networks.items() for k, v in unwrap(net).state_dict().items()}
    weights |= {f"{AVERAGE}.{k}": v for k, v in average.network.state_dict().items()}
    states = {name: optimizer.state_dict() for name, optimizer in method.optimizers.items()}
    return write_checkpoint_folder(run, weights, states, meta, keep)


def write_checkpoint_folder(run: Path, weights: Mapping[str, Tensor], states: Mapping[str, Any], meta: Meta, keep: int) -> Path:
    """Write one checkpoint and remove all but the newest `keep`.

    Args:
        run: The run folder.
        weights: Every network, keys `<network>.<parameter>`, and `generator_ema.*`.
        states: `state_dict` of every optimizer, by name.
        meta: What it says of itself; the digests are made here.
        keep: Checkpoints kept.

    Raises:
        StylekitError: If it cannot be written; older checkpoints stay as they are.
    """
    target = step_folder(run, meta.step)
    remove_partials(target.parent)
    with atomic_folder(target) as folder:
        header = {"format": "pt", "step": str(meta.step), "recipe": meta.recipe.model_dump_json()}
        try:
            save_file({k: v.detach().cpu().contiguous() for k, v in weights.items()}, folder / WEIGHTS, header)
            torch.save(dict(states), folder / STATE)
        except (SafetensorError, RuntimeError) as error:
            raise OSError(f"the checkpoint could not be written ({error})") from error
        digests = {name: sha256_file(folder / name) for name in (WEIGHTS, STATE)}
        atomic_write_text(folder / META, meta.model_copy(update={"sha256": digests}).model_dump_json(indent=1) + "\n")
    for old in checkpoint_folders(run)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def describe_checkpoint(checkpoint: Path) -> Meta:
    """Read a checkpoint's description alone.

    Raises:
        CheckpointError: If it is missing or damaged.
    """
    try:
        return Meta.model_validate(json.loads((checkpoint / META).read_text("utf-8")))
    except (OSError, ValueError, ValidationError, RecipeError) as error:
        raise CheckpointError(f"{checkpoint / META} cannot be read ({error}).", "Use an older checkpoint of the run.") from error


def read_meta(checkpoint: Path) -> Meta:
    """Read a checkpoint's description and check its files against their digests.

    Raises:
        CheckpointError: If anything is missing or damaged.
    """
    meta = describe_checkpoint(checkpoint)
    for name, digest in meta.sha256.items():
        if not (checkpoint / name).is_file() or sha256_file(checkpoint / name) != digest:
            raise CheckpointError(
                f"{checkpoint / name} is missing or damaged.", "Delete that checkpoint folder and resume from the one before."
            )
    return meta


def load_checkpoint(checkpoint: Path, method: Method, average: Ema) -> Meta:
    """Put a checkpoint's networks, average and optimizers into a built method.

    Raises:
        CheckpointError: If it is damaged or belongs to other networks.
    """
    meta = read_meta(checkpoint)
    weights = load_file(checkpoint / WEIGHTS)
    state: dict[str, Any] = torch.load(checkpoint / STATE, map_location="cpu", weights_only=True)
    try:
        for name, net in method.networks.items():
            unwrap(net).load_state_dict(part_of(weights, name))
        average.network.load_state_dict(part_of(weights, AVERAGE))
        for name, optimizer in method.optimizers.items():
            load_optimizer(optimizer, state[name])
    except (KeyError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{checkpoint} belongs to another network ({error}).", "Resume with the recipe it was trained by."
        ) from error
    return meta


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load an optimizer's `state_dict`, every moment laid out in memory as its parameter.

    A fused Adam walks through both side by side without looking at strides, so that moments of another layout would silently be
    those of other weights.

    Raises:
        ValueError: If it belongs to other parameters.
    """
    optimizer.load_state_dict(dict(state))
    for parameter, slots in optimizer.state.items():
        for name, value in slots.items():
            if value.shape == parameter.shape:
                slots[name] = torch.empty_like(parameter).copy_(value)


def load_generator(path: Path) -> LoadedGenerator:
    """Load the averaged generator of a run (as `chosen_checkpoint` says) or of one checkpoint folder.

    Raises:
        CheckpointError: If there is none or it is damaged.
    """
    checkpoint = chosen_checkpoint(path)
    meta = read_meta(checkpoint)
    module = build_generator(meta.recipe)
    try:
        module.load_state_dict(part_of(load_file(checkpoint / WEIGHTS), AVERAGE))
    except RuntimeError as error:
        raise CheckpointError(f"{checkpoint} does not fit its own recipe ({error}).") from error
    return LoadedGenerator(module.requires_grad_(False).eval(), meta.recipe, meta.step, meta.sha256[WEIGHTS], meta)


def part_of(weights: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return one network's tensors, by its own names."""
    return {k.removeprefix(f"{name}."): v for k, v in weights.items() if k.startswith(f"{name}.")}


def unwrap(net: nn.Module) -> nn.Module:
    """Return the network itself where it is wrapped for several processes."""
    module = getattr(net, "module", net)
    assert isinstance(module, nn.Module)
    return module
