import json
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stylekit import pipeline
from stylekit.bundle import BundledNetwork, Networks, Style, Training, write_bundle
from stylekit.bundle.weights import pack_weights
from stylekit.cli import run as run_command
from stylekit.config.load import STUDENT_CHANGES, dump_recipe, parse_recipe
from stylekit.config.schema import NetworkRecipe, TrainRecipe
from stylekit.engine import train as engine
from stylekit.engine.checkpoint import WEIGHTS, chosen_checkpoint, load_generator, read_meta
from stylekit.engine.evaluations import add_evaluation, read_evaluations
from stylekit.engine.page import render_run
from stylekit.engine.teacher import TEACHER_FILE, find_teacher, read_teacher
from stylekit.engine.train import TrainReport, train
from stylekit.errors import CheckpointError, ExportError, OtherRunError
from stylekit.nn.generators import make_generator, network_of
from stylekit.paths import Workspace
from tests.engine.conftest import TINY, tiny_recipe
from tests.engine.test_page import evaluation
from tests.engine.test_train import assert_equal_runs
from tests.trained import make_run, recipe

LITE = NetworkRecipe(arch="unet-lite", width=8, blocks=1)


def style_bundle(path, network, seed=0):
    torch.manual_seed(seed)
    face = BundledNetwork(**network.model_dump(), weights="face.safetensors", size=32, template="ffhq")
    training = Training(recipe={}, steps=1, checkpoint_sha256="0", stylekit="0")
    weights = pack_weights(make_generator(network), torch.float32, {})
    write_bundle(path, Style(name="dots", networks=Networks(face=face), training=training), {"face.safetensors": weights})
    return path


def as_student(teacher, *changes):
    small = f"train.network={LITE.model_dump_json()}"
    without = "train.loss.lambda_content=0"
    return tiny_recipe(*STUDENT_CHANGES, small, without, f"train.student_of={json.dumps(str(teacher))}", *changes)


def test_a_run_teaches_with_its_best_step_and_its_own_way_of_looking(tmp_path):
    workspace = Workspace(tmp_path)
    run = make_run(workspace, made_by=recipe(photos={"source": "selfies"}, align={"template": "ffhq"}))
    shutil.copytree(run / "checkpoints" / "step-000007", run / "checkpoints" / "best")
    (run / "checkpoints" / "step-000007" / WEIGHTS).unlink()  # what shows that the best one was read
    for source in (str(run), str(run / "checkpoints" / "best"), "pop-art"):
        teacher = find_teacher(source, workspace)
        for name, weight in load_generator(run).module.state_dict().items():
            assert torch.equal(teacher.network.state_dict()[name], weight)
        assert teacher.style == "pop-art"
        taken = parse_recipe("style: pop-art", teacher.inherits)
        assert (taken.train.size, taken.align.template, taken.photos.source) == (64, "ffhq", "selfies")
    assert teacher.source == str(run)


def test_a_style_by_name_is_never_taught_by_its_own_student(workspace, tmp_path):
    own = train(tiny_recipe("train.max_steps=2"), workspace=workspace, device="cpu").run
    train(as_student(own, "train.max_steps=2"), workspace=workspace, device="cpu")
    assert find_teacher("dots", workspace).source == str(own)
    with pytest.raises(ExportError, match="no style 'noir'"):
        find_teacher("noir", workspace)
    (workspace.root / "empty").mkdir()
    with pytest.raises(CheckpointError, match="nothing to start from"):
        find_teacher(str(workspace.root / "empty"), workspace)


