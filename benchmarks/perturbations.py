"""What each figure of an evaluation sees: photographs and a style's pictures, changed in known ways, under one protocol.

    python benchmarks/perturbations.py --project DIR --output tables.md --sheet sheet.png

DIR is a project whose photographs are aligned, with the cartoons of a style; the style's
pictures come from its newest run, or from the package where there is none.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from stylekit.bundle import load_style
from stylekit.bundle.weights import unpack_generator
from stylekit.config.schema import EvalRecipe
from stylekit.engine.checkpoint import load_generator, newest_run
from stylekit.evaluation.bench import Bench, Maker, as_they_are, open_bench, square
from stylekit.evaluation.figures import KID_SCALE, RowFigures, Yardstick
from stylekit.evaluation.makers import network_maker
from stylekit.faces.align import similarity, warp
from stylekit.images import Rgb, contact_sheet, write_image
from stylekit.metrics.fid import fid, fid_over_persons
from stylekit.metrics.kid import kid_all, kid_over_persons
from stylekit.metrics.manifold import manifold, neighbour_coverage
from stylekit.metrics.measure import Arrays
from stylekit.metrics.persons import Interval, interval_of
from stylekit.metrics.report import OF_EXTRACTOR, metric_name
from stylekit.paths import Workspace, atomic_write_text

Pictures: TypeAlias = NDArray[np.uint8]
"""RGB [N,S,S,3]."""
Points: TypeAlias = NDArray[np.float64]
"""Five points of each picture, [N,5,2] in its pixels."""
Perturbation: TypeAlias = Callable[[Pictures, Points], Pictures]
Floats: TypeAlias = NDArray[np.float64]

_SEED = 0
_HALVES = 50
_MOUTH_HALF_AXES = (0.42, 0.27)  # of the ellipse that is replaced, in distances of the eyes
_FEATHER = 0.06


def nothing(pictures: Pictures, points: Points) -> Pictures:
    """Leave the pictures as they are."""
    return pictures


def jpeg(pictures: Pictures, points: Points, *, quality: int) -> Pictures:
    """Write each picture as JPEG and read it again."""
    coded = (cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1] for picture in pictures)
    return np.stack([np.asarray(cv2.imdecode(each, cv2.IMREAD_COLOR), np.uint8)[..., ::-1] for each in coded])


def blur(pictures: Pictures, points: Points, *, sigma_px: float) -> Pictures:
    """Blur each picture with a Gaussian."""
    return np.stack([cv2.GaussianBlur(picture, (0, 0), sigma_px) for picture in pictures])


def hue(pictures: Pictures, points: Points, *, turn_deg: float) -> Pictures:
    """Turn a* and b* of every pixel about grey; lightness stays."""
    cosine, sine = np.cos(np.radians(turn_deg)), np.sin(np.radians(turn_deg))
    turn = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    return np.stack([_from_lab(_to_lab(picture) @ turn.T) for picture in pictures])


def lightness(pictures: Pictures, points: Points, *, step: float) -> Pictures:
    """Add to L* (0 to 100) of every pixel."""
    return np.stack([_from_lab(_to_lab(picture) + np.array([step, 0, 0])) for picture in pictures])


def noise(pictures: Pictures, points: Points, *, sigma: float) -> Pictures:
    """Add Gaussian noise, in levels of 255, to every channel of every pixel."""
    added = np.random.default_rng(_SEED).normal(scale=sigma, size=pictures.shape)
    return np.asarray(np.clip(np.rint(pictures + added), 0, 255), np.uint8)


def swap(pictures: Pictures, points: Points) -> Pictures:
    """Give everybody the next one's picture: as a set nothing changes."""
    return np.roll(pictures, 1, axis=0)


def swap_mouths(pictures: Pictures, points: Points) -> Pictures:
    """Give everybody the next one's mouth, with the skin around it, laid over their own by the five points, with a soft edge."""
    found = []
    for picture, own, other, theirs in zip(
        pictures, points, np.roll(pictures, 1, axis=0), np.roll(points, 1, axis=0), strict=True
    ):
        laid = warp(other, similarity(theirs, own), picture.shape[0]).astype(np.float64)
        weight = _around_mouth(own, picture.shape[0])[..., None]
        found.append(np.rint(weight * laid + (1 - weight) * picture).astype(np.uint8))
    return np.stack(found)


