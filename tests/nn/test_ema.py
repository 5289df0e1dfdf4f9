import pytest
import torch
from torch import nn

from stylekit.nn.ema import Ema


def after(batches, half_life=1000.0, young=False):
    """The average of a parameter that jumps from 0 to 1, after batches of these sizes."""
    network = nn.Linear(1, 1, bias=False)
    network.weight.data.zero_()
    average = Ema(network, half_life)
    network.weight.data.fill_(1)
    seen = 0 if young else 10**6
    for batch in batches:
        seen += batch
        average.update(network, batch, seen)
    return average.network.weight.item()


def test_half_is_forgotten_after_the_half_life_whatever_the_batch():
    assert after([1] * 1000) == pytest.approx(0.5, abs=1e-3)
    assert after([50] * 20) == pytest.approx(0.5, abs=1e-5)
    assert after([50] * 40) == pytest.approx(0.75, abs=1e-5)


def test_a_young_average_follows_faster():
    assert after([50] * 4, young=True) > 0.99 > after([50] * 4)


def test_no_half_life_is_the_network_itself():
    assert after([8], half_life=0.0) == 1


def test_the_average_is_frozen_and_apart_and_buffers_are_copied():
    network = nn.BatchNorm1d(2)
    average = Ema(network, 100)
    assert not any(p.requires_grad for p in average.network.parameters())
    network(torch.randn(8, 2))
    assert not torch.equal(average.network.running_mean, network.running_mean)
    average.update(network, 8, 8)
    assert torch.equal(average.network.running_mean, network.running_mean)
    assert not average.network.training
