"""A task that stands for upstream's pipeline where upstream is not installed; what it imports, every child of the tests does."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np

from stylekit.errors import DataError
from stylekit.images import read_rgb
from stylekit.modelscope.runtime.child import Job, Link


def fail(job: Job, link: Link) -> None:
    """Fail as upstream's code may, after saying something."""
    print("what upstream prints")
    link.tell("ready", found={})
    raise ValueError("a shape does not fit")


def refuse(job: Job, link: Link) -> None:
    """Refuse in words of ours."""
    raise DataError("Not with these pictures: not these.")


def draw(job: Job, link: Link) -> None:
    """Repeat each picture; refuse one that is called so, be killed by a killer, find a face in all but the faceless."""
    link.tell("ready")
    for index, name in enumerate(job["pictures"]):
        if "killer" in name:
            os.kill(os.getpid(), signal.SIGKILL)
        elif "refused" in name:
            link.tell("refused", error=f"{name} cannot be drawn.", hint="Leave it out.")
        else:
            drawn = Path(job["scratch"]) / f"{index}.npy"
            np.save(drawn, read_rgb(Path(name)))
            link.tell("picture", drawn=str(drawn), faces=int("faceless" not in name))
