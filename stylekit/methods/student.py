"""A small network that learns to draw what a trained one, its teacher, draws (Hinton et al. 2015): no discriminator, no cartoons.

Its pictures are compared with the teacher's of the same photographs: their mean difference, and with the recipe's
`lambda_content` the distance of what the content network sees in them, which keeps outlines that a mean difference would blur.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from stylekit.assets import Resolved
from stylekit.config.schema import Recipe
from stylekit.data.sampler import generator_for
from stylekit.methods.base import Batch, StepContext, StepResult, build_generator
from stylekit.methods.dctnet import ADAM_BETAS, FEATURE_NETWORKS, Features, content_layers, load_frozen, looking, spread_out
from stylekit.nn import losses
from stylekit.nn.device import begin_step, compile_options, explained_compiling


class Student:
    """The method named `student`."""

    def build(self, recipe: Recipe, accelerator: Accelerator, assets: Mapping[str, Resolved] | None = None) -> None:
        """Make the generator and its optimizer; the content network, if the recipe gives it weight."""
        train = recipe.train
        self.train = train
        self.accelerator = accelerator
        self.assets: dict[str, Resolved] = {}
        self._compile = compile_options(train.compile, accelerator.device, low_vram=train.low_vram)
        self._look: Features | None = None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator_for(recipe.seed, "init", 0).initial_seed())
            generator = build_generator(recipe)
            if train.warm_start == "identity" and not train.init:
                generator.start_as_identity()
        if train.loss.lambda_content:
            self.assets["content"], content = load_frozen(
                FEATURE_NETWORKS, "content", train.content.network, assets or {}, accelerator
            )
            self._look = looking(content, accelerator, self._compile, low_vram=train.low_vram)
        if self._compile is not None:
            generator.compile(**self._compile)
        placed: nn.Module = generator.to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.generator: nn.Module = accelerator.prepare(placed)
        self._draw: Callable[[Tensor], Tensor] = spread_out(self.generator, accelerator, self._compile, low_vram=train.low_vram)
        self.networks = {"generator": self.generator}
        adam = torch.optim.Adam(self.generator.parameters(), lr=train.learning_rate, betas=ADAM_BETAS, fused=True)
        self.optimizers = {"generator": accelerator.prepare(adam)}

    def watch(self, teacher: nn.Module, known_as: Resolved) -> None:
        """Learn from a network from now on.

        Args:
            teacher: [N, 3, H, W] in [-1, 1] to the same.
            known_as: What the run's records say of it.
        """
        placed = teacher.to(self.accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._teacher: nn.Module = placed.eval().requires_grad_(False)
        self.assets["teacher"] = known_as

    @explained_compiling()
    def step(self, batch: Batch, context: StepContext) -> StepResult:
        """Go one step towards the teacher's pictures of the batch's photographs."""
        begin_step(self._compile, self.optimizers.values())
        with torch.no_grad(), self.accelerator.autocast():
            wanted = self._teacher(batch.photo).float().clamp(-1, 1)
        drawn = self._draw(batch.photo).float()
        found = {"difference": (drawn - wanted).abs().mean()}
        total = found["difference"]
        if self._look is not None:
            layers = content_layers(self.train.content)
            with torch.no_grad():
                of_wanted = self._look(wanted, layers)
            found["content"] = losses.feature_distance(of_wanted, self._look(drawn, layers))
            total = total + self.train.loss.lambda_content * found["content"]
        optimizer = self.optimizers["generator"]
        optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(total)
        if self.train.gradient_clip:
            self.accelerator.clip_grad_norm_(list(self.generator.parameters()), self.train.gradient_clip)
        optimizer.step()
        return StepResult({f"loss/{name}": value.detach() for name, value in found.items()})
