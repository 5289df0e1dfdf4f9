"""Pictures and files through a style. The network here repeats the photograph, so what differs is stylize's own doing."""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stylekit.assets import fetch
from stylekit.bundle import STARTER, Bundle, Networks, weights
from stylekit.bundle.weights import pack_weights
from stylekit.errors import CheckpointError, ExportError, UsageError
from stylekit.faces.align import invert, warp
from stylekit.faces.mask import feather_mask
from stylekit.images import read_rgb, write_image
from stylekit.modelscope.graph.frozen import frozen_graph
from stylekit.nn import cpu
from stylekit.nn.unet import Generator
from stylekit.paths import Workspace
from stylekit.stylizer import Stylizer, network, stylize, stylizer
from stylekit.stylizer.network import Floats, Rgb, Translate, open_network, translate
from tests.bundle.test_style import FACE, make_style
from tests.trained import generator, half_graph, make_run

pytestmark = pytest.mark.usefixtures("faces_found_once")


def repeat(photo: Floats) -> Floats:
    return photo


def negative(photo: Floats) -> Floats:
    return -photo


@pytest.fixture(scope="module")
def portrait() -> Rgb:
    return read_rgb(fetch("astronaut"))


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle(Path("pop-art"), make_style(), {"face.safetensors": pack_weights(generator(), torch.float16, {})})


