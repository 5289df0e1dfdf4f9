"""A workspace with a small data set and folders of pictures, and a made-up study."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stylekit.data.manifest import ManifestLine, write_manifest
from stylekit.images import write_image
from stylekit.paths import Workspace, sha256_bytes
from stylekit.preference.records import Entry, Photograph, Question, Study

SIDE = 16


def picture(*rgb: int) -> np.ndarray:
    return np.full((SIDE, SIDE, 3), rgb, np.uint8)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Six held-out photographs of five persons, twelve cartoons of style pop-art, folders flat/, loud/ and dull/."""
    monkeypatch.chdir(tmp_path)
    found = Workspace()
    lines = []
    for i in range(8):
        person = f"p{max(i, 1)}"
        line = {"file": f"cropped/{i}.png", "input": f"{i}.jpg", "input_sha256": None, "status": "used", "template": "dctnet"}
        lines.append(ManifestLine.model_validate({**line, "person": person, "split": "train" if i > 5 else "eval"}))
        write_image(found.photos / f"cropped/{i}.png", picture(20 * i, 0, 0), durable=False)
        for value, name in enumerate(("flat", "loud", "dull")):
            write_image(tmp_path / name / f"{i}.png", picture(20 * i, 0, 100 + value), durable=False)
    write_manifest(found.photos / "manifest.jsonl", lines)
    cartoons = []
    for i in range(12):
        line = {"file": f"cartoon/{i}.png", "input": f"raw/{i}.png", "input_sha256": None, "status": "used"}
        cartoons.append(ManifestLine.model_validate(line))
        write_image(found.style("pop-art") / f"cartoon/{i}.png", picture(0, 20 * i, 0), durable=False)
    write_manifest(found.style("pop-art") / "manifest.jsonl", cartoons)
    found.set_current_style("pop-art")
    return found


def key(text: str) -> str:
    return sha256_bytes(text.encode())[:16]


def made_up(
    photographs: int = 6,
    entries: int = 2,
    *,
    pairs: int = 40,
    seed: int = 0,
    questions: tuple[Question, ...] = ("pref_a", "pref_b"),
    cartoons: int = 4,
) -> Study:
    """Return a study that lies nowhere."""
    return Study(
        name="000-made-up",
        created="2026-01-01T00:00:00+00:00",
        style="pop-art",
        questions=questions,
        seed=seed,
        pairs=pairs,
        photos_limit=None,
        template="dctnet",
        protocol="own-v1",
        photographs_manifest_sha256="0" * 64,
        size_px=256,
        entries=tuple(Entry(label=f"e{i}", kind="folder", source=f"e{i}", digest=f"{i}" * 64) for i in range(entries)),
        photographs=tuple(
            Photograph(
                file=f"{p}.png",
                group=f"g{p}",
                sha256=sha256_bytes(f"{p}".encode()),
                picture=key(f"photo {p}"),
                pictures=tuple(key(f"{p} {e}") for e in range(entries)),
            )
            for p in range(photographs)
        ),
        references=(key("reference"),),
        cartoons=tuple(key(f"cartoon {i}") for i in range(cartoons)),
    )
