"""What users really bring: each time one clear line or a listed picture, the right exit code, the rest done, nothing lost."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from stylekit.assets import fetch
from stylekit.cli import run
from stylekit.data.manifest import ManifestLine, read_manifest, write_manifest
from stylekit.engine.checkpoint import latest_checkpoint, read_meta
from stylekit.images import read_rgb, write_image
from stylekit.paths import Workspace
from tests.nn.test_vgg import Hostile, save_as_upstream

RECIPE = """
style: dots
train:
  network: {width: 6, blocks: 0}
  size: 32
  batch_size: 2
  max_steps: 1
  superpixels: "off"
  loss: {lambda_content: 0}
"""
TINY = ("--max-steps=1", "--set=train.size=32", "--set=train.network.width=6", "--set=train.loss.lambda_content=0")


class Shell:
    """The command line in a project folder."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root = root
        self._capsys = capsys

    def __call__(self, *arguments: str | Path) -> tuple[int, str, str]:
        """Return exit code, stdout and stderr."""
        code = run([str(argument) for argument in arguments])
        shown = self._capsys.readouterr()
        assert "Traceback" not in shown.err
        assert "bug in stylekit" not in shown.err
        return code, shown.out, shown.err

    def refused(self, code: int, *arguments: str | Path) -> str:
        """Carry out what must fail with this code and one error; return its line and the next step's."""
        found, _, err = self(*arguments)
        lines = err.splitlines()
        (place,) = (number for number, line in enumerate(lines) if line.startswith("Error: "))
        assert found == code
        assert len(lines) - place <= 2, "an error is one line, and one for the next step"
        return "\n".join(lines[place:])


pytestmark = pytest.mark.usefixtures("faces_found_once")


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    monkeypatch.chdir(tmp_path)
    return Shell(tmp_path, capsys)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory, asset_home: Path) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    portrait = read_rgb(fetch("astronaut"))
    write_image(folder / "good.png", portrait)
    write_image(folder / "cut.jpg", portrait)
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:9000])
    write_image(folder / "dot.png", np.zeros((1, 1, 3), np.uint8))
    write_image(folder / "wall.png", np.full((90, 120, 3), 120, np.uint8))
    (folder / "text.jpg").write_text("not a picture")
    return folder


@pytest.fixture
def pictures(tmp_path: Path, drawn: Path) -> Path:
    """One portrait, and every kind of file that gives no face."""
    return shutil.copytree(drawn, tmp_path / "mixed")


@pytest.fixture
def faceless(tmp_path: Path) -> Path:
    for shade in (20, 120):
        write_image(tmp_path / "walls" / f"{shade}.png", np.full((90, 120, 3), shade, np.uint8))
    return tmp_path / "walls"


