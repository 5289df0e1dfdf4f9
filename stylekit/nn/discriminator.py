"""The two patch discriminators of DCT-Net's texture translator: seven spectral-normalised convolutions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylekit.nn.unet import LEAKY_SLOPE, same_padding_stride2
from stylekit.nn.winograd import conv3x3


class SpectralConv2d(nn.Module):
    """Convolution with its weight divided by an estimate of its largest singular value (Miyato et al. 2018).

    One power iteration at every forward, in training and out of it, as ModelScope's `conv_spectral_norm` does: the weight is
    read as (kernel height, kernel width, in, out) rows by out columns, so `u` is comparable with TensorFlow's. The gradient flows
    through the weight in the quotient and in sigma; u and v are constants.
    """

    u: Tensor

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.xavier_uniform_(self.weight)
        self.register_buffer("u", torch.randn(1, outputs))

    def forward(self, x: Tensor, slope: float = 1.0) -> Tensor:
        """Convolve with the normalised weight, take one power iteration, then a leaky ReLU of that slope; 1 is none."""
        matrix = self.weight.permute(2, 3, 1, 0).reshape(-1, self.weight.shape[0])
        with torch.autocast(x.device.type, enabled=False):  # whose 8 bits of mantissa would be those of sigma
            with torch.no_grad():
                v = _normalise(self.u @ matrix.t())
                u = _normalise(v @ matrix)
                self.u.copy_(u)
            sigma = v @ matrix @ u.t()
        weight = self.weight / sigma.reshape(1, 1, 1, 1)
        if self.stride == 1 and weight.shape[-1] == 3:
            return conv3x3(x, weight, self.bias, slope)
        padded = same_padding_stride2(x) if self.stride == 2 else x
        made = F.conv2d(padded, weight, self.bias, stride=self.stride)
        return made if slope == 1 else F.leaky_relu(made, slope, inplace=True)


def _normalise(x: Tensor) -> Tensor:
    """X / sqrt(max(sum x^2, 1e-12)), TensorFlow's l2_normalize."""
    return x * x.square().sum().clamp_min(1e-12).rsqrt()


class PatchDiscriminator(nn.Module):
    """[N, C, H, W] to patch scores [N, 1, H/8, W/8]; channels 32, 32, 64, 64, 128, 128, 1 at width 32.

    Args:
        inputs: Channels of the picture: 1 for the gray branch, 3 for the smoothed one.
        width: Channels of the first layers.
    """

    def __init__(self, inputs: int, width: int = 32) -> None:
        super().__init__()
        layers: list[SpectralConv2d] = []
        channels = inputs
        for outputs in (width, 2 * width, 4 * width):
            layers += [SpectralConv2d(channels, outputs, 3, stride=2), SpectralConv2d(outputs, outputs, 3)]
            channels = outputs
        self.convs = nn.ModuleList(layers)
        self.out = SpectralConv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Score the patches of a picture."""
        for conv in self.convs:
            x = conv(x, LEAKY_SLOPE)
        return self.out(x)  # type: ignore[no-any-return]
