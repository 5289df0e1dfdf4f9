"""Pictures inside a page: thumbnails as `data:` URIs, pairs with a slider between, and films over the steps of a training."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from PIL import Image

from stylekit.images import Rgb, resize

THUMBNAIL_PX = 144
"""Longest side of a picture in a sheet."""

_JPEG_QUALITY = 78


def image(rgb: Rgb, alt: str, *, longest_px: int = THUMBNAIL_PX, quality: int = _JPEG_QUALITY, style: str = "") -> str:
    """Return a picture as an `img` that holds it, shrunk to at most that longest side.

    Args:
        rgb: uint8 [H, W, 3].
        alt: What it shows, for those who do not see it; text.
        longest_px: Longest side in pixels; smaller pictures stay as they are.
        quality: Of the JPEG, 1 to 100.
        style: Its class.
    """
    height, width = rgb.shape[:2]
    scale = min(1.0, longest_px / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    buffer = io.BytesIO()
    Image.fromarray(resize(rgb, size)).save(buffer, "JPEG", quality=quality)
    source = base64.b64encode(buffer.getvalue()).decode()
    named = f' class="{style}"' if style else ""
    return (
        f'<img{named} src="data:image/jpeg;base64,{source}" alt="{escape(alt, quote=True)}" width="{size[0]}" height="{size[1]}">'
    )


@dataclass(frozen=True, eq=False)
class Pair:
    """A photograph and what became of it.

    Attributes:
        photo: uint8 [H, W, 3].
        stylized: uint8, of the same proportions.
        name: Which photograph; text.
        caption: What stands below; text.
    """

    photo: Rgb
    stylized: Rgb
    name: str
    caption: str = ""


def before_after(pair: Pair, *, longest_px: int, quality: int = 85) -> str:
    """Return a pair with a slider between that works by mouse, touch and keys; without script both lie side by side."""
    name = escape(pair.name, quote=True)
    before = image(pair.photo, f"{pair.name}, the photograph", longest_px=longest_px, quality=quality, style="before")
    after = image(pair.stylized, f"{pair.name}, stylized", longest_px=longest_px, quality=quality, style="after")
    caption = f"<figcaption>{escape(pair.caption)}</figcaption>" if pair.caption else ""
    return (
        f'<figure class="before-after"><div class="views">{before}{after}'
        f'<input type="range" min="0" max="100" value="50" hidden aria-label="Share of the photograph that shows, {name}">'
        f"</div>{caption}</figure>"
    )


def side_by_side(pair: Pair, *, longest_px: int = THUMBNAIL_PX) -> str:
    """Return a pair as one small figure, photograph to the left."""
    before = image(pair.photo, f"{pair.name}, the photograph", longest_px=longest_px)
    after = image(pair.stylized, f"{pair.name}, stylized", longest_px=longest_px)
    caption = f'<span class="name">{escape(pair.name)}</span>{escape(pair.caption)}'
    return f'<figure class="thumb pair"><div>{before}{after}</div><figcaption>{caption}</figcaption></figure>'


@dataclass(frozen=True, eq=False)
class Frame:
    """What the network made of the same photographs at one time; `label` says which, as text."""

    label: str
    pictures: Sequence[Rgb]


def film(frames: Iterable[Frame], *, longest_px: int, quality: int = 80) -> str:
    """Return frames with a slider that runs through them; without script they lie one below the other."""
    shown = list(frames)
    bodies = "\n".join(
        f'<div class="frame" data-label="{escape(frame.label, quote=True)}"><p class="label">{escape(frame.label)}</p>'
        f'<div class="cells">{_cells(frame, longest_px, quality)}</div></div>'
        for frame in shown
    )
    last = len(shown) - 1
    return (
        f'<div class="film"><div class="controls" hidden><button type="button">Play</button>'
        f'<input type="range" min="0" max="{last}" value="{last}" aria-label="Time">'
        f"<output>{escape(shown[-1].label) if shown else ''}</output></div>\n{bodies}</div>"
    )


def _cells(frame: Frame, longest_px: int, quality: int) -> str:
    return "".join(
        image(picture, f"Photograph {number}, {frame.label}", longest_px=longest_px, quality=quality)
        for number, picture in enumerate(frame.pictures, 1)
    )
