"""How much arithmetic a training step and a picture need, from the layer tables of the networks.

The tables are those of ModelScope's models/cv/cartoon/network.py and loss.py. Counted are convolutions, with an addition and a
multiplication as two operations, and nothing that stands between them: activations, guided filters, superpixels, Adam.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Convolution:
    """A convolution whose output is the picture's height and width divided by `shrink`."""

    kernel: int
    inputs: int
    outputs: int
    shrink: int = 1

    def operations(self, height: int, width: int) -> int:
        """Return the operations for one picture of that size; a gradient of its weights or of its input needs as many."""
        positions = (height // self.shrink) * (width // self.shrink)
        return 2 * positions * self.kernel**2 * self.inputs * self.outputs


def unet(width: int = 32, blocks: int = 4) -> list[Convolution]:
    """Return the U-Net's convolutions in order."""
    w = width
    return [
        Convolution(7, 3, w),
        Convolution(3, w, w, 2),
        Convolution(3, w, 2 * w, 2),
        Convolution(3, 2 * w, 2 * w, 4),
        Convolution(3, 2 * w, 4 * w, 4),
        *[Convolution(3, 4 * w, 4 * w, 4)] * (2 * blocks),
        Convolution(3, 4 * w, 2 * w, 4),
        Convolution(3, 2 * w, 2 * w, 2),
        Convolution(3, 2 * w, w, 2),
        Convolution(3, w, w),
        Convolution(7, w, 3),
    ]


def vgg19() -> list[Convolution]:
    """Return VGG-19's convolutions up to conv4_4, the last that the content loss needs."""
    groups = ((1, 3, 64, 2), (2, 64, 128, 2), (4, 128, 256, 4), (8, 256, 512, 4))
    return [
        Convolution(3, outputs if index else inputs, outputs, shrink)
        for shrink, inputs, outputs, count in groups
        for index in range(count)
    ]


def discriminator(inputs: int, width: int = 32) -> list[Convolution]:
    """Return the convolutions of one patch discriminator for pictures of that many channels."""
    layers, before = [], inputs
    for group, outputs in enumerate((width, 2 * width, 4 * width), start=1):
        layers += [Convolution(3, before, outputs, 2**group), Convolution(3, outputs, outputs, 2**group)]
        before = outputs
    return [*layers, Convolution(1, before, 1, 8)]


def operations(layers: Iterable[Convolution], height: int, width: int) -> int:
    """Return the operations of a forward pass for one picture."""
    return sum(layer.operations(height, width) for layer in layers)


def step_operations(
    batch: int, size: int, *, width: int = 32, blocks: int = 4, share_fake: bool = False, cache_photo_features: bool = False
) -> dict[str, int]:
    """Return the operations of one step of preset `upstream` by part: what must be computed, however it is done.

    The generator runs once for superpixels and its own update, and once more, updated, for the discriminators. VGG-19 sees photo,
    superpixels and result, and gives a gradient of the last alone. Each discriminator sees the result for the generator's
    update, then cartoon and result for its own.

    Args:
        batch: Pictures of a batch.
        size: Their side in pixels; a multiple of 8.
        width: Of generator and discriminators.
        blocks: Residual blocks of the generator.
        share_fake: The discriminators take the result that is there.
        cache_photo_features: VGG-19's features of the photographs are there.
    """

    def forward(layers: list[Convolution]) -> int:
        return batch * operations(layers, size, size)

    def first(layers: list[Convolution]) -> int:
        return batch * layers[0].operations(size, size)

    net, content = unet(width, blocks), vgg19()
    judges = [discriminator(1, width), discriminator(3, width)]
    return {
        "generator": forward(net) * (1 if share_fake else 2),
        "content": forward(content) * (2 if cache_photo_features else 3),
        "discriminators": sum(3 * forward(judge) for judge in judges),
        "backward": 2 * forward(net)
        - first(net)  # nobody asks for the photograph's gradient
        + forward(content)
        + sum(forward(judge) + 2 * (2 * forward(judge) - first(judge)) for judge in judges),
    }
