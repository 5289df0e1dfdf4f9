"""How far a picture went from its photograph, as a network sees it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from stylekit.assets import resolve
from stylekit.images import to_tensor
from stylekit.metrics.measure import Arrays, Batch
from stylekit.nn.vgg import Vgg, load_vgg16_hed

VERSION = 1
LAYERS = ("conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3")
"""LPIPS's layers of VGG-16 (Zhang et al. 2018, arXiv:1801.03924), each after its ReLU."""

LARGEST_PX = 128

NETWORK = "vgg16-hed"
_AT_ONCE = 4


class ContentGauge:
    """Gives the array `content` [N]: LPIPS's formula with VGG-16 as tuned for edges (HED), weighing all channels alike.

    Its values are not LPIPS's, whose weights were learned from people's judgements. Pictures above 128 px are brought down to it
    first: the time grows with the area.

    Args:
        device: Where the network runs.

    Raises:
        AssetError: If the network is missing or damaged.
    """

    def __init__(self, device: str = "cpu") -> None:
        asset = resolve("content", NETWORK)
        self._network, self._device = load_vgg16_hed(asset.path, last=LAYERS[-1]).to(device), device
        self._weights = asset.sha256[:12]

    @property
    def key(self) -> str:
        """What the arrays depend on beside the pictures."""
        return f"content/{VERSION}/{NETWORK}/{LARGEST_PX}-bilinear-antialias/{self._weights}"

    @torch.inference_mode()
    def __call__(self, batch: Batch) -> Arrays:
        """Measure every picture; nothing where there are no photographs."""
        if batch.photos is None:
            return {}
        pairs = zip(self._parts(batch.pictures), self._parts(batch.photos), strict=True)
        distances = [distance(self._network, a, b).float().cpu().numpy() for a, b in pairs]
        return {"content": np.concatenate(distances) if distances else np.zeros(0, np.float32)}

    def _parts(self, pictures: NDArray[np.uint8]) -> Iterator[Tensor]:
        return (self._tensor(pictures[start : start + _AT_ONCE]) for start in range(0, len(pictures), _AT_ONCE))

    def _tensor(self, pictures: NDArray[np.uint8]) -> Tensor:
        tensor = to_tensor(pictures).to(self._device)
        if tensor.shape[-1] <= LARGEST_PX:
            return tensor
        return F.interpolate(tensor, (LARGEST_PX, LARGEST_PX), mode="bilinear", antialias=True)


def distance(network: Vgg, a: Tensor, b: Tensor) -> Tensor:
    """Return [N] distances of pictures [N,3,H,W] in [-1,1]: 0 where they are equal.

    At every place of a layer both feature vectors are brought to length 1; their squared difference, 0 to 2, is averaged over the
    places and over the layers.
    """
    layers = zip(*(network.features(x, LAYERS).values() for x in (a, b)), strict=True)
    return torch.stack([(_unit(x) - _unit(y)).square().sum(1).mean((1, 2)) for x, y in layers]).mean(0)


def _unit(features: Tensor) -> Tensor:
    return F.normalize(F.relu(features), dim=1)