@pytest.fixture
def repeating(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Stylizer:
    return with_network(bundle, repeat, monkeypatch, size=512)


def with_network(bundle: Bundle, network: Translate, monkeypatch: pytest.MonkeyPatch, size: int | None = None) -> Stylizer:
    monkeypatch.setattr(stylizer, "open_network", lambda bundle, part, device, fast: network)
    return Stylizer(bundle, size=size)


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 99))
def test_any_size_comes_back_whole(height: int, width: int, seed: int) -> None:
    photo = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    seen = []

    def network(x: Floats) -> Floats:
        seen.append(x.shape)
        return x

    assert np.array_equal(translate(network, photo), photo)
    assert translate(network, photo, (max(1, width // 2), max(1, height // 2))).shape == photo.shape
    assert all(shape[2] % 4 == 0 and shape[3] % 4 == 0 for shape in seen)


def test_enlarging_keeps_the_photographs_outlines(portrait: Rgb) -> None:
    small = (128, 128)
    enlarged = translate(repeat, portrait, small).astype(float)
    plain = cv2.resize(
        cv2.resize(portrait, small, interpolation=cv2.INTER_AREA), (512, 512), interpolation=cv2.INTER_CUBIC
    ).astype(float)
    assert np.abs(enlarged - portrait).mean() < 0.5 * np.abs(plain - portrait).mean()


def test_enlarging_keeps_strokes_that_only_the_style_has(portrait: Rgb) -> None:
    def outline(photo: Floats) -> Floats:
        drawn = np.ones_like(photo)
        drawn[..., 62:64, :] = -1
        return drawn

    upright = np.repeat(portrait[200:201], 512, axis=0)  # nothing in it follows a level stroke
    enlarged = translate(outline, upright, (128, 128))
    plain = cv2.resize(
        outline(np.ones((1, 3, 128, 128), np.float32))[0].transpose(1, 2, 0), (512, 512), interpolation=cv2.INTER_CUBIC
    )
    assert np.abs(enlarged - np.clip((plain + 1) * 127.5, 0, 255)).max() <= 1


def test_faces_are_pasted_back_without_a_seam(repeating: Stylizer, portrait: Rgb) -> None:
    result, faces = repeating.picture(portrait)
    (face,) = repeating.faces(portrait)
    assert faces == 1
    mask = warp(feather_mask(len(face.crop)), invert(face.matrix), (512, 512), "black")
    difference = np.abs(result.astype(int) - portrait).max(axis=2)
    assert difference[mask == 0].max() == 0, "the background is the photograph itself"
    assert difference[(mask > 0) & (mask < 0.25)].max() <= 16, "the rim of the face fades into it"
    assert difference[mask > 0.9].mean() < 9, "a shift by one pixel would make 11.5"


def test_only_the_face_is_drawn_by_the_face_network(bundle: Bundle, portrait: Rgb, monkeypatch: pytest.MonkeyPatch) -> None:
    network = FACE.model_copy(update={"template": "ffhq"})
    two = make_style(networks=make_style().networks.model_copy(update={"background": network}))
    monkeypatch.setattr(
        stylizer, "open_network", lambda bundle, part, device, fast: repeat if part.template == "ffhq" else negative
    )
    result = Stylizer(Bundle(bundle.path, two, bundle.files), size=512)(portrait)
    assert np.array_equal(result[300:], portrait[300:])
    cheek = (slice(105, 120), slice(205, 220))
    assert np.abs(result[cheek].astype(int) - (255 - portrait[cheek].astype(int))).mean() < 20


@pytest.mark.parametrize("shape", [(1, 1), (3, 900), (517, 333), (1600, 240)])
def test_pictures_keep_their_size(bundle: Bundle, shape: tuple[int, int]) -> None:
    gray = np.full((*shape, 3), 128, np.uint8)
    result, faces = Stylizer(bundle, device="cpu").picture(gray)
    assert faces == 0
    assert result.shape == gray.shape
    assert np.abs(result.astype(int) - 128).mean() < 4


def test_large_pictures_are_seen_small(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def network(photo: Floats) -> Floats:
        seen.append(photo.shape[2:])
        return photo

    style = with_network(bundle, network, monkeypatch)
    for size in ((100, 120), (800, 1000), (200, 8000)):
        style(np.zeros((*size, 3), np.uint8))
    assert seen == [(100, 120), (180, 228), (20, 720)]


def test_onnxruntime_and_torch_agree(bundle: Bundle, portrait: Rgb) -> None:
    both = make_style(networks=make_style().networks.model_copy(update={"face": FACE.model_copy(update={"onnx": "face.onnx"})}))
    graph = {"face.onnx": half_graph()}
    by_onnx = Stylizer(Bundle(bundle.path, both, {**bundle.files, **graph}), device="cpu")(portrait)
    by_torch = Stylizer(bundle, device="cpu")(portrait)
    assert np.abs(by_onnx.astype(int) - by_torch).max() <= 1
    broken = Bundle(bundle.path, both, {**bundle.files, "face.onnx": b"nonsense"})
    with pytest.raises(ExportError, match=r"face\.onnx"):
        Stylizer(broken, device="cpu")


@pytest.mark.parametrize("case", [(0.0, 0.0, True), (0.02, 0.0, False), (0.0, 0.1, False)])
def test_8_bits_are_taken_where_they_are_faster_and_right(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, case: tuple[float, float, bool]
) -> None:
    slow, off, taken = case

    def exact(photo: Floats) -> Floats:
        time.sleep(0.004)
        return photo

    def rounded(photo: Floats) -> Floats:
        time.sleep(slow)
        return photo - np.float32(off)

    files = {"exact.onnx": exact, "int8.onnx": rounded}
    monkeypatch.setattr(network, "onnx_network", lambda bundle, file: files[file])
    both = FACE.model_copy(update={"onnx": "exact.onnx", "onnx_int8": "int8.onnx"})
    holding = Bundle(bundle.path, bundle.style, dict.fromkeys(files, b""))
    assert open_network(holding, both, "cpu") is exact
    assert open_network(holding, both, "cpu", fast=True) is (rounded if taken else exact)
    assert bool(caplog.records) is not taken
    assert open_network(holding, both.model_copy(update={"onnx_int8": None}), "cpu", fast=True) is exact


@pytest.mark.parametrize(
    ("change", "numba", "there"),
    [({}, True, True), ({"width": 16}, True, False), ({"arch": "unet-lite"}, True, False), ({}, False, False)],
    ids=["a wide U-Net", "a narrow one", "unet-lite", "without numba"],
)
def test_large_pictures_go_through_our_kernels(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], numba: bool, there: bool
) -> None:
    monkeypatch.setattr(cpu, "can_compile", lambda: numba)
    monkeypatch.setattr(network, "onnx_network", lambda bundle, file: lambda photo: photo + np.float32(1))
    monkeypatch.setattr(weights, "unpack_generator", lambda bundle, part: torch.nn.Identity())
    face = FACE.model_copy(update={"onnx": "face.onnx", "width": 32} | change)
    opened = open_network(bundle, face, "cpu")
    large, small = np.zeros((1, 3, 256, 256), np.float32), np.zeros((1, 3, 256, 252), np.float32)
    assert opened(large).max() == (0 if there else 1)
    assert opened(small).min() == 1


@pytest.mark.parametrize("kind", ["both", "8 bits alone", "float32 alone", "on a GPU", "run", "published"])
def test_fast_says_once_where_it_comes_to_nothing(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    monkeypatch.setattr(stylizer, "open_network", lambda bundle, part, device, fast: repeat)
    monkeypatch.setattr(network, "_place", lambda device: torch.device("meta" if kind == "on a GPU" else "cpu"))
    files = {"8 bits alone": {"onnx_int8": "b"}, "float32 alone": {"onnx": "a"}}.get(kind, {"onnx": "a", "onnx_int8": "b"})
    face = FACE.model_copy(update=files)
    style: Bundle | Path = Bundle(bundle.path, make_style(networks=Networks(face=face, background=face)), bundle.files)
    if kind == "run":
        style = make_run(Workspace(tmp_path))
    if kind == "published":
        style = tmp_path / "3d.pb"
        style.write_bytes(frozen_graph(generator()))
    Stylizer(style)
    assert not caplog.records
    Stylizer(style, fast=True)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == (kind != "both")
    assert all("is drawn in float32" in line and "stylekit export --format onnx-int8" in line for line in said)


def test_faces_come_aligned_and_as_large_as_asked(repeating: Stylizer, portrait: Rgb) -> None:
    (face,) = repeating.faces(portrait)
    assert face.crop.shape == (161, 161, 3) or abs(len(face.crop) - 161) < 8, "as large as in the picture"
    (large,) = repeating.faces(portrait, 320)
    assert large.crop.shape == (320, 320, 3)
    eyes = large.matrix @ np.array([[212.0, 246.0], [101.0, 103.0], [1.0, 1.0]])
    assert np.abs(eyes - np.array([[124, 200], [153, 153]])).max() < 30


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)],
)
def test_arrays_that_are_no_picture_are_refused(repeating: Stylizer, image: np.ndarray) -> None:
    with pytest.raises(UsageError, match="RGB uint8"):
        repeating(image)


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_strength_mixes_the_photograph_with_the_style(
    bundle: Bundle, portrait: Rgb, monkeypatch: pytest.MonkeyPatch, strength: float
) -> None:
    """The network gives the negative, so the mean of photograph and result is gray at half strength."""
    whole, own = (
        with_network(bundle, negative, monkeypatch, size=512),
        Bundle(bundle.path, make_style(strength=strength), bundle.files),
    )
    mixed = with_network(own, negative, monkeypatch, size=512)
    expected = strength * whole(portrait).astype(float) + (1 - strength) * portrait
    assert np.abs(mixed(portrait) - expected).max() <= 1
    assert np.array_equal(Stylizer(bundle, size=512, strength=strength)(portrait), mixed(portrait)), (
        "asked for, or the style's own"
    )
    (face,), (full,) = mixed.faces(portrait, 64), whole.faces(portrait, 64)
    seen = warp(portrait, face.matrix, 64)
    assert np.abs(face.crop - (strength * full.crop.astype(float) + (1 - strength) * seen)).max() <= 1


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_a_strength_beyond_its_range_is_refused(bundle: Bundle, strength: float) -> None:
    with pytest.raises(UsageError, match="from 0 to 1"):
        Stylizer(bundle, strength=strength)


def test_a_missing_device_is_a_plain_error(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="tpu"):
        Stylizer(bundle, device="tpu")


def test_a_run_is_used_before_it_is_exported(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert Stylizer(workspace=workspace).name == STARTER
    with pytest.raises(ExportError, match="noir"):
        Stylizer("noir", workspace=workspace)
    run = make_run(workspace)
    gray = np.full((16, 16, 3), 90, np.uint8)
    results = [
        Stylizer(style, workspace=workspace)(gray) for style in (None, "pop-art", run, run / "checkpoints" / "step-000007")
    ]
    assert all(np.array_equal(result, results[0]) for result in results)


@pytest.fixture
def pictures(tmp_path: Path, portrait: Rgb) -> Path:
    folder = tmp_path / "in"
    write_image(folder / "ada.png", portrait)
    write_image(folder / "trip" / "ada.jpg", portrait)
    write_image(folder / "trip" / "wall.png", np.full((60, 80, 3), 90, np.uint8))
    (folder / "notes.jpg").write_text("not a picture")
    (folder / "cut.jpg").write_bytes((folder / "trip" / "ada.jpg").read_bytes()[:9000])
    return folder


def test_one_bad_input_never_stops_the_rest(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    report = stylize([pictures, tmp_path / "missing.png"], style=bundle, output=tmp_path / "out")
    assert {file.name for file in report.failed} == {"notes.jpg", "cut.jpg", "missing.png"}
    assert all(name.name in reason for name, reason in report.failed.items())
    assert report.exit_code == 3
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["in-ada.png", "trip-ada.png", "wall.png"]
    assert [path.name for path in report.faceless] == ["wall.png"]
    assert read_rgb(tmp_path / "out" / "wall.png").shape == (60, 80, 3)


def test_mode_face_lists_pictures_without_one(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    inputs = [pictures / "ada.png", pictures / "trip" / "wall.png"]
    report = stylize(inputs, style=bundle, output=tmp_path / "out", mode="face", size=128, file_format="jpg", quality=80)
    assert list(report.failed) == [inputs[1]]
    assert "no face" in report.failed[inputs[1]]
    assert read_rgb(tmp_path / "out" / "ada.jpg").shape == (128, 128, 3)


def test_every_face_of_a_picture_gets_a_file(bundle: Bundle, portrait: Rgb, tmp_path: Path) -> None:
    write_image(tmp_path / "two.png", np.hstack([portrait[:400], portrait[:400, ::-1]]))
    (done,) = stylize([tmp_path / "two.png"], style=bundle, output=tmp_path / "out", mode="face").done
    assert done.faces == 2
    assert [path.name for path in done.outputs] == ["two.png", "two-face2.png"]
    first, second = (read_rgb(path) for path in done.outputs)
    assert first.shape != second.shape or not np.array_equal(first, second)


def test_one_picture_goes_to_the_file_named(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    report = stylize([pictures / "ada.png"], style=bundle, output=tmp_path / "me.webp")
    assert report.done[0].outputs == (tmp_path / "me.webp",)
    assert read_rgb(tmp_path / "me.webp").shape == (512, 512, 3)
    assert report.exit_code == 0


def test_inputs_are_never_replaced_and_outputs_never_read(bundle: Bundle, pictures: Path) -> None:
    before = (pictures / "ada.png").read_bytes()
    with pytest.raises(UsageError, match=r"ada\.png"):
        stylize([pictures / "ada.png"], style=bundle, output=pictures)
    assert (pictures / "ada.png").read_bytes() == before
    for _ in range(2):
        report = stylize([pictures / "trip"], style=bundle, output=pictures / "trip" / "stylized")
        assert len(report.done) == 2
    with pytest.raises(UsageError, match="no pictures"):
        stylize([], style=bundle)


def test_pictures_are_turned_upright(bundle: Bundle, tmp_path: Path) -> None:
    turned = Image.new("RGB", (40, 20), "red")
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "phone.jpg", exif=exif)
    stylize([tmp_path / "phone.jpg"], style=bundle, output=tmp_path / "out")
    assert read_rgb(tmp_path / "out" / "phone.png").shape == (40, 20, 3)


def test_a_published_style_draws_with_its_two_networks(portrait: Rgb, tmp_path: Path) -> None:
    """Its head redraws faces, its background the rest; here the one is a negative, so that they are told apart."""

    def negated(network: Generator) -> Generator:
        network.unet.head.weight.data.neg_()
        return network

    folder = tmp_path / "cv_unet_person-image-cartoon-3d_compound-models"
    folder.mkdir()
    head, background = negated(generator()), generator()
    (folder / "cartoon_h.pb").write_bytes(frozen_graph(head))
    (folder / "cartoon_bg.pb").write_bytes(frozen_graph(background))
    whole = Stylizer(folder, device="cpu")
    drawn, faces = whole.picture(portrait)
    assert (whole.name, faces) == (folder.name, 1)
    assert np.corrcoef(drawn[:, :40].ravel(), portrait[:, :40].ravel())[0, 1] > 0.9
    crop = whole.faces(portrait)[0]
    seen = warp(portrait, crop.matrix, len(crop.crop))
    assert np.corrcoef(crop.crop.ravel(), seen.ravel())[0, 1] < -0.9
    alone = Stylizer(folder / "cartoon_bg.pb", device="cpu")
    assert np.array_equal(alone.picture(portrait)[0][:, :40], drawn[:, :40])


@pytest.mark.parametrize("style", ["modelscope:4d", "damo/cv_unet_person-image-cartoon-4d_compound-models"])
def test_a_published_style_that_does_not_exist_is_told_from_one_of_ours(style: str) -> None:
    with pytest.raises(UsageError, match="no ModelScope style"):
        Stylizer(style)


def test_a_graph_of_something_else_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "me.pb").write_bytes(b"not a graph")
    with pytest.raises(CheckpointError, match=r"me\.pb"):
        Stylizer(tmp_path / "me.pb")
