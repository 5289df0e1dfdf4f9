"""Feature extractors for KID and FID. The name of a number says which one it was taken with, resize included."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from stylekit.assets import Resolved, resolve
from stylekit.errors import UsageError
from stylekit.images import Rgb, to_tensor
from stylekit.nn import efficientnet, inception, vgg


class FeatureExtractor(nn.Module):
    """A frozen network that turns [N, 3, H, W] pictures in [-1, 1], of any size, into [N, num_features].

    Attributes:
        name: As in the recipe.
        resize: How it brings pictures to its own size; part of the metric, because another resize gives other numbers.
        num_features: Length of a feature vector; torchmetrics reads this name.
    """

    name: str
    resize: str
    num_features: int

    @property
    def label(self) -> str:
        """Name and resize, as metric names carry them."""
        return f"{self.name}@{self.resize}"


class EfficientNetFeatures(FeatureExtractor):
    """ImageNet features of EfficientNet-lite0, globally averaged. Not the Inception of published FIDs."""

    name = "efficientnet-lite0"
    resize = f"{efficientnet.INPUT_SIZE}-bilinear-antialias"
    num_features = efficientnet.FEATURES

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.network = efficientnet.load_efficientnet_lite0(path)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return [N, 1280] features of [N, 3, H, W] in [-1, 1]."""
        return self.network.pooled(pictures)


class VggFeatures(FeatureExtractor):
    """Features of conv4_3 of VGG-16 after its ReLU, globally averaged; the network is fine-tuned for edges (HED).

    Of conv2_2, conv3_3, conv4_3 and conv5_3 this layer tells the starter photographs from toon-head cartoons with the smallest
    spread in proportion (KIDx1000 178 +- 40); conv5_3, tuned to edges most, hardly tells them apart (14 +- 21). The features
    are divided by 5, to a root mean square of about 0.45 on faces, as EfficientNet's have and the Inception features that KID's
    kernel (x.y/d + 1)^3 was made for: at their own size the cube would measure little but magnitude.
    """

    name = "vgg16-hed"
    layer = "conv4_3"
    resize = f"{layer}-{vgg.INPUT_SIZE}-bilinear-antialias"
    num_features = 512
    scale = 0.2

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.network = vgg.load_vgg16_hed(path, last=self.layer)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return [N, 512] features of [N, 3, H, W] in [-1, 1]."""
        return self.network.pooled(pictures) * self.scale


class InceptionFeatures(FeatureExtractor):
    """The network and the resize of published FIDs (pytorch-fid)."""

    name = "inception-2015"
    resize = f"{inception.INPUT_SIZE}-bilinear"
    num_features = inception.FEATURES

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.network = inception.load_inception_2015(path)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return [N, 2048] features of [N, 3, H, W] in [-1, 1]."""
        return self.network.pooled(pictures)


_EXTRACTORS: dict[str, Callable[[Path], FeatureExtractor]] = {
    kind.name: kind for kind in (VggFeatures, EfficientNetFeatures, InceptionFeatures)
}


def load_extractor(name: str) -> tuple[FeatureExtractor, Resolved]:
    """Return the extractor of that name, and the asset it was read from.

    Raises:
        UsageError: If no extractor has that name.
        AssetError: If its weights are missing or damaged.
    """
    if name not in _EXTRACTORS:
        raise UsageError(f"There is no feature extractor {name!r}.", f"Choose one of: {', '.join(sorted(_EXTRACTORS))}.")
    asset = resolve("fid-features", name)
    return _EXTRACTORS[name](asset.path), asset


@torch.inference_mode()
def extract(extractor: FeatureExtractor, pictures: Sequence[Rgb], *, batch_size: int = 16, device: str = "cpu") -> Tensor:
    """Return float64 [N, num_features] on the CPU for RGB uint8 pictures of one size."""
    network = extractor.to(device).eval()
    batches = [pictures[start : start + batch_size] for start in range(0, len(pictures), batch_size)]
    return torch.cat([network(to_tensor(np.stack(batch)).to(device)).double().cpu() for batch in batches])
