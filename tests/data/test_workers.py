"""Work spread over real processes: results, death, hanging, errors, and what is left behind."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stylekit.data.workers import Lost, _free_memory, fitting, spread
from stylekit.errors import ImageError, StylekitError
from stylekit.images import read_rgb

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes through /proc")


def children() -> set[int]:
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == os.getpid():
            found.add(int(stat.parent.name))
    return found


def test_every_task_comes_back_with_its_result_and_no_process_stays():
    before = children()
    assert dict(spread(math.sqrt, iter(range(50)), 2, 60)) == {number: math.sqrt(number) for number in range(50)}
    assert children() <= before


def test_tasks_are_taken_as_they_are_needed():
    taken: list[int] = []
    results = spread(math.sqrt, (taken.append(number) or number for number in range(1000)), 2, 60)
    next(results)
    results.close()
    assert len(taken) <= 6


def test_a_task_that_kills_or_hangs_its_process_costs_only_itself():
    programs = [
        "1 + 1",
        "__import__('os')._exit(3)",
        "2 + 2",
        "__import__('os').abort()",
        "__import__('time').sleep(60)",
        "3 + 3",
    ]
    start = time.monotonic()
    results = dict(spread(eval, iter(programs), 2, 1.5))
    assert time.monotonic() - start < 30
    assert [results[program] for program in programs] == [
        2,
        Lost("ended its process (exit code 3)"),
        4,
        Lost("ended its process (signal 6)"),
        Lost("was cut off after 1.5 s"),
        6,
    ]


def test_an_error_of_ours_ends_the_work_and_keeps_its_kind():
    before = children()
    with pytest.raises(ImageError, match=r"nowhere\.png cannot be read") as caught:
        list(spread(read_rgb, iter([Path("nowhere.png")] * 9), 2, 60))
    assert caught.value.hint == "Check the path and its permissions."
    assert children() <= before


def test_an_error_is_told_although_the_next_task_comes_long_after():
    before = children()

    def tasks() -> Iterator[Path]:
        yield Path("nowhere.png")
        while not children() - before:
            time.sleep(0.01)
        while children() - before:
            time.sleep(0.01)
        yield Path("nowhere.png")
        pytest.fail("went on")

    with pytest.raises(ImageError, match=r"nowhere\.png"):
        list(spread(read_rgb, tasks(), 2, 60))


def test_modules_of_the_current_folder_are_not_taken_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "queue.py").write_text("raise RuntimeError('not that one')")
    monkeypatch.chdir(tmp_path)
    assert dict(spread(math.sqrt, iter([4]), 1, 60)) == {4: 2.0}


def test_as_many_processes_as_memory_has_room_for(tmp_path: Path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text("MemTotal:  9000000 kB\nMemAvailable:   4000000 kB\n")
    assert _free_memory(tmp_path) == 4_096_000_000
    group = tmp_path / "sys" / "fs" / "cgroup"
    group.mkdir(parents=True)
    (group / "memory.current").write_text("900000000\n")
    (group / "memory.stat").write_text("anon 5\ninactive_file 400000000\nfile 7\n")
    for limit, free in (("max", 4_096_000_000), ("2000000000", 1_500_000_000)):
        (group / "memory.max").write_text(f"{limit}\n")
        assert _free_memory(tmp_path) == free
    assert _free_memory(tmp_path / "nowhere") is None


@pytest.mark.parametrize(("free", "processes"), [(None, 8), (10**12, 8), (2_000_000_000, 4), (100, 1), (-5, 1)])
def test_one_process_is_always_fitting(free: int | None, processes: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("stylekit.data.workers._free_memory", lambda: free)
    assert fitting(8, 500_000_000) == processes


def test_work_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("stylekit.data.workers.__name__", "stylekit.data.nowhere")
    with pytest.raises(StylekitError, match=r"could not start: ModuleNotFoundError: No module named 'stylekit.data.nowhere'"):
        list(spread(math.sqrt, iter([1]), 2, 60))


def test_what_children_print_is_no_answer_and_what_they_log_is_heard(caplog: pytest.LogCaptureFixture):
    program = "print('noise') or __import__('logging').getLogger('stylekit.there').warning('look')"
    with caplog.at_level(logging.WARNING, "stylekit"):
        assert dict(spread(eval, iter([program]), 2, 60)) == {program: None}
    assert caplog.messages == ["look"]
