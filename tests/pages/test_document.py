"""The scaffolding of pages: what they may load, what they hold, and that they live without script."""

from __future__ import annotations

import base64
import hashlib
import io
import re

import numpy as np
from PIL import Image

from stylekit.pages.document import Document, Section, table
from stylekit.pages.pictures import Frame, Pair, before_after, film, image
from tests.pages.parsed import Page, check_whole

SECTIONS = [Section("a", "First", "<p>one</p>"), Section("b", "Second", "")]
PICTURE = np.tile(np.arange(0, 240, dtype=np.uint8)[None, :, None], (120, 1, 3))


def test_the_policy_lets_nothing_in_and_only_the_pages_own_script_run() -> None:
    plain = Page(str(Document("t", "<h1>t</h1>", SECTIONS, "end")))
    assert plain.of("script") == []
    text = str(Document("t", "<h1>t</h1>", SECTIONS, "end", scripted=True))
    policy = next(attrs["content"] for attrs in Page(text).of("meta") if attrs.get("http-equiv"))
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def test_empty_sections_are_left_out_and_the_title_is_text() -> None:
    page = Page(str(Document("</title><script>", "", SECTIONS, "")))
    assert page.sections == {"a"}
    assert [attrs["href"] for attrs in page.of("a")] == ["#a"]
    assert "</title><script>" in page.text


def test_a_table_holds_text() -> None:
    page = Page(table(["file"], [["<i>"]], 'a "name"'))
    assert "<i>" in page.text
    assert page.of("div")[0]["aria-label"] == 'a "name"'


def test_a_picture_is_shrunk_and_never_enlarged() -> None:
    for longest, expected in ((60, (60, 30)), (1000, (240, 120))):
        attrs = Page(image(PICTURE, 'a "b"', longest_px=longest)).of("img")[0]
        data = base64.b64decode((attrs["src"] or "").removeprefix("data:image/jpeg;base64,"))
        assert Image.open(io.BytesIO(data)).size == expected == (int(attrs["width"] or 0), int(attrs["height"] or 0))
        assert attrs["alt"] == 'a "b"'


def test_without_script_the_pair_lies_side_by_side_and_the_slider_is_hidden() -> None:
    page = Page(before_after(Pair(PICTURE, PICTURE, "<ada>", "a caption"), longest_px=64))
    assert [attrs["class"] for attrs in page.of("img")] == ["before", "after"]
    (slider,) = page.of("input")
    assert "hidden" in slider
    assert slider["aria-label"] == "Share of the photograph that shows, <ada>"
    check_whole(page)


def test_without_script_every_frame_of_a_film_shows_with_its_label() -> None:
    page = Page(film([Frame("the photographs", [PICTURE] * 3), Frame("step 2", [PICTURE] * 3)], longest_px=32))
    assert [attrs["data-label"] for attrs in page.of("div", "frame")] == ["the photographs", "step 2"]
    assert not any("hidden" in attrs for attrs in page.of("div", "frame"))
    assert "hidden" in page.of("div", "controls")[0]
    assert page.of("input")[0]["max"] == "1"
    assert len(page.of("img")) == 6
