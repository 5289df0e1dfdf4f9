"""How fast an evaluation measures pictures and how much memory it takes, against a plain loop of the same networks.

    python benchmarks/evaluation.py --pictures 10000 --json evaluation.json

Pictures are crops of the starter photographs at 128 px, flipped and shifted, made as they are asked for. Nothing is kept on
disk. Memory is the peak resident set of a process of its own for every figure (Linux).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from stylekit.assets import fetch
from stylekit.faces.align import face_matrix, warp
from stylekit.faces.finder import MeshFinder
from stylekit.images import Rgb, list_images, read_rgb
from stylekit.metrics.embedders import EMBEDDERS, Embedder, IdentityGauge, load_embedder
from stylekit.metrics.features import FeatureExtractor, FeatureGauge, load_extractor
from stylekit.metrics.fid import fid, fid_over_persons
from stylekit.metrics.kid import kid, kid_over_persons
from stylekit.metrics.manifold import manifold, neighbour_coverage
from stylekit.metrics.measure import Batch, Chunk, Gauge, Kept, measure
from stylekit.metrics.persons import Resampling
from stylekit.paths import atomic_write_text

SIZE = 128
BATCH, CHUNK = 16, 512
EXTRACTORS = ("vgg16-hed", "efficientnet-lite0")
NETWORKS = (*EXTRACTORS, "dlib-resnet")
CHEAP = ("efficientnet-lite0", "dlib-resnet")
WIDTHS = {"vgg16-hed": 512, "efficientnet-lite0": 1280}
REFERENCE, SUBSETS, RESAMPLES = 2000, 100, 1000
_PHOTOGRAPHS = 24
_SHIFT_PX = 8
_MIRRORED = (1, 0, 2, 4, 3)  # the five points of a flipped face

T = TypeVar("T")


class Pictures:
    """As many different pictures of faces as asked for, each a function of its number.

    Attributes:
        crops: Aligned photographs, uint8 RGB [128,128,3].
        points: Five points of each.
    """

    def __init__(self) -> None:
        finder = MeshFinder()
        self.crops: list[Rgb] = []
        self.points: list[NDArray[np.float64]] = []
        for path in list_images(fetch("starter-photos"))[:_PHOTOGRAPHS]:
            rgb = read_rgb(path)
            if faces := finder.find(rgb):
                five = faces[0].landmarks_5
                matrix = face_matrix(five, "dctnet", SIZE)
                self.crops.append(warp(rgb, matrix, SIZE))
                self.points.append(five @ matrix[:, :2].T + matrix[:, 2])

    def __getitem__(self, number: int) -> tuple[Rgb, NDArray[np.float64]]:
        """Return a picture and its five points."""
        turn, which = divmod(number, len(self.crops))
        picture, points = self.crops[which], self.points[which]
        if turn % 2:
            picture, points = picture[:, ::-1], (points * (-1, 1) + (SIZE - 1, 0))[list(_MIRRORED)]
        step = np.array([turn // 2 % (2 * _SHIFT_PX), turn // (4 * _SHIFT_PX) % (2 * _SHIFT_PX)]) - _SHIFT_PX
        return np.roll(picture, step[::-1], axis=(0, 1)), points + step

    def chunks(self, numbers: range) -> Iterator[Chunk]:
        """Yield chunks of a set, as an evaluation makes them, of which nothing is kept."""
        for start in range(numbers.start, numbers.stop, CHUNK):
            part = range(start, min(start + CHUNK, numbers.stop))
            yield Chunk(None, [str(number) for number in part], lambda part=part: self._batches(part))  # type: ignore[misc]

    def _batches(self, numbers: range) -> Iterator[Batch]:
        for start in range(numbers.start, numbers.stop, BATCH):
            both = [self[number] for number in range(start, min(start + BATCH, numbers.stop))]
            yield Batch(np.stack([picture for picture, _ in both]), np.stack([points for _, points in both]))


@dataclass(frozen=True)
class Network:
    """One network as an evaluation calls it, and as a plain loop does."""

    gauge: Gauge
    single: Callable[[Rgb, NDArray[np.float64]], object]


def load(name: str) -> Network:
    """Return a network by name."""
    if name in EMBEDDERS:
        embedder, asset = load_embedder(name)
        return Network(IdentityGauge(embedder, asset), _one_face(embedder))
    extractor, asset = load_extractor(name)
    return Network(FeatureGauge(extractor, asset), _one_picture(extractor))


def _one_face(embedder: Embedder) -> Callable[[Rgb, NDArray[np.float64]], object]:
    return lambda picture, points: embedder.network.embed([picture], [points])


def _one_picture(extractor: FeatureExtractor) -> Callable[[Rgb, NDArray[np.float64]], object]:
    @torch.inference_mode()
    def single(picture: Rgb, points: NDArray[np.float64]) -> object:
        return extractor(extractor.prepare(picture[None])).numpy()

    return single


def measured(pictures: Pictures, numbers: range, networks: Sequence[Network]) -> None:
    """Measure pictures as an evaluation does."""
    measure(pictures.chunks(numbers), [network.gauge for network in networks], kept=Kept(Path()), title="benchmark")


def looped(pictures: Pictures, numbers: range, networks: Sequence[Network]) -> None:
    """Measure pictures one by one."""
    for number in numbers:
        one = pictures[number]
        for network in networks:
            network.single(*one)


@dataclass(frozen=True)
class Speed:
    """Pictures a second, medians of the rounds; `ratio` is evaluation by loop, round by round."""

    pictures: int
    evaluation: float
    loop: float
    ratio: float
    least_ratio: float
    largest_ratio: float


def speed(pictures: Pictures, names: Sequence[str], sample: int, rounds: int) -> Speed:
    """Time both ways in turn, each first in every second round.

    Args:
        pictures: What is measured.
        names: Networks, all of which see every picture.
        sample: Pictures that each way measures in all.
        rounds: In how many rounds.
    """
    networks = [load(name) for name in names]
    count = -(-sample // rounds)
    rates: dict[Callable[..., None], list[float]] = {measured: [], looped: []}
    for way in rates:
        way(pictures, range(BATCH), networks)  # warm
    for number in range(rounds):
        for way in list(rates)[:: 1 if number % 2 else -1]:
            started = time.perf_counter()
            way(pictures, range(number * count, (number + 1) * count), networks)
            rates[way].append(count / (time.perf_counter() - started))
    ratios = [pair[0] / pair[1] for pair in zip(*rates.values(), strict=True)]
    fast, plain = (statistics.median(each) for each in rates.values())
    return Speed(count * rounds, fast, plain, statistics.median(ratios), min(ratios), max(ratios))


@dataclass(frozen=True)
class Cost:
    """Seconds taken, and the process's peak memory in MB at the end."""

    seconds: float
    peak_mb: float


