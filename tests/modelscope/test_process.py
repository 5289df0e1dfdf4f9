"""The child process: what it reports, how it fails, and that it never outlives its parent's interest."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from stylekit.errors import CheckpointError, Interrupted, MissingPartError, StylekitError, UsageError
from stylekit.modelscope.runtime import process
from stylekit.modelscope.runtime.child import Job, Link
from stylekit.modelscope.runtime.process import Child, require_packages, visible_devices

HERE = "tests.modelscope.test_process"
ROOT = Path(__file__).parents[2]


def child(task: str, error: type[StylekitError] = StylekitError, log: Path | None = None, **job: Any) -> Child:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return Child(f"{HERE}:{task}", job, "The task", error=error, log=log, environment={"PYTHONPATH": path, **job.pop("set", {})})


def count(job: Job, link: Link) -> Job:
    print("a word of upstream's")
    os.system("echo and one of a program it calls")
    for step in range(job["steps"]):
        link.tell("step", step=step)
    return {"sum": sum(range(job["steps"])), "variable": os.environ.get("STYLEKIT_TEST")}


def test_events_come_in_order_and_the_result_last(tmp_path: Path) -> None:
    log = tmp_path / "upstream.log"
    with child("count", log=log, steps=3, set={"STYLEKIT_TEST": "x"}) as task:
        assert [event["step"] for event in task.events()] == [0, 1, 2]
    with child("count", steps=4) as task:
        assert task.result() == {"sum": 6, "variable": None}
    assert log.read_text() == "a word of upstream's\nand one of a program it calls\n"


def raise_ours(job: Job, link: Link) -> None:
    raise Interrupted("Stopped at step 3.", "Go on with --resume.")


def test_our_errors_cross_over_whole() -> None:
    with child("raise_ours") as task, pytest.raises(Interrupted) as caught:
        task.result()
    assert (caught.value.message, caught.value.hint, caught.value.exit_code) == (
        "Stopped at step 3.",
        "Go on with --resume.",
        130,
    )


def import_missing(job: Job, link: Link) -> None:
    __import__("no_such_package.part")


def test_a_missing_package_is_named_with_its_install_command() -> None:
    with child("import_missing") as task, pytest.raises(MissingPartError) as caught:
        task.result()
    assert caught.value.message == "The task needs the package no_such_package, which is not installed."
    assert caught.value.hint == "Run: pip install 'stylekit[modelscope]'"


def fail(job: Job, link: Link) -> None:
    print("loading model from here")
    raise ValueError("shapes (3,) and (4,) differ.\nA second line.")


def test_upstreams_failure_is_our_error_with_where_to_look(tmp_path: Path) -> None:
    with child("fail", CheckpointError, steps=1) as task, pytest.raises(CheckpointError) as caught:
        task.result()
    assert caught.value.message == "The task failed: ValueError: shapes (3,) and (4,) differ."
    log = tmp_path / "upstream.log"
    with child("fail", log=log) as task, pytest.raises(StylekitError, match=r"upstream\.log"):
        task.result()
    assert "in fail" in log.read_text()


def die(job: Job, link: Link) -> None:
    print("the last words", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_child_that_is_killed_is_an_error_with_its_last_words() -> None:
    with child("die") as task, pytest.raises(StylekitError) as caught:
        task.result()
    assert str(caught.value) == "The task was ended by signal SIGKILL. The last it printed: the last words"


def wait(job: Job, link: Link) -> Job:
    link.tell("waiting", process=os.getpid())
    return {"stopped": link.stopping.wait(30)}


def test_a_task_can_be_asked_to_stop() -> None:
    with child("wait") as task:
        events = task.events()
        next(events)
        task.stop()
        assert task.result() == {"stopped": True}


def is_alive(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True


def is_gone_soon(number: int) -> bool:
    end = time.monotonic() + 10
    while is_alive(number) and time.monotonic() < end:
        time.sleep(0.05)
    return not is_alive(number)


def start_another(job: Job, link: Link) -> None:
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    link.tell("started", process=other.pid)
    link.stopping.wait()


def test_leaving_ends_the_child_and_what_it_started() -> None:
    with child("start_another") as task:
        number = next(task.events())["process"]
        assert is_alive(number)
    assert is_gone_soon(number)


def test_a_child_learns_that_its_parent_is_gone() -> None:
    program = (
        "import os, signal; from tests.modelscope.test_process import child\n"
        "with child('wait') as task:\n"
        "    print(next(task.events())['process'], flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    assert is_gone_soon(int(done.stdout))


def test_a_parent_keeps_its_own_imports() -> None:
    before = list(sys.meta_path)
    with child("count", steps=0) as task:
        task.result()
    assert sys.meta_path == before


def test_packages_are_asked_for_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "find_spec", lambda name: None if name == "tf_slim" else object())
    assert process.missing_packages() == ["tf_slim"]
    with pytest.raises(MissingPartError, match=r"Upstream needs the package tf_slim.*stylekit\[modelscope\]"):
        require_packages("Upstream")
    monkeypatch.setattr(process, "find_spec", lambda name: object())
    require_packages("Upstream")


@pytest.mark.parametrize(
    ("device", "seen"),
    [
        ("auto", {}),
        ("cpu", {"CUDA_VISIBLE_DEVICES": ""}),
        ("cuda", {"CUDA_VISIBLE_DEVICES": "0"}),
        ("cuda:2", {"CUDA_VISIBLE_DEVICES": "2"}),
    ],
)
def test_a_device_is_what_tensorflow_is_shown(device: str, seen: dict[str, str]) -> None:
    assert visible_devices(device) == seen


def test_a_device_that_tensorflow_cannot_use_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot use the device mps"):
        visible_devices("mps")
