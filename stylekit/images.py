"""Pictures in and out: RGB uint8 [H, W, 3] everywhere, and the one place where they become NCHW float32 in [-1, 1]."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, ImageOps
from PIL.TiffImagePlugin import TiffImageFile

from stylekit.errors import ImageError
from stylekit.paths import atomic_write_bytes

if TYPE_CHECKING:
    import torch

Rgb = npt.NDArray[np.uint8]

_LOG = logging.getLogger(__name__)

MAX_PIXELS = 128_000_000
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
UNREAD_SUFFIXES = {
    **{f".{name}": name.upper() for name in ("heic", "heif", "avif", "gif", "jxl", "jp2", "psd")},
    **dict.fromkeys((".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2"), "raw"),
}
"""Suffixes of pictures that stylekit does not read, and what people call their files."""

SHEET_GAP_PX = 4
"""Between the cells of a contact sheet."""

_WRITERS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP"}
_BITS_PER_SAMPLE = 258  # TIFF 6.0, section 8


def read_rgb(source: Path | bytes, *, name: str | None = None) -> Rgb:
    """Read a JPEG, PNG, WebP, BMP or TIFF picture as a person would see it.

    The EXIF orientation is applied, an embedded colour profile is carried over to sRGB, 16-bit samples are scaled to 8,
    transparency is laid on white, and of several frames the first is taken.

    Args:
        source: The file, or its bytes.
        name: What error messages call it; the path itself by default.

    Returns:
        RGB uint8 [H, W, 3].

    Raises:
        ImageError: If it cannot be read, is not such a picture, is cut short, or has more than 128 megapixels (which is
            found out before anything is decoded).
    """
    label = name or (str(source) if isinstance(source, Path) else "the picture")
    picture = _open(_read_bytes(source, label) if isinstance(source, Path) else source, label)
    if picture.width * picture.height > MAX_PIXELS:
        raise _too_large(label, f"{picture.width}x{picture.height} pixels")
    try:
        picture.load()
        bits = picture.tag_v2.get(_BITS_PER_SAMPLE, (16,))[0] if isinstance(picture, TiffImageFile) else 16
        return np.array(_on_white(_to_srgb(_to_8_bit(ImageOps.exif_transpose(picture), bits), label)))
    except Exception as error:  # decoders raise whatever a hostile file makes them raise
        raise ImageError(
            f"{label} cannot be decoded: {_reason(error)}.", "Replace it, or save it anew as PNG or JPEG."
        ) from error


def _read_bytes(path: Path, label: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"{label} cannot be read: {_reason(error)}.", "Check the path and its permissions.") from error


def _open(data: bytes, label: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS is the limit here
            return Image.open(io.BytesIO(data), formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise _too_large(label, "too many pixels") from error
    except Exception as error:
        reason = "is empty" if not data else "is not a JPEG, PNG, WebP, BMP or TIFF picture"
        raise ImageError(f"{label} {reason}.", "Convert it to one of these formats, or leave it out.") from error


def _too_large(label: str, size: str) -> ImageError:
    return ImageError(f"{label} has {size}; the limit is {MAX_PIXELS // 1_000_000} megapixels.", "Scale it down first.")


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.rstrip(".")


def _to_8_bit(picture: Image.Image, bits: int) -> Image.Image:
    """Scale 16-bit gray to 8 bits; Pillow has already done so for 16-bit colour."""
    if picture.mode in ("I", "F"):
        raise ValueError("32-bit samples have no known range; save it with 8 or 16 bits")
    if not picture.mode.startswith("I;16"):
        return picture
    samples = np.asarray(picture).astype(np.float32) * (255 / (2**bits - 1))
    gray = Image.fromarray((samples + 0.5).astype(np.uint8))
    gray.info = {key: value for key, value in picture.info.items() if key == "icc_profile"}
    return gray


def _to_srgb(picture: Image.Image, label: str) -> Image.Image:
    """Carry colours over from the embedded profile; a picture without one, or with a broken one, counts as sRGB."""
    profile = picture.info.get("icc_profile")
    colours = picture
    alpha = None
    if picture.has_transparency_data:
        colours = picture.convert("RGBA")
        alpha = colours.getchannel("A")
        colours = colours.convert("L" if picture.mode in ("L", "LA") else "RGB")
    elif picture.mode not in ("L", "CMYK"):
        colours = picture.convert("RGB")
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            colours = ImageCms.profileToProfile(colours, source, ImageCms.createProfile("sRGB"), outputMode="RGB") or colours
        except (ImageCms.PyCMSError, OSError) as error:
            _LOG.warning("%s: its colour profile cannot be used (%s); its colours are taken as sRGB.", label, _reason(error))
    colours = colours.convert("RGB")
    if alpha is not None:
        colours.putalpha(alpha)
    return colours


def _on_white(picture: Image.Image) -> Image.Image:
    if picture.mode != "RGBA":
        return picture
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def write_image(path: Path, rgb: Rgb, *, quality: int = 92, compression: int = 6, durable: bool = True) -> None:
    """Write a picture atomically, in the format of the suffix: .png, .jpg, .jpeg or .webp.

    Args:
        path: Where to; missing folders are made.
        rgb: RGB uint8 [H, W, 3].
        quality: 1 to 100, for JPEG and WebP.
        compression: 0 to 9, for PNG; of crops, 1 takes a sixth of the time of 6 and an eighth more room.
        durable: See `atomic_write_bytes`.

    Raises:
        ImageError: If the suffix is not one of these, or the format cannot hold a picture of this size.
        StylekitError: If the file cannot be written.
    """
    encoder = _WRITERS.get(path.suffix.lower())
    if encoder is None:
        raise ImageError(f"{path} cannot be written: the suffix {path.suffix!r} is not known.", "Use .png, .jpg or .webp.")
    png, lossy = {"compress_level": compression}, {"quality": quality}
    options = {"PNG": png, "JPEG": {**lossy, "subsampling": 0}, "WEBP": lossy}[encoder]
    buffer = io.BytesIO()
    try:
        Image.fromarray(rgb).save(buffer, encoder, **options)
    except (OSError, ValueError) as error:
        raise ImageError(f"{path} cannot be written: {_reason(error)}.", "Use .png, which holds pictures of any size.") from error
    atomic_write_bytes(path, buffer.getvalue(), durable=durable)


def encode_png(rgb: Rgb) -> bytes:
    """Return the PNG file of a picture, RGB uint8 [H, W, 3]."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG")
    return buffer.getvalue()


