"""A batch sent through a large network a few pictures at a time, for memory's sake."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

PART = 4

Seen = TypeVar("Seen", Tensor, dict[str, Tensor])


def in_parts(function: Callable[..., Seen], size: int = PART) -> Callable[..., Seen]:
    """Return a function that does the same to a batch, `size` pictures at a time.

    What a part needs for its gradient is not kept but computed again (gradient checkpointing, Chen et al. 2016), so that only one
    part's intermediate maps are in memory at any time. The result and its gradients are the same up to the order of addition.

    Args:
        function: Of a batch [N, ...], and of other arguments, to a tensor [N, ...] or to several by name; each picture by itself.
        size: Pictures in a part.
    """

    def parted(batch: Tensor, *others: Any) -> Any:
        parts: list[Any] = [
            checkpoint(function, part, *others, use_reentrant=False, preserve_rng_state=False)
            for part in torch.split(batch, size)
        ]
        if isinstance(parts[0], Mapping):
            return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        return torch.cat(parts)

    return parted
