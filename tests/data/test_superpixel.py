from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from skimage.data import astronaut
from skimage.segmentation import slic

from stylekit.data.superpixel import superpixel, superpixel_of_photo, superpixels


def face(size=96):
    return astronaut()[: 2 * size : 2, 150 : 150 + 2 * size : 2].astype(np.float32) / 127.5 - 1


def test_regions_are_painted_with_their_mean():
    picture = face()
    painted = superpixel(picture)
    labels = slic(picture, n_segments=200, sigma=1, compactness=10, convert2lab=True, start_label=1, channel_axis=-1)
    assert 100 < labels.max() < 260
    for label in range(1, labels.max() + 1):
        region = labels == label
        assert np.allclose(painted[region], picture[region].mean(0), atol=1e-5)


def test_a_batch_in_parallel_equals_one_by_one_and_carries_no_gradient():
    batch = torch.from_numpy(np.stack([face(), face()[::-1].copy()])).permute(0, 3, 1, 2).requires_grad_()
    with ThreadPoolExecutor(2) as pool:
        together = superpixels(batch, pool)
    assert not together.requires_grad
    assert torch.equal(together, superpixels(batch))
    assert np.allclose(together[0].permute(1, 2, 0).numpy(), superpixel(face()), atol=1e-6)


def test_channel_order_matters_to_slic_as_it_does_upstream():
    batch = torch.from_numpy(face()[None]).permute(0, 3, 1, 2)
    swapped = superpixels(batch, bgr=True)
    assert not torch.equal(swapped, superpixels(batch))
    expected = superpixel(np.ascontiguousarray(face()[..., ::-1]))[..., ::-1]
    assert np.allclose(swapped[0].permute(1, 2, 0).numpy(), expected, atol=1e-6)


def test_of_an_8_bit_photo():
    photo = ((face() + 1) * 127.5).round().astype(np.uint8)
    painted = superpixel_of_photo(photo)
    assert painted.dtype == np.uint8
    assert len(np.unique(painted.reshape(-1, 3), axis=0)) < 260 < len(np.unique(photo.reshape(-1, 3), axis=0))
    assert np.abs(painted.mean((0, 1)) - photo.mean((0, 1))).max() < 1
