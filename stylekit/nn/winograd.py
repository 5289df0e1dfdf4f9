"""3x3 convolutions on a CPU with a quarter of the multiplications: Winograd's F(4x4, 3x3), as Lavin and Gray (2016) give it.

Every 4x4 tile of the result is made from a 6x6 tile of the input: both go through small fixed transforms (their section 4.2),
which the kernels here compute, and between them stand 36 matrix products over the channels, one grouped convolution for torch.
In float32 the result is a few times less exact than a direct convolution's: 1e-6 of its standard deviation in the mean.
"""

from __future__ import annotations

from collections.abc import Iterator
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
_LANES = 16  # channels that a kernel works on at a time
_TILES = 256  # at a time, so that what the transforms make stays in the processor's cache
# Below these the transforms cost more than they save.
_FEWEST_CHANNELS = 64
_FEWEST_TILES = 64
_FEWEST_TILES_ANEW = 512

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
    for first, rows, tiles in _parts(count, height, width):
        entered = torch.empty(tiles, _POINTS * points.inputs)
        taken = entered.numpy().reshape(-1)

        def enter(begin: int, end: int, out: Floats = taken, first: int = first) -> None:
            _enter(source, gates, before, out, (height, width, points.inputs, first, begin, end))

        in_parallel(enter, rows)
        product = points.times(entered).numpy().reshape(-1)

        def leave(begin: int, end: int, of: Floats = product, first: int = first) -> None:
            _leave(of, biases, after, result, (height, width, points.outputs, first, begin, end))

        in_parallel(leave, rows)
    return made.permute(0, 3, 1, 2)


