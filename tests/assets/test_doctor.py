"""The doctor names each lack with the command that mends it."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import pytest

from stylekit import assets, doctor
from stylekit.doctor import Check
from stylekit.errors import StylekitError
from stylekit.modelscope.runtime.layer import TESTED
from stylekit.modelscope.runtime.probe import Upstream
from tests.assets.conftest import FACE, Shelf


@pytest.fixture(autouse=True)
def _upstream(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take it as given that upstream's code can be imported, which takes seconds to find out."""
    if "modelscope" not in request.keywords:
        monkeypatch.setattr(doctor, "missing_packages", list)
        monkeypatch.setattr(doctor, "look", lambda: Upstream({"tensorflow": "2.30"}, sees_gpu=False))
        monkeypatch.setattr(doctor, "has_nvidia_gpu", lambda: False)


def checks() -> dict[str, Check]:
    return {check.name: check for check in doctor.doctor()}


def test_every_lack_has_a_mend_and_nothing_else_has_one(empty_home: Path) -> None:
    for check in checks().values():
        assert bool(check.mend) == (not check.ok), check


def test_assets_are_found_missing_or_damaged(shelf: Shelf) -> None:
    shelf.use(shelf.wheel_asset())
    missing = checks()["asset face"]
    assert (missing.ok, missing.mend, missing.required) == (False, "Run: stylekit assets fetch face", False)
    path = assets.fetch("face")
    assert checks()["asset face"].ok
    path.write_bytes(FACE[:-1])
    damaged = checks()["asset face"]
    assert (damaged.ok, damaged.required) == (False, True)


def test_a_missing_extra_gives_its_install_command(empty_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "diffusers":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    check = checks()["extra gen"]
    assert (check.ok, check.required, check.mend) == (False, False, "Run: pip install 'stylekit[gen]'")
    assert "diffusers" in check.detail


def test_a_cache_that_cannot_be_written_is_required_to_be_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    check = checks()["cache folder"]
    assert not check.ok
    assert "STYLEKIT_HOME" in check.mend


def test_a_system_library_that_opencv_misses_is_named_with_the_packages_that_bring_it(
    empty_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cv2.py").write_text("raise ImportError('libGL.so.1: cannot open shared object file: No such file or directory')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cv2", raising=False)
    check = checks()["opencv"]
    assert (check.ok, check.required, check.detail) == (False, True, "libGL.so.1 missing")
    assert check.mend == "Run: apt install libgl1 libglib2.0-0"


def test_upstreams_code_is_imported_and_what_it_lacks_is_named(empty_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "modelscope engine"
    detail = "tensorflow 2.30; tested with modelscope 1.40, tensorflow 2.21"
    assert (checks()[name].ok, checks()[name].detail) == (True, detail)

    def fail() -> None:
        raise StylekitError("Importing upstream's code failed: ImportError: no libcuda.", "The last it printed: x")

    monkeypatch.setattr(doctor, "look", fail)
    broken = checks()[name]
    assert (broken.ok, broken.required) == (False, False)
    assert "no libcuda" in broken.detail
    assert broken.mend == "Run: pip install --force-reinstall 'stylekit[modelscope]'"
    monkeypatch.setattr(doctor, "missing_packages", lambda: ["tensorflow", "tf_slim"])
    missing = checks()[name]
    assert (missing.ok, missing.required, missing.detail) == (False, False, "missing: tensorflow, tf_slim")
    assert missing.mend == "Run: pip install 'stylekit[modelscope]'"


def test_a_gpu_that_tensorflow_passes_over_is_said_with_what_it_lacks(empty_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "has_nvidia_gpu", lambda: True)
    check = checks()["modelscope engine"]
    assert (check.ok, check.required, check.mend) == (False, False, "Run: pip install 'tensorflow[and-cuda]'")
    assert check.detail.endswith("; TensorFlow does not see the NVIDIA GPU")
    monkeypatch.setattr(doctor, "look", lambda: Upstream({}, sees_gpu=True))
    assert checks()["modelscope engine"].ok


def test_the_versions_that_are_tested_are_those_of_the_lock() -> None:
    lock = (Path(__file__).parents[2] / "constraints.txt").read_text("utf-8").splitlines()
    for package, version in TESTED.items():
        assert any(line.startswith(f"{package}=={version}.") for line in lock), package


@pytest.mark.modelscope
@pytest.mark.slow
def test_upstreams_code_really_is_imported() -> None:
    check = doctor._upstream()
    assert check.ok, check
    assert f"tensorflow {importlib.metadata.version('tensorflow')}" in check.detail
