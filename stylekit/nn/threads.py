"""A batch sent through a network on a CPU by several threads, each with pictures of its own.

Torch's own threads share every operator and wait for each other at the end of each; these meet once, after the whole network, so
that two cores do nearly as much as two processes would.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache, wraps
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Seen = TypeVar("Seen", Tensor, dict[str, Tensor])
T = TypeVar("T")
R = TypeVar("R")

_ONLY = ""


def on_threads(function: Callable[..., Seen]) -> Callable[..., Seen]:
    """Return a function that does the same to a batch on a CPU, its pictures divided among torch's threads.

    The result and its gradients are the same up to the order of addition, which is that of the parts. Elsewhere than on a CPU,
    and where there is one thread or one picture, the function itself is called. A result's graph is gone back through once. A
    thread that first uses torch meanwhile has the parts' number of threads.

    Args:
        function: Of a batch [N, ...], and of other arguments without gradient, to a tensor [N, ...] or to several by name; each
            picture by itself, in the same way whatever was before. Of a module the parameters get gradients, of others none but
            the batch.
    """
    parameters = [p for p in function.parameters() if p.requires_grad] if isinstance(function, nn.Module) else []

    @wraps(function, updated=())
    def divided(batch: Tensor, *others: Any) -> Any:
        if batch.device.type != "cpu" or min(torch.get_num_threads(), len(batch)) <= 1:
            return function(batch, *others)

        def named(part: Tensor) -> Mapping[str, Tensor]:
            seen = function(part, *others)
            return {_ONLY: seen} if isinstance(seen, Tensor) else seen

        names: list[str] = []
        seen = _Divided.apply(batch, named, names, torch.is_grad_enabled(), *parameters)  # type: ignore[no-untyped-call]
        return seen[0] if names == [_ONLY] else dict(zip(names, seen, strict=True))

    return divided


class _Divided(torch.autograd.Function):
    """Each part has a graph of its own, which its thread goes back through."""

    @staticmethod
    def forward(
        ctx: Any,
        batch: Tensor,
        function: Callable[[Tensor], Mapping[str, Tensor]],
        names: list[str],
        wanted: bool,
        *parameters: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.by_batch, ctx.parameters = batch.requires_grad, parameters
        wanted = wanted and (ctx.by_batch or any(p.requires_grad for p in parameters))

        def forth(part: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
            part = part.detach().requires_grad_(wanted and ctx.by_batch)
            with torch.set_grad_enabled(wanted):
                return part, function(part)

        parts = _each_alone(forth, batch.tensor_split(min(torch.get_num_threads(), len(batch))))
        names.extend(parts[0][1])
        if wanted:
            ctx.parts = [(part, list(seen.values())) for part, seen in parts]
        return tuple(torch.cat([seen[name].detach() for _, seen in parts]) for name in names)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        parts, ctx.parts = ctx.parts, None
        shares = zip(*(torch.split(gradient, [len(part) for part, _ in parts]) for gradient in gradients), strict=True)

        def back(job: tuple[tuple[Tensor, list[Tensor]], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
            (part, seen), share = job
            into = [part] if ctx.by_batch else []
            return torch.autograd.grad(seen, [*into, *(p for p in ctx.parameters if p.requires_grad)], share)

        found = _each_alone(back, list(zip(parts, shares, strict=True)))
        del parts
        of_batch = torch.cat([each[0] for each in found]) if ctx.by_batch else None
        sums = iter([torch.stack(same).sum(0) for same in zip(*(each[int(ctx.by_batch) :] for each in found), strict=True)])
        return of_batch, None, None, None, *(next(sums) if p.requires_grad else None for p in ctx.parameters)


@cache
def _pool(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="stylekit-batch")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)


def _each_alone(work: Callable[[T], R], jobs: Sequence[T]) -> list[R]:
    """Do each job in a thread that torch's threads are divided among too."""
    threads = torch.get_num_threads()

    def alone(job: T) -> R:
        torch.set_num_threads(max(1, threads // len(jobs)))  # of this thread, and of those that start later
        return work(job)

    done = [_pool(len(jobs)).submit(alone, job) for job in jobs]
    wait(done)
    torch.set_num_threads(threads)
    return [each.result() for each in done]
