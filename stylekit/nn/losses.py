"""Losses of the texture translator: plain means, but `feature_distance`, which is a share of the features' size."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from stylekit.nn.device import send

# Uniform ranges of the R, G, B weights of the gray picture (White-box Cartoonization, Wang and Yu 2020).
GRAY_RANGES = ((0.199, 0.399), (0.487, 0.687), (0.014, 0.214))


def draw_gray_weights(generator: torch.Generator, like: Tensor) -> Tensor:
    """Draw three R, G, B weights, one draw for all pictures of a step, on the device and in the type of `like`."""
    drawn = torch.rand(3, generator=generator)
    low = torch.tensor([r[0] for r in GRAY_RANGES])
    high = torch.tensor([r[1] for r in GRAY_RANGES])
    return send((low + drawn * (high - low)).to(like.dtype), like.device)


def colour_shift(picture: Tensor, weights: Tensor) -> Tensor:
    """Gray picture by weighted mean of the channels.

    Args:
        picture: [N, 3, H, W] RGB.
        weights: [3], for R, G, B.

    Returns:
        [N, 1, H, W].
    """
    return (picture * weights.view(1, 3, 1, 1)).sum(1, keepdim=True) / weights.sum()


def lsgan_generator(fake: Tensor) -> Tensor:
    """Least-squares GAN, generator: mean (D(fake) - 1)^2."""
    return (fake - 1).square().mean()


def lsgan_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Least-squares GAN, discriminator: half of mean (D(real) - 1)^2 + mean D(fake)^2."""
    return 0.5 * ((real - 1).square().mean() + fake.square().mean())


def hinge_generator(scores: Iterable[Tensor]) -> Tensor:
    """Hinge GAN, generator, mean over the discriminators' score maps."""
    return -torch.stack([s.mean() for s in scores]).mean()


def hinge_discriminator(real: Iterable[Tensor], fake: Iterable[Tensor]) -> Tensor:
    """Hinge GAN, discriminator, mean over the discriminators' score maps."""
    return torch.stack([F.relu(1 - r).mean() + F.relu(1 + f).mean() for r, f in zip(real, fake, strict=True)]).mean()


def total_variation(picture: Tensor) -> Tensor:
    """Mean squared difference of vertical neighbours plus that of horizontal ones."""
    return (picture[..., 1:, :] - picture[..., :-1, :]).square().mean() + (picture[..., 1:] - picture[..., :-1]).square().mean()


def feature_distance(target: dict[str, Tensor], made: dict[str, Tensor]) -> Tensor:
    """Mean absolute difference as a share of the target's mean magnitude, averaged over layers.

    The share makes a weight mean the same for every network and layer, whose maps differ in size by factors of ten.
    """
    return torch.stack([(target[name] - made[name]).abs().mean() / target[name].abs().mean() for name in target]).mean()
