import pickle

import pytest
import torch
import torch.nn.functional as F

from stylekit.errors import AssetError
from stylekit.nn.irse import IrSe50, load_ir_se50

# Of Backbone(50, 0.6, 'ir_se') in InsightFace_Pytorch's model.py, as model_ir_se50.pth names them.
SHAPES = {
    "input_layer.0.weight": (64, 3, 3, 3),
    "input_layer.1.running_var": (64,),
    "input_layer.2.weight": (64,),
    "body.0.res_layer.1.weight": (64, 64, 3, 3),
    "body.3.shortcut_layer.0.weight": (128, 64, 1, 1),
    "body.3.res_layer.0.weight": (64,),
    "body.7.shortcut_layer.1.running_mean": (256,),
    "body.20.res_layer.5.fc1.weight": (16, 256, 1, 1),
    "body.21.shortcut_layer.0.weight": (512, 256, 1, 1),
    "body.23.res_layer.5.fc2.weight": (512, 32, 1, 1),
    "body.23.res_layer.2.weight": (512,),
    "output_layer.0.weight": (512,),
    "output_layer.3.weight": (512, 25088),
    "output_layer.3.bias": (512,),
    "output_layer.4.num_batches_tracked": (),
}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A file of the published form, with weights of a size that keeps numbers in range."""
    with torch.device("meta"):
        names = IrSe50().state_dict()
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, like in names.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif like.ndim > 1:
            state[name] = torch.randn(like.shape, generator=generator) / like[0].numel() ** 0.5
        else:
            state[name] = torch.rand(like.shape, generator=generator) * 0.5 + 0.5
    path = tmp_path_factory.mktemp("weights") / "model_ir_se50.pth"
    torch.save(state, path)
    return path


def restated(state, faces):
    """The network once more, from the paper's description and the file's names alone."""

    def norm(x, name):
        parts = [state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        mean, variance, weight, bias = (part.view(1, -1, *[1] * (x.ndim - 2)) for part in parts)
        return (x - mean) / (variance + 1e-5).sqrt() * weight + bias

    def prelu(x, name):
        return torch.where(x > 0, x, x * state[f"{name}.weight"].view(1, -1, 1, 1))

    x = faces[:, [2, 1, 0]]
    x = prelu(norm(F.conv2d(x, state["input_layer.0.weight"], padding=1), "input_layer.1"), "input_layer.2")
    for unit in range(24):
        name, stride = f"body.{unit}", 2 if unit in (0, 3, 7, 21) else 1
        shortcut = x[:, :, ::stride, ::stride]
        if unit in (3, 7, 21):
            shortcut = norm(F.conv2d(shortcut, state[f"{name}.shortcut_layer.0.weight"]), f"{name}.shortcut_layer.1")
        y = norm(x, f"{name}.res_layer.0")
        y = prelu(F.conv2d(y, state[f"{name}.res_layer.1.weight"], padding=1), f"{name}.res_layer.2")
        y = norm(F.conv2d(y, state[f"{name}.res_layer.3.weight"], stride=stride, padding=1), f"{name}.res_layer.4")
        squeezed = torch.relu(y.mean((2, 3)) @ state[f"{name}.res_layer.5.fc1.weight"][:, :, 0, 0].T)
        weights = torch.sigmoid(squeezed @ state[f"{name}.res_layer.5.fc2.weight"][:, :, 0, 0].T)
        x = y * weights[:, :, None, None] + shortcut
    assert x.shape[1:] == (512, 7, 7)
    x = norm(x, "output_layer.0").reshape(len(x), -1) @ state["output_layer.3.weight"].T + state["output_layer.3.bias"]
    x = norm(x, "output_layer.4")
    return x / x.norm(dim=1, keepdim=True)


def test_has_the_published_parameters():
    with torch.device("meta"):
        network = IrSe50()
    state = network.state_dict()
    assert {name: tuple(state[name].shape) for name in SHAPES} == SHAPES
    assert len(state) == 397
    assert sum(parameter.numel() for parameter in network.parameters()) == 43_797_696


@pytest.mark.slow
def test_reads_the_file_and_computes_what_its_names_say(file):
    before = torch.get_rng_state()
    network = load_ir_se50(file)
    assert torch.equal(torch.get_rng_state(), before)
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    state = torch.load(file, weights_only=True)
    faces = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.inference_mode():
        found = network(faces)
    torch.testing.assert_close(found, restated(state, faces), rtol=1e-3, atol=1e-5)
    assert (found[0] - found[1]).abs().max() > 1e-3


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("the file's code was run",))


@pytest.mark.parametrize("kind", ["other names", "other shape", "garbage", "code", "nothing", "a whole network"])
def test_another_file_is_refused_by_name(tmp_path, kind):
    path = tmp_path / "other.pth"
    if kind == "other names":
        torch.save({"fc.weight": torch.zeros(2)}, path)
    elif kind == "other shape":
        with torch.device("meta"):
            state = IrSe50().state_dict()
        torch.save({name: torch.zeros(1) for name in state}, path)
    elif kind == "garbage":
        path.write_bytes(b"garbage")
    elif kind == "code":
        path.write_bytes(pickle.dumps(Bomb(), protocol=2))
    elif kind == "a whole network":
        torch.save({"state_dict": {"fc.weight": torch.zeros(2)}, "epoch": 3}, path)
    with pytest.raises(
        AssetError, match=r"other\.pth is not the IR-SE50 of InsightFace_Pytorch \(.+\)\. Run: stylekit assets add"
    ):
        load_ir_se50(path)
