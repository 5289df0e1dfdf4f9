from pathlib import Path

import numpy as np
import pytest
import torch
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from stylekit.assets import Resolved, add
from stylekit.errors import AssetError, UsageError
from stylekit.images import to_tensor
from stylekit.metrics.features import (
    CleanInceptionFeatures,
    FeatureExtractor,
    FeatureGauge,
    InceptionFeatures,
    extract,
    load_extractor,
)
from stylekit.metrics.fid import fid
from stylekit.metrics.kid import kid
from stylekit.metrics.measure import Batch
from stylekit.nn.inception import Inception2015


class Tiny(FeatureExtractor):
    name, resize, num_features = "tiny", "none", 6

    def __init__(self):
        super().__init__()
        self.register_buffer("weight", torch.randn(6, 3, 3, 3, generator=torch.Generator().manual_seed(0)))

    def forward(self, pictures):
        return torch.nn.functional.conv2d(pictures, self.weight).relu().mean((2, 3))


def pictures(n, seed, high=256):
    return list(np.random.default_rng(seed).integers(0, high, (n, 16, 16, 3), dtype=np.uint8))


def test_features_do_not_depend_on_the_batch_size():
    whole = extract(Tiny(), pictures(7, 0), batch_size=7)
    assert whole.dtype == torch.float64
    assert whole.shape == (7, 6)
    for size in (1, 3, 100):
        assert torch.allclose(extract(Tiny(), pictures(7, 0), batch_size=size), whole, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance`")
def test_metrics_on_features_equal_torchmetrics_given_the_extractor_and_the_pictures():
    reference, own = pictures(10, 0), pictures(8, 1, high=200)
    extractor = Tiny()
    features = [extract(extractor, part).numpy() for part in (reference, own)]

    distance = FrechetInceptionDistance(feature=extractor)
    kernel = KernelInceptionDistance(feature=extractor, subsets=5, subset_size=4)
    for metric in (distance, kernel):
        metric.update(to_tensor(np.stack(reference)), real=True)
        metric.update(to_tensor(np.stack(own)), real=False)
    torch.manual_seed(2)
    expected = [float(value) for value in kernel.compute()]
    assert kid(*features, subsets=5, seed=2) == pytest.approx(expected, rel=1e-3)
    assert fid(*features) == pytest.approx(float(distance.compute()), rel=1e-4)


def test_unknown_extractor_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match=r"'inception'.*efficientnet-lite0"):
        load_extractor("inception")


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory):
    """A file of the form of pytorch-fid's."""
    path = tmp_path_factory.mktemp("weights") / "mine.pth"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(Inception2015().state_dict(), path)
    return path


@pytest.mark.slow
def test_inception_is_read_from_the_users_file_and_named_after_it(inception_file, tmp_path, monkeypatch):
    monkeypatch.setenv("STYLEKIT_HOME", str(tmp_path))
    for name in ("inception-2015", "inception-2015-clean"):
        with pytest.raises(AssetError, match=f"{name} has to be brought by you"):
            load_extractor(name)
    add("fid-features", inception_file, "inception-2015")
    extractor, asset = load_extractor("inception-2015")
    assert extractor.label == "inception-2015@299-bilinear"
    assert asset.source == "user:mine.pth"
    clean, asset = load_extractor("inception-2015-clean")
    assert clean.label == "inception-2015-clean@299-pil-bicubic"
    assert (asset.name, asset.source) == ("inception-2015", "user:mine.pth")
    plain, antialiased = (extract(each, pictures(1, 0)) for each in (extractor, clean))
    assert plain.shape == antialiased.shape == (1, 2048)
    assert not torch.allclose(plain, antialiased, rtol=1e-2)


def bicubic(channel, size):
    """Antialiased cubic resizing of Pillow's documentation (Keys, a = -0.5), written as sums in float64."""

    def kernel(x):
        x = abs(x)
        if x < 1:
            return (1.5 * x - 2.5) * x * x + 1
        return ((-0.5 * x + 2.5) * x - 4) * x + 2 if x < 2 else 0.0

    def matrix(inputs):
        scale = inputs / size
        stretch = max(scale, 1.0)
        rows = np.array([[kernel((i + 0.5 - (o + 0.5) * scale) / stretch) for i in range(inputs)] for o in range(size)])
        return rows / rows.sum(1, keepdims=True)

    return (matrix(channel.shape[0]) @ channel.astype(np.float64) @ matrix(channel.shape[1]).T).clip(0, 255)


@pytest.mark.parametrize("side", [16, 299, 340])
def test_the_clean_resize_is_antialiased_bicubic_clipped_and_not_rounded(side, inception_file):
    given = np.random.default_rng(side).integers(0, 2, (1, side, side, 3), dtype=np.uint8) * 255
    found = CleanInceptionFeatures(inception_file).prepare(given)
    assert found.shape == (1, 3, 299, 299)
    assert found.dtype == torch.float32
    for channel in range(3):
        np.testing.assert_allclose(found[0, channel], bicubic(given[0, :, :, channel], 299), atol=2e-3)
    assert found.min() == 0
    assert found.max() == 255
    assert side == 299 or (found != found.round()).any()


def test_each_mode_scales_as_its_project_does(inception_file, monkeypatch):
    """Of a picture that needs no resize: pytorch-fid gives the network 2x - 1, clean-fid (x - 128) / 128."""
    monkeypatch.setattr(Inception2015, "trunk", lambda _, x: x.flatten(1))
    level = np.full((1, 299, 299, 3), 255, np.uint8)
    for kind, expected in ((InceptionFeatures, 1.0), (CleanInceptionFeatures, 127 / 128)):
        extractor = kind(inception_file)
        assert torch.equal(extractor(extractor.prepare(level)).unique(), torch.tensor([expected]))


def test_a_gauge_gives_the_features_of_its_batch_under_their_label():
    asset = Resolved("tiny", "fid-features", Path("x"), "user:x", "abc123", "none", "nobody")
    gauge = FeatureGauge(Tiny(), asset)
    assert gauge.key == "features/tiny@none abc123"
    found = gauge(Batch(np.stack(pictures(5, 0)), np.zeros((5, 5, 2))))
    assert list(found) == ["features/tiny@none"]
    assert found["features/tiny@none"].dtype == np.float32
    assert torch.allclose(torch.from_numpy(found["features/tiny@none"]).double(), extract(Tiny(), pictures(5, 0)), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "sha256", "size"), [("efficientnet-lite0", "579344248a93e230", 1280), ("vgg16-hed", "4502df9d0a888739", 512)]
)
def test_real_features_tell_drawings_from_noise_and_carry_their_name(asset_home, name, sha256, size):
    extractor, asset = load_extractor(name)
    layer = "conv4_3-" if name == "vgg16-hed" else ""
    assert extractor.label == f"{name}@{layer}224-bilinear-antialias"
    assert asset.sha256.startswith(sha256)
    assert extractor.num_features == size
    noise, flat = pictures(8, 0), [np.full((16, 16, 3), level, np.uint8) for level in range(0, 256, 64)]
    features = [extract(extractor, part).numpy() for part in (noise[:4], noise[4:], flat)]
    assert features[0].shape == (4, size)
    assert abs(kid(features[0], features[1])[0]) < kid(features[0], features[2])[0] / 5