def collapse(pictures: Pictures, points: Points, *, every: int) -> Pictures:
    """Put the first picture in place of every n-th one: 2 replaces half of them, 1 all."""
    found = pictures.copy()
    found[::every] = pictures[0]
    return found


def _to_lab(picture: Rgb) -> Floats:
    return np.asarray(cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2LAB), np.float64)


def _from_lab(lab: Floats) -> Rgb:
    lab[..., 0] = np.clip(lab[..., 0], 0, 100)
    rgb = cv2.cvtColor(lab.astype(np.float32), cv2.COLOR_LAB2RGB)
    return np.asarray(np.rint(np.clip(rgb, 0, 1) * 255), np.uint8)


def _around_mouth(points: Points, size: int) -> Floats:
    """Return how much of the mouth's ellipse each pixel holds, [S,S], 0 to 1."""
    apart = float(np.linalg.norm(points[1] - points[0]))
    x, y = points[3:].mean(axis=0)
    across, down = (axis * apart for axis in _MOUTH_HALF_AXES)
    columns, rows = np.arange(size), np.arange(size)[:, None]
    inside = ((columns - x) / across) ** 2 + ((rows - y) / down) ** 2 <= 1
    return np.asarray(cv2.GaussianBlur(inside.astype(np.float64), (0, 0), _FEATHER * apart))


CONTROL = "JPEG 95"
"""A change that nobody sees. What moves no further than here has not moved."""

PERTURBATIONS: dict[str, Perturbation] = {
    "nothing": nothing,
    CONTROL: partial(jpeg, quality=95),
    "JPEG 75": partial(jpeg, quality=75),
    "blur 1 px": partial(blur, sigma_px=1),
    "blur 2 px": partial(blur, sigma_px=2),
    "blur 4 px": partial(blur, sigma_px=4),
    "hue 60°": partial(hue, turn_deg=60),
    "hue 180°": partial(hue, turn_deg=180),
    "lighter": partial(lightness, step=12),
    "darker": partial(lightness, step=-12),
    "noise 10": partial(noise, sigma=10),
    "noise 25": partial(noise, sigma=25),
    "another person": swap,
    "another's mouth": swap_mouths,
    "half one picture": partial(collapse, every=2),
}
OF_STYLIZED = ("nothing", CONTROL, "another person", "half one picture")


@dataclass(frozen=True)
class Table:
    """Figures that are shown side by side: heading and form by short name."""

    title: str
    columns: Mapping[str, tuple[str, str]]


_STYLE = {
    "kid_x1000_all": ("KIDx1000", ".0f"),
    "fid": ("FID", ".1f"),
    "precision": ("precision", ".2f"),
    "recall": ("recall", ".2f"),
    "coverage": ("coverage", ".3f"),
    "neighbour_coverage": ("variety", ".2f"),
}
_PERSON = {
    "id_centred": ("ID", ".2f"),
    "id_rank_1": ("rank-1", ".2f"),
    "id_raw": ("ID raw", ".3f"),
    "id_l2": ("ID L2", ".2f"),
}
_FACE = {
    "face_found": ("face found", ".2f"),
    "expression_eyes": ("eyes", ".3f"),
    "expression_mouth": ("mouth", ".3f"),
    "gaze": ("gaze", ".3f"),
    "pose_deg": ("pose", ".1f"),
}
_PICTURE = {
    "content": ("content", ".2f"),
    "colour_shift": ("colour", ".1f"),
    "background_shift": ("background", ".1f"),
    "ita_shift_deg": ("ITA", "+.1f"),
    "artefact_eyes": ("eye faults", ".2f"),
    "artefact_mouth": ("mouth faults", ".2f"),
    "blur_eyes": ("eye blur", ".2f"),
    "blur_mouth": ("mouth blur", ".2f"),
}


