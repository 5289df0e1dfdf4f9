import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stylekit.data.sampler import STREAMS, EndlessSampler, generator_for

sizes = st.integers(1, 40).flatmap(lambda count: st.tuples(st.just(count), st.integers(1, count)))


@given(sizes, st.integers(0, 2**31 - 1))
def test_epochs_use_every_picture_equally_often(size, seed):
    count, batch = size
    sampler = EndlessSampler(count, batch, seed, "photo")
    drawn = [i for step in range(count) for i in sampler.indices(step)]
    assert len(drawn) == count * batch
    assert all(sorted(drawn[e * count : (e + 1) * count]) == list(range(count)) for e in range(batch))


@given(sizes, st.integers(0, 2**31 - 1), st.integers(0, 10**7))
def test_a_batch_depends_on_the_step_alone(size, seed, step):
    for epochs in (True, False):
        a, b = (EndlessSampler(*size, seed, "cartoon", epochs=epochs) for _ in range(2))
        a.indices(0)
        assert a.indices(step) == b.indices(step)


@given(sizes, st.integers(0, 10**6))
def test_upstreams_batches_are_distinct_within(size, step):
    batch = EndlessSampler(*size, 0, "photo", epochs=False).indices(step)
    assert len(set(batch)) == len(batch) == size[1]


def test_streams_steps_and_seeds_are_unrelated():
    first = {
        torch.rand(1, generator=generator_for(seed, stream, step)).item()
        for seed in range(4)
        for stream in STREAMS
        for step in range(200)
    }
    assert len(first) > 0.99 * 4 * len(STREAMS) * 200
    values = torch.stack([torch.rand(1, generator=generator_for(7, "method", step)) for step in range(4000)]).squeeze()
    assert values.mean().item() == pytest.approx(0.5, abs=0.02)
    assert torch.corrcoef(torch.stack((values[:-1], values[1:])))[0, 1].abs() < 0.05


@pytest.mark.parametrize("batch", [0, 4])
def test_a_batch_that_cannot_be_drawn(batch):
    with pytest.raises(ValueError, match="cannot be drawn"):
        EndlessSampler(3, batch, 0, "photo")
