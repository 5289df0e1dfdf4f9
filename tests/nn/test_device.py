"""Devices by name, on machines that have them and ones that have not."""

from __future__ import annotations

import pytest
import torch

from stylekit.engine.train import make_accelerator
from stylekit.errors import UsageError
from stylekit.nn.device import find_device


@pytest.mark.parametrize(
    ("gpus", "name", "found"),
    [
        (0, None, "cpu"),
        (2, None, "cuda"),
        (2, "cpu", "cpu"),
        (2, "cuda", "cuda"),
        (2, "cuda:1", "cuda:1"),
        (0, "cuda", None),
        (2, "cuda:2", None),
        (2, "cuda:", None),
        (2, "cuda:-1", None),
        (2, "cpu:1", None),
        (2, "tpu", None),
        (2, "", None),
    ],
)
def test_a_name_means_the_device_that_is_there(gpus: int, name: str, found: str | None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    if found is None:
        with pytest.raises(UsageError, match="no device"):
            find_device(name)
    else:
        assert str(find_device(name)) == found


def test_training_takes_the_gpu_of_the_index(monkeypatch: pytest.MonkeyPatch):
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr("stylekit.engine.train.Accelerator", lambda **_: None)
    make_accelerator("cuda:1", "no")
    assert chosen == [torch.device("cuda", 1)]
    with pytest.raises(UsageError, match="cuda:2"):
        make_accelerator("cuda:2", "no")
