"""The generator's exponential moving average, with its half-life in pictures so that the batch size does not change it."""

from __future__ import annotations

import copy

import torch
from torch import nn

# The average forgets faster while young: half-life at most this share of the pictures seen (StyleGAN2's EMA ramp-up).
RAMP_UP = 0.05


class Ema:
    """A running mean of a network's parameters; buffers are copied.

    Args:
        network: The network in training.
        half_life_images: Half-life, in pictures; 0 makes the average the network itself.
    """

    def __init__(self, network: nn.Module, half_life_images: float) -> None:
        self.half_life_images = half_life_images
        self.network = copy.deepcopy(network).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, network: nn.Module, batch: int, images_seen: int) -> None:
        """Take one step of the mean after `batch` more pictures, `images_seen` in all."""
        half_life = min(self.half_life_images, images_seen * RAMP_UP)
        decay = 0.5 ** (batch / half_life) if half_life > 0 else 0.0
        torch._foreach_lerp_(list(self.network.parameters()), list(network.parameters()), 1.0 - decay)
        if kept := list(self.network.buffers()):
            torch._foreach_copy_(kept, list(network.buffers()))
