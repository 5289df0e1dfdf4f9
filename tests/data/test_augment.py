import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stylekit.config.schema import AugmentRecipe
from stylekit.data.augment import draw_affine, transform
from stylekit.data.sampler import generator_for


def smooth(size=64):
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    return torch.stack((x, y, torch.exp(-4 * (x**2 + y**2))))[None]


def test_only_flips_mirror_exactly():
    affine = draw_affine(64, AugmentRecipe(flip=True, scale=(1, 1), rotate_deg=0), generator_for(0, "augment_photo", 0))
    moved = transform(smooth().expand(64, -1, -1, -1), affine)
    mirrored = [torch.allclose(m, smooth()[0].flip(-1), atol=1e-5) for m in moved]
    same = [torch.allclose(m, smooth()[0], atol=1e-5) for m in moved]
    assert all(a != b for a, b in zip(mirrored, same, strict=True))
    assert 16 < sum(mirrored) < 48


@settings(max_examples=40, deadline=None)
@given(st.floats(0.7, 1.0), st.floats(1.0, 1.4), st.floats(0, 40), st.booleans(), st.integers(0, 10**6))
def test_transforms_stay_in_their_ranges(low, high, degrees, flip, step):
    recipe = AugmentRecipe(flip=flip, scale=(low, high), rotate_deg=degrees)
    affine = draw_affine(8, recipe, generator_for(1, "augment_photo", step))
    linear = affine[:, :, :2]
    zoom = linear.det().abs().rsqrt()
    angle = torch.atan2(linear[:, 1, 0], linear[:, 1, 1]).abs()
    assert ((zoom >= low - 1e-4) & (zoom <= high + 1e-4)).all()
    assert (angle <= math.radians(degrees) + 1e-4).all()
    assert flip or (linear.det() > 0).all()
    gram = linear @ linear.mT
    assert torch.allclose(gram, torch.eye(2) / zoom.square().view(-1, 1, 1), atol=1e-4), "no shear"


def test_stacked_pictures_stay_in_register():
    affine = draw_affine(4, AugmentRecipe(), generator_for(0, "augment_photo", 3))
    picture = smooth().expand(4, -1, -1, -1)
    moved = transform(torch.cat((picture, 2 * picture), 1), affine)
    assert torch.allclose(moved[:, 3:], 2 * moved[:, :3], atol=1e-5)


def test_what_a_zoom_uncovers_is_mirrored_and_not_striped():
    line = torch.zeros(1, 1, 32, 32)
    line[..., 31, :] = torch.arange(32) % 2
    shrunk = transform(line, draw_affine(1, AugmentRecipe(flip=False, scale=(0.5, 0.5), rotate_deg=0), torch.Generator()))
    below = shrunk[0, 0, 24:]
    assert below.amax(1)[0] > 0.2, "the last line is where the picture ended"
    assert below.amax(1)[2:].max() == pytest.approx(0), "and not drawn out to the edge"
