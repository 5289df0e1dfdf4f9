"""3x3 convolutions on a CPU with a quarter of the multiplications: Winograd's F(4x4, 3x3), as Lavin and Gray (2016) give it.

Every 4x4 tile of the result is made from a 6x6 tile of the input: both go through small fixed transforms (their section 4.2),
which `winograd_tiles` computes, and between them stand 36 matrix products over the channels, one grouped convolution for torch.
In float32 the result is a few times less exact than a direct convolution's: 1e-6 of its standard deviation in the mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from stylekit.nn.cpu import can_compile, in_parallel
from stylekit.nn.winograd_tiles import FAR, NEAR, enter_tiles, leave_tiles, spread_tiles

Floats: TypeAlias = NDArray[np.float32]

_POINTS = 36
_LANES = 16  # numbers in the widest vector register
_TILES = 128  # at a time, so that what the transforms make stays in the processor's cache
# Below these the transforms cost more than they save.
_FEWEST_CHANNELS = 32
_FEWEST_TILES = 64
_FEWEST_TILES_ANEW = 256


def _kernel_transform() -> Tensor:
    """Return G, [6, 3], of the paper's section 4 for these points: their powers over the products of their differences."""
    at = torch.tensor([0, NEAR, -NEAR, FAR, -FAR], dtype=torch.float64)
    apart = (at[:, None] - at).fill_diagonal_(1).prod(1)
    finite = at[:, None] ** torch.arange(3) / apart[:, None]
    return torch.cat((finite, torch.tensor([[0.0, 0, 1]], dtype=torch.float64)))


def _sum_of_points() -> Tensor:
    """Return how the 36 points of a tile of gradients add up to the tile's sum."""
    row = torch.tensor([1 - NEAR**-2, 0, 0, 0, 0, 1 - NEAR**2], dtype=torch.float64)
    row[1], row[2] = (NEAR**-2 + 1 / NEAR) / 2, (NEAR**-2 - 1 / NEAR) / 2
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
    enter, leave = enter_tiles(points.inputs), leave_tiles(points.outputs)
    parts = _parts(count, height, width)

    def work(begin: int, end: int) -> None:
        for first, rows, tiles in parts[begin:end]:
            where = (height, width, first, 0, rows)
            entered = torch.empty(tiles, _POINTS * points.inputs)
            enter(source, gates, before, entered.numpy().reshape(-1), where)
            leave(points.times(entered).numpy().reshape(-1), biases, after, result, where)

    in_parallel(work, len(parts))
    return made.permute(0, 3, 1, 2)


def _parts(count: int, height: int, width: int) -> list[tuple[int, int, int]]:
    """Return rows of tiles to work on at once: the first, how many, and their tiles."""
    across, down = -(-width // 4), count * -(-height // 4)
    parts = min(down, max(1, down * across // _TILES))
    ends = [down * part // parts for part in range(parts + 1)]
    return [(first, end - first, (end - first) * across) for first, end in pairwise(ends)]


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
    enter, spread = enter_tiles(inputs), spread_tiles(outputs)
    for first, rows, tiles in _parts(count, height, width):
        entered, scattered = torch.empty(tiles, _POINTS, inputs), torch.empty(tiles, _POINTS, outputs)
        into = entered.numpy().reshape(-1), scattered.numpy().reshape(-1)

        def transform(begin: int, end: int, into: tuple[Floats, Floats] = into, first: int = first) -> None:
            enter(source, source, 1.0, into[0], (height, width, first, begin, end))
            spread(back, gates, negative, into[1], (height, width, first, begin, end))

        in_parallel(transform, rows)
        torch.baddbmm(points, scattered.permute(1, 2, 0), entered.transpose(0, 1), out=points)
        sums += _SUM @ scattered.sum(0)
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
    """The kernels of convolutions that are not trained, whose points are kept.

    They are made anew when torch has counted a change of the weights, or a forward pass saw them as ones to train. A change
    through `.data` is not noticed.
    """

    def __init__(self) -> None:
        self._kept: dict[Tensor, tuple[int, Kernel]] = {}

    def __reduce__(self) -> tuple[type[FrozenWeights], tuple[()]]:
        return FrozenWeights, ()  # a copy makes its own

    def of(self, picture: Tensor, weight: Tensor) -> Kernel | None:
        """Return a kernel; None where it is to be trained, or its points do not pay for this picture."""
        if weight.requires_grad:  # torch does not count what a fused optimizer changes
            self._kept.pop(weight, None)
            return None
        if not pays(picture, weight, frozen=True):
            return None
        changes = 0 if weight.is_inference() else weight._version
        counted, kept = self._kept.get(weight, (None, None))
        if kept is None or counted != changes:
            kept = Kernel(weight)
            self._kept[weight] = (changes, kept)
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
