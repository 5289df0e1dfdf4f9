"""Aligning and measuring on the clock, with the starter photographs."""

from __future__ import annotations

import pytest

from stylekit.config.schema import EvalRecipe
from stylekit.speed.aligning import aligned, bench_align
from stylekit.speed.evaluating import bench_eval


def test_starter_photographs_are_aligned() -> None:
    report = bench_align(count=2)
    assert report.pictures == 2
    assert 1 <= report.crops <= 4
    assert report.landmarks == "mesh"
    assert report.pictures_per_s > 0


def test_nothing_is_kept_of_them() -> None:
    with aligned(1) as (folder, _, elapsed_s):
        assert (folder / "manifest.jsonl").is_file()
        assert elapsed_s > 0
    assert not folder.exists()


@pytest.mark.slow
def test_every_gauge_is_timed() -> None:
    settings = EvalRecipe(extractors=("efficientnet-lite0",), embedders=("dlib-resnet",))
    report = bench_eval(settings, count=4, size=64, rounds=1, device="cpu")
    assert list(report.picture_s) == [
        "features efficientnet-lite0", "identity dlib-resnet", "artefact", "expression", "content", "colour",
    ]  # fmt: skip
    assert all(each > 0 for each in report.picture_s.values())
    assert 1 <= report.pictures <= 4
