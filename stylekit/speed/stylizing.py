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
from stylekit.nn.cpu import keep_freed_memory
from stylekit.nn.device import find_device
from stylekit.paths import Workspace
from stylekit.speed.machine import Machine, describe
from stylekit.speed.timing import alternate, median
from stylekit.stylizer.network import Floats, Translate, onnx_network, torch_network
from stylekit.stylizer.stylizer import bundle_or_run

_FACE, _PICTURE = (288 / 256, 288 / 256), (720 / 256, 960 / 256)


def sizes_of(trained_px: int) -> list[tuple[int, int]]:
    """Return height and width of a face and of a picture of 3 by 4, as a style of this training size sees them by default."""
    return [(4 * round(down * trained_px / 4), 4 * round(across * trained_px / 4)) for down, across in (_FACE, _PICTURE)]


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
    sizes: Sequence[tuple[int, int]] | None = None,
    rounds: int = 3,
    device: str | None = None,
) -> StylizeReport:
    """Time the network of a style, without finding faces and without reading or writing files; engines take turns.

    On a CPU the process keeps freed memory from then on, as `stylekit stylize` does.

    Args:
        style: A bundle, a run or checkpoint folder, or a style's name; the current style by default, else the starter style.
        workspace: Where names are looked up; the current folder by default.
        sizes: Height and width of pictures, multiples of 4; by default what `sizes_of` says of the style.
        rounds: Pictures to time with each engine at each size.
        device: As `Stylizer` takes it; torch is timed there and, where that is no CPU, on the CPU too.

    Raises:
        UsageError: If the device is not there.
        ExportError: If there is no such style, or it is damaged.
        CheckpointError: If the run has no sound checkpoint.
    """
    workspace, place = workspace or Workspace(), find_device(device)
    name = str(style or workspace.current_style() or STARTER)
    if place.type == "cpu":
        keep_freed_memory()
    engines, trained_px = _engines(name, workspace, place)
    times = []
    for height, width in sizes or sizes_of(trained_px):
        photo = np.random.default_rng(0).uniform(-1, 1, (1, 3, height, width)).astype(np.float32)
        found = alternate({engine: _once(network, photo) for engine, network in engines.items()}, rounds, place)
        times += [StylizeTime(engine, height, width, median(each), len(each)) for engine, each in found.items()]
    return StylizeReport(describe(place), name, times)


def _once(network: Translate, photo: Floats) -> Callable[[], object]:
    return lambda: network(photo)


def _engines(style: str, workspace: Workspace, place: torch.device) -> tuple[dict[str, Translate], int]:
    """Return the engines by name, and the side in pixels that the style was trained at."""
    found = bundle_or_run(style, workspace)
    engines: dict[str, Translate] = {}
    if isinstance(found, Bundle):
        face = found.style.networks.face
        if face.onnx is not None:
            engines["onnxruntime"] = onnx_network(found, face.onnx)
        modules, trained_px = [unpack_generator(found, face) for _ in range(2)], face.size
    else:
        loaded = [load_generator(found) for _ in range(2)]
        modules, trained_px = [each.module for each in loaded], loaded[0].recipe.train.size
    for where, module in zip(dict.fromkeys((str(place), "cpu")), modules, strict=False):
        engines[f"torch {where}"] = torch_network(module, where)
    return engines, trained_px
