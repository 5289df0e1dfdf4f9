from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stylekit.nn import box
from stylekit.nn.box import box_mean


def plain(picture: Tensor, radius: int) -> Tensor:
    """Mean over what there is of each window, by definition."""
    found = torch.empty_like(picture)
    height, width = picture.shape[-2:]
    for y in range(height):
        for x in range(width):
            window = picture[..., max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]
            found[..., y, x] = window.mean((-2, -1))
    return found


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(1, 12), st.integers(1, 12)),
    radius=st.integers(1, 6),
    last=st.booleans(),
)
def test_every_window_is_averaged(shape, radius, last):
    picture = torch.from_numpy(np.random.default_rng(0).normal(size=shape).astype(np.float32))
    given_as = picture.contiguous(memory_format=torch.channels_last) if last else picture
    torch.testing.assert_close(box_mean(given_as, radius), plain(picture, radius), rtol=0, atol=1e-6)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("radius", [1, 5])
def test_gradient_is_that_of_pooling(layout, radius, monkeypatch):
    picture = torch.randn(2, 3, 17, 14).to(memory_format=layout).requires_grad_()
    wanted = torch.randn(2, 3, 17, 14)
    (found,) = torch.autograd.grad(box_mean(picture, radius), picture, wanted)
    monkeypatch.setattr(box, "can_compile", lambda: False)
    pooled = box_mean(picture, radius)
    assert "AvgPool2D" in pooled.grad_fn.name()
    (expected,) = torch.autograd.grad(pooled, picture, wanted)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_float64_is_kept():
    picture = torch.randn(1, 2, 9, 8, dtype=torch.float64)
    torch.testing.assert_close(box_mean(picture, 2), plain(picture, 2), rtol=0, atol=1e-14)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so(value):
    picture = torch.zeros(1, 3, 9, 9)
    picture[0, 1, 4, 4] = value
    assert not box_mean(picture, 1)[0, 1, 3:6, 3:6].isfinite().any()
