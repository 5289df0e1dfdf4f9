"""What the figures were taken on: the device, and the rate of arithmetic that it reaches in the same run."""

from __future__ import annotations

import datetime
import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor

from stylekit.paths import slug
from stylekit.speed.memory import GB
from stylekit.speed.timing import median, seconds

_REPEATS = 9
_PRODUCT = {"cpu": 2048, "cuda": 8192}
_FILTER, _CHANNELS, _SIDE = 3, 256, 64
_BATCH = {"cpu": 8, "cuda": 64}


@dataclass(frozen=True)
class Machine:
    """A device and what runs on it.

    Attributes:
        device: `cpu`, `cuda` or `mps`.
        name: Of the CPU or GPU.
        cores: Logical CPU cores that this process may use.
        threads: Threads of torch.
        memory_gb: Main memory, or the GPU's.
        torch: Its version.
        python: Its version.
        system: Operating system and architecture.
        date: Of the measurement.
    """

    device: str
    name: str
    cores: int
    threads: int
    memory_gb: float
    torch: str
    python: str
    system: str
    date: str

    @property
    def label(self) -> str:
        """What file names call the device: `cpu`, `h200`."""
        return "cpu" if self.device == "cpu" else slug(re.sub(r"(?i)\b(nvidia|geforce|tesla|amd)\b", "", self.name))

    def __str__(self) -> str:
        count = "" if self.device == "cuda" else f", {self.threads} threads on {self.cores} cores"
        return f"{self.name}{count}, {self.memory_gb:.0f} GB, torch {self.torch}, {self.date}"


def describe(device: torch.device) -> Machine:
    """Return what there is to say about a device."""
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        name, memory = found.name, found.total_memory
    else:
        name, memory = _processor(), psutil.virtual_memory().total
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(
        device=device.type,
        name=name,
        cores=cores,
        threads=torch.get_num_threads(),
        memory_gb=round(memory / GB, 1),
        torch=torch.__version__.partition("+")[0],
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """While inside, let CUDA compute float32 products and convolutions in TF32, or not."""
    matmul, conv = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = conv


def arithmetic_rates(device: torch.device, *, repeats: int = _REPEATS, scale: float = 1.0) -> dict[str, float]:
    """Measure the arithmetic that the device reaches, as the median of some calls.

    Two works, for on some CPUs the convolution is the faster one: the product of two square matrices (2,048 a side, on CUDA
    8,192) and a 3x3 convolution from 256 to 256 channels of 64x64 pixels, channels last (8 pictures, on CUDA 64).

    Args:
        device: Where.
        repeats: Timed calls of each.
        scale: Of the matrices' sides and of the batch; less than 1 is faster and says less.

    Returns:
        GFLOP/s by name: `matrix_fp32`, `convolution_fp32`, and on CUDA both in `tf32` and `bf16` too. An addition and a
        multiplication are two operations.
    """
    kind = "cuda" if device.type == "cuda" else "cpu"
    side, batch = max(8, int(_PRODUCT[kind] * scale)), max(1, int(_BATCH[kind] * scale))
    found = {}
    for precision in ("fp32", "tf32", "bf16") if kind == "cuda" else ("fp32",):
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        with tf32(precision == "tf32"):
            found[f"matrix_{precision}"] = _rate(*_product(side, device, dtype), device, repeats)
            found[f"convolution_{precision}"] = _rate(*_convolution(batch, device, dtype), device, repeats)
    return found


def _product(side: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, int]:
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return left, right, 2 * side**3


def _convolution(batch: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, int]:
    last = torch.channels_last
    maps = torch.randn(batch, _CHANNELS, _SIDE, _SIDE, device=device, dtype=dtype).to(memory_format=last)
    kernel = torch.randn(_CHANNELS, _CHANNELS, _FILTER, _FILTER, device=device, dtype=dtype).to(memory_format=last)
    return maps, kernel, 2 * batch * (_SIDE * _CHANNELS * _FILTER) ** 2


def _rate(left: Tensor, right: Tensor, operations: int, device: torch.device, repeats: int) -> float:
    @torch.inference_mode()
    def work() -> object:
        return left @ right if left.ndim == 2 else F.conv2d(left, right, padding=_FILTER // 2)

    work()
    return operations / median([seconds(work, device) for _ in range(repeats)]) / 1e9
