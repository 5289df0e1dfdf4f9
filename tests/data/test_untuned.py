"""The tables of docs/detection.md, and what they are made with."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from stylekit.data.manifest import ManifestLine
from stylekit.images import read_rgb
from tests.data.untuned import CATALOGUE, CLASSES, STYLES, Picture, Row, _compare, _pair, tables, turned_pictures

PAGE = (Path(__file__).parents[2] / "docs/detection.md").read_text("utf-8")


def test_the_catalogue_is_whole() -> None:
    listed = yaml.safe_load(CATALOGUE.read_text("utf-8"))
    assert set(listed["pictures"]) == set(listed["packages"])
    entries = [entry for entries in listed["pictures"].values() for entry in entries]
    assert len({entry["sha256"] for entry in entries}) == len(entries)
    shown = Counter(name for entry in entries for name in entry["shows"])
    assert set(shown) == set(CLASSES) - {"exif", "lying"} | {"turned"}
    assert min(shown.values()) >= 4
    for entry in entries:
        assert bool(entry["faces"]) != bool({"mask", "nobody"} & set(entry["shows"])), entry["file"]
        assert (len(entry["faces"]) > 1) == ("group" in entry["shows"]), entry["file"]


def test_the_page_has_a_row_for_everything() -> None:
    rows = [line.split("|")[1].strip() for line in PAGE.splitlines() if line.startswith("| ")]
    assert [row for row in rows if row in CLASSES.values()] == list(CLASSES.values())
    styles = {row.partition(",")[0] for row in rows}
    assert set(STYLES) <= styles


def test_a_find_belongs_to_the_nearest_face_within_its_box() -> None:
    assert _pair([(0, 0), (100, 0)], [(90, 0, 40), (8, 0, 40), (4, 0, 40), (300, 0, 40)]) == {0: 2, 1: 0}
    assert _pair([(0, 0)], [(21, 0, 40)]) == {}


def line(x: float, status: str, *reasons: str) -> ManifestLine:
    points = [[x - 10, -10], [x + 10, -10], [x, 0], [x - 10, 10], [x + 10, 10]]
    made = {"file": None, "input": "a", "input_sha256": None, "landmarks_5": points, "quality": {"face_px": 40}}
    return ManifestLine.model_validate(made | {"status": status, "reasons": list(reasons)})


def test_what_came_of_each_face_is_counted() -> None:
    lines = [
        line(0, "used"),
        line(100, "rejected", "near-duplicate: b"),
        line(200, "rejected", "turned by 60 degrees, more than 50"),
        line(900, "used"),
        line(950, "rejected", "no clear human face"),
    ]
    row = Row()
    _compare(Picture(Path("a"), (), ((0, 0), (100, 0), (200, 0), (300, 0))), lines, row)
    assert (row.found, row.used, row.false_finds, row.false_used) == (3, 2, 2, 1)
    assert row.reasons == {"turned too far": 1, "not found": 1}
    crooked = Row()
    _compare(Picture(Path("a"), (), ((0, 0),), eyes_deg=-90), lines[:1], crooked)
    assert (crooked.found, crooked.used, crooked.reasons["used, but crooked"]) == (1, 0, 1)


def test_turned_pictures_are_the_same_when_read_or_lie_as_labelled(tmp_path: Path) -> None:
    upright = np.zeros((60, 40, 3), np.uint8)
    upright[6:14, 26:34] = 255
    Image.fromarray(upright).save(tmp_path / "a.png")
    turned = list(turned_pictures([Picture(tmp_path / "a.png", ("turned",), ((29.5, 9.5),))], tmp_path / "turned"))
    assert [picture.shows for picture in turned] == [("exif",)] * 3 + [("lying",)]
    for picture in turned:
        ((x, y),) = picture.faces
        seen = read_rgb(picture.path)[..., 0].astype(float)
        rows, columns = np.nonzero(seen > 128)
        assert (columns.mean(), rows.mean()) == pytest.approx((x, y), abs=0.5)
        assert (picture.eyes_deg == -90) == (picture.shows == ("lying",))


@pytest.mark.network
@pytest.mark.scale
def test_the_tables_are_what_is_measured(tmp_path: Path) -> None:
    pytest.importorskip("dlib")
    photographs, avatars = tables(tmp_path / "pictures", tmp_path / "aligned")
    assert photographs in PAGE
    assert avatars in PAGE
