"""What a process that is stylekit's own sets before torch is loaded and starts threads."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

_M_ARENA_MAX = -8  # glibc, malloc.h


def prepare() -> None:
    """Let torch's threads sleep while they wait, and let all threads take memory from one store.

    OpenMP's threads otherwise keep a core from ours (`nn.cpu`, `nn.threads`); `OMP_WAIT_POLICY`, where it is set, stays. A thread
    with a store of its own gives every large tensor back to the system when it is freed, and asks for the next one anew.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").mallopt(_M_ARENA_MAX, 1)
