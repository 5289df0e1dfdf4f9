"""Devices by name, on machines that have them and ones that have not."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from stylekit.engine.train import make_accelerator
from stylekit.errors import TrainingError, UsageError
from stylekit.nn.device import compile_options, explained_compiling, find_device


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
    monkeypatch.setattr("stylekit.engine.train.Accelerator", lambda **_: SimpleNamespace(device=torch.device("cuda", 1)))
    monkeypatch.setattr("stylekit.engine.train.set_up_cuda", lambda **_: None)
    make_accelerator("cuda:1", "no")
    assert chosen == [torch.device("cuda", 1)]
    with pytest.raises(UsageError, match="cuda:2"):
        make_accelerator("cuda:2", "no")


@pytest.mark.parametrize("allow_tf32", [True, False])
def test_how_a_gpu_computes_follows_the_recipe(allow_tf32: bool):
    conv, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = conv.allow_tf32, conv.benchmark
    try:
        make_accelerator("cpu", "no", allow_tf32=allow_tf32, low_vram=not allow_tf32)
        assert (conv.allow_tf32, conv.benchmark) == (allow_tf32, allow_tf32)
        assert not products.allow_tf32  # the recipe speaks of convolutions
    finally:
        conv.allow_tf32, conv.benchmark = before


@pytest.mark.parametrize(
    ("wanted", "device", "triton", "capability", "low_vram", "found"),
    [
        ("auto", "cuda", True, (7, 0), False, {"dynamic": False}),
        ("auto", "cuda", True, (9, 0), True, {"dynamic": False}),
        ("auto", "cuda", True, (6, 1), False, None),
        ("auto", "cuda", False, (9, 0), False, None),
        ("auto", "cpu", True, None, False, None),
        ("no", "cuda", True, (9, 0), False, None),
        ("reduce-overhead", "cuda", True, (9, 0), False, {"dynamic": False, "mode": "reduce-overhead"}),
        ("reduce-overhead", "cuda", True, (9, 0), True, {"dynamic": False}),
    ],
)
def test_only_cuda_with_triton_compiles_and_graphs_keep_memory(
    *, wanted, device, triton, capability, low_vram, found, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("stylekit.nn.device.find_spec", lambda name: object() if triton else None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert compile_options(wanted, torch.device(device), low_vram=low_vram) == found


def test_an_error_of_the_compiler_names_the_way_without_it():
    from torch._dynamo.exc import BackendCompilerFailed

    with pytest.raises(TrainingError, match="Failed to find C compiler") as told, explained_compiling():
        raise BackendCompilerFailed(compile, RuntimeError("Failed to find C compiler."), None)
    assert told.value.hint == "Use --compile no"
    with pytest.raises(RuntimeError, match="out of memory"), explained_compiling():
        raise RuntimeError("out of memory")
