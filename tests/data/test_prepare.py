"""`align`, with the real networks: photographs, cartoons, and what is neither."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from skimage.data import astronaut

from stylekit.assets import fetch
from stylekit.config.schema import AlignRecipe
from stylekit.data import prepare
from stylekit.data.crops import CropMaker
from stylekit.data.decisions import decide
from stylekit.data.inputs import Inputs
from stylekit.data.manifest import Kind, ManifestLine, Origin, read_manifest, to_json_line
from stylekit.data.prepare import AlignReport, align
from stylekit.data.readers import Item
from stylekit.errors import DataError, Interrupted, StylekitError
from stylekit.images import read_rgb, write_image
from stylekit.progress import Bar, silent

PORTRAIT = np.asarray(astronaut())
LOOSE = AlignRecipe(size=64, min_face_px=28, min_sharpness=6)

pytestmark = pytest.mark.usefixtures("asset_home", "faces_found_once")


@pytest.fixture(scope="session")
def people() -> Path:
    return fetch("starter-photos")


@pytest.fixture
def photos(tmp_path: Path, people: Path) -> Path:
    """Three people, one of them twice (once mirrored), in two folders."""
    folder = tmp_path / "photos"
    write_image(folder / "a.png", PORTRAIT)
    write_image(folder / "b.jpg", PORTRAIT[:, ::-1])
    (folder / "more").mkdir()
    for name in ("team-1", "charles"):
        shutil.copy(people / "soft-ui" / f"{name}.jpg", folder / "more")
    return folder


def by_input(report: AlignReport) -> dict[str, ManifestLine]:
    return {Path(line.input).name: line for line in read_manifest(report.manifest)}


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in ("align.db", "report.html")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_photos_become_crops_persons_and_a_split(photos: Path, tmp_path: Path):
    report = align(photos, kind="photo", output=tmp_path / "out", recipe=LOOSE)
    assert (report.used, report.rejected, report.unreadable, report.changed) == (4, 0, {}, 4)
    lines = by_input(report)
    for name, line in lines.items():
        assert line.file is not None
        crop = read_rgb(tmp_path / "out" / line.file)
        assert crop.shape == (64, 64, 3), name
        assert line.matrix is not None
        assert line.landmarks_5 is not None
        eyes = np.array(line.matrix) @ np.array([*np.array(line.landmarks_5[:2]).T, [1, 1]])
        assert np.abs(eyes.T - [(24.6, 30.1), (39.8, 30.1)]).max() < 3, name
    assert lines["a.png"].person == lines["b.jpg"].person == "a"
    assert lines["a.png"].split == lines["b.jpg"].split
    assert len({line.person for line in lines.values()}) == 3
    assert {line.split for line in lines.values()} == {"train", "eval"}
    assert lines["team-1.jpg"].file == "cropped/more-team-1.png"
    assert read_rgb(report.contact_sheet).shape == (96, 4 * 96 + 3 * 4, 3)


def test_second_run_does_only_what_changed(photos: Path, tmp_path: Path):
    out = tmp_path / "out"
    align(photos, kind="photo", output=out, recipe=LOOSE)
    before = contents(out)
    stamps = {path: path.stat().st_mtime_ns for path in [*out.rglob("*.*g"), out / "manifest.jsonl"]}
    assert align(photos, kind="photo", output=out, recipe=LOOSE).changed == 0
    assert contents(out) == before
    assert {path: path.stat().st_mtime_ns for path in [*out.rglob("*.*g"), out / "manifest.jsonl"]} == stamps

    (photos / "b.jpg").unlink()
    write_image(photos / "c.png", PORTRAIT[40:400, 40:400])
    report = align(photos, kind="photo", output=out, recipe=LOOSE)
    assert report.changed == 1
    assert not (out / "cropped" / "b.png").exists()

    (out / "cropped" / "more-charles.png").unlink()
    assert align(photos, kind="photo", output=out, recipe=LOOSE).changed == 1
    assert align(photos, kind="photo", output=out, recipe=LOOSE.model_copy(update={"size": 32})).changed == 4
    assert read_rgb(out / "cropped" / "more-charles.png").shape == (32, 32, 3)


def test_limits_mean_the_same_at_every_size_and_moving_them_moves_the_crop(tmp_path: Path, people: Path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    shutil.copy(people / "soft-ui" / "charles.jpg", folder)
    for size in (256, 32):
        report = align(folder, kind="photo", output=out, recipe=AlignRecipe(size=size, min_sharpness=30))
        assert (report.used, report.rejected) == (1, 0)
    report = align(folder, kind="photo", output=out, recipe=AlignRecipe(size=64, min_sharpness=5000))
    assert (report.used, report.reasons) == (0, {"blurred": 1})
    assert [p.relative_to(out).as_posix() for p in out.rglob("*.png")] == ["rejected/charles.png"]
    assert read_rgb(out / "rejected" / "charles.png").shape == (64, 64, 3)


def test_a_limit_is_moved_without_looking_again_and_ends_as_a_fresh_run_would(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.rmtree(photos / "more")
    strict = AlignRecipe(size=64, min_face_px=2000, min_sharpness=5000)
    out = tmp_path / "out"
    first = align(photos, kind="photo", output=out, recipe=strict)
    assert (first.used, first.rejected) == (0, 2)
    as_strict = contents(out)
    align(photos, kind="photo", output=tmp_path / "fresh", recipe=LOOSE)
    monkeypatch.setattr(CropMaker, "__call__", lambda *_: pytest.fail("looked again"))
    loosened = align(photos, kind="photo", output=out, recipe=LOOSE)
    assert (loosened.used, loosened.changed) == (2, 0)
    assert contents(out) == contents(tmp_path / "fresh")
    again = align(photos, kind="photo", output=out, recipe=strict)
    assert again.reasons == first.reasons
    assert contents(out) == as_strict


def test_what_no_limit_lets_pass_stays_out_and_reasons_are_those_of_the_report(tmp_path: Path, people: Path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    shutil.copy(people / "tabler" / "male" / "18.jpg", folder / "toy.jpg")
    for recipe in (AlignRecipe(size=64, min_face_px=2000), LOOSE):
        report = align(folder, kind="photo", output=out, recipe=recipe)
        assert report.used == 0
        assert report.reasons["no clear human face"] == 1
        assert ("face too small" in report.reasons) == (recipe is not LOOSE)
    assert report.changed == 0


def test_a_rerun_reads_no_picture_that_has_its_old_time_and_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out, read = tmp_path / "out", []
    (tmp_path / "in").mkdir()
    for name in "abc":
        (tmp_path / "in" / f"{name}.jpg").write_text("not a picture")
        os.utime(tmp_path / "in" / f"{name}.jpg", ns=(10**18, 10**18))
    original = Item.read
    monkeypatch.setattr(Item, "read", lambda item: read.append(item.path) or original(item))

    def run() -> tuple[int, int]:
        read.clear()
        return align(tmp_path / "in", kind="photo", output=out).changed, len(read)

    assert run() == (3, 3)
    assert run() == (0, 0)
    os.utime(tmp_path / "in" / "a.jpg", ns=(2 * 10**18, 10**18 + 1))
    assert run() == (0, 1)
    assert run() == (0, 0)
    (tmp_path / "in" / "a.jpg").write_text("not a Picture")
    assert run() == (1, 2)
    assert run() == (0, 1), "so young a file may have changed again"


def test_a_stamp_says_where_in_an_archive_and_nothing_of_what_is_gone(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a.png", b"1234")
        archive.writestr("b.png", b"1234")
    os.utime(tmp_path / "two.zip", (10**9, 10**9))
    one, other = Inputs(tmp_path / "two.zip", tmp_path / "out", "photo")
    stamps = {one.stamp(), other.stamp()}
    assert len(stamps) == 2
    assert None not in stamps
    os.utime(tmp_path / "two.zip", (10**9, 10**9 + 1))
    assert stamps.isdisjoint({one.stamp(), other.stamp()})
    (tmp_path / "two.zip").unlink()
    assert one.stamp() is None


def test_what_was_decided_holds_until_it_would_be_decided_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_text("not a picture")
    decided: list[float] = []
    monkeypatch.setattr(prepare, "decide", lambda *given: decided.append(given[3]) or decide(*given))
    for eval_fraction in (0.2, 0.2, 0.5, 0.5):
        align(tmp_path / "in", kind="photo", output=tmp_path / "out", eval_fraction=eval_fraction)
    assert decided == [0.2, 0.5]


def test_processes_by_memory_and_one_for_a_network_that_fills_the_gpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(prepare, "fitting", lambda cores, need: need)
    assert prepare._processes(99, LOOSE) == 1
    assert prepare._processes(100, LOOSE) > 400_000_000
    fan = LOOSE.model_copy(update={"landmarks": "face-alignment"})
    for device, processes in (("cuda:0", 1), ("cpu", prepare._processes(100, LOOSE))):
        monkeypatch.setattr("stylekit.nn.device.find_device", lambda device=device: torch.device(device))
        assert prepare._processes(100, fan) == processes


def test_stopped_run_goes_on_and_ends_the_same(photos: Path, tmp_path: Path):
    @contextmanager
    def stopped(description: str, total: int | None = None) -> Iterator[Bar]:
        class Stop:
            done = 0

            def advance(self, n: int = 1, **fields: str | float) -> None:
                self.done += n
                if self.done == 2:
                    raise KeyboardInterrupt

        yield Stop()

    with pytest.raises(Interrupted, match="2 of 4"):
        align(photos, kind="photo", output=tmp_path / "stopped", recipe=LOOSE, progress=stopped)
    assert align(photos, kind="photo", output=tmp_path / "stopped", recipe=LOOSE, progress=silent).changed == 2
    align(photos, kind="photo", output=tmp_path / "whole", recipe=LOOSE)
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def test_bad_pictures_are_listed_with_reasons_and_stop_nothing(tmp_path: Path, people: Path):
    folder, out = tmp_path / "in", tmp_path / "out"
    write_image(folder / "good.png", PORTRAIT)
    write_image(folder / "again.jpg", PORTRAIT, quality=60)
    write_image(folder / "dot.png", np.zeros((1, 1, 3), np.uint8))
    write_image(folder / "sky.png", np.full((900, 300, 3), 180, np.uint8))
    (folder / "text.jpg").write_text("not a picture")
    (folder / "cut.png").write_bytes((folder / "good.png").read_bytes()[:9000])
    (folder / "empty.jpg").touch()
    shutil.copy(people / "tabler" / "male" / "18.jpg", folder / "toy.jpg")
    report = align(folder, kind="photo", output=out, recipe=LOOSE)
    lines = by_input(report)
    assert (report.used, report.rejected, len(report.unreadable)) == (1, 4, 3)
    assert lines["good.png"].status == "used"
    assert lines["again.jpg"].reasons[0].startswith("near-duplicate")
    assert lines["toy.jpg"].status == "rejected"
    assert lines["dot.png"].reasons == lines["sky.png"].reasons == ["no face"]
    assert lines["sky.png"].file is not None
    assert read_rgb(out / lines["sky.png"].file).shape == (512, 171, 3)
    for name in ("text.jpg", "cut.png", "empty.jpg"):
        assert lines[name].status == "unreadable"
        assert name in lines[name].reasons[0]
        assert lines[name].file is None
    assert sorted(p.name for p in (out / "cropped").iterdir()) == ["good.png"]
    assert {Path(line.file).name for line in lines.values() if line.status == "rejected" and line.file} == {
        p.name for p in (out / "rejected").iterdir()
    }


@pytest.mark.parametrize(("kind", "kept"), [("photo", "crisp.png"), ("cartoon", "large.png")])
def test_of_photographs_the_better_one_is_kept_and_of_cartoons_the_larger(tmp_path: Path, kind: Kind, kept: str):
    large = cv2.resize(PORTRAIT, None, fx=1.25, fy=1.25)
    write_image(tmp_path / "in" / "large.png", cv2.GaussianBlur(large, (0, 0), 2.0))
    write_image(tmp_path / "in" / "crisp.png", PORTRAIT)
    lines = by_input(align(tmp_path / "in", kind=kind, output=tmp_path / "out", recipe=LOOSE))
    assert [name for name, line in lines.items() if line.status == "used"] == [kept]


def test_near_duplicate_takes_the_place_of_a_better_one_that_is_gone(tmp_path: Path):
    folder, out = tmp_path / "in", tmp_path / "out"
    write_image(folder / "good.png", PORTRAIT)
    write_image(folder / "small.png", np.ascontiguousarray(PORTRAIT[::2, ::2]))
    assert by_input(align(folder, kind="photo", output=out, recipe=LOOSE))["small.png"].file == "rejected/small.png"
    (folder / "good.png").unlink()
    report = align(folder, kind="photo", output=out, recipe=LOOSE)
    assert report.changed == 0
    assert by_input(report)["small.png"].file == "cropped/small.png"
    assert [p.name for p in out.rglob("*.png")] == ["small.png"]


def test_photo_gives_every_face_and_a_cartoon_the_largest(tmp_path: Path):
    pair = np.concatenate([PORTRAIT[:300, 75:375], PORTRAIT[:300, 375:74:-1]], axis=1)
    write_image(tmp_path / "in" / "pair.png", pair)
    write_image(tmp_path / "in" / "pair-1.png", PORTRAIT)
    photos = align(tmp_path / "in", kind="photo", output=tmp_path / "photos", recipe=LOOSE)
    files = [line.file for line in read_manifest(photos.manifest)]
    assert len(files) == len(set(files)) == 3
    cartoons = align([tmp_path / "in" / "pair.png"], kind="cartoon", output=tmp_path / "cartoons", recipe=LOOSE)
    (line,) = read_manifest(cartoons.manifest)
    assert (line.file, line.face_index, line.split, line.person) == ("cartoon/pair.png", 0, "train", None)


def test_origin_travels_into_the_manifest(tmp_path: Path):
    raw = tmp_path / "style" / "raw"
    write_image(raw / "a.png", PORTRAIT)
    (raw / "origin.jsonl").write_text(
        to_json_line(Origin(file="a.png", sha256="0", asset="x", licence="CC0-1.0", attribution="NASA"))
    )
    (line,) = read_manifest(align(raw, kind="cartoon", output=tmp_path / "style").manifest)
    assert (line.input, line.asset, line.licence, line.attribution) == ("raw/a.png", "x", "CC0-1.0", "NASA")


def test_asset_names_its_package_and_licence(people: Path, tmp_path: Path):
    inputs = list(Inputs("asset:starter-photos", tmp_path, "photo"))
    assert len(inputs) == 82
    assert len({each.stem for each in inputs}) == 82
    assert all(each.origin is not None and each.origin.asset == "starter-photos" and each.origin.licence for each in inputs)
    assert inputs[0].name.startswith("asset:starter-photos/soft-ui/")


def test_output_that_holds_the_source_is_not_aligned_again(tmp_path: Path):
    write_image(tmp_path / "a.png", PORTRAIT)
    for _ in range(2):
        report = align(tmp_path, kind="photo", output=tmp_path, recipe=LOOSE)
        assert [line.input for line in read_manifest(report.manifest)] == ["a.png"]


def test_names_that_would_meet_are_kept_apart(tmp_path: Path):
    for name in ("a/b.png", "a-b.png", "A-b.jpg", "a b.png"):
        write_image(tmp_path / name, np.zeros((2, 2, 3), np.uint8))
    stems = [each.stem for each in Inputs(tmp_path, tmp_path / "out", "photo")]
    assert len({stem.casefold() for stem in stems}) == 4


def test_nothing_to_align_is_a_data_error(tmp_path: Path):
    with pytest.raises(DataError, match="no folder"):
        align(tmp_path / "nowhere", kind="photo", output=tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no pictures"):
        align(tmp_path / "empty", kind="photo", output=tmp_path / "out")
    with pytest.raises(DataError, match="no pictures"):
        align([], kind="photo", output=tmp_path / "out")


def test_output_that_cannot_be_written_is_named(tmp_path: Path):
    write_image(tmp_path / "in" / "a.png", PORTRAIT)
    (tmp_path / "out").write_text("a file where the folder should be")
    with pytest.raises(StylekitError, match="Cannot write"):
        align(tmp_path / "in", kind="photo", output=tmp_path / "out")