@dataclass(frozen=True, eq=False)
class Row:
    """One set of pictures: its figures, and those of every draw of persons, by full name (`metric_name`)."""

    values: dict[str, float]
    draws: dict[str, Floats] = field(default_factory=dict)

    def difference(self, other: Row, name: str) -> Interval:
        """Return the 95 % interval of a figure's difference to another row's, over the same draws of persons."""
        return interval_of(self.draws[name] - other.draws[name], self.values[name] - other.values[name])


def row_of(found: RowFigures, arrays: Arrays, by: Yardstick) -> Row:
    """Return a row of its figures and its arrays."""
    n = len(by.persons)
    draws: dict[str, Floats] = {}
    for label in by.extractors:
        reference, own = by.reference[f"features/{label}"], arrays[f"features/{label}"]
        near = manifold(reference, own)
        draws |= {
            metric_name("kid_x1000_all", label, n): KID_SCALE * kid_over_persons(reference, own, by.resampling),
            metric_name("fid", label, n): fid_over_persons(reference, own, by.resampling),
            metric_name("precision", label, n): near.precision_over_persons(by.resampling),
            metric_name("coverage", label, n): near.coverage_over_persons(by.resampling),
        }
    for name, values in found.pictures.items():
        metric, _, network = name.partition("/")
        if metric not in OF_EXTRACTOR:
            draws[metric_name(metric, network, n)] = by.resampling.means(values)
    return Row(found.values, draws)


def moved(row: Row, base: Row, control: Row, name: str) -> bool:
    """Tell whether a figure moved: the interval of its difference to `base` lies beyond 0 and beyond that of the control."""
    if any(name not in each.draws or name not in each.values for each in (row, base, control)):
        return False
    low, high = row.difference(base, name)
    least, most = control.difference(base, name)
    return low > max(most, 0) or high < min(least, 0)


def tables(extractors: Sequence[str], embedders: Sequence[str]) -> Iterator[tuple[Table, str | None]]:
    """Yield every table with the network of its figures."""
    yield from ((Table(f"Style, by {label}", _STYLE), label) for label in extractors)
    yield from ((Table(f"Person, by {label}", _PERSON), label) for label in embedders)
    yield Table("Face", _FACE), None
    yield Table("Picture", _PICTURE), None


def markdown(table: Table, network: str | None, n: int, groups: Mapping[str, Mapping[str, Row]]) -> str:
    """Return a table; what moved is bold.

    Args:
        table: Which figures.
        network: Whose they are.
        n: Pictures in each row.
        groups: Rows by what was perturbed, by perturbation; each group's first row is what the others are held against.
    """
    lines = [["", *(heading for heading, _ in table.columns.values())]]
    for base, rows in groups.items():
        for title, row in rows.items():
            cells = []
            for metric, (_, form) in table.columns.items():
                name = metric_name(metric, network, n)
                value = row.values.get(name)
                text = "" if value is None else format(round(value, 6) + 0.0, form)
                is_moved = title not in ("nothing", CONTROL) and moved(row, rows["nothing"], rows[CONTROL], name)
                cells.append(f"**{text}**" if is_moved else text)
            lines.append([f"{base}: {title}", *cells])
    rule = ["---"] * len(lines[0])
    return "\n".join([f"## {table.title}", "", *("| " + " | ".join(line) + " |" for line in (lines[0], rule, *lines[1:]))])


def equal_sets(features: Floats, sizes: tuple[int, int]) -> dict[str, tuple[float, float]]:
    """Return mean and standard deviation of every figure of style between two parts of one set, drawn anew many times.

    Args:
        features: Of the cartoons, [M,D].
        sizes: Cartoons on the side of the reference, and on the other.
    """
    random = np.random.default_rng(_SEED)
    found: dict[str, list[float]] = {name: [] for name in _STYLE}
    for _ in range(_HALVES):
        order = random.permutation(len(features))
        reference, own = features[order[: sizes[0]]], features[order[-sizes[1] :]]
        near = manifold(reference, own)
        values = (
            KID_SCALE * kid_all(reference, own),
            fid(reference, own),
            near.precision,
            near.recall,
            near.coverage,
            neighbour_coverage(reference, own),
        )
        for name, value in zip(_STYLE, values, strict=True):
            found[name].append(value)
    return {name: (float(np.mean(values)), float(np.std(values))) for name, values in found.items()}


