"""Who a face shows: embeddings of dlib's face recognition network, and the persons they tell apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch.nn import functional as F

from stylekit.assets import fetch
from stylekit.faces.align import Matrix, similarity, umeyama, warp
from stylekit.faces.litert import Floats
from stylekit.nn.device import send
from stylekit.nn.dlibresnet import load_dlib_resnet

Advance: TypeAlias = Callable[[int], object]
"""Hears how much more is done, as `Bar.advance` does."""

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
_ROWS, _COLUMNS = 512, 8192  # of a tile of distances: 16 MB in float32

# dlib image_transforms/interpolation.h, get_face_chip_details: five points in a unit square and a padding of 0.25 around it.
_DLIB_PADDING = 0.25
_DLIB_UNIT = np.array([(0.8596, 0.2135), (0.6461, 0.2290), (0.1206, 0.2137), (0.3341, 0.2291), (0.4901, 0.6278)])
_DLIB_CHIP = (_DLIB_UNIT + _DLIB_PADDING) / (1 + 2 * _DLIB_PADDING) * SIDE
_DLIB_IN_MESH = (263, 362, 33, 133, 2)

# Where landmarks_5 lie in dlib's chip: the median of 82 photographs, made symmetric.
_FIVE_IN_CHIP = np.array([(49.27, 47.34), (100.73, 47.34), (75.00, 83.67), (53.34, 101.33), (96.66, 101.33)])


def quietly(number: int) -> None:
    """Hear how much is done, and do nothing."""


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
    theta = (from_picture @ torch.linalg.inv(full) @ to_crop)[:, :2]
    theta = send(theta.to(batch.dtype), batch.device)
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
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # twice as fast, one face at a time
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


def cluster_persons(
    embeddings: NDArray[np.floating], threshold: float = SAME_PERSON_DISTANCE, advance: Advance = quietly
) -> NDArray[np.int64]:
    """Return a person's number for each embedding [N,128], counted from 0 in the order of first pictures.

    A face belongs to the person whose first picture is nearest, if that is nearer than `threshold` in L2, else it is a new
    person's first. So persons never run together in chains, and the work is persons times pictures, in blocks; `advance` hears
    how many pictures each block held.
    """
    persons = np.empty(len(embeddings), np.int64)
    firsts: list[int] = []
    for start in range(0, len(embeddings), _ROWS):
        block = embeddings[start : start + _ROWS]
        nearest, least = _nearest(block, embeddings, np.array(firsts, np.int64))
        within = squared_distances(block, block)
        known = len(firsts)
        for row in range(len(block)):
            new = np.array(firsts[known:], np.int64) - start
            if len(new) and (distances := within[row, new]).min() < least[row]:
                nearest[row], least[row] = known + distances.argmin(), distances.min()
            if least[row] < threshold**2:
                persons[start + row] = nearest[row]
            else:
                persons[start + row] = len(firsts)
                firsts.append(start + row)
        advance(len(block))
    return persons


def _nearest(
    block: NDArray[np.floating], embeddings: NDArray[np.floating], firsts: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.floating]]:
    """Return for each row of `block` the number of the nearest of `firsts`, and its squared distance (infinite if none)."""
    nearest, least = np.zeros(len(block), np.int64), np.full(len(block), np.inf)
    for start in range(0, len(firsts), _COLUMNS):
        distances = squared_distances(block, embeddings[firsts[start : start + _COLUMNS]])
        found = distances.argmin(axis=1)
        smallest = distances[np.arange(len(block)), found]
        nearer = smallest < least
        nearest[nearer], least[nearer] = found[nearer] + start, smallest[nearer]
    return nearest, least


def link_persons(
    embeddings: NDArray[np.floating],
    persons: NDArray[np.integer],
    threshold: float = MAYBE_SAME_DISTANCE,
    advance: Advance = quietly,
) -> NDArray[np.int64]:
    """Return a group's number for each embedding [N,D]: the least number of a person in it.

    Persons [N], numbers from 0, of whom any two pictures are nearer than `threshold` in L2 are in one group, and so on along
    chains: whoever may be the same is together, at the price that strangers may be too. `advance` hears what `tiles` says.
    """
    groups = np.arange(int(max(persons, default=-1)) + 1)
    for rows, columns, distances in distance_tiles(embeddings, advance):
        one, other = groups[persons[rows]], groups[persons[columns]]
        near = (distances < threshold**2) & (one[:, None] != other)
        pairs = np.unique(
            np.column_stack([part[place] for part, place in zip((one, other), near.nonzero(), strict=True)]), axis=0
        )
        if len(pairs):
            groups = _join(groups, pairs)
    return np.asarray(groups[persons])


def _join(groups: NDArray[np.int64], pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the groups [N] after those of each pair have become one, which takes the least number of them."""
    graph = coo_array((np.ones(len(pairs)), tuple(pairs.T)), (len(groups), len(groups)))
    count, parts = connected_components(graph, directed=False)
    least = np.full(count, len(groups))
    np.minimum.at(least, parts, np.arange(len(groups)))
    return np.asarray(least[parts][groups])


def tiles(count: int, advance: Advance = quietly) -> Iterator[tuple[slice, slice]]:
    """Yield rows and columns of the tiles that cover the lower triangle of a matrix [count,count], row by row.

    `advance` hears, a little at a time, a number that comes to `count` in all and grows with the tiles' area.
    """
    said = 0
    for top in range(0, count, _ROWS):
        bottom = min(top + _ROWS, count)
        for left in range(0, bottom, _COLUMNS):
            yield slice(top, bottom), slice(left, min(left + _COLUMNS, bottom))
        area = bottom * bottom // count  # of the triangle down to here, where the whole is `count`
        advance(area - said)
        said = area


def distance_tiles(
    embeddings: NDArray[np.floating], advance: Advance = quietly
) -> Iterator[tuple[slice, slice, NDArray[np.floating]]]:
    """Yield `tiles` of the squared L2 distances between embeddings [N,D], which are never all in memory."""
    for rows, columns in tiles(len(embeddings), advance):
        yield rows, columns, squared_distances(embeddings[rows], embeddings[columns])


def squared_distances(rows: NDArray[np.floating], columns: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the squared L2 distances [N,M] of `rows` [N,D] to `columns` [M,D]."""
    squares = -2 * (rows @ columns.T)
    squares += np.einsum("nd,nd->n", rows, rows)[:, None]
    squares += np.einsum("nd,nd->n", columns, columns)
    return np.asarray(squares)
