"""Fixtures that several parts' tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from stylekit.paths import home


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
