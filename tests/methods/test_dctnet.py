import inspect

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from stylekit.config.load import parse_recipe
from stylekit.config.schema import ContentRecipe
from stylekit.data.sampler import generator_for
from stylekit.engine.checkpoint import load_optimizer
from stylekit.methods.base import Batch, StepContext, create_method
from stylekit.methods.dctnet import content_layers, surface, upstream_content
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
    frozen = inspect.unwrap(method.content).__self__
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


UPSTREAM = "style: x\ntrain: {preset: upstream, size: 64, batch_size: 2, content: {network: efficientnet-lite0}}"


def tensorflow_adam(weight, gradients, m, v, done):
    """TensorFlow's ApplyAdam: the correction in the rate, epsilon beside the uncorrected root."""
    for t, gradient in enumerate(gradients, done + 1):
        m, v = 0.5 * m + 0.5 * gradient, 0.99 * v + 0.01 * gradient**2
        weight = weight - 2e-4 * np.sqrt(1 - 0.99**t) / (1 - 0.5**t) * m / (np.sqrt(v) + 1e-8)
    return weight


@pytest.mark.parametrize("done", [0, 3, 2000])
def test_upstreams_steps_are_those_of_tensorflows_adam_where_epsilon_counts(done):
    method = build(text=UPSTREAM)
    for optimizer in method.optimizers.values():
        optimizer.param_groups[0]["lr"] = 2e-4
    name = "generator"
    weights = [p for group in method.optimizers[name].param_groups for p in group["params"]]
    drawn = np.random.default_rng(0)
    shapes = [tuple(p.shape) for p in weights]
    gradients = [[drawn.normal(0, 1e-8, shape) for shape in shapes] for _ in range(4)]
    m, v = ([drawn.uniform(0, size, shape) * bool(done) for shape in shapes] for size in (1e-9, 1e-16))
    with torch.no_grad():
        for p in weights:
            p.zero_()
    if done:
        state = method.optimizers[name].state_dict()
        slots = zip(m, v, strict=True)
        state["state"] = {
            i: {"step": torch.tensor(float(done)), "exp_avg": torch.tensor(a).float(), "exp_avg_sq": torch.tensor(b).float()}
            for i, (a, b) in enumerate(slots)
        }
        load_optimizer(method.optimizers[name], state)
    for at in gradients:
        method._update(name, sum((p * torch.tensor(g).float()).sum() for p, g in zip(weights, at, strict=True)))
    for index, p in enumerate(weights):
        wanted = tensorflow_adam(np.zeros(shapes[index]), [at[index] for at in gradients], m[index], v[index], done)
        assert np.allclose(p.detach().numpy(), wanted, rtol=2e-4, atol=1e-9), index


def test_u_takes_one_step_for_the_generator_and_one_for_real_and_fake_together():
    """As in upstream's two session runs, in each of which every layer's u is read once."""
    method = build(text=UPSTREAM)
    seen = []
    method.networks["disc_blur"].register_forward_hook(lambda _, pictures, __: seen.append(pictures[0].detach()))
    step(method)
    before, (real, updated) = seen[0], seen[1].chunk(2)
    assert len(seen) == 2
    assert torch.equal(real, surface(batch().cartoon))
    assert not torch.equal(before, updated)  # the updated generator draws otherwise


def test_upstreams_content_gradient_flows_through_both_of_its_terms():
    weight = torch.nn.Conv2d(3, 5, 3, padding=1).requires_grad_(False)
    photo, superpixel, fake = (batch(i, 8).photo for i in range(3))
    fake.requires_grad_()

    loss = upstream_content([weight(photo), weight(superpixel)], weight(fake))
    (both,) = torch.autograd.grad(loss, fake)
    signs = torch.sign(weight(fake) - weight(photo)) + torch.sign(weight(fake) - weight(superpixel))
    one = torch.nn.functional.conv_transpose2d(signs, weight.weight, padding=1) / (signs.numel() * 5 * 8 * 8)
    assert torch.allclose(both, one, rtol=1e-4, atol=1e-9)


def test_upstream_gives_the_discriminators_a_fresh_forward_and_default_shares_it():
    calls = []
    for preset, expected in (("upstream", 2), ("default", 1)):
        text = f"style: x\ntrain: {{preset: {preset}, size: 64, batch_size: 2, content: {{network: efficientnet-lite0}}}}"
        method = build(text=text)
        calls.clear()
        method.generator.register_forward_hook(lambda net, given, made: calls.append(len(made)))
        step(method)
        assert sum(calls) == 2 * expected, preset


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
