"""The generator as TorchScript, for C++ and older mobile runtimes that read nothing newer."""

from __future__ import annotations

import warnings
from io import BytesIO

import torch
from torch import nn


def to_torchscript(module: nn.Module) -> bytes:
    """Return the network as a file for `torch.jit.load`, any batch, H and W multiples of 4.

    Tracing is right here: on sizes that are multiples of 4 every choice the network makes by size falls the same way.
    """
    buffer = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and the number of channels is meant to be constant
        torch.jit.save(torch.jit.trace(module, torch.zeros(1, 3, 32, 48)), buffer)  # type: ignore[no-untyped-call]
    return buffer.getvalue()
