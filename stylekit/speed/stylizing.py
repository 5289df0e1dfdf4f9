"""How long a style takes for a picture on this machine, by engine and size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from stylekit.bundle import STARTER, Bundle
from stylekit.bundle.weights import unpack_generator
from stylekit.engine.checkpoint import load_generator
from stylekit.nn.device import find_device
from stylekit.paths import Workspace
from stylekit.speed.machine import Machine, describe
from stylekit.speed.timing import alternate, median
from stylekit.stylizer.network import Floats, Translate, open_network, torch_network
from stylekit.stylizer.stylizer import bundle_or_run

SIZES = ((288, 288), (720, 960))
"""Height and width of a face and of a whole picture, as a style trained at 256 px sees them by default."""


@dataclass(frozen=True)
class StylizeTime:
    """What one engine takes for one picture.

    Attributes:
        engine: `onnxruntime`, or `torch` and the device.
        height: Of the picture in pixels, as the network sees it.
        width: Likewise.
        picture_s: Seconds of a picture, the median.
        rounds: Pictures that were timed.
    """

    engine: str
    height: int
    width: int
    picture_s: float
    rounds: int


@dataclass(frozen=True)
class StylizeReport:
    """What a style takes on this machine.

    Attributes:
        machine: The machine.
        style: The style, as it was asked for.
        times: Every size with every engine.
    """

    machine: Machine
    style: str
    times: list[StylizeTime]


def bench_stylize(
    style: str | Path | None = None,
    *,
    workspace: Workspace | None = None,
    sizes: Sequence[tuple[int, int]] = SIZES,
    rounds: int = 3,
    device: str | None = None,
) -> StylizeReport:
    """Time the network of a style, without finding faces and without reading or writing files; engines take turns.

    Args:
        style: A bundle, a run or checkpoint folder, or a style's name; the current style by default, else the starter style.
        workspace: Where names are looked up; the current folder by default.
        sizes: Height and width of pictures, multiples of 4.
        rounds: Pictures to time with each engine at each size.
        device: As `Stylizer` takes it; torch is timed there and, where that is no CPU, on the CPU too.

    Raises:
        UsageError: If the device is not there.
        ExportError: If there is no such style, or it is damaged.
        CheckpointError: If the run has no sound checkpoint.
    """
    workspace, place = workspace or Workspace(), find_device(device)
    name = str(style or workspace.current_style() or STARTER)
    engines = _engines(name, workspace, place)
    times = []
    for height, width in sizes:
        photo = np.random.default_rng(0).uniform(-1, 1, (1, 3, height, width)).astype(np.float32)
        found = alternate({engine: _once(network, photo) for engine, network in engines.items()}, rounds, place)
        times += [StylizeTime(engine, height, width, median(each), len(each)) for engine, each in found.items()]
    return StylizeReport(describe(place), name, times)


def _once(network: Translate, photo: Floats) -> Callable[[], object]:
    return lambda: network(photo)


def _engines(style: str, workspace: Workspace, place: torch.device) -> dict[str, Translate]:
    found = bundle_or_run(style, workspace)
    engines: dict[str, Translate] = {}
    if isinstance(found, Bundle):
        face = found.style.networks.face
        if face.onnx is not None:
            engines["onnxruntime"] = open_network(found, face, "cpu")
        modules = [unpack_generator(found, face) for _ in range(2)]
    else:
        modules = [load_generator(found).module for _ in range(2)]
    for where, module in zip(dict.fromkeys((str(place), "cpu")), modules, strict=False):
        engines[f"torch {where}"] = torch_network(module, where)
    return engines
