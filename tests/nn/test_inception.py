import warnings

import pytest
import torch
import torch.nn.functional as F

from stylekit.errors import AssetError
from stylekit.nn.inception import Inception2015, ScriptedInception, load_inception_2015

# Of torchvision's inception_v3(num_classes=1008, aux_logits=False), as pytorch-fid's file names them.
SHAPES = {
    "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
    "Conv2d_4a_3x3.bn.running_var": (192,),
    "Mixed_5b.branch1x1.conv.weight": (64, 192, 1, 1),
    "Mixed_5d.branch5x5_2.conv.weight": (64, 48, 5, 5),
    "Mixed_6a.branch3x3.conv.weight": (384, 288, 3, 3),
    "Mixed_6c.branch7x7dbl_2.conv.weight": (160, 160, 7, 1),
    "Mixed_6e.branch7x7_2.conv.weight": (192, 192, 1, 7),
    "Mixed_7a.branch7x7x3_4.conv.weight": (192, 192, 3, 3),
    "Mixed_7b.branch3x3_2a.conv.weight": (384, 384, 1, 3),
    "Mixed_7c.branch3x3dbl_3b.conv.weight": (384, 384, 3, 1),
    "Mixed_7c.branch_pool.conv.weight": (192, 2048, 1, 1),
    "fc.weight": (1008, 2048),
    "fc.bias": (1008,),
}


@pytest.fixture(scope="module")
def state():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Inception2015().state_dict()


def test_has_the_published_parameters(state):
    assert {name: tuple(state[name].shape) for name in SHAPES} == SHAPES
    assert sum(p.numel() for name, p in Inception2015().named_parameters() if not name.startswith("fc.")) == 21_785_568


@pytest.mark.slow
@pytest.mark.parametrize("counted", [True, False])
def test_reads_the_file_with_and_without_batch_counters(state, tmp_path, counted):
    stored = {name: value for name, value in state.items() if counted or not name.endswith("num_batches_tracked")}
    torch.save(stored, tmp_path / "inception.pth")
    network = load_inception_2015(tmp_path / "inception.pth")
    assert torch.equal(network.Mixed_7c.branch1x1.conv.weight, state["Mixed_7c.branch1x1.conv.weight"])
    assert not network.training
    pictures = torch.rand(2, 3, 40, 50, generator=torch.Generator().manual_seed(1)) * 2 - 1
    larger = F.interpolate(pictures, (299, 299), mode="bilinear")
    features = network.pooled(pictures)
    assert features.shape == (2, 2048)
    assert torch.allclose(features, network.pooled(larger), atol=1e-5)
    assert not torch.allclose(features[0], features[1])


class Published(torch.nn.Module):
    """The form of NVIDIA's inception-2015-12-05.pt: a call that resizes and normalises, and `layers` behind it."""

    def __init__(self, features):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, stride=8), torch.nn.ReLU(), torch.nn.Conv2d(8, features, 1), torch.nn.AdaptiveAvgPool2d(1)
        )

    def forward(self, img: torch.Tensor, return_features: bool = False, use_fp16: bool = False, no_output_bias: bool = False):
        x = F.interpolate(img.float(), (299, 299), mode="bilinear")
        return self.layers((x - 128) / 128).reshape(-1, 2048)


def publish(path, features=2048):
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.manual_seed(2)
        module = Published(features).eval()
        torch.jit.script(module).save(path)
    return module


def test_runs_the_layers_of_nvidias_file(tmp_path):
    module = publish(tmp_path / "inception-2015-12-05.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network = load_inception_2015(tmp_path / "inception-2015-12-05.pt")
    assert isinstance(network, ScriptedInception)
    assert not any(parameter.requires_grad for parameter in network.parameters())
    levels = torch.randint(0, 256, (2, 3, 299, 299), generator=torch.Generator().manual_seed(1)).float()
    features = network.trunk((levels - 128) / 128)
    assert features.shape == (2, 2048)
    assert torch.allclose(features, module(levels, return_features=True), atol=1e-6)


@pytest.mark.parametrize("form", ["other layers", "no layers"])
def test_another_program_is_refused_by_name(form, tmp_path):
    path = tmp_path / "other.pt"
    if form == "other layers":
        publish(path, features=1000)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.jit.script(torch.nn.ReLU()).save(path)
    with pytest.raises(AssetError, match=r"other\.pt is not the Inception of 2015"):
        load_inception_2015(path)


@pytest.mark.parametrize("change", ["missing", "extra", "shape", "garbage"])
def test_another_file_is_refused_by_name(state, tmp_path, change):
    stored = dict(state)
    if change == "missing":
        del stored["Mixed_6d.branch7x7_1.conv.weight"]
    elif change == "extra":
        stored["AuxLogits.fc.weight"] = torch.zeros(1)
    elif change == "shape":
        stored["fc.weight"] = torch.zeros(1000, 2048)
    torch.save(stored, tmp_path / "other.pth")
    if change == "garbage":
        (tmp_path / "other.pth").write_bytes(b"garbage")
    with pytest.raises(AssetError, match=r"other\.pth is not the Inception of 2015"):
        load_inception_2015(tmp_path / "other.pth")


def test_averages_leave_the_padding_out_and_the_last_pool_takes_the_maximum():
    network = Inception2015()
    impulse = torch.zeros(1, 1, 5, 5)
    impulse[..., 2, 2] = 1
    for name in ("Mixed_5b", "Mixed_5d", "Mixed_6b", "Mixed_6e", "Mixed_7b"):
        pool = network.get_submodule(name).pool
        assert torch.equal(pool(torch.ones(1, 1, 4, 4)), torch.ones(1, 1, 4, 4))
        assert pool(impulse).max() == pytest.approx(1 / 9)
    assert network.Mixed_7c.pool(impulse).sum() == 9
