"""The device that networks run on."""

from __future__ import annotations

import torch

from stylekit.errors import UsageError


def find_device(name: str | None = None) -> torch.device:
    """Return the device of a name, `cpu`, `cuda`, `cuda:1` or `mps`; the best there is for None.

    Raises:
        UsageError: If it is not there.
    """
    there = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}
    if name is None:
        return torch.device(next(kind for kind, count in there.items() if count))
    known = [known for kind, count in there.items() if count for known in (kind, *(f"{kind}:{i}" for i in range(count)))]
    if name not in known:
        raise UsageError(f"There is no device {name!r} on this machine.", f"There are: {', '.join(known)}.")
    return torch.device(name)
