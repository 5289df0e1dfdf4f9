"""The DCT-Net translator: a small U-Net without normalisation, and the guided filter that ends it.

Layer table, padding and resize rules are those of ModelScope's `models/cv/cartoon/network.py`, so that its published
weights load one to one; names are ours.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylekit.errors import RecipeError
from stylekit.nn.box import box_mean
from stylekit.nn.winograd import FrozenWeights, conv3x3

LEAKY_SLOPE = 0.2


def upsample_legacy(x: Tensor) -> Tensor:
    """Double height and width as TensorFlow 1's bilinear resize does (no half-pixel centres, no aligned corners).

    Even outputs copy the input, odd ones are the mean of two neighbours, the last one repeats the edge:
    `[0, 1, 2, 3] -> [0, .5, 1, 1.5, 2, 2.5, 3, 3]`.

    Args:
        x: [N, C, H, W].

    Returns:
        [N, C, 2H, 2W].
    """
    return _one_operator(x) if torch.compiler.is_exporting() else _doubled(x)


def _doubled(x: Tensor) -> Tensor:
    # With aligned corners 2n + 1 points lie half a step apart over n + 1, of which the last repeats the edge.
    height, width = x.shape[-2:]
    size = (2 * height + 1, 2 * width + 1)
    wide = F.interpolate(F.pad(x, (0, 1, 0, 1), "replicate"), size, mode="bilinear", align_corners=True)
    return wide[..., :-1, :-1]


@torch.library.custom_op("stylekit::upsample_legacy", mutates_args=())
def _one_operator(x: Tensor) -> Tensor:
    return _doubled(x)


@_one_operator.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3]))


UPSAMPLE_LEGACY = torch.ops.stylekit.upsample_legacy.default
"""What stands for `upsample_legacy` in a graph that `torch.export` makes: one operator, which other formats have one for too."""


def same_padding_stride2(x: Tensor) -> Tensor:
    """Pad for a 3x3 convolution of stride 2 as TensorFlow's SAME does: right and bottom if the size is even, else all round."""
    height, width = x.shape[-2:]
    return F.pad(x, (width % 2, 1, height % 2, 1))


