"""Weights between TensorFlow's names and layouts and ours."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from stylekit.errors import CheckpointError
from stylekit.methods.dctnet import ADAM_BETAS
from stylekit.modelscope.graph.weights import (
    FORGOTTEN_STEPS,
    TrainingWeights,
    discriminator_arrays,
    discriminators_from,
    generator_arrays,
    generator_from,
    optimizer_arrays,
    optimizer_state_from,
    training_arrays,
    training_weights_from,
)
from stylekit.nn.discriminator import PatchDiscriminator
from tests.modelscope.graph.networks import generator


def discriminators(width=8):
    torch.manual_seed(1)
    return {"disc_gray": PatchDiscriminator(1, width), "disc_blur": PatchDiscriminator(3, width)}


def trained(width=8, steps=3, optimizers=("generator", "discriminators")):
    """Return networks after real steps of Adam on made-up gradients."""
    networks = {"generator": generator(width).requires_grad_(True), **discriminators(width)}
    found = {}
    for name in optimizers:
        own = [networks["generator"]] if name == "generator" else [networks["disc_gray"], networks["disc_blur"]]
        adam = torch.optim.Adam([p for net in own for p in net.parameters()], lr=1e-3, betas=ADAM_BETAS, fused=True)
        for _ in range(steps):
            for group in adam.param_groups:
                for parameter in group["params"]:
                    parameter.grad = torch.randn_like(parameter)
            adam.step()
        found[name] = adam.state_dict()
    blur_and_gray = {name: networks[name] for name in ("disc_gray", "disc_blur")}
    return TrainingWeights(networks["generator"], blur_and_gray, found, steps)


def assert_equal_states(one, other):
    assert one.keys() == other.keys()
    for name, state in one.items():
        assert state["state"].keys() == other[name]["state"].keys()
        for index, moments in state["state"].items():
            for key, value in moments.items():
                assert torch.equal(value, other[name]["state"][index][key]), (name, index, key)


@settings(max_examples=12, deadline=None)
@given(width=st.integers(4, 12), blocks=st.integers(0, 3))
def test_a_generator_comes_back_to_the_bit(width, blocks):
    before = generator(width, blocks)
    after = generator_from(generator_arrays(before))
    assert {k: v.tolist() for k, v in before.state_dict().items()} == {k: v.tolist() for k, v in after.state_dict().items()}


def test_names_and_shapes_are_those_of_upstreams_checkpoint():
    arrays = training_arrays(TrainingWeights(generator(32, 4), discriminators(32)))
    assert len(arrays) == 210
    shapes = {name: array.shape for name, array in arrays.items()}
    assert list(shapes)[:4] == [
        "generator/Conv/weights",
        "generator/Conv/biases",
        *(f"generator/Conv_1/{x}" for x in ("weights", "biases")),
    ]
    assert shapes["generator/Conv/weights"] == (7, 7, 3, 32)
    assert shapes["generator/Conv_4/weights"] == (3, 3, 64, 128)
    assert shapes["generator/block_3/conv2/biases"] == (128,)
    assert shapes["generator/Conv_5/weights"] == (3, 3, 128, 64)
    assert shapes["generator/Conv_9/weights"] == (7, 7, 32, 3)
    assert shapes["disc_gray/conv0_1/kernel"] == (3, 3, 1, 32)
    assert shapes["disc_blur/conv0_1/kernel"] == (3, 3, 3, 32)
    assert shapes["disc_blur/conv2_2/u"] == (1, 128)
    assert shapes["disc_blur/conv_out/kernel"] == (1, 1, 128, 1)
    assert shapes["disc_gray/conv1_2/bias/Adam_1"] == (64,)
    assert shapes["beta2_power_1"] == ()
    assert "disc_gray/conv0_1/u/Adam" not in shapes
    order = [name for name in shapes if name.startswith("disc_gray/conv") and name.count("/") == 2]
    assert order[:3] == ["disc_gray/conv0_1/kernel", "disc_gray/conv0_1/bias", "disc_gray/conv0_1/u"]
    assert order[3:] == [
        f"disc_gray/{c}/{k}"
        for c in ("conv0_2", "conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv_out")
        for k in ("kernel", "bias", "u")
    ]


def test_colours_change_their_order_at_both_ends_and_nowhere_else():
    network = generator()
    arrays = generator_arrays(network)
    stem, head = network.unet.stem, network.unet.head
    for rgb, bgr in enumerate((2, 1, 0)):
        assert np.array_equal(arrays["generator/Conv/weights"][..., bgr, :], stem.weight[:, rgb].permute(1, 2, 0))
        assert np.array_equal(arrays["generator/Conv_9/weights"][..., bgr], head.weight[rgb].permute(1, 2, 0))
        assert arrays["generator/Conv_9/biases"][bgr] == head.bias[rgb]
    assert np.array_equal(arrays["generator/Conv/biases"], stem.bias)
    assert np.array_equal(arrays["generator/Conv_8/weights"], network.unet.up2.weight.permute(2, 3, 1, 0))


def test_a_discriminator_scores_the_flipped_picture_alike():
    nets = discriminators()
    arrays = discriminator_arrays(nets)
    kernel = torch.from_numpy(arrays["disc_blur/conv0_1/kernel"]).permute(3, 2, 0, 1)
    picture = torch.randn(1, 3, 16, 16)
    own = nets["disc_blur"].convs[0].weight
    assert torch.allclose(F.conv2d(picture, own), F.conv2d(picture.flip(1), kernel), atol=1e-6)
    assert not torch.allclose(F.conv2d(picture, own), F.conv2d(picture, kernel), atol=1e-2)
    back = discriminators_from(arrays)
    for name, net in nets.items():
        assert all(torch.equal(value, back[name].state_dict()[key]) for key, value in net.state_dict().items())


def test_training_weights_come_back_to_the_bit():
    before = trained()
    arrays = training_arrays(before)
    after = training_weights_from(arrays)
    assert after.step == 3
    assert after.lacks == ()
    assert_equal_states(before.optimizers, after.optimizers)
    assert all(np.array_equal(value, training_arrays(after)[name]) for name, value in arrays.items())


def test_adam_goes_on_as_if_nothing_had_happened():
    before = trained()
    after = training_weights_from(training_arrays(before), learning_rate=1e-3)
    parameters = [list(weights.generator.requires_grad_(True).parameters()) for weights in (before, after)]
    for own, weights in zip(parameters, (before, after), strict=True):
        adam = torch.optim.Adam(own, lr=0.5, fused=True)
        adam.load_state_dict(weights.optimizers["generator"])
        torch.manual_seed(5)
        for parameter in own:
            parameter.grad = torch.randn_like(parameter)
        adam.step()
    assert all(torch.equal(one, other) for one, other in zip(*parameters, strict=True))


def test_adams_slots_are_flipped_with_their_kernels():
    weights = trained()
    arrays = training_arrays(weights)
    moment = weights.optimizers["generator"]["state"][0]["exp_avg"]
    assert np.array_equal(arrays["generator/Conv/weights/Adam"], moment.flip(1).permute(2, 3, 1, 0))
    last = weights.optimizers["generator"]["state"][len(list(weights.generator.parameters())) - 1]["exp_avg_sq"]
    assert np.array_equal(arrays["generator/Conv_9/biases/Adam_1"], last.flip(0))
    first_of_blur = len(list(weights.discriminators["disc_gray"].parameters()))
    moment = weights.optimizers["discriminators"]["state"][first_of_blur]["exp_avg"]
    assert np.array_equal(arrays["disc_blur/conv0_1/kernel/Adam"], moment.flip(1).permute(2, 3, 1, 0))


@pytest.mark.parametrize("steps", [0, 1, 2, 126, 149, 999, 8000, 8600])
def test_the_step_is_read_off_the_beta_powers(steps):
    weights = trained(steps=1)
    for state in weights.optimizers.values():
        for moments in state["state"].values():
            moments["step"].fill_(steps)
    arrays = training_arrays(weights)
    power = np.float32(ADAM_BETAS[1])
    for _ in range(steps):  # as TensorFlow does it, one rounded product at a time
        power = np.float32(power * np.float32(ADAM_BETAS[1]))
    assert arrays["beta2_power"] == pytest.approx(power, rel=2e-3)
    for source in (arrays, arrays | {"beta2_power": np.array(power), "beta2_power_1": np.array(power)}):
        found = training_weights_from(source)
        assert found.step == steps
        assert all(m["step"] == steps for state in found.optimizers.values() for m in state["state"].values())


@pytest.mark.parametrize(("known", "found"), [(None, FORGOTTEN_STEPS), (300_000, 300_000), (5, FORGOTTEN_STEPS)])
def test_a_step_that_is_forgotten_is_taken_from_who_knows(known, found):
    arrays = training_arrays(trained(steps=1)) | {name: np.zeros((), np.float32) for name in ("beta2_power", "beta2_power_1")}
    assert training_weights_from(arrays, step=known).step == found


def test_a_fresh_start_has_tensorflows_first_values():
    arrays = training_arrays(TrainingWeights(generator(), discriminators()))
    assert not arrays["generator/Conv/weights/Adam"].any()
    assert [float(arrays[name]) for name in ("beta1_power", "beta2_power_1")] == pytest.approx([0.5, 0.99])


def test_what_is_not_there_is_not_invented():
    arrays = training_arrays(trained())
    alone = training_weights_from({k: v for k, v in arrays.items() if k.startswith("generator/")}, step=7)
    assert alone.discriminators is alone.optimizers is None
    assert alone.lacks[0] == "disc_gray"
    assert alone.step == 7
    without_u = training_weights_from({k: v for k, v in arrays.items() if not k.endswith("/u")})
    assert without_u.discriminators is None
    assert without_u.lacks[0] == "disc_gray/conv0_1/u and 6 more tensors"
    without_slot = training_weights_from({k: v for k, v in arrays.items() if k != "disc_blur/conv_out/bias/Adam_1"})
    assert without_slot.discriminators is not None
    assert without_slot.optimizers is None
    assert without_slot.lacks == ("disc_blur/conv_out/bias/Adam_1",)
    with pytest.raises(CheckpointError, match="discriminators"):
        training_arrays(alone)


def changed(arrays, name, value):
    return {key: array for key, array in arrays.items() if key != name} | ({} if value is None else {name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("generator/Conv/weights", None),
        ("generator/block_0/conv2/biases", None),
        ("generator/Conv_9/weights", None),
        ("generator/Conv/weights", np.zeros((7, 7, 3, 3), np.float32)),
        ("generator/Conv/weights", np.zeros((7, 7, 3, 4096), np.float32)),
        ("generator/Conv/weights", np.zeros(8, np.float32)),
        ("generator/Conv_3/weights", np.zeros((3, 3, 16, 17), np.float32)),
        ("generator/Conv_3/weights", np.zeros((3, 3, 16, 16), np.float16)),
        ("generator/Conv_3/biases", np.full(16, np.nan, np.float32)),
        ("generator/Conv_3/biases", np.full(16, np.inf, np.float32)),
        ("generator/Conv_10/weights", np.zeros((3, 3, 16, 16), np.float32)),
        ("generator/block_7/conv1/weights", np.zeros((3, 3, 32, 32), np.float32)),
        ("disc_blur/conv1_1/kernel", np.zeros((3, 3, 8, 8), np.float32)),
        ("disc_blur/conv1_1/u", np.full((1, 16), np.nan, np.float32)),
        ("generator/Conv_1/weights/Adam", np.zeros((3, 3, 8, 9), np.float32)),
        ("beta2_power", np.array(1.5, np.float32)),
        ("beta2_power_1", np.array(np.nan, np.float32)),
        ("beta2_power_1", np.zeros(3, np.float32)),
    ],
)
def test_what_does_not_fit_is_refused_by_name(name, value):
    arrays = changed(training_arrays(trained(steps=1)), name, value)
    with pytest.raises(CheckpointError, match=rf"model-9.*{name}"):
        training_weights_from(arrays, source="model-9")


def test_reading_leaves_random_numbers_alone():
    arrays = training_arrays(trained(steps=1))
    torch.manual_seed(3)
    expected = torch.randn(4)
    torch.manual_seed(3)
    training_weights_from(arrays)
    assert torch.equal(torch.randn(4), expected)


def test_optimizers_alone_go_both_ways():
    weights = trained()
    networks = {"generator": weights.generator, **weights.discriminators}
    arrays = optimizer_arrays(weights.optimizers, networks)
    assert_equal_states(weights.optimizers, optimizer_state_from(arrays, networks))
