"""Training pictures: what a data set lists, and the cache file that spares decoding them again."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from stylekit.data import cache, datasets
from stylekit.data.cache import RowCache
from stylekit.data.datasets import PictureFile, PictureSet, list_pictures
from stylekit.data.manifest import ManifestLine, write_manifest
from stylekit.errors import DataError
from stylekit.images import read_rgb, write_image

SIDE = 32


@pytest.fixture(autouse=True)
def _nothing_fits_into_memory(monkeypatch: pytest.MonkeyPatch, empty_home: Path) -> None:
    monkeypatch.setattr(datasets, "MEMORY_BYTES", 0)
    monkeypatch.setattr(cache, "_RESERVE_BYTES", 0)


def write_set(folder: Path, count: int = 12, side: int = SIDE) -> Path:
    chance = np.random.default_rng(0)
    lines = []
    for n in range(count):
        write_image(folder / f"cropped/{n}.png", chance.integers(0, 256, (side, side, 3), np.uint8))
        split = "eval" if n % 4 == 3 else "train" if n % 2 else None
        lines.append(ManifestLine(file=f"cropped/{n}.png", input="x", input_sha256=None, status="used", person="a", split=split))
    lines.append(ManifestLine(file="rejected/x.png", input="x", input_sha256=None, status="rejected"))
    write_manifest(folder / "manifest.jsonl", lines)
    return folder


def negative(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return 255 - picture


def caches(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.rows"))


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return the list of files that are decoded from now on."""
    decoded: list[Path] = []

    def reading(source: Path, **named: str) -> NDArray[np.uint8]:
        decoded.append(source)
        return read_rgb(source, **named)

    monkeypatch.setattr(datasets, "read_rgb", reading)
    return decoded


def test_a_split_of_a_manifest_or_all_of_a_folder(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set")
    assert [file.name for file in list_pictures(folder, "eval")] == ["3.png", "7.png", "11.png"]
    assert len(list_pictures(folder, "train")) == 9
    assert len(list_pictures(folder)) == 12
    assert len(list_pictures(folder / "cropped")) == len(list_pictures(folder / "cropped", "train")) == 12
    with pytest.raises(DataError, match="no usable picture of the eval split"):
        list_pictures(folder / "cropped", "eval")
    with pytest.raises(DataError, match="no data set at"):
        list_pictures(folder / "gone")


@pytest.mark.parametrize("derive", [None, negative])
def test_a_picture_is_decoded_once_and_then_read_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, derive: datasets.Callable[..., NDArray[np.uint8]] | None
) -> None:
    folder = write_set(tmp_path / "set")
    files = list_pictures(folder)
    wanted = [read_rgb(file.path) for file in files]
    decoded = counted(monkeypatch)
    for _ in range(3):  # each as a new run would
        pictures = PictureSet(files, SIDE, derive)
        with ThreadPoolExecutor(4) as pool:
            batch = pictures.batch([*range(12), 0, 5], pool)
        assert batch.shape == (14, SIDE, SIDE, 6 if derive else 3)
        for picture, right in zip(batch, [*wanted, wanted[0], wanted[5]], strict=True):
            np.testing.assert_array_equal(picture[..., :3], right)
            if derive:
                np.testing.assert_array_equal(picture[..., 3:], 255 - right)
    assert len(decoded) in range(12, 15)  # two threads may ask for one picture at the same time
    assert [path.parent for path in caches(tmp_path)] == [folder / ".cache"]


def test_what_fits_stays_in_memory_and_off_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "MEMORY_BYTES", 12 * SIDE * SIDE * 3)
    decoded = counted(monkeypatch)
    pictures = PictureSet(list_pictures(write_set(tmp_path / "set")), SIDE)
    for _ in range(2):
        pictures.batch(range(12))
    assert (len(decoded), caches(tmp_path)) == (12, [])


