"""Discriminators on frozen features (Sauer et al., "Projected GANs Converge Faster", NeurIPS 2021).

Each chosen layer of the frozen network has its own small patch discriminator; a fixed random 1x1 mixing of channels before it
keeps the discriminator from leaning on a few features.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from stylekit.nn.unet import LEAKY_SLOPE

LAYERS = ("block2", "block4", "block10", "block15")


class ProjectedDiscriminator(nn.Module):
    """Score maps from feature maps.

    Args:
        channels: Channels of each layer, in the order of the features given to `forward`.
        width: Channels inside each discriminator.
        generator: Source of the fixed mixing weights.
    """

    def __init__(self, channels: tuple[int, ...], width: int = 32, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.heads = nn.ModuleList()
        for index, inputs in enumerate(channels):
            mixing = torch.empty(inputs, inputs, 1, 1)
            mixing.normal_(0, inputs**-0.5, generator=generator)
            self.register_buffer(f"mixing{index}", mixing)
            self.heads.append(
                nn.Sequential(
                    spectral_norm(nn.Conv2d(inputs, width, 3, padding=1)),
                    nn.LeakyReLU(LEAKY_SLOPE),
                    spectral_norm(nn.Conv2d(width, width, 3, padding=1)),
                    nn.LeakyReLU(LEAKY_SLOPE),
                    spectral_norm(nn.Conv2d(width, 1, 1)),
                )
            )

    def forward(self, features: dict[str, Tensor]) -> list[Tensor]:
        """Return one score map [N, 1, h, w] a layer."""
        return [
            head(F.conv2d(x, self.get_buffer(f"mixing{i}")))
            for i, (head, x) in enumerate(zip(self.heads, features.values(), strict=True))
        ]
