"""A measurement in a process of its own: its result, its failures, and its limits."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import psutil
import pytest

from stylekit.speed.apart import Outcome, measure_apart

ROOT = str(Path(__file__).parents[2])


def carry(name: str, **limits: float) -> Outcome:
    job = {"number": 21, "bytes": 300_000_000}
    return measure_apart(f"tests.speed.tasks:{name}", job, environment={"PYTHONPATH": ROOT}, **limits)


def test_the_result_comes_back_from_another_process_whatever_is_printed() -> None:
    outcome = carry("double")
    assert outcome.state == "measured"
    assert outcome.result["twice"] == 42
    assert outcome.result["process"] != os.getpid()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_the_process_is_prepared_as_a_command_is() -> None:
    assert carry("stores").result == {"stores": 1}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("refuse", Outcome("failed", reason="There is no data.", hint="Make some.")),
        ("stumble", Outcome("failed", reason="RuntimeError: shapes do not fit")),
        ("die", Outcome("failed", reason="The process ended with code 3: a last word")),
    ],
)
def test_a_failure_is_told_with_its_reason(name: str, expected: Outcome) -> None:
    assert carry(name) == expected


def test_memory_that_the_system_refuses_is_memory() -> None:
    assert carry("fill").state == "over memory"


@pytest.mark.parametrize(
    ("limits", "state", "reason"),
    [
        ({"memory_gb": 0.2}, "over memory", "It needs more than 0.2 GB."),
        ({"limit_s": 1.0}, "over time", "It takes more than 1 s."),
    ],
)
def test_what_exceeds_a_limit_is_ended(limits: dict[str, float], state: str, reason: str) -> None:
    began, before = time.monotonic(), {process.pid for process in psutil.Process().children(recursive=True)}
    outcome = carry("hold", **limits)
    assert (outcome.state, outcome.reason) == (state, reason)
    assert time.monotonic() - began < 15
    assert {process.pid for process in psutil.Process().children(recursive=True)} <= before
