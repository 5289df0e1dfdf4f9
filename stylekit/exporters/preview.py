"""`preview.jpg`: a portrait that may be shown, the same in the style, and a strip of the cartoons it was learned from."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from stylekit.assets import fetch
from stylekit.bundle import Bundle
from stylekit.faces.align import warp
from stylekit.images import contact_sheet, read_rgb
from stylekit.stylizer import Stylizer

_CELL = 384
_GAP = 4
_IN_STRIP = 8


def preview(style: Bundle | Path, cartoons: Sequence[Path]) -> bytes:
    """Return the preview as JPEG.

    The photographs trained on are never shown, since nobody asked the people in them; the portrait is NASA's of Eileen
    Collins, in the public domain.

    Args:
        style: The style, not necessarily written yet, or the checkpoint it is made of.
        cartoons: Up to eight aligned cartoons.

    Raises:
        ImageError: If a cartoon cannot be read.
    """
    portrait = read_rgb(fetch("astronaut"))
    stylizer = Stylizer(style, device="cpu")
    whole = stylizer(portrait)
    shown = [portrait, whole]
    for face in stylizer.faces(portrait, _CELL)[:1]:
        shown = [warp(portrait, face.matrix, _CELL), face.crop, whole]
    rows = [contact_sheet(shown, columns=len(shown), cell=_CELL, gap=_GAP)]
    if cartoons:
        cell = (rows[0].shape[1] + _GAP) // _IN_STRIP - _GAP
        strip = contact_sheet([read_rgb(path) for path in cartoons[:_IN_STRIP]], columns=_IN_STRIP, cell=cell, gap=_GAP)
        margin = np.full((_GAP, rows[0].shape[1], 3), 255, np.uint8)
        rows += [margin, np.pad(strip, ((0, 0), (0, rows[0].shape[1] - strip.shape[1]), (0, 0)), constant_values=255)]
    buffer = io.BytesIO()
    Image.fromarray(np.vstack(rows)).save(buffer, "JPEG", quality=90, subsampling=0)
    return buffer.getvalue()
