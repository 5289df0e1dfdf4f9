"""The benchmarks that are run by hand: what they write, how they go on, and upstream's code beside ours in small."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import growth, training
from benchmarks.record import Record, table
from benchmarks.training import IDENTICAL, SHORTCUTS, Ours, gpu_rows, start
from stylekit.modelscope.graph.weights import generator_arrays
from stylekit.speed.apart import Outcome
from stylekit.speed.arithmetic import step_operations
from stylekit.speed.machine import describe
from stylekit.speed.training import TrainPoint, TrainReport, TrainSpeed, drawn_pictures, random_vgg19

CPU = torch.device("cpu")


def record(kind: str, folder: Path, **protocol: Any) -> Record:
    return Record(kind, describe(CPU), protocol, folder)


def test_files_carry_device_torch_and_date_and_are_read_again(tmp_path: Path) -> None:
    first, machine = record("train", tmp_path / "results"), describe(CPU)
    first.data["rows"] = [1]
    first.write("# words\n")
    assert first.path.name == f"train-cpu-torch{machine.torch}-{machine.date}"
    assert {path.suffix for path in (tmp_path / "results").iterdir()} == {".json", ".md"}
    assert record("train", tmp_path / "results").data["rows"] == [1]


def test_figures_of_another_protocol_are_left_alone(tmp_path: Path) -> None:
    full = record("train", tmp_path, steps=5, sizes=[(1, 2)])
    full.data["rows"] = "many"
    full.write("")
    small = record("train", tmp_path, steps=1, sizes=[(1, 2)])
    assert "rows" not in small.data
    assert small.path.name == f"{full.path.name}-2"
    small.data["rows"] = "few"
    small.write("")
    for steps, rows in ((5, "many"), (1, "few")):
        again = record("train", tmp_path, steps=steps, sizes=[(1, 2)])
        assert (again.data["rows"], again.data["protocol"]) == (rows, {"steps": steps, "sizes": [[1, 2]]})
    assert record("train", tmp_path, steps=2).path.name == f"{full.path.name}-3"


def test_a_table_is_markdown() -> None:
    assert table(["a", "b"], [["x", 1]]) == "| a | b |\n| --- | ---: |\n| x | 1 |\n"


@pytest.fixture
def grown(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Let what has more than 2 pictures of 64 px not fit; return what was measured."""
    seen: list[tuple[int, int]] = []

    def measured(recipe: Any, **limits: object) -> TrainReport:
        batch, size = recipe.train.batch_size, recipe.train.size
        seen.append((batch, size))
        speed = TrainSpeed(3, batch * size / 1000, {}, 1.0, batch * size / 100, None, False, None)
        fits = batch * size <= 128
        point = (
            TrainPoint(batch, size, "measured", speed, 1.0) if fits else TrainPoint(batch, size, "over memory", reason="Full.")
        )
        return TrainReport(describe(CPU), "x", "upstream", "no", "drawn", 1, [point])

    monkeypatch.setattr(growth, "bench_train", measured)
    return seen


def test_growth_measures_what_fits_names_what_does_not_and_goes_on(grown: list[tuple[int, int]], tmp_path: Path) -> None:
    limits = {"preset": "upstream", "steps": 1, "memory_gb": 1.0, "limit_s": 9.0}
    found = record("growth", tmp_path, **limits)
    growth.measure(found, batches=(1, 2, 4), sizes=(64, 128), device="cpu")
    points = json.loads(found.path.with_name(found.path.name + ".json").read_text())["growth"]["points"]
    states = {key: point["state"] for key, point in points.items()}
    assert states == {
        "1x64": "measured", "2x64": "measured", "1x128": "measured",
        "4x64": "over memory", "2x128": "over memory", "4x128": "not tried",
    }  # fmt: skip
    assert points["2x64"]["steps_per_s"] == pytest.approx(1000 / 128)
    assert "step_s" not in points["4x64"]
    written = found.path.with_name(found.path.name + ".md").read_text()
    assert "| 2 | 7.81 | over memory |" in written
    assert "| 4 | over memory | not tried |" in written
    drawn = found.path.with_name(found.path.name + ".svg").read_text()
    assert drawn.count("<circle") == 6

    grown.clear()
    points["1x64"] = {"batch_size": 1, "size": 64, "state": "failed", "reason": "It broke."}
    found.data["growth"]["points"] = points
    found.write("")
    growth.measure(record("growth", tmp_path, **limits), batches=(1, 2), sizes=(32, 64), device="cpu")
    assert grown == [(1, 32), (2, 32), (1, 64)]
    grown.clear()
    growth.measure(record("growth", tmp_path, **limits | {"steps": 2}), batches=(1,), sizes=(32,), device="cpu")
    assert grown == [(1, 32)]


