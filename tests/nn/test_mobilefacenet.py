import pytest
import torch
import torch.nn.functional as F

from stylekit.errors import AssetError
from stylekit.nn.mobilefacenet import MobileFaceNet, load_mobilefacenet

# Of MobileFaceNet(512) in InsightFace_Pytorch's model.py, as model_mobilefacenet.pth names them.
SHAPES = {
    "conv1.conv.weight": (64, 3, 3, 3),
    "conv1.prelu.weight": (64,),
    "conv2_dw.conv.weight": (64, 1, 3, 3),
    "conv_23.conv.conv.weight": (128, 64, 1, 1),
    "conv_23.conv_dw.bn.running_var": (128,),
    "conv_23.project.conv.weight": (64, 128, 1, 1),
    "conv_3.model.3.conv_dw.conv.weight": (128, 1, 3, 3),
    "conv_34.project.bn.weight": (128,),
    "conv_4.model.5.conv.prelu.weight": (256,),
    "conv_45.conv.conv.weight": (512, 128, 1, 1),
    "conv_5.model.1.project.conv.weight": (128, 256, 1, 1),
    "conv_6_sep.prelu.weight": (512,),
    "conv_6_dw.conv.weight": (512, 1, 7, 7),
    "linear.weight": (512, 512),
    "bn.num_batches_tracked": (),
}


@pytest.fixture(scope="module")
def state():
    with torch.device("meta"):
        names = MobileFaceNet().state_dict()
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name, like in names.items():
        if name.endswith("num_batches_tracked"):
            found[name] = torch.tensor(7)
        elif like.ndim > 1:
            found[name] = torch.randn(like.shape, generator=generator) / like[0].numel() ** 0.5
        else:
            found[name] = torch.rand(like.shape, generator=generator) * 0.5 + 0.5
    return found


def restated(state, faces):
    """The network once more, as a list of layers."""

    def conv(x, name, stride=1, padding=0, groups=1):
        x = F.conv2d(x, state[f"{name}.conv.weight"], stride=stride, padding=padding, groups=groups)
        parts = [state[f"{name}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        x = F.batch_norm(x, *parts, eps=1e-5)
        return F.prelu(x, state[f"{name}.prelu.weight"]) if f"{name}.prelu.weight" in state else x

    def bottleneck(x, name, stride=1):
        width = state[f"{name}.conv.conv.weight"].shape[0]
        y = conv(conv(x, f"{name}.conv"), f"{name}.conv_dw", stride, 1, width)
        y = conv(y, f"{name}.project")
        return y if stride == 2 else x + y

    x = conv(conv(faces[:, [2, 1, 0]], "conv1", 2, 1), "conv2_dw", 1, 1, 64)
    for down, stage, blocks in (("conv_23", "conv_3", 4), ("conv_34", "conv_4", 6), ("conv_45", "conv_5", 2)):
        x = bottleneck(x, down, 2)
        for block in range(blocks):
            x = bottleneck(x, f"{stage}.model.{block}")
    x = conv(conv(x, "conv_6_sep"), "conv_6_dw", groups=512)
    x = x.reshape(len(x), 512) @ state["linear.weight"].T
    x = F.batch_norm(x, *(state[f"bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias")), eps=1e-5)
    return x / x.norm(dim=1, keepdim=True)


def test_has_the_published_parameters():
    with torch.device("meta"):
        network = MobileFaceNet()
    state = network.state_dict()
    assert {name: tuple(state[name].shape) for name in SHAPES} == SHAPES
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_200_512
    project = [name for name in state if ".project." in name or name.startswith("conv_6_dw")]
    assert not any("prelu" in name for name in project)


@pytest.mark.slow
def test_reads_the_file_and_computes_what_its_names_say(state, tmp_path):
    torch.save(state, tmp_path / "model_mobilefacenet.pth")
    network = load_mobilefacenet(tmp_path / "model_mobilefacenet.pth")
    faces = (torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(1)) * 2 - 1).requires_grad_()
    found = network(faces)
    torch.testing.assert_close(found, restated(state, faces), rtol=1e-3, atol=1e-5)
    found[0, 0].backward()
    assert faces.grad[0].abs().max() > 0
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_a_file_from_before_batch_counters_is_read(state, tmp_path):
    old = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.pth")
    network = load_mobilefacenet(tmp_path / "old.pth")
    assert network(torch.zeros(1, 3, 112, 112)).isfinite().all()


@pytest.mark.parametrize("change", ["missing", "extra"])
def test_another_file_is_refused_by_name(state, tmp_path, change):
    stored = dict(state)
    if change == "missing":
        del stored["conv_6_dw.conv.weight"]
    else:
        stored["head.kernel"] = torch.zeros(2)
    torch.save(stored, tmp_path / "other.pth")
    with pytest.raises(AssetError, match=r"other\.pth is not the MobileFaceNet of InsightFace_Pytorch \(.*(conv_6_dw|head)"):
        load_mobilefacenet(tmp_path / "other.pth")
