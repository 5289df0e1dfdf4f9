import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from stylekit.config.load import parse_recipe
from stylekit.data.manifest import read_manifest, write_manifest
from stylekit.engine import train as engine
from stylekit.engine.checkpoint import (
    Meta,
    best_checkpoint,
    checkpoint_folders,
    chosen_checkpoint,
    latest_checkpoint,
    load_generator,
    read_meta,
)
from stylekit.engine.evaluations import (
    EVALS_FILE,
    NOTICEABLE,
    PLATEAU,
    Evaluation,
    drop_evaluations_after,
    is_over,
    name_step,
    read_evaluations,
    standing,
)
from stylekit.engine.page import PAGE
from stylekit.engine.selection import HeldOut, open_held_out, served_in_training
from stylekit.engine.start import find_start
from stylekit.engine.train import train
from stylekit.errors import Interrupted
from stylekit.evaluation.bench import open_bench
from stylekit.images import read_rgb, write_image
from stylekit.metrics.embedders import IdentityGauge
from stylekit.metrics.features import FeatureGauge
from stylekit.pipeline import check
from tests.engine.conftest import TINY, tiny_recipe
from tests.engine.test_train import assert_equal_runs
from tests.evaluation.test_evaluate import make_workspace

FLOOR = 0.5


def evaluation(step, kid, *, spread=5.0, recognised=1.0, conditions="same", best=False):
    """Return an evaluation of a relative KID in hundredths; that of the leading extractor says the contrary."""
    return Evaluation(
        step=step,
        images_seen=3 * step,
        kid_relative=kid / 100,
        kid_relative_low=(kid - 1.96 * spread) / 100,
        kid_relative_high=(kid + 1.96 * spread) / 100,
        kid_x1000=300 - kid,
        kid_x1000_low=290 - kid,
        kid_x1000_high=310 - kid,
        id_centred=0.5,
        id_recognised=recognised,
        neighbour_coverage=0.4,
        kids_x1000={"vgg16-hed": 300 - kid, "efficientnet-lite0": 5 * kid},
        extractor="vgg16-hed",
        embedder="dlib-resnet",
        conditions=conditions,
        above_floor=recognised >= FLOOR,
        best=best,
    )


class Curve:
    """Stands for the held-out photographs: relative KID, in hundredths, by step."""

    conditions = "same"
    protocol = SimpleNamespace(name="own-v1", floors=SimpleNamespace(id_recognised=FLOOR, neighbour_coverage=0.15))

    def __init__(self, kids, ranks=None):
        self.kids, self.ranks, self.seen = kids, ranks or {}, []

    def measure(self, network, meta):
        weights = torch.cat([p.flatten() for p in network.parameters()])
        self.seen.append((meta.step, float(weights.double().sum())))
        return evaluation(meta.step, self.kids[meta.step], recognised=self.ranks.get(meta.step, 1.0))


@pytest.fixture
def measured_by(monkeypatch):
    def use(curve):
        monkeypatch.setattr(engine, "open_held_out", lambda *_: curve)
        return curve

    return use


EVERY = ("train.eval_every=1", "train.save_every=3", "train.keep_checkpoints=2")