def _peak_mb() -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def alone(work: Callable[..., T], *given: Any) -> T:
    """Return what a function returns in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *given).result()


def many(names: Sequence[str], count: int, is_loop: bool) -> Cost:
    """Measure many pictures, in a process of its own."""
    pictures, networks = Pictures(), [load(name) for name in names]
    started = time.perf_counter()
    (looped if is_loop else measured)(pictures, range(count), networks)
    return Cost(time.perf_counter() - started, _peak_mb())


def statistic(name: str, count: int, width: int) -> Cost:
    """Take one statistic of drawn features against those of 2,000 others, in a process of its own.

    Args:
        name: Of `STATISTICS`.
        count: Pictures, each of another person.
        width: Length of a feature vector.
    """
    random = np.random.default_rng(0)
    reference, features = (
        np.abs(random.normal(size=(each, width), scale=0.45)).astype(np.float32) for each in (REFERENCE, count)
    )
    resampling = Resampling([str(number) for number in range(count)], RESAMPLES, 0)
    started = time.perf_counter()
    STATISTICS[name](reference, features, resampling)
    return Cost(time.perf_counter() - started, _peak_mb())


STATISTICS: Mapping[str, Callable[[NDArray[np.float32], NDArray[np.float32], Resampling], object]] = {
    "features alone": lambda reference, features, resampling: None,
    "KID, 100 subsets": lambda reference, features, resampling: kid(reference, features, SUBSETS),
    "KID, 1000 draws of persons": kid_over_persons,
    "FID": lambda reference, features, resampling: fid(reference, features),
    "FID, 1000 draws of persons": fid_over_persons,
    "precision, recall, coverage": lambda reference, features, resampling: manifold(reference, features),
    "variety": lambda reference, features, resampling: neighbour_coverage(reference, features),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print every figure as it is taken, and write all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=10_000, help="pictures of the memory and the statistics")
    parser.add_argument("--sample", type=int, default=300, help="pictures that each way measures for the speed")
    parser.add_argument("--rounds", type=int, default=6, help="rounds in which the two ways take turns")
    parser.add_argument("--json", type=Path, help="where the figures go, beside the terminal")
    given = parser.parse_args(arguments)
    threads = torch.get_num_threads()
    found: dict[str, Any] = {"threads": threads, "torch": torch.__version__, "batch": BATCH}
    print(f"torch {torch.__version__}, {threads} threads, {SIZE} px, batches of {BATCH}", flush=True)

    few = max(given.pictures // 10, 1)
    found["memory"] = {}
    for count in (few, given.pictures):
        cost = alone(many, CHEAP, count, False)
        found["memory"][str(count)] = asdict(cost)
        print(f"{count} pictures, {' and '.join(CHEAP)}: {cost.seconds:.1f} s, peak {cost.peak_mb:.0f} MB", flush=True)
    grown = found["memory"][str(given.pictures)]["peak_mb"] - found["memory"][str(few)]["peak_mb"]
    print(f"  {given.pictures - few} pictures more take {grown:.0f} MB more", flush=True)

    found["statistics"] = {}
    for label, width in WIDTHS.items():
        for name in STATISTICS:
            cost = alone(statistic, name, given.pictures, width)
            found["statistics"][f"{label}: {name}"] = asdict(cost)
            sets = f"{given.pictures} against {REFERENCE}, {width} numbers"
            print(f"{name}, {sets}: {cost.seconds:.1f} s, peak {cost.peak_mb:.0f} MB", flush=True)

    pictures = Pictures()
    found["speed"] = {}
    for names in (*((name,) for name in NETWORKS), NETWORKS):
        rates = speed(pictures, names, given.sample, given.rounds)
        title = " + ".join(names)
        found["speed"][title] = asdict(rates)
        print(
            f"{title}, {rates.pictures} pictures: {rates.evaluation:.1f}/s in batches, {rates.loop:.1f}/s one by one, ratio "
            f"{rates.ratio:.2f} ({rates.least_ratio:.2f} to {rates.largest_ratio:.2f})",
            flush=True,
        )
    if given.json:
        atomic_write_text(given.json, json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
