"""Feature extractors for KID and FID. The name of a number says which one it was taken with, resize included."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from stylekit.assets import Resolved, is_available, resolve
from stylekit.errors import UsageError
from stylekit.images import Rgb, to_tensor
from stylekit.metrics.measure import Arrays, Batch
from stylekit.nn import efficientnet, inception, vgg

_AT_ONCE_ON_CPU = 2  # more fall out of the cache: EfficientNet took 1.7 times as long a picture by 16, VGG-16 1.2 times


class FeatureExtractor(nn.Module):
    """A frozen network that turns pictures of any size into [N, num_features].

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

    def prepare(self, pictures: Rgb) -> Tensor:
        """Return what `forward` takes of RGB uint8 [N, H, W, 3]: float32 [N, 3, H, W] in [-1, 1], but for clean-fid's."""
        return to_tensor(pictures)


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


class CleanInceptionFeatures(InceptionFeatures):
    """The same network behind the resize of clean-fid (Parmar et al. 2022): Pillow's bicubic, antialiased, not rounded."""

    name = "inception-2015-clean"
    resize = f"{inception.INPUT_SIZE}-pil-bicubic"

    def prepare(self, pictures: Rgb) -> Tensor:
        """Return float32 [N, 3, 299, 299] in [0, 255] of RGB uint8 [N, H, W, 3], each channel resized by itself."""
        return torch.from_numpy(np.stack([[_resize(channel) for channel in picture.transpose(2, 0, 1)] for picture in pictures]))

    def forward(self, pictures: Tensor) -> Tensor:
        """Return [N, 2048] features of [N, 3, 299, 299] in [0, 255]."""
        return self.network.trunk((pictures - 128) / 128)


def _resize(channel: NDArray[np.uint8]) -> NDArray[np.float32]:
    size = (inception.INPUT_SIZE, inception.INPUT_SIZE)
    resized = Image.fromarray(channel.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(resized).clip(0, 255)


_EXTRACTORS: dict[str, Callable[[Path], FeatureExtractor]] = {
    kind.name: kind for kind in (VggFeatures, EfficientNetFeatures, InceptionFeatures, CleanInceptionFeatures)
}
_SAME_NETWORK = {"inception-2015": "inception-2015-clean", "inception-2015-clean": "inception-2015"}


def resolve_extractor(name: str) -> Resolved:
    """Return the asset that the extractor of that name would be read from, as `load_extractor` does.

    Raises:
        UsageError: If no extractor has that name.
        AssetError: If its weights are missing or damaged.
    """
    if name not in _EXTRACTORS:
        raise UsageError(f"There is no feature extractor {name!r}.", f"Choose one of: {', '.join(sorted(_EXTRACTORS))}.")
    other = _SAME_NETWORK.get(name)
    return resolve("fid-features", other if other and is_available(other) and not is_available(name) else name)


def load_extractor(name: str, device: str = "cpu") -> tuple[FeatureExtractor, Resolved]:
    """Return the extractor of that name on a device, and the asset it was read from.

    Both modes of Inception read the file of the other where their own is missing: the network is the same, and `Resolved` says
    which file it was.

    Raises:
        UsageError: If no extractor has that name.
        AssetError: If its weights are missing or damaged.
    """
    asset = resolve_extractor(name)
    extractor = _EXTRACTORS[name](asset.path).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return extractor.eval(), asset


class FeatureGauge:
    """Takes the features of an extractor, as `features/<label>` [N, num_features].

    Args:
        extractor: The extractor, on the device where it is to run.
        asset: What its weights were read from.

    Attributes:
        label: The extractor's name and resize.
    """

    def __init__(self, extractor: FeatureExtractor, asset: Resolved) -> None:
        self.label = extractor.label
        self.asset = asset
        self._extractor = extractor

    @property
    def key(self) -> str:
        """The extractor, its resize and the digest of its weights."""
        return f"features/{self.label} {self.asset.sha256}"

    def __call__(self, batch: Batch) -> Arrays:
        """Return the features of a batch's pictures, float32."""
        return {f"features/{self.label}": _features(self._extractor, batch.pictures).numpy()}


@torch.inference_mode()
def _features(extractor: FeatureExtractor, pictures: Rgb) -> Tensor:
    """Return float32 [N, num_features] on the CPU for RGB uint8 [N, H, W, 3], computed where the extractor lies."""
    device = next(chain(extractor.parameters(), extractor.buffers())).device
    step = _AT_ONCE_ON_CPU if device.type == "cpu" else max(len(pictures), 1)
    parts = [extractor.prepare(pictures[start : start + step]) for start in range(0, max(len(pictures), 1), step)]
    found = [extractor(part.to(device, memory_format=torch.channels_last)) for part in parts]
    return torch.cat(found).float().cpu()


def extract(extractor: FeatureExtractor, pictures: Sequence[Rgb], *, batch_size: int = 16, device: str = "cpu") -> Tensor:
    """Return float64 [N, num_features] on the CPU for RGB uint8 pictures of one size."""
    network = extractor.to(device).eval()
    batches = [pictures[start : start + batch_size] for start in range(0, len(pictures), batch_size)]
    return torch.cat([_features(network, np.stack(batch)).double() for batch in batches])
