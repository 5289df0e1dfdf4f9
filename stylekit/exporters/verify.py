"""Does an exported network draw what the trained one draws?"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from stylekit.assets import fetch
from stylekit.errors import ExportError
from stylekit.images import read_rgb, resize, to_tensor
from stylekit.modelscope.graph.execute import execute
from stylekit.modelscope.graph.frozen import parse_graph

MAX_LEVELS = 1.0
MEAN_LEVELS_INT8 = 0.5

Floats = NDArray[np.float32]
Run = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Parity:
    """How far an exported network is from the trained one.

    Attributes:
        max_levels: Largest difference in a channel of a pixel after clipping, in 8-bit levels (1/127.5 of [-1, 1]).
        mean_levels: Mean of those differences; of the probe where it is largest.
        shapes: Batch, height and width of each probe.
    """

    max_levels: float
    mean_levels: float
    shapes: tuple[tuple[int, int, int], ...]

    def __str__(self) -> str:
        shapes = ", ".join("x".join(map(str, shape)) for shape in self.shapes)
        return f"at most {self.max_levels:.3f}, on average {self.mean_levels:.3f} of 255 levels from torch at {shapes}"


def probes(size: int) -> Iterator[Floats]:
    """Yield [N, 3, H, W] pictures in [-1, 1], portrait and noise, at several sizes around `size` and none square but one."""
    portrait = read_rgb(fetch("astronaut"))
    noise = np.random.default_rng(0)
    for batch, height, width in ((1, size, size), (2, size + 4, size - 4), (1, 4 * (size // 8), size), (3, 20, 36), (1, 4, 8)):
        picture = to_tensor(resize(portrait, (width, height))).numpy()
        turned = [np.roll(picture, shift, axis=1) for shift in range(batch - 1)]
        yield np.concatenate([picture, *turned]).astype(np.float32)
        yield noise.uniform(-1, 1, (batch, 3, height, width)).astype(np.float32)


def measure(reference: nn.Module, run: Run, size: int) -> Parity:
    """Compare `run` with the trained module on probes around the training size."""
    return measure_on(reference, run, probes(size))


def measure_on(reference: nn.Module, run: Run, photos: Iterable[Floats]) -> Parity:
    """Compare `run` with the trained module on given pictures, each [N, 3, H, W] in [-1, 1]."""
    worst, worst_mean = 0.0, 0.0
    shapes = []
    for photo in photos:
        with torch.inference_mode():
            expected = reference(torch.from_numpy(photo)).clamp(-1, 1).numpy()
        actual = run(photo)
        shapes.append((len(photo), photo.shape[2], photo.shape[3]))
        matches = actual.shape == expected.shape and bool(np.isfinite(actual).all())
        apart = np.abs(np.clip(actual, -1, 1) - expected) * 127.5 if matches else np.array(np.inf)
        worst, worst_mean = max(worst, float(apart.max())), max(worst_mean, float(apart.mean()))
    return Parity(worst, worst_mean, tuple(dict.fromkeys(shapes)))


def enforce(name: str, parity: Parity) -> Parity:
    """Return `parity`, if it is within `MAX_LEVELS`; in 8 bits, if its mean is within `MEAN_LEVELS_INT8`.

    Raises:
        ExportError: If it is not; the caller has written nothing yet.
    """
    int8 = name == "onnx-int8"
    apart, limit = (parity.mean_levels, MEAN_LEVELS_INT8) if int8 else (parity.max_levels, MAX_LEVELS)
    if not apart <= limit:
        allowed = f"{limit:g} on average" if int8 else f"{limit:g}"
        raise ExportError(
            f"The {name} network differs from the trained one by {apart:.3g} of 255 levels "
            f"(limit {allowed}); nothing was written.",
            "Try another format with --format, and report this with the versions that `stylekit doctor` prints.",
        )
    return parity


def run_module(module: nn.Module) -> Run:
    """Return a function that runs a torch module on arrays."""

    def run(photo: Floats) -> Floats:
        with torch.inference_mode():
            return np.asarray(module(torch.from_numpy(photo)).numpy(), np.float32)

    return run


def run_onnx(data: bytes) -> Run:
    """Return a function that runs an ONNX file in onnxruntime on the CPU."""
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return lambda photo: np.asarray(session.run(["stylized"], {"photo": photo})[0], np.float32)


def run_torchscript(data: bytes) -> Run:
    """Return a function that runs a TorchScript file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return run_module(torch.jit.load(BytesIO(data), map_location="cpu"))  # type: ignore[no-untyped-call]


def run_frozen(data: bytes) -> Run:
    """Return a function that runs a frozen TensorFlow graph, picture by picture.

    It draws whole levels, cut down; the middle of what is cut to a level stands for it.
    """
    graph = parse_graph(data, "The frozen graph")

    def run(photo: Floats) -> Floats:
        pictures = [execute(graph, ((picture[::-1] + 1) * 127.5).transpose(1, 2, 0)) for picture in photo]
        return ((np.stack(pictures)[..., ::-1].transpose(0, 3, 1, 2) + np.float32(0.5)) / 127.5 - 1).astype(np.float32)

    return run
