"""The child process: what it reports, how it fails, and that it never outlives its parent's interest."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stylekit.errors import CheckpointError, Interrupted, MissingPartError, StylekitError, UsageError
from stylekit.modelscope.runtime import device, process
from stylekit.modelscope.runtime.child import Job, Link
from stylekit.modelscope.runtime.device import found_device, has_nvidia_gpu
from stylekit.modelscope.runtime.process import Child, require_packages, visible_devices

HERE = "tests.modelscope.test_process"
ROOT = Path(__file__).parents[2]


def child(task: str, error: type[StylekitError] = StylekitError, log: Path | None = None, **job: Any) -> Child:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
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
    monkeypatch.setattr(process, "find_spec", lambda name: None if name == "tf_slim" else pytest.__spec__)
    assert process.missing_packages() == ["tf_slim"]
    with pytest.raises(MissingPartError, match=r"Upstream needs the package tf_slim.*stylekit\[modelscope\]"):
        require_packages("Upstream")
    monkeypatch.setattr(process, "find_spec", lambda name: pytest.__spec__)
    require_packages("Upstream")


def test_a_folder_of_a_packages_name_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "unheard_of").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(process, "PACKAGES", ("unheard_of", "pytest"))
    assert process.missing_packages() == ["unheard_of"]


def import_two(job: Job, link: Link) -> Job:
    import colorsys
    import random

    again = subprocess.check_output([sys.executable, "-c", "import random; print(random.__file__)"], text=True)
    return {"files": [random.__file__, colorsys.__file__, again.strip()]}


def test_the_current_folders_files_are_not_taken_for_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("random", "colorsys", "stylekit"):
        (tmp_path / f"{name}.py").write_text("open('executed', 'w')", "utf-8")
    monkeypatch.chdir(tmp_path)
    with child("import_two") as task:
        assert [Path(file).parent for file in task.result()["files"]] == [Path(os.__file__).parent] * 3
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(("required", "code"), [(False, 0), (True, 1)])
def test_the_tests_of_upstream_are_left_out_only_where_they_may(
    tmp_path: Path, required: bool, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lacking.py").write_text("from stylekit.modelscope.runtime import process\nprocess.PACKAGES = ('unheard_of',)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.delenv("STYLEKIT_REQUIRE_MODELSCOPE", raising=False)
    if required:
        monkeypatch.setenv("STYLEKIT_REQUIRE_MODELSCOPE", "1")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "lacking", "-p", "no:cacheprovider", "-m", "modelscope"]
    done = subprocess.run([*command, "tests/assets/test_doctor.py"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout
    assert "not installed: unheard_of" in done.stdout


@pytest.mark.parametrize(
    ("asked", "shown", "seen"),
    [
        ("auto", None, {}),
        ("auto", "2,3", {}),
        ("cpu", "2,3", {"CUDA_VISIBLE_DEVICES": ""}),
        ("cuda", None, {}),
        ("cuda", "2,3", {}),
        ("cuda:2", None, {"CUDA_VISIBLE_DEVICES": "2"}),
        ("cuda:1", "2,3", {"CUDA_VISIBLE_DEVICES": "3"}),
        ("cuda:0", "GPU-5a", {"CUDA_VISIBLE_DEVICES": "GPU-5a"}),
    ],
)
def test_a_device_is_what_tensorflow_is_shown(
    asked: str, shown: str | None, seen: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    show(shown, monkeypatch)
    assert visible_devices(asked) == seen


def show(gpus: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus or "")
    if gpus is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")


@pytest.mark.parametrize(
    ("asked", "shown", "error"),
    [
        ("mps", None, "cannot use the device mps"),
        ("cuda:one", None, "cannot use the device cuda:one"),
        ("cuda:2", "2,3", "CUDA_VISIBLE_DEVICES is '2,3' and shows no cuda:2"),
        ("cuda:0", "-1", "CUDA_VISIBLE_DEVICES is '-1' and shows no cuda:0"),
    ],
)
def test_a_device_that_tensorflow_cannot_use_is_refused(
    asked: str, shown: str | None, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    show(shown, monkeypatch)
    with pytest.raises(UsageError, match=error):
        visible_devices(asked)


@pytest.mark.skipif(os.name == "nt", reason="shell script")
@pytest.mark.parametrize(
    ("code", "shown", "there"), [(0, None, True), (0, "1", True), (0, "", False), (0, "-1", False), (9, None, False)]
)
def test_a_gpu_is_there_where_its_driver_says_so_and_it_is_not_hidden(
    tmp_path: Path, code: int, shown: str | None, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nexit {code}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    show(shown, monkeypatch)
    assert has_nvidia_gpu() == there


def look_for_gpus(job: Job, link: Link) -> Job:
    """Ask of a TensorFlow that sees these GPUs, where there is one or none."""
    config = SimpleNamespace(
        list_physical_devices=lambda kind: job["seen"],
        experimental=SimpleNamespace(get_device_details=lambda gpu: {"device_name": gpu}),
    )
    device.has_nvidia_gpu = lambda: job["there"]
    return found_device(SimpleNamespace(config=config), job["asked"], link)


@pytest.mark.parametrize(
    ("job", "found", "warned"),
    [
        ({"asked": None, "seen": [], "there": False}, {"device": "cpu"}, False),
        ({"asked": None, "seen": [], "there": True}, {"device": "cpu"}, True),
        ({"asked": "auto", "seen": [], "there": True}, {"device": "cpu"}, True),
        ({"asked": "cpu", "seen": [], "there": True}, {"device": "cpu"}, False),
        ({"asked": "cuda", "seen": ["H1"], "there": True}, {"device": "cuda", "gpu": "H1"}, False),
    ],
)
def test_a_gpu_that_is_passed_over_is_a_warning_in_the_parents_log(
    job: Job, found: dict[str, str], warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with child("look_for_gpus", **job) as task:
        assert list(task.events()) == []
        assert task.result() == found
    assert ("pip install 'tensorflow[and-cuda]'" in caplog.text) == warned


@pytest.mark.parametrize(
    ("there", "hint"), [(False, "Use --device cpu."), (True, "Run: pip install 'tensorflow[and-cuda]', or use --device cpu.")]
)
def test_a_gpu_that_is_asked_for_and_not_seen_is_an_error(there: bool, hint: str) -> None:
    with (
        child("look_for_gpus", asked="cuda", seen=[], there=there) as task,
        pytest.raises(UsageError, match="--device cuda") as e,
    ):
        task.result()
    assert e.value.hint == hint
