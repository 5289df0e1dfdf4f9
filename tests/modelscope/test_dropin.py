"""Upstream's classes by name, on our engine: the lines that users write, without TensorFlow."""

from __future__ import annotations

import json
import logging
import sys

import numpy as np
import pytest

import stylekit.modelscope
from stylekit.assets import Resolved
from stylekit.engine.checkpoint import checkpoint_folders, latest_checkpoint, load_generator, read_meta
from stylekit.engine.start import find_start
from stylekit.errors import CheckpointError, DataError, Interrupted, MissingPartError, RecipeError, UsageError
from stylekit.images import write_image
from stylekit.modelscope import CartoonTranslationExporter, CartoonTranslationTrainer, dropin
from stylekit.modelscope.graph.frozen import read_frozen
from stylekit.modelscope.graph.weights import generator_from

pytest.importorskip("tensorboard", reason="frozen graphs are described by it")
from tests.modelscope.folders import configuration, vgg19_arrays

SMALL = {"patch_size": 32, "batch_size": 2, "max_steps": 500, "logging_interval": 2, "ckpt_period_interval": 3}


def configure(folder, **changes):
    settings = configuration(**SMALL | changes)
    for key in [key for key, value in changes.items() if value is None]:
        del settings["train"][key]
    (folder / "configuration.json").write_text(json.dumps(settings))


@pytest.fixture(scope="module")
def vgg19(tmp_path_factory):
    file = tmp_path_factory.mktemp("vgg") / "vgg19.npy"
    np.save(file, vgg19_arrays(), allow_pickle=True)
    return file


@pytest.fixture
def project(tmp_path, monkeypatch, vgg19):
    """A model folder, and the data set's two folders with pictures at several depths and in all of upstream's suffixes."""
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "model"
    model.mkdir()
    configure(model)
    (model / "vgg19.npy").symlink_to(vgg19)
    drawn = np.random.default_rng(0)
    for kind in ("face_photo", "face_cartoon"):
        for name in ("a.png", "b.jpg", "deep/er/c.jpeg", "d.JPG", "e.webp", "f.PNG"):
            coarse = drawn.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            file = tmp_path / "data" / kind / name
            write_image(file.with_suffix(file.suffix.lower()), np.kron(coarse, np.ones((10, 10, 1), np.uint8)))
            file.with_suffix(file.suffix.lower()).rename(file)
    return tmp_path


def trainer(project, **changes):
    given = {"photo": f"{project}/data/face_photo", "cartoon": f"{project}/data/face_cartoon", "work_dir": f"{project}/out"}
    return CartoonTranslationTrainer(model=str(project / "model"), **given | changes)


def test_the_lines_that_users_write(project):
    work_dir, before = str(project / "out"), set(sys.modules)
    made = trainer(project, max_steps=7)
    made.train()
    saved = {path.name for path in (project / "out" / "saved_models").iterdir()}
    assert saved == {"model-0.pb", "model-5.pb", "model-6.pb"}  # first, sixth (logged and due), last

    exporter = CartoonTranslationExporter()
    for number in (0, 6):
        frozen = str(project / "model" / "cartoon_h.pb")
        assert exporter.export_frozen_graph_def(
            ckpt_path=f"{work_dir}/saved_models/model-{number}", frozen_graph_path=frozen
        ) == {"model": frozen}
        assert (project / "model" / "cartoon_h.pb").read_bytes() == (
            project / "out" / "saved_models" / f"model-{number}.pb"
        ).read_bytes()

    (run,) = (project / "out" / "work_dirs").iterdir()
    average = load_generator(run).module.state_dict()
    frozen = generator_from(read_frozen(project / "model" / "cartoon_h.pb")).state_dict()
    assert all(np.array_equal(frozen[name], average[name]) for name in average)
    assert [p.name for p in checkpoint_folders(run)] == ["step-000001", "step-000006", "step-000007"]
    meta = read_meta(latest_checkpoint(run))
    assert meta.recipe.train.preset == "upstream"
    assert meta.assets["content"].source == "user:vgg19.npy"
    assert find_start(str(run)).weights.step == 7
    assert "tensorflow" not in sys.modules.keys() - before


