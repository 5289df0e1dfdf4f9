"""One launch of several processes at one style: by Accelerate, and with the meetings alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from stylekit.data.manifest import Generation, Origin
from stylekit.errors import GenerationError, UsageError
from stylekit.generate import api, ranks, workers
from stylekit.generate.ranks import Launch
from stylekit.generate.workers import Job
from stylekit.paths import sha256_bytes
from tests.generate.models import write_model
from tests.generate.test_workers import drawn, has_ended, is_whole, journal_of, make, painted, pictures_in, reads_proc, wait_until

ROOT = Path(__file__).parents[2]


class Room:
    """Where threads meet that stand for the processes of a launch."""

    def __init__(self, number: int) -> None:
        self._barrier = threading.Barrier(number, timeout=10)

    def gather(self, words: list[Any], word: Any, group: int) -> None:
        self._barrier.wait()
        ROOM[group] = word
        self._barrier.wait()
        words[:] = [ROOM[rank] for rank in range(len(words))]


ROOM: dict[int, Any] = {}


def go(monkeypatch: pytest.MonkeyPatch, number: int, action: Callable[[Launch], Any]) -> list[Any]:
    """Return what each process of a launch returns or raises, of which the first carries out `action`."""
    monkeypatch.setattr("torch.distributed.all_gather_object", Room(number).gather)
    launches = [Launch(rank, number, rank) for rank in range(number)]

    def one(launch: Launch) -> Any:
        try:
            return launch.lead(lambda: action(launch)) if launch.is_main else launch.follow()
        except Exception as error:
            return error

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(one, launches))


class Engine:
    """Paints numbers, but not the number 3, and fails at `fails`."""

    fails: int | None = None

    def __init__(self, *_: object) -> None:
        self.files = [f"{index}.png" for index in range(9)]
        self.left_out: dict[str, str] = {}
        self.note = ""

    def check(self) -> None:
        pass

    def pictures(self, wanted: dict[int, str]) -> Iterator[tuple[Origin, bytes]]:
        for index, file in wanted.items():
            if index == self.fails:
                raise ValueError(f"no {index}")
            if index == 3:
                self.left_out[file] = "three"
                continue
            generation = Generation(engine="e", model="m", seed=index)
            yield Origin(file=file, sha256=sha256_bytes(b"%d" % index), generation=generation), b"%d" % index


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    monkeypatch.setattr(workers, "create", Engine)
    shares = ([0, 1, 6], [2, 3, 7], [4, 5, 8])
    return [Job(drawn(9).generate, 0, tmp_path, number, share, None) for number, share in enumerate(shares)]


def test_every_process_does_its_share_once_and_returns_what_the_main_one_does(
    jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cleared: list[list[str]] = []

    def action(launch: Launch) -> list[tuple[str, str]]:
        return sorted(launch.paint(jobs, lambda: cleared.append(sorted(path.name for path in tmp_path.iterdir()))))

    results = go(monkeypatch, 4, action)  # one has nothing to do
    assert results == [[(f"{index}.png", "three" if index == 3 else "") for index in range(9)]] * 4
    assert cleared == [[]]
    assert {path.name for path in tmp_path.glob("*.png")} == {f"{index}.png" for index in range(9) if index != 3}


def test_a_process_that_fails_is_named_by_all_and_the_others_finish(
    jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Engine, "fails", 2)
    results = go(monkeypatch, 3, lambda launch: list(launch.paint(jobs, lambda: None)))
    assert {str(error) for error in results} == {
        "Process 1 of 3 failed: ValueError: no 2. Run the same command to go on.",
    }
    assert all(isinstance(error, GenerationError) for error in results)
    assert sorted(path.name for path in tmp_path.glob("*.png")) == [f"{index}.png" for index in (0, 1, 4, 5, 6, 8)]


def test_nothing_is_written_where_the_old_pictures_cannot_be_cleared(
    jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def clear() -> None:
        raise OSError("full")

    results = go(monkeypatch, 3, lambda launch: list(launch.paint(jobs, clear)))
    assert {str(error) for error in results} == {
        "Process 0 of 3 failed: OSError: full. So did 2 more. Run the same command to go on."
    }
    assert not any(tmp_path.iterdir())


def test_what_the_main_process_says_before_it_deals_reaches_all(monkeypatch: pytest.MonkeyPatch):
    def refuse(_: Launch) -> None:
        raise UsageError("No.", "Yes.")

    main, other = go(monkeypatch, 2, refuse)
    assert isinstance(main, UsageError)
    assert (other.message, other.hint) == ("No.", "Yes.")
    assert go(monkeypatch, 2, lambda _: "nothing to do") == ["nothing to do"] * 2


def test_a_launch_decides_how_many_processes_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(api, "launched", lambda: Launch(0, 2, None))
    monkeypatch.setattr(Launch, "_meet", lambda *_: [None, None])
    with pytest.raises(UsageError, match="3 processes are asked for in a launch of 2"):
        make(drawn(2), tmp_path, 3)


def test_a_process_started_alone_is_in_no_launch(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    ranks.launched.cache_clear()
    assert ranks.launched() is None
    ranks.launched.cache_clear()


def launch(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Begin `accelerate launch` of two processes, here of a command that two GPUs would be given."""
    folder.mkdir(exist_ok=True)
    options = "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no --main_process_port 0"
    command = ["-m", "accelerate.commands.launch", *options.split(), "-m", "stylekit", "gen-data", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, *command], cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    )


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Compute as the processes of a launch do, to the last bit."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_launch_paints_what_one_process_paints_and_says_so_once(tmp_path: Path):
    model = write_model(tmp_path / "model")
    started = launch(tmp_path / "launch", *f"s --style s --model {model} -n 5 --steps 2 --size 64 --batch-size 2".split())
    out, error = started.communicate()
    assert started.returncode == 0, error
    assert out.startswith("s: 5 pictures made, 0 kept, 0 left out; ")
    assert out.count("pictures made") == 1
    make(painted(model, count=5, prompt="s, a portrait painting of {person}"), tmp_path / "alone")
    assert pictures_in(tmp_path / "launch") == pictures_in(tmp_path / "alone")
    assert journal_of(tmp_path / "launch") == journal_of(tmp_path / "alone")
    assert is_whole(tmp_path / "launch")


@reads_proc
@pytest.mark.slow
@pytest.mark.usefixtures("asset_home")
def test_a_launch_of_which_one_process_is_killed_is_gone_on_with(tmp_path: Path):
    started = launch(tmp_path, "--style", "s", "--engine", "dicebear", "--model", "toon-head", "-n", "120", "--size", "64")
    raw = tmp_path / "datasets/s/raw"
    wait_until(lambda: started.poll() is not None or len(list(raw.glob("*.png"))) >= 3, "nothing was drawn", 60)
    both = children(started.pid)
    os.kill(both[-1], signal.SIGKILL)
    error = started.communicate()[1]
    assert started.returncode != 0, error
    wait_until(lambda: all(map(has_ended, both)), "a process outlived its launch")
    survived = pictures_in(tmp_path)
    assert 3 <= len(survived) < 120
    report = make(drawn(120), tmp_path)
    assert report.made + report.kept == 120
    assert report.kept >= len(survived) - 2
    assert survived.items() <= pictures_in(tmp_path).items()
    assert is_whole(tmp_path)
