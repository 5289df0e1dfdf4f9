"""What a frozen network sees in each photograph, looked at once and kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from stylekit.data.cache import RowCache
from stylekit.methods.base import Drawn
from stylekit.nn.device import send

MEMORY_BYTES = 2 << 30
"""The maps of a set of photographs are kept in a device's memory up to this size, in a cache file beyond it."""

Look = Callable[[Tensor], dict[str, Tensor]]


class PhotoFeatures:
    """Feature maps of photographs, and of their mirror images, in float32.

    What is kept was looked at by itself when it first came, so that it does not depend on the others of its batch, and a training
    that was stopped and goes on sees the same.

    Args:
        look: Returns the maps of pictures [N, 3, H, W] by layer; without gradient.
        key: What the maps depend on beside the photographs: network, layers, size, precision.
        place: Where they are kept while all of them have at most `MEMORY_BYTES`.
        mirrored: Whether the mirror images come too.
    """

    def __init__(self, look: Look, key: str, place: torch.device, *, mirrored: bool) -> None:
        self._look, self._key, self._place = look, key, place
        self._sides = 2 if mirrored else 1
        self._shapes: dict[str, torch.Size] = {}
        self._memory: dict[int, Tensor] = {}
        self._disk: RowCache | None = None

    @torch.no_grad()
    def get(self, drawn: Drawn, sources: Sequence[Tensor]) -> list[dict[str, Tensor]] | None:
        """Return the maps of a batch.

        Args:
            drawn: Which photographs.
            sources: The photographs [N, 3, H, W], and what was derived from them, in register.

        Returns:
            For each source, its maps [N, C, h, w] by layer. None where the disk keeps nothing, so that the caller may look at all
            of the batch at once.
        """
        if not self._shapes:
            self._open(drawn, sources)
        if self._disk is not None and not self._disk.usable:
            return None
        assert self._sides == 2 or not any(mirrored for _, mirrored in drawn.keys)
        keys = enumerate(drawn.keys)
        rows = torch.stack([self._row(self._sides * i + mirrored, [s[n : n + 1] for s in sources]) for n, (i, mirrored) in keys])
        if rows.device != sources[0].device:
            rows = send(rows, sources[0].device)
        parts = torch.split(rows, [math.prod(shape) for shape in self._shapes.values()], 1)
        maps = {name: part.reshape(-1, *shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)}
        return [{name: value[:, index] for name, value in maps.items()} for index in range(len(sources))]

    def _open(self, drawn: Drawn, sources: Sequence[Tensor]) -> None:
        seen = self._look(torch.cat([source[:1] for source in sources]))
        self._shapes = {name: maps.shape for name, maps in seen.items()}
        row_bytes = 4 * sum(math.prod(shape) for shape in self._shapes.values())
        rows = self._sides * len(drawn.pictures) if drawn.pictures is not None else 0
        if drawn.pictures is not None and rows * row_bytes > MEMORY_BYTES:
            self._disk = drawn.pictures.cache_of("features", f"{self._key} {self._sides}", rows, row_bytes)

    def _row(self, index: int, pictures: list[Tensor]) -> Tensor:
        if (kept := self._memory.get(index)) is not None:
            return kept
        if self._disk is not None and (found := self._disk.get(index)) is not None:
            return torch.from_numpy(found.view(np.float32).copy())
        seen = self._look(torch.cat(pictures))
        row = torch.cat([seen[name].float().flatten() for name in self._shapes]).to(self._place)
        if self._disk is not None:
            row = row.cpu()
            self._disk.put(index, row.numpy().view(np.uint8))
        elif (len(self._memory) + 1) * 4 * row.numel() <= MEMORY_BYTES:
            self._memory[index] = row
        return row
