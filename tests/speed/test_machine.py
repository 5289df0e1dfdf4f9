"""What a machine is called, and the rate of its arithmetic."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from stylekit.speed import machine
from stylekit.speed.machine import arithmetic_rates, describe, tf32

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("device", "name", "label"),
    [
        ("cpu", "AMD EPYC 9R14", "cpu"),
        ("cuda", "NVIDIA H200", "h200"),
        ("cuda", "NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("cuda", "Tesla T4", "t4"),
    ],
)
def test_file_names_carry_the_device(device: str, name: str, label: str) -> None:
    assert dataclasses.replace(describe(CPU), device=device, name=name).label == label


def test_a_description_names_what_figures_depend_on() -> None:
    found = describe(CPU)
    assert found.device == "cpu"
    assert found.threads == torch.get_num_threads()
    assert torch.__version__.startswith(found.torch)
    assert "+" not in found.torch
    assert found.memory_gb > 0.5
    assert str(found.date) in str(found)
    assert f"{found.threads} threads on {found.cores} cores" in str(found)
    assert "threads" not in str(dataclasses.replace(found, device="cuda"))
    assert found.name


def test_rates_are_operations_by_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "seconds", lambda work, device: 2.0)
    found = arithmetic_rates(CPU, repeats=1, scale=1 / 8)
    assert found["matrix_fp32"] == pytest.approx(2 * 256**3 / 2e9)
    assert found["convolution_fp32"] == pytest.approx(2 * (64 * 64) * 9 * 256 * 256 / 2e9)


def test_rates_are_measured() -> None:
    assert all(0.05 < rate < 1e6 for rate in arithmetic_rates(CPU, repeats=1, scale=1 / 16).values())


@pytest.mark.parametrize("allowed", [True, False])
def test_tf32_is_as_it_was_afterwards(allowed: bool) -> None:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    with tf32(allowed):
        assert torch.backends.cudnn.allow_tf32 is allowed
        assert torch.get_float32_matmul_precision() == ("high" if allowed else "highest")
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before


@pytest.mark.gpu
def test_a_gpu_has_rates_in_three_precisions() -> None:
    found = arithmetic_rates(torch.device("cuda"), repeats=2)
    assert set(found) == {f"{work}_{kind}" for work in ("matrix", "convolution") for kind in ("fp32", "tf32", "bf16")}
    assert found["matrix_bf16"] > found["matrix_fp32"]
