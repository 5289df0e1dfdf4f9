"""3x3 convolutions on a CPU with a quarter of the multiplications: Winograd's F(4x4, 3x3), as Lavin and Gray (2016) give it.

Every 4x4 tile of the result is made from a 6x6 tile of the input: both go through small fixed transforms (their section 4.2),
which the kernels here compute, and between them stand 36 matrix products over the channels, one grouped convolution for torch.
In float32 the result is a few times less exact than a direct convolution's: 1e-6 of its standard deviation in the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from stylekit.nn.cpu import can_compile, compiled, in_parallel

Floats: TypeAlias = NDArray[np.float32]

_POINTS = 36
_LANES = 16  # numbers in the widest vector register
_TILES = 128  # at a time, so that what the transforms make stays in the processor's cache
# Below these the transforms cost more than they save.
_FEWEST_CHANNELS = 32
_FEWEST_TILES = 64
_FEWEST_TILES_ANEW = 256

_NEAR, _FAR = 0.75, 1.5
"""The product is taken at 0, plus and minus these, and infinity. With 1 and 2, as in the paper, it is 1.7 times less exact."""


def _kernel_transform() -> Tensor:
    """Return G, [6, 3], of the paper's section 4 for these points: their powers over the products of their differences."""
    at = torch.tensor([0, _NEAR, -_NEAR, _FAR, -_FAR], dtype=torch.float64)
    apart = (at[:, None] - at).fill_diagonal_(1).prod(1)
    finite = at[:, None] ** torch.arange(3) / apart[:, None]
    return torch.cat((finite, torch.tensor([[0.0, 0, 1]], dtype=torch.float64)))


def _sum_of_points() -> Tensor:
    """Return how the 36 points of a tile of gradients add up to the tile's sum."""
    row = torch.tensor([1 - _NEAR**-2, 0, 0, 0, 0, 1 - _NEAR**2], dtype=torch.float64)
    row[1], row[2] = (_NEAR**-2 + 1 / _NEAR) / 2, (_NEAR**-2 - 1 / _NEAR) / 2
    return torch.outer(row, row).flatten().float()


_G = _kernel_transform()
_SUM = _sum_of_points()


