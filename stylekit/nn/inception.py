"""The Inception-v3 of 2015-12-05 that published FIDs are taken with, frozen.

Restated from Szegedy et al., "Rethinking the Inception Architecture for Computer Vision" (2015), with torchvision's parameter
names, and with the pools of the TensorFlow graph as pytorch-fid found them: averages leave the padding out, and the last
block's pool takes the maximum. NVIDIA's TorchScript file of the same network is run as it is.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylekit.errors import AssetError

INPUT_SIZE = 299
FEATURES = 2048
_CLASSES = 1008
_BATCH_NORM_EPS = 1e-3

Kernel = tuple[int, int]
Stage = tuple[int, tuple[Kernel, ...]]
"""Output channels and kernels of one convolution, or of two side by side."""

_1X1, _3X3, _5X5 = ((1, 1),), ((3, 3),), ((5, 5),)
_1X7, _7X1, _FORK = ((1, 7),), ((7, 1),), ((1, 3), (3, 1))


class _Conv(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: Kernel, stride: int = 1, *, padded: bool = True) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2) if padded else 0
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=_BATCH_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


def _average(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def _maximum(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, 1, 1)


def _reduce(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, 2)


class _Block(nn.Module):
    """Chains of convolutions beside a pool, their channels stacked.

    A convolution is named `<chain>_<place>`, in a chain of one `<chain>`; two side by side have an `a` and a `b` behind it.

    Args:
        inputs: Channels that come in.
        chains: Stages of each chain.
        pool: What the pool does. With `_reduce` the last convolution of each chain halves the picture too.
        pool_outputs: Channels of the convolution behind the pool; 0 for none.
    """

    def __init__(
        self, inputs: int, chains: dict[str, tuple[Stage, ...]], pool: Callable[[Tensor], Tensor], pool_outputs: int
    ) -> None:
        super().__init__()
        self.pool = pool
        self.chains: list[list[list[str]]] = []
        for chain, stages in chains.items():
            channels, names = inputs, []
            for place, (outputs, kernels) in enumerate(stages, 1):
                base = f"{chain}_{place}" if len(stages) > 1 else chain
                names.append([base + side for side in ("ab" if len(kernels) > 1 else ("",))])
                halves = pool is _reduce and place == len(stages)
                for name, kernel in zip(names[-1], kernels, strict=True):
                    self.add_module(name, _Conv(channels, outputs, kernel, 2 if halves else 1, padded=not halves))
                channels = outputs
            self.chains.append(names)
        if pool_outputs:
            self.branch_pool = _Conv(inputs, pool_outputs, (1, 1))

    def forward(self, x: Tensor) -> Tensor:
        found = []
        for chain in self.chains:
            y = x
            for names in chain:
                sides = [self.get_submodule(name)(y) for name in names]
                y = torch.cat(sides, 1) if len(sides) > 1 else sides[0]
            found.append(y)
        pooled = self.pool(x)
        return torch.cat([*found, self.branch_pool(pooled) if hasattr(self, "branch_pool") else pooled], 1)


def _block_a(inputs: int, pool_outputs: int) -> _Block:
    chains: dict[str, tuple[Stage, ...]] = {
        "branch1x1": ((64, _1X1),),
        "branch5x5": ((48, _1X1), (64, _5X5)),
        "branch3x3dbl": ((64, _1X1), (96, _3X3), (96, _3X3)),
    }
    return _Block(inputs, chains, _average, pool_outputs)


def _block_b(inputs: int) -> _Block:
    return _Block(inputs, {"branch3x3": ((384, _3X3),), "branch3x3dbl": ((64, _1X1), (96, _3X3), (96, _3X3))}, _reduce, 0)


def _block_c(inputs: int, width: int) -> _Block:
    chains: dict[str, tuple[Stage, ...]] = {
        "branch1x1": ((192, _1X1),),
        "branch7x7": ((width, _1X1), (width, _1X7), (192, _7X1)),
        "branch7x7dbl": ((width, _1X1), (width, _7X1), (width, _1X7), (width, _7X1), (192, _1X7)),
    }
    return _Block(inputs, chains, _average, 192)


def _block_d(inputs: int) -> _Block:
    chains: dict[str, tuple[Stage, ...]] = {
        "branch3x3": ((192, _1X1), (320, _3X3)),
        "branch7x7x3": ((192, _1X1), (192, _1X7), (192, _7X1), (192, _3X3)),
    }
    return _Block(inputs, chains, _reduce, 0)


def _block_e(inputs: int, pool: Callable[[Tensor], Tensor]) -> _Block:
    chains: dict[str, tuple[Stage, ...]] = {
        "branch1x1": ((320, _1X1),),
        "branch3x3": ((384, _1X1), (384, _FORK)),
        "branch3x3dbl": ((448, _1X1), (384, _3X3), (384, _FORK)),
    }
    return _Block(inputs, chains, pool, 192)


class Inception(nn.Module):
    """The network up to its pooled features, in either form."""

    def trunk(self, x: Tensor) -> Tensor:
        """Return [N, 2048] globally averaged features of pictures [N, 3, 299, 299], in about [-1, 1]."""
        raise NotImplementedError

    def pooled(self, picture: Tensor) -> Tensor:
        """Return [N, 2048] features of pictures [N, 3, H, W] in [-1, 1].

        The picture is brought to 299 x 299 by plain bilinear resizing first, as pytorch-fid does, which aliases when it shrinks.
        """
        return self.trunk(F.interpolate(picture, (INPUT_SIZE, INPUT_SIZE), mode="bilinear", align_corners=False))


class Inception2015(Inception):
    """The trunk, and the layer of 1,008 classes, which the file has and the features do without."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _Conv(3, 32, (3, 3), 2, padded=False)
        self.Conv2d_2a_3x3 = _Conv(32, 32, (3, 3), padded=False)
        self.Conv2d_2b_3x3 = _Conv(32, 64, (3, 3))
        self.Conv2d_3b_1x1 = _Conv(64, 80, (1, 1))
        self.Conv2d_4a_3x3 = _Conv(80, 192, (3, 3), padded=False)
        self.Mixed_5b = _block_a(192, 32)
        self.Mixed_5c = _block_a(256, 64)
        self.Mixed_5d = _block_a(288, 64)
        self.Mixed_6a = _block_b(288)
        self.Mixed_6b = _block_c(768, 128)
        self.Mixed_6c = _block_c(768, 160)
        self.Mixed_6d = _block_c(768, 160)
        self.Mixed_6e = _block_c(768, 192)
        self.Mixed_7a = _block_d(768)
        self.Mixed_7b = _block_e(1280, _average)
        self.Mixed_7c = _block_e(2048, _maximum)
        self.fc = nn.Linear(FEATURES, _CLASSES)

    def trunk(self, x: Tensor) -> Tensor:
        """Return [N, 2048] globally averaged features of pictures [N, 3, 299, 299], in about [-1, 1]."""
        x = _reduce(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))))
        x = _reduce(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)))
        for name, block in self.named_children():
            if name.startswith("Mixed"):
                x = block(x)
        return x.mean((2, 3))


