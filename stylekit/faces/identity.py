"""Who a face shows: embeddings of dlib's face recognition network, and the persons they tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from stylekit.assets import fetch
from stylekit.faces.align import Matrix, similarity, umeyama, warp
from stylekit.faces.litert import Floats
from stylekit.nn.dlibresnet import load_dlib_resnet

SIDE = 150
"""Side in pixels of the crop that the network sees."""

SAME_PERSON_DISTANCE = 0.4
"""Embeddings nearer than this (L2) are taken for one person.

Pictures of one person lie 0.05 to 0.45 apart, of different ones 0.82 on average. dlib's own 0.6 is for larger, sharper faces:
on 82 photographs from 128 px up it takes 42 pairs of strangers for one person, 0.45 five, 0.4 none. The price is that
of one person's unlike pictures some count as two persons.
"""

MAYBE_SAME_DISTANCE = 0.5
"""Embeddings nearer than this (L2) may be one person's: above all that one person's pictures lie apart, see above."""

_BATCH = 16

# dlib image_transforms/interpolation.h, get_face_chip_details: five points in a unit square and a padding of 0.25 around it.
_DLIB_PADDING = 0.25
_DLIB_UNIT = np.array([(0.8596, 0.2135), (0.6461, 0.2290), (0.1206, 0.2137), (0.3341, 0.2291), (0.4901, 0.6278)])
_DLIB_CHIP = (_DLIB_UNIT + _DLIB_PADDING) / (1 + 2 * _DLIB_PADDING) * SIDE
_DLIB_IN_MESH = (263, 362, 33, 133, 2)

# Where landmarks_5 lie in dlib's chip: the median of 82 photographs, made symmetric.
_FIVE_IN_CHIP = np.array([(49.27, 47.34), (100.73, 47.34), (75.00, 83.67), (53.34, 101.33), (96.66, 101.33)])


def identity_crop_matrix(points: NDArray[np.floating]) -> Matrix:
    """Return the matrix from a picture to the 150 px crop that the network sees.

    Args:
        points: In the picture's pixels, a mesh [468,2 or 3] for dlib's own crop, or `landmarks_5` [5,2] for a near one
            (centred cosine 0.97 to the embedding of the first, over 82 photographs).

    Raises:
        UsageError: If the points coincide.
    """
    if len(points) == 5:
        return similarity(points, _FIVE_IN_CHIP)
    return umeyama(points[list(_DLIB_IN_MESH), :2], _DLIB_CHIP)


def crop_for_identity(batch: Tensor, matrices: NDArray[np.floating] | Tensor) -> Tensor:
    """Return the network's input for a batch of pictures, with gradients.

    Args:
        batch: [N,3,H,W] in [-1,1].
        matrices: [N,2,3], each `identity_crop_matrix` of points in the pixels of its picture.

    Returns:
        [N,3,150,150] in 0..255; black beyond the picture.
    """
    linear = torch.as_tensor(matrices, dtype=torch.float64, device="cpu")  # doubles, which autocast leaves alone
    full = torch.cat([linear, linear.new_tensor([0.0, 0.0, 1.0]).expand(len(linear), 1, 3)], dim=1)
    shrink = int(torch.linalg.det(linear[:, :, :2]).abs().rsqrt().min())
    pictures = (batch + 1) * 127.5
    if shrink > 1:  # bilinear sampling alone would alias
        pictures = F.avg_pool2d(pictures, shrink)
        full = full @ _affine(full, shrink, shrink, (shrink - 1) / 2, (shrink - 1) / 2)
    height, width = pictures.shape[2:]
    to_crop = _affine(full, SIDE / 2, SIDE / 2, (SIDE - 1) / 2, (SIDE - 1) / 2)
    from_picture = torch.linalg.inv(_affine(full, width / 2, height / 2, (width - 1) / 2, (height - 1) / 2))
    theta = (from_picture @ torch.linalg.inv(full) @ to_crop)[:, :2].to(batch)
    grid = F.affine_grid(theta, [len(batch), 3, SIDE, SIDE], align_corners=False)
    return F.grid_sample(pictures, grid, align_corners=False)


def _affine(like: Tensor, scale_x: float, scale_y: float, shift_x: float, shift_y: float) -> Tensor:
    return like.new_tensor([[scale_x, 0.0, shift_x], [0.0, scale_y, shift_y], [0.0, 0.0, 1.0]])


class FaceEmbedder:
    """Embeds faces.

    Args:
        path: Folder of the network, see `load_dlib_resnet`; the asset `dlib-resnet` by default.
        device: Where the network runs.

    Attributes:
        network: [N,3,150,150] in 0..255 -> [N,128], frozen; with `crop_for_identity` an identity loss.

    Raises:
        AssetError: If the network is missing or damaged.
    """

    def __init__(self, path: Path | None = None, device: str | torch.device = "cpu") -> None:
        self.network = load_dlib_resnet(path or fetch("dlib-resnet")).to(device)
        self._device = device

    @torch.inference_mode()
    def embed(self, pictures: Sequence[NDArray[np.uint8]], points: Sequence[NDArray[np.floating]]) -> Floats:
        """Return one embedding for each picture, float32 [N,128].

        Args:
            pictures: Photographs or crops, uint8 [H,W,3], of any sizes.
            points: For each picture a mesh [468,2 or 3] or `landmarks_5` [5,2] in its pixels.

        Raises:
            UsageError: If the points of a face coincide.
        """
        embeddings = np.empty((len(pictures), 128), np.float32)
        for start in range(0, len(pictures), _BATCH):
            part = slice(start, start + _BATCH)
            chips = [
                warp(picture, identity_crop_matrix(p), SIDE, "black")
                for picture, p in zip(pictures[part], points[part], strict=True)
            ]
            faces = torch.from_numpy(np.stack(chips)).to(self._device).permute(0, 3, 1, 2).float()
            embeddings[part] = self.network(faces).cpu().numpy()
        return embeddings


def cosine(a: NDArray[np.floating], b: NDArray[np.floating], mean: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the cosines of paired embeddings [N,128] after taking away `mean` [128], the mean of a reference set.

    Uncentred, different people average 0.84; centred, 0.
    """
    a, b = np.asarray(a, np.float64) - mean, np.asarray(b, np.float64) - mean
    return np.asarray((a * b).sum(axis=-1) / np.maximum(np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1), 1e-12))


