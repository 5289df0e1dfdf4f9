"""The run's page: every section from its file, whatever is missing or damaged left out and said."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.data import astronaut

from stylekit.cli import run as command
from stylekit.config.load import dump_recipe
from stylekit.engine.checkpoint import WEIGHTS, describe_checkpoint, latest_checkpoint, load_generator
from stylekit.engine.evaluations import Evaluation, add_evaluation
from stylekit.engine.page import PAGE, ROW_NAMES, render_run, update_run_page, write_run_page
from stylekit.engine.preview import read_sample_sheet, stylize_batch
from stylekit.errors import DataError, ImageError
from stylekit.evaluation.trivial import FILTERS
from stylekit.images import contact_sheet, write_image
from stylekit.metrics.pictures import write_pictures
from stylekit.metrics.report import Conditions, EvalReport, MeasuredNetwork, Skipped, metric_name, read_report, write_report
from stylekit.paths import Workspace, sha256_file
from tests.pages.parsed import Page, check_whole
from tests.trained import make_run, recipe

HOSTILE = '</style><script>alert(1)</script> & "co"'
EXTRACTOR, EMBEDDER = "vgg16-hed@avgpool", "dlib-resnet@photo-landmarks-5"
N = 4
SECTIONS = {"film", "measured", "pictures", "curves", "data", "recipe", "environment"}
SKIN = {"ita_shift_deg/n4": -9.0, "ita_shift_deg/dark/n1": -21.4, "ita_shift_deg/very-light/n3": 3.25}
LIKENESS = [0.9, 0.2, 0.8, 0.7]  # of cropped/0.png and so on


def crop(index: int, size: int = 64) -> np.ndarray:
    """Return a piece of a photograph, another one for each index."""
    top, left = 37 * index % 200, 61 * index % 200
    return np.asarray(astronaut())[top : top + size, left : left + size].copy()


def conditions(photos_manifest_sha256: str) -> Conditions:
    return Conditions(
        name="starter-v1",
        deviations=["extractors: one is missing"],
        n=N,
        persons=2,
        held_out_sha256="a",
        photos_manifest_sha256=photos_manifest_sha256,
        template=["dctnet"],
        crop_size_px=[64],
        size_px=64,
        reference="pop-art",
        reference_n=3,
        reference_manifest_sha256="c",
        extractors=[EXTRACTOR],
        embedders=[EMBEDDER],
        gauges=[],
        kid_subsets=10,
        kid_subset_size=2,
        resamples=10,
        identity_centre={},
        identity_centre_n=2,
        seed=0,
        assets=[],
    )


def evaluated(run: Path, sha256: str) -> None:
    """Leave what `stylekit eval` leaves."""
    kid, likeness, rank = (
        metric_name(metric, network, N)
        for metric, network in (("kid_x1000", EXTRACTOR), ("id_centred", EMBEDDER), ("id_recognised", EMBEDDER))
    )
    photos = run.parent.parent / "datasets" / "photos"
    report = EvalReport(
        style="pop-art",
        run=run.name,
        protocol=conditions(sha256_file(photos / "manifest.jsonl")),
        network=MeasuredNetwork(step=7, sha256=sha256, size_px=64, trained_on=[]),
        rows={"stylized": {kid: 15.2, likeness: 0.65, rank: 0.75} | SKIN, "photo": {kid: 140.0, likeness: 1.0, rank: 1.0}},
        intervals={"stylized": {kid: (10.0, 22.0)}, "photo": {kid: (120.0, 151.0)}},
        delta={},
        notes=["Read it beside the sheet."],
        skipped=[Skipped(file="cropped/9.png", reason="cropped/9.png is empty.")],
        worst=[],
        made_from="d",
    )
    write_report(run / "eval.json", report)
    files = [f"cropped/{i}.png" for i in range(N)]
    write_pictures(run / "eval_pictures.csv", files, ["p0", "p1", "p0", "p1"], {f"id_centred/{EMBEDDER}": np.array(LIKENESS)})


def evaluation(step: int, kid: float, rank: float = 0.9) -> Evaluation:
    return Evaluation(
        step=step,
        images_seen=2 * step,
        kid_relative=kid / 100,
        kid_relative_low=kid / 100 - 0.02,
        kid_relative_high=kid / 100 + 0.03,
        kid_x1000=kid,
        kid_x1000_low=kid - 2,
        kid_x1000_high=kid + 3,
        kids_x1000={EXTRACTOR: kid, "other@64": 2 * kid},
        neighbour_coverage=0.4,
        id_centred=0.6,
        id_recognised=rank,
        extractor=EXTRACTOR,
        embedder=EMBEDDER,
        conditions="x",
        above_floor=rank >= 0.5,
    )


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A run with everything a run can hold; its description is markup."""
    workspace = Workspace(tmp_path)
    made_by = recipe(description=HOSTILE, licence="CC-BY-4.0")
    run = make_run(workspace, made_by=made_by)
    for index in range(N):
        write_image(workspace.photos / f"cropped/{index}.png", crop(index))
    (run / "recipe.yaml").write_text(dump_recipe(made_by))
    (run / "env.json").write_text(json.dumps({"device": "cpu", "torch": "2.8"}))
    lines = [{"step": step, "loss/content": 1 / step, "loss/tv": 0.1, "time/step_s": 0.5} for step in range(1, 8)]
    (run / "stats.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for step, kid, rank in ((2, 40.0, 0.9), (4, 12.0, 0.1), (6, 20.0, 0.9), (7, 25.0, 0.9)):
        add_evaluation(run, evaluation(step, kid, rank))
    for step in (3, 7):
        pictures = [picture for index in range(3) for picture in (crop(index), crop(index) // step)]
        write_image(run / "samples" / f"step-{step:06d}.jpg", contact_sheet(pictures, 8, 64))
    evaluated(run, describe_checkpoint(latest_checkpoint(run)).sha256[WEIGHTS])
    return run


def picture(attrs: dict[str, str | None]) -> np.ndarray:
    data = base64.b64decode((attrs["src"] or "").partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(data)), np.float64)


def test_the_page_is_whole_and_what_it_read_stays_text(finished: Path) -> None:
    page = Page(write_run_page(finished).read_text("utf-8"))
    check_whole(page)
    assert page.sections == SECTIONS
    assert len(page.of("script")) == 1
    assert page.text.count("alert(1)") >= 2  # the headline, and the recipe
    for said in ("Protocol starter-v1", "Read it beside the sheet.", "Left out: cropped/9.png", "1.5 h", "Grace Example"):
        assert said in page.text, said


FILES = {
    "samples": {"film"},
    "eval.json": {"measured", "pictures"},
    "eval_pictures.csv": {"pictures"},
    "recipe.yaml": {"film", "pictures", "data", "recipe"},
}


@pytest.mark.parametrize("name", FILES)
def test_a_section_without_its_file_is_left_out(finished: Path, name: str) -> None:
    path = finished / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    page = Page(render_run(finished))
    assert page.sections == SECTIONS - FILES[name]
    check_whole(page)


def test_curves_need_statistics_or_evaluations(finished: Path) -> None:
    (finished / "stats.jsonl").unlink()
    page = Page(render_run(finished))
    assert "Losses" not in page.text
    assert "Step 6 is the best of 4" in page.text
    (finished / "evals.jsonl").unlink()
    assert "curves" not in Page(render_run(finished)).sections


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("eval.json", "eval.json is not an evaluation"),
        ("eval_pictures.csv", "eval_pictures.csv is not a table"),
        ("recipe.yaml", "recipe.yaml"),
        ("env.json", "env.json cannot be read"),
        ("stats.jsonl", "stats.jsonl has 1 damaged line."),
        ("samples/step-000003.jpg", "step-000003.jpg"),
        ("checkpoints/step-000007/meta.json", "meta.json cannot be read"),
    ],
)
def test_what_is_damaged_is_named_and_the_rest_stands(finished: Path, name: str, said: str) -> None:
    (finished / name).write_text("{ <b>not")
    page = Page(render_run(finished))
    assert "problems" in page.sections
    assert said in page.text.rpartition("What could not be read")[2]
    assert page.of("b") == []
    assert "environment" in page.sections


