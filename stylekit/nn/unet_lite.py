"""A translator for phones and browsers: a ninth of the U-Net's arithmetic, half of its weights.

Chosen by the clock of a CPU runtime and not by its multiplications, of which depthwise convolutions have few but wait for
memory: nearly all work is done by dense 3x3 convolutions at an eighth of the resolution, none at the full one. What the network
draws is a gain and an offset for every pixel of the photograph, the two that a guided filter estimates (He et al. 2010), here
learned as Gharbi et al. (2017) and Wu et al. (2018) do, made at half the resolution and enlarged: so the photograph's own
outlines stay sharp.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Residual(nn.Module):
    """Convolution, ReLU, convolution, plus the input; ReLU after the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.conv2(F.relu(self.conv1(x)))
        return F.relu(x + change)


class LiteGenerator(nn.Module):
    """Photograph to stylized picture.

    Input and output are [N, 3, H, W] RGB in [-1, 1]; the output may leave that range a little and is clipped by whoever shows
    it. H and W must be multiples of 4. With width 32 and 4 blocks: 0.87 billion multiplications at 256x256, 722,806 parameters.

    Args:
        width: Channels at a quarter of the resolution; half of them above, three times as many below.
        blocks: Residual blocks at an eighth of the resolution.
    """

    def __init__(self, width: int = 32, blocks: int = 4) -> None:
        super().__init__()
        half, deep = width // 2, 3 * width
        self.stem = nn.Conv2d(3, half, 4, stride=2, padding=1)
        self.down1 = nn.Conv2d(half, width, 3, stride=2, padding=1)
        self.quarter = nn.Conv2d(width, width, 3, padding=1)
        self.down2 = nn.Conv2d(width, deep, 3, stride=2, padding=1)
        self.res = nn.ModuleList(_Residual(deep) for _ in range(blocks))
        self.up2 = nn.Conv2d(deep, width, 1)
        self.merge2 = nn.Conv2d(width, width, 3, padding=1)
        self.up1 = nn.Conv2d(width, half, 1)
        self.merge1 = nn.Conv2d(half, half, 3, padding=1)
        self.head = nn.Conv2d(half, 6, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, photo: Tensor) -> Tensor:
        """Stylize [N, 3, H, W]; H and W must be multiples of 4."""
        half = F.relu(self.stem(photo))
        quarter = F.relu(self.quarter(F.relu(self.down1(half))))
        x = F.relu(self.down2(quarter))
        for block in self.res:
            x = block(x)
        x = _double(self.up2(x))[..., : quarter.shape[-2], : quarter.shape[-1]]  # an odd side was rounded up on the way down
        x = F.relu(self.merge2(F.relu(x + quarter)))
        x = F.relu(self.merge1(F.relu(_double(self.up1(x)) + half)))
        gain, offset = F.interpolate(self.head(x), scale_factor=2.0, mode="bilinear", align_corners=False).chunk(2, 1)
        return gain * photo + offset

    @torch.no_grad()
    def start_as_identity(self) -> None:
        """Change the head's weights so that the photograph comes back as it is, all other weights staying random."""
        assert self.head.bias is not None
        self.head.weight.zero_()
        self.head.bias.copy_(torch.tensor([1.0, 1, 1, 0, 0, 0]))


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
