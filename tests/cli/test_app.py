"""What a user sees: sentences, next steps and exit codes."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import stylekit
from stylekit.cli import console, main, run
from stylekit.cli.app import app
from stylekit.config.load import built_in_recipes, load_recipe
from stylekit.config.schema import GenerateRecipe
from stylekit.errors import DataError, Interrupted
from stylekit.images import write_image
from stylekit.paths import Workspace

VERBS = [
    "doctor",
    "init",
    "gen-data",
    "align",
    "train",
    "run",
    "eval",
    "export",
    "stylize",
    "publish",
    "prefer",
    "bench",
    "recipe",
    "assets",
    "modelscope",
    "data",
]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def stylekit_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = "from stylekit.cli import main; main()"
    return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)


def test_help_names_every_verb_and_each_verb_explains_itself() -> None:
    text = CliRunner().invoke(app, ["--help"]).stdout
    assert [verb for verb in VERBS if f" {verb} " not in text] == []
    for verb in VERBS:
        assert CliRunner().invoke(app, [verb, "--help"]).exit_code == 0


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"stylekit {stylekit.__version__}\n"


def test_a_value_that_reads_like_a_command_is_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["stylize", "--engine", "modelscope", "run", "--json"]) == 2
    said = json.loads(capsys.readouterr().out)
    assert said["error"] == "No style is named."


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["trian"], "Error: No such command 'trian'. Did you mean 'train'?\nRun: stylekit --help\n"),
        (["train", "--max-steps", "x"], "Error: Invalid value for '--max-steps'"),
        (["stylize"], "Error: Missing argument 'PICTURE...'.\nRun: stylekit stylize --help\n"),
        (["recipe", "show", "archr-style"], "Error: There is no recipe named archr-style.\nDid you mean archer-style?\n"),
        (["recipe", "show", "gone.yaml"], "Error: There is no recipe file gone.yaml.\nRun: stylekit recipe ls\n"),
        (["run", "gone.yaml"], "Error: There is no recipe file gone.yaml.\nRun: stylekit recipe ls\n"),
        (["train"], "Error: This folder has no current style.\nStart one with: stylekit gen-data, or name one with --style.\n"),
        (["train", "--style", "x", "--batch-size", "0"], "train.batch_size is 0, but must be a whole number of at least 1."),
        (["assets", "fetch", "nonsense"], "Error: There is no asset named 'nonsense'.\n"),
    ],
)
def test_wrong_use_is_one_sentence_and_the_next_step(
    arguments: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    shown = capsys.readouterr()
    assert error in shown.err
    assert shown.err.startswith("Error: ")
    assert shown.out == ""


def test_a_bare_command_shows_help_and_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    shown = capsys.readouterr()
    assert "gen-data" in shown.out + shown.err
    assert "Error" not in shown.out + shown.err


def test_a_mistyped_recipe_in_a_real_process(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("style: toon\ntrain:\n  max_step: 5\n")
    done = stylekit_command("recipe", "validate", "x.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "Error: x.yaml: train.max_step is not a known key.\nDid you mean train.max_steps?\n"


def test_a_missing_file_in_a_real_process() -> None:
    done = stylekit_command("align", "no-such-folder")
    assert done.returncode == 1
    assert (
        done.stderr
        == "Error: There is no folder or file no-such-folder.\nName a folder of pictures, a zip file, or shards (.tar).\n"
    )


def test_debug_adds_the_traceback_and_json_the_error_object() -> None:
    done = stylekit_command("recipe", "show", "gone.yaml", "--debug", "--json")
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert json.loads(done.stdout) == {
        "error": "There is no recipe file gone.yaml.",
        "hint": "Run: stylekit recipe ls",
        "exit_code": 2,
    }


def test_a_closed_pipe_is_not_an_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    program = [sys.executable, "-c", "from stylekit.cli import main; main()", "recipe", "show", "demo"]
    done = subprocess.run(program, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_json_is_one_object_on_stdout_whatever_else_is_printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def noisy() -> list[object]:
        print("chatter")
        logging.getLogger("stylekit.anything").info("Fetching %s", "x")
        return []

    monkeypatch.setattr("stylekit.cli.recipes.list_recipes", noisy)
    assert run(["recipe", "ls", "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"recipes": []}
    assert "chatter" in shown.err
    assert "Fetching x" in shown.err


class OutOfMemoryError(RuntimeError):
    """Stands for torch's, which has this name."""


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (DataError("The folder photos is empty.", "Add pictures."), 1, "Error: The folder photos is empty.\nAdd pictures.\n"),
        (Interrupted("Stopped at step 7.", "Go on: --resume"), 130, "Error: Stopped at step 7.\nGo on: --resume\n"),
        (KeyboardInterrupt(), 130, "Error: Interrupted.\n"),
        (MemoryError(), 1, "Error: There is not enough memory.\nUse a smaller --batch-size, or smaller pictures.\n"),
        (OutOfMemoryError("CUDA out of memory"), 1, "Error: There is not enough memory.\n"),
        (OSError(errno.ENOSPC, "No space left on device", "a/b.png"), 1, "Error: a/b.png: No space left on device.\nFree some"),
        (PermissionError(errno.EACCES, "Permission denied", "out"), 1, "Error: out: Permission denied.\n"),
        (KeyError("x"), 1, "Error: This is a bug in stylekit (KeyError: 'x').\nRun again with --debug"),
    ],
)
def test_every_kind_of_error_has_its_sentence_and_exit_code(
    error: BaseException, code: int, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing() -> None:
        raise error

    monkeypatch.setattr("stylekit.cli.recipes.list_recipes", failing)
    assert run(["recipe", "ls"]) == code
    shown = capsys.readouterr()
    assert shown.err.startswith(message)
    assert "Traceback" not in shown.err


def test_init_starts_a_style_and_makes_it_the_current_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["init", "My Toon", "--set", "train.max_steps=7"]) == 0
    assert capsys.readouterr().out.startswith("recipes/my-toon.yaml\n")
    workspace = Workspace(tmp_path)
    assert workspace.current_style() == "my-toon"
    assert load_recipe("my-toon", workspace=workspace).train.max_steps == 7


