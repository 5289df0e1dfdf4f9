"""Sheets of photographs beside their stylized pictures, to be looked at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from stylekit.images import Rgb, contact_sheet

_CELL_PX, _GAP_PX = 256, 4
_CAPTION_PX, _LINE_PX, _LINES = 14, 19, 4
_PAIRS_A_ROW = 2


def pair_sheet(photos: Sequence[Rgb], stylized: Sequence[Rgb]) -> Rgb:
    """Return photo | stylized pairs, two to a row."""
    pairs = [picture for pair in zip(photos, stylized, strict=True) for picture in pair]
    return contact_sheet(pairs, 2 * _PAIRS_A_ROW, _CELL_PX, _GAP_PX)


def captioned_sheet(photos: Sequence[Rgb], stylized: Sequence[Rgb], captions: Sequence[Sequence[str]]) -> Rgb:
    """Return photo | stylized pairs, two to a row, each above its caption of up to four lines."""
    width, height = 2 * _CELL_PX + _GAP_PX, _CELL_PX + _LINES * _LINE_PX + 8
    font = ImageFont.load_default(_CAPTION_PX)
    columns = min(_PAIRS_A_ROW, len(photos))
    rows = -(-len(photos) // _PAIRS_A_ROW)
    sheet = Image.new("RGB", (columns * (width + 16) - 16, rows * (height + 8) - 8), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (photo, drawn, caption) in enumerate(zip(photos, stylized, captions, strict=True)):
        left, top = index % _PAIRS_A_ROW * (width + 16), index // _PAIRS_A_ROW * (height + 8)
        sheet.paste(Image.fromarray(contact_sheet([photo, drawn], 2, _CELL_PX, _GAP_PX)), (left, top))
        for number, line in enumerate(caption[:_LINES]):
            place = (left + 2, top + _CELL_PX + 4 + number * _LINE_PX)
            draw.text(place, _fitting(line, font, width - 4), fill="black", font=font)
    return np.asarray(sheet)


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Return the text in letters that the built-in font has, cut where it is too long."""
    text = text.encode("ascii", "replace").decode()
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text}..."