def test_an_empty_folder_is_no_run_and_a_bare_run_has_a_page(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no run at"):
        render_run(tmp_path)
    run = make_run(Workspace(tmp_path))
    page = Page(render_run(run))
    assert page.sections == {"environment"}
    assert run.name in page.text


def test_the_best_and_the_worst_are_what_the_measured_network_makes_of_their_photographs(finished: Path) -> None:
    page = Page(render_run(finished))
    module = load_generator(finished).module
    heroes = [image for image in page.of("img", "after") if "stylized" in (image["alt"] or "")]
    assert [(image["alt"] or "").partition(",")[0] for image in heroes] == ["0", "2"]
    for image, index in zip(heroes, (0, 2), strict=True):
        expected = stylize_batch(module, crop(index)[None])[0]
        assert np.abs(picture(image) - expected).mean() < 6
        assert np.abs(picture(image) - stylize_batch(module, crop(1)[None])[0]).mean() > 12
    worst = page.text.partition("The worst, and why")[2].partition("How it learned")[0]
    assert worst.index("likeness 0.20") < worst.index("likeness 0.70")


def test_pictures_of_another_checkpoint_are_not_passed_off_as_those_measured(finished: Path) -> None:
    evaluated(finished, "f" * 64)
    page = Page(render_run(finished))
    assert "pictures" not in page.sections
    assert "eval.json measured step 7, which is not what the run is shown by now" in page.text
    assert [image["alt"] for image in page.of("img", "after")] == [f"Photograph {i}, stylized" for i in (1, 2, 3)]


def test_pictures_of_photographs_that_were_not_measured_are_not_shown(finished: Path) -> None:
    manifest = finished.parent.parent / "datasets" / "photos" / "manifest.jsonl"
    manifest.write_text(manifest.read_text() + manifest.read_text().splitlines()[0].replace("0.png", "other.png") + "\n")
    page = Page(render_run(finished))
    assert "pictures" not in page.sections
    assert "photographs that eval.json measured are not there" in page.text.rpartition("What could not be read")[2]
    assert [image["alt"] for image in page.of("img", "after")] == [f"Photograph {i}, stylized" for i in (1, 2, 3)]


def test_the_measured_photographs_are_found_in_another_data_set_of_the_project(finished: Path) -> None:
    photos = finished.parent.parent / "datasets" / "photos"
    shutil.copytree(photos, photos.with_name("photos-elsewhere"))
    (photos / "manifest.jsonl").write_text((photos / "manifest.jsonl").read_text() + "\n")
    for index in range(N):
        write_image(photos / f"cropped/{index}.png", crop(index + 10))
    page = Page(render_run(finished))
    shown = [image for image in page.of("img", "before") if "photograph" in (image["alt"] or "")]
    assert [np.abs(picture(image) - crop(index)).mean() < 6 for image, index in zip(shown, (0, 2), strict=True)] == [True, True]


def test_a_damaged_list_of_shards_leaves_the_rest(finished: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    (shards / "shards.json").write_text("{")
    (finished / "recipe.yaml").write_text(dump_recipe(recipe(photos={"source": str(shards)})))
    page = Page(render_run(finished))
    assert "shards.json is damaged" in page.text.rpartition("What could not be read")[2]
    assert {"measured", "curves", "recipe"} <= page.sections


def test_skin_tones_stand_lightest_first_with_how_many_show_each(finished: Path) -> None:
    card = render_run(finished).partition("<h3>Shift by skin tone")[2].partition("</figure>")[0]
    assert re.findall(r'<text class="row other"[^>]*>(.*?)</text>', card) == ["very light (3)", "dark (1)"]
    light, dark = (float(x) for x in re.findall(r'<circle class="mark other" cx="([\d.]+)"', card))
    (none,) = (float(x) for x in re.findall(r'<line class="limit" x1="([\d.]+)"', card))
    assert (light - none) / (none - dark) == pytest.approx(3.25 / 21.4, rel=0.02)
    assert "+3.2" in card
    report = read_report(finished / "eval.json")
    rows = {row: {name: value for name, value in figures.items() if name not in SKIN} for row, figures in report.rows.items()}
    write_report(finished / "eval.json", report.model_copy(update={"rows": rows}))
    assert "Shift by skin tone" not in render_run(finished)


def test_every_row_of_an_evaluation_has_its_name() -> None:
    assert set(ROW_NAMES) == {"stylized", "photo", *FILTERS}


def test_a_page_that_is_sent_away_has_no_link_that_leads_elsewhere(finished: Path) -> None:
    (finished.parent.parent / "datasets" / "photos" / "report.html").write_text("<p>of the photographs")
    page = Page(render_run(finished))
    assert {(link["href"] or "")[0] for link in page.of("a")} == {"#"}
    assert "Its own report is datasets/photos/report.html." in page.text


def test_a_training_that_writes_its_page_draws_the_same_numbers_and_survives_a_failure(
    finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = torch.get_rng_state()
    update_run_page(finished)
    assert torch.equal(torch.get_rng_state(), before)
    assert "The best and the worst" in (finished / PAGE).read_text("utf-8")
    update_run_page(tmp_path / "nowhere")
    assert "could not be written" in caplog.text


def test_photographs_that_are_gone_leave_the_rest(finished: Path) -> None:
    (finished.parent.parent / "datasets" / "photos" / "cropped" / "0.png").unlink()
    page = Page(render_run(finished))
    assert [(image["alt"] or "").partition(",")[0] for image in page.of("img", "after")] == ["2"]
    assert "cropped/0.png" in page.text.rpartition("What could not be read")[2]


def test_the_film_runs_from_the_photographs_over_the_steps(finished: Path) -> None:
    page = Page(render_run(finished))
    frames = [attrs["data-label"] for attrs in page.of("div", "frame")]
    assert frames == ["the photographs", "step 3", "step 7"]
    shown = [image for image in page.of("img") if (image["alt"] or "").startswith("Photograph 2, ")]
    for image, divisor in zip(shown, (1, 3, 7), strict=True):
        assert np.abs(picture(image) - crop(1) // divisor).mean() < 6


def test_the_best_step_is_marked_where_it_lies_and_none_where_nobody_is_recognised(finished: Path) -> None:
    text = render_run(finished)
    marks = re.findall(r'<line class="best" x1="([\d.]+)"', text)
    assert len(marks) == 4
    ticks = {value: float(x) for x, value in re.findall(r'<text class="tick" x="([\d.]+)" y="143"[^>]*>(\d+)</text>', text)}
    assert float(marks[0]) == pytest.approx(ticks["6"], abs=0.2)
    (finished / "evals.jsonl").unlink()
    add_evaluation(finished, evaluation(2, 10.0, 0.1))
    text = render_run(finished)
    assert 'class="best"' not in text
    assert "No step left the people recognisable, and the pictures various, enough" in text


def test_a_long_run_at_full_size_stays_small(finished: Path) -> None:
    made_by = recipe(train={"size": 256, "network": {"width": 8, "blocks": 1}})
    (finished / "recipe.yaml").write_text(dump_recipe(made_by))
    sheet = contact_sheet([crop(index, 256) for index in range(16)], 8, 256)
    shutil.rmtree(finished / "samples")
    for step in range(40):
        write_image(finished / "samples" / f"step-{step:06d}.jpg", sheet) if step == 0 else os.link(
            finished / "samples" / "step-000000.jpg", finished / "samples" / f"step-{step:06d}.jpg"
        )
    lines = [json.dumps({"step": step, **{f"loss/{name}": step % 7 / 3 for name in "abcdefg"}}) for step in range(1, 4001)]
    (finished / "stats.jsonl").write_text("\n".join(lines) + "\n")
    page = write_run_page(finished)
    assert len(Page(page.read_text("utf-8")).of("div", "frame")) == 11  # the photographs, 9 of 40, and the chosen step
    assert page.stat().st_size < 3_000_000


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 8), st.sampled_from([16, 32, 48]))
def test_a_sample_sheet_is_read_back_pair_by_pair(tmp_path_factory: pytest.TempPathFactory, count: int, size: int) -> None:
    path = tmp_path_factory.mktemp("sheet") / "sheet.png"
    pairs = [(np.full((size, size, 3), 10 + i, np.uint8), np.full((size, size, 3), 100 + i, np.uint8)) for i in range(count)]
    write_image(path, contact_sheet([picture for pair in pairs for picture in pair], min(8, 2 * count), size))
    found = read_sample_sheet(path, size)
    assert [[int(each[0, 0, 0]) for each in pair] for pair in found] == [[10 + i, 100 + i] for i in range(count)]
    with pytest.raises(ImageError, match="no sheet"):
        read_sample_sheet(path, size + 1)


def test_the_command_writes_the_page_of_the_newest_run(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(finished.parent.parent)
    assert command(["report", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert Path(said["page"]).resolve() == finished / PAGE
    (finished / PAGE).unlink()
    assert command(["report", "--run", str(finished / "checkpoints" / "step-000007")]) == 0
    assert (finished / PAGE).is_file()
    assert command(["report", "--style", "nobody"]) == 1
    assert "no run to report on" in capsys.readouterr().err


def watched(page: Any, address: str) -> list[str]:
    """Open a page; return what it says, fails at, and asks for beyond itself."""
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith(("data:", address)) else said.append(request.url))
    page.goto(address)
    return said


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_all_of_it_without_errors_requests_or_overflow(finished: Path, chromium: Any, width: int) -> None:
    page = chromium.new_page(viewport={"width": width, "height": 800})
    said = watched(page, write_run_page(finished).as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].filter(image => !image.naturalWidth).length") == 0
    page.close()
    assert said == []


@pytest.mark.browser
def test_the_slider_follows_the_pointer_while_it_is_held_and_the_arrow_keys(finished: Path, chromium: Any) -> None:
    page = chromium.new_page(viewport={"width": 1280, "height": 800})
    said = watched(page, write_run_page(finished).as_uri())
    views = page.locator(".views").first
    handle = views.locator("input")
    views.scroll_into_view_if_needed()
    box = views.bounding_box()

    def move(share: float) -> None:
        page.mouse.move(box["x"] + share * box["width"], box["y"] + 5)

    move(0.9)
    assert handle.input_value() == "50"
    move(0.25)
    page.mouse.down()
    assert handle.input_value() == "25"
    assert handle.evaluate("handle => handle === document.activeElement")
    page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] - 40)  # still held, though no longer over the picture
    assert handle.input_value() == "75"
    page.mouse.up()
    move(0.1)
    assert handle.input_value() == "75"
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "ArrowRight"):
        page.keyboard.press(key)
    assert views.evaluate("views => views.style.getPropertyValue('--shown')") == "77%"
    assert handle.get_attribute("aria-valuetext") == "77% photograph"
    page.keyboard.press("Home")
    assert handle.input_value() == "0"
    page.close()
    assert said == []


@pytest.mark.browser
def test_the_film_obeys_the_keyboard(finished: Path, chromium: Any) -> None:
    page = chromium.new_page(viewport={"width": 1280, "height": 800})
    page.clock.install()
    said = watched(page, write_run_page(finished).as_uri())
    film = page.locator(".film")
    shown, button = film.locator("output"), film.get_by_role("button")

    def seen() -> list[bool]:
        return [frame.is_visible() for frame in film.locator(".frame").all()]

    assert (seen(), shown.inner_text()) == ([False, False, True], "step 7")
    film.get_by_role("slider").focus()
    page.keyboard.press("ArrowLeft")
    assert (seen(), shown.inner_text()) == ([False, True, False], "step 3")
    page.keyboard.press("Home")
    assert (seen(), shown.inner_text()) == ([True, False, False], "the photographs")
    button.focus()
    page.keyboard.press("Enter")
    assert button.inner_text() == "Stop"
    page.clock.run_for(800)
    assert seen() == [False, True, False]
    page.keyboard.press("Space")
    page.clock.run_for(5000)
    assert (seen(), button.inner_text()) == ([False, True, False], "Play")
    page.keyboard.press("Space")
    page.clock.run_for(5000)
    assert (seen(), button.inner_text()) == ([False, False, True], "Play")
    page.close()
    assert said == []


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_without_script_everything_shows_at_once(finished: Path, chromium: Any, width: int) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 800}, java_script_enabled=False)
    page = context.new_page()
    watched(page, write_run_page(finished).as_uri())
    before, after = (image.bounding_box() for image in page.locator(".views").first.locator("img").all())
    assert before["x"] + before["width"] <= after["x"]
    assert before["y"] == after["y"]
    assert [frame.is_visible() for frame in page.locator(".film .frame").all()] == [True] * 3
    assert not page.locator(".film .controls").is_visible()
    context.close()