def test_a_style_begun_from_the_demo_is_not_published_under_its_licence(tmp_path: Path) -> None:
    assert run(["init", "mine", "--recipe", "demo"]) == 0
    recipe = load_recipe("mine", workspace=Workspace(tmp_path))
    assert (recipe.description, recipe.licence, recipe.authors) == ("", None, ())


def test_a_style_begun_with_another_engine_does_not_keep_the_first_ones_settings(tmp_path: Path) -> None:
    demo = load_recipe("demo")
    assert run(["init", "mine", "--set", "generate.engine=folder", "--set", "generate.model=drawings"]) == 0
    made = load_recipe("mine", workspace=Workspace(tmp_path)).generate
    assert made == GenerateRecipe(engine="folder", model="drawings", count=demo.generate.count)
    assert run(["init", "other", "--set", "generate.count=3"]) == 0
    assert load_recipe("other", workspace=Workspace(tmp_path)).generate == demo.generate.model_copy(update={"count": 3})


def test_a_folder_of_drawings_is_a_style_of_that_name_and_of_nobody_elses_licence(tmp_path: Path) -> None:
    write_image(tmp_path / "My Drawings" / "a.png", np.full((64, 64, 3), 200, np.uint8))
    run(["gen-data", "--engine", "folder", "--model", "My Drawings"])
    recipe = load_recipe(tmp_path / "recipes" / "my-drawings.yaml")
    assert (recipe.style, recipe.licence, recipe.description) == ("my-drawings", None, "")
    assert Workspace(tmp_path).current_style() == "my-drawings"


def test_recipe_show_prints_what_reads_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recipe", "show", "archer-style", "--set", "seed=5"]) == 0
    (tmp_path / "again.yaml").write_text(capsys.readouterr().out)
    assert load_recipe(tmp_path / "again.yaml") == load_recipe("archer-style", ["seed=5"])


def test_recipe_ls_lists_the_bad_with_its_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "bad.yaml").write_text("style: bad\nseeds: 3")
    assert run(["recipe", "ls"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("cannot be used: recipes/bad.yaml: seeds is not a known key.")
    assert [line.split()[0] for line in lines[1:]] == sorted(recipe.stem for recipe in built_in_recipes().glob("*.yaml"))


def test_what_follows_two_dashes_is_not_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recipe", "show", "--", "--json"]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("Error: There is no recipe named --json.")
    assert shown.out == ""


def test_plain_progress_prints_lines_with_rate_and_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 10.0, 40.0, 40.0, 50.0, 60.0, 0.0, 30.0, 30.0])
    monkeypatch.setattr("stylekit.cli.console.time.monotonic", lambda: next(clock))
    with console.progress()("Training", total=30) as bar:
        bar.advance(5, loss=0.5)
        bar.advance(15, loss=0.25)
        bar.advance(10)
    with console.progress()("Exporting") as bar:
        bar.advance(60)
    assert capsys.readouterr().err.splitlines() == [
        "Training: 20/30, 2.0 s each, 20 s left, loss=0.25",
        "Training: 30/30, 2.0 s each, loss=0.25",
        "Exporting: 60, 2.0/s",
    ]


def test_drawn_progress_shows_count_rate_and_values(monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        "from stylekit.cli import console\n"
        "with console._drawn('Training', 4) as bar:\n"
        "    for step in range(4): bar.advance(loss=0.5)\n"
    )
    environment = {**os.environ, "FORCE_COLOR": "1", "COLUMNS": "120"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert "4/4" in done.stderr
    assert "loss=0.5" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(("given", "kept"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_waiting_threads_sleep_unless_told_otherwise(given: str | None, kept: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", given or "")
    if given is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    monkeypatch.setattr("stylekit.cli.app.run", lambda: 0)
    with pytest.raises(SystemExit):
        main()
    assert os.environ["OMP_WAIT_POLICY"] == kept
