"""A whole recipe, small: real drawings, real photographs, all stages; then again."""

import json
import shlex
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import stylekit
from stylekit.assets import fetch
from stylekit.bundle import read_bundle
from stylekit.cli import run as run_command
from stylekit.config.load import load_recipe
from stylekit.config.schema import PhotoRecipe
from stylekit.data.shards import photo_set
from stylekit.engine.evaluations import read_evaluations
from stylekit.engine.page import PAGE
from stylekit.engine.train import TrainReport
from stylekit.errors import DataError
from stylekit.images import list_images, read_rgb
from stylekit.paths import Workspace
from stylekit.pipeline import align_photos, check, prepare, run, starter_note
from stylekit.progress import silent
from tests.trained import make_run
from tests.trained import recipe as trained_recipe

SMALL = (
    "generate.count=8",
    "generate.size=256",
    "train.network.width=8",
    "train.network.blocks=1",
    "train.size=64",
    "train.batch_size=2",
    "train.max_steps=2",
    "train.save_every=1",
    "train.eval_every=0",
    "eval.subsets=5",
    "eval.extractors=[efficientnet-lite0]",
    "export.formats=[safetensors]",
    "photos.eval_fraction=0.3",
    "align.size=128",
)
STAGES = ["gen-data", "align", "train", "eval", "export", "publish"]


@pytest.fixture(scope="module")
def portraits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("portraits") / "selfies"
    folder.mkdir()
    for photo in list_images(fetch("starter-photos"))[8:24]:
        (folder / photo.name).write_bytes(photo.read_bytes())
    return folder


@pytest.fixture(scope="module")
def done(tmp_path_factory, portraits):
    root = tmp_path_factory.mktemp("project")
    recipe = load_recipe("demo", [*SMALL, f"photos.source={portraits}"])
    return recipe, Workspace(root), run(recipe, workspace=Workspace(root), device="cpu")


def test_every_stage_is_carried_out_in_order(done):
    recipe, workspace, report = done
    assert [(stage.name, stage.did) for stage in report.stages] == [(name, True) for name in STAGES]
    assert workspace.current_style() == recipe.style
    assert report.run == workspace.runs / "00000-toon-head-dctnet"
    measured = json.loads((report.run / "eval.json").read_text())
    assert measured["network"]["step"] == 2
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


def test_figures_are_taken_anew_for_other_settings_alone(done, monkeypatch):
    recipe, workspace, first = done
    asked = []
    monkeypatch.setattr("stylekit.pipeline.evaluate", lambda run, **given: asked.append(given["settings"]) or first.metrics)
    run(recipe, workspace=workspace, device="cpu")
    assert asked == []
    other = recipe.model_copy(update={"eval": recipe.eval.model_copy(update={"subsets": 6})})
    report = run(other, workspace=workspace, device="cpu")
    assert report.run == first.run
    assert asked == [other.eval]


@pytest.mark.slow
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


def test_a_measurement_that_would_be_wrong_stops_the_run(done, tmp_path, monkeypatch):
    recipe, workspace, _ = done
    (tmp_path / "datasets").symlink_to(workspace.root / "datasets")

    def both(*arguments, **keywords):
        raise DataError("manifest.jsonl has p2 both among the held-out photographs and those trained on.")

    monkeypatch.setattr("stylekit.pipeline.evaluate", both)
    with pytest.raises(DataError, match="has p2 both"):
        run(recipe, workspace=Workspace(tmp_path), device="cpu")


def test_a_style_without_a_licence_is_not_published_and_says_so(done):
    recipe, workspace, _ = done
    report = run(recipe.model_copy(update={"licence": None}), workspace=workspace, device="cpu")
    assert report.published is None
    assert [stage.name for stage in report.stages] == STAGES
    assert "skipped: no licence" in str(report)


