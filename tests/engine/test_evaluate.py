import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchmetrics.image.fid import FrechetInceptionDistance

from stylekit.assets import fetch
from stylekit.config.schema import EvalRecipe, Recipe
from stylekit.data.manifest import ManifestLine, read_manifest, write_manifest
from stylekit.engine.checkpoint import META, WEIGHTS, Meta, load_generator
from stylekit.engine.evaluate import evaluate
from stylekit.errors import CheckpointError, DataError
from stylekit.faces.identity import FaceEmbedder
from stylekit.images import read_rgb, to_rgb, to_tensor, write_image
from stylekit.methods.base import build_generator
from stylekit.metrics.baselines import posterise
from stylekit.metrics.features import load_extractor
from stylekit.metrics.report import PAPER_ROWS, read_report, table
from stylekit.nn.vgg import load_vgg16_hed
from stylekit.paths import Workspace, sha256_bytes, sha256_file

SIZE, CROP = 32, 64
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


@pytest.fixture(scope="module")
def measured(tmp_path_factory, asset_home):
    space = make_workspace(tmp_path_factory.mktemp("project"))
    torch.manual_seed(5)
    report = evaluate(workspace=space, settings=QUICK)
    return space, report, torch.rand(2)


def test_torchs_global_generator_is_left_alone(measured):
    torch.manual_seed(5)
    assert torch.equal(torch.rand(2), measured[2])


def test_figures_equal_a_second_computation_from_the_files(measured):
    workspace, report, _ = measured
    run = workspace.run_folders("blobs")[0]
    small = [
        cv2.resize(read_rgb(workspace.photos / f"cropped/e{i}.png"), (SIZE, SIZE), interpolation=cv2.INTER_AREA) for i in range(6)
    ]
    known = [
        cv2.resize(read_rgb(workspace.photos / f"cropped/t{i}.png"), (SIZE, SIZE), interpolation=cv2.INTER_AREA) for i in range(3)
    ]
    cartoons = [read_rgb(workspace.style("blobs") / f"cartoon/{i}.png") for i in range(8)]
    cartoons = [cv2.resize(each, (SIZE, SIZE), interpolation=cv2.INTER_AREA) for each in cartoons]
    with torch.inference_mode():
        stylized = to_rgb(load_generator(run).module(to_tensor(np.stack(small))))
        extractor, _ = load_extractor("efficientnet-lite0")
        x, y = (extractor(to_tensor(np.stack(part))).double() for part in (stylized, cartoons))
        pooled = load_vgg16_hed(fetch("vgg16-hed"), last="conv4_3").pooled
        u, v = (pooled(to_tensor(np.stack(part))).double() / 5 for part in (stylized, cartoons))
        inputs = [to_tensor(np.stack(part)) for part in (cartoons, [posterise(each) for each in small])]
    for network, own, reference in ((None, u, v), (f"vgg16-hed@conv4_3-{RESIZE}", u, v), (f"efficientnet-lite0@{RESIZE}", x, y)):
        kernel = [(a @ b.T / a.shape[1] + 1) ** 3 for a, b in ((own, own), (reference, reference), (own, reference))]
        off_diagonal = [float((k.sum() - k.trace()) / (len(k) * (len(k) - 1))) for k in kernel[:2]]
        assert report.value("stylized", "kid_x1000_all", network) == pytest.approx(
            1000 * (sum(off_diagonal) - 2 * float(kernel[2].mean())), rel=1e-4
        )

    direct = FrechetInceptionDistance(feature=extractor)
    direct.update(inputs[0], real=True)
    direct.update(inputs[1], real=False)
    assert report.value("posterise", "fid", f"efficientnet-lite0@{RESIZE}") == pytest.approx(float(direct.compute()), rel=1e-3)

    embedder, points = FaceEmbedder(), (FIVE + 0.5) / 2 - 0.5
    centre = embedder.embed(known, [points] * 3).mean(0)
    a, b = (embedder.embed(list(part), [points] * 6) for part in (small, stylized))
    cosine = [
        float((p - centre) @ (s - centre) / np.linalg.norm(p - centre) / np.linalg.norm(s - centre))
        for p, s in zip(a, b, strict=True)
    ]
    assert report.value("stylized", "id_centred") == pytest.approx(np.mean(cosine), abs=1e-4)
    assert report.value("stylized", "id_l2") == pytest.approx(np.linalg.norm(a - b, axis=1).mean(), rel=1e-4)
    assert report.protocol.identity_centre == pytest.approx(list(centre), abs=1e-5)


