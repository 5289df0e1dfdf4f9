"""Upstream's frozen graph in TensorFlow beside the same network in onnxruntime and torch, in turns, on the same pictures.

    python -m benchmarks.stylizing                   # networks of the usual sizes, with drawn weights
    python -m benchmarks.stylizing --style BUNDLE    # a style's own

TensorFlow's graph is the one that ModelScope's CartoonTranslationExporter freezes, with the same weights. Ours is what
`stylekit export --format onnx` writes, and what `stylekit stylize` takes for large pictures on a CPU; `unet-lite` is another
network, of drawn weights. Each engine gets one picture at a time with all threads it takes by itself, after a rest in which the
threads of the one before fall asleep; making levels of the result is part of upstream's graph and is added to ours.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from copy import deepcopy
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from benchmarks.record import COUNTED, RESULTS, Record, table
from benchmarks.upstream import Upstream
from stylekit.bundle import load_style
from stylekit.bundle.weights import unpack_generator
from stylekit.config.schema import NetworkRecipe
from stylekit.exporters.onnx_graph import to_onnx
from stylekit.exporters.verify import run_onnx
from stylekit.modelscope.graph.frozen import frozen_graph
from stylekit.nn.cpu import keep_freed_memory
from stylekit.nn.generators import make_generator, multiplications, network_of
from stylekit.nn.unet import Generator
from stylekit.speed.arithmetic import operations, unet
from stylekit.speed.machine import arithmetic_rates, describe
from stylekit.speed.stylizing import sizes_of
from stylekit.speed.timing import seconds
from stylekit.stylizer.network import Floats, torch_network

UPSTREAM, ONNX, TORCH, LITE = "upstream, TensorFlow", "onnxruntime", "torch, our kernels", "unet-lite, onnxruntime"

_CPU = torch.device("cpu")
_LITE = NetworkRecipe(arch="unet-lite")
_RATE_REPEATS = 3
_REST_S = 0.1


def picture(height: int, width: int) -> NDArray[np.uint8]:
    """Return a drawn picture, smooth with some grain, RGB uint8."""
    draw = np.random.default_rng(0)
    coarse = draw.uniform(0, 255, (height // 24, width // 24, 3)).astype(np.float32)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth + draw.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)


def to_network(levels: NDArray[np.uint8]) -> Floats:
    """Return [H, W, 3] levels as [1, 3, H, W] in [-1, 1]."""
    return np.ascontiguousarray(levels.transpose(2, 0, 1)[None].astype(np.float32) / 127.5 - 1)


def to_levels(made: Floats) -> NDArray[np.uint8]:
    """Return [1, 3, H, W] as [H, W, 3] levels, cut down as upstream's graph does it."""
    clipped = np.clip(made[0].transpose(1, 2, 0), -0.999999, 0.999999)
    return ((clipped + 1) * 127.5).astype(np.uint8)


def compare(record: Record, *, style: str | None, rounds: int, sizes: Sequence[tuple[int, int]]) -> None:
    """Time every engine in turns and write the figures after every size; the first round warms up and is not timed."""
    module, name = _network(style)
    small = make_generator(_LITE).eval().requires_grad_(False)
    ours = {
        ONNX: run_onnx(to_onnx(module, half=True)),
        TORCH: torch_network(deepcopy(module), "cpu"),
        LITE: run_onnx(to_onnx(small, half=True)),
    }
    shape = network_of(module)
    layers = unet(shape.width, shape.blocks)
    data = record.data["stylize"] = {"style": name, "width": shape.width, "blocks": shape.blocks, "sizes": {}}
    with tempfile.TemporaryDirectory() as scratch_name, ExitStack() as open_:
        scratch = Path(scratch_name)
        (scratch / "graph.pb").write_bytes(frozen_graph(module))
        upstream = open_.enter_context(Upstream("stylize", {"graph": str(scratch / "graph.pb")}, scratch))
        data["tensorflow"] = upstream.found["version"]
        for height, width in sizes:
            levels = picture(height, width)
            save_file({"photo": np.ascontiguousarray(levels[..., ::-1])}, scratch / "photo")
            taken: dict[str, list[float]] = {UPSTREAM: [], **{name: [] for name in ours}}
            made: dict[str, NDArray[np.uint8]] = {}
            rates: dict[str, list[float]] = {}
            for number in range(rounds + 1):
                for name, rate in arithmetic_rates(_CPU, repeats=_RATE_REPEATS).items():
                    rates.setdefault(name, []).append(rate)
                into = str(scratch / "made") if number == 0 else None
                time.sleep(_REST_S)
                taken[UPSTREAM].append(upstream.ask(photo=str(scratch / "photo"), into=into)["seconds"])
                if into:
                    made[UPSTREAM] = np.array(load_file(into)["stylized"][..., ::-1])
                for name, network in ours.items():
                    time.sleep(_REST_S)
                    taken[name].append(seconds(_work(network, levels, name, made), _CPU))
            middle_rates = {name: statistics.median(each) for name, each in rates.items()}
            needed = operations(layers, height, width)
            data["sizes"][f"{height}x{width}"] = {
                "gflop": needed / 1e9,
                "rates_gflops": middle_rates,
                "engines": {name: _figures(name, taken, made, needed, middle_rates) for name in taken},
            }
            data["sizes"][f"{height}x{width}"]["engines"][LITE]["gflop"] = 2e-9 * multiplications(_LITE, height, width)
            record.write(markdown(record.data))
            print(f"{height}x{width}", {name: round(statistics.median(each[1:]), 4) for name, each in taken.items()}, flush=True)


