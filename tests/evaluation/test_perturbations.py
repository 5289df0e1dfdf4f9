"""Known changes move the figures that they should, and not the others: docs/perturbations.md in small."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from benchmarks.perturbations import CONTROL, PERTURBATIONS, Row, equal_sets, moved, row_of
from stylekit.bundle import STARTER, load_style
from stylekit.bundle.weights import unpack_generator
from stylekit.evaluation.figures import Yardstick, row_figures
from stylekit.evaluation.makers import network_maker
from stylekit.metrics.artefacts import ArtefactGauge
from stylekit.metrics.colour import ColourGauge
from stylekit.metrics.content import ContentGauge
from stylekit.metrics.embedders import IdentityGauge, load_embedder
from stylekit.metrics.expression import ExpressionGauge
from stylekit.metrics.features import FeatureGauge, load_extractor
from stylekit.metrics.measure import Batch, measure_batch
from stylekit.metrics.persons import Resampling
from stylekit.metrics.report import metric_name
from tests.metrics.conftest import aligned

pytestmark = pytest.mark.slow

PHOTOS = tuple(
    f"tabler/{name}" for name in ("female/8", "female/10", "female/14", "male/2", "male/8", "male/10", "male/13", "male/16")
)
OTHERS = tuple(
    f"tabler/{name}" for name in ("female/3", "female/4", "female/6", "female/9", "male/1", "male/3", "male/4", "male/5")
)


class SmallBench:
    """Eight photographs against what the package's own style makes of eight other people."""

    def __init__(self) -> None:
        features, face = FeatureGauge(*load_extractor("efficientnet-lite0")), IdentityGauge(*load_embedder("dlib-resnet"))
        self.gauges = [features, face, ArtefactGauge(), ColourGauge(), ExpressionGauge()]
        self.content = ContentGauge()
        self.photos, others = aligned(PHOTOS), aligned(OTHERS)
        style = load_style(STARTER)
        make, _ = network_maker(unpack_generator(style, style.style.networks.face), 128, STARTER)
        cartoons = Batch(np.stack(make(list(others.pictures), range(len(OTHERS)))), others.landmarks)
        self.by = Yardstick(
            photo=measure_batch(self.photos, self.gauges) | {"content": np.zeros(len(PHOTOS), np.float32)},
            reference=measure_batch(cartoons, self.gauges[:3]),
            centres={"dlib-resnet": face(others)["embedding/dlib-resnet"].mean(axis=0, dtype=np.float64)},
            persons=PHOTOS,
            extractors=[features.label],
            embedders={"dlib-resnet": face.embedder.label},
            subsets=10,
            seed=0,
            resampling=Resampling(PHOTOS, 500, 0),
        )

    @cache  # noqa: B019  (one bench a session)
    def row(self, title: str) -> Row:
        if title == "nothing":
            arrays = self.by.photo
        else:
            changed = PERTURBATIONS[title](self.photos.pictures, self.photos.landmarks)
            batch = Batch(changed, self.photos.landmarks, self.photos.pictures)
            arrays = measure_batch(batch, [*self.gauges, self.content] if title in ("blur 2 px", CONTROL) else self.gauges)
        return row_of(row_figures(arrays, self.by), arrays, self.by)

    def name(self, metric: str) -> str:
        network = {"id": self.by.embedders["dlib-resnet"], "kid": self.by.extractors[0]}.get(metric.partition("_")[0])
        return metric_name(metric, network, len(PHOTOS))

    def value(self, title: str, metric: str) -> float:
        return self.row(title).values[self.name(metric)]

    def moved(self, title: str, metric: str) -> bool:
        return moved(self.row(title), self.row("nothing"), self.row(CONTROL), self.name(metric))


@pytest.fixture(scope="module")
def bench(asset_home):
    return SmallBench()


def test_equal_sets_are_near_and_everybody_is_found_again(bench):
    found, _ = equal_sets(bench.by.reference[f"features/{bench.by.extractors[0]}"].astype(np.float64), (4, 4))["kid_x1000_all"]
    assert abs(found) < 0.1 * bench.value("nothing", "kid_x1000_all")
    assert bench.value("nothing", "id_centred") == pytest.approx(1)
    assert bench.value("nothing", "id_rank_1") == 1


def test_shuffled_pairs_are_strangers_and_the_same_set(bench):
    strangers, chance = bench.value("nothing", "id_centred_strangers"), bench.value("nothing", "id_rank_1_chance")
    assert bench.value("another person", "id_centred") == pytest.approx(strangers, abs=0.15)
    assert bench.moved("another person", "id_centred")
    assert bench.value("another person", "id_rank_1") <= chance
    assert bench.value("another person", "kid_x1000_all") == pytest.approx(bench.value("nothing", "kid_x1000_all"), rel=1e-6)
    assert not bench.moved("another person", "kid_x1000_all")


def test_hue_moves_colour_and_neither_person_nor_face(bench):
    assert bench.moved("hue 60°", "colour_shift")
    assert bench.value("hue 60°", "colour_shift") > 10
    assert bench.value("hue 60°", "id_rank_1") == 1
    assert not bench.moved("hue 60°", "artefact_eyes")
    assert bench.value("hue 60°", "expression_eyes") < 0.02
    assert bench.value("hue 60°", "expression_mouth") < 0.02


def test_blur_moves_sharpness_and_content_and_no_colour(bench):
    for metric in ("blur_eyes", "blur_mouth", "content"):
        assert bench.moved("blur 2 px", metric), metric
    assert bench.value("blur 4 px", "blur_eyes") > bench.value("blur 2 px", "blur_eyes")
    assert abs(bench.value("blur 2 px", "ita_shift_deg")) < 2
    assert bench.value("blur 2 px", "id_rank_1") == 1


def test_noise_is_a_fault_and_neither_a_blur_nor_another_colour(bench):
    for metric in ("artefact_eyes", "artefact_mouth"):
        assert bench.moved("noise 25", metric), metric
    assert bench.value("noise 25", "blur_eyes") == 0
    assert abs(bench.value("noise 25", "ita_shift_deg")) < 1