@pytest.fixture
def offline(empty_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STYLEKIT_OFFLINE", "1")


def project(root: Path) -> Workspace:
    """Write the style `dots`: its recipe and two small data sets, aligned already."""
    drawn = np.random.default_rng(0)
    workspace = Workspace(root)
    for folder in (workspace.photos, workspace.style("dots")):
        files = [f"{number}.png" for number in range(3)]
        for file in files:
            write_image(folder / file, drawn.integers(0, 256, (32, 32, 3), np.uint8))
        lines = [ManifestLine(file=f, input=f"asset:starter-photos/{f}", input_sha256=None, status="used") for f in files]
        write_manifest(folder / "manifest.jsonl", lines)
    workspace.recipes.mkdir(parents=True)
    (workspace.recipes / "dots.yaml").write_text(RECIPE)
    workspace.set_current_style("dots")
    return workspace


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_align_lists_what_it_cannot_use_and_keeps_the_rest(shell: Shell, pictures: Path) -> None:
    code, out, _ = shell("align", pictures, "--output", "aligned")
    assert code == 3
    assert "1 face of 5 pictures aligned, 2 left out, 2 unreadable" in out
    assert "left out, no face: 2" in out
    for name in ("cut.jpg", "text.jpg"):
        assert any(line.startswith("unreadable: ") and name in line for line in out.splitlines())
    status = {Path(line.input).name: line.status for line in read_manifest(Path("aligned/manifest.jsonl"))}
    assert status == {
        "good.png": "used", "dot.png": "rejected", "wall.png": "rejected", "cut.jpg": "unreadable", "text.jpg": "unreadable"
    }  # fmt: skip


def test_stylize_lists_what_it_cannot_use_and_draws_the_rest(shell: Shell, pictures: Path) -> None:
    project(shell.root)
    assert shell("train")[0] == 0
    code, out, _ = shell("stylize", pictures, "--size", "64")
    assert code == 3
    assert {path.name for path in Path("stylized").iterdir()} == {"good.png", "dot.png", "wall.png"}
    assert [read_rgb(Path("stylized", name)).shape for name in ("dot.png", "wall.png")] == [(1, 1, 3), (90, 120, 3)]
    assert [out.count(f"failed: {pictures}/{name}") for name in ("cut.jpg", "text.jpg")] == [1, 1]
    assert [out.count(f"no face found: {pictures}/{name}") for name in ("dot.png", "wall.png")] == [1, 1]


def test_own_folders_train_on_their_good_pictures_and_name_the_others(shell: Shell, pictures: Path) -> None:
    code, _, err = shell("train", "--cartoons", pictures, "--photos", pictures, "--batch-size", "1", *TINY)
    assert code == 0
    for name in ("cut.jpg", "text.jpg"):
        assert err.count(name) == 2, "once as a cartoon, once as a photograph"
    assert list(Path("work_dirs").glob("00000-mixed-dctnet/checkpoints/step-000001/weights.safetensors"))


def test_folders_without_a_face_cannot_be_trained_with(shell: Shell, pictures: Path, faceless: Path) -> None:
    said = shell.refused(1, "train", "--cartoons", faceless, "--photos", pictures, "--batch-size", "1", *TINY)
    assert said.startswith("Error: datasets/walls holds no usable picture")
    assert "datasets/walls/rejected" in said
    assert not Path("work_dirs").exists()


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (1, ("align", "empty")),
        (2, ("stylize", "empty")),
        (1, ("gen-data", "--engine", "folder", "--model", "empty", "--style", "mine")),
        (1, ("train", "--cartoons", "empty", "--photos", "walls")),
        (1, ("train", "--cartoons", "walls", "--photos", "empty")),
    ],
)
def test_an_empty_folder_is_named(shell: Shell, faceless: Path, code: int, arguments: tuple[str, ...]) -> None:
    Path("empty").mkdir()
    assert shell.refused(code, *arguments).startswith("Error: There are no pictures ")
    assert not Path("datasets/current").exists() or Path("datasets/current").read_text() == "walls\n"
    assert not Path("work_dirs").exists()


def test_fewer_pictures_than_the_batch_and_more_of_them_later(shell: Shell, pictures: Path) -> None:
    train = ("train", "--cartoons", pictures, "--photos", pictures, *TINY, "--batch-size")
    said = shell.refused(1, *train, "2")
    assert said.startswith("Error: There are 1 photos to train with, fewer than the batch of 2.")
    assert said.endswith("Add pictures, or use --batch-size 1.")
    assert not Path("work_dirs").exists()
    before = contents(Path("datasets/mixed/cartoon"))

    people = fetch("starter-photos") / "soft-ui"
    for name in ("team-1.jpg", "charles.jpg", "marie.jpg"):
        shutil.copy(people / name, pictures)
    assert shell(*train, "2")[0] == 0, "what was added is found"
    after = contents(Path("datasets/mixed/cartoon"))
    assert len(after) == 4
    assert before.items() <= after.items()


