"""`stylekit bench`: tables, JSON and exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stylekit.cli import run
from stylekit.speed import training
from stylekit.speed.apart import Outcome

SPEED = {
    "steps": 3,
    "step_s": 0.5,
    "parts": {"generator": 0.1, "backward": 0.4},
    "batches_per_s": 40.0,
    "peak_memory_gb": 1.25,
    "content": "vgg19-caffe",
    "is_random": True,
    "superpixels": "numba",
}


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Let batches of 4 be too large and of 8 fail; return what was asked for."""
    jobs: list[dict[str, Any]] = []

    def measured(task: str, job: dict[str, Any], **limits: object) -> Outcome:
        jobs.append(job)
        batch = job["recipe"]["train"]["batch_size"]
        if batch == 4:
            return Outcome("over memory", reason="It needs more than 2 GB.")
        return Outcome("failed", reason="It broke.", hint="Mend it.") if batch == 8 else Outcome("measured", SPEED)

    monkeypatch.setattr(training, "measure_apart", measured)
    return jobs


def test_training_is_told_in_a_table(asked: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    code = run(["bench", "train", "--device", "cpu", "--batch-size", "2", "--batch-size", "4", "--max-steps", "7200"])
    said = capsys.readouterr().out
    assert code == 0
    assert "defaults, preset default, drawn pictures" in said
    assert "content network vgg19-caffe (its weights drawn, since its file is not here)" in said
    assert "superpixels by numba" in said
    assert "    2   256       0.5         2          4   1.25 GB  1.0 hours" in said
    assert "    4   256  over memory: It needs more than 2 GB." in said
    assert "generator 20%, backward 80%" in said
    assert "40 batches a second" in said


def test_flags_reach_the_recipe(asked: list[dict[str, Any]]) -> None:
    given = ["--preset", "upstream", "--size", "64", "--set", "train.share_fake=true", "--steps", "1", "--memory", "9"]
    assert run(["bench", "train", "--device", "cpu", *given]) == 0
    (job,) = asked
    train = job["recipe"]["train"]
    assert (train["preset"], train["size"], train["share_fake"]) == ("upstream", 64, True)
    assert (job["steps"], job["memory_gb"], job["device"]) == (1, 9.0, "cpu")


def test_json_is_one_object(asked: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "train", "--device", "cpu", "--batch-size", "2", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["machine"]["device"] == "cpu"
    assert said["points"][0]["speed"]["step_s"] == 0.5


@pytest.mark.parametrize(("batches", "code"), [(["8"], 1), (["2", "8"], 3), (["4"], 0)])
def test_exit_codes(batches: list[str], code: int, asked: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    flags = [part for batch in batches for part in ("--batch-size", batch)]
    assert run(["bench", "train", "--device", "cpu", *flags]) == code
    assert ("Error: It broke.\nMend it." in capsys.readouterr().err) == (code == 1)


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        (["train", "--size", "33"], 2),
        (["train", "--device", "tpu"], 2),
        (["train", "--steps", "0"], 2),
        (["stylize", "--style", "no"], 1),
    ],
)
def test_what_cannot_be_measured_is_refused(flags: list[str], code: int, asked: list[dict[str, Any]]) -> None:
    assert run(["bench", *flags]) == code
    assert asked == []


@pytest.mark.slow
def test_it_really_runs(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--size", "32", "--batch-size", "1", "--steps", "1", "--set", "train.loss.lambda_content=0"]
    assert run(["bench", "train", "--device", "cpu", *given, "--json"]) == 0
    (point,) = json.loads(capsys.readouterr().out)["points"]
    assert point["state"] == "measured"
    assert point["speed"]["step_s"] > 0
    assert run(["bench", "stylize", "--steps", "1", "--device", "cpu"]) == 0
    assert "onnxruntime      360x480" in capsys.readouterr().out