def test_arguments_outrank_the_configuration_and_the_rest_comes_from_it(project, tmp_path):
    made = trainer(project)
    assert made.params == configuration(**SMALL)["train"] | {
        "photo": f"{project}/data/face_photo", "cartoon": f"{project}/data/face_cartoon", "work_dir": f"{project}/out"
    }  # fmt: skip
    train = made.recipe.train
    assert (train.size, train.batch_size, train.learning_rate, train.max_steps) == (32, 2, 2e-4, 500)
    assert (train.log_every, train.save_every, train.init) == (2, 6, None)
    assert trainer(project, max_steps=3).recipe.train.max_steps == 3

    other = tmp_path / "other"
    other.mkdir()
    configure(other, photo=f"{project}/data/face_photo", cartoon=f"{project}/data/face_cartoon", batch_size=4)
    made = CartoonTranslationTrainer(str(project / "model"), str(other / "configuration.json"))
    assert (made.recipe.train.batch_size, made.params["work_dir"]) == (4, "exp_localtoon")
    assert not (project / "exp_localtoon").exists()


def test_pictures_are_upstreams_suffixes_at_any_depth(project):
    names = [file.path.name for file in trainer(project).pictures.photos]
    assert names == ["a.png", "b.jpg", "d.JPG", "c.jpeg"]


def test_stopped_training_goes_on_where_it_was(project, monkeypatch):
    from stylekit.engine import train as engine

    whole = trainer(project, max_steps=3, work_dir=f"{project}/whole")
    whole.train()

    def stopping(*arguments, **given):
        raise Interrupted("Stopped after step 2; everything is saved.", "stylekit train --resume")

    run = trainer(project, max_steps=2).train().run
    monkeypatch.setattr(dropin, "train", stopping)
    with pytest.raises(Interrupted, match=r"Stopped after step 2.*trainer\.train\(resume=True\)"):
        trainer(project, max_steps=3).train()
    monkeypatch.setattr(dropin, "train", engine.train)
    report = trainer(project, max_steps=3).train(resume=True)
    assert (report.run, report.step) == (run, 3)
    graphs = [(project / folder / "saved_models" / "model-2.pb").read_bytes() for folder in ("whole", "out")]
    assert graphs[0] == graphs[1]


def test_training_anew_keeps_the_run_before(project):
    first, second = (trainer(project, max_steps=1).train().run for _ in range(2))
    assert first != second
    assert checkpoint_folders(first)
    assert checkpoint_folders(second)


def test_resume_epoch_starts_from_what_lies_in_tf_ckpts(project):
    trainer(project, max_steps=1).train()
    folder = project / "model" / "tf_ckpts"
    folder.mkdir()
    (project / "out" / "saved_models" / "model-0.pb").rename(folder / "model-8.pb")
    configure(project / "model", resume_epoch=8, adv_train_lr=1e-12)
    made = trainer(project, max_steps=1)
    assert (made.recipe.train.init, made.recipe.train.max_steps) == (str(folder / "model-8.pb"), 10)
    assert made.train().step == 10
    assert [path.name for path in (project / "out" / "saved_models").iterdir()] == ["model-9.pb"]
    before = read_frozen(folder / "model-8.pb")
    after = read_frozen(project / "out" / "saved_models" / "model-9.pb")  # one further step
    assert all(np.allclose(before[name], after[name], atol=1e-9) for name in before)
    configure(project / "model", resume_epoch=9)
    with pytest.raises(CheckpointError, match="model-9"):
        trainer(project, max_steps=1).train()


