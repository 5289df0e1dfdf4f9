"""How long an evaluation takes for a picture, gauge by gauge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stylekit.config.schema import AlignRecipe, EvalRecipe
from stylekit.data.manifest import stream_manifest
from stylekit.evaluation.bench import face_gauges
from stylekit.images import resize
from stylekit.metrics.artefacts import ArtefactGauge
from stylekit.metrics.embedders import IdentityGauge, load_embedder
from stylekit.metrics.features import FeatureGauge, load_extractor
from stylekit.metrics.measure import Batch, Gauge
from stylekit.metrics.protocol import PictureSet
from stylekit.nn.device import find_device
from stylekit.progress import Progress, silent
from stylekit.speed.aligning import aligned
from stylekit.speed.machine import Machine, describe
from stylekit.speed.timing import alternate, median


@dataclass(frozen=True)
class EvalSpeed:
    """What measuring takes.

    Attributes:
        machine: The machine.
        pictures: Pictures of a batch.
        size: Their side in pixels.
        picture_s: Seconds of a picture by gauge, medians.
    """

    machine: Machine
    pictures: int
    size: int
    picture_s: dict[str, float]


def bench_eval(
    settings: EvalRecipe | None = None,
    *,
    count: int = 16,
    size: int = 256,
    rounds: int = 2,
    device: str | None = None,
    progress: Progress = silent,
) -> EvalSpeed:
    """Time every gauge of an evaluation on crops of starter photographs; gauges take turns, each after one round to warm up.

    Args:
        settings: Whose extractors and embedders.
        count: Photographs to align; one whose face is not good enough gives no crop.
        size: Side of the crops in pixels.
        rounds: Timed rounds.
        device: Where networks run; the best there is by default.
        progress: Shows how far the aligning is.

    Raises:
        AssetError: If a network or the photographs cannot be had.
        UsageError: If the device is not there.
    """
    place = find_device(device)
    gauges = _gauges(settings or EvalRecipe(), str(place))
    batch = _batch(count, size, progress)
    taken = alternate({name: lambda gauge=gauge: gauge(batch) for name, gauge in gauges.items()}, rounds, place)  # type: ignore[misc]
    return EvalSpeed(
        describe(place), len(batch.pictures), size, {name: median(each) / len(batch.pictures) for name, each in taken.items()}
    )


def _gauges(settings: EvalRecipe, device: str) -> dict[str, Gauge]:
    named: dict[str, Gauge] = {}
    named |= {f"features {name}": FeatureGauge(*load_extractor(name, device)) for name in settings.extractors}
    named |= {f"identity {name}": IdentityGauge(*load_embedder(name, device)) for name in settings.embedders}
    others: Sequence[Gauge] = (ArtefactGauge(), *face_gauges(device))
    return named | {type(gauge).__name__.removesuffix("Gauge").lower(): gauge for gauge in others}


def _batch(count: int, size: int, progress: Progress) -> Batch:
    recipe = AlignRecipe(size=256)
    with aligned(count, recipe, progress) as (folder, _, _):
        lines = tuple(line for line in stream_manifest(folder / "manifest.jsonl") if line.status == "used")
        crops = PictureSet(folder, lines, "")
        pictures = np.stack([resize(crops.read(line), (size, size)) for line in lines])
        landmarks = np.stack([crops.landmarks(line, recipe.size, size) for line in lines])
    return Batch(pictures, landmarks, pictures)
