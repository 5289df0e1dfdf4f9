"""Superpixel pictures: every SLIC region painted with its mean colour, the target of the content loss's second half."""

from __future__ import annotations

from concurrent.futures import Executor
from itertools import repeat

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.segmentation import slic
from torch import Tensor

SEGMENTS = 200
COMPACTNESS = 10.0
SIGMA = 1.0


def superpixel(picture: NDArray[np.float32], segments: int = SEGMENTS) -> NDArray[np.float32]:
    """Paint each SLIC region of a picture with its mean colour.

    The arguments are those of ModelScope's `simple_superpixel`: 200 segments, sigma 1, compactness 10, Lab, labels from 1.

    Args:
        picture: [H, W, 3] float32, in about [-1, 1].
        segments: Regions to aim for.

    Returns:
        [H, W, 3] float32.
    """
    labels = slic(
        picture, n_segments=segments, sigma=SIGMA, compactness=COMPACTNESS, convert2lab=True, start_label=1, channel_axis=-1
    )
    flat = labels.ravel()
    counts = np.maximum(np.bincount(flat), 1)
    means = [np.bincount(flat, weights=picture[..., c].ravel()) / counts for c in range(3)]
    return np.stack([m[flat] for m in means], -1).reshape(picture.shape).astype(np.float32)


def superpixels(batch: Tensor, executor: Executor | None = None, *, bgr: bool = False, segments: int = SEGMENTS) -> Tensor:
    """Superpixel pictures of a batch, without gradient.

    Args:
        batch: [N, 3, H, W] RGB in about [-1, 1].
        executor: Where the pictures are worked on in parallel; None works one after another.
        bgr: Give SLIC the channels in B, G, R order, as upstream does although its Lab conversion assumes RGB.
        segments: Regions to aim for.
    """
    source = batch.detach().float().flip(1) if bgr else batch.detach().float()
    pictures = list(source.permute(0, 2, 3, 1).cpu().numpy())
    worked = executor.map(superpixel, pictures, repeat(segments)) if executor else map(superpixel, pictures, repeat(segments))
    result = torch.from_numpy(np.stack(list(worked))).permute(0, 3, 1, 2)
    return (result.flip(1) if bgr else result).to(batch)


def superpixel_of_photo(picture: NDArray[np.uint8], segments: int = SEGMENTS) -> NDArray[np.uint8]:
    """Superpixel picture of an 8-bit photograph [H, W, 3]."""
    painted = superpixel(picture.astype(np.float32) / 127.5 - 1, segments)
    levels: NDArray[np.uint8] = np.clip(np.rint((painted + 1) * 127.5), 0, 255).astype(np.uint8)
    return levels