def list_images(folder: Path) -> list[Path]:
    """Return the pictures below `folder`, recursively and sorted; hidden files and folders are passed over.

    Raises:
        ImageError: If it is not a folder.
    """
    if not folder.is_dir():
        raise ImageError(f"{folder} is not a folder.", "Check the path.")
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in PICTURE_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def to_tensor(rgb: Rgb) -> torch.Tensor:
    """Turn RGB uint8 [H, W, 3] or [N, H, W, 3] into float32 [N, 3, H, W] in [-1, 1]."""
    import torch

    return from_levels(torch.from_numpy(np.ascontiguousarray(rgb if rgb.ndim == 4 else rgb[None])))


def from_levels(levels: torch.Tensor) -> torch.Tensor:
    """Turn RGB uint8 [N, H, W, 3], on any device, into float32 [N, 3, H, W] in [-1, 1] there."""
    return levels.permute(0, 3, 1, 2).float().div(127.5).sub(1.0).contiguous()


def to_rgb(tensor: torch.Tensor) -> Rgb:
    """Turn [N, 3, H, W] in [-1, 1] into RGB uint8 [N, H, W, 3]; values outside are clipped, halves rounded up."""
    levels = tensor.detach().float().add(1.0).mul(127.5).add(0.5).floor().clamp(0, 255)
    array: Rgb = levels.byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return array


def resize(rgb: Rgb, size: tuple[int, int]) -> Rgb:
    """Resize to `size` (width, height): area means when both sides shrink, cubic otherwise."""
    import cv2

    height, width = rgb.shape[:2]
    if size == (width, height):
        return rgb
    shrinks = size[0] <= width and size[1] <= height
    resized: Rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    return resized


def contact_sheet(pictures: Sequence[Rgb], columns: int, cell: int, gap: int = SHEET_GAP_PX) -> Rgb:
    """Lay pictures out row by row on white.

    Args:
        pictures: RGB uint8 [H, W, 3] each, of any size; fitted into the cell without changing their proportions.
        columns: Pictures in a row.
        cell: Side of a cell in pixels.
        gap: Pixels between cells.
    """
    columns = max(1, min(columns, len(pictures)))
    rows = max(1, -(-len(pictures) // columns))
    pitch = cell + gap
    sheet = np.full((rows * pitch - gap, columns * pitch - gap, 3), 255, np.uint8)
    for index, picture in enumerate(pictures):
        height, width = picture.shape[:2]
        scale = cell / max(height, width)
        small = resize(picture, (max(1, round(width * scale)), max(1, round(height * scale))))
        top = index // columns * pitch + (cell - small.shape[0]) // 2
        left = index % columns * pitch + (cell - small.shape[1]) // 2
        sheet[top : top + small.shape[0], left : left + small.shape[1]] = small
    return sheet