def cluster_persons(embeddings: NDArray[np.floating], threshold: float = SAME_PERSON_DISTANCE) -> NDArray[np.int64]:
    """Return a person's number for each embedding [N,128], counted from 0 in the order of first pictures.

    A face belongs to the person whose first picture is nearest, if that is nearer than `threshold` in L2, else it is a new
    person's first. So persons never run together in chains, and the work is persons times pictures.
    """
    firsts = np.empty_like(embeddings)
    persons = np.empty(len(embeddings), np.int64)
    count = 0
    for index, embedding in enumerate(embeddings):
        distances = squared_distances(firsts[:count], embedding)
        if count and distances.min() < threshold**2:
            persons[index] = distances.argmin()
        else:
            firsts[count] = embedding
            persons[index] = count
            count += 1
    return persons


def link_persons(
    embeddings: NDArray[np.floating], persons: NDArray[np.integer], threshold: float = MAYBE_SAME_DISTANCE
) -> NDArray[np.int64]:
    """Return a group's number for each embedding [N,D]: the least number of a person in it.

    Persons [N] of whom any two pictures are nearer than `threshold` in L2 are in one group, and so on along chains: whoever
    may be the same is together, at the price that strangers may be too.
    """
    groups = np.array(persons, np.int64)
    for index in range(1, len(embeddings)):
        near = squared_distances(embeddings[:index], embeddings[index]) < threshold**2
        linked = np.unique(groups[: index + 1][np.append(near, True)])
        groups[np.isin(groups, linked)] = linked[0]
    return groups


def squared_distances(many: NDArray[np.floating], one: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the squared L2 distances of `many` [N,D] to `one` [D], in one pass over `many`."""
    return np.asarray(np.einsum("nd,nd->n", many, many) - 2 * (many @ one) + one @ one)
