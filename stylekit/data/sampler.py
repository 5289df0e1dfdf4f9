"""Which pictures make a batch: a function of seed and step alone, so that a resumed run draws what it would have drawn."""

from __future__ import annotations

import torch
from torch import Tensor

# One stream of random numbers for each use, so that adding one never shifts another.
STREAMS = ("photo", "cartoon", "augment_photo", "augment_cartoon", "method", "init")


def generator_for(seed: int, stream: str, step: int) -> torch.Generator:
    """Return a CPU generator that depends on nothing but its three arguments."""
    # SplitMix64 finaliser over the packed arguments: neighbouring steps get unrelated seeds.
    mask = (1 << 64) - 1
    value = ((seed << 40) ^ (STREAMS.index(stream) << 36) ^ step) + 0x9E3779B97F4A7C15 & mask
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & mask
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & mask
    return torch.Generator().manual_seed((value ^ (value >> 31)) >> 1)


class EndlessSampler:
    """Endless batches of indices.

    Args:
        count: Pictures there are; at least `batch_size`.
        batch_size: Indices in a batch.
        seed: The recipe's seed.
        stream: `photo` or `cartoon`.
        epochs: True walks through a fresh permutation of all pictures again and again; False draws each batch from a
            fresh shuffle, distinct within the batch, as ModelScope's trainer does by re-initialising its iterators every step.
    """

    def __init__(self, count: int, batch_size: int, seed: int, stream: str, *, epochs: bool = True) -> None:
        if not 0 < batch_size <= count:
            raise ValueError(f"a batch of {batch_size} cannot be drawn from {count} pictures")
        self.count, self.batch_size, self.seed, self.stream, self.epochs = count, batch_size, seed, stream, epochs
        self._order: tuple[int, Tensor] | None = None

    def _permutation(self, epoch: int) -> Tensor:
        order = self._order
        if order is None or order[0] != epoch:
            order = epoch, torch.randperm(self.count, generator=generator_for(self.seed, self.stream, epoch))
            self._order = order
        return order[1]

    def indices(self, step: int) -> list[int]:
        """Return the indices of the batch of `step`, counted from 0."""
        if not self.epochs:
            shuffled = torch.randperm(self.count, generator=generator_for(self.seed, self.stream, step))
            return shuffled[: self.batch_size].tolist()
        first = step * self.batch_size
        found: list[int] = []
        while len(found) < self.batch_size:
            epoch, offset = divmod(first + len(found), self.count)
            found += self._permutation(epoch)[offset : offset + self.batch_size - len(found)].tolist()
        return found
