"""What a training method is: its networks, its losses and one step. The loop in `engine/` knows nothing else about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from stylekit.assets import Resolved
from stylekit.config.schema import Recipe
from stylekit.data.datasets import PictureSet
from stylekit.errors import RecipeError
from stylekit.nn.generators import AnyGenerator, make_generator


@dataclass(frozen=True)
class Drawn:
    """Which photographs a batch holds.

    Attributes:
        pictures: What they were drawn from; None if only this training's memory should know them.
        keys: Of each its index, and whether it is mirrored. It is not changed otherwise.
    """

    pictures: PictureSet | None
    keys: tuple[tuple[int, bool], ...]


@dataclass(frozen=True)
class Batch:
    """One step's pictures, RGB [N, 3, H, W] in [-1, 1], unpaired.

    Attributes:
        photo: Photographs.
        cartoon: Cartoons.
        superpixel: Superpixels of the photographs, in register with them, where the recipe asks for them.
        drawn: Which photographs they are, where the recipe asks for `cache_photo_features`.
    """

    photo: Tensor
    cartoon: Tensor
    superpixel: Tensor | None = None
    drawn: Drawn | None = None


@dataclass(frozen=True)
class StepContext:
    """What a step may use beside its batch.

    Attributes:
        step: Counted from 0.
        generator: Random numbers that depend on the seed and the step alone.
    """

    step: int
    generator: torch.Generator


@dataclass(frozen=True)
class StepResult:
    """Losses by name (`loss/content`), detached, still on the device."""

    losses: dict[str, Tensor] = field(default_factory=dict)


class Method(Protocol):
    """A way to train a photo-to-cartoon network.

    Attributes:
        generator: The network that is kept, exported and averaged: photo [N, 3, H, W] in [-1, 1] -> stylized.
        networks: Every network that is trained, by name, `generator` among them; these make the checkpoint.
        optimizers: Every optimizer, by name.
        assets: The frozen networks in use, by role.
    """

    generator: nn.Module
    networks: Mapping[str, nn.Module]
    optimizers: Mapping[str, torch.optim.Optimizer]
    assets: Mapping[str, Resolved]

    def build(self, recipe: Recipe, accelerator: Accelerator, assets: Mapping[str, Resolved] | None = None) -> None:
        """Make networks and optimizers on the accelerator's device.

        Args:
            recipe: What to make.
            accelerator: Where.
            assets: Frozen networks, by role, that take the place of the catalogue's.

        Raises:
            AssetError: If a frozen network is missing.
        """

    def step(self, batch: Batch, context: StepContext) -> StepResult:
        """Train on one batch: both backward passes, both updates."""


_METHODS = {
    "dctnet": "stylekit.methods.dctnet:DctNet",
    "student": "stylekit.methods.student:Student",
    "template": "stylekit.methods.template:Template",
}


def method_names() -> tuple[str, ...]:
    """Return the registered methods' names."""
    return tuple(_METHODS)


def create_method(name: str) -> Method:
    """Make an unbuilt method by its registered name.

    Raises:
        RecipeError: If there is none of that name.
    """
    if name not in _METHODS:
        raise RecipeError(f"There is no method {name!r}.", f"Methods: {', '.join(_METHODS)}.")
    module, _, attribute = _METHODS[name].partition(":")
    method: Method = getattr(import_module(module), attribute)()
    return method


def build_generator(recipe: Recipe) -> AnyGenerator:
    """Make the untrained generator a recipe describes, as checkpoints and bundles need it."""
    return make_generator(recipe.train.network)
