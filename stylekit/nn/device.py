"""The device that networks run on."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from stylekit.errors import TrainingError, UsageError

_OLDEST = (7, 0)  # compute capability that Triton makes code for


def find_device(name: str | None = None) -> torch.device:
    """Return the device of a name, `cpu`, `cuda`, `cuda:1` or `mps`; the best there is for None.

    Raises:
        UsageError: If it is not there.
    """
    there = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}
    if name is None:
        return torch.device(next(kind for kind, count in there.items() if count))
    known = [known for kind, count in there.items() if count for known in (kind, *(f"{kind}:{i}" for i in range(count)))]
    if name not in known:
        raise UsageError(f"There is no device {name!r} on this machine.", f"There are: {', '.join(known)}.")
    return torch.device(name)


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the CPU to a device; to a GPU through pinned memory, so that nobody waits for the copy."""
    if device.type != "cuda":
        return tensor.to(device)
    pinned = tensor if tensor.is_pinned() else tensor.pin_memory()
    return pinned.to(device, non_blocking=True)


def set_up_cuda(*, allow_tf32: bool, benchmark: bool) -> None:
    """Set how all of this process's NVIDIA GPUs compute; without one nothing changes.

    Args:
        allow_tf32: Compute float32 convolutions with 10 bits of mantissa, on GPUs that can. Matrix products keep all 23.
        benchmark: Let cuDNN try its algorithms for every new shape and keep the fastest, whatever memory it works in.
    """
    torch.backends.cudnn.allow_tf32 = allow_tf32
    torch.backends.cudnn.benchmark = benchmark


def compile_options(wanted: str, device: torch.device, *, low_vram: bool = False) -> dict[str, Any] | None:
    """Return what `torch.compile` is to be called with; None if nothing is to be compiled.

    Args:
        wanted: `no`; `auto`, on CUDA where Triton is installed and makes code for the GPU; or `reduce-overhead`, which adds CUDA
            graphs to that.
        device: Where the networks run.
        low_vram: Parts of a batch are computed again for their gradient. That is no replay, so there are no graphs then.
    """
    if wanted == "no" or device.type != "cuda" or find_spec("triton") is None:
        return None
    if torch.cuda.get_device_capability(device) < _OLDEST:
        return None
    return {"dynamic": False} | ({"mode": wanted} if wanted != "auto" and not low_vram else {})


def begin_step(options: dict[str, Any] | None, optimizers: Iterable[torch.optim.Optimizer]) -> None:
    """Begin a step of what was compiled: CUDA graphs, where there are any, may write over the last one's, gradients too.

    Args:
        options: What `compile_options` returned.
        optimizers: Their gradients are let go of.
    """
    if options is None or "mode" not in options:
        return
    torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)


@contextmanager
def explained_compiling() -> Iterator[None]:
    """Turn an error of `torch.compile` itself into one that says how to do without.

    Raises:
        TrainingError: In place of an error of the compiler.
    """
    try:
        yield
    except RuntimeError as error:
        compiler = sys.modules.get("torch._dynamo.exc")
        if compiler is None or not isinstance(error, compiler.TorchDynamoException):
            raise
        cause = getattr(error, "inner_exception", error)
        first = next((line.strip() for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
        raise TrainingError(f"The networks cannot be compiled here: {first.rstrip('.')}.", "Use --compile no") from error
