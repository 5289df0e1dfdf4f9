"""Several processes at one style: who makes what, and what is left when one of them, or all, are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stylekit.cli import run
from stylekit.config.schema import GenerateRecipe, Recipe
from stylekit.data.manifest import Generation, Origin, read_origins
from stylekit.errors import GenerationError, Interrupted
from stylekit.generate import workers
from stylekit.generate.api import GenReport, gen_data
from stylekit.paths import Workspace
from tests.generate.models import write_model

ROOT = Path(__file__).parents[2]


@given(st.sets(st.integers(0, 200)), st.integers(1, 9), st.none() | st.integers(1, 8))
def test_shares_are_disjoint_whole_and_of_whole_batches(indices: set[int], number: int, batch_size: int | None):
    shares = workers.shares(sorted(indices), number, batch_size)
    assert sorted(index for share in shares for index in share) == sorted(indices)
    assert len(shares) <= number
    assert all(shares)
    if batch_size:
        homes = {index // batch_size: place for place, share in enumerate(shares) for index in share}
        assert all(homes[index // batch_size] == place for place, share in enumerate(shares) for index in share)
        batches = [len({index // batch_size for index in share}) for share in shares]
        assert max(batches, default=0) - min(batches, default=0) <= 1
    elif len(indices) >= number:
        assert len(shares) >= min(2, number)


def test_where_memory_decides_the_shares_fill_the_rows_of_batches_of_any_power_of_two():
    assert workers.shares(range(40), 4, None) == [list(range(16)), list(range(16, 32)), list(range(32, 40))]
    assert workers.shares(range(12), 4, None) == [list(range(4)), list(range(4, 8)), list(range(8, 12))]
    assert workers.shares(range(100), 2, None)[0][:17] == [*range(16), 32]
    assert [workers.at_once(GenerateRecipe(batch_size=size, engine="dicebear")) for size in (None, 3)] == [1, 3]


def test_each_worker_sees_one_of_the_devices_this_process_may_use(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    seen = [workers._one_device(number)["CUDA_VISIBLE_DEVICES"] for number in range(3)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-7,5")
    seen += [workers._one_device(number)["CUDA_VISIBLE_DEVICES"] for number in range(2)]
    assert seen == ["0", "1", "0", "3", "GPU-7"]
    assert workers.devices(GenerateRecipe()) == 2
    assert workers.devices(GenerateRecipe(engine="dicebear")) == 1


def test_nothing_is_permitted_before_the_first_picture_is_known_to_be_of_the_right_model():
    def pictures() -> Iterator[tuple[Origin, bytes]]:
        for name in "ab":
            yield Origin(file=name, sha256="0", generation=Generation(engine="e", model="m", seed=0, revision="1")), b""

    said: list[str] = []
    kept = Generation(engine="e", model="m", seed=0, revision="0")
    with pytest.raises(GenerationError, match="revision 0, and now it would be 1") as caught:
        list(workers.begin(pictures(), kept, lambda: said.append("go")))
    assert "--set generate.revision=0" in caught.value.hint
    assert said == []
    assert len(list(workers.begin(pictures(), None, lambda: said.append("go")))) == 2
    assert said == ["go"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "sd")


def painted(model: Path, **changes: object) -> Recipe:
    generate = {"model": str(model), "prompt": "ink, {person}", "count": 12, "steps": 2, "size": 64, "batch_size": 2, **changes}
    return Recipe(style="s", generate=GenerateRecipe.model_validate(generate))


def drawn(count: int, **changes: object) -> Recipe:
    generate = {"engine": "dicebear", "model": "toon-head", "count": count, "size": 64, **changes}
    return Recipe(style="s", generate=GenerateRecipe.model_validate(generate))


def make(recipe: Recipe, folder: Path, processes: int | None = 1, **settings: bool) -> GenReport:
    return gen_data(recipe=recipe, workspace=Workspace(folder), processes=processes, align=False, **settings)


def pictures_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "datasets/s/raw").glob("*.png")}


def journal_of(folder: Path) -> dict[str, Origin]:
    origins = read_origins(folder / "datasets/s/raw/origin.jsonl")
    assert len({origin.file for origin in origins}) == len(origins), "something was made twice"
    return {origin.file: origin for origin in origins}


def is_whole(folder: Path) -> bool:
    raw = folder / "datasets/s/raw"
    return {path.name for path in raw.iterdir()} == {"origin.jsonl", *journal_of(folder)}


@pytest.mark.slow
@pytest.mark.usefixtures("asset_home")
def test_two_processes_make_what_one_makes_and_begin_anew(tmp_path: Path):
    one, two = make(drawn(4), tmp_path / "one"), make(drawn(4), tmp_path / "two", 2)
    assert (two.made, two.kept, two.skipped) == (one.made, one.kept, one.skipped) == (4, 0, {})
    assert pictures_in(tmp_path / "one") == pictures_in(tmp_path / "two")
    assert journal_of(tmp_path / "one") == journal_of(tmp_path / "two")
    fresh = make(drawn(3).model_copy(update={"seed": 9}), tmp_path / "two", 2, resume=False)
    assert (fresh.made, fresh.kept) == (3, 0)
    assert not set(pictures_in(tmp_path / "one").values()) & set(pictures_in(tmp_path / "two").values())
    assert is_whole(tmp_path / "two")


class Command:
    """`gen_data` in a process of its own, which can be killed."""

    def __init__(self, recipe: Recipe, folder: Path, processes: int) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        code = (
            "import sys; from pathlib import Path; from tests.generate.test_workers import Recipe, make\n"
            "make(Recipe.model_validate_json(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))"
        )
        arguments = [sys.executable, "-c", code, recipe.model_dump_json(), str(folder), str(processes)]
        self.process = subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE, text=True)

    def wait_for_pictures(self, number: int) -> None:
        end = time.monotonic() + 120
        while len(list((self.folder / "datasets/s/raw").glob("*.png"))) < number:
            assert time.monotonic() < end
            assert self.process.poll() is None, self.process.communicate()[1]
            time.sleep(0.005)

    def workers(self) -> list[int]:
        return [int(pid) for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()]


def has_ended(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


reads_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads processes in /proc")


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.005)


def kill_and_go_on(recipe: Recipe, folder: Path, processes: int, then: int) -> None:
    """Check that a run killed in the middle, and gone on with in `then` processes, makes what an uninterrupted one does."""
    whole, killed = folder / "whole", folder / "killed"
    command = Command(recipe, killed, processes)
    command.wait_for_pictures(3)
    children = command.workers()
    command.process.send_signal(signal.SIGKILL)
    command.process.communicate()
    wait_until(lambda: all(map(has_ended, children)), "a child outlived its parent")
    survived = pictures_in(killed)
    make(recipe, whole)
    assert 3 <= len(survived) < recipe.generate.count
    assert survived.items() <= pictures_in(whole).items()
    report = make(recipe, killed, then)
    assert report.made + report.kept == recipe.generate.count
    assert report.kept >= len(survived) - processes  # at most the one that each was about to note is made again
    assert pictures_in(killed) == pictures_in(whole)
    assert journal_of(killed) == journal_of(whole)
    assert is_whole(killed)


@reads_proc
@pytest.mark.slow
def test_two_processes_that_paint_are_killed_in_the_middle_and_go_on_to_what_one_paints(model: Path, tmp_path: Path):
    kill_and_go_on(painted(model), tmp_path, 2, then=1)


@reads_proc
@pytest.mark.slow
@pytest.mark.parametrize(("processes", "then"), [(1, 2), (2, 2)])
def test_processes_that_draw_are_killed_in_the_middle_and_go_on(tmp_path: Path, processes: int, then: int):
    kill_and_go_on(drawn(120), tmp_path, processes, then)


@reads_proc
@pytest.mark.slow
def test_a_worker_that_dies_is_reported_and_takes_no_other_along(tmp_path: Path):
    command = Command(drawn(120), tmp_path, 2)
    command.wait_for_pictures(1)
    os.kill(max(command.workers()), signal.SIGKILL)
    error = command.process.communicate()[1]
    assert command.process.returncode == 1
    assert "Process 1 of 2 failed: It was ended by the signal SIGKILL." in error
    survived = len(journal_of(tmp_path))
    assert 60 <= survived < 120  # the whole share of the other
    assert make(drawn(120), tmp_path, 2).made == 120 - survived
    assert is_whole(tmp_path)


class StopsAfterTwo:
    """A progress bar before which the user presses Ctrl-C."""

    def __init__(self) -> None:
        self.done = 0

    def __call__(self, description: str, total: int | None = None) -> StopsAfterTwo:
        return self

    def __enter__(self) -> StopsAfterTwo:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def advance(self, n: int = 1, **fields: str | float) -> None:
        self.done += n
        if self.done == 2:
            raise KeyboardInterrupt


@reads_proc
def test_stopping_ends_the_workers_and_keeps_what_they_made(tmp_path: Path):
    with pytest.raises(Interrupted, match="2 new pictures"):
        gen_data(recipe=drawn(120), workspace=Workspace(tmp_path), processes=2, align=False, progress=StopsAfterTwo())
    assert 2 <= len(journal_of(tmp_path)) < 120
    assert is_whole(tmp_path)


def test_a_worker_whose_parent_is_gone_ends_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("queue.py").write_text("raise RuntimeError('a file of the current folder is not the module of its name')")
    worker = workers._start(workers.Job(drawn(1).generate, 0, tmp_path / "raw", 0, [0], None))
    assert worker.stdin is not None
    assert worker.stdout is not None
    assert json.loads(worker.stdout.readline()) == {"ready": True}
    worker.stdin.close()
    assert worker.wait(10) == 1
    worker.stdout.close()
    assert [path.name for path in tmp_path.iterdir()] == ["queue.py"]


def test_a_worker_says_what_is_wrong_in_the_engines_own_words(tmp_path: Path):
    with pytest.raises(GenerationError, match=r"Process 0 of 2 failed: .*no option 'eye'.*So did 1 more") as caught:
        make(drawn(2, options={"eye": "big"}), tmp_path, 2)
    assert caught.value.hint.startswith("Did you mean eyes?")
    assert not (tmp_path / "datasets/s/raw").exists()


@pytest.mark.slow
def test_pictures_are_made_again_from_their_manifest(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    make(painted(model, count=3), tmp_path)
    gen_data(recipe=drawn(2, size=256).model_copy(update={"style": "toons"}), workspace=Workspace(tmp_path))
    (tmp_path / "mine.png").write_bytes(b"mine")
    changed = tmp_path / "datasets/s/raw/origin.jsonl"
    lines = changed.read_text().splitlines()
    lines[1] = lines[1].replace('"seed": ', '"seed": 1')
    changed.write_text("\n".join(lines) + "\n")
    files = [f"datasets/s/raw/00000{index}.png" for index in range(3)]
    files += ["datasets/toons/cartoon/000001.png", "mine.png", "datasets/s/raw/000009.png"]
    assert run(["data", "remake", *files, "-o", "again", "--json"]) == 3
    told = json.loads(capsys.readouterr().out)["pictures"]
    assert [each["identical"] for each in told] == [True, False, True, True, None, None]
    assert [each["made"] for each in told[:4]] == [
        "again/000000.png",
        "again/000001.png",
        "again/000002.png",
        "again/000001-2.png",
    ]
    assert "It lies in no data set" in told[4]["problem"]
    assert "has no record of it" in told[5]["problem"]
    assert Path("again/000000.png").read_bytes() == pictures_in(tmp_path)["000000.png"]
