"""Pairs: a cartoon's crop and that of the photograph it was painted over."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage.data import astronaut

from stylekit.assets import fetch
from stylekit.config.schema import AlignRecipe
from stylekit.data.manifest import ManifestLine, Origin, Pair, read_manifest, to_json_line, write_manifest
from stylekit.data.pairs import compare, likeness, list_pairs, photo_beside, settle_pair
from stylekit.data.prepare import align
from stylekit.faces.align import face_matrix, warp
from stylekit.faces.finder import FoundFace, MeshFinder
from stylekit.faces.identity import FaceEmbedder
from stylekit.images import Rgb, read_rgb, write_image
from stylekit.paths import sha256_bytes

PORTRAIT = np.ascontiguousarray(astronaut()[:320, 60:380])
SMALL = AlignRecipe(size=64)

pytestmark = pytest.mark.usefixtures("asset_home", "faces_found_once")


@pytest.fixture(scope="module")
def finder() -> MeshFinder:
    return MeshFinder()


@pytest.fixture(scope="module")
def embedder() -> FaceEmbedder:
    return FaceEmbedder()


@pytest.fixture(scope="module")
def other() -> Rgb:
    """A picture of someone else, in a frame of the same size."""
    return cv2.resize(
        read_rgb(fetch("starter-photos") / "soft-ui" / "team-1.jpg"), PORTRAIT.shape[:2], interpolation=cv2.INTER_AREA
    )


def face_of(picture: Rgb, finder: MeshFinder) -> FoundFace:
    return finder.find(picture)[0]


def cartoon_of(photo: Rgb) -> Rgb:
    return cv2.bilateralFilter(photo, 9, 60, 9)


def moved(picture: Rgb, x: float, y: float = 0.0) -> Rgb:
    return warp(picture, np.array([[1.0, 0.0, x], [0.0, 1.0, y]]), (picture.shape[1], picture.shape[0]))


def style_set(folder: Path, cartoons: dict[str, Rgb], photos: dict[str, Rgb]) -> Path:
    """Write `raw/` as the engine `edit` leaves it."""
    rows = []
    for name, cartoon in cartoons.items():
        write_image(folder / "raw" / f"{name}.png", cartoon)
        rows.append(Origin(file=f"{name}.png", sha256="0", photo=f"photos/{name}.png", photo_sha256=sha256_bytes(name.encode())))
    for name, photo in photos.items():
        write_image(folder / "raw" / "photos" / f"{name}.png", photo)
    (folder / "raw" / "origin.jsonl").write_text("".join(map(to_json_line, rows)))
    return folder


def aligned(folder: Path, recipe: AlignRecipe = SMALL) -> dict[str, ManifestLine]:
    align(folder / "raw", kind="cartoon", output=folder, recipe=recipe)
    return {Path(line.input).stem: line for line in read_manifest(folder / "manifest.jsonl")}


def test_a_picture_with_itself_has_not_moved_and_is_the_same_person(finder: MeshFinder, embedder: FaceEmbedder):
    assert compare(PORTRAIT, PORTRAIT, face_of(PORTRAIT, finder), finder, embedder) == pytest.approx((0.0, 1.0), abs=1e-6)


@pytest.mark.parametrize(("x", "y"), [(12, 0), (0, -9), (24, 10)])
def test_shift_is_how_far_the_face_moved_in_eye_distances(x: float, y: float, finder: MeshFinder, embedder: FaceEmbedder):
    points = face_of(PORTRAIT, finder).landmarks_5
    cartoon = moved(PORTRAIT, x, y)
    measured = compare(PORTRAIT, cartoon, face_of(cartoon, finder), finder, embedder)
    assert measured is not None
    assert measured[0] == pytest.approx(np.hypot(x, y) / np.hypot(*(points[1] - points[0])), abs=0.03)
    assert measured[1] > 0.9


def test_identity_tells_the_person_from_another(other: Rgb, finder: MeshFinder, embedder: FaceEmbedder):
    cartoon = cartoon_of(PORTRAIT)
    same = compare(PORTRAIT, cartoon, face_of(cartoon, finder), finder, embedder)
    stranger = compare(PORTRAIT, other, face_of(other, finder), finder, embedder)
    assert same is not None
    assert stranger is not None
    assert same[0] < 0.1
    assert same[1] > 0.75
    assert stranger[1] < 0.4


def test_of_several_faces_the_one_in_the_cartoons_place_counts(other: Rgb, finder: MeshFinder, embedder: FaceEmbedder):
    photo = np.concatenate([PORTRAIT, other], axis=1)
    cartoon = np.concatenate([PORTRAIT, np.full_like(other, 128)], axis=1)
    measured = compare(photo, cartoon, face_of(cartoon, finder), finder, embedder)
    assert measured is not None
    assert measured[0] < 0.05
    assert measured[1] > 0.9


def test_no_face_in_the_photograph_leaves_the_pair_unmeasured(tmp_path: Path):
    line = aligned(style_set(tmp_path, {"a": PORTRAIT}, {"a": np.full_like(PORTRAIT, 200)}))["a"]
    assert line.pair == Pair(photo="photo/a.png", photo_input="raw/photos/a.png", photo_sha256=sha256_bytes(b"a"))


def test_likeness_needs_no_reference_set_and_is_zero_for_the_average_stranger(embedder: FaceEmbedder, finder: MeshFinder):
    photos = [read_rgb(path) for path in sorted((fetch("starter-photos") / "tabler").rglob("*.jpg"))[:72:3]]
    found = [(photo, faces[0].mesh.points) for photo in photos if (faces := finder.find(photo))]
    embeddings = embedder.embed(*map(list, zip(*found, strict=True)))
    pairs = [likeness(a, b) for place, a in enumerate(embeddings) for b in embeddings[:place]]
    assert abs(np.mean(pairs)) < 0.1
    assert np.percentile(pairs, 95) < 0.5


def test_aligning_cuts_the_photograph_with_the_cartoons_matrix(tmp_path: Path):
    photo = PORTRAIT
    lines = aligned(style_set(tmp_path, {"a": cartoon_of(photo)}, {"a": photo}))
    assert list(lines) == ["a"]  # the photograph is no cartoon
    line = lines["a"]
    assert line.pair is not None
    assert (line.file, line.pair.photo, line.pair.photo_sha256) == ("cartoon/a.png", "photo/a.png", sha256_bytes(b"a"))
    assert np.array_equal(read_rgb(tmp_path / "photo" / "a.png"), warp(photo, np.array(line.matrix), 64))
    assert line.pair.landmark_shift is not None
    assert line.pair.landmark_shift < 0.1
    assert line.pair.identity is not None
    assert line.pair.identity > 0.75
    (pair,) = list_pairs(tmp_path)
    assert (pair.cartoon, pair.photo, pair.pair) == (tmp_path / "cartoon" / "a.png", tmp_path / "photo" / "a.png", line.pair)


def test_pairs_follow_what_is_used(tmp_path: Path, other: Rgb):
    cartoon = cartoon_of(PORTRAIT)
    style_set(tmp_path, {"a": cartoon, "b": cartoon, "c": cartoon_of(other)}, dict.fromkeys("abc", PORTRAIT))
    lines = aligned(tmp_path)
    (gone,) = [name for name, line in lines.items() if line.status == "rejected"]
    assert gone in "ab"  # one repeats the other
    assert lines[gone].pair is None
    assert {path.stem for path in (tmp_path / "photo").iterdir()} == {"a", "b", "c"} - {gone}

    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "photo").iterdir()}
    aligned(tmp_path)
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "photo").iterdir()} == before

    (kept,) = {"a", "b"} - {gone}
    (tmp_path / "raw" / f"{kept}.png").unlink()
    assert aligned(tmp_path)[gone].pair is not None
    assert {path.stem for path in (tmp_path / "photo").iterdir()} == {gone, "c"}

    aligned(tmp_path, AlignRecipe(size=32))
    assert read_rgb(tmp_path / "photo" / "c.png").shape == (32, 32, 3)


def test_a_photograph_that_is_gone_or_of_another_size_makes_no_pair(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    style_set(tmp_path, {"a": PORTRAIT, "b": np.ascontiguousarray(PORTRAIT[:, ::-1])}, {"a": PORTRAIT[:300]})
    lines = aligned(tmp_path)
    assert [line.status for line in lines.values()].count("used") >= 1
    assert all(line.pair is None for line in lines.values())
    assert "another size" in caplog.text
    assert "cannot be read" in caplog.text
    assert list_pairs(tmp_path) == []


def test_the_photograph_lies_where_its_origin_says():
    origin = Origin(file="women/a.png", sha256="0", photo="photos/women/a.png")
    assert photo_beside("raw/women/a.png", origin) == "raw/photos/women/a.png"
    assert photo_beside("/data/raw/women/a.png", origin) == "/data/raw/photos/women/a.png"
    assert photo_beside("raw/a.png", Origin(file="a.png", sha256="0")) is None


def test_a_crop_without_a_pair_is_left_alone(tmp_path: Path):
    line = ManifestLine(file="cartoon/a.png", input="raw/a.png", input_sha256=None, status="used")
    assert settle_pair(line, tmp_path) is line
    write_manifest(tmp_path / "manifest.jsonl", [line])
    assert list_pairs(tmp_path) == []


def test_settling_cuts_a_lost_crop_again(tmp_path: Path, finder: MeshFinder):
    style_set(tmp_path, {"a": PORTRAIT}, {"a": PORTRAIT})
    matrix = face_matrix(face_of(PORTRAIT, finder).landmarks_5, "dctnet", 64)
    pair = Pair(photo="photo/a.png", photo_input="raw/photos/a.png")
    line = ManifestLine(
        file="cartoon/a.png",
        input="raw/a.png",
        input_sha256=None,
        status="used",
        matrix=matrix.tolist(),
        crop_size=64,
        pair=pair,
    )
    for _ in range(2):
        assert settle_pair(line, tmp_path).pair == pair
        assert read_rgb(tmp_path / "photo" / "a.png").shape == (64, 64, 3)
        (tmp_path / "photo" / "a.png").unlink()


def test_a_folder_of_the_users_that_is_called_photo_is_left_alone(tmp_path: Path):
    write_image(tmp_path / "photo" / "a.png", PORTRAIT)
    for _ in range(2):
        report = align(tmp_path / "photo", kind="photo", output=tmp_path, recipe=SMALL)
        assert report.used == 1
    assert (tmp_path / "photo" / "a.png").is_file()


def test_photographs_that_align_cut_are_not_aligned(tmp_path: Path):
    style_set(tmp_path, {"a": cartoon_of(PORTRAIT)}, {"a": PORTRAIT})
    aligned(tmp_path)
    align(tmp_path, kind="cartoon", output=tmp_path, recipe=SMALL)
    names = [line.input for line in read_manifest(tmp_path / "manifest.jsonl")]
    assert "photo/a.png" not in names
    assert "raw/a.png" in names


def test_a_cartoon_that_is_rejected_has_no_photograph_any_more(tmp_path: Path):
    style_set(tmp_path, {"a": cartoon_of(PORTRAIT)}, {"a": PORTRAIT})
    assert aligned(tmp_path)["a"].pair is not None
    write_image(tmp_path / "raw" / "a.png", np.full_like(PORTRAIT, 90))
    line = aligned(tmp_path)["a"]
    assert (line.status, line.pair) == ("rejected", None)
    assert list((tmp_path / "photo").iterdir()) == []


def test_a_cartoon_whose_face_is_elsewhere_is_left_out_with_the_distance(tmp_path: Path):
    points = MeshFinder().find(PORTRAIT)[0].landmarks_5
    eyes = float(np.hypot(*(points[1] - points[0])))
    near, far = (np.ascontiguousarray(moved(PORTRAIT, share * eyes)) for share in (0.5, 1.3))
    lines = aligned(style_set(tmp_path, {"near": near, "far": far}, dict.fromkeys(["near", "far"], PORTRAIT)))
    assert lines["near"].status == "used"
    assert (lines["far"].status, lines["far"].pair) == ("rejected", None)
    assert lines["far"].reasons == ["not the photograph's face: 1.3 eye distances from it"]
    assert [path.stem for path in (tmp_path / "photo").iterdir()] == ["near"]