def test_a_teacher_by_name_is_looked_for_in_the_workspace(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    make_run(Workspace(tmp_path))
    pipeline.check(as_student("pop-art"), workspace=Workspace(tmp_path), device="cpu")
    with pytest.raises(ExportError, match="no style 'pop-art'"):
        pipeline.check(as_student("pop-art"), device="cpu")


def test_the_digest_is_of_the_weights_and_not_of_their_file(tmp_path):
    folder, archive = style_bundle(tmp_path / "style", LITE), style_bundle(tmp_path / "style.zip", LITE)
    other = style_bundle(tmp_path / "other", LITE, seed=1)
    first, second, third = (find_teacher(str(path), Workspace(tmp_path)) for path in (folder, archive, other))
    assert first.sha256 == second.sha256 != third.sha256
    assert (first.style, 'align.template="ffhq"' in first.inherits) == ("dots", True)


def test_the_teacher_can_be_trained_on_after_its_student(workspace, tmp_path, monkeypatch, capsys):
    first = tiny_recipe("train.max_steps=1")
    teacher = train(first, workspace=workspace, device="cpu").run
    student = train(
        as_student(style_bundle(tmp_path / "style", LITE), "train.max_steps=1"), workspace=workspace, device="cpu"
    ).run
    assert engine.run_to_resume("dots", workspace) == engine.run_to_resume("dots", workspace, "student") == student
    longer = train(tiny_recipe("train.max_steps=2"), workspace=workspace, device="cpu", resume=True)
    assert (longer.run, longer.step) == (teacher, 2)
    assert read_meta(chosen_checkpoint(student)).step == 1
    assert pipeline._to_go_on_with(first.model_copy(update={"train": longer_of(first, 3)}), workspace).step == 2
    with pytest.raises(CheckpointError, match="by method template"):
        engine.run_to_resume("dots", workspace, "template")
    monkeypatch.chdir(workspace.root)
    assert run_command(["train", "--style", "dots", "--resume", "--student-of", str(teacher)]) == 2
    assert "--resume --method student" in capsys.readouterr().err


def longer_of(given, steps):
    return given.train.model_copy(update={"max_steps": steps})


def test_resume_equals_never_having_stopped_and_only_with_the_same_teacher(workspace, tmp_path):
    taught = as_student(style_bundle(tmp_path / "style", LITE))
    whole = train(taught, workspace=workspace, device="cpu").run
    assert whole.name == "00000-dots-student"
    pieces = train(as_student(tmp_path / "style", "train.max_steps=2"), workspace=workspace, device="cpu").run
    style_bundle(tmp_path / "style", LITE, seed=1)
    with pytest.raises(OtherRunError, match="another teacher network"):
        train(taught, workspace=workspace, device="cpu", resume=True)
    style_bundle(tmp_path / "style", LITE)
    (pieces / TEACHER_FILE).unlink()
    train(taught, workspace=workspace, device="cpu", resume=True)
    assert_equal_runs(whole, pieces, 6)
    assert read_meta(chosen_checkpoint(pieces)).assets["teacher"].sha256 == read_teacher(pieces).sha256


def test_what_is_trained_is_the_recipes_network_and_every_reader_finds_it(workspace, tmp_path):
    run = train(
        as_student(style_bundle(tmp_path / "style", NetworkRecipe(width=6, blocks=1))), workspace=workspace, device="cpu"
    ).run
    loaded = load_generator(run)
    assert network_of(loaded.module) == LITE == loaded.recipe.train.network
    again = train(
        tiny_recipe(f"train.network={LITE.model_dump_json()}", f"train.init={run}"), workspace=workspace, device="cpu"
    ).run
    assert network_of(load_generator(again).module) == LITE


class Held:
    """Stands for the held-out photographs."""

    def __init__(self):
        self.measured = []

    def measure(self, network, meta):
        self.measured.append((network_of(network).arch, meta.step))
        away = 0.0 if network_of(network).arch == "unet" else 7.25
        return evaluation(meta.step, 12.0 + meta.step).model_copy(update={"teacher_levels": away})


def test_the_page_has_the_student_beside_its_teacher(workspace, tmp_path, monkeypatch):
    held = Held()
    opened = []
    monkeypatch.setattr(engine, "open_held_out", lambda *given: opened.append(given[-1]) or held)
    monkeypatch.setattr(engine, "fit", lambda *_, run, start, **__: (run / "samples").mkdir() or start)
    style_bundle(tmp_path / "style", NetworkRecipe(width=6, blocks=1))
    made = as_student(tmp_path / "style")
    run = train(made, workspace=workspace, device="cpu").run
    assert network_of(opened[0]).arch == "unet"
    assert held.measured == [("unet", 0)]
    assert read_teacher(run).evaluation.teacher_levels == 0
    (run / "recipe.yaml").write_text(dump_recipe(made))
    page = render_run(run)
    assert "unet, width 6, 1 blocks" in page
    assert "unet-lite, width 8, 1 blocks" in page
    assert "difference from the teacher" not in page  # nothing measured of the student yet
    (run / TEACHER_FILE).write_text("{}")
    assert "teacher.json cannot be read" in render_run(run)


def test_figures_stand_beside_each_other_where_both_were_measured_alike(tmp_path):
    made = recipe()
    taught = {"method": "student", "student_of": "x", "network": LITE.model_dump(), "superpixels": "off"}
    student = recipe(train=made.train.model_dump() | taught)
    run = make_run(Workspace(tmp_path), made_by=student, network=make_generator(LITE))
    (run / "recipe.yaml").write_text(dump_recipe(student))
    record = {"source": "x", "sha256": "0", "network": made.train.network.model_dump()}
    told = evaluation(7, 31.0).model_copy(update={"teacher_levels": 7.25})
    add_evaluation(run, told)
    assert read_evaluations(run) == [told]
    for conditions, shown in (("x", True), ("others", False)):
        of_teacher = evaluation(0, 23.0).model_copy(update={"conditions": conditions, "teacher_levels": 0.0})
        (run / TEACHER_FILE).write_text(json.dumps(record | {"evaluation": json.loads(of_teacher.line())}))
        page = render_run(run)
        assert ("levels of 255</td><td>0</td><td>7.2</td>" in page) == shown
    assert "unet, width 8, 1 blocks" in page


def test_a_run_without_a_teacher_writes_no_word_of_one(tmp_path):
    add_evaluation(tmp_path, evaluation(2, 20.0))
    assert "teacher" not in (tmp_path / "evals.jsonl").read_text()
    assert "metric/teacher_levels" not in evaluation(2, 20.0).metrics()


@given(st.booleans(), st.booleans())
def test_a_student_names_its_teacher_and_nobody_else_does(student, named):
    said = {"method": "student" if student else "dctnet", "student_of": "run" if named else None}
    if student == named:
        assert TrainRecipe.model_validate(said).student_of == said["student_of"]
    else:
        with pytest.raises(ValueError, match="a student has a teacher"):
            TrainRecipe.model_validate(said)


def test_preset_upstream_knows_no_students():
    with pytest.raises(ValueError, match="preset upstream knows no students"):
        TrainRecipe.model_validate({"method": "student", "student_of": "run", "preset": "upstream"})


def test_the_command_takes_everything_over_and_leaves_the_styles_recipe_alone(workspace, tmp_path, monkeypatch):
    monkeypatch.chdir(workspace.root)
    (workspace.root / "recipes").mkdir()
    own = workspace.root / "recipes" / "dots.yaml"
    own.write_text(TINY)
    style_bundle(tmp_path / "shelf", NetworkRecipe(width=6, blocks=1))
    asked = []
    monkeypatch.setattr("stylekit.pipeline.prepare", lambda *_, **__: None)
    monkeypatch.setattr("stylekit.pipeline.check", lambda *_, **__: None)
    monkeypatch.setattr("stylekit.pipeline.train", lambda recipe, **_: asked.append(recipe) or TrainReport(tmp_path, 1, 1.0, ""))
    assert run_command(["train", "--student-of", str(tmp_path / "shelf"), "--max-steps", "9"]) == 0
    told = asked[0]
    assert (told.style, told.align.template, told.train.method, told.train.max_steps) == ("dots", "ffhq", "student", 9)
    assert told.train.network == NetworkRecipe(arch="unet-lite")
    assert told.train.student_of == str(tmp_path / "shelf")
    assert (told.train.loss.lambda_content, told.train.loss.lambda_surface) == (0.06, 0)
    assert own.read_text() == TINY
    call = ["train", "--student-of", str(tmp_path / "shelf"), "--set", "train.network={arch: unet, width: 8}"]
    assert run_command(call) == 0
    assert asked[1].train.network == NetworkRecipe(width=8)
