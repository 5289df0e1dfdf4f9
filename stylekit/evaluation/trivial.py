"""Six rows that need no training. A style that does not beat them has learned nothing; a protocol that they pass is too weak."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.spatial.distance import cdist

from stylekit.config.schema import Recipe
from stylekit.evaluation.bench import Bench, Maker, as_they_are, square
from stylekit.images import Rgb, to_rgb, to_tensor
from stylekit.methods.base import build_generator
from stylekit.metrics.baselines import ColourStatistics, bilateral_edges, colour_statistics, transfer_colour

COPIES = ("constant-cartoon", "nearest-cartoon")
"""The rows that are cartoons themselves: perfect in style, nobody in particular."""

FILTERS = ("colour-transfer", "bilateral-edges")

UNTRAINED = "untrained"


@dataclass(frozen=True, eq=False)
class TrivialRow:
    """One of them.

    Attributes:
        source: What it is, in words.
        make: Makes its pictures.
        key: What they depend on beside the photographs.
    """

    source: str
    make: Maker
    key: str


class TrivialRows:
    """The six rows of a bench.

    Args:
        bench: Whose photographs and cartoons they use.
        recipe: Its generator, before any training, is the last row.
    """

    def __init__(self, bench: Bench, recipe: Recipe) -> None:
        self._bench = bench
        self._recipe = recipe

    def __getitem__(self, name: str) -> TrivialRow:
        return {
            "photo": lambda: TrivialRow("the photograph itself", as_they_are, "photo"),
            "constant-cartoon": self._constant,
            "nearest-cartoon": self._nearest,
            "colour-transfer": self._recoloured,
            "bilateral-edges": self._filtered,
            UNTRAINED: self._untrained,
        }[name]()

    names = ("photo", *COPIES, *FILTERS, UNTRAINED)

    def _constant(self) -> TrivialRow:
        features = self._bench.reference[f"features/{self._bench.extractors[0]}"]
        middle = int(np.linalg.norm(features - features.mean(axis=0), axis=1).argmin())
        cartoon = self._bench.cartoons
        key = f"cartoon {cartoon.digests[middle]}"
        return TrivialRow(
            f"the cartoon nearest to their mean, {cartoon.files[middle]}, for everybody",
            lambda crops, indices: [cartoon.read(middle)] * len(crops),
            key,
        )

    def _nearest(self) -> TrivialRow:
        bench = self._bench
        name = bench.identities[0].embedder.name
        embedding, centre = f"embedding/{name}", bench.centres[name]
        nearest = cdist(bench.photo[embedding] - centre, bench.reference[embedding] - centre, "cosine").argmin(axis=1)
        chosen = "".join(bench.cartoons.digests[index] for index in nearest)
        return TrivialRow(
            f"for each photograph the cartoon that is nearest to it by {name}",
            lambda crops, indices: [bench.cartoons.read(int(nearest[index])) for index in indices],
            f"nearest {hashlib.sha256(chosen.encode()).hexdigest()}",
        )

    @cached_property
    def _colours(self) -> ColourStatistics:
        cartoons, size = self._bench.cartoons, self._bench.size
        return colour_statistics(square(cartoons.read(index), size) for index in range(len(cartoons)))

    def _recoloured(self) -> TrivialRow:
        size, reference = self._bench.size, hashlib.sha256("".join(self._bench.cartoons.digests).encode()).hexdigest()
        return TrivialRow(
            "the photograph with the cartoons' colour statistics (Reinhard)",
            lambda crops, indices: [transfer_colour(square(crop, size), self._colours) for crop in crops],
            f"colour-transfer 1 {reference}",
        )

    def _filtered(self) -> TrivialRow:
        size = self._bench.size
        return TrivialRow(
            "a bilateral filter, six levels a channel, and dark edges",
            lambda crops, indices: [bilateral_edges(square(crop, size)) for crop in crops],
            "bilateral-edges 1",
        )

    def _untrained(self) -> TrivialRow:
        train = self._recipe.train
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._recipe.seed)
            network = build_generator(self._recipe).eval()

        @torch.inference_mode()
        def make(crops: Sequence[Rgb], indices: Sequence[int]) -> Sequence[Rgb]:
            return [to_rgb(network(to_tensor(square(crop, train.size))))[0] for crop in crops]

        return TrivialRow(
            "the network with its first, random weights",
            make,
            f"untrained {train.method} {train.network.model_dump_json()} {train.size} {self._recipe.seed} {torch.__version__}",
        )
