"""What makes the pictures that are measured: a trained network, whatever trained it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from stylekit.evaluation.bench import Maker, square
from stylekit.images import Rgb, to_rgb, to_tensor


def network_maker(network: nn.Module, size: int, digest: str, device: str = "cpu") -> tuple[Maker, str]:
    """Return the `Maker` of a network's pictures, and its key.

    Args:
        network: photo [N,3,H,W] RGB in [-1,1] -> stylized.
        size: Side in pixels at which it sees every crop: that of its training.
        digest: SHA-256 of its weights.
        device: Where it runs.
    """
    module = network.to(device).eval()

    @torch.inference_mode()
    def stylize(crops: Sequence[Rgb], indices: Sequence[int]) -> Sequence[Rgb]:
        # One by one: the last bit of a convolution depends on the batch, and with it the rounding to 8 bits.
        return [to_rgb(module(to_tensor(square(crop, size)).to(device)))[0] for crop in crops]

    return stylize, f"network {digest} {size}"
