"""Whether every figure of a row stands under its own name."""

import numpy as np
import pytest

from stylekit.evaluation import figures as module
from stylekit.evaluation.figures import SHARES, Yardstick, row_figures
from stylekit.metrics.identity import Identity
from stylekit.metrics.manifold import manifold
from stylekit.metrics.persons import Resampling

PERSONS = list("aabbcd")


def features(n, seed, width=8):
    return np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)


def yardstick(**changes):
    given = {
        "photo": {"embedding/face": features(6, 0)},
        "reference": {"features/net": features(20, 1)},
        "centres": {"face": np.zeros(8)},
        "persons": PERSONS,
        "extractors": ["net"],
        "embedders": {"face": "face@crop"},
        "subsets": 5,
        "seed": 0,
        "resampling": Resampling(PERSONS, 40, 0),
    }
    return Yardstick(**(given | changes))


def row():
    return {"features/net": features(6, 2), "embedding/face": features(6, 3)}


def test_precision_recall_and_the_coverages_stand_under_their_own_names():
    reference, own = features(20, 1), np.concatenate([features(20, 1)[:4], features(2, 5) + 3])
    found = row_figures(row() | {"features/net": own}, yardstick(reference={"features/net": reference})).values
    expected = manifold(reference, own)
    stands = [found[f"{name}/net/n6"] for name in ("precision", "recall", "coverage")]
    assert stands == [expected.precision, expected.recall, expected.coverage]
    assert len(set(stands)) == 3


def test_every_field_of_likeness_stands_under_its_own_name(monkeypatch):
    fields = [np.linspace(low, low + 0.05, 6) for low in (0.1, 0.2, 0.3)]
    hits, photo_hits = np.array([1, 1, 1, 0, 0, 1], bool), np.array([1, 0, 0, 0, 0, 0], bool)
    told = Identity(*fields, hits, photo_hits, np.linspace(0.5, 0.6, 6), 0.77, 0.88, 0.99)
    monkeypatch.setattr(module, "identity", lambda *_: told)
    monkeypatch.setattr(module, "neighbour_coverage", lambda *_, **__: 0.123)
    found = row_figures(row(), yardstick())
    expected = {
        "id_centred": 0.125, "id_centred_std": fields[0].std(), "id_raw": 0.225, "id_l2": 0.325, "id_recognised": 0.55,
        "id_rank_1": 4 / 6, "id_rank_1_chance": 0.77, "id_centred_strangers": 0.88,
    }  # fmt: skip
    assert {name: found.values[f"{name}/face@crop/n6"] for name in expected} == pytest.approx(expected)
    assert found.values["neighbour_coverage/net/n6"] == 0.123
    assert np.array_equal(found.pictures["id_recognised/face@crop"], told.own_among_few)


def test_shares_of_which_nobody_differs_keep_an_interval():
    by = yardstick()
    found = row_figures({"features/net": by.reference["features/net"][:6], "embedding/face": by.photo["embedding/face"]}, by)
    for name in ("precision/net/n6", "id_rank_1/face@crop/n6", "id_recognised/face@crop/n6"):
        assert found.values[name] == 1
        assert found.intervals[name] == pytest.approx((0.51, 1), abs=1e-3)  # of four persons
        assert name.split("/")[0] in SHARES
