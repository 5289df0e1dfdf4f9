"""Superpixel pictures: every SLIC region painted with its mean colour, the target of the content loss's second half."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stylekit.data import slic, slic_torch
from stylekit.data.slic import COMPACTNESS, SEGMENTS, SIGMA
from stylekit.images import to_rgb, to_tensor
from stylekit.nn.cpu import can_compile, in_parallel

Engine = Literal["auto", "scikit-image"]

# Its scatters had no least and greatest of 64-bit integers before torch 2.13, and its memory is the processor's anyway.
ON_CPU = ("cpu", "mps")


def superpixels(batch: Tensor, *, bgr: bool = False, segments: int = SEGMENTS, engine: Engine = "auto") -> Tensor:
    """Superpixel pictures of a batch, without gradient.

    The regions are those of ModelScope's `simple_superpixel`: 200 segments, sigma 1, compactness 10, Lab. `auto` finds them with
    compiled loops on the CPU (scikit-image where numba is not installed) and with tensor operations, whose few differences
    `slic_torch` names, on a GPU, without leaving it.

    Args:
        batch: [N, 3, H, W] RGB in about [-1, 1]. A channel of a picture with a value that is not finite comes out not finite.
        bgr: Give SLIC the channels in B, G, R order, as upstream does although its Lab conversion assumes RGB.
        segments: Regions to aim for.
        engine: `scikit-image` has the regions found by that package, whatever the device.

    Returns:
        [N, 3, H, W] of the batch's kind and device.
    """
    pictures = batch.detach().float()
    seen = pictures.flip(1) if bgr else pictures
    if engine == "auto" and batch.device.type not in ON_CPU:
        return slic_torch.region_means(pictures, slic_torch.regions_of(seen, segments)).to(batch)
    arrays = seen.contiguous().cpu().numpy()
    if engine == "auto" and can_compile():
        painted = slic.region_means(pictures.contiguous().cpu().numpy(), slic.labels_of(arrays, segments))
        return torch.from_numpy(painted).to(batch)
    regions = torch.from_numpy(_labels_of_scikit_image(arrays, segments)).to(batch.device)
    return slic_torch.region_means(pictures, regions).to(batch)


def _labels_of_scikit_image(pictures: NDArray[np.float32], segments: int) -> NDArray[np.int64]:
    from skimage.segmentation import slic as slic_of_scikit_image

    count, _, height, width = pictures.shape
    labels = np.zeros((count, height, width), np.int64)

    def work(first: int, end: int) -> None:
        for i in range(first, end):
            if np.isfinite(np.ptp(pictures[i])):
                labels[i] = slic_of_scikit_image(
                    pictures[i], segments, COMPACTNESS, sigma=SIGMA, convert2lab=True, start_label=0, channel_axis=0
                )

    in_parallel(work, count)
    return labels


def superpixel_of_photo(picture: NDArray[np.uint8], segments: int = SEGMENTS) -> NDArray[np.uint8]:
    """Superpixel picture of an 8-bit photograph [H, W, 3]."""
    levels: NDArray[np.uint8] = to_rgb(superpixels(to_tensor(picture), segments=segments))[0]
    return levels
