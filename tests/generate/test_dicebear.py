"""Engine `dicebear`, with the real style and Node.js."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from stylekit.config.schema import GenerateRecipe, Recipe
from stylekit.data.manifest import Origin, read_origins
from stylekit.errors import GenerationError
from stylekit.generate.api import gen_data
from stylekit.generate.dicebear import DiceBear, check_options
from stylekit.images import read_rgb
from stylekit.paths import Workspace, sha256_bytes

BACKGROUND = "d1d4f9"

SCRIPT = """
import sys
from pathlib import Path
from stylekit.config.schema import Recipe
from stylekit.generate.api import gen_data
from stylekit.paths import Workspace
gen_data(recipe=Recipe.model_validate_json(sys.argv[2]), workspace=Workspace(Path(sys.argv[1])), align=False)
"""

pytestmark = pytest.mark.usefixtures("asset_home")


def drawn(**changes: object) -> GenerateRecipe:
    return GenerateRecipe(engine="dicebear", model="toon-head", size=64, **changes)


def draw(recipe: GenerateRecipe, seed: int, wanted: dict[int, str]) -> list[tuple[Origin, bytes]]:
    return list(DiceBear(recipe, seed).pictures(wanted))


def test_pictures_carry_size_options_and_provenance():
    (origin, data), (other, other_data) = draw(drawn(options={"backgroundColor": BACKGROUND}), 0, {3: "3.png", 4: "4.png"})
    picture = read_rgb(data)
    assert picture.shape == (64, 64, 3)
    assert picture[1, 1].tolist() == [0xD1, 0xD4, 0xF9]
    assert np.abs(picture.astype(int) - read_rgb(other_data)).mean() > 2
    assert (origin.file, origin.sha256, origin.asset) == ("3.png", sha256_bytes(data), "dicebear-toon-head")
    assert origin.licence == "CC-BY-4.0"
    assert origin.attribution is not None
    assert "Johan Melin" in origin.attribution
    assert origin.generation is not None
    assert origin.generation.options == {"backgroundColor": BACKGROUND, "size": 64}
    assert origin.generation.versions.keys() == {"@dicebear/core", "@dicebear/toon-head", "resvg-py"}
    assert other.generation is not None
    assert origin.generation.seed != other.generation.seed


def test_picture_depends_on_its_number_and_the_seed_alone():
    alone = draw(drawn(), 0, {7: "a.png"})[0][1]
    among_others = draw(drawn(), 0, {1: "1.png", 7: "7.png"})[1][1]
    assert alone == among_others
    assert alone != draw(drawn(), 1, {7: "a.png"})[0][1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eyez": ["wide"]}, "Did you mean eyes"),
        ({"eyes": ["wyde"]}, "Did you mean wide"),
        ({"backgroundColor": ["blue"]}, "takes no backgroundColor 'blue'"),
        ({"seed": "x"}, "no option 'seed'"),
    ],
)
def test_options_dicebear_would_ignore_are_refused(options: dict[str, object], message: str):
    with pytest.raises(GenerationError, match=message):
        draw(drawn(options=options), 0, {0: "a.png"})


def test_options_that_the_style_knows_pass():
    check_options("x", {"eyes": "wide", "scale": 90}, {"eyes": {"items": {"enum": ["wide"]}}, "scale": {"type": "integer"}})


def test_failing_node_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("stylekit.generate.dicebear.fetch", lambda name: tmp_path)
    with pytest.raises(GenerationError, match="Cannot find module '@dicebear/core'"):
        draw(drawn(), 0, {0: "a.png"})


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_set_finished_after_a_kill_equals_an_uninterrupted_one(tmp_path: Path):
    recipe = Recipe(style="toons", generate=drawn(count=150))
    killed, whole = Workspace(tmp_path / "killed"), Workspace(tmp_path / "whole")
    journal = killed.style("toons") / "raw" / "origin.jsonl"
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(killed.root), recipe.model_dump_json()])
    deadline = time.monotonic() + 60
    while not (journal.is_file() and journal.read_text().count("\n") >= 5) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept_before = len(read_origins(journal))
    assert 5 <= kept_before < 150

    report = gen_data(recipe=recipe, workspace=killed, align=False)
    assert (report.made, report.kept, report.skipped) == (150 - kept_before, kept_before, {})
    assert gen_data(recipe=recipe, workspace=killed, align=False).made == 0
    gen_data(recipe=recipe, workspace=whole, align=False)
    assert _contents(killed) == _contents(whole)


def _contents(workspace: Workspace) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (workspace.style("toons") / "raw").iterdir()}
