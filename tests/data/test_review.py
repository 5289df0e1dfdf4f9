"""`data drop`: what a person takes out stays out, and comes back as it was."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from skimage.data import astronaut

from stylekit.cli import run
from stylekit.config.schema import AlignRecipe
from stylekit.data.dropped import DROPPED, REASON, read_dropped
from stylekit.data.manifest import ManifestLine, Pair, read_manifest, write_manifest
from stylekit.data.pairs import list_pairs
from stylekit.data.prepare import AlignReport, align
from stylekit.data.report import report
from stylekit.data.review import drop
from stylekit.errors import DataError, StylekitError
from stylekit.images import write_image

GRAY = np.full((16, 16, 3), 90, np.uint8)


def write_set(folder: Path, count: int = 4) -> Path:
    """Write cartoons 0000.. with a photograph each, and 0000+1, a second face of the first."""
    names = [*(f"{n:04}" for n in range(count)), "0000+1"]
    lines = []
    for name in names:
        write_image(folder / "cartoon" / f"{name}.png", GRAY)
        write_image(folder / "photo" / f"{name}.png", GRAY)
        pair = Pair(photo=f"photo/{name}.png", photo_input="raw/photos/gone.png")
        picture = f"raw/{name[:4]}.png"
        lines.append(
            ManifestLine(file=f"cartoon/{name}.png", input=picture, input_sha256="", status="used", split="train", pair=pair)
        )
    write_manifest(folder / "manifest.jsonl", lines)
    return folder


def used(folder: Path) -> list[str]:
    return [Path(line.file).stem for line in read_manifest(folder / "manifest.jsonl") if line.status == "used" and line.file]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("0002", ["0002"]),
        ("0002.png", ["0002"]),
        ("cartoon/0002.png", ["0002"]),
        ("{set}/cartoon/0002.png", ["0002"]),
        ("raw/0000.png", ["0000", "0000+1"]),
        ("{set}/raw/0000.png", ["0000", "0000+1"]),
        ("000[23]", ["0002", "0003"]),
    ],
)
def test_a_crop_is_taken_out_by_any_of_its_names_and_comes_back_as_it_was(tmp_path: Path, name: str, meant: list[str]) -> None:
    folder = write_set(tmp_path / "set")
    before, everything = (folder / "manifest.jsonl").read_bytes(), used(folder)
    name = name.replace("{set}", str(folder))
    found = drop(folder, [name])
    assert sorted(Path(file).stem for file in found.changed) == meant
    assert used(folder) == [stem for stem in everything if stem not in meant]
    assert found.used == len(used(folder)) == len(list_pairs(folder))
    assert report(folder).reasons == {REASON: len(meant)}
    for stem in everything:
        assert (folder / "cartoon" / f"{stem}.png").is_file() != (stem in meant)
        assert (folder / "rejected" / f"{stem}.png").is_file() == (stem in meant)
    assert drop(folder, [name], undo=True).dropped == ()
    assert (folder / "manifest.jsonl").read_bytes() == before
    assert [Path(pair.photo).stem for pair in list_pairs(folder)] == everything


def test_nothing_changes_where_one_name_is_wrong(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set")
    with pytest.raises(DataError, match=r"no used crop called 002\. Did you mean 0002\?"):
        drop(folder, ["0001", "002"])
    assert len(used(folder)) == 5
    assert not (folder / DROPPED).exists()
    with pytest.raises(DataError, match="no dropped crop called 0001"):
        drop(folder, ["0001"], undo=True)
    with pytest.raises(DataError, match="no aligned data set"):
        drop(tmp_path, ["0001"])


def test_the_list_is_plain_text_that_may_be_written_by_hand(tmp_path: Path) -> None:
    (tmp_path / DROPPED).write_text("\ufeff# mine\n\n b.png \na é.png\n", "utf-8")
    assert read_dropped(tmp_path) == {"b.png", "a é.png"}
    (tmp_path / DROPPED).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="one file name a line"):
        read_dropped(tmp_path)


def test_not_while_an_align_is_at_work(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set")
    with closing(sqlite3.connect(folder / "align.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StylekitError, match="an align is at work"):
            drop(folder, ["0001"])
    assert drop(folder, ["0001"]).used == 4


@pytest.mark.usefixtures("asset_home")
def test_align_keeps_out_what_was_taken_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    write_image(tmp_path / "in" / "a.png", np.asarray(astronaut()))

    def again(size: int) -> AlignReport:
        return align(tmp_path / "in", kind="photo", output=out, recipe=AlignRecipe(size=size))

    assert again(64).used == 1
    assert run(["data", "drop", "a", "--in", str(out)]) == 0
    assert "1 dropped, 0 left" in capsys.readouterr().out
    assert again(32).reasons == {REASON: 1}
    assert [path.relative_to(out).as_posix() for path in out.rglob("*.png")] == ["rejected/a.png"]
    written = (out / "manifest.jsonl").read_bytes()
    assert again(32).changed == 0
    assert run(["data", "drop", "a", "--in", str(out), "--undo"]) == 0
    brought_back = (out / "manifest.jsonl").read_bytes()
    assert again(32).used == 1
    assert (out / "manifest.jsonl").read_bytes() == brought_back != written
