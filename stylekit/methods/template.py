"""The smallest method that runs: copy this file to begin one of your own, and register it in `methods/base.py`.

It gives photographs the cartoons' mean colour: no discriminator, no frozen network, not a style worth keeping, but every part of
the contract.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import nn

from stylekit.assets import Resolved
from stylekit.config.schema import Recipe
from stylekit.data.sampler import generator_for
from stylekit.methods.base import Batch, StepContext, StepResult, build_generator


class Template:
    """The method named `template`."""

    def build(self, recipe: Recipe, accelerator: Accelerator, assets: Mapping[str, Resolved] | None = None) -> None:
        """Make the networks from seeded weights, hand them and their optimizers to the accelerator."""
        self.accelerator = accelerator
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator_for(recipe.seed, "init", 0).initial_seed())
            generator = build_generator(recipe)
        self.generator: nn.Module = accelerator.prepare(generator.to(accelerator.device))
        self.networks = {"generator": self.generator}
        adam = torch.optim.Adam(self.generator.parameters(), lr=recipe.train.learning_rate)
        self.optimizers = {"generator": accelerator.prepare(adam)}
        self.assets: dict[str, Resolved] = {}

    def step(self, batch: Batch, context: StepContext) -> StepResult:
        """One update: stay near the photograph, take the cartoons' mean colour."""
        stylized = self.generator(batch.photo)
        content = (stylized - batch.photo).abs().mean()
        colour = (stylized.mean((0, 2, 3)) - batch.cartoon.mean((0, 2, 3))).square().mean()
        self.optimizers["generator"].zero_grad(set_to_none=True)
        self.accelerator.backward(content + colour)
        self.optimizers["generator"].step()
        return StepResult({"loss/content": content.detach(), "loss/colour": colour.detach()})