class ScriptedInception(Inception):
    """NVIDIA's `inception-2015-12-05.pt`, of whose program only the layers are called, without its own resize.

    The file's own call subtracts 128, divides by 128 and calls `layers`, as clean-fid does outside (`inception_torchscript.py`).
    """

    def __init__(self, program: torch.jit.ScriptModule) -> None:
        super().__init__()
        self.layers = program.layers

    def trunk(self, x: Tensor) -> Tensor:
        """Return [N, 2048] globally averaged features of pictures [N, 3, 299, 299], in about [-1, 1]."""
        return torch.as_tensor(self.layers(x)).reshape(len(x), FEATURES)


def load_inception_2015(path: Path) -> Inception:
    """Read `pt_inception-2015-12-05-6726825d.pth`, or NVIDIA's `inception-2015-12-05.pt`, into a frozen network in eval mode.

    The second is a TorchScript program: its layers are run as they are, so it must come from a source that you trust.

    Raises:
        AssetError: If the file is neither.
    """
    try:
        network = _scripted(path) if _is_torchscript(path) else _plain(path)
    except (OSError, EOFError, LookupError, RuntimeError, ValueError, TypeError, AttributeError, UnpicklingError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise AssetError(
            f"{path} is not the Inception of 2015 ({reason}).",
            "Run: stylekit assets add fid-features pt_inception-2015-12-05-6726825d.pth --name inception-2015",
        ) from error
    return network.requires_grad_(False).eval()


def _plain(path: Path) -> Inception:
    network = Inception2015()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network


def _scripted(path: Path) -> Inception:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        network = ScriptedInception(torch.jit.load(path, map_location="cpu"))  # type: ignore[no-untyped-call]
    with torch.inference_mode():
        network.trunk(torch.zeros(1, 3, INPUT_SIZE, INPUT_SIZE))  # it says so itself if it gives other features
    return network


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())
