"""Discriminators on frozen features (Sauer et al., "Projected GANs Converge Faster", NeurIPS 2021).

Each chosen layer of the frozen network has its own small patch discriminator; a fixed random 1x1 mixing of channels before it
keeps the discriminator from leaning on a few features. Ours are also told where they look: faces are aligned, so an eye belongs
in one place, and a discriminator that cannot tell places apart is content with eyes all over a cheek.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from stylekit.nn.unet import LEAKY_SLOPE

# The layers' maps have a standard deviation of about 10, which would put every score far beyond the hinge's margin.
FEATURE_SCALE = 0.04
PLACE_SCALE = 3.0
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
                    spectral_norm(nn.Conv2d(inputs + 3, width, 3, padding=1)),
                    nn.LeakyReLU(LEAKY_SLOPE),
                    spectral_norm(nn.Conv2d(width, width, 3, padding=1)),
                    nn.LeakyReLU(LEAKY_SLOPE),
                    spectral_norm(nn.Conv2d(width, 1, 1)),
                )
            )

    def forward(self, features: dict[str, Tensor]) -> list[Tensor]:
        """Return one score map [N, 1, h, w] a layer, computed in the weights' own precision, autocast or not."""
        scores = []
        for index, (head, x) in enumerate(zip(self.heads, features.values(), strict=True)):
            with torch.autocast(x.device.type, enabled=False):  # torch's spectral norm takes no mixture of precisions
                mixed = F.conv2d(x * FEATURE_SCALE, self.get_buffer(f"mixing{index}"))
                scores.append(head(torch.cat((mixed, _places(x)), 1)))
        return scores


def _places(x: Tensor) -> Tensor:
    """Return x, y and the distance from the middle line of each position, [N, 3, h, w]."""
    down, right = (torch.linspace(-PLACE_SCALE, PLACE_SCALE, n, device=x.device, dtype=x.dtype) for n in x.shape[-2:])
    y, x_ = torch.meshgrid(down, right, indexing="ij")
    return torch.stack((x_, y, x_.abs())).expand(len(x), -1, -1, -1)
