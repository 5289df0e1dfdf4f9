"""How pictures look, whoever they show, and which of a set are unlike the others."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stylekit.images import Rgb, resize, to_tensor

if TYPE_CHECKING:
    import torch

DIMENSIONS = 128
"""Length of a look embedding."""

UNLIKE = 3.5
"""An outlier score above this names a picture to look at: the limit of Iglewicz and Hoaglin (1993) for robust z scores."""

_BATCH = 16
_NEAREST = 1 / 4  # share of the set that a picture is compared with: a second manner is one of the set's own from there on
_SAMPLE = 2048  # pictures that distances are taken to, evenly spread over the set
_BLOCK = 1024
_FEWEST = 8  # below, no picture can be called unlike the others
_MAD_TO_SIGMA = 1.4826


class LookEmbedder:
    """Embeds how a picture looks: manner, colours and shapes rather than the person.

    The square roots of EfficientNet-lite0's 1,280 pooled features are projected to 128 numbers by a fixed matrix of signs,
    which keeps distances (Achlioptas 2003, "Database-friendly random projections"). The root keeps single strong features
    from deciding.

    Args:
        path: The network's checkpoint; the asset `efficientnet-lite0` by default.
        device: Where the network runs.

    Raises:
        AssetError: If the network is missing or damaged.
    """

    def __init__(self, path: Path | None = None, device: str | torch.device = "cpu") -> None:
        from stylekit.assets import fetch
        from stylekit.nn.efficientnet import load_efficientnet_lite0

        self._network = load_efficientnet_lite0(path or fetch("efficientnet-lite0")).to(device)
        self._device = device

    def embed(self, crops: Sequence[Rgb]) -> NDArray[np.float32]:
        """Return one embedding for each crop, float32 [N,128].

        Args:
            crops: RGB uint8 [H,W,3], of any sizes.
        """
        import torch

        from stylekit.nn.efficientnet import FEATURES, INPUT_SIZE

        side = (INPUT_SIZE, INPUT_SIZE)
        embeddings = np.empty((len(crops), DIMENSIONS), np.float32)
        for start in range(0, len(crops), _BATCH):
            part = slice(start, start + _BATCH)
            batch = to_tensor(np.stack([resize(crop, side) for crop in crops[part]])).to(self._device)
            with torch.inference_mode():
                features = self._network.pooled(batch).cpu().numpy()
            embeddings[part] = np.sqrt(features) @ _signs(FEATURES)
        return embeddings


def _signs(features: int) -> NDArray[np.float32]:
    """Return the projection, [features,128]: signs from the bits of a hash, so that it is the same everywhere."""
    bits = np.unpackbits(np.frombuffer(hashlib.shake_256(b"look").digest(features * DIMENSIONS // 8), np.uint8))
    return (bits.reshape(features, DIMENSIONS).astype(np.float32) * 2 - 1) / np.float32(np.sqrt(DIMENSIONS))


def outlier_scores(embeddings: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return for each embedding [N,D] how unlike the others it is, float32 [N].

    What counts is the mean L2 distance to the nearest quarter of the set (of large sets, of 2,048 pictures evenly spread
    over it), as a robust z score: less the median, in units of 1.4826 times the median absolute deviation. 0 is ordinary,
    above `UNLIKE` a picture deserves a look. Fewer than eight embeddings, or equal ones, score 0. The work is N times 2,048.
    """
    count = len(embeddings)
    if count < _FEWEST:
        return np.zeros(count, np.float32)
    points = np.asarray(embeddings, np.float32) - np.mean(embeddings, axis=0, dtype=np.float32)  # small numbers lose less
    chosen = np.unique(np.linspace(0, count - 1, min(count, _SAMPLE)).astype(int))
    sample = points[chosen]
    squares = np.einsum("nd,nd->n", sample, sample)
    near = max(1, round((len(sample) - 1) * _NEAREST))
    distances = np.empty(count, np.float32)
    own = np.full(count, -1)
    own[chosen] = np.arange(len(chosen))
    for start in range(0, count, _BLOCK):
        block = points[start : start + _BLOCK]
        squared = squares - 2 * block @ sample.T + np.einsum("nd,nd->n", block, block)[:, None]
        itself = own[start : start + _BLOCK]
        squared[np.flatnonzero(itself >= 0), itself[itself >= 0]] = np.inf
        nearest = np.partition(squared, near - 1, axis=1)[:, :near]
        distances[start : start + _BLOCK] = np.sqrt(np.maximum(nearest, 0)).mean(axis=1)
    offset = distances - np.median(distances)
    spread = _MAD_TO_SIGMA * float(np.median(np.abs(offset)))
    return (offset / spread if spread > 1e-6 * float(distances.max()) else np.zeros_like(offset)).astype(np.float32)
