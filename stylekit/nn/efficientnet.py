"""EfficientNet-lite0, frozen: features for the content loss, the projected discriminators, and KID and FID.

Restated from Liu et al., "Higher accuracy on vision models with EfficientNet-Lite" (2020): depthwise-separable inverted
residuals with ReLU6, no squeeze-and-excitation. Batch normalisation is folded into the convolutions when the weights are read.
"""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylekit.errors import AssetError

# Kernel, stride, expansion, output channels and repeats of each stage.
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
_BATCH_NORM_EPS = 1e-3
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
INPUT_SIZE = 224
FEATURES = 1280


class _SameConv2d(nn.Conv2d):
    """Convolution padded as TensorFlow's SAME does; the padding follows the input's size."""

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        pads = [max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in (x.shape[-1], x.shape[-2])]
        x = F.pad(x, (pads[0] // 2, pads[0] - pads[0] // 2, pads[1] // 2, pads[1] - pads[1] // 2))
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, 1, self.groups)


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = nn.Conv2d(inputs, hidden, 1) if expansion > 1 else None
        self.depthwise = _SameConv2d(hidden, hidden, kernel, stride, groups=hidden)
        self.project = nn.Conv2d(hidden, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu6(self.expand(x)) if self.expand is not None else x
        y: Tensor = self.project(F.relu6(self.depthwise(hidden)))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """The frozen network. Layers are named `block0` .. `block15`: the output of each inverted residual block."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem = _SameConv2d(3, 32, 3, 2)
        blocks: list[_Block] = []
        channels = 32
        for kernel, stride, expansion, outputs, repeats in _STAGES:
            for index in range(repeats):
                blocks.append(_Block(channels, outputs, kernel, stride if index == 0 else 1, expansion))
                channels = outputs
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Conv2d(channels, FEATURES, 1)
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1), persistent=False)

    def _stem(self, picture: Tensor) -> Tensor:
        return F.relu6(self.stem(((picture + 1) * 0.5 - self.mean) / self.std))

    def features(self, picture: Tensor, layers: tuple[str, ...]) -> dict[str, Tensor]:
        """Return the named layers' maps.

        Args:
            picture: [N, 3, H, W] RGB in [-1, 1], at its own size.
            layers: Names among `block0` .. `block15`.
        """
        wanted = {int(name.removeprefix("block")): name for name in layers}
        found: dict[str, Tensor] = {}
        x = self._stem(picture)
        for index in range(max(wanted) + 1):
            x = self.blocks[index](x)
            if index in wanted:
                found[wanted[index]] = x
        return found

    def pooled(self, picture: Tensor) -> Tensor:
        """Return [N, 1280] globally averaged features of pictures [N, 3, H, W] in [-1, 1].

        The picture is brought to 224 x 224 by antialiased bilinear resizing first, without rounding to 8 bits.
        """
        if picture.shape[-2:] != (INPUT_SIZE, INPUT_SIZE):
            picture = F.interpolate(picture, (INPUT_SIZE, INPUT_SIZE), mode="bilinear", antialias=True)
        x = self._stem(picture)
        for block in self.blocks:
            x = block(x)
        return F.relu6(self.head(x)).mean((2, 3))

    def channels(self, layer: str) -> int:
        """Return how many channels a layer has."""
        block = self.blocks[int(layer.removeprefix("block"))]
        assert isinstance(block, _Block)
        return block.project.out_channels


def _fold(conv: nn.Conv2d, weight: Tensor, norm: dict[str, Tensor]) -> None:
    scale = norm["weight"] / torch.sqrt(norm["running_var"] + _BATCH_NORM_EPS)
    assert conv.bias is not None
    conv.weight.data.copy_(weight * scale.view(-1, 1, 1, 1))
    conv.bias.data.copy_(norm["bias"] - norm["running_mean"] * scale)


def load_efficientnet_lite0(path: Path) -> EfficientNetLite0:
    """Read the published checkpoint (keys `_conv_stem`, `_blocks.N`, `_conv_head`) into a frozen network in eval mode.

    Raises:
        AssetError: If the file is not that checkpoint.
    """
    try:
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        network = EfficientNetLite0()

        def fold(conv: nn.Conv2d, name: str, norm: str) -> None:
            _fold(
                conv,
                state[f"{name}.weight"],
                {k: state[f"{norm}.{k}"] for k in ("weight", "bias", "running_mean", "running_var")},
            )

        fold(network.stem, "_conv_stem", "_bn0")
        for index, block in enumerate(network.blocks):
            assert isinstance(block, _Block)
            prefix = f"_blocks.{index}"
            if block.expand is not None:
                fold(block.expand, f"{prefix}._expand_conv", f"{prefix}._bn0")
            fold(block.depthwise, f"{prefix}._depthwise_conv", f"{prefix}._bn1")
            fold(block.project, f"{prefix}._project_conv", f"{prefix}._bn2")
        fold(network.head, "_conv_head", "_bn1")
    except (OSError, EOFError, LookupError, RuntimeError, ValueError, TypeError, AttributeError, UnpicklingError) as error:
        raise AssetError(
            f"{path} is not an EfficientNet-lite0 checkpoint ({error}).", "Run: stylekit assets fetch efficientnet-lite0"
        ) from error
    return network.requires_grad_(False).eval()
