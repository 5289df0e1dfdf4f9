import pytest
import torch
from accelerate import Accelerator

from stylekit.config.load import parse_recipe
from stylekit.config.schema import ContentRecipe
from stylekit.data.sampler import generator_for
from stylekit.methods.base import Batch, StepContext, create_method
from stylekit.methods.dctnet import content_layers
from stylekit.nn import losses

SMALL = "style: x\ntrain: {network: {width: 8, blocks: 1}, size: 64, batch_size: 2, superpixels: 'off'}"


def build(*overrides, text=SMALL):
    method = create_method("dctnet")
    method.build(parse_recipe(text, overrides), Accelerator(cpu=True))
    return method


def batch(seed=0, size=64):
    drawn = torch.Generator().manual_seed(seed)
    photo, cartoon = (torch.rand(2, 3, size, size, generator=drawn) * 2 - 1 for _ in range(2))
    return Batch(photo, cartoon)


def step(method, index=0):
    return method.step(batch(index), StepContext(index, generator_for(0, "method", index))).losses


def copy(network):
    return {k: v.clone() for k, v in network.state_dict().items()}


def changed(network, before):
    return {k for k, v in network.state_dict().items() if not torch.equal(v, before[k])}


ALL = ["train.content.network=efficientnet-lite0", "train.loss.lambda_projected=1", "train.loss.lambda_palette=1"]


def test_every_loss_with_a_weight_is_reported_and_no_other():
    assert set(step(build(*ALL))) == {
        f"loss/{n}" for n in ("g_gray", "g_blur", "g_projected", "content", "palette", "tv", "d_gray", "d_blur", "d_projected")
    }
    off = [f"train.loss.lambda_{n}=0" for n in ("surface", "texture", "content", "tv")]
    method = build(*off, "train.loss.lambda_identity=1")
    assert set(step(method)) == {"loss/identity"}
    assert set(method.networks) == {"generator"}


def test_a_step_trains_every_network_and_leaves_frozen_ones_alone():
    method = build(*ALL)
    before = {name: copy(net) for name, net in method.networks.items()}
    frozen = method.content.__self__
    kept = copy(frozen)
    step(method, 0)  # an identity start holds back all but the last layer for one step
    step(method, 1)
    for name in ("generator", "disc_gray", "disc_blur", "disc_projected"):
        parameters = {k for k, p in method.networks[name].named_parameters() if p.ndim > 1}
        assert parameters <= changed(method.networks[name], before[name]), name
    assert changed(frozen, kept) == set()
    assert {role: asset.name for role, asset in method.assets.items()} == {
        "fid-features": "efficientnet-lite0", "content": "efficientnet-lite0"
    }  # fmt: skip


def test_one_pass_over_the_result_equals_one_for_each_use():
    together, apart = build(*ALL), build(*ALL)
    apart.one_pass = False
    a, b = step(together), step(apart)
    for name in a:
        assert torch.allclose(a[name], b[name], rtol=1e-5, atol=1e-6), name
    for (name, p), q in zip(together.generator.named_parameters(), apart.generator.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-5), name


def test_warm_start_steps_only_repeat_the_photograph():
    method = build(
        "train.warm_start=none", "train.warm_start_steps=30", "train.loss.lambda_content=0", "train.learning_rate=0.003"
    )
    before = copy(method.networks["disc_blur"])
    found = [step(method, 0)["loss/reconstruction"].item() for _ in range(30)]
    assert found[-1] < 0.5 * found[0]
    assert changed(method.networks["disc_blur"], before) == set()
    assert "loss/reconstruction" not in method.step(batch(), StepContext(30, generator_for(0, "method", 30))).losses


def test_upstream_adds_its_losses_with_its_weights(monkeypatch):
    """The generator's gradient is that of 0.1 (blur + gray) + 200 content + 1e4 tv, computed here a second time."""
    text = (
        "style: x\ntrain: {preset: upstream, size: 64, batch_size: 2, content: {network: efficientnet-lite0, layers: [block2]}}"
    )
    method = build(text=text)
    seen = {}
    monkeypatch.setattr(method, "_update", lambda name, loss: seen.__setitem__(name, loss.detach()))
    found = step(method)
    total = 0.1 * (found["loss/g_blur"] + found["loss/g_gray"]) + 200 * found["loss/content"] + 1e4 * found["loss/tv"]
    used = parse_recipe(text).train.loss.model_dump()
    assert {name for name, weight in used.items() if weight} == {
        "lambda_surface",
        "lambda_texture",
        "lambda_content",
        "lambda_tv",
    }
    assert seen["generator"].item() == pytest.approx(total.item(), rel=1e-6)
    assert seen["discriminators"].item() == pytest.approx((found["loss/d_gray"] + found["loss/d_blur"]).item(), rel=1e-6)
    fake = method.generator(batch().photo)
    assert found["loss/tv"].item() == pytest.approx((losses.total_variation(fake) / (3 * 64 * 64)).item(), rel=1e-5)


def test_upstream_gives_the_discriminators_a_fresh_forward_and_default_shares_it():
    calls = []
    for preset, expected in (("upstream", 2), ("default", 1)):
        text = f"style: x\ntrain: {{preset: {preset}, size: 64, batch_size: 2, content: {{network: efficientnet-lite0}}}}"
        method = build(text=text)
        calls.clear()
        method.generator.register_forward_hook(lambda *_: calls.append(1))
        step(method)
        assert len(calls) == expected, preset


def test_gradient_clipping_bounds_the_step():
    free, clipped = build("train.loss.lambda_content=0"), build("train.loss.lambda_content=0", "train.gradient_clip=1e-9")
    norms = []
    for method in (free, clipped):
        step(method)
        norms.append(sum(p.grad.square().sum() for p in method.generator.parameters()).sqrt().item())
    assert norms[0] > 1e-6
    assert norms[1] <= 1.01e-9


@pytest.mark.parametrize(
    ("network", "layers"),
    [("vgg19-caffe", ("conv4_4",)), ("vgg16-hed", ("conv3_3",)), ("efficientnet-lite0", ("block2", "block4"))],
)
def test_usual_content_layers(network, layers):
    assert content_layers(ContentRecipe(network=network)) == layers
    assert content_layers(ContentRecipe(network=network, layers=layers[:1])) == layers[:1]
