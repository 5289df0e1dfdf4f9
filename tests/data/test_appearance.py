"""Look embeddings and outlier scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.data import astronaut

from stylekit.config.load import load_recipe
from stylekit.config.schema import GenerateRecipe
from stylekit.data.appearance import DIMENSIONS, UNLIKE, LookEmbedder, _signs, outlier_scores
from stylekit.data.manifest import read_manifest
from stylekit.data.prepare import align
from stylekit.generate.dicebear import DiceBear

PORTRAIT = np.asarray(astronaut())


def cloud(count: int, seed: int = 0, dimensions: int = DIMENSIONS) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dimensions)).astype(np.float32)


def planted(count: int, strangers: int, seed: int = 0) -> np.ndarray:
    """Return a cloud, and behind it a few points that stand together, off to one side."""
    return np.concatenate([cloud(count, seed), cloud(strangers, seed + 1) * 0.3 + 2.0])


@pytest.mark.usefixtures("asset_home")
def test_a_look_is_the_same_alone_or_in_company_and_at_any_size() -> None:
    embedder = LookEmbedder()
    half = PORTRAIT[::2, ::2]
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    together = embedder.embed([PORTRAIT, half, *[noise] * 15])
    assert (together.shape, together.dtype) == ((17, DIMENSIONS), np.float32)
    np.testing.assert_allclose(together[0], embedder.embed([PORTRAIT])[0], atol=1e-4)
    np.testing.assert_allclose(together[16], together[2], atol=1e-4)
    assert np.linalg.norm(together[0] - together[1]) < 0.5 * np.linalg.norm(together[0] - together[2])
    assert embedder.embed([]).shape == (0, DIMENSIONS)


def test_the_projection_is_fixed_and_keeps_distances() -> None:
    signs = _signs(1280)
    assert np.sign(signs[0, :12]).tolist() == [-1, 1, 1, -1, 1, 1, 1, 1, 1, 1, 1, 1]
    before, after = cloud(40, dimensions=1280), cloud(40, dimensions=1280) @ signs
    ratios = np.linalg.norm(after[1:] - after[0], axis=1) / np.linalg.norm(before[1:] - before[0], axis=1)
    assert np.abs(ratios - 1).max() < 0.25


@pytest.mark.parametrize(("count", "strangers"), [(40, 3), (300, 5), (5000, 9)])
def test_strangers_come_out_on_top(count: int, strangers: int) -> None:
    scores = outlier_scores(planted(count, strangers))
    assert scores.dtype == np.float32
    assert set(np.argsort(-scores)[:strangers]) == set(range(count, count + strangers))
    assert scores[count:].min() > UNLIKE
    assert (scores[:count] > UNLIKE).mean() < 0.01
    assert abs(float(np.median(scores))) < 0.1


def test_a_second_manner_of_a_third_of_the_set_is_not_unlike() -> None:
    scores = outlier_scores(np.concatenate([cloud(60), cloud(30, 1) + 4.0]))
    assert scores.max() < UNLIKE


@settings(max_examples=20, deadline=None)
@given(st.integers(8, 60), st.integers(0, 99), st.floats(0.01, 100), st.floats(-50, 50))
def test_neither_order_nor_scale_nor_place_matters(count: int, seed: int, scale: float, shift: float) -> None:
    points = cloud(count, seed, 8)
    scores = outlier_scores(points)
    order = np.random.default_rng(seed).permutation(count)
    np.testing.assert_allclose(outlier_scores(points[order]), scores[order], atol=1e-3)
    np.testing.assert_allclose(outlier_scores(points * scale + shift * scale), scores, atol=0.05)


@pytest.mark.parametrize("points", [np.zeros((0, 8)), cloud(7), np.ones((20, 8)), np.full((3000, 4), 1e6)])
def test_too_few_or_equal_pictures_are_never_unlike(points: np.ndarray) -> None:
    assert not outlier_scores(points).any()


def draw(style: str, count: int, folder: Path, **options: object) -> None:
    engine = DiceBear(GenerateRecipe(engine="dicebear", model=style, count=count, size=256, options=options), seed=3)
    for origin, data in engine.pictures(dict(enumerate(engine.files))):
        (folder / f"{style}-{origin.file}").write_bytes(data)


@pytest.mark.slow
@pytest.mark.usefixtures("asset_home")
def test_drawings_of_another_style_are_found_by_align(tmp_path: Path) -> None:
    draw("toon-head", 50, tmp_path, **load_recipe("demo").generate.options)
    draw("avataaars", 5, tmp_path)
    report = align(tmp_path, kind="cartoon", output=tmp_path / "out")
    used = [line for line in read_manifest(report.manifest) if line.status == "used"]
    used.sort(key=lambda line: -line.quality["outlier"])
    assert sum("avataaars" in line.input for line in used[:5]) >= 4
    assert sum("toon-head" in line.input and line.quality["outlier"] > UNLIKE for line in used) <= 1
