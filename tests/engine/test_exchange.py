import numpy as np
import pytest
import torch

from stylekit.config.load import parse_recipe
from stylekit.data.sampler import generator_for
from stylekit.engine.checkpoint import Meta, latest_checkpoint, load_checkpoint, load_generator, write_checkpoint_folder
from stylekit.engine.exchange import native_state, tf_arrays
from stylekit.engine.train import make_accelerator, train
from stylekit.errors import CheckpointError
from stylekit.methods.base import Batch, StepContext, create_method
from stylekit.nn.ema import Ema
from tests.engine.conftest import tiny_recipe

# Upstream's own size of network, without the content network, which is no part of a checkpoint.
UPSTREAM = "style: x\ntrain: {preset: upstream, size: 32, batch_size: 2, content: {network: efficientnet-lite0}}"


def built(recipe):
    method = create_method("dctnet")
    method.build(recipe, make_accelerator("cpu", "no"))
    return method, Ema(method.generator, recipe.train.ema_half_life_images)


def advance(method, step):
    drawn = torch.Generator().manual_seed(step)
    photo, cartoon = (torch.rand(2, 3, 32, 32, generator=drawn) * 2 - 1 for _ in range(2))
    method.step(Batch(photo, cartoon), StepContext(step, generator_for(0, "method", step)))


def meta(recipe, step):
    return Meta(step=step, images_seen=2 * step, recipe=recipe, assets={}, data={})


def test_upstreams_tensors_make_a_checkpoint_that_training_goes_on_from_as_if_never_converted(tmp_path):
    recipe = parse_recipe(UPSTREAM)
    whole, average = built(recipe)
    for step in range(2):
        advance(whole, step)
    states = {name: optimizer.state_dict() for name, optimizer in whole.optimizers.items()}
    weights = {f"{name}.{k}": v for name, net in whole.networks.items() for k, v in net.state_dict().items()}
    weights |= {f"generator_ema.{k}": v + 1 for k, v in average.network.state_dict().items()}  # not what upstream goes on with
    ours = write_checkpoint_folder(tmp_path / "ours", weights, states, meta(recipe, 2), keep=1)

    arrays = tf_arrays(ours)
    assert len(arrays) == 210
    converted, states = native_state(arrays, 2)
    theirs = write_checkpoint_folder(tmp_path / "theirs", converted, states, meta(recipe, 2), keep=1)
    again = tf_arrays(theirs)
    assert again.keys() == arrays.keys()
    assert all(np.array_equal(again[name], arrays[name]) for name in arrays)
    assert all(torch.equal(load_generator(theirs).module.state_dict()[k], v) for k, v in whole.generator.state_dict().items())

    other, average = built(recipe)
    assert load_checkpoint(theirs, other, average).step == 2
    for method in (whole, other):
        advance(method, 2)
    for name, network in whole.networks.items():
        for key, value in network.state_dict().items():
            assert torch.equal(other.networks[name].state_dict()[key], value), (name, key)


def test_a_run_without_both_discriminators_cannot_go_on_upstream(workspace):
    run = train(tiny_recipe("train.loss.lambda_texture=0", "train.max_steps=2"), workspace=workspace, device="cpu").run
    with pytest.raises(CheckpointError, match=r"step-000002 has no disc_gray .* --preset upstream"):
        tf_arrays(latest_checkpoint(run))


def test_half_a_checkpoint_is_refused_by_what_it_lacks(workspace):
    run = train(tiny_recipe("train.max_steps=2"), workspace=workspace, device="cpu").run
    arrays = tf_arrays(latest_checkpoint(run))
    without = {name: value for name, value in arrays.items() if name != "disc_blur/conv_out/u"}
    with pytest.raises(CheckpointError, match="model-1 has no disc_blur/conv_out/u"):
        native_state(without, 2, source="model-1")
    del arrays["beta2_power_1"]
    with pytest.raises(CheckpointError, match="has no beta2_power_1"):
        native_state(arrays, 2)
