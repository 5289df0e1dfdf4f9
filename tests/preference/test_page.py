"""The page in a browser: keys, undo, going on later, a phone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stylekit.paths import Workspace
from stylekit.preference.records import Plan
from stylekit.preference.server import PreferenceServer
from stylekit.preference.study import open_study, plan_of, read_study
from stylekit.preference.votes import VoteLog

pytestmark = pytest.mark.browser


@pytest.fixture
def server(workspace: Workspace) -> Iterator[PreferenceServer]:
    with PreferenceServer(open_study(["flat", "loud"]).resolve()) as found:
        threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield found
        found.shutdown()


@pytest.fixture
def complaints() -> list[str]:
    return []


@pytest.fixture
def page(chromium: Any, server: PreferenceServer, complaints: list[str]) -> Iterator[Any]:
    context = chromium.new_context(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
    page = context.new_page()
    page.set_default_timeout(10_000)
    watch(page, server, complaints)
    yield page
    context.close()
    assert complaints == []


def watch(page: Any, server: PreferenceServer, complaints: list[str]) -> None:
    """Note errors, and requests that leave the server."""
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith((server.url, "data:")) else complaints.append(request.url))


def plan(server: PreferenceServer, rater: str = "ann") -> Plan:
    return plan_of(server.folder, read_study(server.folder), rater)


def begin(page: Any, server: PreferenceServer, rater: str = "ann") -> None:
    page.goto(server.url)
    page.get_by_label("Your name").fill(rater)
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Begin").click()
    ready(page, 1)


def ready(page: Any, number: int) -> None:
    """Wait until a pair can be chosen from."""
    page.locator("#said", has_text=f"Pair {number} of").wait_for(state="attached")
    page.locator(".stage:not(.waiting)").wait_for()


def shown(page: Any) -> list[str]:
    return [page.locator(f"#{side}-image").get_attribute("src").removeprefix("pictures/") for side in ("left", "right")]


def chosen(server: PreferenceServer, rater: str = "ann") -> list[str]:
    return [vote.choice or "" for vote in VoteLog(Path(server.folder)).votes() if vote.rater == rater]


def test_keys_choose_and_the_votes_arrive(page: Any, server: PreferenceServer) -> None:
    begin(page, server)
    for number, (pressed, trial) in enumerate(zip(("ArrowLeft", "2", "1", "ArrowRight"), plan(server).trials, strict=False), 1):
        assert shown(page) == [trial.left, trial.right]
        page.keyboard.press(pressed)
        ready(page, number + 1)
    assert chosen(server) == ["left", "right", "left", "right"]
    assert [vote.trial for vote in VoteLog(server.folder).votes()] == list(plan(server).trials[:4])
    assert all(vote.response_ms is not None for vote in VoteLog(server.folder).votes())


def test_backspace_takes_the_last_choice_back(page: Any, server: PreferenceServer) -> None:
    begin(page, server)
    page.keyboard.press("1")
    ready(page, 2)
    page.keyboard.press("Backspace")
    ready(page, 1)
    assert chosen(server) == []
    assert shown(page) == [plan(server).trials[0].left, plan(server).trials[0].right]
    assert page.get_by_role("button", name="Take back the last").is_hidden()
    page.keyboard.press("2")
    ready(page, 2)
    assert chosen(server) == ["right"]


def test_it_goes_on_after_a_pause_a_reload_and_to_the_very_end(page: Any, server: PreferenceServer) -> None:
    begin(page, server)
    page.get_by_role("button", name="Second picture").click()
    ready(page, 2)
    page.get_by_role("button", name="Pause").click()
    assert page.get_by_role("heading", name="Paused").is_visible()
    page.reload()
    page.get_by_label("Your name").fill("ann")
    page.get_by_role("button", name="Start").click()
    page.get_by_role("button", name="Begin").click()
    ready(page, 2)
    trials = plan(server).trials
    part = len([trial for trial in trials if trial.question == "pref_a"])
    for number in range(2, len(trials) + 1):
        if number == part + 1:
            assert page.get_by_text("Part 2 of 2").is_visible()
            page.get_by_role("button", name="Begin").click()
        ready(page, number)
        assert page.locator("#photograph").is_visible() == (number > part)
        page.keyboard.press("ArrowLeft")
        if number == part:
            page.get_by_text("Part 2 of 2").wait_for()
    page.get_by_role("heading", name="Thank you").wait_for()
    assert chosen(server) == ["right"] + ["left"] * (len(trials) - 1)
    page.keyboard.press("Backspace")
    ready(page, len(trials))
    assert len(chosen(server)) == len(trials) - 1


def test_a_vote_that_cannot_be_saved_is_said_and_not_passed_over(
    page: Any, server: PreferenceServer, complaints: list[str]
) -> None:
    begin(page, server)
    page.route("**/votes", lambda route: route.abort())
    page.keyboard.press("1")
    page.get_by_text("Not saved: stylekit prefer does not answer.").wait_for()
    assert "1 of" in page.locator("#count").inner_text()
    page.unroute("**/votes")
    page.keyboard.press("1")
    ready(page, 2)
    assert chosen(server) == ["left"]
    assert [text for text in complaints if "ERR_FAILED" not in text] == []
    complaints.clear()


def test_nothing_on_the_page_tells_which_is_which(page: Any, server: PreferenceServer) -> None:
    begin(page, server)
    html = page.content()
    assert [word for word in ("flat", "loud", "control", "repeat", "cropped") if word in html] == []
    alts = page.evaluate("[...document.querySelectorAll('#stage img')].map(image => image.alt)")
    assert alts == ["First picture", "The photograph", "Second picture"]


@pytest.mark.parametrize(("width", "height"), [(390, 844), (320, 568), (844, 390)])
def test_on_a_phone_everything_fits_and_a_touch_chooses(
    chromium: Any, server: PreferenceServer, complaints: list[str], width: int, height: int
) -> None:
    size = {"width": width, "height": height}
    context = chromium.new_context(viewport=size, has_touch=True, is_mobile=True, color_scheme="dark")
    page = context.new_page()
    watch(page, server, complaints)
    sizes = "[document.documentElement.scrollWidth, document.documentElement.scrollHeight]"
    page.goto(server.url)
    page.get_by_label("Your name").fill("ann")
    page.get_by_role("button", name="Start").tap()
    page.get_by_role("button", name="Begin").wait_for()
    assert page.evaluate(sizes)[0] <= width
    page.get_by_role("button", name="Begin").tap()
    ready(page, 1)
    assert page.evaluate(sizes) == [width, height]
    boxes = [page.locator(f"#{side}").bounding_box() for side in ("left", "right")]
    assert all(box["y"] >= 0 and box["y"] + box["height"] <= height for box in boxes)
    assert min(box["width"] for box in boxes) >= 0.45 * min(width, height)
    page.get_by_role("button", name="Second picture").tap()
    ready(page, 2)
    assert chosen(server) == ["right"]
    context.close()
    assert complaints == []
