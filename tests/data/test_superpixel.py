import platform

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from skimage.measure import label
from skimage.segmentation import find_boundaries, slic
from skimage.segmentation._slic import _enforce_label_connectivity_cython
from skimage.util import regular_grid

from stylekit.assets import fetch
from stylekit.data import slic as slic_cpu
from stylekit.data import slic_torch, superpixel
from stylekit.data.slic import grid, labels_of, region_means
from stylekit.data.superpixel import superpixel_of_photo, superpixels
from stylekit.images import list_images, read_rgb, resize, to_tensor

# Elsewhere compilers fuse products and sums, scikit-image's and ours each in its own way.
DIFFERING = 0 if platform.machine() in ("x86_64", "AMD64") else 0.02


@pytest.fixture(scope="module")
def photos():
    paths = list_images(fetch("starter-photos"))[4:7]
    return to_tensor(np.stack([resize(read_rgb(path), (96, 96)) for path in paths])).contiguous()


def of_scikit_image(picture, segments=200):
    return slic(picture, segments, compactness=10, sigma=1, convert2lab=True, start_label=1, channel_axis=0) - 1


def share_outside(labels, others):
    """Share of pixels outside the other labelling's region that overlaps theirs most."""
    pairs, pixels = np.unique(np.stack([labels.ravel(), others.ravel()]), axis=1, return_counts=True)
    most = {}
    for mine, count in zip(pairs[0], pixels, strict=True):
        most[mine] = max(most.get(mine, 0), count)
    return 1 - sum(most.values()) / labels.size


# The CPU's loops


@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([1, 2, 3, 7, 50, 200, 9000]))
@settings(deadline=None)
def test_the_centres_begin_where_scikit_images_do(height, width, segments):
    begin = grid(height, width, segments)
    slices = regular_grid((1, height, width), segments)[1:]
    for axis, length, part in zip((begin.y, begin.x), (height, width), slices, strict=True):
        assert list(range(axis.start, length, axis.step)) == list(range(length))[part]
        assert axis.count == len(range(length)[part])
    area = height * width / begin.count
    assert [begin.smallest, begin.largest] == [int(0.5 * area), int(3 * area)]
    windows = regular_grid((1, height, width), begin.count)[1:]
    assert [begin.reach_y, begin.reach_x] == [2 * (part.step or 1) for part in windows]


@pytest.mark.parametrize("bgr", [False, True])
def test_labels_of_photographs_are_scikit_images(photos, bgr):
    pictures = (photos.flip(1) if bgr else photos).contiguous().numpy()
    labels = labels_of(pictures)
    expected = np.stack([of_scikit_image(picture) for picture in pictures])
    assert 80 < labels.max() < 260
    assert np.mean(labels != expected) <= DIFFERING


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([1, 2, 10, 60, 3000]),
    st.sampled_from(["noise", "smooth", "levels", "flat"]),
    st.integers(0, 2**32 - 1),
)
@settings(deadline=None, max_examples=60)
def test_labels_of_any_picture_are_scikit_images(height, width, segments, kind, seed):
    picture = np.random.default_rng(seed).normal(size=(3, height, width)).astype(np.float32)
    if kind == "smooth":
        picture = gaussian_filter(picture, (0, 3, 3))
    elif kind == "levels":
        picture = np.round(picture)
    elif kind == "flat":
        picture[:] = 0.25
    assert np.mean(labels_of(picture[None], segments)[0] != of_scikit_image(picture, segments)) <= DIFFERING


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 40), st.integers(1, 90), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_regions_are_connected_ended_and_joined_as_scikit_images_are(height, width, smallest, largest, seed):
    blurred = gaussian_filter(np.random.default_rng(seed).normal(size=(height, width)), 1.5)
    drawn = np.digitize(blurred, [-0.1, 0, 0.1])
    regions = np.empty((height, width), np.int32)
    slic_cpu._connect(drawn.astype(np.int32), regions, smallest, largest)
    expected = _enforce_label_connectivity_cython(drawn[None].astype(np.intp) + 1, smallest, largest)[0] - 1
    assert np.array_equal(regions, expected)