def test_the_lowest_kid_above_the_floor_is_kept_and_never_pruned(workspace, measured_by):
    measured_by(Curve({1: 90, 2: 40, 3: 60, 4: 20, 5: 55, 6: 50}, ranks={4: 0.2}))
    report = train(tiny_recipe(*EVERY), workspace=workspace, device="cpu")
    assert [p.name for p in checkpoint_folders(report.run)] == ["step-000003", "step-000006"]
    assert (report.best, report.evaluations, report.ended_early) == (2, 6, False)
    lines = [json.loads(line) for line in (report.run / EVALS_FILE).read_text().splitlines()]
    assert [line["metric/kid_relative"] for line in lines] == [0.9, 0.4, 0.6, 0.2, 0.55, 0.5]
    assert [line["step"] for line in lines if line["best"]] == [1, 2]
    assert [line["step"] for line in lines if not line["above_floor"]] == [4]
    assert set(lines[0]) == {
        "step", "images_seen", "metric/kid_relative", "metric/kid_relative_low", "metric/kid_relative_high", "metric/kid_x1000",
        "metric/kid_x1000_low", "metric/kid_x1000_high", "metric/id_centred", "metric/id_recognised", "metric/neighbour_coverage",
        "kids_x1000", "extractor", "embedder", "conditions", "above_floor", "best"
    }  # fmt: skip
    assert load_generator(report.run).step == 2
    assert load_generator(report.run / "checkpoints" / "best").step == 2
    assert load_generator(report.run / "checkpoints" / "step-000003").step == 3
    assert read_meta(latest_checkpoint(report.run)).step == 6
    assert find_start(str(report.run)).weights.step == 6
    assert find_start(str(report.run / "checkpoints" / "best")).weights.step == 2
    assert name_step(chosen_checkpoint(report.run)) == "step 2, the best of 6 evaluations"
    assert name_step(latest_checkpoint(report.run)) == "step 6"


def test_the_last_step_is_evaluated_too_and_no_best_step_is_made_of_none(workspace, measured_by, caplog):
    curve = measured_by(Curve({4: 10, 6: 5}, ranks={4: 0.1, 6: 0.4}))
    with caplog.at_level("INFO", "stylekit"):
        run = train(tiny_recipe("train.eval_every=4"), workspace=workspace, device="cpu").run
    assert [step for step, _ in curve.seen] == [4, 6]
    assert best_checkpoint(run) is None
    assert chosen_checkpoint(run) == latest_checkpoint(run)
    assert caplog.text.count("No step is kept as the best: none reached the floors of own-v1, 50% of the people recognised") == 1


def test_training_is_the_same_to_the_last_bit_with_and_without_evaluation(workspace, measured_by):
    measured_by(None)
    plain = train(tiny_recipe(), workspace=workspace, device="cpu").run
    measured_by(Curve({step: 10 * step for step in range(1, 7)}))
    watched = train(tiny_recipe(*EVERY), workspace=workspace, device="cpu").run
    assert_equal_runs(plain, watched, 6)


def test_what_is_measured_is_the_running_mean(workspace, measured_by):
    curve = measured_by(Curve({6: 1}))
    run = train(tiny_recipe("train.eval_every=6"), workspace=workspace, device="cpu").run
    kept = torch.cat([p.flatten() for p in load_generator(run).module.parameters()])
    assert curve.seen == [(6, float(kept.double().sum()))]


