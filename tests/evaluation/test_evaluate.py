import json
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torchmetrics.image.fid import FrechetInceptionDistance

from stylekit.assets import fetch
from stylekit.cli import run as run_command
from stylekit.config.schema import EvalRecipe, Recipe
from stylekit.data.manifest import ManifestLine, read_manifest, write_manifest
from stylekit.engine.checkpoint import META, WEIGHTS, Meta, load_generator
from stylekit.errors import CheckpointError, DataError, UsageError
from stylekit.evaluation import bench
from stylekit.evaluation.bench import face_gauges
from stylekit.evaluation.evaluate import (
    PICTURES_FILE,
    WORST_FILE,
    asked_for,
    evaluate,
    read_reports,
    report_folder,
    require_one_protocol,
)
from stylekit.faces.identity import FaceEmbedder
from stylekit.images import read_rgb, to_rgb, to_tensor, write_image
from stylekit.methods.base import build_generator
from stylekit.metrics import artefacts, colour, content, expression
from stylekit.metrics.baselines import bilateral_edges
from stylekit.metrics.features import load_extractor
from stylekit.metrics.pictures import read_pictures
from stylekit.metrics.report import PAPER_ROWS, EvalReport, Skipped, read_report, side_by_side, table, write_report
from stylekit.nn.vgg import load_vgg16_hed
from stylekit.paths import Workspace, sha256_bytes, sha256_file

SIZE, CROP = 32, 64
MEASURED = 256  # px, of the protocol own-v1
DLIB = "dlib-resnet@150-dlib"
FIVE = np.array([(24.0, 28.0), (40.0, 28.0), (32.0, 38.0), (26.0, 47.0), (38.0, 47.0)])  # in the crop
MATRIX = np.array([(0.5, 0.0, -3.0), (0.0, 0.5, 5.0)])
RESIZE = "224-bilinear-antialias"
QUICK = EvalRecipe(subsets=5)
QUICKEST = EvalRecipe(subsets=5, extractors=("efficientnet-lite0",))


def drawn_face(seed):
    random = np.random.default_rng(seed)
    picture = np.full((CROP, CROP, 3), random.integers(0, 256, 3), np.uint8)
    colours = random.integers(0, 256, (3, 3)).tolist()
    cv2.ellipse(picture, (32, 36), (int(random.integers(14, 22)), 24), 0, 0, 360, colours[0], -1)
    for eye in ((24, 28), (40, 28)):
        cv2.circle(picture, eye, int(random.integers(2, 5)), colours[1], -1)
    cv2.line(picture, (26, 47), (38, 47), colours[2], int(random.integers(1, 5)))
    return picture


def crop_line(folder, name, seed, **changes):
    write_image(folder / name, drawn_face(seed))
    landmarks = (FIVE - MATRIX[:, 2]) / 0.5
    values = {
        "status": "used",
        "template": "dctnet",
        "crop_size": CROP,
        "matrix": MATRIX.tolist(),
        "landmarks_5": landmarks.tolist(),
    }
    return ManifestLine(file=name, input=name, input_sha256=sha256_bytes(name.encode()), face_index=0, **(values | changes))


def save_run(workspace, **train):
    recipe = Recipe(style="blobs", train={"size": SIZE, "network": {"width": 4, "blocks": 1}} | train)
    torch.manual_seed(0)
    generator = build_generator(recipe)
    checkpoint = workspace.new_run_folder("blobs", "dctnet") / "checkpoints" / "step-000012"
    checkpoint.mkdir(parents=True)
    save_file({f"generator_ema.{key}": value.contiguous() for key, value in generator.state_dict().items()}, checkpoint / WEIGHTS)
    meta = Meta(step=12, images_seen=12, recipe=recipe, assets={}, data={}, sha256={WEIGHTS: sha256_file(checkpoint / WEIGHTS)})
    (checkpoint / META).write_text(meta.model_dump_json())
    return checkpoint.parent.parent


