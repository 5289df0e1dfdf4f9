import pytest
import torch

from stylekit.assets import fetch
from stylekit.errors import AssetError
from stylekit.nn.efficientnet import EfficientNetLite0, load_efficientnet_lite0


@pytest.fixture(scope="module")
def network():
    return load_efficientnet_lite0(fetch("efficientnet-lite0"))


def test_published_weights_know_imagenet(network):
    """The published classifier on top of our features names scikit-image's cat and rocket; ImageNet classes 281-285 and 657."""
    from skimage import data

    state = torch.load(fetch("efficientnet-lite0"), weights_only=True)
    pictures = [torch.from_numpy(p.copy()).permute(2, 0, 1).float()[None] / 127.5 - 1 for p in (data.chelsea(), data.rocket())]
    classes = [(network.pooled(p) @ state["_fc.weight"].T + state["_fc.bias"]).argmax().item() for p in pictures]
    assert 281 <= classes[0] <= 285
    assert classes[1] in {657, 744}


def test_features_have_the_table_of_lite0(network):
    layers = ("block0", "block2", "block4", "block10", "block15")
    found = network.features(torch.zeros(2, 3, 96, 64), layers)
    assert {k: tuple(v.shape[1:]) for k, v in found.items()} == {
        "block0": (16, 48, 32), "block2": (24, 24, 16), "block4": (40, 12, 8), "block10": (112, 6, 4), "block15": (320, 3, 2)
    }  # fmt: skip
    assert [network.channels(layer) for layer in layers] == [16, 24, 40, 112, 320]


def test_gradients_reach_the_picture_and_no_weight(network):
    picture = torch.rand(1, 3, 64, 64, requires_grad=True)
    network.features(picture, ("block4",))["block4"].square().mean().backward()
    assert picture.grad.abs().sum() > 0
    assert all(p.grad is None for p in network.parameters())


def test_folding_batch_normalisation_keeps_the_function(tmp_path):
    """The stem of a random checkpoint, folded, equals convolution followed by batch normalisation."""
    network = EfficientNetLite0()
    state = torch.load(fetch("efficientnet-lite0"), weights_only=True)
    norm = torch.nn.BatchNorm2d(32, eps=1e-3)
    norm.load_state_dict({k: state[f"_bn0.{k}"] for k in ("weight", "bias", "running_mean", "running_var")}, strict=False)
    picture = torch.rand(1, 3, 32, 32) * 2 - 1
    scaled = ((picture + 1) / 2 - network.mean) / network.std
    padded = torch.nn.functional.pad(scaled, (0, 1, 0, 1))
    expected = norm.eval()(torch.nn.functional.conv2d(padded, state["_conv_stem.weight"], stride=2))
    folded = load_efficientnet_lite0(fetch("efficientnet-lite0"))
    assert torch.allclose(folded.stem(scaled), expected, atol=1e-4)


def test_another_file_is_refused(tmp_path):
    torch.save({"weight": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(AssetError, match="not an EfficientNet-lite0 checkpoint"):
        load_efficientnet_lite0(tmp_path / "x.pth")
    (tmp_path / "y.pth").write_text("text")
    with pytest.raises(AssetError, match="not an EfficientNet-lite0 checkpoint"):
        load_efficientnet_lite0(tmp_path / "y.pth")