def test_resume_goes_on_by_the_runs_own_recipe_and_to_its_own_last_step(shell: Shell) -> None:
    workspace = project(shell.root)
    shell.refused(1, "train", "--resume")
    assert shell("train", "--batch-size", "3", "--max-steps", "4", "--set=train.save_every=2")[0] == 0
    (run_folder,) = workspace.run_folders()
    shutil.rmtree(run_folder / "checkpoints" / "step-000004")
    assert shell("train", "--resume")[0] == 0
    meta = read_meta(run_folder / "checkpoints" / "step-000004")
    assert (meta.images_seen, meta.recipe.train.batch_size) == (12, 3)
    assert shell("train", "--resume", "--max-steps", "5")[0] == 0
    said = shell.refused(1, "train", "--resume", "--batch-size", "2")
    assert said.startswith(f"Error: {Path('work_dirs') / run_folder.name} was trained with other values of train.batch_size.")
    assert workspace.run_folders() == [run_folder]
    assert read_meta(latest_checkpoint(run_folder)).step == 5


def test_your_own_cartoons_are_not_licensed_as_the_demos(shell: Shell, pictures: Path) -> None:
    people = fetch("starter-photos") / "soft-ui"
    shutil.copy(people / "team-1.jpg", pictures)
    train = ("train", "--style", "demo", "--cartoons", pictures, "--photos", pictures, "--batch-size=1", *TINY)
    off = [f"--set=train.loss.lambda_{name}=0" for name in ("projected", "palette")]
    assert shell(*train, "--set=train.superpixels=off", *off)[0] == 0
    made = read_meta(latest_checkpoint(Workspace().run_folders()[-1])).recipe
    assert (made.description, made.licence, made.authors) == ("", None, ())


def test_a_hostile_weight_file_is_refused_and_executes_nothing(shell: Shell, empty_home: Path) -> None:
    project(shell.root)
    kernels = {"conv1_1": [Hostile(), np.zeros(64, np.float32)]}
    assert shell("assets", "add", "content", save_as_upstream(shell.root / "vgg19.npy", kernels))[0] == 0
    Path("faithful.yaml").write_text("style: dots\ntrain: {preset: upstream, size: 32, batch_size: 2, max_steps: 1}\n")
    said = shell.refused(1, "train", "--style", "faithful.yaml")
    assert "vgg19.npy is not a safe VGG weight file" in said
    assert "stylekit assets add content FILE" in said
    assert not Path("executed").exists()
    assert not Path("work_dirs").exists()


@pytest.mark.parametrize("arguments", [("run", "typo.yaml"), ("train", "--style=typo.yaml"), ("init", "x", "--recipe=typo.yaml")])
def test_a_mistyped_recipe_stops_before_anything_is_written(shell: Shell, arguments: tuple[str, ...]) -> None:
    Path("typo.yaml").write_text("style: dots\ntrain: {max_step: 5}\n")
    before = contents(shell.root)
    assert shell.refused(2, *arguments) == ("Error: typo.yaml: train.max_step is not a known key.\nDid you mean train.max_steps?")
    assert contents(shell.root) == before


@pytest.mark.parametrize(
    ("asset", "arguments"),
    [
        ("dicebear-toon-head", ("gen-data",)),
        ("dicebear-toon-head", ("run", "demo")),
        ("starter-photos", ("align", "asset:starter-photos")),
        ("face-detector", ("align", "walls")),
        ("vgg16-hed", ("train", "--style", "dots", "--set=train.loss.lambda_content=1", "--set=train.content.network=vgg16-hed")),
    ],
)
def test_offline_a_missing_asset_is_named_with_its_mend(
    shell: Shell, faceless: Path, offline: None, asset: str, arguments: tuple[str, ...]
) -> None:
    if "dots" in arguments:
        project(shell.root)
    before = {name for name in contents(shell.root) if not name.startswith("home/")}
    said = shell.refused(1, *arguments)
    assert said.startswith(f"Error: The asset {asset} is not cached.")
    assert "STYLEKIT_OFFLINE" in said
    assert re.search(rf"assets add \S+ (FILE|FOLDER) --name {asset}", said)
    written = {name for name in contents(shell.root) if not name.startswith("home/")} - before
    assert not [name for name in written if name.endswith((".png", ".jpg", "manifest.jsonl"))]
    assert not Path("work_dirs").exists()


