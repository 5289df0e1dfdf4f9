"""Small data sets in the layouts that real ones have."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

FFHQ = [f"{n // 1000 * 1000:05d}/{n:05d}.png" for n in (0, 1, 999, 1000, 69999)]
CELEBA = [f"{n:06d}.jpg" for n in (1, 2, 162771, 182638)]
PARTITION = "000001.jpg 0\n000002.jpg 0\n162771.jpg 1\n182638.jpg 2\n"
IDENTITY = "000001.jpg 2880\n000002.jpg 2937\n162771.jpg 2880\n182638.jpg 10177\n"


def picture_bytes(name: str, side: int = 24) -> bytes:
    """Return a picture that differs from name to name, in the format of the suffix."""
    levels = np.random.default_rng(list(name.encode())).integers(0, 256, (side, side, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}[name.rsplit(".", 1)[1].lower()])
    return buffer.getvalue()


def write_pictures(folder: Path, names: Iterable[str]) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture_bytes(name.rsplit("/", 1)[-1]))
    return folder


def write_zip(path: Path, names: Iterable[str], texts: dict[str, str] | None = None, method: int = zipfile.ZIP_DEFLATED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        for name in names:
            archive.writestr(name, picture_bytes(name.rsplit("/", 1)[-1]))
        for name, text in (texts or {}).items():
            archive.writestr(name, text)
    return path
