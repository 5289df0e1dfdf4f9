"""A style on the clock, by engine and size."""

from __future__ import annotations

from pathlib import Path

import pytest

from stylekit.errors import ExportError
from stylekit.paths import Workspace
from stylekit.speed.stylizing import bench_stylize, sizes_of
from tests.trained import make_run

SIZES = ((32, 32), (32, 48))


def test_a_bundle_is_timed_in_both_engines(tmp_path: Path) -> None:
    report = bench_stylize(workspace=Workspace(tmp_path), sizes=SIZES, rounds=2, device="cpu")
    assert report.style == "toon-head"
    engines = ("onnxruntime", "torch cpu")
    assert [(t.engine, t.height, t.width) for t in report.times] == [(engine, *size) for size in SIZES for engine in engines]
    assert all(time.picture_s > 0 and time.rounds == 2 for time in report.times)


def test_sizes_are_those_the_style_sees(tmp_path: Path) -> None:
    report = bench_stylize(workspace=Workspace(tmp_path), rounds=1, device="cpu")
    assert {(time.height, time.width) for time in report.times} == {(144, 144), (360, 480)}, "trained at 128 px"
    assert sizes_of(256) == [(288, 288), (720, 960)]


@pytest.mark.parametrize("by_name", [True, False])
def test_a_run_without_a_bundle_is_timed_in_torch(by_name: bool, tmp_path: Path) -> None:
    run = make_run(Workspace(tmp_path))
    report = bench_stylize("pop-art" if by_name else run, workspace=Workspace(tmp_path), sizes=SIZES[:1], rounds=1, device="cpu")
    assert [time.engine for time in report.times] == ["torch cpu"]


def test_an_unknown_style_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no style 'nobody'"):
        bench_stylize("nobody", workspace=Workspace(tmp_path))
