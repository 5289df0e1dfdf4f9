"""What the tests have a process of its own do."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from stylekit.errors import DataError


def double(job: dict[str, Any]) -> dict[str, Any]:
    print("said on the way")
    return {"twice": 2 * job["number"], "process": os.getpid()}


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
