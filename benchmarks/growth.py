"""What a training step and its memory grow to with the batch and the size of the pictures.

    python -m benchmarks.growth --memory 20 --limit 300

Every point is measured in a process of its own, with a cap on its memory and on its time. What exceeds one is written as such,
and what is larger in both batch and size is not tried. Points that are in the day's file of the same preset, steps and limits
are not measured again, unless they failed.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS, Record, is_settled, table
from stylekit.config.schema import Recipe
from stylekit.nn.device import find_device
from stylekit.pages.charts import Scale, drawing
from stylekit.paths import Workspace, atomic_write_text
from stylekit.speed.machine import describe
from stylekit.speed.training import bench_train

BATCHES = (1, 2, 4, 8, 16, 32, 64)
SIZES = (128, 192, 256, 384, 512)

_NOWHERE = Workspace(Path("no-such-folder"))  # so that the pictures are drawn
_PANEL = (300, 220)
_COLOURS = ("#1b6ca8", "#d1495b", "#2f7d4f", "#8a5fb0", "#a06a00")


def measure(record: Record, *, batches: Sequence[int], sizes: Sequence[int], device: str) -> None:
    """Measure every point that is not there yet, small ones first, and write the figures after each.

    The record's protocol has `preset`, `steps`, `memory_gb` and `limit_s`.
    """
    points: dict[str, dict[str, Any]] = record.data.setdefault("growth", {"points": {}})["points"]
    grid = sorted(((batch, size) for batch in batches for size in sizes), key=lambda at: at[0] * at[1] ** 2)
    for batch, size in grid:
        key = f"{batch}x{size}"
        if is_settled(points.get(key)):
            continue
        if larger := next((p for p in points.values() if _beyond(p) and p["batch_size"] <= batch and p["size"] <= size), None):
            reason = f"Not tried, since batch {larger['batch_size']} at {larger['size']} px was {larger['state']}."
            points[key] = {"batch_size": batch, "size": size, "state": "not tried", "reason": reason}
        else:
            points[key] = _point(batch, size, device, **record.data["protocol"])
        record.write(markdown(record.data))
        atomic_write_text(record.path.with_name(f"{record.path.name}.svg"), chart(points))
        print(key, points[key], flush=True)


def _beyond(point: Mapping[str, Any]) -> bool:
    return point["state"] in ("over memory", "over time")


def _point(batch: int, size: int, device: str, *, preset: str, steps: int, memory_gb: float, limit_s: float) -> dict[str, Any]:
    recipe = Recipe.model_validate({"style": "benchmark", "train": {"preset": preset, "batch_size": batch, "size": size}})
    report = bench_train(
        recipe, workspace=_NOWHERE, steps=steps, budget_s=limit_s / 4, device=device, memory_gb=memory_gb, limit_s=limit_s
    )
    (point,) = report.points
    found: dict[str, Any] = {"batch_size": batch, "size": size, "state": point.state}
    if point.speed is None:
        return found | {"reason": point.reason}
    return found | {
        "steps": point.speed.steps,
        "step_s": point.speed.step_s,
        "steps_per_s": 1 / point.speed.step_s,
        "pictures_per_s": batch / point.speed.step_s,
        "peak_memory_gb": point.speed.peak_memory_gb,
    }


def markdown(data: Mapping[str, Any]) -> str:
    """Return two tables: steps a second, and memory."""
    machine, protocol, points = data["machine"], data["protocol"], data["growth"]["points"]
    batches, sizes = _sides(points)
    lines = [
        f"# Cost against growth: {machine['name']}, torch {machine['torch']}, {machine['date']}",
        "",
        f"Preset {protocol['preset']}, {machine['threads']} threads. A point may take {protocol['memory_gb']:g} GB and "
        f"{protocol['limit_s']:g} s. Each is the median of {protocol['steps']} steps (on a GPU groups of ten), or of as many as "
        "fit a quarter of that time, in a process of its own, after some to warm up.",
        "",
    ]
    for title, name, form in (("Steps a second", "steps_per_s", "{:.3g}"), ("Peak memory, GB", "peak_memory_gb", "{:.2f}")):
        body = [[f"{batch}", *(_cell(points.get(f"{batch}x{size}"), name, form) for size in sizes)] for batch in batches]
        lines += [f"## {title}", "", table(["batch", *(f"{size} px" for size in sizes)], body)]
    return "\n".join(lines)


def _sides(points: Mapping[str, Mapping[str, Any]]) -> tuple[list[int], list[int]]:
    batches, sizes = ({point[side] for point in points.values()} for side in ("batch_size", "size"))
    return sorted(batches), sorted(sizes)


def _cell(point: Mapping[str, Any] | None, name: str, form: str) -> str:
    if point is None:
        return ""
    return form.format(point[name]) if point["state"] == "measured" else str(point["state"])


def chart(points: Mapping[str, Mapping[str, Any]]) -> str:
    """Draw pictures a second and memory over the batch, a line for each size, both axes in powers of two; a stand-alone SVG."""
    width, height = _PANEL
    shapes = []
    panels = (("pictures a second", "pictures_per_s"), ("peak memory, GB", "peak_memory_gb"))
    _, sizes = _sides(points)
    for number, (title, name) in enumerate(panels):
        shapes += _panel(points, sizes, title, name, left=number * (width + 60) + 50.0)
    for index, size in enumerate(sizes):
        x, colour = 50 + 90 * index, _COLOURS[index % len(_COLOURS)]
        shapes.append(f'<line x1="{x}" x2="{x + 20}" y1="16" y2="16" stroke="{colour}" stroke-width="2"/>')
        shapes.append(f'<text x="{x + 26}" y="20">{size} px</text>')
    described = "Lines over the batch from 1 to 64 pictures, one for each picture size."
    title = "Training: pictures a second and peak memory"
    return drawing(2 * width + 150, height + 80, shapes, title=title, description=described, anchor="growth", alone=True)


def _panel(points: Mapping[str, Mapping[str, Any]], sizes: Sequence[int], title: str, name: str, *, left: float) -> list[str]:
    measured = [point for point in points.values() if point["state"] == "measured"]
    shapes = [f'<text x="{left:g}" y="44">{escape(title)}</text>']
    if not measured:
        return shapes
    width, height = _PANEL
    across = _powers([point["batch_size"] for point in measured], left, left + width)
    up = _powers([point[name] for point in measured], height + 50.0, 56.0)
    for power in range(int(across.low), int(across.high) + 1):
        shapes.append(f'<text x="{across(power):.1f}" y="{height + 68}" text-anchor="middle">{2**power}</text>')
    for power in range(int(up.low), int(up.high) + 1):
        shapes.append(
            f'<line x1="{left:g}" x2="{left + width:g}" y1="{up(power):.1f}" y2="{up(power):.1f}" stroke="#8888" />'
            f'<text x="{left - 6:g}" y="{up(power) + 4:.1f}" text-anchor="end">{2.0**power:g}</text>'
        )
    for index, size in enumerate(sizes):
        line = sorted((point["batch_size"], point[name]) for point in measured if point["size"] == size)
        places = [(across(math.log2(x)), up(math.log2(y))) for x, y in line]
        colour = _COLOURS[index % len(_COLOURS)]
        shapes += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
        shapes += [
            f'<line x1="{a[0]:.1f}" y1="{a[1]:.1f}" x2="{b[0]:.1f}" y2="{b[1]:.1f}" stroke="{colour}" stroke-width="2"/>'
            for a, b in pairwise(places)
        ]
    return shapes


def _powers(values: Sequence[float], start: float, end: float) -> Scale:
    """Return a scale of base-two logarithms whose ends are whole."""
    low, high = math.floor(math.log2(min(values))), math.ceil(math.log2(max(values)))
    return Scale(low, max(high, low + 1), start, end)


def main(arguments: Sequence[str] | None = None) -> Path:
    """Print every point as it is taken, write all figures, and return their files' common name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=("upstream", "default"), default="upstream")
    parser.add_argument("--batch", type=int, action="append", help="may be repeated")
    parser.add_argument("--size", type=int, action="append", help="may be repeated; in pixels")
    parser.add_argument("--steps", type=int, default=3, help="steps of each point; on a GPU groups of ten")
    parser.add_argument("--device", default=None)
    parser.add_argument("--memory", type=float, default=20.0, help="most memory of a point, in GB")
    parser.add_argument("--limit", type=float, default=900.0, help="most seconds of a point")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the figures")
    given = parser.parse_args(arguments)
    place = find_device(given.device)
    protocol = {"preset": given.preset, "steps": given.steps, "memory_gb": given.memory, "limit_s": given.limit}
    record = Record("growth", describe(place), protocol, given.output)
    measure(record, batches=given.batch or BATCHES, sizes=given.size or SIZES, device=str(place))
    print(f"{record.path}.md")
    return record.path


if __name__ == "__main__":
    main()
