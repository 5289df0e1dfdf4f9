"""What the tests have a process of its own do."""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
import threading
import time
from typing import Any

from stylekit.errors import DataError


def double(job: dict[str, Any]) -> dict[str, Any]:
    print("said on the way")
    return {"twice": 2 * job["number"], "process": os.getpid()}


def stores(job: dict[str, Any]) -> dict[str, Any]:
    """Return how many stores of memory glibc has made for five threads that ask for some at once."""
    met = threading.Barrier(5)

    def ask() -> None:
        met.wait()
        assert len(bytearray(100_000)) == 100_000
        met.wait()

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    ask()
    for thread in threads:
        thread.join()
    libc = ctypes.CDLL("libc.so.6")
    libc.fopen.restype = ctypes.c_void_p
    with tempfile.NamedTemporaryFile() as into:
        file = ctypes.c_void_p(libc.fopen(into.name.encode(), b"w"))
        libc.malloc_info(0, file)
        libc.fclose(file)
        return {"stores": into.read().count(b"<heap ")}


def refuse(job: dict[str, Any]) -> dict[str, Any]:
    raise DataError("There is no data.", "Make some.")


def fill(job: dict[str, Any]) -> dict[str, Any]:
    raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")


def stumble(job: dict[str, Any]) -> dict[str, Any]:
    raise RuntimeError("shapes do not fit\nand more")


def die(job: dict[str, Any]) -> dict[str, Any]:
    print("a last word", file=sys.stderr, flush=True)
    os._exit(3)


def hold(job: dict[str, Any]) -> dict[str, Any]:
    held = b"x" * job["bytes"]
    time.sleep(30)
    return {"held": len(held)}
