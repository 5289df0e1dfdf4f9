"""The clock, the parts of a step, and peak memory."""

from __future__ import annotations

import mmap
import subprocess
import sys
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stylekit.speed import timing
from stylekit.speed.memory import resident_bytes
from stylekit.speed.timing import Parts, PeakMemory, alternate, seconds

CPU = torch.device("cpu")
Tree = list["tuple[str, Tree]"]
TREES = st.recursive(st.just([]), lambda inner: st.lists(st.tuples(st.sampled_from("abc"), inner), max_size=3), max_leaves=12)


class Clock:
    """Time that passes by one second whenever it is asked for."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def walk(parts: Parts, tree: Tree) -> None:
    for name, inner in tree:
        with parts.part(name):
            walk(parts, inner)


@given(TREES)
def test_parts_count_to_the_outermost_and_nothing_twice(tree: Tree) -> None:
    parts = Parts(CPU)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing.time, "perf_counter", Clock())
        walk(parts, tree)
    outermost = [name for name, _ in tree]
    assert parts.seconds == {name: float(outermost.count(name)) for name in outermost}


def test_a_part_that_fails_is_over() -> None:
    parts = Parts(CPU)
    with pytest.raises(ValueError, match="no"), parts.part("a"):
        raise ValueError("no")
    with parts.part("b"):
        time.sleep(0.01)
    assert parts.seconds["b"] >= 0.01


def test_a_wrapped_function_is_counted_and_returns_what_it_did() -> None:
    parts = Parts(CPU)
    assert parts.wrap("a", lambda x, *, y: (time.sleep(0.01), x + y)[1])(1, y=2) == 3
    assert parts.seconds["a"] >= 0.01


def test_works_take_turns_after_warming_up() -> None:
    calls: list[str] = []
    works = {name: lambda name=name: calls.append(name) for name in "ab"}
    found = alternate(works, 3, CPU, warm=2)
    assert "".join(calls) == "aabb" + "ab" + "ba" + "ab"
    assert {name: len(each) for name, each in found.items()} == {"a": 3, "b": 3}


def test_seconds_are_those_of_the_call() -> None:
    assert 0.02 <= seconds(lambda: time.sleep(0.02), CPU) < 0.5


def test_resident_memory_is_that_of_the_family() -> None:
    program = "import sys; held = b'x' * 100_000_000; print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        child.stdout.readline()
        own = resident_bytes(child.pid)
        family = resident_bytes(timing.os.getpid())
        alone = resident_bytes(timing.os.getpid(), alone=True)
        child.stdin.close()
    assert own > 100_000_000
    assert family - alone > 0.9 * own
    assert resident_bytes(child.pid) == 0


def test_a_peak_is_seen_after_it_is_over() -> None:
    with PeakMemory(CPU, alone=True) as before:
        time.sleep(0.06)
    with PeakMemory(CPU, alone=True) as memory, mmap.mmap(-1, 200_000_000) as held:  # the allocator may hold as much that is free
        for page in range(0, len(held), mmap.PAGESIZE):
            held[page] = 1
        time.sleep(0.15)
    assert 0.15 < memory.gb - before.gb < 0.5


@pytest.mark.gpu
def test_the_peak_on_a_gpu_is_what_torch_reserved() -> None:
    device = torch.device("cuda:0")
    with PeakMemory(device) as before:
        pass
    with PeakMemory(device) as memory:
        for _ in range(2):
            torch.empty(50_000_000, device=device)
            torch.empty(100_000_000, device=device)  # too large for the block that was freed, which is kept
    assert 0.6 <= memory.gb - before.gb < 0.65


def test_a_gpu_is_awake_before_its_peak_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("init", "empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda *_, name=name: calls.append(name))
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: {"cuda:1": 3_000_000_000}[str(device)])
    with PeakMemory(torch.device("cuda:1")) as memory:
        pass
    assert calls == ["init", "empty_cache", "reset_peak_memory_stats"]
    assert memory.gb == 3
