"""The networks that draw, by the name and size that a recipe gives them."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from stylekit.config.schema import NetworkRecipe
from stylekit.nn.unet import Generator
from stylekit.nn.unet_lite import LiteGenerator

AnyGenerator = Generator | LiteGenerator
"""[N, 3, H, W] RGB in [-1, 1] to the same, H and W multiples of 4."""

_ARCHITECTURES: dict[str, type[Generator] | type[LiteGenerator]] = {"unet": Generator, "unet-lite": LiteGenerator}


def make_generator(network: NetworkRecipe) -> AnyGenerator:
    """Return a generator with untrained weights, drawn from torch's own random numbers."""
    return _ARCHITECTURES[network.arch](network.width, network.blocks)


def network_of(generator: AnyGenerator) -> NetworkRecipe:
    """Return what a generator is, as a recipe says it."""
    if isinstance(generator, LiteGenerator):
        return NetworkRecipe(arch="unet-lite", width=generator.down1.out_channels, blocks=len(generator.res))
    return NetworkRecipe(arch="unet", width=generator.unet.stem.out_channels, blocks=len(generator.unet.res))


def multiplications(network: NetworkRecipe, height: int = 256, width: int = 256) -> int:
    """Return how often the convolutions of a network multiply for one picture; nothing is computed."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        make_generator(network)(torch.empty(1, 3, height, width))
    return int(counter.get_total_flops()) // 2


def parameters(network: NetworkRecipe) -> int:
    """Return how many weights a network has."""
    with torch.device("meta"):
        return sum(weight.numel() for weight in make_generator(network).parameters())
