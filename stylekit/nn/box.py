"""The box filter: means over square windows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from stylekit.nn.cpu import can_compile, compiled, in_parallel


def box_mean(x: Tensor, radius: int) -> Tensor:
    """Mean over the part of a (2r+1)^2 window that lies inside the picture.

    Args:
        x: [N, C, H, W].
        radius: r, in pixels.
    """
    if (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and can_compile()
    ):
        mean: Tensor = _BoxMean.apply(x, radius)  # type: ignore[no-untyped-call]
        return mean
    size = 2 * radius + 1
    rows = F.avg_pool2d(x, (size, 1), stride=1, padding=(radius, 0), count_include_pad=False)
    return F.avg_pool2d(rows, (1, size), stride=1, padding=(0, radius), count_include_pad=False)


class _BoxMean(torch.autograd.Function):
    """The sum over a window is its own transpose, so the way back is the same with the division first."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, radius: int) -> Tensor:
        ctx.radius = radius
        return _box(x, radius, divide_first=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _box(gradients[0], ctx.radius, divide_first=True), None


def _box(x: Tensor, radius: int, *, divide_first: bool) -> Tensor:
    """Sum over windows, and divide by the number of pixels in each, before or after."""
    count, channels, height, width = x.shape
    last = x.is_contiguous(memory_format=torch.channels_last)
    given = x.detach().permute(0, 2, 3, 1) if last else x.detach().contiguous()
    made = torch.empty_like(given)
    planes, step = (count, channels) if last else (count * channels, 1)
    source, target = given.numpy().reshape(-1), made.numpy().reshape(-1)
    shares = _shares(height, radius), np.repeat(_shares(width, radius), step)

    def work(begin: int, end: int) -> None:
        _sum_windows(source, target, shares, divide_first, (height, width * step, radius, step, begin, end))

    in_parallel(work, planes)
    return made.permute(0, 3, 1, 2) if last else made


def _shares(length: int, radius: int) -> NDArray[np.float32]:
    """Return one over the number of points of each window along an axis."""
    at = np.arange(length)
    return np.asarray(1 / (np.minimum(at + radius, length - 1) - np.maximum(at - radius, 0) + 1), np.float32)


@compiled(fastmath=True)
def _sum_windows(source: Any, target: Any, shares: Any, first: Any, where: Any) -> None:
    """Sum over windows in some planes of `height` rows of `length` numbers, of which neighbours lie `step` apart."""
    down, across = shares
    height, length, radius, step, begin, end = where
    reach = radius * step
    rows = np.zeros(length + 2 * reach, np.float32)
    total = np.empty(length, np.float32)
    for plane in range(begin, end):
        base = plane * height * length
        for y in range(height):
            for x in range(length):
                rows[np.uintp(reach) + np.uintp(x)] = 0
            for near in range(max(0, y - radius), min(height, y + radius + 1)):
                o = np.uintp(base + near * length)
                share = down[near] if first else np.float32(1)
                for x in range(np.uintp(length)):
                    rows[np.uintp(reach) + x] += source[o + x] * share
            if first:
                for x in range(np.uintp(length)):
                    rows[np.uintp(reach) + x] *= across[x]
            for x in range(np.uintp(length)):
                total[x] = rows[x]
            for k in range(1, 2 * radius + 1):
                o = np.uintp(k * step)
                for x in range(np.uintp(length)):
                    total[x] += rows[o + x]
            o = np.uintp(base + y * length)
            if first:
                for x in range(np.uintp(length)):
                    target[o + x] = total[x]
            else:
                share = down[y]
                for x in range(np.uintp(length)):
                    target[o + x] = total[x] * share * across[x]
