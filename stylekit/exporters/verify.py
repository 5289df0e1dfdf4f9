"""Does an exported network draw what the trained one draws?"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
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

Floats = NDArray[np.float32]
Run = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Parity:
    """How far an exported network is from the trained one.

    Attributes:
        max_levels: Largest difference in a channel of a pixel after clipping, in 8-bit levels (1/127.5 of [-1, 1]).
        shapes: Batch, height and width of each probe.
    """

    max_levels: float
    shapes: tuple[tuple[int, int, int], ...]

    def __str__(self) -> str:
        shapes = ", ".join("x".join(map(str, shape)) for shape in self.shapes)
        return f"at most {self.max_levels:.3f} of 255 levels from torch (limit {MAX_LEVELS:g}) at {shapes}"


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
    worst = 0.0
    shapes = []
    for photo in probes(size):
        with torch.inference_mode():
            expected = reference(torch.from_numpy(photo)).clamp(-1, 1).numpy()
        actual = run(photo)
        shapes.append((len(photo), photo.shape[2], photo.shape[3]))
        matches = actual.shape == expected.shape and bool(np.isfinite(actual).all())
        worst = max(worst, float(np.abs(np.clip(actual, -1, 1) - expected).max()) * 127.5 if matches else float("inf"))
    return Parity(worst, tuple(dict.fromkeys(shapes)))


def enforce(name: str, parity: Parity) -> Parity:
    """Return `parity`, if it is within `MAX_LEVELS`.

    Raises:
        ExportError: If it is not; the caller has written nothing yet.
    """
    if not parity.max_levels <= MAX_LEVELS:
        raise ExportError(
            f"The {name} network differs from the trained one by {parity.max_levels:.3g} of 255 levels "
            f"(limit {MAX_LEVELS:g}); nothing was written.",
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
