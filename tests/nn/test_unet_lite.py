import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stylekit.config.schema import NetworkRecipe
from stylekit.nn.generators import make_generator, multiplications, network_of, parameters
from stylekit.nn.unet_lite import LiteGenerator

UNET, LITE = NetworkRecipe(), NetworkRecipe(arch="unet-lite")


def picture(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 2), st.integers(1, 12), st.integers(1, 12), st.sampled_from([4, 6, 9]))
def test_every_multiple_of_4_keeps_its_size_and_a_fresh_start_repeats_the_photograph(count, rows, columns, width):
    photo = picture(count, 3, 4 * rows, 4 * columns)
    network = LiteGenerator(width, 1)
    assert network(photo).shape == photo.shape
    network.start_as_identity()
    assert torch.equal(network(photo), photo)


def test_it_stays_within_what_a_phone_is_promised():
    assert multiplications(UNET) == 8_166_309_888  # the sum over the layers of methods.md 1.2 at 256x256
    assert multiplications(LITE) * 8 <= multiplications(UNET)
    assert parameters(LITE) * 2 <= 2.5e6
    assert parameters(LITE) == sum(weight.numel() for weight in make_generator(LITE).parameters()) == 722_806


@pytest.mark.parametrize("arch", ["unet", "unet-lite"])
def test_a_network_is_made_as_the_recipe_says_and_says_so_itself(arch):
    for width, blocks in ((4, 0), (8, 3)):
        wanted = NetworkRecipe(arch=arch, width=width, blocks=blocks)
        assert network_of(make_generator(wanted)) == wanted


def test_a_far_corner_does_not_move_what_is_drawn_here():
    torch.manual_seed(0)
    network = LiteGenerator(4, 1)
    photo = picture(1, 3, 160, 160)
    changed = photo.clone()
    changed[..., 144:, 144:] = 0
    drawn, other = network(photo), network(changed)
    assert torch.equal(drawn[..., :40, :40], other[..., :40, :40])
    assert not torch.allclose(drawn[..., 144:, 144:], other[..., 144:, 144:])
