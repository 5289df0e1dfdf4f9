"""A whole recipe, small: real drawings, real photographs, all stages; then again."""

import json

import pytest

from stylekit.assets import fetch
from stylekit.bundle import read_bundle
from stylekit.config.load import load_recipe
from stylekit.images import list_images, read_rgb
from stylekit.paths import Workspace
from stylekit.pipeline import run

SMALL = (
    "generate.count=12",
    "generate.size=256",
    "train.network.width=8",
    "train.network.blocks=1",
    "train.size=64",
    "train.batch_size=4",
    "train.max_steps=2",
    "train.save_every=1",
    "eval.subsets=5",
    "photos.eval_fraction=0.3",
    "align.size=128",
)
STAGES = ["gen-data", "align", "train", "eval", "export", "publish"]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    root = tmp_path_factory.mktemp("project")
    photos = list_images(fetch("starter-photos"))[8:32]
    (root / "selfies").mkdir()
    for photo in photos:
        (root / "selfies" / photo.name).write_bytes(photo.read_bytes())
    recipe = load_recipe("demo", [*SMALL, f"photos.source={root / 'selfies'}"])
    return recipe, Workspace(root), run(recipe, workspace=Workspace(root), device="cpu")


def test_every_stage_is_carried_out_in_order(done):
    recipe, workspace, report = done
    assert [(stage.name, stage.did) for stage in report.stages] == [(name, True) for name in STAGES]
    assert workspace.current_style() == recipe.style
    assert report.run == workspace.runs / "00000-toon-head-dctnet"
    measured = json.loads((report.run / "eval.json").read_text())
    assert measured["protocol"]["checkpoint_step"] == 2
    assert set(measured["rows"]) >= {"photo", "stylized"}
    assert read_rgb(report.run / "eval_sheet.jpg").std() > 20
    bundle = read_bundle(report.published)
    assert bundle.style.licence == recipe.licence
    assert "Johan Melin" in bundle.files["README.md"].decode()
    for path in (report.run / "eval_sheet.jpg", report.run / "eval.json", report.published):
        assert str(path) in str(report)


def test_a_second_run_does_nothing_and_changes_nothing(done):
    recipe, workspace, first = done
    before = {p: p.stat().st_mtime_ns for folder in ("datasets", "work_dirs") for p in (workspace.root / folder).rglob("*.png")}
    weights = first.run / "checkpoints" / "step-000002" / "weights.safetensors"
    written = weights.stat().st_mtime_ns
    again = run(recipe, workspace=workspace, device="cpu")
    assert [stage.did for stage in again.stages] == [False] * len(STAGES)
    assert again.metrics == first.metrics
    assert all(p.stat().st_mtime_ns == t for p, t in before.items())
    assert weights.stat().st_mtime_ns == written
    assert len(workspace.run_folders()) == 1


def test_too_few_photographs_to_measure_with_still_give_a_style(done, tmp_path):
    recipe, workspace, _ = done
    few = recipe.model_copy(update={"photos": recipe.photos.model_copy(update={"eval_fraction": 0.0})})
    project = Workspace(tmp_path)
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "toon-head").symlink_to(workspace.style("toon-head"))
    report = run(few, workspace=project, device="cpu")
    assert report.metrics is None
    assert "not measured" in str(report)
    assert report.published == tmp_path / "exports" / "toon-head"


def test_more_steps_go_on_and_another_setting_starts_a_new_run(done):
    recipe, workspace, first = done
    longer = recipe.model_copy(update={"train": recipe.train.model_copy(update={"max_steps": 3})})
    report = run(longer, workspace=workspace, device="cpu")
    assert report.run == first.run
    assert [stage.did for stage in report.stages] == [False, False, True, True, True, True]
    other = longer.model_copy(update={"train": longer.train.model_copy(update={"learning_rate": 1e-4})})
    assert run(other, workspace=workspace, device="cpu").run.name == "00001-toon-head-dctnet"