def test_report_names_its_conditions_and_reads_back(measured):
    workspace, report, _ = measured
    run = workspace.run_folders("blobs")[0]
    assert read_report(run / "eval.json") == report
    conditions = report.protocol
    assert conditions.trained_on == []
    assert not any("flatters" in note for note in report.notes)
    assert (report.run, conditions.checkpoint_step) == (run.name, 12)
    assert conditions.checkpoint_sha256 == sha256_file(run / "checkpoints/step-000012" / WEIGHTS)
    assert conditions.reference_manifest_sha256 == sha256_file(workspace.style("blobs") / "manifest.jsonl")
    assert (conditions.n, conditions.persons, conditions.reference_n, conditions.kid_subset_size) == (6, 4, 8, 3)
    assert [asset.name for asset in conditions.assets] == ["vgg16-hed", "efficientnet-lite0", "dlib-resnet"]
    assert conditions.extractors == [f"vgg16-hed@conv4_3-{RESIZE}", f"efficientnet-lite0@{RESIZE}"]
    assert all(f"kid_x1000/{network}/n6" in report.rows["stylized"] for network in conditions.extractors)
    assert "id_rank_1/dlib-resnet@photo-landmarks-5/n6" in report.rows["stylized"]
    assert {each.partition(":")[0] for each in conditions.deviations} == {"photographs", "crop_size", "subsets", "split"}
    assert (report.value("photo", "id_centred"), report.value("photo", "id_rank_1")) == (pytest.approx(1), 1.0)
    assert report.value("photo", "id_rank_1_chance") == pytest.approx((2 * 4 + 2 * 1) / 36)
    assert list(report.delta) == conditions.extractors
    for network, delta in report.delta.items():
        stylized, photo = (report.value(row, "kid_x1000_all", network) for row in ("stylized", "photo"))
        assert delta.kid_x1000 == pytest.approx(stylized - photo)
        assert delta.photo_spreads == pytest.approx((stylized - photo) / report.value("photo", "kid_x1000_person_std", network))

    text = table(report)
    assert all(f"{report.value('posterise', 'kid_x1000', network):.1f}" in text for network in conditions.extractors)
    assert text.count("stylized less photo") == 2
    assert all(f"deviates from starter-v1: {each}" in text for each in conditions.deviations)
    above, _, below = text.partition("never compare with the rows above")
    assert all(method in below and method not in above for method in PAPER_ROWS)


@pytest.mark.slow
def test_two_runs_agree_and_the_batch_size_changes_nothing(measured, tmp_path):
    workspace, report, _ = measured
    evaluate(workspace=workspace, settings=QUICK, output=tmp_path)
    assert (tmp_path / "eval.json").read_bytes() == (workspace.run_folders()[0] / "eval.json").read_bytes()
    one_by_one = evaluate(workspace=workspace, settings=QUICK, output=tmp_path, batch_size=1)
    for row, values in report.rows.items():
        assert one_by_one.rows[row] == pytest.approx(values, rel=1e-3, abs=1e-3)


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
    assert report.protocol.trained_on == ["vgg16-hed: content loss"]
    assert report.value("photo", "fid") == report.value("photo", "fid", lead) != report.value("photo", "fid", other)
    text = table(report)
    assert text.index(f"KID and FID on {lead}\n") < text.index(f"KID and FID on {other} (served in training)\n")


@pytest.mark.slow
def test_networks_that_also_trained_the_generator_are_flagged(workspace):
    run = save_run(
        workspace,
        content={"network": "efficientnet-lite0"},
        loss={"lambda_identity": 0.1, "lambda_projected": 0.1},
    )
    report = evaluate(run / "checkpoints" / "step-000012", workspace=workspace, settings=QUICKEST)
    assert report.protocol.trained_on == [
        "dlib-resnet: identity loss",
        "efficientnet-lite0: projected discriminators",
        "efficientnet-lite0: content loss",
    ]
    assert any("flatters the stylized row" in note for note in report.notes)
    assert (run / "eval.json").is_file()


def test_no_trained_run_says_so(workspace):
    with pytest.raises(DataError, match=r"no trained run of the style other.*stylekit train"):
        evaluate(workspace=workspace, style="other")
    with pytest.raises(CheckpointError):
        evaluate(workspace.run_folders("blobs")[-1], workspace=workspace)
