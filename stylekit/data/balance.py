"""What the used pictures of a data set are like: skin tones, poses, sizes, persons, as figures to draw and rules to check."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, inf

import numpy as np
from numpy.typing import NDArray

from stylekit.data.appearance import UNLIKE
from stylekit.data.entries import Entry
from stylekit.data.manifest import Kind
from stylekit.data.rules import (
    AGE_SHARE,
    FRONTAL_DEG,
    FRONTAL_SHARE,
    GENDER_SHARE,
    GLASSES,
    GLASSES_SHARE,
    LIKENESS,
    MOVED,
    SKIN_GROUPS,
    SKIN_SHARE,
    TURNED_SHARE,
)
from stylekit.faces.traits import SKIN_TONES as LIMITS
from stylekit.faces.traits import skin_tone

SKIN_TONES = (*(name for _, name in LIMITS), "dark")

_UNSURE = " Unsure on drawings, so no rule asks for it."
_TRAITS = {"gender": ("Gender presentation", GENDER_SHARE), "age": ("Age", AGE_SHARE), "expression": ("Expression", None)}


@dataclass(frozen=True)
class Group:
    """Some of the pictures, and how many there should be.

    Attributes:
        name: Who they are, such as "dark-skinned".
        count: How many.
        share: Of the measured ones.
        wanted: The share that a rule asks for; None if none does.
        more: How many more of them alone would bring the share to `wanted`.
    """

    name: str
    count: int
    share: float
    wanted: float | None = None
    more: int = 0


@dataclass(frozen=True)
class Figure:
    """One property of the used pictures.

    Attributes:
        name: Its key, as in the manifest's `quality` where it is measured there.
        title: What people call it.
        about: What it is and how to read it.
        bars: How many pictures have it how, in order.
        edges: Limits of the bars, one more than bars, if it is a number; empty if its values are names.
        unit: Of the edges.
        measured: How many pictures it is known of.
        median: Of the numbers; None for names.
        limits: Values that matter, each with what happens there.
        groups: Shares that rules speak of.
    """

    name: str
    title: str
    about: str
    bars: tuple[Group, ...]
    edges: tuple[float, ...] = ()
    unit: str = ""
    measured: int = 0
    median: float | None = None
    limits: tuple[tuple[float, str], ...] = ()
    groups: tuple[Group, ...] = ()


def more_needed(have: int, of: int, share: float) -> int:
    """Return how many pictures of a group, added to a set, make it that share: `have` of `of` at the start."""
    return max(0, ceil((share * of - have) / (1 - share) - 1e-9))


def _group(name: str, count: int, of: int, wanted: float | None = None) -> Group:
    more = more_needed(count, of, wanted) if wanted and of else 0
    return Group(name, count, count / of if of else 0.0, wanted, more)


def _values(lines: Iterable[Entry], read: Callable[[Entry], float | None]) -> NDArray[np.float64]:
    return np.array([value for line in lines if (value := read(line)) is not None], np.float64)


def _quality(name: str) -> Callable[[Entry], float | None]:
    return lambda line: line.quality.get(name)


def figures(used: Sequence[Entry], kind: Kind) -> tuple[tuple[Figure, ...], tuple[str, ...]]:
    """Return the figures that something is known of, in the order to show them, and the titles of the others."""
    is_photo = kind == "photo"
    all_figures = [
        _skin(used),
        _turns(used, is_photo),
        _histogram(
            "pitch_deg",
            "Head up and down",
            "How far the head is bent; below 0 it looks up.",
            _values(used, _quality("pitch_deg")),
            np.arange(-60, 61, 10),
            unit="°",
        ),
        _glasses(used, is_photo),
        _histogram(
            "mouth_open",
            "Open mouths",
            "Gap between the lips as a share of the mouth's width; 0 is closed. What is never open is drawn badly when it opens.",
            _values(used, _quality("mouth_open")),
            np.array([0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8]),
        ),
        _histogram(
            "face_px",
            "Size of the faces",
            "Long side of the face in the picture it was cut from.",
            _values(used, _quality("face_px")),
            np.array([0, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024]),
            unit="px",
        ),
        _histogram(
            "sharpness",
            "Sharpness",
            "Variance of the Laplacian at 256 px; more is sharper." + " Flat drawings have little, rightly." * (not is_photo),
            _values(used, _quality("sharpness")),
            np.array([0, 20, 40, 80, 160, 320, 640, 1280, 2560]),
        ),
        _histogram(
            "outlier",
            "Unlike the others" if is_photo else "Spread of the style",
            f"How far a picture lies from its neighbours. 0 is ordinary; above {UNLIKE:g} it deserves a look.",
            _values(used, _quality("outlier")),
            np.array([-4, -3, -2, -1, 0, 1, 2, 3, UNLIKE, 5, 8]),
            limits=((UNLIKE, "look"),),
        ),
        *([_face_score(used), _persons(used)] if is_photo else [_trait(used, name, *rule) for name, rule in _TRAITS.items()]),
    ]
    if any(line.shift is not None for line in used):
        all_figures += [
            _histogram(
                "landmark_shift",
                "Pairs: how far the face moved",
                "Mean distance of the five points between photograph and cartoon, in eye distances.",
                _values(used, lambda line: line.shift),
                np.array([0, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5]),
                limits=((MOVED, "moved"),),
            ),
            _histogram(
                "identity",
                "Pairs: likeness",
                "1 is the same picture, 0 a stranger, by a network for photographs.",
                _values(used, lambda line: line.likeness),
                np.arange(-2, 11) / 10,
                limits=((LIKENESS, "unlike"),),
            ),
        ]
    known = [figure for figure in all_figures if figure.measured]
    optional = {title for title, _ in _TRAITS.values()}
    missing = [figure.title for figure in all_figures if not figure.measured and figure.title not in optional]
    return tuple(known), tuple(missing)


def _histogram(
    name: str,
    title: str,
    about: str,
    values: NDArray[np.float64],
    edges: NDArray[np.floating] | NDArray[np.integer],
    *,
    unit: str = "",
    limits: tuple[tuple[float, str], ...] = (),
    groups: tuple[Group, ...] = (),
) -> Figure:
    """Count numbers between edges; what lies beyond the ends counts into the first or the last bar."""
    counts, _ = np.histogram(np.clip(values, edges[0], np.nextafter(float(edges[-1]), -inf)), edges)
    bars = (_group(f"{low:g} to {high:g}", int(n), len(values)) for (low, high), n in zip(pairwise(edges), counts, strict=True))
    median = float(np.median(values)) if len(values) else None
    return Figure(name, title, about, tuple(bars), tuple(map(float, edges)), unit, len(values), median, limits, groups)


def _face_score(used: Sequence[Entry]) -> Figure:
    about = "One number for size, sharpness, frontality and light; 1 is best."
    return _histogram("face_score", "Score of the faces", about, _values(used, _quality("face_score")), np.linspace(0, 1, 11))


def _skin(used: Sequence[Entry]) -> Figure:
    angles = _values(used, _quality("ita_deg"))
    found = Counter(skin_tone(angle) for angle in angles)
    bars = tuple(_group(name, found[name], len(angles)) for name in SKIN_TONES)
    groups = tuple(
        _group(name, sum(bar.count for bar in bars[start:end]), len(angles), SKIN_SHARE) for name, start, end in SKIN_GROUPS
    )
    about = (
        "By the individual typology angle of the cheeks, in six classes. It measures the colour in the picture, so light and "
        "filters count too; it says nothing about origin."
    )
    median = float(np.median(angles)) if len(angles) else None
    return Figure("ita_deg", "Skin tone", about, bars, measured=len(angles), median=median, unit="°", groups=groups)


def _turns(used: Sequence[Entry], is_photo: bool) -> Figure:
    turns = _values(used, _quality("yaw_deg"))
    frontal = int((np.abs(turns) < FRONTAL_DEG).sum())
    left, right = int((turns <= -FRONTAL_DEG).sum()), int((turns >= FRONTAL_DEG).sum())
    groups = tuple(
        _group(name, count, len(turns), share if is_photo else None)
        for name, count, share in (
            ("turned to the left", left, TURNED_SHARE),
            ("frontal", frontal, FRONTAL_SHARE),
            ("turned to the right", right, TURNED_SHARE),
        )
    )
    about = f"How far the head is turned; to the left is below 0. Frontal is less than {FRONTAL_DEG:g} degrees."
    if not is_photo:
        about += _UNSURE
    return _histogram("yaw_deg", "Head left and right", about, turns, np.arange(-60, 61, 10), unit="°", groups=groups)


def _glasses(used: Sequence[Entry], is_photo: bool) -> Figure:
    scores = _values(used, _quality("glasses"))
    wearing = int((scores >= GLASSES).sum())
    bars = (_group("with", wearing, len(scores)), _group("without", len(scores) - wearing, len(scores)))
    groups = (_group("with glasses", wearing, len(scores), GLASSES_SHARE if is_photo else None),)
    about = f"Guessed from the picture: a score of at least {GLASSES:g} counts as glasses. Single pictures may be wrong."
    if not is_photo:
        about += _UNSURE
    return Figure("glasses", "Glasses", about, bars, measured=len(scores), groups=groups)


def _trait(used: Sequence[Entry], name: str, title: str, wanted: float | None) -> Figure:
    """Count what the prompt said of the person; nothing is guessed from the picture."""
    values = Counter(value for line in used if (value := _said(line.traits, name)))
    total = values.total()
    bars = tuple(_group(value, count, total) for value, count in sorted(values.items(), key=lambda item: (-item[1], item[0])))
    groups = tuple(_group(value, count, total, wanted) for value, count in sorted(values.items())) if wanted else ()
    return Figure(name, title, "As the prompts said it; never guessed from the pictures.", bars, measured=total, groups=groups)


def _said(traits: Iterable[str], trait: str) -> str | None:
    return next((value for name, _, value in (each.partition("=") for each in traits) if name == trait), None)


def _persons(used: Sequence[Entry]) -> Figure:
    sizes = np.array(list(Counter(line.person for line in used if line.person).values()), np.float64)
    about = "How many persons have how many pictures. Persons are told apart by their faces; some count as two."
    edges = np.array([1, 2, 3, 4, 6, 11, 21])
    figure = _histogram("person", "Pictures of one person", about, sizes, edges)
    names = [f"{low}" if high == low + 1 else f"{low} to {high - 1}" for low, high in pairwise(edges.tolist())]
    names[-1] = f"{edges[-2]} or more"
    bars = tuple(_group(name, bar.count, len(sizes)) for name, bar in zip(names, figure.bars, strict=True))
    return Figure(figure.name, figure.title, about, bars, measured=len(sizes))