def pays(picture: Tensor, weight: Tensor, *, frozen: bool = False) -> bool:
    """Tell whether a 3x3 convolution of stride 1 is faster here than torch's own.

    Args:
        picture: [N, C, H, W].
        weight: [K, C, 3, 3].
        frozen: The kernel's points are kept from one time to the next.
    """
    count, _, height, width = picture.shape
    outputs, inputs = weight.shape[:2]
    return (
        picture.device.type == "cpu"
        and picture.dtype == weight.dtype == torch.float32
        and inputs % _LANES == 0 == outputs % _LANES
        and min(inputs, outputs) >= _FEWEST_CHANNELS
        and count * -(-height // 4) * -(-width // 4) >= (_FEWEST_TILES if frozen else _FEWEST_TILES_ANEW)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and can_compile()
    )


@dataclass(frozen=True)
class Points:
    """A 3x3 kernel in the 36 points of the product.

    Attributes:
        inputs: Channels C of what is convolved.
        outputs: Channels K of the result.
        weight: [36 K, C, 1, 1] for a convolution in 36 groups, in the layout that oneDNN wants where torch has it.
    """

    inputs: int
    outputs: int
    weight: Tensor

    @classmethod
    def of(cls, weight: Tensor) -> Points:
        """Transform a kernel [K, C, 3, 3]."""
        outputs, inputs = weight.shape[:2]
        points = torch.einsum("ia,kcab,jb->ijkc", _G, weight.detach().double(), _G)
        points = points.reshape(_POINTS * outputs, inputs, 1, 1).float()
        if _packs():
            shape = [1, _POINTS * inputs, _TILES, 1]
            points = torch.ops.mkldnn._reorder_convolution_weight(points, [0, 0], [1, 1], [1, 1], _POINTS, shape)
        return cls(inputs, outputs, points)

    def times(self, tiles: Tensor) -> Tensor:
        """Multiply [T, 36 C] by the kernel, point by point, to [T, 36 K]."""
        as_picture = tiles.view(1, len(tiles), 1, _POINTS * self.inputs).permute(0, 3, 1, 2)
        if _packs():
            product = torch.ops.mkldnn._convolution_pointwise(
                as_picture, self.weight, None, [0, 0], [1, 1], [1, 1], _POINTS, "none", [], ""
            )
        else:
            product = F.conv2d(as_picture, self.weight, groups=_POINTS)
        rows: Tensor = product.permute(0, 2, 3, 1).reshape(len(tiles), _POINTS * self.outputs)
        return rows


@cache
def _packs() -> bool:
    """Whether torch lets weights be brought into oneDNN's own layout beforehand."""
    names = ("_reorder_convolution_weight", "_convolution_pointwise")
    there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return there and all(hasattr(torch.ops.mkldnn, name) for name in names)


def turned(weight: Tensor) -> Tensor:
    """Return the kernel [C, K, 3, 3] by which the gradient goes back through a convolution by [K, C, 3, 3]."""
    return weight.detach().flip(2, 3).transpose(0, 1)


def convolve(
    picture: Tensor, points: Points, bias: Tensor | None = None, slope: float = 1.0, gate: Tensor | None = None
) -> Tensor:
    """Convolve with a 3x3 kernel, zero padding, then a leaky ReLU.

    Args:
        picture: [N, C, H, W] float32.
        points: The kernel.
        bias: [K].
        slope: Of the leaky ReLU's negative side; 0 is a ReLU, 1 none.
        gate: [N, C, H, W]: the picture is multiplied by `slope` first wherever this is not positive, and nothing follows the
            convolution. It is how a gradient goes back through the leaky ReLU that made `gate`.

    Returns:
        [N, K, H, W] float32, channels last in memory.
    """
    count, _, height, width = picture.shape
    source, made = _channels_last(picture), torch.empty(count, height, width, points.outputs)
    gates = source if gate is None else _channels_last(gate)
    before, after = (1.0, slope) if gate is None else (slope, 1.0)
    biases = np.zeros(points.outputs, np.float32) if bias is None else bias.detach().numpy()
    result = made.numpy().reshape(-1)
    enter_tiles, leave_tiles = _enter(points.inputs), _leave(points.outputs)
    for first, rows, tiles in _parts(count, height, width):
        entered = torch.empty(tiles, _POINTS * points.inputs)
        taken = entered.numpy().reshape(-1)

        def enter(begin: int, end: int, out: Floats = taken, first: int = first) -> None:
            enter_tiles(source, gates, before, out, (height, width, first, begin, end))

        in_parallel(enter, rows)
        product = points.times(entered).numpy().reshape(-1)

        def leave(begin: int, end: int, of: Floats = product, first: int = first) -> None:
            leave_tiles(of, biases, after, result, (height, width, first, begin, end))

        in_parallel(leave, rows)
    return made.permute(0, 3, 1, 2)


def _parts(count: int, height: int, width: int) -> Iterator[tuple[int, int, int]]:
    """Yield rows of tiles to work on at once: the first, how many, and their tiles."""
    across, down = -(-width // 4), count * -(-height // 4)
    parts = min(down, max(1, down * across // _TILES))
    for part in range(parts):
        first, end = down * part // parts, down * (part + 1) // parts
        yield first, end - first, (end - first) * across


def _channels_last(picture: Tensor) -> Floats:
    return picture.detach().permute(0, 2, 3, 1).contiguous().numpy().reshape(-1)


def weight_gradient(picture: Tensor, gradient: Tensor, slope: float = 1.0, gate: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the gradients of a 3x3 convolution's kernel and bias, in the same 36 points.

    Args:
        picture: What was convolved, [N, C, H, W] float32.
        gradient: By the result, [N, K, H, W] float32.
        slope: Of the leaky ReLU's negative side that followed.
        gate: What the leaky ReLU made, [N, K, H, W]; None where none followed.

    Returns:
        [K, C, 3, 3] and [K].
    """
    count, inputs, height, width = picture.shape
    outputs = gradient.shape[1]
    source, back = _channels_last(picture), _channels_last(gradient)
    gates, negative = (back, 1.0) if gate is None else (_channels_last(gate), slope)
    points = torch.zeros(_POINTS, outputs, inputs)
    sums = torch.zeros(outputs)
    enter, spread_tiles = _enter(inputs), _spread(outputs)
    for first, rows, tiles in _parts(count, height, width):
        entered, spread = torch.empty(tiles, _POINTS, inputs), torch.empty(tiles, _POINTS, outputs)
        into = entered.numpy().reshape(-1), spread.numpy().reshape(-1)

        def transform(begin: int, end: int, into: tuple[Floats, Floats] = into, first: int = first) -> None:
            enter(source, source, 1.0, into[0], (height, width, first, begin, end))
            spread_tiles(back, gates, negative, into[1], (height, width, first, begin, end))

        in_parallel(transform, rows)
        torch.baddbmm(points, spread.permute(1, 2, 0), entered.transpose(0, 1), out=points)
        sums += _SUM @ spread.sum(0)
    weight = torch.einsum("ia,ijkc,jb->kcab", _G, points.view(6, 6, outputs, inputs).double(), _G)
    return weight.float(), sums


class Kernel:
    """A 3x3 kernel's points, and those of the kernel turned, each made when it is first needed.

    Args:
        weight: [K, C, 3, 3].
    """

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight.detach()

    @cached_property
    def points(self) -> Points:
        """To convolve with."""
        return Points.of(self._weight)

    @cached_property
    def back(self) -> Points:
        """To take the gradient back by."""
        return Points.of(turned(self._weight))


class _Convolution(torch.autograd.Function):
    """`convolve` with its gradients, by the picture and by the weights."""

    @staticmethod
    def forward(ctx: Any, picture: Tensor, weight: Tensor, bias: Tensor, how: tuple[Kernel, float]) -> Tensor:
        ctx.kernel, ctx.slope = how
        made = convolve(picture, ctx.kernel.points, bias, ctx.slope)
        ctx.save_for_backward(picture if weight.requires_grad else None, weight, made if ctx.slope != 1 else None)
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gradient = gradients[0]
        picture, _, made = ctx.saved_tensors
        of_picture = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_picture = convolve(gradient, ctx.kernel.back, None, ctx.slope, gate=made)
        if ctx.needs_input_grad[1]:
            of_weight, of_bias = weight_gradient(picture, gradient, ctx.slope, made)
        return of_picture, of_weight, of_bias, None


class FrozenWeights:
    """The kernels of convolutions that are not trained, whose points are kept."""

    def __init__(self) -> None:
        self._kept: dict[Tensor, tuple[int, Kernel]] = {}

    def __reduce__(self) -> tuple[type[FrozenWeights], tuple[()]]:
        return FrozenWeights, ()  # a copy makes its own

    def of(self, picture: Tensor, weight: Tensor) -> Kernel | None:
        """Return a kernel; None where its points do not pay for this picture."""
        if not pays(picture, weight, frozen=True):
            return None
        version, kept = self._kept.get(weight, (None, None))
        if kept is None or version != weight._version:
            kept = Kernel(weight)
            self._kept[weight] = (weight._version, kept)
        return kept


def conv3x3(picture: Tensor, weight: Tensor, bias: Tensor, slope: float = 1.0, kept: Kernel | None = None) -> Tensor:
    """Convolve with a 3x3 kernel, stride 1 and zero padding 1, then take a leaky ReLU, in the fastest way there is here.

    Args:
        picture: [N, C, H, W].
        weight: [K, C, 3, 3].
        bias: [K].
        slope: Of the leaky ReLU's negative side; 0 is a ReLU, 1 none.
        kept: The same kernel from `FrozenWeights`, where the network is not trained.

    Returns:
        [N, K, H, W].
    """
    if kept or pays(picture, weight):
        how = (kept or Kernel(weight), slope)
        made: Tensor = _Convolution.apply(picture, weight, bias, how)  # type: ignore[no-untyped-call]
        return made
    made = F.conv2d(picture, weight, bias, padding=1)
    return made if slope == 1 else F.leaky_relu(made, slope, inplace=True)


# LLVM makes vector code of the innermost loops, over the channels, only where no more than eight pairs of places must be checked
# not to overlap; places a known distance apart count as one. So the number of channels is a constant of each kernel, the first
# pass stores what the second one loads pixel by pixel, not row by row, and indices are unsigned.


@cache
def _enter(channels: int) -> Callable[..., None]:
    """Return the kernel that transforms 6x6 tiles of some rows of tiles: `out[k, p, c]` of tile k, Lavin and Gray's B^T d B."""
    one = np.uintp(channels)

    @compiled(fastmath=True)
    def enter(picture: Any, gate: Any, slope: Any, out: Any, where: Any) -> None:
        height, width, first, begin, end = where
        gated = slope != 1
        negative = np.float32(slope)
        p, q = np.float32(_NEAR), np.float32(_FAR)
        pp, qq = p * p, q * q
        sum_, product = pp + qq, pp * qq
        across, down = np.uintp((width + 3) // 4), (height + 3) // 4
        line = np.uintp(width) * one
        halfway = np.zeros((4 * across + 2) * 6 * one, np.float32)
        near = np.empty(6 * line, np.float32)
        for r in range(begin, end):
            image, top = (first + r) // down, (first + r) % down * 4 - 1
            if gated or top < 0 or top + 6 > height:
                for i in range(6):
                    y, z = top + i, np.uintp(i) * line
                    o = np.uintp((image * height + y) * width) * one
                    if not 0 <= y < height:
                        for c in range(line):
                            near[z + c] = 0
                    elif gated:
                        for c in range(line):
                            v = picture[o + c]
                            near[z + c] = v if gate[o + c] > 0 else v * negative
                    else:
                        for c in range(line):
                            near[z + c] = picture[o + c]
                source, start = near, np.uintp(0)
            else:
                source, start = picture, np.uintp((image * height + top) * width) * one
            for x in range(np.uintp(width)):
                o, z = start + x * one, (x + np.uintp(1)) * np.uintp(6) * one
                for c in range(one):
                    d0 = source[o + c]
                    d1 = source[o + c + line]
                    d2 = source[o + c + np.uintp(2) * line]
                    d3 = source[o + c + np.uintp(3) * line]
                    d4 = source[o + c + np.uintp(4) * line]
                    d5 = source[o + c + np.uintp(5) * line]
                    s = d4 - qq * d2
                    u = p * (d3 - qq * d1)
                    v = d4 - pp * d2
                    w = q * (d3 - pp * d1)
                    halfway[z + c] = product * d0 - sum_ * d2 + d4
                    halfway[z + c + one] = s + u
                    halfway[z + c + np.uintp(2) * one] = s - u
                    halfway[z + c + np.uintp(3) * one] = v + w
                    halfway[z + c + np.uintp(4) * one] = v - w
                    halfway[z + c + np.uintp(5) * one] = product * d1 - sum_ * d3 + d5
            for t in range(across):
                for i in range(np.uintp(6)):
                    o = (t * np.uintp(24) + i) * one
                    z = ((np.uintp(r) * across + t) * np.uintp(36) + i * np.uintp(6)) * one
                    for c in range(one):
                        d0 = halfway[o + c]
                        d1 = halfway[o + c + np.uintp(6) * one]
                        d2 = halfway[o + c + np.uintp(12) * one]
                        d3 = halfway[o + c + np.uintp(18) * one]
                        d4 = halfway[o + c + np.uintp(24) * one]
                        d5 = halfway[o + c + np.uintp(30) * one]
                        s = d4 - qq * d2
                        u = p * (d3 - qq * d1)
                        v = d4 - pp * d2
                        w = q * (d3 - pp * d1)
                        out[z + c] = product * d0 - sum_ * d2 + d4
                        out[z + c + one] = s + u
                        out[z + c + np.uintp(2) * one] = s - u
                        out[z + c + np.uintp(3) * one] = v + w
                        out[z + c + np.uintp(4) * one] = v - w
                        out[z + c + np.uintp(5) * one] = product * d1 - sum_ * d3 + d5

    return enter


@cache
def _leave(channels: int) -> Callable[..., None]:
    """Return the kernel that brings some rows of tiles back, Lavin and Gray's A^T m A, adds the bias, takes the leaky ReLU."""
    one = np.uintp(channels)

    @compiled(fastmath=True)
    def leave(product: Any, bias: Any, slope: Any, out: Any, where: Any) -> None:
        height, width, first, begin, end = where
        negative = np.float32(slope)
        p, q = np.float32(_NEAR), np.float32(_FAR)
        pp, qq, ppp, qqq = p * p, q * q, p * p * p, q * q * q
        across, down = (width + 3) // 4, (height + 3) // 4
        halfway = np.empty(np.uintp(24) * one, np.float32)
        made = np.empty(np.uintp(16) * one, np.float32)
        for r in range(begin, end):
            image, top = (first + r) // down, (first + r) % down * 4
            for t in range(across):
                left = t * 4
                for i in range(np.uintp(6)):
                    o = (np.uintp(r * across + t) * np.uintp(36) + i * np.uintp(6)) * one
                    z = i * np.uintp(4) * one
                    for c in range(one):
                        m1 = product[o + c + one]
                        m2 = product[o + c + np.uintp(2) * one]
                        m3 = product[o + c + np.uintp(3) * one]
                        m4 = product[o + c + np.uintp(4) * one]
                        s, d, u, v = m1 + m2, m1 - m2, m3 + m4, m3 - m4
                        halfway[z + c] = product[o + c] + s + u
                        halfway[z + c + one] = p * d + q * v
                        halfway[z + c + np.uintp(2) * one] = pp * s + qq * u
                        halfway[z + c + np.uintp(3) * one] = ppp * d + qqq * v + product[o + c + np.uintp(5) * one]
                for j in range(np.uintp(4)):
                    o = j * one
                    for c in range(one):
                        m1 = halfway[o + c + np.uintp(4) * one]
                        m2 = halfway[o + c + np.uintp(8) * one]
                        m3 = halfway[o + c + np.uintp(12) * one]
                        m4 = halfway[o + c + np.uintp(16) * one]
                        s, d, u, v = m1 + m2, m1 - m2, m3 + m4, m3 - m4
                        shift = bias[c]
                        y0 = halfway[o + c] + s + u + shift
                        y1 = p * d + q * v + shift
                        y2 = pp * s + qq * u + shift
                        y3 = ppp * d + qqq * v + halfway[o + c + np.uintp(20) * one] + shift
                        made[o + c] = y0 if y0 > 0 else y0 * negative
                        made[o + c + np.uintp(4) * one] = y1 if y1 > 0 else y1 * negative
                        made[o + c + np.uintp(8) * one] = y2 if y2 > 0 else y2 * negative
                        made[o + c + np.uintp(12) * one] = y3 if y3 > 0 else y3 * negative
                row = np.uintp(min(4, width - left)) * one
                for i in range(min(4, height - top)):
                    o = np.uintp((image * height + top + i) * width + left) * one
                    z = np.uintp(4 * i) * one
                    for c in range(row):
                        out[o + c] = made[z + c]

    return leave


@cache
def _spread(channels: int) -> Callable[..., None]:
    """Return the kernel that transforms 4x4 tiles of some rows of tiles of a gradient, A g A^T: back through `_leave`."""
    one = np.uintp(channels)

    @compiled(fastmath=True)
    def spread(gradient: Any, gate: Any, slope: Any, out: Any, where: Any) -> None:
        height, width, first, begin, end = where
        gated = slope != 1
        negative = np.float32(slope)
        p, q = np.float32(_NEAR), np.float32(_FAR)
        pp, qq, ppp, qqq = p * p, q * q, p * p * p, q * q * q
        across, down = np.uintp((width + 3) // 4), (height + 3) // 4
        line = np.uintp(width) * one
        halfway = np.zeros(4 * across * 6 * one, np.float32)
        near = np.empty(4 * line, np.float32)
        for r in range(begin, end):
            image, top = (first + r) // down, (first + r) % down * 4
            if gated or top + 4 > height:
                for i in range(4):
                    y, z = top + i, np.uintp(i) * line
                    o = np.uintp((image * height + y) * width) * one
                    if y >= height:
                        for c in range(line):
                            near[z + c] = 0
                    elif gated:
                        for c in range(line):
                            v = gradient[o + c]
                            near[z + c] = v if gate[o + c] > 0 else v * negative
                    else:
                        for c in range(line):
                            near[z + c] = gradient[o + c]
                source, start = near, np.uintp(0)
            else:
                source, start = gradient, np.uintp((image * height + top) * width) * one
            for x in range(np.uintp(width)):
                o, z = start + x * one, x * np.uintp(6) * one
                for c in range(one):
                    g0 = source[o + c]
                    g1 = source[o + c + line]
                    g2 = source[o + c + np.uintp(2) * line]
                    g3 = source[o + c + np.uintp(3) * line]
                    even, odd = g0 + pp * g2, p * g1 + ppp * g3
                    even2, odd2 = g0 + qq * g2, q * g1 + qqq * g3
                    halfway[z + c] = g0
                    halfway[z + c + one] = even + odd
                    halfway[z + c + np.uintp(2) * one] = even - odd
                    halfway[z + c + np.uintp(3) * one] = even2 + odd2
                    halfway[z + c + np.uintp(4) * one] = even2 - odd2
                    halfway[z + c + np.uintp(5) * one] = g3
            for t in range(across):
                for i in range(np.uintp(6)):
                    o = (t * np.uintp(24) + i) * one
                    z = ((np.uintp(r) * across + t) * np.uintp(36) + i * np.uintp(6)) * one
                    for c in range(one):
                        g0 = halfway[o + c]
                        g1 = halfway[o + c + np.uintp(6) * one]
                        g2 = halfway[o + c + np.uintp(12) * one]
                        g3 = halfway[o + c + np.uintp(18) * one]
                        even, odd = g0 + pp * g2, p * g1 + ppp * g3
                        even2, odd2 = g0 + qq * g2, q * g1 + qqq * g3
                        out[z + c] = g0
                        out[z + c + one] = even + odd
                        out[z + c + np.uintp(2) * one] = even - odd
                        out[z + c + np.uintp(3) * one] = even2 + odd2
                        out[z + c + np.uintp(4) * one] = even2 - odd2
                        out[z + c + np.uintp(5) * one] = g3

    return spread
