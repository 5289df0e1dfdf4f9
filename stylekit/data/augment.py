"""Geometry expansion on the fly: flip, zoom and turn, drawn anew for every picture (its authors do DCT-Net's GEM offline)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from stylekit.config.schema import AugmentRecipe


def draw_affine(count: int, recipe: AugmentRecipe, generator: torch.Generator) -> Tensor:
    """Draw one transform a picture.

    Args:
        count: N.
        recipe: Ranges; zoom is uniform in its logarithm.
        generator: Source of the random numbers.

    Returns:
        [N, 2, 3] float32 in the form of `affine_grid`: output coordinates in [-1, 1] to input coordinates.
    """
    uniform = torch.rand(3, count, generator=generator)
    low, high = (math.log(s) for s in recipe.scale)
    scale = torch.exp(low + uniform[0] * (high - low))
    angle = (uniform[1] * 2 - 1) * math.radians(recipe.rotate_deg)
    mirror = torch.where(uniform[2] < 0.5, -1.0, 1.0) if recipe.flip else torch.ones(count)
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    zero = torch.zeros(count)
    return torch.stack((torch.stack((mirror * cos, -mirror * sin, zero), -1), torch.stack((sin, cos, zero), -1)), 1)


def transform(pictures: Tensor, affine: Tensor) -> Tensor:
    """Apply one transform a picture, bilinear; what lies beyond the border is mirrored.

    The few pixels that a small zoom or turn uncovers look like more of the same when mirrored; repeating the border draws
    stripes, which a discriminator sees in every cartoon and the generator learns to draw.

    Args:
        pictures: [N, C, H, W]; pictures that must stay in register are stacked along C.
        affine: [N, 2, 3] from `draw_affine`.
    """
    grid = F.affine_grid(affine.to(pictures), list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
