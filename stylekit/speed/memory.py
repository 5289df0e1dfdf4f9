"""The memory of processes, without torch."""

from __future__ import annotations

import psutil

GB = 1e9


def resident_bytes(pid: int, *, alone: bool = False) -> int:
    """Return the resident memory of a process and all below it; pages that they share count for each. 0 once it has ended.

    Args:
        pid: The process.
        alone: Leave out those below it.
    """
    try:
        process = psutil.Process(pid)
        family = [process] if alone else [process, *process.children(recursive=True)]
    except psutil.Error:
        return 0
    total = 0
    for each in family:
        try:
            total += each.memory_info().rss
        except psutil.Error:
            continue
    return total
