"""The layer tables against the networks themselves, by torch's own count."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from stylekit.nn.discriminator import PatchDiscriminator
from stylekit.nn.unet import UNet
from stylekit.nn.vgg import VGG19_MEAN_BGR, Vgg
from stylekit.speed.arithmetic import Convolution, discriminator, operations, step_operations, unet, vgg19

SIZES = ((64, 64), (96, 32))


def counted(network: nn.Module, picture: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(picture)
    return sum(count for name, count in counter.get_flop_counts()["Global"].items() if "conv" in str(name))


class Content(nn.Module):
    """VGG-19 as the content loss calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.vgg = Vgg(19, VGG19_MEAN_BGR, "conv4_4")

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        return self.vgg.features(picture, ("conv4_4",))["conv4_4"]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("table", "make", "channels"),
    [
        (unet(), UNet, 3),
        (unet(8, 1), lambda: UNet(8, 1), 3),
        (vgg19(), Content, 3),
        (discriminator(1), partial(PatchDiscriminator, 1), 1),
        (discriminator(3, 8), partial(PatchDiscriminator, 3, 8), 3),
    ],
)
def test_a_forward_pass_is_the_tables(table, make, channels, size, monkeypatch) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # the device meta knows none
    with torch.device("meta"):
        network, picture = make(), torch.zeros(1, channels, *size)
    kernels = sum(weight.numel() for weight in network.parameters() if weight.ndim == 4)
    assert kernels == sum(layer.kernel**2 * layer.inputs * layer.outputs for layer in table)
    assert counted(network, picture) == operations(table, *size)


def test_a_convolution_by_hand() -> None:
    assert Convolution(3, 2, 4, 2).operations(8, 6) == 2 * (4 * 3) * 9 * 2 * 4


def test_a_step_is_what_was_published() -> None:
    whole = sum(step_operations(16, 256).values())
    short = sum(step_operations(16, 256, share_fake=True, cache_photo_features=True).values())
    assert whole / 1e12 == pytest.approx(4.3, abs=0.005)
    assert short / 1e12 == pytest.approx(3.3, abs=0.005)


def test_the_generators_part_of_the_backward_pass_is_torchs() -> None:
    with torch.device("meta"):
        network, photo = UNet(8, 1), torch.empty(2, 3, 64, 64)
        with FlopCounterMode(display=False) as forward:
            made = network(photo)
        with FlopCounterMode(display=False) as backward:
            made.sum().backward()
    table = unet(8, 1)
    both = [2 * operations(layers, 64, 64) for layers in (table, table[:1])]
    assert int(forward.get_total_flops()) == both[0]
    assert int(backward.get_total_flops()) == 2 * both[0] - both[1]


@pytest.mark.parametrize(
    ("shortcut", "part", "layers"), [("share_fake", "generator", unet()), ("cache_photo_features", "content", vgg19())]
)
def test_a_shortcut_saves_one_pass(shortcut, part, layers) -> None:
    plain, short = step_operations(2, 64), step_operations(2, 64, **{shortcut: True})
    assert plain.pop(part) - short.pop(part) == 2 * operations(layers, 64, 64)
    assert plain == short