def _parts(count: int, height: int, width: int) -> Iterator[tuple[int, int, int]]:
    """Yield rows of tiles to work on at once: the first, how many, and their tiles."""
    across, down = -(-width // 4), count * -(-height // 4)
    parts = max(1, down * across // _TILES)
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
    for first, rows, tiles in _parts(count, height, width):
        entered, spread = torch.empty(tiles, _POINTS, inputs), torch.empty(tiles, _POINTS, outputs)
        into = entered.numpy().reshape(-1), spread.numpy().reshape(-1)

        def transform(begin: int, end: int, into: tuple[Floats, Floats] = into, first: int = first) -> None:
            _enter(source, source, 1.0, into[0], (height, width, inputs, first, begin, end))
            _spread(back, gates, negative, into[1], (height, width, outputs, first, begin, end))

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


@compiled(fastmath=True)
def _enter(picture: Any, gate: Any, slope: Any, out: Any, where: Any) -> None:
    """Transform the 6x6 tiles of some rows of tiles: `out[k, p, c]` of tile k, B^T d B in Lavin and Gray."""
    height, width, channels, first, begin, end = where
    gated = slope != 1
    across = (width + 3) // 4
    down = (height + 3) // 4
    negative = np.float32(slope)
    p, q = np.float32(_NEAR), np.float32(_FAR)
    pp, qq = p * p, q * q
    sum_, product = pp + qq, pp * qq
    row = np.uintp(96)
    lane = np.uintp(16)
    a = np.empty(576, np.float32)
    b = np.empty(576, np.float32)
    for r in range(begin, end):
        image = (first + r) // down
        top = (first + r) % down * 4 - 1
        for t in range(across):
            left = t * 4 - 1
            for c0 in range(0, channels, 16):
                for i in range(6):
                    y = top + i
                    for j in range(6):
                        x = left + j
                        z = np.uintp((i * 6 + j) * 16)
                        if 0 <= y < height and 0 <= x < width:
                            o = np.uintp(((image * height + y) * width + x) * channels + c0)
                            if gated:
                                for c in range(lane):
                                    v = picture[o + c]
                                    a[z + c] = v if gate[o + c] > 0 else v * negative
                            else:
                                for c in range(lane):
                                    a[z + c] = picture[o + c]
                        else:
                            for c in range(lane):
                                a[z + c] = 0
                for c in range(row):
                    d0 = a[c]
                    d1 = a[c + row]
                    d2 = a[c + np.uintp(192)]
                    d3 = a[c + np.uintp(288)]
                    d4 = a[c + np.uintp(384)]
                    d5 = a[c + np.uintp(480)]
                    s = d4 - qq * d2
                    u = p * (d3 - qq * d1)
                    v = d4 - pp * d2
                    w = q * (d3 - pp * d1)
                    b[c] = product * d0 - sum_ * d2 + d4
                    b[c + row] = s + u
                    b[c + np.uintp(192)] = s - u
                    b[c + np.uintp(288)] = v + w
                    b[c + np.uintp(384)] = v - w
                    b[c + np.uintp(480)] = product * d1 - sum_ * d3 + d5
                for i in range(np.uintp(6)):
                    z = i * row
                    for c in range(lane):
                        d0 = b[z + c]
                        d1 = b[z + c + np.uintp(16)]
                        d2 = b[z + c + np.uintp(32)]
                        d3 = b[z + c + np.uintp(48)]
                        d4 = b[z + c + np.uintp(64)]
                        d5 = b[z + c + np.uintp(80)]
                        s = d4 - qq * d2
                        u = p * (d3 - qq * d1)
                        v = d4 - pp * d2
                        w = q * (d3 - pp * d1)
                        a[z + c] = product * d0 - sum_ * d2 + d4
                        a[z + c + np.uintp(16)] = s + u
                        a[z + c + np.uintp(32)] = s - u
                        a[z + c + np.uintp(48)] = v + w
                        a[z + c + np.uintp(64)] = v - w
                        a[z + c + np.uintp(80)] = product * d1 - sum_ * d3 + d5
                tile = (r * across + t) * 36
                for point in range(36):
                    o = np.uintp((tile + point) * channels + c0)
                    z = np.uintp(point * 16)
                    for c in range(lane):
                        out[o + c] = a[z + c]


@compiled(fastmath=True)
def _leave(product: Any, bias: Any, slope: Any, out: Any, where: Any) -> None:
    """Bring some rows of tiles back, A^T m A in Lavin and Gray, add the bias and take the leaky ReLU."""
    height, width, channels, first, begin, end = where
    across = (width + 3) // 4
    down = (height + 3) // 4
    negative = np.float32(slope)
    p, q = np.float32(_NEAR), np.float32(_FAR)
    pp, qq, ppp, qqq = p * p, q * q, p * p * p, q * q * q
    row = np.uintp(96)
    lane = np.uintp(16)
    m = np.empty(576, np.float32)
    e = np.empty(384, np.float32)
    for r in range(begin, end):
        image = (first + r) // down
        top = (first + r) % down * 4
        for t in range(across):
            left = t * 4
            tile = (r * across + t) * 36
            for c0 in range(0, channels, 16):
                for point in range(36):
                    o = np.uintp((tile + point) * channels + c0)
                    w = np.uintp(point * 16)
                    for c in range(lane):
                        m[w + c] = product[o + c]
                for c in range(row):
                    m0 = m[c]
                    s = m[c + row] + m[c + np.uintp(192)]
                    d = m[c + row] - m[c + np.uintp(192)]
                    u = m[c + np.uintp(288)] + m[c + np.uintp(384)]
                    v = m[c + np.uintp(288)] - m[c + np.uintp(384)]
                    e[c] = m0 + s + u
                    e[c + row] = p * d + q * v
                    e[c + np.uintp(192)] = pp * s + qq * u
                    e[c + np.uintp(288)] = ppp * d + qqq * v + m[c + np.uintp(480)]
                for i in range(np.uintp(4)):
                    w = i * row
                    z = i * np.uintp(64)
                    for c in range(lane):
                        m0 = e[w + c]
                        s = e[w + c + np.uintp(16)] + e[w + c + np.uintp(32)]
                        d = e[w + c + np.uintp(16)] - e[w + c + np.uintp(32)]
                        u = e[w + c + np.uintp(48)] + e[w + c + np.uintp(64)]
                        v = e[w + c + np.uintp(48)] - e[w + c + np.uintp(64)]
                        shift = bias[np.uintp(c0) + c]
                        y0 = m0 + s + u + shift
                        y1 = p * d + q * v + shift
                        y2 = pp * s + qq * u + shift
                        y3 = ppp * d + qqq * v + e[w + c + np.uintp(80)] + shift
                        m[z + c] = y0 if y0 > 0 else y0 * negative
                        m[z + c + np.uintp(16)] = y1 if y1 > 0 else y1 * negative
                        m[z + c + np.uintp(32)] = y2 if y2 > 0 else y2 * negative
                        m[z + c + np.uintp(48)] = y3 if y3 > 0 else y3 * negative
                for i in range(min(4, height - top)):
                    for j in range(min(4, width - left)):
                        o = np.uintp(((image * height + top + i) * width + left + j) * channels + c0)
                        w = np.uintp((i * 4 + j) * 16)
                        for c in range(lane):
                            out[o + c] = m[w + c]


@compiled(fastmath=True)
def _spread(gradient: Any, gate: Any, slope: Any, out: Any, where: Any) -> None:
    """Transform the 4x4 tiles of some rows of tiles of a gradient, A g A^T: the way back through `_leave`."""
    height, width, channels, first, begin, end = where
    gated = slope != 1
    across = (width + 3) // 4
    down = (height + 3) // 4
    negative = np.float32(slope)
    p, q = np.float32(_NEAR), np.float32(_FAR)
    pp, qq, ppp, qqq = p * p, q * q, p * p * p, q * q * q
    lane = np.uintp(16)
    row = np.uintp(64)
    a = np.empty(576, np.float32)
    b = np.empty(384, np.float32)
    for r in range(begin, end):
        image = (first + r) // down
        top = (first + r) % down * 4
        for t in range(across):
            left = t * 4
            tile = (r * across + t) * 36
            for c0 in range(0, channels, 16):
                for i in range(4):
                    for j in range(4):
                        w = np.uintp((i * 4 + j) * 16)
                        if top + i < height and left + j < width:
                            o = np.uintp(((image * height + top + i) * width + left + j) * channels + c0)
                            if gated:
                                for c in range(lane):
                                    v = gradient[o + c]
                                    a[w + c] = v if gate[o + c] > 0 else v * negative
                            else:
                                for c in range(lane):
                                    a[w + c] = gradient[o + c]
                        else:
                            for c in range(lane):
                                a[w + c] = 0
                for c in range(row):
                    g0 = a[c]
                    g1 = a[c + np.uintp(64)]
                    g2 = a[c + np.uintp(128)]
                    g3 = a[c + np.uintp(192)]
                    even = g0 + pp * g2
                    odd = p * g1 + ppp * g3
                    even2 = g0 + qq * g2
                    odd2 = q * g1 + qqq * g3
                    b[c] = g0
                    b[c + np.uintp(64)] = even + odd
                    b[c + np.uintp(128)] = even - odd
                    b[c + np.uintp(192)] = even2 + odd2
                    b[c + np.uintp(256)] = even2 - odd2
                    b[c + np.uintp(320)] = g3
                for i in range(np.uintp(6)):
                    w = i * np.uintp(64)
                    z = i * np.uintp(96)
                    for c in range(lane):
                        g0 = b[w + c]
                        g1 = b[w + c + np.uintp(16)]
                        g2 = b[w + c + np.uintp(32)]
                        g3 = b[w + c + np.uintp(48)]
                        even = g0 + pp * g2
                        odd = p * g1 + ppp * g3
                        even2 = g0 + qq * g2
                        odd2 = q * g1 + qqq * g3
                        a[z + c] = g0
                        a[z + c + np.uintp(16)] = even + odd
                        a[z + c + np.uintp(32)] = even - odd
                        a[z + c + np.uintp(48)] = even2 + odd2
                        a[z + c + np.uintp(64)] = even2 - odd2
                        a[z + c + np.uintp(80)] = g3
                for point in range(36):
                    o = np.uintp((tile + point) * channels + c0)
                    w = np.uintp(point * 16)
                    for c in range(lane):
                        out[o + c] = a[w + c]
