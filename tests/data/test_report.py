"""The report: figures, rules, advice, and the page."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.data import astronaut

from stylekit.cli import run
from stylekit.config.schema import AlignRecipe
from stylekit.data.advice import stage
from stylekit.data.balance import Figure, figures, more_needed
from stylekit.data.entries import Entry, Source
from stylekit.data.manifest import Generation, Kind, ManifestLine, Pair, write_manifest
from stylekit.data.page import PAGE, render, write_report
from stylekit.data.prepare import align
from stylekit.data.report import SETTINGS, SetReport, report
from stylekit.data.rules import STAGES
from stylekit.errors import DataError
from stylekit.images import write_image
from tests.pages.parsed import Page

QUALITY = {"ita_deg": 45.0, "yaw_deg": 0.0, "pitch_deg": 2.0, "glasses": 0.0, "face_px": 300.0, "sharpness": 60.0, "outlier": 0.0}
TURNS = (-30.0, 0.0, 0.0, 0.0, 30.0)
SKINS = (60.0, 20.0, -40.0)


def line(index: int, **changes: object) -> ManifestLine:
    """Return a used photograph as good as they come; `quality` of the changes adds to its own."""
    quality = QUALITY | {"yaw_deg": TURNS[index % 5], "ita_deg": SKINS[index % 3], "glasses": float(index % 10 == 0)}
    fields = {
        "file": f"cropped/{index:06d}.png",
        "input": f"raw/{index:06d}.jpg",
        "input_sha256": "0" * 64,
        "status": "used",
        "licence": "CC0-1.0",
        "matrix": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]],
        "person": f"p{index}",
        "split": "eval" if index % 5 == 0 else "train",
    }
    return ManifestLine.model_validate(fields | changes | {"quality": quality | changes.get("quality", {})})


def cartoon(index: int, **changes: object) -> ManifestLine:
    return line(index, **{"file": f"cartoon/{index:06d}.png", "person": None, "split": "train"} | changes)


def judge(folder: Path, lines: Iterable[ManifestLine]) -> SetReport:
    write_manifest(folder / "manifest.jsonl", lines)
    return report(folder)


def advice(found: SetReport, kind: str) -> str:
    return "\n".join(each.text for each in found.advice if each.kind == kind)


def figure(found: SetReport, name: str) -> Figure:
    return next(each for each in found.figures if each.name == name)


@given(st.integers(1, 5000), st.data(), st.sampled_from([0.05, 0.1, 0.3]))
def test_as_many_more_as_asked_for_make_the_share_and_one_less_does_not(of: int, data: st.DataObject, share: float) -> None:
    have = data.draw(st.integers(0, of))
    more = more_needed(have, of, share)
    assert have + more >= share * (of + more) - 1e-6
    assert more == 0 or have + more - 1 < share * (of + more - 1)


def test_a_sound_set_is_called_good(tmp_path: Path) -> None:
    found = judge(tmp_path, map(line, range(1200)))
    assert found.headline == "1,200 usable photographs, enough to train a style."
    assert [each.kind for each in found.advice] == ["good"]
    assert (found.kind, found.used, found.rejected, found.train, found.held_out, found.persons) == (
        "photo",
        1200,
        0,
        960,
        240,
        1200,
    )


def test_a_person_on_both_sides_is_told(tmp_path: Path) -> None:
    lines = [line(i, person=f"p{i // 2}", split="eval" if (i % 2 and i < 6) or i >= 100 else "train") for i in range(200)]
    text = "On both sides, for training and held out: 3 persons. The figures of stylekit eval flatter."
    assert text in advice(judge(tmp_path, lines), "look")


def test_too_few_dark_faces_are_counted_and_asked_for(tmp_path: Path) -> None:
    lines = [line(i, quality={"ita_deg": -40.0 if i < 3 else 60.0 if i % 2 else 20.0}) for i in range(84)]
    dropped = [line(100 + i, status="rejected", split=None, reasons=["near-duplicate: raw/000004.jpg"]) for i in range(12)]
    found = judge(tmp_path, [*lines, *dropped])
    expected = "84 usable photographs, enough for a first try; 916 more would help, above all dark-skinned; "
    expected += "12 near-duplicates dropped."
    assert found.headline == expected
    assert "Dark-skinned: 3 of 84; aim for at least 10%: 6 more." in advice(found, "add")
    dark = figure(found, "ita_deg").groups[2]
    assert (dark.name, dark.count, dark.more) == ("dark-skinned", 3, 6)
    assert [bar.count for bar in figure(found, "ita_deg").bars] == [41, 0, 0, 40, 0, 3]
    assert (found.near_duplicates, found.cluster_count, len(found.clusters[0])) == (12, 1, 7)
    assert found.clusters[0][0].file == "cropped/000004.png"


@pytest.mark.parametrize(
    ("count", "kind", "enough"),
    [
        (0, "photo", "too few for a first try"),
        (50, "photo", "enough for a first try"),
        (999, "photo", "enough for a first try"),
        (1000, "photo", "enough to train a style"),
        (10_000, "photo", "as many as the published styles were trained on"),
        (49, "cartoon", "too few for a first try"),
        (200, "cartoon", "enough to train a style"),
    ],
)
def test_how_many_are_enough_depends_on_the_kind(count: int, kind: Kind, enough: str) -> None:
    assert STAGES[kind][stage(count, kind)][1] == enough


def left_out(kept: int, reason: str) -> list[ManifestLine]:
    lost = [line(i, status="rejected", split=None, reasons=[reason]) for i in range(kept, 50)]
    return [line(i) for i in range(kept)] + lost


PAIR = {"photo": "photo/0.png", "photo_input": "photos/0.png"}


@pytest.mark.parametrize(
    ("lines", "kind", "said"),
    [
        ([line(i, person="ada" if i < 6 else f"p{i}") for i in range(50)], "add", "6 of 50 photographs show one person (ada)"),
        ([line(i, split="eval" if i < 3 else "train") for i in range(50)], "add", "Held out for evaluation: 3 persons"),
        (
            [line(i, quality={"yaw_deg": 2.0}) for i in range(50)],
            "add",
            "Turned to the left: 0 of 50; aim for at least 10%: 6",
        ),
        ([line(i, quality={"yaw_deg": 40.0}) for i in range(50)], "add", "Frontal: 0 of 50; aim for at least 30%: 22 more."),
        ([line(i, quality={"glasses": 0.4}) for i in range(50)], "add", "With glasses: 0 of 50; aim for at least 5%: 3 more."),
        ([line(i, quality={"outlier": 4.0 * (i < 2)}) for i in range(50)], "look", "Unlike the others: 2."),
        ([line(i, matrix=[[0.0, -1.6, 0], [1.6, 0.0, 0]]) for i in range(50)], "look", "and soft: 50 of 50"),
        ([line(i, licence=None if i else "MIT") for i in range(50)], "look", "Without a licence noted: 49 of 50"),
        ([line(i, status="used" if i < 30 else "unreadable") for i in range(50)], "look", "20 files could not be read"),
        (left_out(20, "blurred: sharpness 3.0, below 20"), "look", "Left out: 30 of 50, 30 of them for: blurred."),
        (left_out(25, "near-duplicate: x"), "look", "25 near-duplicates dropped: the source repeats itself"),
        (
            [cartoon(i, pair=Pair(**PAIR, landmark_shift=0.2, identity=0.8)) for i in range(50)],
            "look",
            "moved by 0.20 eye distances",
        ),
        ([cartoon(i, pair=Pair(**PAIR, landmark_shift=0.0, identity=0.1)) for i in range(50)], "look", "(median likeness 0.10)"),
    ],
)
def test_every_rule_speaks_when_it_is_broken(tmp_path: Path, lines: list[ManifestLine], kind: str, said: str) -> None:
    assert said in advice(judge(tmp_path, lines), kind)


def test_a_tiny_set_is_told_to_grow_and_drawings_are_not_asked_to_turn_their_heads(tmp_path: Path) -> None:
    tiny = judge(tmp_path, [line(i, quality={"yaw_deg": 0.0}) for i in range(12)])
    assert "Turned" not in advice(tiny, "add")
    drawings = judge(tmp_path, [cartoon(i, quality={"yaw_deg": 0.0, "glasses": 0.0}) for i in range(300)])
    assert advice(drawings, "add") == ""


def test_what_was_not_measured_is_said_and_no_rule_asks_for_it(tmp_path: Path) -> None:
    bare = [line(i).model_copy(update={"quality": {"face_px": 90.0}}) for i in range(60)]
    found = judge(tmp_path, bare)
    assert {"Skin tone", "Glasses", "Head left and right"} <= set(found.not_measured)
    assert [each.name for each in found.figures] == ["face_px", "person"]
    assert "Not measured in this set: Skin tone" in render(found)


def test_traits_are_those_that_the_prompt_named(tmp_path: Path) -> None:
    def made(*traits: str) -> Generation:
        return Generation(engine="diffusers", model="m", seed=0, options={"traits": list(traits)} if traits else {})

    said = [made("gender=woman", "age=elderly")] * 30 + [made("age=young")] * 20 + [made()] * 10
    found = judge(tmp_path, [cartoon(i, generation=generation) for i, generation in enumerate(said)])
    gender, age = figure(found, "gender"), figure(found, "age")
    assert (gender.measured, [(bar.name, bar.count) for bar in gender.bars]) == (30, [("woman", 30)])
    assert (age.measured, [(bar.name, bar.count) for bar in age.bars]) == (50, [("elderly", 30), ("young", 20)])
    assert "expression" not in {each.name for each in found.figures} | set(found.not_measured)


VALUE = st.floats(-1e6, 1e6)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(sorted(QUALITY)), VALUE), max_size=30), st.sampled_from(["photo", "cartoon"]))
def test_every_measured_picture_is_in_one_bar(qualities: list[dict[str, float]], kind: str) -> None:
    source = Source("own", None, None)
    used = [Entry("used", "cropped/x.png", "x", (), None, False, source, quality, (), 0.0, None, None) for quality in qualities]
    for each in figures(used, kind)[0]:
        assert sum(bar.count for bar in each.bars) == each.measured == sum(each.name in quality for quality in qualities)
        assert sum(bar.share for bar in each.bars) == pytest.approx(1)


def test_the_limits_are_those_it_was_aligned_with(tmp_path: Path) -> None:
    assert judge(tmp_path, [line(0)]).limits == {}
    assert "Limits in force" not in render(report(tmp_path))
    (tmp_path / SETTINGS).write_text(AlignRecipe(min_face_px=77).model_dump_json())
    limits = report(tmp_path).limits
    assert (limits["align.min_face_px"], limits["align.max_yaw_deg"]) == ("77 px", "50°")
    assert "77 px" in render(report(tmp_path))
    assert "align.max_yaw_deg" not in judge(tmp_path, [cartoon(0)]).limits
    (tmp_path / SETTINGS).write_text('{"from": "another version"}')
    assert report(tmp_path).limits == {}


def picture_set(folder: Path, used: int = 60) -> Path:
    """Write a set with a picture behind every line, one name that is markup, and one picture gone."""
    lines = [line(i, quality={"face_score": i / used, "outlier": 9.0 * (i == 7)}) for i in range(used)]
    lines[3] = lines[3].model_copy(update={"file": 'cropped/<b>"&.png'})
    lines += [
        line(900, status="rejected", file="rejected/900.png", reasons=["blurred: sharpness 3.0, below 20"]),
        line(901, status="rejected", file="rejected/901.png", reasons=["near-duplicate: raw/000005.jpg"]),
        line(902, status="unreadable", file=None, input="raw/<i>.jpg", reasons=["<i>.jpg is empty."]),
    ]
    for index, each in enumerate(lines):
        if each.file and index != 4:
            write_image(folder / each.file, np.full((40, 40, 3), index * 3 % 256, np.uint8))
    write_manifest(folder / "manifest.jsonl", lines)
    return folder


def test_the_page_is_whole_accessible_and_asks_for_nothing(tmp_path: Path) -> None:
    page = Page(write_report(picture_set(tmp_path)).read_text("utf-8"))
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert "script" not in {tag for tag, _ in page.tags}
    for tag, attrs in page.tags:
        for name in ("src", "href"):
            target = attrs.get(name) or "#"
            assert target.startswith(("data:", "#")), (tag, target)
            assert target[0] != "#" or target[1:] in ["", *ids]
        assert tag != "img" or attrs["alt"]
        if tag == "svg":
            assert attrs["role"] == "img"
            assert set((attrs["aria-labelledby"] or "").split()) <= set(ids)
    assert '<b>"& is gone' not in page.text
    assert "000004 is gone" in page.text
    assert "raw/<i>.jpg" in page.text
    assert "Turned to the left" not in page.text.partition("What would help")[2].partition("Who and what")[0]
    images = [attrs["alt"] for tag, attrs in page.tags if tag == "img"]
    assert images[:2] == ["000059", "000058"]
    assert {'<b>"&', "900", "901", "000007"} <= set(images)


def test_a_large_set_is_shown_by_samples(tmp_path: Path) -> None:
    folder = picture_set(tmp_path, used=90)
    assert (folder / PAGE).exists() is False
    images = render(report(folder)).count("<img ")
    assert 45 < images < 70


def test_drawings_are_not_ranked_by_a_score_made_for_photographs(tmp_path: Path) -> None:
    found = judge(tmp_path, [cartoon(i, quality={"face_score": 1 - i / 100}) for i in range(95)])
    (sample,) = found.sheets
    assert (sample.name, sample.count, len(sample.pictures)) == ("sample", 95, 48)
    assert [sample.pictures[0].file, sample.pictures[-1].file] == ["cartoon/000000.png", "cartoon/000094.png"]
    assert "face_score" not in {each.name for each in found.figures}


def test_the_command_writes_the_page_and_says_the_same_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture_set(tmp_path)
    page = tmp_path / "sub" / "mine.html"
    assert run(["data", "report", str(tmp_path), "-o", str(page), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["page"], said["used"], said["rejected"], said["unreadable_count"]) == (page.as_posix(), 60, 2, 1)
    assert said["advice"][0]["rule"].startswith("From 50 on")
    assert said["headline"] in page.read_text("utf-8")
    assert run(["data", "report", str(tmp_path / "sub")]) == 1
    assert "no aligned data set" in capsys.readouterr().err


def test_a_set_that_is_not_there_is_told_from_one_that_is_called_alike(tmp_path: Path) -> None:
    picture_set(tmp_path / "photos-selfies")
    with pytest.raises(DataError, match=r"Did you mean .*photos-selfies\?"):
        report(tmp_path / "photo-selfies")
    with pytest.raises(DataError, match="or name its folder"):
        report(tmp_path / "xyz")


def test_every_picture_has_its_name_below_it_and_zero_is_zero(tmp_path: Path) -> None:
    folder = picture_set(tmp_path)
    text = render(report(folder))
    names = re.findall(r'<span class="name">([^<]*)</span>', text)
    assert {"000059", "900", "901", "000007"} <= set(names)
    assert len(names) == text.count('<figure class="thumb">')
    assert f"stylekit data drop NAME --in {folder}" in text
    pair = Pair(photo="photo/0.png", photo_input="raw/photos/0.png", landmark_shift=0.1, identity=0.5)
    edges = figure(judge(tmp_path, [cartoon(0, pair=pair)]), "identity").edges
    assert 0.0 in edges
    assert {f"{edge:g}" for edge in edges} == {f"{n / 10:g}" for n in range(-2, 11)}


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    (tmp_path / "manifest.jsonl").write_text('{"file": 3}\n')
    with pytest.raises(DataError, match=r"manifest.jsonl, line 1: file"):
        report(tmp_path)


@pytest.mark.usefixtures("asset_home")
def test_align_leaves_the_page_and_what_it_aligned_with(tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "a.png", np.asarray(astronaut()))
    aligned = align(tmp_path / "in", kind="photo", output=tmp_path / "out", recipe=AlignRecipe(size=64, min_face_px=33))
    assert "1 usable photograph, too few" in aligned.page.read_text("utf-8")
    assert report(tmp_path / "out").limits["align.min_face_px"] == "33 px"
    stamp = aligned.page.stat().st_mtime_ns
    align(tmp_path / "in", kind="photo", output=tmp_path / "out", recipe=AlignRecipe(size=64, min_face_px=33))
    assert aligned.page.stat().st_mtime_ns == stamp
    align(tmp_path / "in", kind="photo", output=tmp_path / "out", recipe=AlignRecipe(size=64, min_face_px=34))
    assert "34 px" in aligned.page.read_text("utf-8")


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1200])
def test_a_browser_shows_it_without_errors_requests_or_overflow(tmp_path: Path, chromium: Any, width: int) -> None:
    report_page = write_report(picture_set(tmp_path))
    page = chromium.new_page(viewport={"width": width, "height": 800})
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("request", lambda request: None if request.url.startswith("data:") else said.append(request.url))
    page.goto(report_page.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].filter(image => !image.naturalWidth).length") == 0
    page.close()
    assert said == [report_page.as_uri()]