def convolve_to_few(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """Apply a convolution of stride 1 to so few channels that a CPU would mostly idle, as one of stride 2 to four times as many.

    A 2x2 block of the result is four channels of a convolution whose kernel is larger by one.

    Args:
        x: [N, C, H, W], H and W even.
        conv: With zero padding that keeps the size, and a bias.
    """
    assert conv.bias is not None
    if x.device.type != "cpu" or torch.compiler.is_exporting() or torch.is_autocast_enabled("cpu"):
        return conv(x)  # type: ignore[no-any-return]
    shifted = [F.pad(conv.weight, (right, 1 - right, down, 1 - down)) for down in (0, 1) for right in (0, 1)]
    weight = torch.stack(shifted, 1).flatten(0, 1).contiguous(memory_format=torch.channels_last)
    blocks = F.conv2d(x, weight, conv.bias.repeat_interleave(4), stride=2, padding=conv.weight.shape[-1] // 2)
    return F.pixel_shuffle(blocks, 2)


class _Convolution(nn.Conv2d):
    """3x3, stride 1, zero padding 1, then a leaky ReLU."""

    bias: nn.Parameter

    def __init__(self, inputs: int, outputs: int, slope: float = LEAKY_SLOPE) -> None:
        super().__init__(inputs, outputs, 3, padding=1)
        self._slope, self._frozen = slope, FrozenWeights()

    def forward(self, x: Tensor) -> Tensor:
        return conv3x3(x, self.weight, self.bias, self._slope, self._frozen.of(x, self.weight))


class _Residual(nn.Module):
    """Convolution, leaky ReLU, convolution, plus the input; nothing after the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = _Convolution(channels, channels)
        self.conv2 = _Convolution(channels, channels, slope=1.0)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.conv2(self.conv1(x))
        return x + made


class UNet(nn.Module):
    """The raw translator, [N, 3, H, W] in [-1, 1] to [N, 3, H, W], linear at the end.

    Skips are added, not concatenated. With width 32 and 4 blocks: 18 convolutions, 1,467,075 parameters.

    Args:
        width: Channels at full resolution; 2x and 4x that further down.
        blocks: Residual blocks at a quarter of the resolution.
    """

    def __init__(self, width: int = 32, blocks: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 7, padding=3)
        self.down1a = nn.Conv2d(width, width, 3, stride=2)
        self.down1b = _Convolution(width, 2 * width)
        self.down2a = nn.Conv2d(2 * width, 2 * width, 3, stride=2)
        self.down2b = _Convolution(2 * width, 4 * width)
        self.res = nn.ModuleList(_Residual(4 * width) for _ in range(blocks))
        self.mid = _Convolution(4 * width, 2 * width)
        self.up1a = _Convolution(2 * width, 2 * width)
        self.up1b = _Convolution(2 * width, width)
        self.up2 = _Convolution(width, width)
        self.head = nn.Conv2d(width, 3, 7, padding=3)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, photo: Tensor) -> Tensor:
        """Translate [N, 3, H, W]; H and W must be multiples of 4."""
        full = _activate(self.stem(photo))
        half = _activate(self.down1a(same_padding_stride2(full)))
        half = self.down1b(half)
        x = _activate(self.down2a(same_padding_stride2(half)))
        x = self.down2b(x)
        for block in self.res:
            x = block(x)
        x = upsample_legacy(self.mid(x))
        x = self.up1a(x + half)
        x = upsample_legacy(self.up1b(x))
        x = self.up2(x + full)
        return convolve_to_few(x, self.head)


def _activate(x: Tensor) -> Tensor:
    return F.leaky_relu(x, LEAKY_SLOPE, inplace=True)


def guided_filter(guide: Tensor, source: Tensor, radius: int, eps: float) -> Tensor:
    """Smooth `source` so that its edges follow `guide`, each channel by itself (He et al. 2010).

    Args:
        guide: [N, C, H, W].
        source: [N, C, H, W].
        radius: Window radius in pixels; 1 after the generator, 5 for the surface branch.
        eps: Regularisation of the variance; 1e-2 after the generator, 0.2 for the surface branch.
    """
    if guide is source:
        mean_x, mean_xx = box_mean(torch.cat((guide, guide * guide), 1), radius).chunk(2, 1)
        mean_y, mean_xy = mean_x, mean_xx
    else:
        stacked = torch.cat((guide, source, guide * source, guide * guide), 1)
        mean_x, mean_y, mean_xy, mean_xx = box_mean(stacked, radius).chunk(4, 1)
    slope = (mean_xy - mean_x * mean_y) / (mean_xx - mean_x * mean_x + eps)
    offset = mean_y - slope * mean_x
    slope, offset = box_mean(torch.cat((slope, offset), 1), radius).chunk(2, 1)
    return slope * guide + offset


class Generator(nn.Module):
    """Photograph to stylized picture: the U-Net, then the guided filter with the photograph as guide.

    Input and output are [N, 3, H, W] RGB in [-1, 1]; the output may leave that range a little and is clipped by whoever shows
    it. H and W must be multiples of 4.
    """

    def __init__(self, width: int = 32, blocks: int = 4) -> None:
        super().__init__()
        self.unet = UNet(width, blocks)

    def forward(self, photo: Tensor) -> Tensor:
        """Stylize [N, 3, H, W]; H and W must be multiples of 4."""
        raw = self.unet(photo).to(photo.dtype)  # autocast's 8 bits of mantissa are too few for the filter's variances
        return guided_filter(photo, raw, radius=1, eps=1e-2)

    @torch.no_grad()
    def start_as_identity(self) -> None:
        """Change the U-Net's weights so that it returns the photograph exactly, all other weights staying random.

        Six full-resolution channels carry plus and minus R, G, B through the outer skip: leaky(x) - leaky(-x) = (1 + slope) x.
        So training starts from the photograph instead of spending its first steps on learning to repeat it.

        Raises:
            RecipeError: If the network has fewer than six channels.
        """
        net, gain = self.unet, 1 / (1 + LEAKY_SLOPE)
        if net.stem.out_channels < 6:
            raise RecipeError(
                "train.warm_start identity needs a train.network.width of at least 6.",
                "Raise the width, or use --set train.warm_start=none.",
            )
        net.stem.weight[:6] = 0
        net.up2.weight[:6] = 0
        net.up1b.weight[:6] = 0
        net.head.weight.zero_()
        for c in range(3):
            net.stem.weight[c, c, 3, 3] = 1
            net.stem.weight[c + 3, c, 3, 3] = -1
            for sign, row in ((1, c), (-1, c + 3)):
                net.up2.weight[row, c, 1, 1] = sign * gain
                net.up2.weight[row, c + 3, 1, 1] = -sign * gain
            net.head.weight[c, c, 3, 3] = gain
            net.head.weight[c, c + 3, 3, 3] = -gain
