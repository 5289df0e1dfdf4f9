"""SLIC as tensor operations, for accelerators: batched, of fixed shapes, without waiting for the device, compilable as one graph.

It differs from the loops of `stylekit.data.slic` in this: a pixel looks at the 7x7 centres that begin around it (all those whose
windows hold it, until centres have moved by about two steps); sums are added up in the device's order; a region is never ended
at `Grid.largest` pixels; and around a small region the pixel met last is taken by its distance from the region's first pixel.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.compiler import nested_compile_region

from stylekit.data.slic import (
    COMPACTNESS,
    CUBE_ROOT_FROM,
    GAMMA,
    GAMMA_SHIFT,
    GAUSSIAN,
    GAUSSIAN_RADIUS,
    ITERATIONS,
    LINEAR_SLOPE,
    LINEAR_UP_TO,
    ROOT_SHIFT,
    ROOT_SLOPE,
    SEGMENTS,
    WHITE,
    XYZ_FROM_RGB,
    Axis,
    Grid,
    grid,
)

AROUND = 7
ROUNDS = 8
NOTHING = -1


def regions_of(pictures: Tensor, segments: int = SEGMENTS) -> Tensor:
    """Label the regions of pictures.

    Args:
        pictures: [N, 3, H, W] float32 RGB of any range: each picture's own is taken for [0, 1].
        segments: Regions to aim for.

    Returns:
        [N, H, W] int64: for every pixel a number below H * W that is its region's alone.
    """
    begin = grid(pictures.shape[2], pictures.shape[3], segments)
    nearest = _cluster(_smoothed(_lab(pictures)) / COMPACTNESS, begin)
    return _joined(_components(nearest), begin.smallest)


def region_means(pictures: Tensor, regions: Tensor) -> Tensor:
    """Paint every region with its mean colour: pictures [N, 3, H, W], regions [N, H, W] of numbers below H * W."""
    index = regions.flatten(1)[:, None].expand(-1, 4, -1)
    values = torch.cat((pictures, torch.ones_like(pictures[:, :1])), 1).flatten(2)
    sums = torch.zeros_like(values).scatter_add(2, index, values)
    return (sums[:, :3] / sums[:, 3:].clamp(min=1)).gather(2, index[:, :3]).view_as(pictures)


def _lab(pictures: Tensor) -> Tensor:
    low, high = pictures.amin((1, 2, 3), keepdim=True), pictures.amax((1, 2, 3), keepdim=True)
    levels = (pictures - low) / torch.where(high > low, high - low, 1)
    powers = ((levels + GAMMA_SHIFT) / (1 + GAMMA_SHIFT)) ** GAMMA
    rgb = torch.where(levels > LINEAR_UP_TO, powers, levels / LINEAR_SLOPE)
    roots = []
    for weights, white in zip(XYZ_FROM_RGB, WHITE, strict=True):
        value = _weighed(rgb.unbind(1), weights) / white
        root = value.clamp(min=CUBE_ROOT_FROM) ** (1 / 3)
        roots.append(torch.where(value > CUBE_ROOT_FROM, root, ROOT_SLOPE * value + ROOT_SHIFT))
    x, y, z = roots
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), 1)


def _weighed(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    total = tensors[0] * weights[0]
    for tensor, weight in zip(tensors[1:], weights[1:], strict=True):
        total = total + tensor * weight
    return total


def _smoothed(planes: Tensor) -> Tensor:
    for axis in (2, 3):
        length = planes.shape[axis]
        behind = torch.arange(-GAUSSIAN_RADIUS, length + GAUSSIAN_RADIUS, device=planes.device) % (2 * length)
        mirrored = planes.index_select(axis, torch.minimum(behind, 2 * length - 1 - behind))
        planes = _weighed([mirrored.narrow(axis, k, length) for k in range(len(GAUSSIAN))], GAUSSIAN)
    return planes


def _candidates(axis: Axis, length: int, device: torch.device) -> Tensor:
    """Return which centres along an axis each pixel looks at: [7 or fewer, length], in rising order."""
    many = min(AROUND, axis.count)
    own = (torch.arange(length, device=device) - axis.start + axis.step // 2) // axis.step
    first = (own - many // 2).clamp(0, axis.count - many)
    return first + torch.arange(many, device=device)[:, None]


def _cluster(lab: Tensor, begin: Grid) -> Tensor:
    """Return the nearest centre of every pixel, [N, H, W], after SLIC's iterations on Lab planes [N, 3, H, W]."""
    count, _, height, width = lab.shape
    y = torch.arange(height, device=lab.device, dtype=lab.dtype)[:, None].expand(count, 1, height, width)
    x = torch.arange(width, device=lab.device, dtype=lab.dtype).expand(count, 1, height, width)
    pixels = torch.cat((y, x, lab, torch.ones_like(lab[:, :1])), 1)

    start_y, start_x = (
        axis.start + axis.step * torch.arange(axis.count, device=lab.device, dtype=lab.dtype) for axis in (begin.y, begin.x)
    )
    first = torch.zeros(count, 6, begin.y.count, begin.x.count, device=lab.device, dtype=lab.dtype)
    first[:, 0], first[:, 1], first[:, 5] = start_y[:, None], start_x, 1
    centres, nearest = first, torch.zeros(count, height, width, device=lab.device, dtype=torch.int64)
    for _ in range(ITERATIONS):
        nearest, centres = _iteration(pixels, centres, nearest, begin)
    return nearest