def _network(style: str | None) -> tuple[Generator, str]:
    """Return a style's U-Net, or one of upstream's size that draws the photograph with some noise; and what it is called."""
    if style is not None:
        bundle = load_style(style)
        module = unpack_generator(bundle, bundle.style.networks.face)
        assert isinstance(module, Generator)
        return module, bundle.style.name
    torch.manual_seed(0)
    drawn = Generator()
    drawn.start_as_identity()
    for parameter in drawn.requires_grad_(False).parameters():
        parameter.add_(torch.randn_like(parameter) * 0.01)
    return drawn.eval(), "drawn weights"


def _work(
    network: Callable[[Floats], Floats], levels: NDArray[np.uint8], name: str, made: dict[str, NDArray[np.uint8]]
) -> Callable[[], None]:
    def work() -> None:
        made[name] = to_levels(network(to_network(levels)))

    return work


def _figures(
    name: str,
    taken: Mapping[str, Sequence[float]],
    made: Mapping[str, NDArray[np.uint8]],
    needed: int,
    rates: Mapping[str, float],
) -> dict[str, Any]:
    middle = statistics.median(taken[name][1:])
    found: dict[str, Any] = {
        "seconds": list(taken[name][1:]),
        "median_s": middle,
        "ratio_vs_upstream": statistics.median(taken[UPSTREAM][1:]) / middle,
    }
    if name == LITE:
        return found | {"ratio_vs_onnxruntime": statistics.median(taken[ONNX][1:]) / middle}
    apart = np.abs(made[name].astype(int) - made[UPSTREAM])
    return found | {
        "share_of_rate": {rate: needed / middle / 1e9 / each for rate, each in rates.items()},
        "levels_mean": float(apart.mean()),
        "levels_max": int(apart.max()),
    }


def markdown(data: Mapping[str, Any]) -> str:
    """Return the figures as Markdown tables."""
    machine, stylize = data["machine"], data["stylize"]
    lines = [f"# Stylizing: {machine['name']}, torch {machine['torch']}, {machine['date']}", ""]
    network = f"U-Net of width {stylize['width']} with {stylize['blocks']} blocks, {stylize['style']}"
    lines += [f"{network}, TensorFlow {stylize['tensorflow']}, {machine['threads']} threads of torch.", ""]
    for size, found in stylize["sizes"].items():
        rates = ", ".join(f"{name.replace('_', ' ')} {rate:.0f}" for name, rate in found["rates_gflops"].items())
        count = len(next(iter(found["engines"].values()))["seconds"])
        lines += [f"## {size}", "", f"Medians of {count} pictures each in turns, {found['gflop']:.0f} GFLOP a picture.", ""]
        lines += [f"In the same run, GFLOP/s: {rates}.", ""]
        head = [
            "engine",
            "ms",
            "times upstream",
            "times the U-Net in onnxruntime",
            "of the matrix rate",
            "of the convolution rate",
            "levels from upstream, mean",
            "max",
        ]
        lines.append(table(head, [_row(name, each) for name, each in found["engines"].items()]))
    return "\n".join([*lines, COUNTED, ""])


def _row(name: str, found: Mapping[str, Any]) -> list[str]:
    share = found.get("share_of_rate", {})
    return [
        name,
        f"{found['median_s'] * 1000:.4g}",
        f"{found['ratio_vs_upstream']:.2f}",
        f"{found['ratio_vs_onnxruntime']:.2f}" if "ratio_vs_onnxruntime" in found else "",
        *(f"{share[rate]:.0%}" if rate in share else "" for rate in ("matrix_fp32", "convolution_fp32")),
        f"{found['levels_mean']:.2g}" if "levels_mean" in found else "",
        f"{found['levels_max']}" if "levels_max" in found else "",
    ]


def main(arguments: Sequence[str] | None = None) -> Path:
    """Print medians as they are taken, write all figures, and return their files' common name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--style", default=None, help="a style or bundle with a U-Net")
    parser.add_argument("--rounds", type=int, default=9, help="pictures to time with each engine at each size")
    parser.add_argument("--size", action="append", metavar="HxW", help="may be repeated; 288x288 and 720x960 by default")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the figures")
    given = parser.parse_args(arguments)
    sizes = [(int(h), int(w)) for h, _, w in (size.partition("x") for size in given.size or [])] or sizes_of(256)
    keep_freed_memory()  # as `stylekit stylize` does
    protocol = {"style": given.style, "rounds": given.rounds, "sizes": sizes}
    record = Record("stylize", describe(_CPU), protocol, given.output)
    compare(record, style=given.style, rounds=given.rounds, sizes=sizes)
    print(f"{record.path}.md")
    return record.path


if __name__ == "__main__":
    main()