def test_rows_of_a_gpu_are_kept_and_shared_by_the_rate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = []

    def measured(task: str, job: dict[str, Any], **limits: object) -> Outcome:
        asked.append(job)
        assert task == "benchmarks.training:gpu_row"
        training.recipe(job["batch_size"], job["size"], **job["train"])
        if "memory_gb" in job:
            return Outcome("over memory", reason="CUDA out of memory.")
        if job["train"] == {"superpixel_engine": "scikit-image"}:
            return Outcome("failed", reason="It broke.")
        result = {"step_s": 0.02, "parts": {"content": 0.03, "other": 0.01}, "peak_memory_gb": 5.0, "batches_per_s": 900.0}
        return Outcome("measured", result)

    monkeypatch.setattr(training, "measure_apart", measured)
    rates = {f"{work}_{kind}": 1e6 for work in ("matrix", "convolution") for kind in ("fp32", "tf32", "bf16")}
    monkeypatch.setattr(training, "arithmetic_rates", lambda device: rates)
    protocol = {"size_px": 256, "steps": 2}
    found = record("train", tmp_path, **protocol)
    gpu_rows(found, "cpu")
    assert {(job["size"], job["steps"]) for job in asked} == {(256, 2)}
    rows = found.data["gpu"]
    assert len(rows) == len(asked) == 14
    exact, short = rows["batch 16, bf16"], rows["batch 16, tf32, shortcuts"]
    assert exact["tflops"] == pytest.approx(4.3006 / 0.02, rel=1e-4)
    assert short["tflops"] == pytest.approx(3.3012 / 0.02, rel=1e-4)
    assert exact["share_of_rate"] == pytest.approx({"matrix_bf16": 0.21503, "convolution_bf16": 0.21503}, rel=1e-3)
    written = found.path.with_name(found.path.name + ".md").read_text()
    assert "| batch 16, bf16 | 50.0 | 215.0 | 22% | 5.00 | 900 | content 75%, other 25% |" in written
    assert "over memory: CUDA out of memory." in written
    assert "256 px, medians of 2 groups" in written

    asked.clear()
    gpu_rows(record("train", tmp_path, **protocol), "cpu")
    assert [job["train"] for job in asked] == [{"superpixel_engine": "scikit-image"}]
    asked.clear()
    gpu_rows(record("train", tmp_path, **protocol | {"size_px": 128}), "cpu")
    assert len(asked) == 14


def test_without_an_nvidia_gpu_the_comparison_is_the_cpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(training, "find_device", lambda name: torch.device("mps"))
    seen: list[Record] = []
    monkeypatch.setattr(training, "compare", seen.append)
    training.main(["--ours-only", "--steps", "3", "--batch", "2", "--output", str(tmp_path)])
    (found,) = seen
    assert found.data["machine"]["device"] == "cpu"
    asked = {"steps": 3, "batch": 2, "size_px": 256, "upstream": False}
    assert asked.items() <= found.data["protocol"].items()


@pytest.mark.slow
def test_every_variant_of_ours_starts_alike_and_draws_gray_weights_twice(tmp_path: Path) -> None:
    pictures, vgg, weights = drawn_pictures(tmp_path / "pictures", 2, 32), random_vgg19(tmp_path / "vgg19.npy"), start()
    found = {}
    for name, shortcut in SHORTCUTS.items():
        ours = Ours(training.recipe(2, 32, **shortcut), pictures, vgg, weights)
        generator = generator_arrays(ours.trainee.method.networks["generator"])
        assert all(np.array_equal(generator[key], weights[key]) for key in generator)
        batch, step = ours.step()
        ours.trainee.close()
        found[name] = (batch.photo, ours.gray, step["losses"])
        low, high = np.array([0.014, 0.487, 0.199]), np.array([0.214, 0.687, 0.399])
        assert np.shape(ours.gray) == (2, 3)
        assert ((low <= ours.gray) & (ours.gray <= high)).all()
        assert step["seconds"] == pytest.approx(sum(step["parts"].values()))
    photo, gray, losses = found[IDENTICAL]
    for other_photo, other_gray, other in found.values():
        assert torch.equal(photo, other_photo)
        assert gray == other_gray
        assert other["g_loss"] == pytest.approx(losses["g_loss"], rel=1e-5)
        assert other["d_loss"] == pytest.approx(losses["d_loss"], rel=1e-2)


