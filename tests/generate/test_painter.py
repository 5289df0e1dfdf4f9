"""Batches, memory and blanks, with a pipeline that paints each picture in the colour of its seed."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from stylekit.errors import GenerationError
from stylekit.generate.painter import ATTEMPTS, Painted, Painter, Request, affordable
from stylekit.generate.pipelines import Loaded, is_out_of_memory
from stylekit.images import read_rgb


class Output:
    def __init__(self, images: list[Image.Image], blanks: list[bool] | None) -> None:
        self.images = images
        self.nsfw_content_detected = blanks


class FakePipeline:
    """Paints [seed, batch size, row] and remembers its batches; fails above `room` pictures, blanks the seeds of `unsafe`."""

    def __init__(self, room: int = 99, unsafe: frozenset[int] = frozenset(), needs: str = "auto") -> None:
        self.room, self.unsafe, self.needs = room, unsafe, needs
        self.batches: list[list[int]] = []
        self.slices = self.parts = False

    def __call__(self, *, prompt: list[str], steps: int, generator: list[torch.Generator]) -> Output:
        has_room = {"auto": True, "slice": self.slices, "offload": self.parts, "more": False}[self.needs]
        if len(prompt) > self.room or not has_room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        seeds = [each.initial_seed() for each in generator]
        assert prompt == [f"person {seed}" for seed in seeds]
        assert steps == 3
        self.batches.append(seeds)
        images = [Image.new("RGB", (2, 2), (seed % 256, len(seeds), row)) for row, seed in enumerate(seeds)]
        return Output(images, [seed in self.unsafe for seed in seeds])

    def enable_attention_slicing(self) -> None:
        self.slices = True

    def enable_model_cpu_offload(self, device: Any) -> None:
        self.parts = True


def painter(pipeline: Any, batch_size: int | None = 2, most: int = 99, adapt: bool = True, device: str = "cpu") -> Painter:
    loaded = Loaded(pipeline, "m", None, "s", "fp32", torch.device(device), "auto", (), {})
    return Painter(loaded, {"steps": 3}, size=8, batch_size=batch_size, most=most, adapt=adapt)


def ask(index: int, attempt: int = 0) -> Request:
    seed = index + 100 * attempt
    return Request(seed, {"prompt": f"person {seed}"})


def colours(painted: list[Painted]) -> dict[int, tuple[int, ...]]:
    return {each.index: tuple(map(int, read_rgb(each.png)[0, 0])) for each in painted}


def test_every_picture_has_its_own_row_and_batches_are_always_full() -> None:
    pipeline = FakePipeline()
    painted = list(painter(pipeline, 3).paint(range(5), ask))
    assert colours(painted) == {index: (index, 3, index % 3) for index in range(5)}
    assert pipeline.batches == [[0, 1, 2], [3, 4, 3]]
    assert painted[4].conditions == {"precision": "fp32", "batch_size": 3, "batch_place": 1}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(st.integers(0, 30), min_size=1), st.integers(1, 7), st.integers(1, 7))
def test_which_pictures_are_painted_with_it_changes_none(wanted: set[int], batch_size: int, room: int) -> None:
    size = batch_size
    while size > room:
        size //= 2
    pipeline = FakePipeline(room)
    painted = colours(list(painter(pipeline, batch_size).paint(wanted, ask)))
    assert painted == {index: (index, size, index % size) for index in wanted}


def test_numbers_that_follow_each_other_fill_their_batches_from_wherever_they_begin() -> None:
    pipeline = FakePipeline()
    list(painter(pipeline, 4).paint(range(3, 11), ask))
    assert [sorted(batch) for batch in pipeline.batches] == [[3, 4, 5, 6], [7, 8, 9, 10]]


def test_no_batch_is_larger_than_there_are_pictures() -> None:
    pipeline = FakePipeline()
    list(painter(pipeline, 8, most=3).paint([1], ask))
    assert pipeline.batches == [[1, 1, 1]]


def test_out_of_memory_halves_the_batch_says_so_and_loses_nothing(
    caplog: pytest.LogCaptureFixture, freed: list[torch.device]
) -> None:
    pipeline = FakePipeline(room=2)
    painted = list(painter(pipeline, 8).paint(range(5), ask))
    assert colours(painted) == {index: (index, 2, index % 2) for index in range(5)}
    assert {each.conditions["batch_size"] for each in painted} == {2}
    assert freed == [torch.device("cpu")] * 2
    assert caplog.messages == [
        "Out of memory with 8 pictures at once; going on with 4 at once.",
        "Out of memory with 4 pictures at once; going on with 2 at once.",
    ]


def test_out_of_memory_with_one_picture_takes_slices_then_parts_then_tells_the_next_step(
    caplog: pytest.LogCaptureFixture,
) -> None:
    (painted,) = painter(FakePipeline(needs="slice"), 2).paint([0], ask)
    assert painted.conditions["memory"] == "slice"
    assert "in slices" in caplog.messages[-1]
    (painted,) = painter(FakePipeline(needs="offload"), 1, device="cuda").paint([0], ask)
    assert painted.conditions["memory"] == "offload"
    assert "main memory" in caplog.messages[-1]
    with pytest.raises(GenerationError, match="one picture of 8 px") as caught:
        list(painter(FakePipeline(needs="more"), 1, device="cuda").paint([0], ask))
    assert "--size" in caught.value.hint


def test_memory_that_the_recipe_fixes_stays_as_it_is() -> None:
    pipeline = FakePipeline(needs="slice")
    with pytest.raises(GenerationError) as caught:
        list(painter(pipeline, 1, adapt=False, device="cuda").paint([0], ask))
    assert "--memory offload" in caught.value.hint
    assert not pipeline.slices


def test_other_errors_of_the_pipeline_are_not_taken_for_lack_of_memory() -> None:
    class Broken:
        def __call__(self, **arguments: Any) -> None:
            raise RuntimeError("a shape is wrong")

    with pytest.raises(RuntimeError, match="shape"):
        list(painter(Broken()).paint([0], ask))


@pytest.mark.parametrize(
    ("error", "ran_out"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 18.13 GB)"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (MemoryError(), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_lack_of_memory_is_known_on_every_device(error: Exception, ran_out: bool) -> None:
    assert is_out_of_memory(error) is ran_out


def test_blanks_are_painted_again_from_other_seeds_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    pipeline = FakePipeline(unsafe=frozenset({1, 101, 2}))
    work = painter(pipeline, 2)
    painted = {each.index: each for each in work.paint(range(4), ask)}
    assert {index: each.attempt for index, each in painted.items()} == {0: 0, 1: 2, 2: 1, 3: 0}
    assert colours(list(painted.values())) == {0: (0, 2, 0), 1: (201, 2, 1), 2: (102, 2, 0), 3: (3, 2, 1)}
    assert painted[1].conditions["attempt"] == 2
    assert "attempt" not in painted[0].conditions
    assert work.blanks == 3
    list(work.paint([0], ask))
    assert caplog.messages == ["The safety checker blanked 3 pictures; they were painted again from other seeds."]


def test_what_stays_blank_is_left_out_after_the_last_attempt(caplog: pytest.LogCaptureFixture) -> None:
    pipeline = FakePipeline(unsafe=frozenset(1 + 100 * attempt for attempt in range(ATTEMPTS)))
    work = painter(pipeline, 1)
    assert [each.index for each in work.paint([0, 1, 2], ask)] == [0, 2]
    assert work.given_up == [1]
    assert f"1 left out after {ATTEMPTS} tries" in caplog.messages[0]


def test_painting_again_takes_the_same_row_of_a_batch_of_copies() -> None:
    pipeline = FakePipeline()
    png = painter(pipeline, 1).paint_again(ask(7), {"batch_size": 3, "batch_place": 1})
    assert tuple(map(int, read_rgb(png)[0, 0])) == (7, 3, 1)
    assert pipeline.batches == [[7, 7, 7]]
    with pytest.raises(GenerationError, match="batch of 3"):
        painter(FakePipeline(room=2), 1).paint_again(ask(7), {"batch_size": 3, "batch_place": 1})
    with pytest.raises(GenerationError, match="blanked"):
        painter(FakePipeline(unsafe=frozenset({7})), 1).paint_again(ask(7), {})


def test_batch_size_follows_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = painter(FakePipeline(), 1, device="cuda").loaded
    free = 0

    def info(device: torch.device) -> tuple[int, int]:
        return free, 80 << 30

    monkeypatch.setattr(torch.cuda, "mem_get_info", info)
    found = {}
    for free in (1 << 28, 4 << 30, 12 << 30, 70 << 30):
        found[free >> 28] = affordable(loaded, 512)
    assert found == {1: 1, 16: 2, 48: 4, 280: 16}
    free = 12 << 30
    loaded.precision = "fp16"
    assert affordable(loaded, 512) == 8
    assert affordable(loaded, 1024) == 2
    assert affordable(painter(FakePipeline(), 1).loaded, 64) == 1


@pytest.fixture(autouse=True)
def freed(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """Hear the log, and only note where memory is given back: collecting takes a second among a whole suite's objects."""
    caplog.set_level(logging.WARNING, "stylekit")
    devices: list[torch.device] = []
    monkeypatch.setattr("stylekit.generate.painter.free_memory", devices.append)
    return devices
