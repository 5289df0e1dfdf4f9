from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stylekit.nn import winograd
from stylekit.nn.cpu import can_compile
from stylekit.nn.unet import _Convolution
from stylekit.nn.winograd import FrozenWeights, Points, conv3x3, convolve, turned, weight_gradient

pytestmark = pytest.mark.skipif(not can_compile(), reason="numba is not installed")

SLOPES = (0.0, 0.2, 1.0)


def some(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def share(found: Tensor, expected: Tensor) -> float:
    return float((found.detach().double() - expected).norm() / expected.norm())


@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(1, 3),
    inputs=st.sampled_from((16, 32, 64)),
    outputs=st.sampled_from((16, 48)),
    height=st.integers(1, 19),
    width=st.integers(1, 19),
    slope=st.sampled_from(SLOPES),
    last=st.booleans(),
)
def test_any_shape_equals_the_direct_convolution(*, count, inputs, outputs, height, width, slope, last):
    picture, weight, bias = some(count, inputs, height, width), some(outputs, inputs, 3, 3, seed=1), some(outputs, seed=2)
    given_as = picture.contiguous(memory_format=torch.channels_last) if last else picture
    found = convolve(given_as, Points.of(weight), bias, slope)
    expected = F.leaky_relu(F.conv2d(picture.double(), weight.double(), bias.double(), padding=1), slope)
    assert found.shape == expected.shape
    assert share(found, expected) < 4e-6


def test_a_row_of_more_tiles_than_are_worked_on_at_once() -> None:
    picture, weight = some(1, 32, 9, 4 * winograd._TILES + 40), some(32, 32, 3, 3, seed=1)
    found = convolve(picture, Points.of(weight))
    assert share(found, F.conv2d(picture.double(), weight.double(), padding=1)) < 4e-6


@pytest.mark.parametrize("slope", SLOPES)
@pytest.mark.parametrize(("height", "width"), [(33, 30), (7, 13)])
def test_gradients_equal_the_direct_convolutions(slope, height, width, monkeypatch):
    monkeypatch.setattr(winograd, "_FEWEST_TILES_ANEW", 1)
    picture, weight, bias = some(2, 64, height, width), some(128, 64, 3, 3, seed=1), some(128, seed=2)
    wanted = some(2, 128, height, width, seed=3)

    def gradients(dtype: torch.dtype, apply) -> tuple[Tensor, ...]:
        given = [each.to(dtype).requires_grad_() for each in (picture, weight, bias)]
        made = apply(*given)
        assert ("_Convolution" in made.grad_fn.name()) == (dtype == torch.float32)
        return made.detach(), *torch.autograd.grad(made, given, wanted.to(dtype))

    found = gradients(torch.float32, lambda x, w, b: conv3x3(x, w, b, slope))
    expected = gradients(torch.float64, lambda x, w, b: F.leaky_relu(F.conv2d(x, w, b, padding=1), slope))
    for one, other in zip(found, expected, strict=True):
        assert share(one, other) < 5e-6


def test_many_tiles_are_worked_on_in_parts(monkeypatch):
    picture, weight, bias = some(3, 16, 21, 22), some(16, 16, 3, 3, seed=1), some(16, seed=2)
    whole = convolve(picture, Points.of(weight), bias, 0.2)
    of_whole = weight_gradient(picture, whole)
    monkeypatch.setattr(winograd, "_TILES", 7)
    assert share(convolve(picture, Points.of(weight), bias, 0.2), whole.double()) < 1e-6
    for one, other in zip(weight_gradient(picture, whole), of_whole, strict=True):
        assert share(one, other.double()) < 1e-5


def test_torch_without_onednns_layouts(monkeypatch):
    picture, weight = some(1, 64, 9, 9), some(64, 64, 3, 3, seed=1)
    expected = convolve(picture, Points.of(weight))
    monkeypatch.setattr(winograd, "_packs", lambda: False)
    assert share(convolve(picture, Points.of(weight)), expected.double()) < 1e-6