class Disk:
    """A small disk: a real one where mounting is allowed, else a folder where writing is made to fail in the same words."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder.mkdir()
        self.folder = folder
        self._patch = monkeypatch
        self._real = self._mount("-t", "tmpfs", "-o", "size=8m", "tmpfs")

    def _mount(self, *options: str) -> bool:
        command = ["mount", *options, str(self.folder)]
        return shutil.which("mount") is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0

    def fill(self) -> None:
        """Leave 40 KB: room for a few lines of text, for a checkpoint or a photograph not."""
        if self._real:
            free = shutil.disk_usage(self.folder).free
            (self.folder / "ballast").write_bytes(bytes(free - 40_000))
        else:
            self._patch.setattr(os, "fsync", _failing(errno.ENOSPC))

    def free(self) -> None:
        """Make room again."""
        if self._real:
            (self.folder / "ballast").unlink()
        else:
            self._patch.undo()

    def lock(self) -> None:
        """Make the disk read-only."""
        if self._real:
            assert self._mount("-o", "remount,ro")
        else:
            for name in ("mkstemp", "mkdtemp"):
                self._patch.setattr(tempfile, name, _failing(errno.EROFS))

    def eject(self) -> None:
        """Unmount it."""
        if self._real:
            subprocess.run(["umount", "--lazy", str(self.folder)], check=True)


def _failing(number: int) -> object:
    def fail(*arguments: object, **keywords: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.fixture
def disk(shell: Shell) -> Iterator[Disk]:
    """A small disk with the project `dots` on it, one step trained; the working folder."""
    with pytest.MonkeyPatch.context() as patch:
        small = Disk(shell.root / "disk", patch)
        here = Path.cwd()
        try:
            project(small.folder)
            os.chdir(small.folder)
            assert shell("train")[0] == 0
            yield small
        finally:
            os.chdir(here)
            small.eject()


def test_on_a_full_disk_nothing_is_lost_and_training_goes_on_when_there_is_room(shell: Shell, disk: Disk, pictures: Path) -> None:
    before = contents(disk.folder / "work_dirs/00000-dots-dctnet/checkpoints")
    disk.fill()
    said = shell.refused(1, "train", "--resume", "--max-steps", "3", "--set=train.save_every=1")
    assert said.startswith("Error: Cannot write work_dirs/00000-dots-dctnet/")
    assert "No space left on device" in said
    assert "Free some space" in said
    assert contents(disk.folder / "work_dirs/00000-dots-dctnet/checkpoints") == before

    code, out, _ = shell("stylize", pictures / "good.png", pictures / "dot.png", "--size", "64")
    assert code in (1, 3)
    assert "Cannot write stylized/good.png: No space left on device" in out
    assert not Path("stylized/good.png").exists()

    disk.free()
    assert shell("train", "--resume", "--max-steps", "3")[0] == 0
    assert Path("work_dirs/00000-dots-dctnet/checkpoints/step-000003/weights.safetensors").is_file()


@pytest.mark.parametrize(
    ("target", "arguments"),
    [
        ("", ("train",)),
        ("", ("init", "another")),
        ("datasets/current", ("gen-data", "--engine=folder", "--model={pictures}", "--style=mine")),
        ("aligned/align.db", ("align", "{pictures}", "--output=aligned")),
    ],
)
def test_a_read_only_folder_is_named_and_left_as_it_was(
    shell: Shell, disk: Disk, pictures: Path, target: str, arguments: tuple[str, ...]
) -> None:
    before = contents(disk.folder)
    disk.lock()
    said = shell.refused(1, *(argument.format(pictures=pictures) for argument in arguments))
    assert said.startswith(f"Error: Cannot write {target}")
    assert "Read-only file system" in said
    assert "Free some space" not in said
    assert contents(disk.folder) == before


def test_stylize_into_a_read_only_folder_lists_every_picture(shell: Shell, disk: Disk, pictures: Path) -> None:
    disk.lock()
    code, out, _ = shell("stylize", pictures, "--size", "64", "--output", "results")
    assert code == 1
    assert out.count("failed: ") == 5
    assert out.count("Read-only file system") == 3
