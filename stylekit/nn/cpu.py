"""Kernels for the CPU: compiled by numba where it is installed (`stylekit[cpu]`), run on as many threads as torch uses."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from functools import cache, wraps
from typing import Any, TypeVar

import torch

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # glibc, malloc.h

_ANY_ORDER = {"reassoc", "contract", "nsz", "arcp"}  # of LLVM's flags, without those that assume finite numbers
_NAME = "stylekit-cpu"

F = TypeVar("F", bound=Callable[..., Any])


@cache
def can_compile() -> bool:
    """Whether numba is installed and works here."""
    try:
        import numba  # noqa: F401
    except ImportError:  # also what it raises where NumPy is newer than it knows
        return False
    return True


def compiled(*, fastmath: bool = False) -> Callable[[F], F]:
    """Make a function of arrays and numbers machine code at its first call, kept on disk, where it can be, for the next process.

    It runs without the interpreter's lock. numba is imported only then.

    Args:
        fastmath: Let sums and products be taken in another order, which is faster; what is not finite stays so.
    """

    def decorate(function: F) -> F:
        @cache
        def machine_code() -> Any:
            import numba

            options = {"nogil": True, "fastmath": _ANY_ORDER if fastmath else False, "error_model": "numpy"}
            try:
                return numba.njit(function, cache=True, **options)
            except RuntimeError:  # neither the package's folder nor the user's can be written
                return numba.njit(function, **options)

        @wraps(function)
        def call(*arguments: Any) -> Any:
            return machine_code()(*arguments)

        return call  # type: ignore[return-value]

    return decorate


@cache
def _threads() -> ThreadPoolExecutor:
    """Return as many as there are processors, started when needed: several threads may each ask for some (`nn.threads`)."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix=_NAME)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.cache_clear)


def in_parallel(work: Callable[[int, int], None], count: int) -> None:
    """Call `work(first, end)` on parts that together make `range(count)`, one on each of torch's threads.

    Torch's own operators take one thread each inside, and in a thread that first uses torch meanwhile.
    """
    threads = torch.get_num_threads()
    parts = min(threads, count)
    if parts <= 1 or threading.current_thread().name.startswith(_NAME):  # a part's own parts are done by its thread
        work(0, count)
        return

    def alone(first: int, end: int) -> None:
        torch.set_num_threads(1)
        work(first, end)

    ends = [count * part // parts for part in range(parts + 1)]
    others = [_threads().submit(alone, ends[part], ends[part + 1]) for part in range(1, parts)]
    try:
        alone(0, ends[1])
    finally:
        wait(others)
        torch.set_num_threads(threads)
    for other in others:
        other.result()


@cache
def keep_freed_memory() -> None:
    """Tell glibc's allocator to keep what is freed, in place of giving it back to the system and asking for it anew.

    Otherwise every large tensor is made of fresh pages that the system must fill with zeros first, which for what is bound by
    memory takes several times as long as the work itself. Other allocators are left alone.
    """
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL("libc.so.6")
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, -1)  # never
        library.mallopt(_M_TOP_PAD, 64 << 20)
