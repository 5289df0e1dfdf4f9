"""Batches: which pictures come, what is done to them on the way, and what is read ahead."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from stylekit.data.augment import draw_affine, transform
from stylekit.data.datasets import PictureFile, PictureSet
from stylekit.data.sampler import EndlessSampler, generator_for
from stylekit.data.superpixel import superpixel_of_photo
from stylekit.engine.trainer import BatchLoader
from stylekit.images import list_images, to_tensor
from tests.engine.conftest import tiny_recipe


@pytest.fixture
def loaders(workspace):
    opened = []

    def opener(*changes, derive=None):
        recipe = tiny_recipe(*changes)
        photos, cartoons = (
            PictureSet([PictureFile(path) for path in list_images(folder)], 32, made)
            for folder, made in ((workspace.photos, derive), (workspace.style("dots"), None))
        )
        opened.append(BatchLoader(photos, cartoons, recipe, Accelerator(cpu=True)))
        return opened[-1], photos, recipe

    yield opener
    for loader in opened:
        loader.close()


PLAIN = "train.augment={flip: false, scale: [1, 1], rotate_deg: 0}"
FLIPPED = "train.augment={flip: true, scale: [1, 1], rotate_deg: 0}"


@pytest.mark.parametrize("changes", [(), (PLAIN,), (FLIPPED,)], ids=["turned", "plain", "flipped"])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (5, 6, 2, 3, 3)])
def test_a_batch_is_what_its_step_draws_whatever_was_asked_for_before(loaders, changes, order):
    loader, photos, recipe = loaders(*changes)
    for step in order:
        indices = EndlessSampler(len(photos), 3, recipe.seed, "photo").indices(step)
        wanted = to_tensor(np.stack([photos[i] for i in indices]))
        augment = recipe.train.augment
        if changes != (PLAIN,):
            wanted = transform(wanted, draw_affine(3, augment, generator_for(recipe.seed, "augment_photo", step)))
        assert torch.equal(loader.get(step).photo, wanted)


def test_superpixels_of_the_photo_stay_in_register(loaders):
    loader, _, _ = loaders("train.superpixels=photo", FLIPPED, derive=superpixel_of_photo)
    given = loader.get(0)
    assert given.superpixel.shape == given.photo.shape
    assert (given.superpixel - given.photo).abs().mean() < 0.1
    assert not torch.equal(given.superpixel, given.photo)


def test_the_batch_names_its_photographs_and_which_are_mirrored(loaders):
    loader, photos, _ = loaders(FLIPPED, "train.cache_photo_features=true")
    flips = set()
    for step in range(4):
        given = loader.get(step)
        assert given.drawn.pictures is photos
        for (index, mirrored), picture in zip(given.drawn.keys, given.photo, strict=True):
            plain = to_tensor(photos[index])[0]
            assert torch.allclose(picture, plain.flip(-1) if mirrored else plain, atol=1e-5)
            flips.add(mirrored)
    assert flips == {False, True}
    assert loaders(FLIPPED)[0].get(0).drawn is None


def test_two_batches_are_read_while_one_is_used(loaders, monkeypatch):
    loader, photos, _ = loaders()
    asked = []
    batch = PictureSet.batch
    monkeypatch.setattr(
        PictureSet, "batch", lambda self, indices, pool: asked.append(self is photos) or batch(self, indices, pool)
    )
    loader.get(0)
    loader._ahead.submit(lambda: None).result()
    assert asked.count(True) == 3
    loader.get(1)
    loader._ahead.submit(lambda: None).result()
    assert asked.count(True) == 4
