"""Fixtures that several parts' tests share."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Generator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer.main

from stylekit import process
from stylekit.modelscope.runtime.process import missing_packages
from stylekit.paths import home, sha256_bytes

if TYPE_CHECKING:
    from stylekit.images import Rgb

process.prepare()

_FACES: dict[tuple[Any, ...], list[Any]] = {}


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the garbage collector from walking through every imported module again and again, here and in every test."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave out what needs upstream where it is not installed, before any fixture is made for it."""
    if item.get_closest_marker("modelscope") and (missing := missing_packages()):
        pytest.skip(f"not installed: {', '.join(missing)}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let nothing of upstream be left out where `make modelscope` asks for all of it."""
    report = yield
    if report.skipped and item.get_closest_marker("modelscope") and "STYLEKIT_REQUIRE_MODELSCOPE" in os.environ:
        report.outcome, report.longrepr = "failed", f"left out, although STYLEKIT_REQUIRE_MODELSCOPE is set: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def asset_home() -> Path:
    """The assets' real cache (`$STYLEKIT_HOME` or the platform's), kept between runs; fetch by name through stylekit.assets."""
    return home()


@pytest.fixture
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of this test's own, with nothing in it."""
    folder = tmp_path / "home"
    monkeypatch.setenv("STYLEKIT_HOME", str(folder))
    monkeypatch.delenv("STYLEKIT_OFFLINE", raising=False)
    return folder


@pytest.fixture(scope="session", autouse=True)
def measured_apart(tmp_path_factory: pytest.TempPathFactory) -> Generator[Path, None, None]:
    """Keep what evaluations measure out of the real cache: every session measures anew, and leaves nothing there."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("measured")
        patch.setattr("stylekit.metrics.measure.home", lambda: folder)
        yield folder


@pytest.fixture(scope="session", autouse=True)
def commands_built_once() -> Generator[None, None, None]:
    """Build the tree of commands once: a command line of a test costs a twentieth of a second without."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("typer.main.get_command", cache(typer.main.get_command))
        yield


@pytest.fixture(scope="module")
def faces_found_once() -> Generator[None, None, None]:
    """Look for faces once in each picture, whichever test shows it again: where there is none, sixty views are looked at."""
    from stylekit.faces.detect import PHOTO_THRESHOLD, Face, FaceDetector

    look = FaceDetector.detect

    def detect(self: FaceDetector, rgb: Rgb, threshold: float = PHOTO_THRESHOLD) -> list[Face]:
        key = (rgb.shape, sha256_bytes(rgb.tobytes()), threshold)
        if key not in _FACES:
            _FACES[key] = look(self, rgb, threshold)
        return list(_FACES[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FaceDetector, "detect", detect)
        yield


@pytest.fixture(scope="module")
def exported_once(faces_found_once: None) -> Generator[None, None, None]:
    """Trace `trained.generator` once, and compare each file with the network that it was made of once."""
    from stylekit.exporters import build
    from stylekit.exporters.verify import Parity
    from tests.trained import half_graph, is_generator

    trace, compare = build.to_onnx, build._compare
    parities: dict[tuple[str, ...], Parity] = {}

    def to_onnx(module: Any, *, half: bool) -> bytes:
        return half_graph() if half and is_generator(module) else trace(module, half=half)

    def compared(kind: Any, data: bytes, loaded: Any, style: Any) -> Parity:
        key = (kind, sha256_bytes(data), loaded.sha256, str(loaded.recipe.train.size))
        if key not in parities:
            parities[key] = compare(kind, data, loaded, style)
        return parities[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "to_onnx", to_onnx)
        patch.setattr(build, "_compare", compared)
        yield


@pytest.fixture(scope="module")
def chromium() -> Generator[Any, None, None]:
    """A headless Chromium, driven by Playwright: the one that `make browser` brings, or that is installed."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("Chromium is not installed; run: make browser")
    if "CHROMIUM" not in os.environ:
        pytest.importorskip("playwright")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()