@pytest.mark.slow
def test_ours_alone_is_compared_without_upstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "SHORTCUTS", {IDENTICAL: {}, "share_fake": {"share_fake": True}})
    monkeypatch.setattr(training, "arithmetic_rates", lambda *_, **__: {"matrix_fp32": 100.0, "convolution_fp32": 200.0})
    path = training.main(
        ["--ours-only", "--device", "cpu", "--steps", "1", "--batch", "2", "--size", "32", "--output", str(tmp_path)]
    )
    train = json.loads(path.with_name(path.name + ".json").read_text())["train"]
    assert train["steps"] == 1
    assert "upstream" not in train
    assert "ratio_vs_upstream" not in train[IDENTICAL]
    assert train[IDENTICAL]["ratio_vs_identical_work"] == 1
    share = sum(step_operations(2, 32).values()) / train[IDENTICAL]["median_s"]
    assert train[IDENTICAL]["share_of_rate"] == pytest.approx({"matrix_fp32": share / 100e9, "convolution_fp32": share / 200e9})
    assert set(train["shortcuts"]) == {"share_fake"}


@pytest.mark.modelscope
def test_upstreams_steps_and_ours_are_identical_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "SHORTCUTS", {IDENTICAL: {}, "share_fake": {"share_fake": True}})
    monkeypatch.setattr(training, "arithmetic_rates", lambda *_, **__: {"matrix_fp32": 100.0, "convolution_fp32": 200.0})
    path = training.main(["--device", "cpu", "--steps", "1", "--size", "64", "--output", str(tmp_path)])
    train = json.loads(path.with_name(path.name + ".json").read_text())["train"]
    identical, upstream = train[IDENTICAL], train["upstream"]
    print(f"losses differ by {identical['loss_difference_vs_upstream']}")
    before, after = identical["loss_difference_vs_upstream"]
    assert before < 1e-5
    assert after < 2e-3  # Adam's first step is as large for a gradient of rounding errors as for any other
    assert len(upstream["losses"]) == 2
    assert identical["ratio_vs_upstream"] == pytest.approx(upstream["median_s"] / identical["median_s"])
    assert train["shortcuts"]["ratio_vs_upstream"] == train["shortcuts"]["share_fake"]["ratio_vs_upstream"]
    parts = {"generator", "superpixel", "content", "discriminators", "backward", "optimizer"}
    assert all(upstream["parts_s"][part] > 0 for part in parts)
    assert all(identical["parts_s"][part] > 0 for part in parts)
    assert upstream["peak_memory_gb"] > 0.5
    assert "| identical work |" in path.with_name(path.name + ".md").read_text()


@pytest.mark.modelscope
def test_upstreams_graph_and_ours_draw_the_same_picture(tmp_path: Path) -> None:
    from benchmarks import stylizing

    path = stylizing.main(["--rounds", "1", "--size", "96x128", "--output", str(tmp_path)])
    found = json.loads(path.with_name(path.name + ".json").read_text())["stylize"]["sizes"]["96x128"]["engines"]
    assert set(found) == {stylizing.UPSTREAM, stylizing.ONNX, stylizing.TORCH, stylizing.LITE}
    for name, engine in found.items():
        assert engine["median_s"] > 0
        if name == stylizing.LITE:
            continue
        assert engine["levels_max"] <= 1, name
        assert engine["levels_mean"] < (0.02 if name == stylizing.ONNX else 1e-3), name  # its weights are float16
    assert found[stylizing.UPSTREAM]["ratio_vs_upstream"] == 1