def equal_sets_table(bench: Bench) -> str:
    """Return the figures of cartoons against other cartoons of the same style, by extractor and count."""
    m = len(bench.cartoons)
    lines = [["", *(heading for heading, _ in _STYLE.values())], ["---"] * (len(_STYLE) + 1)]
    for label in bench.extractors:
        for sizes in ((m - m // 2, m // 2), (m - bench.n, bench.n)):
            found = equal_sets(bench.reference[f"features/{label}"].astype(np.float64), sizes)
            cells = [f"{found[name][0]:{form}} ± {found[name][1]:{form}}" for name, (_, form) in _STYLE.items()]
            lines.append([f"{label.partition('@')[0]}, {sizes[1]} against {sizes[0]}", *cells])
    return "\n".join(["## Cartoons against cartoons", "", *("| " + " | ".join(line) + " |" for line in lines)])


def perturbed(bench: Bench, pictures: Pictures, title: str) -> tuple[Pictures, Row]:
    """Return pictures of a bench's photographs perturbed, and their row."""
    points = np.stack([bench.photos.landmarks(index, bench.size) for index in range(bench.n)])
    changed = PERTURBATIONS[title](pictures, points)
    key = f"given {hashlib.sha256(changed.tobytes()).hexdigest()}"
    arrays = bench.measure(lambda crops, indices: [changed[index] for index in indices], key, title)
    return changed, row_of(bench.figures(arrays), arrays, bench.yardstick)


def style_maker(workspace: Workspace, style: str) -> Maker:
    """Return what makes a style's pictures: its newest run, or where there is none the published style or the package's own."""
    if run := newest_run(workspace, style):
        generator = load_generator(run)
        return network_maker(generator.module, generator.recipe.train.size, generator.sha256)[0]
    bundle = load_style(style, workspace)
    face = bundle.style.networks.face
    return network_maker(unpack_generator(bundle, face), face.size, style)[0]


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", type=Path, default=Path(), help="folder with datasets/ and work_dirs/")
    parser.add_argument("--style", default="toon-head", help="whose cartoons are the reference")
    parser.add_argument("--output", type=Path, help="where the tables go; otherwise they are printed")
    parser.add_argument("--sheet", type=Path, help="where a picture of all perturbations goes")
    given = parser.parse_args(arguments)
    workspace = Workspace(given.project)
    bench = open_bench(workspace, given.style, EvalRecipe(), own_photos="asset:starter-photos")

    everybody = range(bench.n)
    bases = {"photo": (bench.pictures(as_they_are, everybody), tuple(PERTURBATIONS))}
    bases["stylized"] = (bench.pictures(style_maker(workspace, given.style), everybody), OF_STYLIZED)
    groups: dict[str, dict[str, Row]] = {}
    shown: list[Rgb] = []
    for base, (pictures, titles) in bases.items():
        at_size = np.stack([square(picture, bench.size) for picture in pictures])
        for title in titles:
            started = time.perf_counter()
            changed, groups.setdefault(base, {})[title] = perturbed(bench, at_size, title)
            shown += list(changed[: min(bench.n, 6)])
            print(f"{base}: {title}, {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)

    rules = bench.protocol
    strangers, chance = (
        groups["photo"]["nothing"].values[metric_name(name, bench.embedders[0], bench.n)]
        for name in ("id_centred_strangers", "id_rank_1_chance")
    )
    parts = [
        f"Protocol {rules.name}: {bench.n} photographs of {len(set(bench.photos.persons))} persons against {len(bench.cartoons)} "
        f"cartoons of {bench.style}, {bench.size} px. ID of strangers {strangers:.2f}, rank-1 by chance {chance:.2f}.",
        equal_sets_table(bench),
        *(markdown(table, network, bench.n, groups) for table, network in tables(bench.extractors, bench.embedders)),
    ]
    text = "\n\n".join(parts) + "\n"
    if given.output:
        atomic_write_text(given.output, text)
    else:
        print(text)
    if given.sheet:
        write_image(given.sheet, contact_sheet(shown, min(bench.n, 6), bench.size))


if __name__ == "__main__":
    main()
