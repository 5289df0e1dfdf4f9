"""Face embedders for ID. The name of a number says which one it was taken with, crop and template included."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from stylekit.assets import Resolved, resolve
from stylekit.errors import UsageError
from stylekit.faces import arcface, identity
from stylekit.faces.arcface import ArcFaceEmbedder, arcface_crops
from stylekit.faces.identity import FaceEmbedder
from stylekit.faces.styleid import StyleIdEmbedder
from stylekit.metrics.measure import Arrays, Batch
from stylekit.nn import irse, mobilefacenet

_ROLE = "identity"
_BATCH = 16

Floats: TypeAlias = NDArray[np.float32]
Pictures: TypeAlias = Sequence[NDArray[np.uint8]] | NDArray[np.uint8]
Landmarks: TypeAlias = Sequence[NDArray[np.floating]] | NDArray[np.floating]


class Network(Protocol):
    """What embeds faces with one network."""

    def embed(self, pictures: Sequence[NDArray[np.uint8]], points: Sequence[NDArray[np.floating]], /) -> Floats:
        """Return one embedding for each picture, float32 [N,E]; `points` are its `landmarks_5` [5,2]."""


@dataclass(frozen=True)
class Embedder:
    """A frozen face recognition network, with the crop it wants.

    Attributes:
        name: As in the recipe.
        crop: Side of its crop in pixels and its template; part of the metric, because another crop gives other numbers.
        dimension: Length of an embedding, E.
        network: What embeds.
    """

    name: str
    crop: str
    dimension: int
    network: Network

    @property
    def label(self) -> str:
        """Name and crop, as metric names carry them: `arcface@112-arcface`."""
        return f"{self.name}@{self.crop}"

    def embed(self, pictures: Pictures, landmarks: Landmarks) -> Floats:
        """Return one embedding for each picture, float32 [N,E].

        Of dlib's network they are as they come, since dlib's distances mean that; of all others they have length 1.

        Args:
            pictures: uint8 RGB, N of [H,W,3].
            landmarks: N of [5,2], (x, y) in the picture's pixels. Of a stylized picture they are its photograph's: a detector
                finds faces in drawings less well, and would crop them otherwise.

        Returns:
            The embeddings; NaN where the landmarks are not finite or coincide.
        """
        points = np.asarray(landmarks, np.float64).reshape(len(pictures), 5, 2)
        found = np.full((len(pictures), self.dimension), np.nan, np.float32)
        seen = np.flatnonzero(np.isfinite(points).all(axis=(1, 2)) & (np.ptp(points, axis=1) > 1e-3).all(axis=1))
        if len(seen):
            found[seen] = self.network.embed([pictures[int(row)] for row in seen], list(points[seen]))
        return found


class _Aligned:
    """A torch network that sees ArcFace's crop."""

    def __init__(self, network: nn.Module, device: str | torch.device) -> None:
        self._network = network.to(device)
        self._device = device

    @torch.inference_mode()
    def embed(self, pictures: Sequence[NDArray[np.uint8]], points: Sequence[NDArray[np.floating]], /) -> Floats:
        parts = []
        for start in range(0, len(pictures), _BATCH):
            part = slice(start, start + _BATCH)
            crops = torch.from_numpy(arcface_crops(pictures[part], points[part])).to(self._device)
            parts.append(self._network(crops).cpu().numpy())
        return np.asarray(np.concatenate(parts))


def _dlib_resnet(path: Path, device: str) -> Embedder:
    return Embedder("dlib-resnet", f"{identity.SIDE}-dlib", 128, FaceEmbedder(path, device))


def _arcface(path: Path, device: str) -> Embedder:
    return Embedder("arcface", f"{arcface.SIDE}-arcface", arcface.FEATURES, ArcFaceEmbedder(path))


def _ir_se50(path: Path, device: str) -> Embedder:
    return Embedder("ir-se50", f"{arcface.SIDE}-arcface", irse.FEATURES, _Aligned(irse.load_ir_se50(path), device))


def _mobilefacenet(path: Path, device: str) -> Embedder:
    return Embedder(
        "mobilefacenet",
        f"{arcface.SIDE}-arcface",
        mobilefacenet.FEATURES,
        _Aligned(mobilefacenet.load_mobilefacenet(path), device),
    )


def _styleid(path: Path, device: str) -> Embedder:
    network = StyleIdEmbedder(path, device)
    return Embedder("styleid", f"{network.side}-ffhq", network.features, network)


EMBEDDERS: dict[str, Callable[[Path, str], Embedder]] = {
    "dlib-resnet": _dlib_resnet,
    "arcface": _arcface,
    "ir-se50": _ir_se50,
    "mobilefacenet": _mobilefacenet,
    "styleid": _styleid,
}
"""What reads each embedder from its file or folder onto a device. Their names are those of their assets."""


def load_embedder(name: str, device: str = "cpu") -> tuple[Embedder, Resolved]:
    """Return the embedder of that name, and the asset it was read from.

    Raises:
        UsageError: If no embedder has that name.
        AssetError: If its weights are missing, damaged or another network's.
        MissingPartError: If it needs a package that is not installed.
    """
    if name not in EMBEDDERS:
        raise UsageError(f"There is no face embedder {name!r}.", f"Choose one of: {', '.join(EMBEDDERS)}.")
    asset = resolve(_ROLE, name)
    return EMBEDDERS[name](asset.path, device), asset


@dataclass(frozen=True)
class IdentityGauge:
    """Gives the array `embedding/<name>`, float32 [N,E]."""

    embedder: Embedder
    asset: Resolved

    @property
    def key(self) -> str:
        """Embedder, crop, version of this code, digest of the weights."""
        return f"identity-1/{self.embedder.label}/{self.asset.sha256}"

    def __call__(self, batch: Batch) -> Arrays:
        """Embed the faces of a batch."""
        return {f"embedding/{self.embedder.name}": self.embedder.embed(batch.pictures, batch.landmarks)}