def test_changed_pictures_another_size_and_what_is_derived_are_not_mixed_up(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set")
    files = list_pictures(folder)
    PictureSet(files, SIDE).batch(range(12))
    write_image(files[0].path, np.zeros((SIDE, SIDE, 3), np.uint8))
    assert PictureSet(files, SIDE)[0].max() == 0
    assert PictureSet(files, 16)[1].shape == (16, 16, 3)
    assert PictureSet(files, SIDE, negative)[0][..., 3:].min() == 255
    np.testing.assert_array_equal(PictureSet(files[::-1], SIDE)[0], read_rgb(files[-1].path))


def test_stale_caches_are_deleted_but_none_that_is_in_use(tmp_path: Path) -> None:
    files = list_pictures(write_set(tmp_path / "set"))
    first = PictureSet(files, SIDE)
    second = PictureSet(files[:6], SIDE)
    assert len(caches(tmp_path)) == 2
    del first
    third = PictureSet(files[:5], SIDE)
    assert len(caches(tmp_path)) == 2
    del second, third
    PictureSet(files, SIDE)
    assert len(caches(tmp_path)) == 1


def test_a_read_only_data_set_is_cached_at_home_and_what_is_long_forgotten_there_goes(
    tmp_path: Path, empty_home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    files = list_pictures(write_set(tmp_path / "set"))
    old, recent = (write_set(tmp_path / name) for name in ("old", "recent"))
    mkdir = Path.mkdir

    def read_only(folder: Path, *arguments: object, **named: bool) -> None:
        if folder.name == ".cache":
            raise OSError(errno.EROFS, "Read-only file system")
        mkdir(folder, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "mkdir", read_only)
    for folder in (old, recent):
        PictureSet(list_pictures(folder), SIDE)
    kept = {name: caches(empty_home)[n] for n, name in enumerate(("a", "b"))}
    os.utime(kept["a"], (0, time.time() - 31 * 86400))
    decoded = counted(monkeypatch)
    for _ in range(2):
        PictureSet(files, SIDE).batch(range(12))
    assert len(decoded) == 12
    assert (len(caches(tmp_path)), len(caches(empty_home)), kept["a"].exists(), kept["b"].exists()) == (2, 2, False, True)
    assert not caplog.text


def test_pictures_of_nobodys_data_set_are_cached_at_home(tmp_path: Path, empty_home: Path) -> None:
    write_set(tmp_path / "set")
    (tmp_path / "set" / "manifest.jsonl").unlink()
    PictureSet([PictureFile(tmp_path / "set/cropped/0.png")], SIDE).batch([0])
    assert [path.is_relative_to(empty_home / "decoded") for path in caches(tmp_path)] == [True]


@given(
    rows=st.lists(st.binary(min_size=64, max_size=64), min_size=1, max_size=8),
    cut=st.integers(0, 9000),
    noise=st.binary(max_size=200),
)
@settings(max_examples=40, deadline=None)
def test_a_row_comes_back_whole_or_not_at_all(
    tmp_path_factory: pytest.TempPathFactory, rows: Sequence[bytes], cut: int, noise: bytes
) -> None:
    """Whatever a kill or a power failure left in the file."""
    folder = tmp_path_factory.mktemp("rows")
    with RowCache(folder, "k", len(rows), 64) as store:
        for index, row in enumerate(rows):
            store.put(index, np.frombuffer(row, np.uint8))
        data = bytearray(store.path.read_bytes())
        data[cut : cut + len(noise)] = noise[: max(0, len(data) - cut)]
        store.path.write_bytes(bytes(data))
        path = store.path
    with RowCache(folder, "k", len(rows), 64) as store:
        assert store.path == path
        for index, row in enumerate(rows):
            found = store.get(index)
            assert found is None or found.tobytes() == row
        for index, row in enumerate(rows):
            store.put(index, np.frombuffer(row, np.uint8))
        assert [found.tobytes() for index in range(len(rows)) if (found := store.get(index)) is not None] == list(rows)


def test_a_row_that_was_damaged_is_not_given(tmp_path: Path) -> None:
    with RowCache(tmp_path, "k", 2, 100) as store:
        store.put(0, np.zeros(100, np.uint8))
        store.put(1, np.zeros(100, np.uint8))
        with store.path.open("r+b") as stream:
            stream.seek(4096 + 150)
            stream.write(b"x")
        assert store.get(0) is not None
        assert store.get(1) is None


def test_a_picture_changed_to_one_of_the_same_length_is_decoded_again(tmp_path: Path) -> None:
    file = PictureFile(tmp_path / "a.bmp")
    for level in (10, 20):
        Image.new("RGB", (SIDE, SIDE), (level,) * 3).save(file.path)
        os.utime(file.path, (level, level))
        assert PictureSet([file], SIDE)[0].max() == level


def test_an_empty_row_is_not_a_row_of_zeros(tmp_path: Path) -> None:
    with RowCache(tmp_path, "k", 3, 100) as store:
        assert store.get(1) is None
        store.put(1, np.zeros(100, np.uint8))
        assert store.get(1) is not None
        assert store.get(0) is store.get(2) is None


def fill(folder: Path, wait: str) -> None:
    with RowCache(folder, "k", 400, 20_000) as store:
        for index in range(400) if wait == "up" else reversed(range(400)):
            store.put(index, np.full(20_000, index % 251, np.uint8))
            if wait == "killed" and index == 200:
                os.kill(os.getpid(), signal.SIGKILL)


def test_two_processes_and_one_that_is_killed_share_a_cache(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    workers = [context.Process(target=fill, args=(tmp_path, how)) for how in ("up", "down", "killed")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, -signal.SIGKILL]
    with RowCache(tmp_path, "k", 400, 20_000) as store:
        for index in range(400):
            found = store.get(index)
            assert found is not None
            assert (found == index % 251).all()


def test_a_disk_that_becomes_full_costs_the_cache_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    files = list_pictures(write_set(tmp_path / "set"))
    pictures = PictureSet(files, SIDE)
    pictures.batch(range(6))
    room = os.pwrite
    held = pictures._disk.path.open("rb")

    def full(file: int, data: bytes, offset: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            for index, picture in enumerate(pictures.batch(range(12))):
                np.testing.assert_array_equal(picture, read_rgb(files[index].path))
    assert [record.getMessage() for record in caplog.records if "No space left" in record.getMessage()] == [
        f"Pictures are decoded anew from here on: {tmp_path}/set/.cache/{pictures._disk.path.name} cannot be written "
        "(No space left on device)."
    ]
    assert (caches(tmp_path), os.fstat(held.fileno()).st_size) == ([], 0)
    held.close()
    monkeypatch.setattr(os, "pwrite", room)
    PictureSet(files, SIDE).batch(range(12))
    assert len(caches(tmp_path)) == 1


def test_without_room_or_leave_to_write_there_is_no_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    files = list_pictures(write_set(tmp_path / "set"))
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda folder: SimpleNamespace(free=4096))
    assert PictureSet(files, SIDE).batch(range(12)).shape == (12, SIDE, SIDE, 3)
    assert caches(tmp_path) == []
    assert "would need" in caplog.text
    (tmp_path / "set" / ".cache").rmdir()
    (tmp_path / "set" / ".cache").write_text("a file where the folder should be")
    monkeypatch.undo()
    monkeypatch.setattr(datasets, "MEMORY_BYTES", 0)
    assert PictureSet(files, SIDE).batch(range(12)).shape == (12, SIDE, SIDE, 3)
    assert "cannot be written" in caplog.text