@nested_compile_region
def _iteration(pixels: Tensor, centres: Tensor, nearest: Tensor, begin: Grid) -> tuple[Tensor, Tensor]:
    """Give every pixel the nearest centre whose window holds it, the first of several, and move the centres to their pixels.

    Pixels [N, 6, H, W] and centres [N, 6, rows, columns] are y, x, Lab, and how many pixels they stand for.
    """
    rows, columns = (
        _candidates(axis, length, pixels.device) for axis, length in zip((begin.y, begin.x), pixels.shape[2:], strict=True)
    )
    looked_at = (slice(None), rows[:, None, :, None], columns[None, :, None, :])
    cy, cx, *colours, members = (plane[looked_at].flatten(1, 2) for plane in centres.unbind(1))
    y, x, *lab, _ = pixels[:, :, None].unbind(1)
    inside = (members > 0) & (y >= (cy - begin.reach_y).floor()) & (y <= (cy + begin.reach_y).floor())
    inside = inside & (x >= (cx - begin.reach_x).floor()) & (x <= (cx + begin.reach_x).floor())
    distance = ((cy - y).square() + (cx - x).square()) / begin.step**2
    distance = distance + sum((plane - colour).square() for plane, colour in zip(lab, colours, strict=True))
    least, which = torch.where(inside, distance, torch.inf).min(1)
    chosen = (rows[0][:, None] + which // len(columns)) * begin.x.count + columns[0] + which % len(columns)
    nearest = torch.where(least < torch.inf, chosen, nearest)

    sums = torch.zeros_like(centres).flatten(2)
    sums = sums.scatter_add(2, nearest.flatten(1)[:, None].expand(-1, 6, -1), pixels.flatten(2))
    means = torch.cat((sums[:, :5] / sums[:, 5:].clamp(min=1), sums[:, 5:]), 1)
    return nearest, means.view_as(centres)


def _beside(planes: Tensor, fill: int) -> tuple[Tensor, ...]:
    """Return what lies right of, left of, below and above each pixel of [N, H, W]; `fill` beyond the edge."""
    column, row = torch.full_like(planes[:, :, :1], fill), torch.full_like(planes[:, :1], fill)
    return (
        torch.cat((planes[:, :, 1:], column), 2),
        torch.cat((column, planes[:, :, :-1]), 2),
        torch.cat((planes[:, 1:], row), 1),
        torch.cat((row, planes[:, :-1]), 1),
    )


def _components(labels: Tensor) -> Tensor:
    """Return, for every pixel of [N, H, W], the first pixel of its 4-connected component of equal labels.

    Every round hooks each tree of pixels to the least one beside it, and halves paths twice (Zhang, Azad and Hu, FastSV, 2020).
    """
    shape = labels.shape
    same = [beside == labels for beside in _beside(labels, NOTHING)]
    tree = torch.arange(shape[1] * shape[2], device=labels.device).expand(shape[0], -1)
    for _ in range(ROUNDS):
        tree = _hooked(tree, *same)
    return tree.view(shape)


@nested_compile_region
def _hooked(tree: Tensor, *same: Tensor) -> Tensor:
    least = tree.view(same[0].shape)
    for alike, beside in zip(same, _beside(least, 0), strict=True):
        least = torch.where(alike, torch.minimum(least, beside), least)
    least = least.flatten(1)
    tree = torch.minimum(tree.scatter_reduce(1, tree, least, "amin"), least)
    tree = tree.gather(1, tree)
    return tree.gather(1, tree)


def _joined(components: Tensor, smallest: int) -> Tensor:
    """Give components with fewer than `smallest` pixels to the one with an earlier first pixel that is met last around them.

    Met last: beside the pixel farthest from the component's own first one, and of those as far in the order of a search to the
    right, left, below and above. A small component in the first corner, which meets none, takes the next one in.
    """
    height, width = components.shape[1:]
    pixels = height * width
    own = components.flatten(1)
    index = torch.arange(pixels, device=own.device)
    size = torch.zeros_like(own).scatter_add(1, own, torch.ones_like(own))

    right = index % width - own % width
    below = index // width - own // width
    turn = torch.where(right > 0, 0, torch.where(right < 0, 1, 2))
    met = torch.full_like(own, NOTHING)
    for side, beside in enumerate(_beside(components, pixels)):
        other = beside.flatten(1)
        order = (((right.abs() + below) * 3 + turn) * height + below) * 4 + side
        met = torch.maximum(met, torch.where(other < own, order * pixels + other, NOTHING))
    last = torch.full_like(own, NOTHING).scatter_reduce(1, own, met, "amax")
    joins = torch.where((size < smallest) & (last > NOTHING), last % pixels, index)

    following = torch.where(own > 0, index, pixels).amin(1, keepdim=True)
    corner_small = (size[:, :1] < smallest) & (following < pixels)
    joins = torch.where(corner_small & (index == following), 0, joins)
    for _ in range(ROUNDS):
        joins = joins.gather(1, joins)
    return joins.gather(1, own).view(components.shape)