def make_workspace(root):
    space = Workspace(root)
    photos = [crop_line(space.photos, f"cropped/e{i}.png", i, person=f"p{i % 4}", split="eval") for i in range(6)]
    photos += [crop_line(space.photos, f"cropped/t{i}.png", 50 + i, person=f"q{i}", split="train") for i in range(3)]
    write_manifest(space.photos / "manifest.jsonl", photos)
    cartoons = [crop_line(space.style("blobs"), f"cartoon/{i}.png", 100 + i, landmarks_5=None, matrix=None) for i in range(8)]
    write_manifest(space.style("blobs") / "manifest.jsonl", cartoons)
    save_run(space)
    space.new_run_folder("blobs", "dctnet")  # a later run without a checkpoint
    space.set_current_style("blobs")
    return space


@pytest.fixture
def workspace(tmp_path, asset_home):
    return make_workspace(tmp_path)


FACE_GAUGES = face_gauges


@pytest.fixture(scope="module", autouse=True)
def without_face_gauges():
    """Leave out what takes seconds, but for the one test that takes `FACE_GAUGES`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stylekit.evaluation.bench.face_gauges", lambda device: [])
        yield


@pytest.fixture(scope="module")
def measured(tmp_path_factory, asset_home):
    space = make_workspace(tmp_path_factory.mktemp("project"))
    path = space.run_folders("blobs")[0] / "checkpoints/step-000012" / META
    trained_otherwise = Meta.model_validate_json(path.read_text()).model_copy(update={"data": {"photos": "another list"}})
    path.write_text(trained_otherwise.model_dump_json())
    torch.manual_seed(5)
    report = evaluate(workspace=space, settings=QUICK)
    return space, report, torch.rand(2)


def test_torchs_global_generator_is_left_alone(measured):
    torch.manual_seed(5)
    assert torch.equal(torch.rand(2), measured[2])


def at_size(folder, name, size):
    picture = read_rgb(folder / name)
    way = cv2.INTER_AREA if size < CROP else cv2.INTER_CUBIC
    return cv2.resize(picture, (size, size), interpolation=way)


def stylized_by(run, workspace):
    """Return the photographs at the network's size and what it makes of them, brought to the protocol's."""
    small = [at_size(workspace.photos, f"cropped/e{i}.png", SIZE) for i in range(6)]
    with torch.inference_mode():
        made = [to_rgb(load_generator(run).module(to_tensor(each)))[0] for each in small]
    return [cv2.resize(each, (MEASURED, MEASURED), interpolation=cv2.INTER_CUBIC) for each in made]


def test_figures_equal_a_second_computation_from_the_files(measured):
    workspace, report, _ = measured
    photos = [at_size(workspace.photos, f"cropped/e{i}.png", MEASURED) for i in range(6)]
    known = [at_size(workspace.photos, f"cropped/t{i}.png", MEASURED) for i in range(3)]
    cartoons = [at_size(workspace.style("blobs"), f"cartoon/{i}.png", MEASURED) for i in range(8)]
    stylized = stylized_by(workspace.run_folders("blobs")[0], workspace)
    pooled = load_vgg16_hed(fetch("vgg16-hed"), last="conv4_3").pooled
    with torch.inference_mode():
        own, reference = (pooled(to_tensor(np.stack(part))).double() / 5 for part in (stylized, cartoons))
    kernel = [(a @ b.T / a.shape[1] + 1) ** 3 for a, b in ((own, own), (reference, reference), (own, reference))]
    off_diagonal = [float((k.sum() - k.trace()) / (len(k) * (len(k) - 1))) for k in kernel[:2]]
    assert report.value("stylized", "kid_x1000_all") == pytest.approx(
        1000 * (sum(off_diagonal) - 2 * float(kernel[2].mean())), rel=1e-4
    )

    extractor, _ = load_extractor("efficientnet-lite0")
    direct = FrechetInceptionDistance(feature=extractor)
    filtered = [bilateral_edges(each) for each in photos]
    for part, real in ((cartoons, True), (filtered, False)):
        direct.update(to_tensor(np.stack(part)), real=real)
    assert report.value("bilateral-edges", "fid", f"efficientnet-lite0@{RESIZE}") == pytest.approx(
        float(direct.compute()), rel=1e-3
    )

    embedder, points = FaceEmbedder(), (FIVE + 0.5) * (MEASURED / CROP) - 0.5
    centre = embedder.embed(known, [points] * 3).mean(0)
    a, b = (embedder.embed(list(part), [points] * 6) for part in (photos, stylized))
    cosine = [
        float((p - centre) @ (s - centre) / np.linalg.norm(p - centre) / np.linalg.norm(s - centre))
        for p, s in zip(a, b, strict=True)
    ]
    assert report.value("stylized", "id_centred") == pytest.approx(np.mean(cosine), abs=1e-4)
    assert report.value("stylized", "id_l2") == pytest.approx(np.linalg.norm(a - b, axis=1).mean(), rel=1e-4)
    assert report.protocol.identity_centre[DLIB] == pytest.approx(list(centre), abs=1e-5)

    table_of_pictures = read_pictures(workspace.run_folders("blobs")[0] / PICTURES_FILE)
    assert table_of_pictures.files == [f"cropped/e{i}.png" for i in range(6)]
    assert table_of_pictures.persons == [f"p{i % 4}" for i in range(6)]
    assert table_of_pictures.figures[f"id_centred/{DLIB}"] == pytest.approx(cosine, abs=1e-4)


def test_report_names_its_conditions_and_reads_back(measured):
    workspace, report, _ = measured
    run = workspace.run_folders("blobs")[0]
    assert read_report(run / "eval.json") == report
    conditions = report.protocol
    assert report.network.trained_on == []
    assert not any("flatters" in note for note in report.notes)
    assert (report.run, report.network.step, report.network.size_px) == (run.name, 12, SIZE)
    assert report.network.sha256 == sha256_file(run / "checkpoints/step-000012" / WEIGHTS)
    assert (conditions.name, conditions.size_px, conditions.crop_size_px) == ("own-v1", MEASURED, [CROP])
    assert conditions.reference_manifest_sha256 == sha256_file(workspace.style("blobs") / "manifest.jsonl")
    assert (conditions.n, conditions.persons, conditions.reference_n, conditions.kid_subset_size) == (6, 4, 8, 3)
    assert [asset.name for asset in conditions.assets] == ["vgg16-hed", "efficientnet-lite0", "dlib-resnet"]
    assert conditions.extractors == [f"vgg16-hed@conv4_3-{RESIZE}", f"efficientnet-lite0@{RESIZE}"]
    assert all(f"kid_x1000/{network}/n6" in report.rows["stylized"] for network in conditions.extractors)
    assert {f"id_recognised/{DLIB}/n6", f"id_rank_1/{DLIB}/n6"} <= report.rows["stylized"].keys()
    assert {each.partition(":")[0] for each in conditions.deviations} == {"crops", "KID subsets", "split"}
    assert any("when the run was trained; it may have seen who is held out" in each for each in conditions.deviations)
    assert (report.value("photo", "id_centred"), report.value("photo", "id_rank_1")) == (pytest.approx(1), 1.0)
    assert report.value("photo", "id_rank_1_chance") == pytest.approx((2 * 4 + 2 * 1) / 36)
    assert list(report.delta) == conditions.extractors
    for network, delta in report.delta.items():
        stylized, photo = (report.value(row, "kid_x1000_all", network) for row in ("stylized", "photo"))
        assert delta.kid_x1000 == pytest.approx(stylized - photo)
        assert delta.low < delta.kid_x1000 < delta.high
    assert set(report.intervals) == set(report.rows) == {"stylized", "photo", "bilateral-edges", "colour-transfer"}
    for row, intervals in report.intervals.items():
        assert intervals
        assert all(low - 1e-9 <= report.rows[row][name] <= high + 1e-9 for name, (low, high) in intervals.items())


def test_table_shows_figures_intervals_and_the_papers_rows_apart(measured):
    report = measured[1]
    text = table(report)
    for network in report.protocol.extractors:
        low, high = report.interval("bilateral-edges", "kid_x1000", network)
        assert f"{report.value('bilateral-edges', 'kid_x1000', network):.1f} [{low:.1f} {high:.1f}]" in text
    assert text.count("stylized less photo") == 2
    assert all(f"deviates from own-v1: {each}" in text for each in report.protocol.deviations)
    above, _, below = text.partition("never compare with the rows above")
    assert all(method in below and method not in above for method in PAPER_ROWS)
    assert max(map(len, above.splitlines()[:-3])) < 150


@pytest.mark.slow
def test_two_evaluations_agree_and_the_batch_size_changes_nothing(measured, tmp_path, monkeypatch):
    workspace, report, _ = measured
    monkeypatch.setattr("stylekit.metrics.measure.home", lambda: tmp_path / "measured-anew")
    evaluate(workspace=workspace, settings=QUICK, output=tmp_path)
    assert (tmp_path / "eval.json").read_bytes() == (workspace.run_folders()[0] / "eval.json").read_bytes()
    monkeypatch.setattr("stylekit.metrics.measure.home", lambda: tmp_path / "measured-by-fours")
    found = evaluate(workspace=workspace, settings=QUICK, output=tmp_path, batch_size=4)
    for row, values in report.rows.items():
        assert found.rows[row] == pytest.approx(values, rel=1e-5, abs=1e-5)
    require_one_protocol([report, found])


def test_sheet_shows_each_photograph_beside_its_stylized_picture(measured):
    workspace = measured[0]
    run = workspace.run_folders("blobs")[0]
    sheet = read_rgb(run / "eval_sheet.jpg")
    assert sheet.shape == (3 * 260 - 4, 4 * 260 - 4, 3)
    photo = read_rgb(workspace.photos / "cropped/e1.png")
    stylized = to_rgb(load_generator(run).module(to_tensor(cv2.resize(photo, (SIZE, SIZE), interpolation=cv2.INTER_AREA))))[0]
    for left, picture in ((520, photo), (780, stylized)):
        shown = cv2.resize(sheet[:256, left : left + 256], picture.shape[:2], interpolation=cv2.INTER_AREA)
        assert np.abs(shown.astype(int) - picture).mean() < 6


def test_worst_pictures_are_told_and_shown_with_their_captions(measured):
    workspace, report, _ = measured
    cosine = read_pictures(workspace.run_folders("blobs")[0] / PICTURES_FILE).figures[f"id_centred/{DLIB}"]
    likeness = {each.file: each.reasons for each in report.worst}[f"cropped/e{int(np.argmin(cosine))}.png"]
    assert f"likeness {cosine.min():.2f} (median {np.median(cosine):.2f})" in likeness
    assert len(report.worst) == 6
    sheet = read_rgb(workspace.run_folders("blobs")[0] / WORST_FILE)
    photo = read_rgb(workspace.photos / report.worst[0].file)
    shown = cv2.resize(sheet[:256, :256], photo.shape[:2], interpolation=cv2.INTER_AREA)
    assert np.abs(shown.astype(int) - photo).mean() < 6
    caption = sheet[258:300, :400]
    assert (caption < 100).any(axis=-1).sum() > 50


def test_one_damaged_crop_is_listed_and_the_rest_measured(workspace):
    (workspace.photos / "cropped/e2.png").write_bytes(b"not a picture")
    (workspace.style("blobs") / "cartoon/3.png").unlink()
    report = evaluate(workspace=workspace, settings=QUICKEST)
    assert {each.file for each in report.skipped} == {"cropped/e2.png", "cartoon/3.png"}
    assert (report.protocol.n, report.protocol.reference_n) == (5, 7)
    assert all(f"left out: {each.file}" in table(report) for each in report.skipped)


def test_too_many_damaged_crops_are_an_error_that_names_one(workspace):
    for index in range(3):
        (workspace.photos / f"cropped/e{index}.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"Only 3 crops of .* can be read: .*e0\.png is empty"):
        evaluate(workspace=workspace, settings=QUICKEST)


@pytest.mark.slow
def test_a_manifest_without_landmarks_is_refused_by_name(workspace):
    manifest = workspace.photos / "manifest.jsonl"
    lines = [
        each.model_copy(update={"matrix": None}) if each.file == "cropped/e3.png" else each for each in read_manifest(manifest)
    ]
    write_manifest(manifest, lines)
    with pytest.raises(DataError, match=r"where the face in cropped/e3\.png is"):
        evaluate(workspace=workspace, settings=QUICKEST)


@pytest.mark.slow
def test_a_network_that_did_not_train_the_generator_leads(workspace):
    run = save_run(workspace, content={"network": "vgg16-hed"})
    report = evaluate(run, workspace=workspace, settings=QUICK)
    lead, other = report.protocol.extractors
    assert (lead, other) == (f"efficientnet-lite0@{RESIZE}", f"vgg16-hed@conv4_3-{RESIZE}")
    assert report.network.trained_on == ["vgg16-hed: content loss"]
    assert report.value("photo", "fid") == report.value("photo", "fid", lead) != report.value("photo", "fid", other)
    text = table(report)
    assert text.index(f"Style, on {lead}\n") < text.index(f"Style, on {other} (served in training)\n")


@pytest.mark.slow
def test_networks_that_also_trained_the_generator_are_flagged(workspace):
    run = save_run(
        workspace,
        content={"network": "efficientnet-lite0"},
        loss={"lambda_identity": 0.1, "lambda_projected": 0.1},
    )
    report = evaluate(run / "checkpoints" / "step-000012", workspace=workspace, settings=QUICKEST)
    assert report.network.trained_on == [
        "dlib-resnet: identity loss",
        "efficientnet-lite0: projected discriminators",
        "efficientnet-lite0: content loss",
    ]
    assert any("flatters the stylized row" in note for note in report.notes)
    assert (run / "eval.json").is_file()


@pytest.mark.slow
def test_every_figure_is_taken_and_is_nothing_for_the_photographs_themselves(workspace, monkeypatch):
    monkeypatch.setattr("stylekit.evaluation.bench.face_gauges", FACE_GAUGES)
    report = evaluate(workspace=workspace, settings=QUICKEST)
    of_a_picture = {"content", "colour_shift", "expression_eyes", "expression_mouth", "gaze", "pose_deg", "artefact_eyes"}
    assert {f"{metric}/n6" for metric in of_a_picture} <= report.rows["stylized"].keys() & report.intervals["stylized"].keys()
    assert all(report.value("photo", metric) == pytest.approx(0, abs=1e-4) for metric in of_a_picture)
    assert all(report.value("stylized", metric) > 0 for metric in ("content", "colour_shift", "expression_eyes", "pose_deg"))
    tones = {name for name in report.rows["stylized"] if name.startswith("ita_shift_deg/") and name.count("/") == 2}
    assert sum(int(name.rpartition("/n")[2]) for name in tones) <= 6
    assert of_a_picture <= read_pictures(workspace.run_folders("blobs")[0] / PICTURES_FILE).figures.keys()
    assert all(heading in table(report) for heading in ("Face, against the photograph", "mouth faults", "gaze"))


def test_what_was_asked_for_changes_with_everything_that_decides_a_figure(workspace):
    run = workspace.run_folders("blobs")[0]
    found = [
        asked_for(run, workspace),
        asked_for(run, workspace, settings=QUICK),
        asked_for(run, workspace, protocol="starter-v1"),
        asked_for(save_run(workspace, size=SIZE * 2), workspace),
    ]
    write_manifest(workspace.style("blobs") / "manifest.jsonl", read_manifest(workspace.style("blobs") / "manifest.jsonl")[:-1])
    found.append(asked_for(run, workspace))
    manifest = workspace.photos / "manifest.jsonl"
    write_manifest(manifest, [line for line in read_manifest(manifest) if line.file != "cropped/e5.png"])
    found.append(asked_for(run, workspace))
    assert len(set(found)) == len(found)
    assert asked_for(run, workspace) == found[-1]
    checkpoint = run / "checkpoints/step-000012" / META
    meta = Meta.model_validate_json(checkpoint.read_text())
    checkpoint.write_text(meta.model_copy(update={"data": {"photos": "another list"}}).model_dump_json())
    assert asked_for(run, workspace) not in found


def test_what_was_asked_for_changes_with_every_network_and_gauge_that_measures(workspace, monkeypatch):
    run = workspace.run_folders("blobs")[0]
    before = asked_for(run, workspace)
    real = bench.resolve
    roles = ("identity", "content", "face-detector", "face-mesh", "iris", "portrait-mask")

    def another(changed):
        return lambda role, *name: replace(real(role, *name), sha256="0" * 64) if role == changed else real(role, *name)

    found = []
    for changed in roles:
        monkeypatch.setattr(bench, "resolve", another(changed))
        found.append(asked_for(run, workspace))
    monkeypatch.setattr(bench, "resolve", real)
    assert asked_for(run, workspace) == before
    extractor = bench.resolve_extractor
    monkeypatch.setattr(bench, "resolve_extractor", lambda name: replace(extractor(name), sha256="0" * 64))
    found.append(asked_for(run, workspace))
    monkeypatch.setattr(bench, "resolve_extractor", extractor)
    for gauge in (artefacts, colour, content, expression):
        with monkeypatch.context() as patch:
            patch.setattr(gauge, "VERSION", 99)
            found.append(asked_for(run, workspace))
    assert len({before, *found}) == 1 + len(found) == 12


def add_checkpoint(run, step):
    """Add a later checkpoint of other weights."""
    first = run / "checkpoints/step-000012"
    later = run / f"checkpoints/step-{step:06d}"
    shutil.copytree(first, later)
    weights = load_file(later / WEIGHTS)
    save_file({key: value * 0.9 for key, value in weights.items()}, later / WEIGHTS)
    meta = Meta.model_validate_json((later / META).read_text())
    digests = {WEIGHTS: sha256_file(later / WEIGHTS)}
    (later / META).write_text(meta.model_copy(update={"step": step, "sha256": digests}).model_dump_json())
    return later


def test_figures_of_a_checkpoint_lie_in_the_run_only_if_it_stands_for_the_run(workspace):
    run = workspace.run_folders("blobs")[0]
    first = run / "checkpoints/step-000012"
    assert report_folder(run) == report_folder(first) == run
    later = add_checkpoint(run, 24)
    assert (report_folder(run), report_folder(later), report_folder(first)) == (run, run, first)
    shutil.copytree(first, run / "checkpoints/best")
    assert (report_folder(later), report_folder(first)) == (later, run)
    (run / "checkpoints/best" / META).write_text("{")
    assert report_folder(first) == first


@pytest.mark.slow
def test_an_earlier_checkpoint_is_measured_into_its_own_folder_and_the_run_keeps_its_figures_and_page(workspace):
    run = workspace.run_folders("blobs")[0]
    first = run / "checkpoints/step-000012"
    add_checkpoint(run, 24)
    (run / "eval.json").write_text("the run's own")
    report = evaluate(first, workspace=workspace, settings=QUICKEST)
    assert read_report(first / "eval.json") == report
    assert (run / "eval.json").read_text() == "the run's own"
    assert not (run / "report.html").exists()
    evaluate(run, workspace=workspace, settings=QUICKEST)
    assert read_report(run / "eval.json").network.step == 24
    assert (run / "report.html").is_file()


def test_figures_of_two_protocols_are_never_in_one_table(measured):
    report = measured[1]
    require_one_protocol([report, report])
    other = report.model_copy(update={"run": "00007-other", "protocol": report.protocol.model_copy(update={"size_px": 128})})
    with pytest.raises(DataError, match=r"00000-blobs-dctnet and 00007-other do not compare: .*256.*128.*stylekit eval"):
        require_one_protocol([report, report, other])


def test_several_evaluations_of_one_protocol_make_one_table(measured, tmp_path, capsys):
    report = measured[1]
    stylized = {name: 2 * value for name, value in report.rows["stylized"].items()}
    twice = report.model_copy(update={"run": "00007-other", "rows": report.rows | {"stylized": stylized}})
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, each in zip(files, (report, twice), strict=True):
        write_report(path, each)
    assert run_command(["compare", "--json", *map(str, files)]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [EvalReport.model_validate(each).run for each in printed["evaluations"]] == [report.run, "00007-other"]
    lines = side_by_side(read_reports(files)).splitlines()
    assert lines[4].split()[:2] == ["00000-blobs-dctnet@12", f"{report.value('stylized', 'kid_x1000'):.1f}"]
    assert lines[5].split()[:2] == ["00007-other@12", f"{2 * report.value('stylized', 'kid_x1000'):.1f}"]
    second = report.protocol.extractors[1]
    assert lines[3].endswith(f"KIDx1000 on {second.partition('@')[0]}")
    assert f"  {report.value('stylized', 'kid_x1000', second):.1f} [" in lines[4]
    write_report(files[1], report.model_copy(update={"protocol": report.protocol.model_copy(update={"name": "own-v2"})}))
    assert run_command(["compare", *map(str, files)]) == 1


def with_protocol(report, run, **changes):
    return report.model_copy(update={"run": run, "protocol": report.protocol.model_copy(update=changes)})


def test_evaluations_are_set_side_by_side_by_the_networks_that_all_have(measured):
    report = measured[1]
    vgg, efficient = report.protocol.extractors
    few = with_protocol(report, "00001-few", extractors=[efficient])
    text = side_by_side([report, few])
    assert f"Style on {efficient}, person on {DLIB}" in text
    for line in text.splitlines()[4:6]:
        assert line.split()[1] == f"{report.value('stylized', 'kid_x1000', efficient):.1f}"
    assert side_by_side([report, report]).splitlines()[1].startswith(f"Style on {vgg}")
    trained = report.network.model_copy(update={"trained_on": ["vgg16-hed: content loss"]})
    assert f"Style on {efficient}" in side_by_side([report, report.model_copy(update={"network": trained})])
    others = [few, with_protocol(report, "00002-vgg", extractors=[vgg])]
    with pytest.raises(DataError, match="extractors: none in common"):
        require_one_protocol([report, *others])
    third = with_protocol(report, "00003-third", extractors=["third@x", vgg])
    few = with_protocol(report, "00001-few", extractors=[efficient, "third@x"])
    with pytest.raises(DataError, match="have no extractor in common"):
        require_one_protocol([report, few, third])


def test_what_is_to_be_known_of_each_evaluation_stands_below_the_table(measured):
    report = measured[1]
    changes = {"deviations": [*report.protocol.deviations, "template: ffhq instead of dctnet"]}
    other = with_protocol(report, "00007-other", **changes).model_copy(
        update={"notes": ["Few."], "skipped": [Skipped(file="e9.png", reason="gone.")]}
    )
    lines = side_by_side([report, other]).splitlines()
    assert "(deviating)" in lines[0]
    assert {f"all: deviates from own-v1: {each}" for each in report.protocol.deviations} <= set(lines)
    assert {f"00000-blobs-dctnet@12: note: {note}" for note in report.notes} <= set(lines)
    assert lines[-3:] == [
        "00007-other@12: deviates from own-v1: template: ffhq instead of dctnet",
        "00007-other@12: note: Few.",
        "00007-other@12: left out: e9.png: gone.",
    ]


def test_every_two_evaluations_of_a_table_must_compare(measured):
    report = measured[1]
    without = with_protocol(report, "00001-a", gauges=[])
    with pytest.raises(DataError, match="00000-blobs-dctnet and 00002-b do not compare: gauge artefacts: not the same"):
        require_one_protocol([without, report, with_protocol(report, "00002-b", gauges=["artefacts/99"])])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--style", "blobs"], "so --style would change nothing"),
        (["--paper", "--batch-size", "4"], "so --paper, --batch-size would change nothing"),
        (["--write-photos", "here"], "so --write-photos would change nothing"),
        (["runs/00000"], "runs/00000 is to be measured"),
    ],
)
def test_evaluations_that_are_there_take_no_option_and_no_run_beside_them(measured, capsys, options, said):
    file = measured[0].run_folders("blobs")[0] / "eval.json"
    assert run_command(["compare", str(file), *options]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [{"extractors": ["vgg"]}, {"embedders": ["dlib"]}])
def test_a_network_that_does_not_exist_is_refused_before_anything_is_measured(workspace, arguments):
    with pytest.raises(UsageError, match=r"There is no network '(vgg|dlib)'"):
        evaluate(workspace=workspace, **arguments)


def test_no_trained_run_says_so(workspace):
    with pytest.raises(DataError, match=r"no trained run of the style other.*stylekit train"):
        evaluate(workspace=workspace, style="other")
    with pytest.raises(CheckpointError):
        evaluate(workspace.run_folders("blobs")[-1], workspace=workspace)
