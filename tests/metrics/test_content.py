from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from stylekit.metrics.content import LARGEST_PX, LAYERS, ContentGauge, distance
from stylekit.metrics.measure import Batch
from stylekit.nn.vgg import VGG16_HED_MEAN_BGR, Vgg


@pytest.fixture(scope="module")
def network() -> Vgg:
    """VGG-16 with weights drawn at random, as He et al. draw them, so that all layers answer."""
    made = Vgg(16, VGG16_HED_MEAN_BGR, "conv5_3").eval()
    generator = torch.Generator().manual_seed(0)
    for conv in made.convs.values():
        torch.nn.init.kaiming_normal_(conv.weight, generator=generator)
        torch.nn.init.zeros_(conv.bias)
    return made


def pictures(n: int, seed: int, size: int = 16) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@torch.inference_mode()
def test_equals_a_plain_loop_over_places(network):
    a, b = pictures(2, 0), pictures(2, 1)
    found = distance(network, a, b)
    for index in range(2):
        layers = []
        maps = [network.features(part[index : index + 1], LAYERS) for part in (a, b)]
        for name in LAYERS:
            x, y = (each[name][0].clamp(min=0).double().numpy() for each in maps)
            total = 0.0
            for row in range(x.shape[1]):
                for column in range(x.shape[2]):
                    u, v = x[:, row, column], y[:, row, column]
                    total += float(((u / max(np.linalg.norm(u), 1e-12) - v / max(np.linalg.norm(v), 1e-12)) ** 2).sum())
            layers.append(total / (x.shape[1] * x.shape[2]))
        assert float(found[index]) == pytest.approx(np.mean(layers), rel=1e-5)


@torch.inference_mode()
def test_is_nothing_for_equal_pictures_symmetric_and_at_most_2(network):
    a, b = pictures(2, 0), pictures(2, 1)
    assert distance(network, a, a).tolist() == [0, 0]
    np.testing.assert_allclose(distance(network, a, b), distance(network, b, a), rtol=1e-5)
    assert 0 < float(distance(network, a, b).max()) <= 2


def test_the_gauge_leaves_out_cartoons_counts_every_picture_and_shrinks_large_ones(asset_home, monkeypatch):
    gauge = ContentGauge()
    seen = []
    monkeypatch.setattr(
        "stylekit.metrics.content.distance", lambda network, a, b: seen.append(a.shape) or (a - b).abs().mean((1, 2, 3))
    )
    rng = np.random.default_rng(0)
    large = rng.integers(0, 256, (5, 2 * LARGEST_PX, 2 * LARGEST_PX, 3), dtype=np.uint8)
    points = np.zeros((5, 5, 2))
    assert gauge(Batch(large, points)) == {}
    assert gauge(Batch(large, points, large))["content"].tolist() == [0] * 5
    assert {shape[2:] for shape in seen} == {(LARGEST_PX, LARGEST_PX)}
    assert gauge(Batch(large[:0], points[:0], large[:0]))["content"].shape == (0,)
    small = large[:, :16, :16]
    assert gauge(Batch(small, points, np.roll(small, 1, axis=0)))["content"].min() > 0
    assert seen[-1][2:] == (16, 16)


def test_the_real_network_sees_blur_and_more_of_it_as_more(asset_home, portraits):
    photos = np.ascontiguousarray(portraits.pictures[2:3, 40:88, 40:88])
    gauge, points = ContentGauge(), portraits.landmarks[2:3]
    sigmas = (0.7, 3.0)
    blurred = [gauge(Batch(cv2.GaussianBlur(photos[0], (0, 0), s)[None], points, photos))["content"][0] for s in sigmas]
    assert 0.01 < blurred[0] < blurred[1] < 1
