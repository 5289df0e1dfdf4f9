"""Shards: the same bytes for the same set, resumable, read back by stylekit and by webdataset itself, trained from."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stylekit.cli import run
from stylekit.config.load import style_recipe
from stylekit.data import shards
from stylekit.data.datasets import PictureSet, list_pictures, used_crops
from stylekit.data.manifest import ManifestLine, read_manifest, write_manifest
from stylekit.data.readers import open_source
from stylekit.data.shards import INDEX, is_aligned, photo_set, read_index, shard
from stylekit.engine.train import training_pictures
from stylekit.errors import DataError, Interrupted, UsageError
from stylekit.images import read_rgb, write_image
from stylekit.metrics.protocol import read_photographs
from stylekit.paths import Workspace, sha256_file
from stylekit.pipeline import align_photos, prepare
from stylekit.progress import Bar, silent
from tests.data.layouts import write_pictures

COUNT, SIDE = 40, 128  # a shard of 1 MB holds about twenty of these


def write_aligned(folder: Path, count: int = COUNT, side: int = SIDE) -> Path:
    """Write an aligned data set of noise, every fifth picture held out, and one rejected."""
    chance = np.random.default_rng(0)
    lines = []
    for n in range(count):
        file = f"cropped/p{n:03d}.png"
        write_image(folder / file, chance.integers(0, 256, (side, side, 3), np.uint8))
        lines.append(
            ManifestLine(
                file=file,
                input=f"/photos/ä{n}.jpg",
                input_sha256=f"{n:064x}",
                face_index=0,
                status="used",
                person=f"p{n // 2:03d}",
                split="eval" if n // 2 % 5 == 0 else "train",
                crop_size=side,
                quality={"sharpness": 3.5},
            )
        )
    lines.append(ManifestLine(file="rejected/x.png", input="x", input_sha256=None, status="rejected", reasons=["blurred"]))
    write_manifest(folder / "manifest.jsonl", lines)
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in sorted(folder.iterdir())}


def test_shards_hold_the_crops_as_they_are_with_their_manifest_lines(tmp_path: Path) -> None:
    source = write_aligned(tmp_path / "photos")
    report = shard(source, shard_mb=1)
    assert (report.folder, report.samples, report.made, report.aligned) == (
        tmp_path / "photos-shards",
        COUNT,
        report.shards,
        True,
    )
    assert report.shards > 1
    lines = [line for line in read_manifest(source / "manifest.jsonl") if line.status == "used"]
    for line, (found, file) in zip(lines, used_crops(report.folder), strict=True):
        shard_name, _, member = str(found.file).partition("/")
        assert found == line.model_copy(update={"file": found.file})
        with tarfile.open(report.folder / shard_name) as archive:
            assert archive.extractfile(member).read() == (source / str(line.file)).read_bytes()
        np.testing.assert_array_equal(file.read(), read_rgb(source / str(line.file)))


def test_the_index_counts_and_names_every_shard(tmp_path: Path) -> None:
    report = shard(write_aligned(tmp_path / "photos"), tmp_path / "out", shard_mb=1)
    index = read_index(tmp_path / "out")
    assert index.complete
    found = digests(tmp_path / "out")
    found.pop(INDEX)
    assert {entry.file: entry.sha256 for entry in index.shards} == found
    assert [entry.file for entry in index.shards] == [f"{n:06d}.tar" for n in range(report.shards)]
    assert all(entry.bytes == (tmp_path / "out" / entry.file).stat().st_size <= (1 << 20) + 60_000 for entry in index.shards)


def test_the_same_set_gives_the_same_bytes_whenever_it_is_made(tmp_path: Path) -> None:
    source = write_aligned(tmp_path / "photos")
    shard(source, tmp_path / "a", shard_mb=1)
    for path in (source / "cropped").iterdir():
        os.utime(path, (1, 1))
    shard(source, tmp_path / "b", shard_mb=1)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


@contextmanager
def stopping_after(count: int) -> Iterator[object]:
    done = 0

    class Stopping:
        def advance(self, n: int = 1, **fields: str | float) -> None:
            nonlocal done
            done += n
            if done > count:
                raise KeyboardInterrupt

    @contextmanager
    def progress(description: str, total: int | None = None) -> Iterator[Bar]:
        yield Stopping()

    yield progress


@pytest.mark.parametrize("unreadable", [(), (0, 1, 19, 20, 21, 39)])
def test_a_stopped_run_goes_on_with_the_next_shard_and_comes_to_the_same(tmp_path: Path, unreadable: tuple[int, ...]) -> None:
    source = write_aligned(tmp_path / "photos")
    for n in unreadable:
        (source / f"cropped/p{n:03d}.png").write_bytes(b"torn")
    whole = shard(source, tmp_path / "whole", shard_mb=1)
    assert set(whole.skipped) == {f"cropped/p{n:03d}.png" for n in unreadable}
    with stopping_after(30) as progress, pytest.raises(Interrupted, match=r"Stopped after \d+ pictures"):
        shard(source, tmp_path / "out", shard_mb=1, progress=progress)
    with pytest.raises(DataError, match="not complete"):
        list_pictures(tmp_path / "out")
    first = (tmp_path / "out" / "000000.tar").stat().st_mtime_ns
    assert shard(source, tmp_path / "out", shard_mb=1).made == whole.shards - 1
    assert (tmp_path / "out" / "000000.tar").stat().st_mtime_ns == first
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")
    (tmp_path / "out" / "000001.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"000001\.tar is missing or cut short"):
        list_pictures(tmp_path / "out")
    assert shard(source, tmp_path / "out", shard_mb=1).made == whole.shards - 1
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")
    assert shard(source, tmp_path / "out", shard_mb=1).made == 0


@pytest.mark.slow
def test_a_killed_run_leaves_no_half_shard(tmp_path: Path) -> None:
    source = write_aligned(tmp_path / "photos", 80, 256)
    shard(source, tmp_path / "whole", shard_mb=2)
    main = "from stylekit.cli import main; main()"
    command = [sys.executable, "-c", main, "data", "shard", str(source), "-o", str(tmp_path / "out"), "--shard-mb", "2"]
    for wanted in (1, 4):
        child = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while child.poll() is None and len(list((tmp_path / "out").glob("*.tar"))) < wanted:
            time.sleep(0.002)
        assert child.poll() is None
        child.send_signal(signal.SIGKILL)
        child.wait()
        for entry in read_index(tmp_path / "out").shards:
            assert sha256_file(tmp_path / "out" / entry.file) == entry.sha256
    assert subprocess.run(command, check=False).returncode == 0
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")


def test_other_pictures_or_settings_do_not_mix(tmp_path: Path) -> None:
    source = write_aligned(tmp_path / "photos", 4)
    shard(source, tmp_path / "out")
    with pytest.raises(DataError, match="shards of other pictures or settings"):
        shard(source, tmp_path / "out", size=64)
    with pytest.raises(UsageError, match="the source itself"):
        shard(source, source)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "x.tar").write_bytes(b"x")
    with pytest.raises(DataError, match=r"holds x.tar, which was not made here"):
        shard(source, tmp_path / "theirs")


def test_the_folder_one_stands_in_is_sharded_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write_aligned(tmp_path / "photos", 2))
    assert shard(".").folder.resolve() == tmp_path / "photos-shards"
    monkeypatch.chdir(tmp_path / "photos" / "cropped")
    assert shard("..").folder.resolve() == tmp_path / "photos-shards"


def test_an_index_without_a_finished_shard_binds_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_aligned(tmp_path / "photos", 2)
    with monkeypatch.context() as patch:
        patch.delattr(shards, "_write_shard")
        with pytest.raises(NameError):
            shard(source, tmp_path / "out")
    assert read_index(tmp_path / "out").shards == ()
    assert shard(source, tmp_path / "out", size=64).samples == 2


def test_a_damaged_shard_of_the_right_length_is_written_again(tmp_path: Path) -> None:
    source = write_aligned(tmp_path / "photos")
    shard(source, tmp_path / "out", shard_mb=1)
    whole = digests(tmp_path / "out")
    with (tmp_path / "out" / "000001.tar").open("r+b") as stream:
        stream.seek(-4096, io.SEEK_END)
        stream.write(b"damaged")
    assert shard(source, tmp_path / "out", shard_mb=1).made == len(whole) - 2
    assert digests(tmp_path / "out") == whole


def test_crops_are_brought_to_a_size_and_other_pictures_only_made_smaller(tmp_path: Path) -> None:
    shard(write_aligned(tmp_path / "photos", 2), tmp_path / "a", size=64)
    assert [item.read()[:4] for item in open_source(tmp_path / "a").items()] == [b"\x89PNG"] * 2
    assert [file.read().shape for _, file in used_crops(tmp_path / "a")] == [(64, 64, 3)] * 2
    write_image(tmp_path / "mine" / "wide.jpg", np.zeros((100, 300, 3), np.uint8))
    write_image(tmp_path / "mine" / "small.jpg", np.zeros((20, 30, 3), np.uint8))
    report = shard(tmp_path / "mine", size=50)
    shapes = [read_rgb(item.read()).shape for item in open_source(report.folder).items()]
    assert (report.aligned, shapes) == (False, [(20, 30, 3), (50, 150, 3)])


def test_splits_and_persons_of_a_source_go_along(tmp_path: Path) -> None:
    write_pictures(tmp_path / "celeba" / "img_align_celeba", ["000001.jpg", "000002.jpg"])
    (tmp_path / "celeba" / "list_eval_partition.txt").write_text("000001.jpg 2\n000002.jpg 0\n")
    (tmp_path / "celeba" / "identity_CelebA.txt").write_text("000001.jpg 9\n000002.jpg 8\n")
    folder = shard(tmp_path / "celeba").folder
    assert [(item.split, item.person) for item in open_source(folder).items()] == [("test", "9"), ("train", "8")]
    with pytest.raises(DataError, match="not aligned"):
        list_pictures(folder)


@given(st.lists(st.integers(0, 400_000), min_size=1, max_size=12))
@settings(max_examples=15, deadline=None)
def test_every_picture_is_in_one_shard_whatever_their_sizes(tmp_path_factory: pytest.TempPathFactory, sizes: list[int]) -> None:
    folder = tmp_path_factory.mktemp("sizes")
    png = (write_pictures(folder / "s", ["a.png"]) / "a.png").read_bytes()
    for n, size in enumerate(sizes):  # what stands behind a PNG's end is passed over by decoders
        (folder / "mine" / f"{n:02d}.png").parent.mkdir(exist_ok=True)
        (folder / "mine" / f"{n:02d}.png").write_bytes(png + bytes(size))
    report = shard(folder / "mine", shard_mb=1)
    assert [len(item.read()) - len(png) for item in open_source(report.folder).items()] == sizes
    assert report.samples == len(sizes)


def test_training_and_evaluation_take_shards_as_they_are(tmp_path: Path) -> None:
    source = write_aligned(tmp_path / "datasets" / "photos-x")
    write_aligned(tmp_path / "datasets" / "ink", 3)
    folder = shard(source, tmp_path / "shards", shard_mb=1).folder
    workspace = Workspace(tmp_path)
    recipe = style_recipe("ink", [f"photos.source={folder}", "generate.engine=dicebear"], workspace)
    assert is_aligned(folder)
    assert photo_set(str(folder), workspace) == folder
    prepare(recipe, workspace=workspace)
    stage = align_photos(recipe, workspace, silent)
    assert (stage.did, stage.summary) == (False, "40 photographs in shards")
    pictures = training_pictures(recipe, workspace)
    assert (len(pictures.photos), len(pictures.shown)) == (32, 8)
    np.testing.assert_array_equal(PictureSet(pictures.photos, SIDE)[0], read_rgb(source / "cropped/p002.png"))
    assert pictures.photos[0].person == "p001"
    prints = pictures.fingerprints()
    trained_on, held_out = read_photographs(folder)
    assert (len(trained_on.lines), len(held_out.lines)) == (32, 8)
    np.testing.assert_array_equal(held_out.read(held_out.lines[0]), read_rgb(source / "cropped/p000.png"))
    assert training_pictures(recipe, workspace).fingerprints() == prints


def test_the_command_counts_and_names_the_next_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_aligned(Path("photos"), 3)
    Path("photos/cropped/p001.png").write_bytes(b"")
    assert run(["data", "shard", "photos", "--size", "64"]) == 3
    shown = capsys.readouterr().out
    assert shown.startswith("2 pictures in one shard, 1 of them new, 0.0 MB: photos-shards\n")
    assert "\nunreadable: cropped/p001.png is empty.\n" in shown
    assert shown.endswith("Next: stylekit train --photos photos-shards\n")
    assert run(["data", "shard", "photos", "--size", "64", "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["made"] == 0


@pytest.mark.slow
def test_webdataset_reads_them(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    source = write_aligned(tmp_path / "photos")
    report = shard(source, tmp_path / "out", shard_mb=1)
    url = str(tmp_path / "out" / f"{{000000..{report.shards - 1:06d}}}.tar")
    samples = list(webdataset.WebDataset(url, shardshuffle=False).decode("rgb8"))
    assert [sample["__key__"] for sample in samples] == [f"{n:08d}" for n in range(COUNT)]
    assert [sample["json"]["person"] for sample in samples] == [f"p{n // 2:03d}" for n in range(COUNT)]
    np.testing.assert_array_equal(samples[7]["png"], read_rgb(source / "cropped/p007.png"))
