import numpy as np
import pytest
import torch
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from stylekit.assets import add
from stylekit.errors import UsageError
from stylekit.images import to_tensor
from stylekit.metrics.distribution import fid, kid
from stylekit.metrics.features import FeatureExtractor, extract, load_extractor
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
    features = [extract(extractor, part) for part in (reference, own)]

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


def test_inception_is_read_from_the_users_file_and_named_after_it(tmp_path, monkeypatch):
    monkeypatch.setenv("STYLEKIT_HOME", str(tmp_path / "home"))
    torch.save(Inception2015().state_dict(), tmp_path / "mine.pth")
    add("fid-features", tmp_path / "mine.pth", "inception-2015")
    extractor, asset = load_extractor("inception-2015")
    assert extractor.label == "inception-2015@299-bilinear"
    assert asset.source == "user:mine.pth"
    assert extract(extractor, pictures(2, 0)).shape == (2, extractor.num_features)


@pytest.mark.parametrize(
    ("name", "sha256", "size"), [("efficientnet-lite0", "579344248a93e230", 1280), ("vgg16-hed", "4502df9d0a888739", 512)]
)
def test_real_features_tell_drawings_from_noise_and_carry_their_name(asset_home, name, sha256, size):
    extractor, asset = load_extractor(name)
    layer = "conv4_3-" if name == "vgg16-hed" else ""
    assert extractor.label == f"{name}@{layer}224-bilinear-antialias"
    assert asset.sha256.startswith(sha256)
    assert extractor.num_features == size
    noise, flat = pictures(8, 0), [np.full((16, 16, 3), level, np.uint8) for level in range(0, 256, 32)]
    features = [extract(extractor, part) for part in (noise[:4], noise[4:], flat)]
    assert features[0].shape == (4, size)
    assert abs(kid(features[0], features[1])[0]) < kid(features[0], features[2])[0] / 5