def test_regions_are_painted_with_their_mean(photos):
    painted = superpixels(photos, bgr=True)
    labels = labels_of(photos.flip(1).contiguous().numpy())
    for picture, result, regions in zip(photos, painted, labels, strict=True):
        for region in range(regions.max() + 1):
            inside = torch.from_numpy(regions == region)
            assert torch.allclose(result[:, inside], picture[:, inside].mean(1, keepdim=True), atol=1e-5)


def test_a_batch_equals_one_by_one_whatever_the_threads_and_carries_no_gradient(photos):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        together = superpixels(photos.requires_grad_())
    finally:
        torch.set_num_threads(threads)
        photos.requires_grad_(False)
    assert not together.requires_grad
    assert torch.equal(together, torch.cat([superpixels(photo[None]) for photo in photos]))


def test_channel_order_matters_to_slic_as_it_does_upstream(photos):
    swapped = superpixels(photos, bgr=True)
    assert not torch.equal(swapped, superpixels(photos))
    assert torch.equal(swapped, superpixels(photos.flip(1)).flip(1))


@pytest.mark.parametrize("engine", ["auto", "scikit-image"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_picture_that_is_not_finite_comes_out_so_and_leaves_the_others_alone(photos, value, engine):
    batch = photos[:2].clone()
    batch[1, 0, 5, 7] = value
    painted = superpixels(batch, engine=engine)
    assert not torch.isfinite(painted[1, 0]).any()
    assert torch.equal(painted[:1], superpixels(photos[:1], engine=engine))


def test_scikit_image_finds_the_regions_without_numba_or_when_asked(photos, monkeypatch):
    ours = superpixels(photos, bgr=True)
    asked = superpixels(photos, bgr=True, engine="scikit-image")
    monkeypatch.setattr(superpixel, "can_compile", lambda: False)
    monkeypatch.setattr(superpixel.slic, "labels_of", None)
    assert torch.equal(superpixels(photos, bgr=True), asked)
    assert (asked - ours).abs().gt(1e-5).float().mean() <= DIFFERING
    monkeypatch.undo()
    monkeypatch.setattr("skimage.segmentation.slic", lambda picture, *a, **k: np.zeros(picture.shape[1:], int))
    assert len(superpixels(photos, engine="scikit-image")[0].flatten(1).unique(dim=1).T) == 1
    assert torch.equal(superpixels(photos, bgr=True), ours)


def test_of_an_8_bit_photo(photos):
    photo = ((photos[0] + 1) * 127.5).round().byte().permute(1, 2, 0).contiguous().numpy()
    painted = superpixel_of_photo(photo)
    assert painted.dtype == np.uint8
    assert painted.shape == photo.shape
    assert len(np.unique(painted.reshape(-1, 3), axis=0)) < 260 < len(np.unique(photo.reshape(-1, 3), axis=0))
    assert np.abs(painted.mean((0, 1)) - photo.mean((0, 1))).max() < 1


# Tensor operations, as an accelerator carries them out


def test_tensors_agree_with_the_loops(photos):
    pictures = photos[:2]
    loops = labels_of(pictures.numpy())
    tensors = slic_torch.regions_of(pictures)
    painted = torch.from_numpy(region_means(pictures.numpy(), loops))
    apart = (slic_torch.region_means(pictures, tensors) - painted).abs().mean()
    assert apart < 0.004  # half a level of 255
    for of_loops, of_tensors in zip(loops, tensors.numpy(), strict=True):
        assert max(share_outside(of_loops, of_tensors), share_outside(of_tensors, of_loops)) < 0.03
        edges, found = (find_boundaries(labels, mode="thick") for labels in (of_loops, of_tensors))
        assert found[edges].mean() > 0.97


@pytest.mark.parametrize(("height", "width", "segments"), [(1, 1, 200), (5, 40, 200), (37, 23, 1), (8, 8, 500), (40, 12, 30)])
def test_tensors_agree_with_the_loops_on_odd_shapes(height, width, segments):
    picture = gaussian_filter(np.random.default_rng(1).normal(size=(1, 3, height, width)), (0, 0, 2, 2)).astype(np.float32)
    loops, tensors = labels_of(picture, segments), slic_torch.regions_of(torch.from_numpy(picture), segments).numpy()
    assert max(share_outside(loops, tensors), share_outside(tensors, loops)) < 0.1


def test_means_of_tensors_are_the_loops(photos):
    labels = labels_of(photos.numpy())
    painted = slic_torch.region_means(photos, torch.from_numpy(labels).long())
    assert np.abs(region_means(photos.numpy(), labels) - painted.numpy()).max() < 1e-5


def same_partition(labels, others):
    return share_outside(labels, others) == 0 == share_outside(others, labels)


@given(st.integers(1, 24), st.integers(1, 24), st.integers(2, 4), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=40)
def test_components_are_the_connected_ones(height, width, labels, seed):
    drawn = np.random.default_rng(seed).integers(0, labels, (2, height, width))
    found = slic_torch._components(torch.from_numpy(drawn)).numpy()
    for picture, components in zip(drawn, found, strict=True):
        assert same_partition(label(picture, background=-1, connectivity=1), components)
        assert all(np.flatnonzero(components == first)[0] == first for first in np.unique(components))


def test_a_component_is_found_whole_however_it_winds():
    side = 128
    y, x = np.mgrid[:side, :side] - side / 2
    spiral = ((np.hypot(y, x) / 3 + np.arctan2(y, x) / np.pi) % 2).astype(int)
    found = slic_torch._components(torch.from_numpy(spiral)[None]).numpy()[0]
    assert same_partition(label(spiral, background=-1, connectivity=1), found)


@given(st.integers(2, 30), st.integers(2, 30), st.integers(2, 30), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=40)
def test_small_components_join_one_beside_them(height, width, smallest, seed):
    blurred = gaussian_filter(np.random.default_rng(seed).normal(size=(height, width)), 1.5)
    drawn = torch.from_numpy(np.digitize(blurred, [-0.1, 0, 0.1]))[None]
    components = slic_torch._components(drawn)
    joined = slic_torch._joined(components, smallest)[0].numpy()
    for region in np.unique(joined):
        inside = joined == region
        assert label(inside, connectivity=1).max() == 1
        assert inside.sum() >= smallest or inside[0, 0]
    assert share_outside(components[0].numpy(), joined) == 0


def test_a_small_component_in_the_first_corner_takes_the_next_one_in():
    drawn = torch.zeros(1, 12, 12, dtype=torch.int64)
    drawn[:, :, 6:] = 1
    drawn[:, :2, :3] = 2
    joined = slic_torch._joined(slic_torch._components(drawn), 7)[0]
    assert joined[:, :6].unique().tolist() == [0]
    assert joined[:, 6:].unique().tolist() == [6]


@pytest.mark.slow
def test_tensors_compile_as_one_graph(photos):
    small = photos[:1, :, :48, :48].contiguous()
    compiled = torch.compile(superpixel_graph, fullgraph=True, dynamic=False)(small)
    assert (compiled - superpixel_graph(small)).abs().mean() < 0.004


def superpixel_graph(pictures):
    return slic_torch.region_means(pictures, slic_torch.regions_of(pictures, 30))


@pytest.mark.gpu
def test_on_a_gpu_nothing_waits_and_the_regions_are_the_loops(photos):
    batch = photos.cuda()
    superpixels(batch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        painted = superpixels(batch, bgr=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert painted.device == batch.device
    assert (painted.cpu() - superpixels(photos, bgr=True)).abs().mean() < 0.01