@pytest.mark.slow
def test_the_four_lines_of_the_readme(portraits, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    readme = (Path(stylekit.__file__).parents[1] / "README.md").read_text("utf-8")
    block = readme.partition("## The four lines")[2].split("```")[1]
    lines = [shlex.split(line)[1:] for line in block.replace("1000", "2").strip().splitlines()]
    assert [line[0] for line in lines] == ["gen-data", "train", "eval", "publish"]
    lines[0] += [f"--set={change}" for change in (*SMALL, f"photos.source={portraits}", "train.eval_every=1")]
    for line in lines:
        assert run_command(line) == 0, capsys.readouterr().err
    (folder,) = Workspace(tmp_path).run_folders()
    assert [evaluation.step for evaluation in read_evaluations(folder)] == [1, 2]
    assert "KID x1000 over the steps" in (folder / PAGE).read_text("utf-8")
    assert read_bundle(tmp_path / "exports" / "toon-head").style.metrics is not None
    assert stylekit.Stylizer()(read_rgb(list_images(portraits)[0])).std() > 10


def test_who_trains_against_the_starter_photographs_is_told(tmp_path, monkeypatch, caplog):
    workspace = Workspace(tmp_path)
    make_run(workspace)
    own = str(tmp_path / "selfies")
    shutil.copytree(workspace.photos, photo_set(own, workspace))
    monkeypatch.setattr(
        "stylekit.pipeline.align", lambda *_, **__: SimpleNamespace(notes=(), unreadable={}, rejected=0, changed=0, used=4)
    )
    note = "trained against the 4 starter photographs, too few for a first try; add your own with: stylekit data add DIR"
    for source, times in ((PhotoRecipe().source, 1), (own, 0)):
        for tell in (lambda asked: prepare(asked, workspace=workspace), lambda asked: align_photos(asked, workspace, silent)):
            with caplog.at_level("INFO"):
                tell(trained_recipe(photos={"source": source}))
            assert caplog.text.count(note) == times
            caplog.clear()
    untold = note.replace("4 ", "").replace(", too few for a first try", "")
    assert starter_note(PhotoRecipe().source, Workspace(tmp_path / "new")) == f"It is {untold}"


@pytest.mark.slow
def test_more_steps_go_on_and_another_setting_starts_a_new_run(done):
    recipe, workspace, first = done
    longer = recipe.model_copy(update={"train": recipe.train.model_copy(update={"max_steps": 3})})
    report = run(longer, workspace=workspace, device="cpu")
    assert report.run == first.run
    assert [stage.did for stage in report.stages] == [False, False, True, True, True, True]
    other = longer.model_copy(update={"train": longer.train.model_copy(update={"learning_rate": 1e-4})})
    assert run(other, workspace=workspace, device="cpu").run.name == "00001-toon-head-dctnet"


def test_the_recipe_says_whose_trainer_runs(tmp_path, monkeypatch):
    asked = []
    other = SimpleNamespace(train=lambda recipe, **given: asked.append((recipe.train.engine, given)))
    monkeypatch.setitem(sys.modules, "stylekit.modelscope.trainer", other)
    workspace = Workspace(tmp_path)
    stylekit.train(load_recipe("archer-style", ["train.engine=modelscope"]), workspace=workspace, resume=True, device="cpu")
    assert asked == [("modelscope", {"workspace": workspace, "resume": True, "device": "cpu", "progress": silent})]
    with pytest.raises(DataError, match="no data set"):
        stylekit.train(load_recipe("archer-style"), workspace=workspace, device="cpu")
    assert len(asked) == 1


def test_the_engine_is_asked_first_and_about_nothing_that_is_finished(done, tmp_path, monkeypatch):
    recipe, workspace, _ = done
    asked = []

    def refuse(recipe, **given):
        asked.append(given)
        raise DataError("not here")

    monkeypatch.setattr("stylekit.engine.train.check", refuse)
    check(recipe, workspace=workspace, resume=True)
    assert asked == []
    longer = recipe.model_copy(update={"train": recipe.train.model_copy(update={"max_steps": 99})})
    with pytest.raises(DataError, match="not here"):
        run(longer, workspace=workspace, device="cpu", checked=lambda: asked.append("made"))
    with pytest.raises(DataError, match="not here"):
        run(recipe, workspace=Workspace(tmp_path), device="cpu", checked=lambda: asked.append("made"))
    assert asked == [
        {"workspace": workspace, "device": "cpu", "resume": True},
        {"workspace": Workspace(tmp_path), "device": "cpu", "resume": False},
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("recipe", ["archer-style", "demo"])
def test_asked_for_on_the_command_line_upstreams_preset_outranks_any_recipe(recipe, tmp_path, monkeypatch, capsys):
    """The recipe that the project keeps spells out every default of ours; the demo's has values of its own."""
    monkeypatch.chdir(tmp_path)
    asked = []

    def train(recipe, **given):
        asked.append(recipe.train)
        return TrainReport(tmp_path, 1, 1.0, "vgg19-caffe")

    monkeypatch.setattr("stylekit.pipeline.check", lambda *_, **__: None)
    monkeypatch.setattr("stylekit.pipeline.prepare", lambda *_, **__: None)
    monkeypatch.setattr("stylekit.pipeline.train", train)
    assert run_command(["init", "mine", "--recipe", recipe]) == 0
    assert run_command(["train", "--engine", "modelscope", "--init", "modelscope:3d"]) == 0
    assert (asked[0].engine, asked[0].preset, asked[0].loss.lambda_tv, asked[0].init) == (
        "modelscope", "upstream", 1e4, "modelscope:3d"
    )  # fmt: skip
    assert run_command(["train", "--preset", "upstream"]) == 0
    assert (asked[1].engine, asked[1].network.width, asked[1].warm_start) == ("torch", 32, "none")
    capsys.readouterr()
    assert run_command(["train", "--preset", "upstream", "--set", "train.network.width=16"]) == 2
    assert "preset upstream fixes network.width" in capsys.readouterr().err
    assert run_command(["train", "--engine", "modelscope", "--preset", "default"]) == 2
    assert "no preset but its own" in capsys.readouterr().err