KILLED = """
import os, signal
from pathlib import Path
import stylekit.engine.{module} as module
from stylekit.config.load import parse_recipe
from stylekit.engine import train as engine
from stylekit.paths import Workspace
from tests.engine.test_selection import Curve
plain = module.{function}
def die(*given, **named):
    step = {step}
    if step == 5 and not {after}:
        os.kill(os.getpid(), signal.SIGKILL)
    done = plain(*given, **named)
    if step == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return done
module.{function} = die
engine.open_held_out = lambda *_: Curve({kids})
recipe = parse_recipe({tiny!r}, {changes})
engine.train(recipe, workspace=Workspace(Path({root!r})), resume=True, device="cpu")
"""
KIDS = {1: 60, 2: 50, 3: 55, 4: 52, 5: 30, 6: 40}
MOMENTS = {
    "between evaluation and save": ("trainer", "save_checkpoint", "given[3].step", False, 2, 4),
    "between save and best": ("selection", "keep_as_best", "int(given[1].name[5:])", False, 2, 5),
    "between best and its line": ("selection", "keep_as_best", "int(given[1].name[5:])", True, 5, 5),
    "after the line": ("selection", "add_evaluation", "given[1].step", True, 5, 5),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was never stopped, and what it wrote."""
    from tests.engine.conftest import workspace

    project = workspace.__wrapped__(tmp_path_factory.mktemp("whole"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "open_held_out", lambda *_: Curve(KIDS))
        return train(tiny_recipe("train.eval_every=1", "train.save_every=4"), workspace=project, device="cpu").run


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_at_any_moment_of_an_evaluation_comes_to_the_same(workspace, measured_by, whole, moment):
    module, function, step, after, best, newest = MOMENTS[moment]
    changes = ("train.eval_every=1", "train.save_every=4")
    measured_by(Curve(KIDS))
    # Four steps of the same run, whose recipe goes on to six: max_steps is free on resume.
    train(tiny_recipe(*changes, "train.max_steps=4"), workspace=workspace, device="cpu")
    code = KILLED.format(
        module=module,
        function=function,
        step=step,
        after=after,
        kids=KIDS,
        tiny=TINY,
        changes=list(changes),
        root=str(workspace.root),
    )
    died = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2]
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    run = workspace.run_folders()[-1]
    assert (load_generator(run).step, read_meta(latest_checkpoint(run)).step) == (best, newest)
    train(tiny_recipe(*changes), workspace=workspace, resume=True, device="cpu")
    assert_equal_runs(whole, run, 6)
    assert (run / EVALS_FILE).read_text() == (whole / EVALS_FILE).read_text()
    kept, wanted = (load_file(each / "checkpoints" / "best" / "weights.safetensors") for each in (run, whole))
    assert all(torch.equal(kept[name], wanted[name]) for name in wanted)
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["best", "step-000004", "step-000005", "step-000006"]


def test_a_best_step_later_than_the_resumed_one_is_set_aside_and_the_one_before_comes_back(workspace, measured_by, caplog):
    kids = {1: 60, 2: 50, 3: 55, 4: 20, 5: 45, 6: 10}
    measured_by(Curve(kids))
    run = train(tiny_recipe("train.eval_every=1", "train.max_steps=4"), workspace=workspace, device="cpu").run
    later = load_generator(run).sha256
    for checkpoint in checkpoint_folders(run):
        if checkpoint.name not in ("step-000002",):
            for file in checkpoint.iterdir():
                file.unlink()
            checkpoint.rmdir()
    with (run / EVALS_FILE).open("a") as stream:
        stream.write('{"step": 7, "metr')
    measured_by(None)
    with caplog.at_level("INFO", "stylekit"):
        train(tiny_recipe("train.eval_every=1", "train.max_steps=2"), workspace=workspace, resume=True, device="cpu")
    assert "it lies in" in caplog.text
    assert load_generator(run).step == 2
    assert load_generator(run / "checkpoints" / "best-step-000004").sha256 == later
    assert [line.step for line in read_evaluations(run)] == [1, 2]
    measured_by(Curve(kids))
    report = train(tiny_recipe("train.eval_every=1"), workspace=workspace, resume=True, device="cpu")
    assert (report.best, [line.step for line in read_evaluations(run)]) == (6, [1, 2, 3, 4, 5, 6])


def test_ctrl_c_is_not_an_evaluation(workspace, measured_by):
    class Stopping(Curve):
        def measure(self, network, meta):
            if meta.step == 2:
                os.kill(os.getpid(), signal.SIGINT)
            return super().measure(network, meta)

    measured_by(Stopping({2: 30}))
    changes = ("train.eval_every=2", "train.save_every=6")
    with pytest.raises(Interrupted, match="after step 3"):
        train(tiny_recipe(*changes), workspace=workspace, device="cpu")
    run = workspace.run_folders()[-1]
    assert [line.step for line in read_evaluations(run)] == [2]
    assert load_generator(run).step == 2


def test_patience_ends_training_cleanly_and_the_run_counts_as_finished(workspace, measured_by, monkeypatch, caplog):
    measured_by(Curve({1: 50, 2: 51, 3: 49, 4: 10, 5: 50, 6: 60}))
    changes = ("train.eval_every=1", "train.save_every=100", "train.patience=2")
    report = train(tiny_recipe(*changes), workspace=workspace, device="cpu")
    assert (report.step, report.best, report.ended_early) == (3, 3, True)
    assert read_meta(latest_checkpoint(report.run)).step == 3

    monkeypatch.setattr(engine, "check", lambda *_, **__: pytest.fail("a finished run needs nothing"))
    check(tiny_recipe(*changes), workspace=workspace, resume=True)
    with caplog.at_level("INFO", "stylekit"):
        again = train(tiny_recipe(*changes), workspace=workspace, resume=True, device="cpu")
    assert (again.step, again.ended_early) == (3, True)
    assert "Training ended at step 3" in caplog.text
    assert "--resume --patience 0" in caplog.text

    patient = tiny_recipe("train.eval_every=1", "train.save_every=100", "train.patience=3")
    assert not is_over(report.run, patient.train, 3)
    more = train(patient, workspace=workspace, resume=True, device="cpu")
    assert (more.step, more.best, more.ended_early) == (6, 4, False)


def test_the_page_is_written_with_every_checkpoint_and_at_the_end_after_ctrl_c_too(workspace, measured_by):
    class Reader(Curve):
        pages = ()

        def measure(self, network, meta):
            page = workspace.run_folders()[-1] / PAGE
            self.pages += (page.read_text("utf-8") if page.is_file() else "",)
            if meta.step == 3:
                os.kill(os.getpid(), signal.SIGINT)
            return super().measure(network, meta)

    curve = measured_by(Reader({1: 40, 2: 30, 3: 20, 4: 10}))
    with pytest.raises(Interrupted, match="after step 4"):
        train(tiny_recipe("train.eval_every=1", "train.save_every=100"), workspace=workspace, device="cpu")
    assert curve.pages[0] == ""
    written = [*curve.pages[1:], (workspace.run_folders()[-1] / PAGE).read_text("utf-8")]
    assert all(f"Step {n} is the best of {n}:" in page for n, page in enumerate(written, 1))


def curve_of(kids, **named):
    return standing(evaluation(100 * (i + 1), kid, **named) for i, kid in enumerate(kids))


def test_a_plateau_is_counted_from_the_last_noticeably_better_step():
    margin = NOTICEABLE * 5
    falling = curve_of([100 - 3 * margin * i for i in range(20)])
    assert (falling.stale, falling.best.step) == (0, 2000)
    noise = np.random.default_rng(0).uniform(-margin / 2, margin / 2, 20)
    flat = curve_of([100, 60, *(40 + noise - margin / 2)])
    assert flat.noticed.step == 300
    assert flat.stale == 19
    assert flat.best.kid_relative == min(40 + noise - margin / 2) / 100
    creeping = curve_of([100 - 0.4 * margin * i for i in range(20)])
    assert creeping.stale < PLATEAU
    assert creeping.noticed.step > 1700


def test_nothing_counts_before_the_first_step_above_the_floor():
    below = [evaluation(step, 50 - step, recognised=0.1) for step in range(1, 20)]
    assert standing(below).stale == 0
    assert standing(below).best is None
    after = standing([*below, evaluation(20, 80), evaluation(21, 10, recognised=0.2)])
    assert (after.best.step, after.stale) == (20, 1)


def test_evaluations_of_other_pictures_do_not_compare():
    told = [evaluation(1, 5, conditions="before"), evaluation(2, 50), evaluation(3, 60)]
    assert standing(told).best.step == 2


@settings(max_examples=30)
@given(st.lists(st.tuples(st.floats(-10, 200), st.sampled_from([0.1, 0.9])), max_size=12), st.integers(0, 12))
def test_the_standing_of_a_run_cut_off_anywhere_goes_on_as_if_it_had_not_been(told, cut):
    lines = [evaluation(i + 1, kid, recognised=rank) for i, (kid, rank) in enumerate(told)]
    going_on = standing(lines[:cut])
    for line in lines[cut:]:
        going_on = going_on.after(line)
    assert going_on == standing(lines)
    above = [line for line in lines if line.above_floor]
    assert going_on.best == (min(above, key=lambda line: line.kid_relative) if above else None)


def test_a_damaged_line_is_passed_over(tmp_path):
    good = evaluation(1, 5)
    (tmp_path / EVALS_FILE).write_text(good.line() + "{}\n" + evaluation(2, 4).line().rstrip() + '\n{"step": 3')
    assert [line.step for line in read_evaluations(tmp_path)] == [1, 2]
    drop_evaluations_after(tmp_path, 1)
    assert (tmp_path / EVALS_FILE).read_text() == good.line()


FACES = """
style: blobs
train: {size: 64, network: {width: 4, blocks: 1}, content: {network: vgg16-hed}}
eval: {extractors: [efficientnet-lite0]}
"""


@pytest.fixture(scope="module")
def faces(tmp_path_factory, asset_home):
    """Six drawn faces of four persons held out, three to train with, eight cartoons; crops of 64 px."""
    return make_workspace(tmp_path_factory.mktemp("faces"))


@pytest.fixture(scope="module")
def real(faces):
    return HeldOut(parse_recipe(FACES), {}, faces, torch.device("cpu"))


class Painter(torch.nn.Module):
    """Paints every photograph as `paint` does."""

    def __init__(self, paint):
        super().__init__()
        self.paint = paint
        self.place = torch.nn.Parameter(torch.zeros(1))

    def forward(self, pictures, *_):
        return self.paint(pictures)


def painted(held_out, paint):
    return held_out.measure(Painter(paint), Meta(step=3, images_seen=9, recipe=parse_recipe(FACES), assets={}, data={}))


def test_the_real_networks_find_the_photographs_in_what_repeats_them_and_draw_no_number(real):
    before = torch.get_rng_state()
    found = painted(real, lambda pictures: pictures)
    assert torch.equal(torch.get_rng_state(), before)
    assert (found.step, found.images_seen, found.embedder) == (3, 9, "dlib-resnet@150-dlib")
    assert found.kid_relative == pytest.approx(1, abs=1e-4)
    assert found.kid_relative_low < found.kid_relative < found.kid_relative_high
    assert found.kid_x1000_low < found.kid_x1000 < found.kid_x1000_high
    assert (found.id_centred, found.id_recognised) == (pytest.approx(1, abs=1e-4), 1)


@pytest.mark.parametrize(
    ("asked", "level"), [((), "INFO"), (("train.eval_every=2",), "WARNING"), (("train.patience=3",), "WARNING")]
)
def test_that_nothing_can_be_measured_is_a_warning_where_it_was_asked_for(workspace, caplog, asked, level):
    recipe = parse_recipe(FACES, asked)
    meta = Meta(step=0, images_seen=0, recipe=recipe, assets={}, data={})
    with caplog.at_level("INFO", "stylekit"):
        assert open_held_out(meta, workspace, torch.device("cpu")) is None
    (record,) = [each for each in caplog.records if "no best step is kept" in each.message]
    assert record.levelname == level


def test_one_picture_for_all_is_below_the_floors_even_if_everybody_were_recognised(real, monkeypatch):
    found = painted(real, lambda pictures: pictures[:1].expand_as(pictures))
    floors = real.protocol.floors
    assert found.id_recognised < floors.id_recognised
    assert found.neighbour_coverage < floors.neighbour_coverage
    monkeypatch.setattr("stylekit.engine.selection.identity", lambda *_: SimpleNamespace(centred=1.0, recognised=1.0))
    again = painted(real, lambda pictures: pictures[:1].expand_as(pictures))
    assert (again.id_recognised, again.above_floor) == (1, False)
    monkeypatch.setattr("stylekit.engine.selection.neighbour_coverage", lambda *_: floors.neighbour_coverage)
    assert painted(real, lambda pictures: pictures).above_floor
    few = SimpleNamespace(centred=1.0, recognised=floors.id_recognised - 0.01)
    monkeypatch.setattr("stylekit.engine.selection.identity", lambda *_: few)
    assert not painted(real, lambda pictures: pictures).above_floor


def test_an_evaluation_afterwards_finds_what_training_measured(faces, real, monkeypatch):
    monkeypatch.setattr("stylekit.evaluation.bench.face_gauges", lambda device: [])
    extractors = parse_recipe(FACES).eval
    bench = open_bench(faces, "blobs", extractors, own_photos=parse_recipe(FACES).photos.source, device="cpu")
    monkeypatch.setattr("stylekit.metrics.features._features", lambda *_: pytest.fail("measured again"))
    monkeypatch.setattr("stylekit.metrics.embedders.Embedder.embed", lambda *_: pytest.fail("measured again"))
    bench.gauges = [gauge for gauge in bench.gauges if isinstance(gauge, FeatureGauge | IdentityGauge)]
    bench._of_reference = [gauge for gauge in bench.gauges if isinstance(gauge, FeatureGauge)]
    assert set(bench.photo) == {f"features/{real.extractor}", "embedding/dlib-resnet"}
    assert set(bench.reference) == {f"features/{real.extractor}"}
    assert set(bench.centres) == {"dlib-resnet"}


@pytest.mark.slow
def test_all_extractors_choose_together_and_the_one_that_did_not_serve_in_training_leads(faces):
    both = HeldOut(parse_recipe(FACES, ["eval.extractors=[vgg16-hed,efficientnet-lite0]"]), {}, faces, torch.device("cpu"))
    found = painted(both, lambda pictures: pictures * 0.5)
    assert list(found.kids_x1000) == [both.extractor, "vgg16-hed@conv4_3-224-bilinear-antialias"]
    assert both.extractor.startswith("efficientnet-lite0")
    assert found.kids_x1000[both.extractor] == found.kid_x1000
    photographs = painted(both, lambda pictures: pictures)
    shares = [found.kids_x1000[name] / photographs.kids_x1000[name] for name in found.kids_x1000]
    assert found.kid_relative == pytest.approx(np.mean(shares), rel=1e-3)
    assert found.conditions != HeldOut(parse_recipe(FACES), {}, faces, torch.device("cpu")).conditions
    assert found == painted(both, lambda pictures: pictures * 0.5)


@pytest.mark.slow
def test_evaluations_compare_only_on_the_same_pixels_and_landmarks(tmp_path, asset_home):
    space = make_workspace(tmp_path)

    def conditions():
        return HeldOut(parse_recipe(FACES), {}, space, torch.device("cpu")).conditions

    found = [conditions()]
    manifest = space.photos / "manifest.jsonl"
    lines = read_manifest(manifest)
    moved = [[[x + 1, y] for x, y in line.landmarks_5] for line in lines]
    write_manifest(manifest, [line.model_copy(update={"landmarks_5": each}) for line, each in zip(lines, moved, strict=True)])
    found.append(conditions())
    write_manifest(manifest, lines)
    for crop in (space.photos / "cropped/e1.png", space.photos / "cropped/t1.png", space.style("blobs") / "cartoon/1.png"):
        write_image(crop, 255 - read_rgb(crop))
        found.append(conditions())
    assert len(set(found)) == 5


def test_a_network_that_served_in_training_does_not_lead():
    recipe = parse_recipe("style: dots\ntrain: {content: {network: vgg16-hed}}")
    assert list(served_in_training(recipe, {})) == ["vgg16-hed"]
    demo = parse_recipe("style: dots\ntrain: {content: {network: efficientnet-lite0}, loss: {lambda_projected: 1}}")
    assert served_in_training(demo, {}) == {"efficientnet-lite0": ["projected discriminators", "content loss"]}
