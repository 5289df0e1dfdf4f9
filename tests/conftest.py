"""Fixtures that several parts' tests share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from stylekit.modelscope.runtime.process import missing_packages
from stylekit.paths import home


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
