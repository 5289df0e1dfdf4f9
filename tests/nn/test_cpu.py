from __future__ import annotations

import os
import platform
import subprocess
import sys

import numpy as np
import pytest
import torch

from stylekit.nn.cpu import can_compile, compiled, in_parallel


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [0, 1, 2, 5, 16])
def test_parts_cover_the_range_once(threads, count, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    seen = np.zeros(count, int)

    def work(begin: int, end: int) -> None:
        seen[begin:end] += 1

    in_parallel(work, count)
    assert seen.tolist() == [1] * count


def test_an_error_in_a_part_is_raised(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)

    def work(begin: int, end: int) -> None:
        if begin:
            raise ValueError("the second part")

    with pytest.raises(ValueError, match="second part"):
        in_parallel(work, 4)


def test_a_part_works_on_parts_of_its_own(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    seen = np.zeros((4, 6), int)

    def outer(begin: int, end: int) -> None:
        for row in range(begin, end):

            def inner(first: int, last: int, row: int = row) -> None:
                seen[row, first:last] += 1

            in_parallel(inner, 6)

    in_parallel(outer, 4)
    assert (seen == 1).all()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_threads_are_there_after_a_fork_and_numba_only_when_it_is_needed():
    code = """
import os, sys, torch
import stylekit.nn.winograd, stylekit.nn.box
assert "numba" not in sys.modules
from stylekit.nn.cpu import in_parallel
torch.set_num_threads(2)
in_parallel(lambda a, b: None, 4)
if (child := os.fork()) == 0:
    done = []
    in_parallel(lambda a, b: done.append((a, b)), 4)
    os._exit(0 if len(done) == 2 else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives freed memory back at once")
def test_freed_memory_is_kept():
    code = """
import resource, torch
from stylekit.nn.cpu import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.zeros(16 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
given_back = faults()
keep_freed_memory()
print(given_back, min(faults() for _ in range(4)))
"""
    done = subprocess.run([sys.executable, "-c", code], timeout=60, check=True, capture_output=True, text=True)
    given_back, kept = map(int, done.stdout.split())
    assert kept < given_back / 20


@pytest.mark.skipif(not can_compile(), reason="numba is not installed")
def test_a_kernel_is_machine_code():
    found = np.zeros(3)
    _double(np.arange(3.0), found)
    assert found.tolist() == [0, 2, 4]


@compiled()
def _double(source, target):
    for i in range(len(source)):
        target[i] = source[i] * 2