def test_without_what_describes_graphs_it_is_refused_at_once(project, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto", None)
    with pytest.raises(MissingPartError, match=r"pip install 'stylekit\[tensorboard\]'"):
        trainer(project)


def test_the_log_has_a_line_every_logging_interval_and_is_shown(project, monkeypatch, caplog, capsys):
    log = logging.getLogger("stylekit")
    monkeypatch.setattr(log, "handlers", [])
    monkeypatch.setattr(log, "propagate", False)
    monkeypatch.setattr(log, "level", logging.NOTSET)
    trainer(project, max_steps=4).train()
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Training")]
    assert lines == ["Training: step 2 of 4", "Training: step 4 of 4"]
    assert len(log.handlers) == 1
    monkeypatch.setattr(log, "handlers", [caplog.handler])
    monkeypatch.setattr(dropin, "train", lambda *_, **__: None)
    trainer(project, max_steps=1).train()
    assert log.handlers == [caplog.handler]


def test_without_vgg19_the_log_says_that_the_content_network_is_another(project, caplog):
    (project / "model" / "vgg19.npy").unlink()
    with caplog.at_level(logging.WARNING):
        trainer(project)
    assert "model has no vgg19.npy: the content loss uses another network than upstream's." in caplog.text


def test_a_published_style_is_a_model_too(project, monkeypatch):
    known = Resolved("modelscope-3d", "modelscope-style", project / "model", "", "", "", "")
    name = "damo/cv_unet_person-image-cartoon-3d_compound-models"
    monkeypatch.setattr(dropin, "modelscope_style", lambda text: {name: known}[text])
    given = {"photo": f"{project}/data/face_photo", "cartoon": f"{project}/data/face_cartoon"}
    assert CartoonTranslationTrainer(model=name, **given).model_dir == project / "model"
    monkeypatch.undo()
    with pytest.raises(UsageError, match="no ModelScope style 'nowhere'"):
        CartoonTranslationTrainer(model="nowhere", **given)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"batch_size": None}, UsageError, r"configuration\.json has no train\.batch_size\. Add it to the file\."),
        ({"max_steps": None}, UsageError, r"has no train\.max_steps\. Pass max_steps=\.\.\., or add it"),
        ({"patch_size": 20}, RecipeError, r"configuration\.json, patch_size: train\.size is 20, but must be a whole number"),
        ({"adv_train_lr": "fast"}, RecipeError, "adv_train_lr: train.learning_rate is 'fast'"),
        ({"logging_interval": 0}, RecipeError, "logging_interval: train.log_every is 0"),
        ({"batch_size": 5}, DataError, "4 photos to train with, fewer than the batch of 5"),
    ],
)
def test_settings_that_cannot_be_used_are_named_as_the_user_knows_them(project, changes, error, message):
    configure(project / "model", **changes)
    with pytest.raises(error, match=message):
        trainer(project)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("photo", 5, "train.photo is 5, but must name a folder. Pass photo=..."),
        ("cartoon", [], r"train.cartoon is \[\], but must name a folder"),
        ("work_dir", False, "train.work_dir is false, but must name a folder"),
        ("work_dir", "", 'train.work_dir is "", but must name a folder'),
        ("resume_epoch", "last", 'train.resume_epoch is "last", but must be the N of tf_ckpts/model-N'),
        ("resume_epoch", -1, "train.resume_epoch is -1, but"),
    ],
)
def test_values_of_another_type_are_named_with_file_and_key(project, key, value, says):
    places = {"photo": f"{project}/data/face_photo", "cartoon": f"{project}/data/face_cartoon", "work_dir": "out"}
    configure(project / "model", **places | {key: value})
    with pytest.raises(UsageError, match=rf"model/configuration\.json: {says}"):
        CartoonTranslationTrainer(model=str(project / "model"))


def test_null_is_named_too(project):
    file = project / "model" / "configuration.json"
    settings = json.loads(file.read_text())
    settings["train"]["work_dir"] = None
    file.write_text(json.dumps(settings))
    with pytest.raises(UsageError, match=r"configuration\.json: train\.work_dir is null, but must name a folder"):
        CartoonTranslationTrainer(str(project / "model"), photo="a", cartoon="b")


@pytest.mark.parametrize("text", [None, "", "{}", "[]", '{"train": 3}', "\x00"])
def test_a_configuration_that_is_none_is_refused_by_name(project, text):
    file = project / "model" / "configuration.json"
    file.unlink() if text is None else file.write_text(text)
    with pytest.raises(UsageError, match=r"model/configuration\.json"):
        trainer(project)


def test_a_folder_without_pictures_is_named(project):
    with pytest.raises(DataError, match=r"no pictures in nowhere\. cartoon names a folder"):
        trainer(project, cartoon="nowhere")


def test_what_upstream_does_not_support_is_not_supported(project):
    with pytest.raises(NotImplementedError, match="stylekit eval"):
        trainer(project).evaluate()
    for name in ("export_saved_model", "export_onnx"):
        with pytest.raises(NotImplementedError):
            getattr(CartoonTranslationExporter(), name)("out")
    with pytest.raises(CheckpointError, match="nothing to start from at gone"):
        CartoonTranslationExporter().export_frozen_graph_def("gone", "x.pb")


def test_the_names_are_those_of_the_package():
    assert stylekit.modelscope.CartoonTranslationTrainer is dropin.CartoonTranslationTrainer
