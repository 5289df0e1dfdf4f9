"""Steps on the clock: what is counted to which part, what is drawn, and what a grid of batches and sizes says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stylekit.config.schema import Recipe
from stylekit.engine.train import TrainingPictures
from stylekit.errors import DataError, RecipeError
from stylekit.nn.vgg import load_vgg19_caffe
from stylekit.paths import Workspace
from stylekit.speed import training
from stylekit.speed.apart import Outcome
from stylekit.speed.timing import Parts
from stylekit.speed.training import (
    PARTS,
    Trainee,
    bench_train,
    drawn_pictures,
    instrumented,
    measure_training,
    random_vgg19,
    replaced,
)

CPU = torch.device("cpu")
SMALL = {"size": 32, "batch_size": 2, "network": {"width": 8, "blocks": 1}, "loss": {"lambda_content": 0}}


def recipe(**train: Any) -> Recipe:
    return Recipe.model_validate({"style": "x", "train": {**SMALL, **train}})


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> TrainingPictures:
    return drawn_pictures(tmp_path_factory.mktemp("drawn") / "pictures", 3, 32)


def test_drawn_pictures_are_of_the_size_and_differ(pictures: TrainingPictures) -> None:
    photos, cartoons = ([file.read() for file in files] for files in (pictures.photos, pictures.cartoons))
    assert {picture.shape for picture in photos + cartoons} == {(32, 32, 3)}
    assert len({picture.tobytes() for picture in photos + cartoons}) == 6
    assert all(np.ptp(picture) > 100 for picture in photos)
    assert set(np.unique(cartoons)) <= {0, 85, 170, 255}


def test_a_short_training_is_measured(pictures: TrainingPictures) -> None:
    found = measure_training(recipe(), pictures, steps=2, device="cpu")
    assert found.steps == 2
    assert set(found.parts) == {"data", "generator", "discriminators", "backward", "optimizer", "other"}
    assert list(found.parts) == [name for name in PARTS if name in found.parts]
    assert all(part >= 0 for part in found.parts.values())
    assert all(found.parts[name] > 0 for name in ("generator", "discriminators", "backward", "optimizer"))
    assert found.step_s == pytest.approx(sum(found.parts.values()), rel=1e-6)  # of two, the median is the mean
    assert found.batches_per_s > 1
    assert 0.1 < found.peak_memory_gb < 20
    assert (found.content, found.is_random, found.superpixels) == (None, False, None)


def _trainee(pictures: TrainingPictures, **train: Any) -> Trainee:
    trainee = Trainee(recipe(**train), pictures, device="cpu")
    trainee.close()
    return trainee


@pytest.mark.parametrize(
    ("train", "device", "compiles", "expected"),
    [
        ({}, "cpu", True, "numba"),
        ({}, "cpu", False, "scikit-image"),
        ({}, "cuda", True, "torch"),
        ({"superpixel_engine": "scikit-image"}, "cpu", True, "scikit-image"),
        ({"superpixel_engine": "scikit-image"}, "cuda", True, "scikit-image"),
        ({"superpixels": "off"}, "cpu", True, None),
        ({"loss": {"lambda_content": 0}}, "cpu", True, None),
    ],
)
def test_what_finds_superpixels_is_named(train, device, compiles, expected, monkeypatch) -> None:
    monkeypatch.setattr(training, "can_compile", lambda: compiles)
    wanted = recipe(**{"superpixels": "stylized", "loss": {"lambda_content": 1}} | train)
    assert training._superpixels(wanted, torch.device(device)) == expected


def test_no_step_is_timed_after_the_budget_but_one_always(pictures: TrainingPictures) -> None:
    assert measure_training(recipe(), pictures, steps=5, budget_s=0, device="cpu").steps == 1


def test_too_few_pictures_are_refused(pictures: TrainingPictures) -> None:
    with pytest.raises(DataError, match="fewer than the batch of 4"):
        measure_training(recipe(batch_size=4), pictures, steps=1, device="cpu")


def test_a_trainee_takes_the_steps_of_the_loop(pictures: TrainingPictures) -> None:
    """With the parts counted or not: the same losses and weights."""
    ways = []
    for counted in (False, True):
        trainee, parts = Trainee(recipe(), pictures, device="cpu"), Parts(torch.device("cpu"))
        try:
            for _ in range(2):
                if counted:
                    with instrumented(trainee.method, parts):
                        found = trainee.step(trainee.batch())
                else:
                    found = trainee.step(trainee.batch())
        finally:
            trainee.close()
        ways.append((found, trainee.method.generator.state_dict(), trainee.done))
    assert ways[0][2] == ways[1][2] == 2
    for plain, other in zip(ways[0][:2], ways[1][:2], strict=True):
        assert plain.keys() == other.keys()
        assert all(torch.equal(plain[name], other[name]) for name in plain)


def test_a_method_is_as_it_was_after_the_count(pictures: TrainingPictures) -> None:
    method = _trainee(pictures).method
    before = dict(vars(method)), dict(vars(method.accelerator))
    hooks = [(net._forward_hooks, net._forward_pre_hooks) for net in method.networks.values()]
    with instrumented(method, Parts(CPU)):
        assert vars(method).keys() == before[0].keys()
        assert vars(method)["_painted"] != before[0]["_painted"]
        assert any(after for after, _ in hooks)
    assert (dict(vars(method)), dict(vars(method.accelerator))) == before
    assert not any(each for pair in hooks for each in pair)


def test_superpixels_are_counted_however_they_are_painted(pictures: TrainingPictures) -> None:
    method, parts = _trainee(pictures).method, Parts(CPU)
    method._painted = torch.nn.Identity()  # type: ignore[attr-defined]  # as torch.compile puts something else there
    with instrumented(method, parts):
        method._painted(torch.zeros(1))  # type: ignore[attr-defined]
    assert set(parts.seconds) == {"superpixel"}


def test_what_is_computed_again_counts_to_backward(pictures: TrainingPictures) -> None:
    trainee, parts = Trainee(recipe(low_vram=True), pictures, device="cpu"), Parts(CPU)
    try:
        with instrumented(trainee.method, parts):
            trainee.step(trainee.batch())
        with parts.part("after"):
            pass
    finally:
        trainee.close()
    assert set(parts.seconds) == {"generator", "discriminators", "backward", "optimizer", "after"}


def test_replaced_restores_own_and_inherited_attributes() -> None:
    class Thing:
        inherited = 1

    thing = Thing()
    thing.own = 2  # type: ignore[attr-defined]
    with replaced(thing, "own", 3), replaced(thing, "inherited", 4):
        assert (thing.own, thing.inherited) == (3, 4)  # type: ignore[attr-defined]
    assert vars(thing) == {"own": 2}
    assert thing.inherited == 1


def in_this_process(task: str, job: dict[str, Any], **limits: object) -> Outcome:
    """Do what `measure_apart` does without starting a process."""
    assert task == "stylekit.speed.training:task"
    return Outcome("measured", json.loads(json.dumps(training.task(json.loads(json.dumps(job))))))


def test_a_grid_is_measured_point_by_point(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(training, "measure_apart", in_this_process)
    report = bench_train(
        recipe(max_steps=7200), workspace=Workspace(tmp_path), batch_sizes=[1, 2], sizes=[32, 40], steps=1, device="cpu"
    )
    assert [(point.batch_size, point.size) for point in report.points] == [(1, 32), (2, 32), (1, 40), (2, 40)]
    assert report.pictures == "drawn"
    for point in report.points:
        assert point.speed is not None
        assert point.hours == pytest.approx(2 * point.speed.step_s)


def test_a_point_that_does_not_fit_is_said_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: dict[str, object] = {}

    def full(task: str, job: dict[str, Any], **limits: object) -> Outcome:
        given.update(limits, **job)
        return Outcome("over memory", reason="It needs more than 1 GB.")

    monkeypatch.setattr(training, "measure_apart", full)
    report = bench_train(recipe(), workspace=Workspace(tmp_path), device="cpu", memory_gb=1, limit_s=9)
    (point,) = report.points
    assert (point.state, point.speed, point.hours, point.reason) == ("over memory", None, None, "It needs more than 1 GB.")
    assert (given["memory_gb"], given["limit_s"]) == (1, 9)


def test_a_size_that_no_network_takes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"train\.size is 33"):
        bench_train(recipe(), workspace=Workspace(tmp_path), sizes=[33], device="cpu")


@pytest.mark.slow
def test_preset_upstream_is_measured_without_its_weight_file(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("STYLEKIT_HOME", str(tmp_path / "home"))
    wanted = Recipe.model_validate({"style": "x", "train": {"preset": "upstream", "size": 32, "batch_size": 1}})
    found = measure_training(wanted, drawn_pictures(tmp_path / "pictures", 1, 32), steps=1, device="cpu")
    assert (found.content, found.is_random) == ("vgg19-caffe", True)
    assert set(found.parts) == set(PARTS)
    assert all(found.parts[name] > 0 for name in PARTS if name not in ("data", "other"))


@pytest.mark.slow
def test_a_drawn_vgg_is_read_like_the_real_one(tmp_path: Path) -> None:
    network = load_vgg19_caffe(random_vgg19(tmp_path / "vgg19.npy").path)
    maps = network.features(torch.rand(1, 3, 32, 32) * 2 - 1, ("conv4_4",))["conv4_4"]
    assert maps.shape == (1, 512, 4, 4)
    assert 0.1 < maps.std() < 1000


@pytest.mark.gpu
def test_a_training_on_a_gpu_is_measured(pictures: TrainingPictures) -> None:
    found = measure_training(recipe(), pictures, steps=2, device="cuda")
    assert found.steps == 20
    assert 0 < found.peak_memory_gb < 1
    assert set(found.parts) == {"data", "generator", "discriminators", "backward", "optimizer", "other"}


@pytest.mark.gpu
def test_superpixels_of_a_gpu_are_a_part_of_the_step(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("STYLEKIT_HOME", str(tmp_path / "home"))
    wanted = Recipe.model_validate({"style": "x", "train": {"preset": "upstream", "size": 64, "batch_size": 2}})
    found = measure_training(wanted, drawn_pictures(tmp_path / "pictures", 2, 64), steps=1, device="cuda")
    assert found.superpixels == "torch"
    assert found.parts["superpixel"] > 0
