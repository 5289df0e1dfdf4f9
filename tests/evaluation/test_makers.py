import numpy as np
import pytest
import torch

from stylekit.evaluation.makers import network_maker
from tests.evaluation.test_bench import Colours, make_workspace, open_at


class Blur(torch.nn.Module):
    """Paints the mean of the picture's 8 x 8 fields: another picture at every size."""

    def forward(self, pictures):
        return torch.nn.functional.interpolate(torch.nn.functional.avg_pool2d(pictures, 8), scale_factor=8)


@pytest.mark.parametrize("change", ["size", "weights"])
def test_a_network_of_another_size_or_weights_is_measured_anew(tmp_path, change):
    workspace = make_workspace(tmp_path)

    def measured(size, digest):
        gauge = Colours("features/tiny", 6, 0)
        bench = open_at(workspace, features=[gauge])
        found = bench.measure(*network_maker(Blur(), size, digest), "stylized")["features/tiny"]
        return gauge.seen, found

    first = measured(16, "a" * 64)
    other = measured(32, "a" * 64) if change == "size" else measured(16, "b" * 64)
    again = measured(16, "a" * 64)
    assert [first[0], other[0], again[0]] == [6, 6, 0]
    assert np.array_equal(first[1], again[1])
    assert np.array_equal(first[1], other[1]) == (change == "weights")
