from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from stylekit.nn.unet import convolve_to_few, upsample_legacy


def doubled(row: Tensor) -> Tensor:
    """Double the last axis by TensorFlow 1's rule, written out: copies, means of neighbours, and the edge again."""
    parts = []
    for i in range(row.shape[-1]):
        parts += [row[..., i], (row[..., i] + row[..., min(i + 1, row.shape[-1] - 1)]) / 2]
    return torch.stack(parts, -1)


@settings(max_examples=25, deadline=None)
@given(height=st.integers(1, 9), width=st.integers(1, 9), last=st.booleans())
def test_upsampling_is_tensorflow_1s(height, width, last):
    picture = torch.randn(2, 3, height, width, dtype=torch.float64)
    expected = doubled(doubled(picture).transpose(-1, -2)).transpose(-1, -2)
    found = upsample_legacy(picture.contiguous(memory_format=torch.channels_last) if last else picture)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_upsampling_exports_to_what_it_computes():
    class Doubling(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return upsample_legacy(x)

    picture = torch.randn(1, 2, 5, 6)
    program = torch.export.export(Doubling(), (picture,))
    torch.testing.assert_close(program.module()(picture), upsample_legacy(picture), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kernel", [3, 7])
def test_a_convolution_to_few_channels_and_its_gradients(kernel):
    conv = nn.Conv2d(8, 3, kernel, padding=kernel // 2).double()
    picture = torch.randn(2, 8, 10, 14, dtype=torch.float64, requires_grad=True)
    wanted = torch.randn(2, 3, 10, 14, dtype=torch.float64)
    made = [convolve_to_few(picture, conv), F.conv2d(picture, conv.weight, conv.bias, padding=kernel // 2)]
    assert "PixelShuffle" in made[0].grad_fn.name()
    given_to = (picture, conv.weight, conv.bias)
    for one, other in zip(*[(m, *torch.autograd.grad(m, given_to, wanted)) for m in made], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