def test_frozen_weights_are_transformed_once_and_again_when_they_change():
    frozen, weight, picture = FrozenWeights(), some(64, 64, 3, 3), some(1, 64, 32, 32)
    first = frozen.of(picture, weight)
    assert frozen.of(picture, weight) is first
    with torch.no_grad():
        weight.mul_(2)
    second = frozen.of(picture, weight)
    assert second is not first
    expected = F.conv2d(picture, weight, torch.zeros(64), padding=1)
    assert share(conv3x3(picture, weight, torch.zeros(64), kept=second), expected.double()) < 1e-5
    assert copy.deepcopy(frozen).of(picture, weight) is not None


def test_a_layer_that_was_trained_meanwhile_draws_with_what_it_learned():
    layer, picture = _Convolution(32, 32), some(1, 32, 64, 64)
    layer.requires_grad_(False)
    layer(picture)
    layer.requires_grad_(True)
    layer(picture).square().mean().backward()
    torch.optim.Adam(layer.parameters(), lr=0.5, fused=True).step()
    layer.requires_grad_(False)
    expected = F.leaky_relu(F.conv2d(picture, layer.weight, layer.bias, padding=1), 0.2)
    assert share(layer(picture), expected.double()) < 1e-5


def test_weights_made_in_inference_mode_are_kept_too():
    with torch.inference_mode():
        frozen, weight, picture = FrozenWeights(), some(64, 64, 3, 3), some(1, 64, 32, 32)
        assert frozen.of(picture, weight) is frozen.of(picture, weight) is not None


@pytest.mark.parametrize(
    ("picture", "weight"),
    [
        (some(1, 3, 32, 32), some(64, 3, 3, 3)),
        (some(1, 16, 32, 32), some(64, 16, 3, 3)),
        (some(1, 72, 32, 32), some(64, 72, 3, 3)),
        (some(1, 64, 28, 32), some(64, 64, 3, 3)),
        (some(1, 64, 32, 32).double(), some(64, 64, 3, 3).double()),
    ],
    ids=["three channels", "few channels", "no multiple of sixteen", "few tiles", "float64"],
)
def test_what_does_not_pay_is_left_to_torch(picture, weight):
    bias = torch.zeros(64, dtype=weight.dtype)
    assert FrozenWeights().of(picture, weight) is None
    torch.testing.assert_close(
        conv3x3(picture, weight, bias, 0.2), F.leaky_relu(F.conv2d(picture, weight, bias, padding=1), 0.2), rtol=0, atol=0
    )


def test_without_numba_torch_convolves(monkeypatch):
    monkeypatch.setattr(winograd, "can_compile", lambda: False)
    picture, weight = some(1, 64, 96, 96), some(64, 64, 3, 3)
    torch.testing.assert_close(conv3x3(picture, weight, torch.zeros(64)), F.conv2d(picture, weight, padding=1), rtol=0, atol=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("slope", SLOPES)
def test_what_is_not_finite_stays_so(value, slope):
    picture, points = some(1, 16, 9, 9), Points.of(some(16, 16, 3, 3, seed=1))
    picture[0, 3, 4, 4] = value
    assert not convolve(picture, points, None, slope).isfinite().all()
    gradients = weight_gradient(some(1, 16, 9, 9), picture, slope, some(1, 16, 9, 9, seed=2))
    assert not any(each.isfinite().all() for each in gradients)


def test_tracing_sees_torchs_convolution():
    weight, bias = some(64, 64, 3, 3), torch.zeros(64)
    traced = torch.jit.trace(lambda x: conv3x3(x, weight, bias), some(1, 64, 96, 96))
    other = some(1, 64, 40, 40, seed=3)
    torch.testing.assert_close(traced(other), F.conv2d(other, weight, bias, padding=1))


def test_a_kernel_that_is_trained_needs_more_tiles():
    weight = some(64, 64, 3, 3)
    assert not winograd.pays(some(1, 64, 60, 64), weight)
    assert winograd.pays(some(1, 64, 64, 64), weight)


def test_a_turned_kernel_takes_the_gradient_back():
    weight, gradient = some(16, 32, 3, 3), some(1, 16, 6, 7, seed=1)
    expected = F.conv_transpose2d(gradient, weight, padding=1)
    torch.testing.assert_close(F.conv2d(gradient, turned(weight), padding=1), expected)
