"""The page of a comparison: verdicts, tables, the Pareto picture, pictures side by side."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from stylekit.evaluation.comparison import ComparedRow, Comparison, Cost, Preference, Published, markdown
from stylekit.evaluation.comparison import text as in_text
from stylekit.evaluation.comparison_page import pareto_svg, render_comparison
from stylekit.images import write_image
from stylekit.metrics.report import Conditions, Skipped
from tests.pages.parsed import Page, check_whole

HOSTILE = "<script>alert(1)</script>"
SECTIONS = {"verdicts", "figures", "pareto", "pictures", "intervals", "preferences", "published", "protocol", "skipped"}
CONDITIONS = Conditions(
    name="starter-v1",
    deviations=["extractors: one is missing"],
    n=15,
    persons=14,
    held_out_sha256="a" * 64,
    photos_manifest_sha256="b" * 64,
    template=["dctnet"],
    crop_size_px=[256],
    size_px=128,
    reference="toon-head",
    reference_n=234,
    reference_manifest_sha256="c" * 64,
    extractors=["vgg16-hed@avgpool"],
    embedders=["dlib-resnet@photo-landmarks-5"],
    gauges=[],
    kid_subsets=100,
    kid_subset_size=7,
    resamples=1000,
    identity_centre={},
    identity_centre_n=60,
    seed=0,
    assets=[],
)


def row(name: str, kind: str, kid: float, likeness: float, rank: float = 1.0, **changes: object) -> ComparedRow:
    fields = {
        "name": name,
        "kind": kind,
        "source": "somewhere",
        "figures": {"kid_x1000": kid, "id_centred": likeness, "id_recognised": rank, "coverage": 0.4},
        "intervals": {"kid_x1000": (kid - 5, kid + 6)},
        "against": {},
        "better_than": [],
        "above_floors": rank >= 0.5,
        "good": None if kind == "trivial" else False,
        "reasons": [],
    }
    return ComparedRow.model_validate(fields | changes)


def comparison(**changes: object) -> Comparison:
    chosen = {"pref_a": Preference(share=0.7, low=0.6, high=0.8, votes=80)}
    rows = [
        row(
            "good-run",
            "run",
            15.2,
            0.55,
            good=True,
            better_than=["photo", "filter"],
            cost=Cost(milliseconds=12.0, megabytes=2.9, size_px=256, device="cpu"),
            preferences=chosen,
            pictures=["good/0.png", "good/gone.png"],
        ),
        row(
            "slow-run",
            "run",
            21,
            0.62,
            cost=Cost(milliseconds=40, megabytes=11.6, size_px=512, device="cpu"),
            reasons=["KID not surely lower"],
        ),
        row(HOSTILE, "folder", 48, 0.35, rank=0.4, reasons=["rank-1 0.40 lies below the floor of 0.50"]),
        row("photo", "trivial", 140, 1.0, pictures=["photo/0.png", "photo/1.png"]),
        row("filter", "trivial", 95, 0.8),
        row("constant", "trivial", 60, 0.0, rank=0.1),
    ]
    fields = {
        "style": "toon-head",
        "protocol": CONDITIONS,
        "floors": {"id_recognised": 0.5, "coverage": 0.1},
        "rows": rows,
        "weaknesses": [],
        "published": [Published(name="DCT-Net", fid=35.92, identity=0.71, pref_a=0.48, pref_b=0.41)],
        "photographs": ["photo/0.png", "photo/1.png"],
        "notes": ["Efficientnet also served in training."],
        "skipped": [Skipped(file="cropped/9.png", reason="It is empty.")],
    }
    return Comparison.model_validate(fields | changes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index, name in enumerate(("photo/0.png", "photo/1.png", "good/0.png")):
        write_image(tmp_path / name, np.full((64, 64, 3), 60 * index + 40, np.uint8))
    return tmp_path


def rows_of(text: str) -> dict[str, str]:
    """Return the lines of the table of figures, by the name in their head."""
    table = text.partition("<table class=figures>")[2].partition("</table>")[0]
    return {match[1]: match[0] for match in re.finditer(r"<tr[^>]*><th scope=row>(.*?)</th>.*?</tr>", table)}


def test_the_page_is_whole_and_names_stay_text(folder: Path) -> None:
    text = render_comparison(comparison(), folder)
    page = Page(text)
    check_whole(page)
    assert page.sections == SECTIONS
    assert page.of("script") == []
    assert page.text.count(HOSTILE) >= 4
    assert "Deviates from starter-v1: extractors: one is missing" in page.text


@pytest.mark.parametrize(
    ("changes", "gone"),
    [
        ({"published": []}, {"published"}),
        ({"skipped": []}, {"skipped"}),
        ({"photographs": []}, {"pictures"}),
        ({"rows": [row("photo", "trivial", 140, 1.0)]}, {"preferences", "pictures"}),
    ],
)
def test_sections_without_content_are_left_out(folder: Path, changes: dict[str, object], gone: set[str]) -> None:
    assert Page(render_comparison(comparison(**changes), folder)).sections == SECTIONS - gone


def test_every_run_has_its_verdict_in_words(folder: Path) -> None:
    text = Page(render_comparison(comparison(), folder)).text.rpartition("Which of them are good")[2].partition("Figures")[0]
    assert "good-run is good." in text
    assert "slow-run is not good: KID not surely lower." in text
    assert "rank-1 0.40 lies below the floor" in text
    assert "photo is" not in text


@pytest.mark.parametrize(
    ("good", "said"),
    [
        ([], "None of the 2 compared stands above the floors"),
        (["a"], "Of 2 compared, a stands above the floors and beats every trivial row"),
        (["a", "b"], "Of 2 compared, a and b stand above the floors and beat every trivial row"),
    ],
)
def test_the_headline_counts_those_that_are_good(folder: Path, good: list[str], said: str) -> None:
    rows = [row(name, "run", 10, 0.5, good=name in good) for name in ("a", "b")]
    assert said in Page(render_comparison(comparison(rows=rows), folder)).text
    weak = comparison(rows=rows, weaknesses=["constant stands above the floors."])
    assert "too weak to trust" in Page(render_comparison(weak, folder)).text


def test_the_table_has_intervals_marks_floors_and_the_trivial_rows_apart(folder: Path) -> None:
    text = render_comparison(comparison(), folder)
    lines = rows_of(text)
    assert list(lines)[:2] == ["good-run", "slow-run"]
    assert list(lines)[3:] == ["photo", "filter", "constant"]
    assert text.index("Without any training") < text.index("<th scope=row>photo") > text.index("<th scope=row>slow-run")
    assert "[10.2, 21.2]" in lines["good-run"]
    assert [name for name, line in lines.items() if "<s " in line] == ["&lt;script&gt;alert(1)&lt;/script&gt;", "constant"]
    assert "70%" in lines["good-run"]
    assert "80 votes" in lines["good-run"]
    assert "2.9" in lines["good-run"]
    assert "at 256 px" in lines["good-run"]
    assert "at 512 px" in lines["slow-run"]


def test_page_and_text_have_one_mark_for_rows_beaten_beyond_doubt_and_explain_it(folder: Path) -> None:
    rows = [
        row("all", "run", 10, 0.5, better_than=["photo", "filter", "constant", "some"]),
        row("some", "folder", 20, 0.5, better_than=["photo"]),
        row("none", "run", 30, 0.5, better_than=["some"]),
        row("photo", "trivial", 140, 1.0),
        row("filter", "trivial", 95, 0.8, better_than=["photo"]),
        row("constant", "trivial", 60, 0.0, rank=0.1),
    ]
    found = comparison(rows=rows)
    lines = rows_of(render_comparison(found, folder))
    assert {name: re.findall(r"<b>(.*?)</b>", line) for name, line in lines.items()} == {
        **{"all": ["*3"], "some": ["*1"], "none": ["*0"]},
        **{"photo": [], "filter": [], "constant": []},
    }
    written = dict(line.split(maxsplit=1) for line in in_text(found).splitlines() if line.partition(" ")[0] in lines)
    assert {name: re.findall(r"\*\d", line) for name, line in written.items()} == {
        name: re.findall(r"\*\d", line) for name, line in lines.items()
    }
    assert "256" not in "".join(written.values())
    said = Page(render_comparison(found, folder)).text
    for words in (
        "*N: by every extractor KID is lower, beyond doubt, than in N of the 3 rows without training",
        "mean over subsets",
    ):
        assert words in said
        assert words in in_text(found)


def test_times_name_the_size_of_the_picture_in_text_and_markdown_too() -> None:
    for written in (in_text(comparison()), markdown(comparison())):
        assert "12 at 256 px" in written
        assert "40 at 512 px" in written


def test_pictures_stand_side_by_side_and_those_that_are_gone_are_marked(folder: Path) -> None:
    page = Page(render_comparison(comparison(), folder))
    assert [image["alt"] for image in page.of("img")] == ["0, the photograph", "0 by good-run", "1, the photograph"]
    assert "gone.png is gone" in page.text


def test_the_pareto_picture_is_a_file_of_its_own() -> None:
    root = ElementTree.fromstring(pareto_svg(comparison()))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    texts = [text.text for text in root.iter() if text.tag.endswith("text")]
    assert {
        "good-run",
        "12 ms at 256 px, 2.9 MB",
        "slow-run",
        "40 ms at 512 px, 11.6 MB",
        HOSTILE,
        "photo",
        "filter",
        "constant",
    } <= set(texts)
    circles = {float(each.get("cx", 0)): float(each.get("r", 0)) for each in root.iter() if each.tag.endswith("circle")}
    good, slow = sorted(circles)[:2]
    assert circles[slow] / circles[good] == pytest.approx(2, rel=0.02)  # four times the megabytes
    line = next(each for each in root.iter() if each.get("class") == "frontier")
    places = [float(pair.partition(",")[0]) for pair in line.get("points", "").split()]
    assert places == [pytest.approx(good, abs=0.1), pytest.approx(slow, abs=0.1)]  # and none of the trivial rows
    assert pareto_svg(comparison(rows=[])) == ""


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_it_without_errors_requests_or_overflow(folder: Path, chromium: Any, width: int) -> None:
    written = folder / "compare.html"
    written.write_text(render_comparison(comparison(), folder))
    page = chromium.new_page(viewport={"width": width, "height": 800})
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("request", lambda request: None if request.url.startswith("data:") else said.append(request.url))
    page.goto(written.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].filter(image => !image.naturalWidth).length") == 0
    page.close()
    assert said == [written.as_uri()]


@pytest.mark.browser
def test_no_row_name_is_cut_off_at_the_edge_of_its_chart(folder: Path, chromium: Any) -> None:
    rows = [row(f"{number:05d}-toon-head-dctnet@{1000 * number}", "run", 15, 0.5) for number in (0, 1)]
    (folder / "compare.html").write_text(
        render_comparison(comparison(rows=[*rows, row("constant-cartoon", "trivial", 3, 0)]), folder)
    )
    page = chromium.new_page(viewport={"width": 1280, "height": 800})
    page.goto((folder / "compare.html").as_uri())
    lefts = page.evaluate(
        "[...document.querySelectorAll('#intervals text.row')].map(text => [text.textContent, text.getBBox().x])"
    )
    page.close()
    assert len(lefts) == 12
    assert [name for name, left in lefts if left < 0] == []


@pytest.mark.browser
def test_no_text_of_the_pareto_picture_lies_on_another(folder: Path, chromium: Any) -> None:
    cost = Cost(milliseconds=40, megabytes=11.6, size_px=512, device="cpu")
    crowd = [row(f"00000-toon-head-dctnet@{i}000", "run", 15 + 2 * i, 0.55 + i / 50, cost=cost) for i in range(4)]
    (folder / "pareto.svg").write_text(pareto_svg(comparison(rows=[*crowd, *comparison().rows])))
    page = chromium.new_page(viewport={"width": 800, "height": 600})
    page.goto((folder / "pareto.svg").as_uri())
    boxes = page.evaluate("[...document.querySelectorAll('text')].map(text => [text.textContent, text.getBoundingClientRect()])")
    apart = [
        (one, other)
        for (one, a), (other, b) in combinations(boxes, 2)
        if min(a["right"], b["right"]) - max(a["left"], b["left"]) > 1
        and min(a["bottom"], b["bottom"]) - max(a["top"], b["top"]) > 3  # a box has room for accents
    ]
    page.close()
    assert len(boxes) > 12
    assert apart == []
