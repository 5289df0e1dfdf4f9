"""Reading a published network's weight file, and nothing but its weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import TypeVar

import torch
from torch import Tensor, nn

from stylekit.errors import AssetError

N = TypeVar("N", bound=nn.Module)


def load_frozen(build: Callable[[], N], path: Path, what: str, mend: str) -> N:
    """Read a state dict that has exactly the network's names and shapes; no random number is drawn.

    Args:
        build: Makes the network.
        path: A file of `torch.save` that holds the state dict and nothing else.
        what: What the file should be, for the error: "the IR-SE50 of InsightFace_Pytorch".
        mend: The next step, for the error.

    Returns:
        The network in eval mode, float32, on the CPU, without gradients for its weights.

    Raises:
        AssetError: If the file is missing, damaged, asks to run code, or is of another network.
    """
    with torch.device("meta"):
        network = build()
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
            raise TypeError("it holds more than weights")
        network.load_state_dict(state, assign=True)
    except (OSError, EOFError, LookupError, RuntimeError, ValueError, TypeError, AttributeError, UnpicklingError) as error:
        reason = " ".join(line.strip() for line in str(error).splitlines()[:2]) or type(error).__name__
        raise AssetError(f"{path} is not {what} ({reason}).", mend) from error
    return network.float().requires_grad_(False).eval()
