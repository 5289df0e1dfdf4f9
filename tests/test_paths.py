"""Names, and writing that is killed at the worst moment."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stylekit.config.schema import Recipe
from stylekit.errors import StylekitError, UsageError
from stylekit.paths import Workspace, atomic_folder, atomic_write_bytes, remove_partials, slug, style_name


@given(st.text())
def test_slug_is_one_plain_part_of_a_path_and_its_own_slug(text: str):
    with suppress(UsageError):
        name = slug(text)
        assert Path(name).name == name == slug(name)
        assert not name.startswith((".", "-"))
        assert not any(character.isspace() for character in name)


@given(st.text() | st.text("aB1 -_é动"))
def test_style_name_is_one_that_a_recipe_takes_or_a_sentence(text: str):
    with suppress(UsageError):
        assert Recipe(style=style_name(text)).style == style_name(style_name(text))


@pytest.mark.parametrize(
    ("text", "name"), [("Archer style", "archer-style"), ("  3D_toon! ", "3d-toon"), ("动漫风", "动漫风"), ("Été 2", "été-2")]
)
def test_slug_keeps_words_of_any_script(text: str, name: str):
    assert slug(text) == name


def run_to_its_death(code: str, *arguments: Path) -> None:
    """Run Python code that kills itself where `os.replace` is called for the `sys.argv[1]`-th time, before it renames."""
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode in (9, -getattr(signal, "SIGKILL", 9)), done.stderr


KILLED_AT = """
import os, sys
from pathlib import Path
from stylekit.paths import Workspace, atomic_folder, atomic_write_bytes
at, calls, rename = int(sys.argv[1]), [], os.replace
def replace(*paths):
    calls.append(paths)
    if len(calls) == at:
        os.kill(os.getpid(), 9) if os.name == "posix" else os._exit(9)
    rename(*paths)
os.replace = replace
target = Path(sys.argv[2])
"""
WRITE_FILE = KILLED_AT + "atomic_write_bytes(target, b'new')"
WRITE_FOLDER = KILLED_AT + "with atomic_folder(target) as folder: (folder / 'a').write_bytes(b'new')"


def test_file_is_the_old_one_if_killed_before_the_rename(tmp_path: Path):
    target = tmp_path / "file"
    target.write_bytes(b"old")
    run_to_its_death(WRITE_FILE, Path("1"), target)
    assert target.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 2
    remove_partials(tmp_path)
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("killed_at", [1, 2])
@pytest.mark.parametrize("name", ["folder", "old-folder", "new-folder"])
def test_folder_is_the_old_one_if_killed_while_it_is_replaced(tmp_path: Path, name: str, killed_at: int):
    target = tmp_path / name
    target.mkdir()
    (target / "a").write_bytes(b"old")
    run_to_its_death(WRITE_FOLDER, Path(str(killed_at)), target)
    assert target.exists() == (killed_at == 1)
    remove_partials(tmp_path)
    assert list(tmp_path.iterdir()) == [target]
    assert (target / "a").read_bytes() == b"old"


def test_replaced_folder_does_not_come_back_over_the_new_one(tmp_path: Path):
    (tmp_path / ".partial-old-1" / "folder").mkdir(parents=True)
    with atomic_folder(tmp_path / "folder") as folder:
        (folder / "a").write_bytes(b"new")
    remove_partials(tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "a"]


def test_folder_stays_if_its_successor_cannot_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    target, rename = tmp_path / "folder", os.replace
    (target / "old").mkdir(parents=True)

    def full(source: Path, place: Path) -> None:
        if place == target and "new" in source.name:
            raise OSError(28, "No space left on device")
        rename(source, place)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StylekitError, match="No space left"), atomic_folder(target):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "old"]


@pytest.mark.parametrize("at", ["no/such", "file/in"])
def test_path_that_cannot_be_written_is_a_sentence(tmp_path: Path, at: str):
    (tmp_path / "file").touch()
    if at.startswith("file"):
        with pytest.raises(StylekitError, match="Cannot write"):
            atomic_write_bytes(tmp_path / at, b"")
        with pytest.raises(StylekitError, match="Cannot write"), atomic_folder(tmp_path / at):
            pass
    else:
        atomic_write_bytes(tmp_path / at, b"")
        assert (tmp_path / at).is_file()


PERMISSIONS = """
import os, sys
from pathlib import Path
os.umask(int(sys.argv[2], 8))
import numpy as np
from safetensors.numpy import save_file
from stylekit.paths import atomic_folder, atomic_write_bytes
root = Path(sys.argv[1])
(root / "plain").open("w").close()
(root / "plain folder").mkdir()
atomic_write_bytes(root / "atomic", b"")
with atomic_folder(root / "atomic folder") as folder:
    save_file({"x": np.zeros(1)}, folder / "weights.safetensors")
    (folder / "private").touch(0o600)
    (folder / "program").touch(0o755)
    (folder / "read-only").touch(0o444)
