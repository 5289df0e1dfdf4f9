"""What a new user meets: settings that stay, reasons, next steps, and errors that come at once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from stylekit.assets import hosts
from stylekit.cli import console, run
from stylekit.cli.app import app
from stylekit.config.load import load_recipe
from stylekit.data import prepare
from stylekit.data.manifest import Origin
from stylekit.generate import api
from stylekit.images import write_image
from stylekit.paths import Workspace
from tests.generate.test_gen_data import Painter

NEXT = "Next: look at the page, then run: stylekit train"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def aligned(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    page = {"contact_sheet": Path("sheet.jpg"), "page": Path("page.html"), "limits": {}, "notes": ()}
    report = SimpleNamespace(pictures=3, used=2, rejected=0, unreadable={}, reasons={}, **page)
    monkeypatch.setattr(prepare, "align", lambda *_, **__: report)
    monkeypatch.setattr(api, "create", Painter)
    return report


def drawings(folder: Path) -> Path:
    write_image(folder / "a.png", np.zeros((8, 8, 3), np.uint8))
    return folder


@pytest.mark.usefixtures("aligned")
def test_the_settings_in_use_are_those_of_the_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    made = ["gen-data", "--style", "av", "--model", "m", "--set", "generate.prompt=p"]
    assert run([*made, "-n", "2"]) == 0
    own = Path("recipes/av.yaml")
    own.write_text(own.read_text().replace("seed: 0", "seed: 0  # mine"))
    assert run(["gen-data", "--seed", "5"]) == 1
    assert "seed: 0  # mine" in own.read_text()
    capsys.readouterr()
    assert run(["gen-data", "--seed", "5", "-n", "3", "--fresh"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == [
        "av: 3 pictures made, 0 kept, 0 left out; datasets/av",
        "recipes/av.yaml has the new settings: seed 5, count 3",
    ]
    assert said[-1] == NEXT
    assert "seed: 5  # mine" in own.read_text()
    assert run(["gen-data"]) == 0
    assert capsys.readouterr().out.startswith("av: nothing new, 3 kept")


def test_a_first_try_that_is_stopped_goes_on_by_itself(aligned: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as once:
        once.setattr(prepare, "align", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        assert run(["gen-data", "--style", "av", "--model", "m", "--set", "generate.prompt=p", "-n", "2"]) == console.INTERRUPTED
    assert Workspace().current_style() == "av"
    assert load_recipe("av").generate.model == "m"
    with monkeypatch.context() as once:
        once.setattr(Painter, "pictures", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert run(["gen-data", "--style", "other", "--model", "m", "--set", "generate.prompt=p"]) == console.INTERRUPTED
    assert Workspace().current_style() == "other"
    assert load_recipe("other").style == "other"
    whole = Painter.pictures

    def one(self: Painter, wanted: Mapping[int, str]) -> Iterator[tuple[Origin, bytes]]:
        yield next(whole(self, wanted))
        raise KeyboardInterrupt

    monkeypatch.setattr(Painter, "pictures", one)
    assert run(["gen-data", "--style", "third", "--model", "m", "--set", "generate.prompt=p"]) == console.INTERRUPTED
    assert load_recipe("third").style == Workspace().current_style() == "third"


def test_gen_data_names_what_cannot_be_read_and_why_faces_are_left_out(
    aligned: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    aligned.unreadable, aligned.reasons = {"raw/x.jpg": "it is no picture"}, {"no face": 1}
    assert run(["gen-data", "--style", "av", "--model", "m", "--set", "generate.prompt=p", "-n", "1"]) == console.PART_FAILED
    lines = capsys.readouterr().out.splitlines()
    assert "unreadable: raw/x.jpg: it is no picture" in lines
    assert "left out, no face: 1" in lines


def test_a_folder_of_cartoons_that_was_aligned_is_a_style(aligned: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    drawings(Path("art"))
    assert run(["align", "art", "--kind", "cartoon"]) == 2
    assert "Name it: stylekit align art --kind cartoon --style NAME" in capsys.readouterr().err
    assert run(["align", "art", "--kind", "cartoon", "--style", "mine", "--min-face", "30"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == NEXT
    recipe = load_recipe("mine")
    assert (recipe.generate.engine, recipe.generate.model, recipe.align.min_face_px) == ("folder", "art", 30)
    assert Workspace().current_style() == "mine"
    assert run(["align", "art"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("stylekit data add art")


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["--engine", "folder"], "The engine folder needs a folder of pictures.", "Name one with --model DIR."),
        (["--style", "archer-style", "--engine", "dicebear"], "The engine dicebear needs a drawing style.", "toon-head"),
        (
            ["archer style", "--engine", "dicebear"],
            "The engine dicebear has no use for a prompt.",
            "stylekit gen-data --style archer-style --engine dicebear --model toon-head",
        ),
        (["--engine", "floder"], "'floder' is not one of", "Did you mean folder?"),
        (["--size", "2001"], "Error: --size 2001: generate.size is 2001, but must be", "a multiple of 8"),
        (["--size", "2001", "--steps", "0"], "--steps 0: generate.steps is 0", "--size 2001: generate.size is 2001, but must be"),
    ],
)
def test_what_cannot_be_done_is_said_with_the_flag_and_the_next_step(
    arguments: list[str], message: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["gen-data", *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert hint in said
    assert not list(Path().iterdir())


def test_that_no_hub_is_there_is_known_before_torch_is_loaded(tmp_path: Path) -> None:
    program = (
        "import sys; from stylekit.assets import hosts; from stylekit.cli import run\n"
        "hosts.out_of_reach = lambda address: address.rpartition('/')[2] + ': closed'\n"
        "code = run(['gen-data', 'archer style']); print(code, 'torch' in sys.modules, 'diffusers' in sys.modules)"
    )
    home = {"HOME": str(tmp_path), "STYLEKIT_HOME": str(tmp_path / "h"), "HF_HOME": str(tmp_path / "hf"), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=home)
    assert done.stdout == "1 False False\n"
    assert done.stderr.startswith("Error: The model clipart can be had from no hub: ")
    assert done.stderr.count(": closed") == 2


def test_offline_says_so_and_asks_nobody(
    monkeypatch: pytest.MonkeyPatch, empty_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STYLEKIT_OFFLINE", "1")
    monkeypatch.setattr(hosts.socket, "create_connection", lambda *_: pytest.fail("asked"))
    assert run(["gen-data", "x style", "--model", "nobody/nothing"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("Error: The model nobody/nothing is not on this machine, and STYLEKIT_OFFLINE is set.\n")
    assert "unset STYLEKIT_OFFLINE" in said
    assert "local_files_only" not in said


def test_what_was_there_before_is_not_counted_as_fast_work(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 0.1, 0.1, 0.0, 0.1, 10.0, 10.0])
    monkeypatch.setattr("stylekit.cli.console.time.monotonic", lambda: next(clock))
    with console.progress()("Making a", total=40) as bar:
        bar.advance(40)
    with console.progress()("Making b", total=60) as bar:
        bar.advance(40)
        bar.advance(20)
    assert capsys.readouterr().err.splitlines() == ["Making a: 40/40, nothing new", "Making b: 60/60, 2.0/s"]


def test_recipe_cp_says_the_name_it_took(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recipe", "cp", "demo", "My Wat"]) == 0
    assert capsys.readouterr().out.startswith("The style my-wat: recipes/my-wat.yaml\n")


def test_help_shows_an_example() -> None:
    for verb, example in (("gen-data", 'stylekit gen-data "archer style" -n 200'), ("align", "stylekit align my-photos")):
        assert example in " ".join(CliRunner().invoke(app, [verb, "--help"]).stdout.split())