"""


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
@pytest.mark.parametrize("umask", ["022", "077"])
def test_permissions_are_those_of_a_plain_open(tmp_path: Path, umask: str):
    subprocess.run([sys.executable, "-c", PERMISSIONS, str(tmp_path), umask], check=True)

    def mode(name: str) -> int:
        return (tmp_path / name).stat().st_mode & 0o777

    assert mode("atomic") == mode("plain")
    assert mode("atomic folder") == mode("plain folder")
    for name in ("weights.safetensors", "private"):
        assert mode(f"atomic folder/{name}") == mode("plain")
    assert mode("atomic folder/program") == 0o755 & ~int(umask, 8)
    assert mode("atomic folder/read-only") == 0o444 & ~int(umask, 8) | mode("plain")


def test_photographs_of_two_data_sets_of_one_layout_do_not_share_a_folder(tmp_path: Path):
    project = Workspace(tmp_path)
    assert project.photo_set("asset:starter-photos") == project.photos
    assert project.photo_set("/data/Selfies") == tmp_path / "datasets" / "photos-selfies"
    sets = {project.photo_set(f"/data/{name}/face_photo").name for name in ("clipart", "archer")}
    assert sets == {"photos-clipart-face-photo", "photos-archer-face-photo"}


def write_database(folder: Path, picture: str) -> None:
    with closing(sqlite3.connect(folder / "align.db")) as database:
        database.execute("CREATE TABLE pictures (input TEXT)")
        database.execute("INSERT INTO pictures VALUES (?)", (picture,))
        database.commit()


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("absolute", [False, True])
def test_another_folder_of_one_name_gets_a_data_set_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, absolute: bool, killed: bool
):
    monkeypatch.chdir(tmp_path)
    project = Workspace()
    mine = str(tmp_path / "a" / "Selfies") if absolute else "a/Selfies"
    first = project.photo_set(mine)
    first.mkdir(parents=True)
    if killed:
        write_database(first, f"{mine}/me.jpg")
    else:
        (first / "manifest.jsonl").write_text(json.dumps({"file": None, "input": f"{mine}/me.jpg"}) + "\n")
    other = project.photo_set("b/selfies")
    assert (first.name, project.photo_set("a/Selfies"), project.photo_set(str(tmp_path / "a/Selfies"))) == (
        "photos-selfies",
        first,
        first,
    )
    assert re.fullmatch("photos-selfies-[0-9a-f]{4}", other.name)
    assert project.photo_set("c/selfies") != other == project.photo_set(str(tmp_path / "b/selfies"))


def test_a_data_set_of_shards_is_known_by_their_pattern(tmp_path: Path):
    project = Workspace(tmp_path)
    found = project.photo_set(f"{tmp_path}/ffhq/{{000..002}}.tar")
    found.mkdir(parents=True)
    (found / "manifest.jsonl").write_text(json.dumps({"input": f"{tmp_path}/ffhq/000.tar/1.png"}) + "\n")
    assert project.photo_set(f"{tmp_path}/ffhq/{{000..002}}.tar") == found != project.photo_set("/b/ffhq/{000..002}.tar")
