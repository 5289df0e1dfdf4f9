"""Pictures of every kind people have on their disks, and files that only look like pictures."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from stylekit import images
from stylekit.errors import ImageError, StylekitError

RED = (200, 30, 40)


def encode(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(width: int = 40, height: int = 24) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // (width - 1), y * 255 // (height - 1), np.full_like(x, 90)], -1).astype(np.uint8)


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(rows, 1)) + png_chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("kind", "suffix"), [("PNG", ".png"), ("BMP", ".bmp"), ("TIFF", ".tif"), ("WEBP", ".webp")])
def test_lossless_formats_read_back_exactly_from_a_chinese_path(tmp_path: Path, kind: str, suffix: str) -> None:
    path = tmp_path / "照片" / f"我的自拍 é{suffix}"
    path.parent.mkdir()
    path.write_bytes(encode(Image.fromarray(gradient()), kind, **({"lossless": True} if kind == "WEBP" else {})))
    np.testing.assert_array_equal(images.read_rgb(path), gradient())


def test_jpeg_is_close() -> None:
    read = images.read_rgb(encode(Image.fromarray(gradient()), "JPEG", quality=95))
    assert np.abs(read.astype(int) - gradient()).mean() < 2


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_undone(orientation: int, kind: str) -> None:
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :16] = 255
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(
        Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {})
    )
    np.testing.assert_array_equal(images.read_rgb(data) > 127, upright > 127)


def test_orientation_of_16_bit_gray() -> None:
    upright = np.array([[0, 65535, 0], [0, 0, 0]], np.uint16)
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(Image.fromarray(np.rot90(upright, 1).copy()), "PNG", exif=exif)
    np.testing.assert_array_equal(images.read_rgb(data)[..., 0], (upright >> 8).astype(np.uint8))


def test_gray_becomes_three_equal_channels() -> None:
    gray = gradient()[..., 0]
    np.testing.assert_array_equal(images.read_rgb(encode(Image.fromarray(gray), "PNG")), np.repeat(gray[..., None], 3, -1))


def test_one_bit_becomes_black_and_white() -> None:
    read = images.read_rgb(encode(Image.fromarray(gradient()[..., 0]).convert("1"), "PNG"))
    assert set(np.unique(read)) == {0, 255}


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_rgba_is_laid_on_white(kind: str) -> None:
    picture = Image.new("RGBA", (2, 1), (*RED, 0))
    picture.putpixel((1, 0), (100, 0, 0, 128))
    read = images.read_rgb(encode(picture, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {})))
    np.testing.assert_allclose(read[0].astype(int), [[255, 255, 255], [177, 127, 127]], atol=1)


def test_gray_with_alpha_is_laid_on_white() -> None:
    read = images.read_rgb(encode(Image.new("LA", (1, 1), (0, 51)), "PNG"))
    np.testing.assert_array_equal(read[0, 0], [204, 204, 204])


def test_palette_with_and_without_transparency() -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([*RED, 0, 0, 255])
    picture.putpixel((1, 0), 1)
    np.testing.assert_array_equal(images.read_rgb(encode(picture, "PNG"))[0], [RED, (0, 0, 255)])
    read = images.read_rgb(encode(picture, "PNG", transparency=1))
    np.testing.assert_array_equal(read[0], [RED, (255, 255, 255)])


def test_rgb_with_a_transparent_key_colour() -> None:
    picture = Image.new("RGB", (2, 1), RED)
    picture.putpixel((1, 0), (0, 0, 0))
    read = images.read_rgb(encode(picture, "PNG", transparency=(0, 0, 0)))
    np.testing.assert_array_equal(read[0], [RED, (255, 255, 255)])


def test_cmyk_jpeg_of_the_adobe_kind_is_not_inverted() -> None:
    data = encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)  # Pillow writes the Adobe marker
    assert b"Adobe" in data
    np.testing.assert_allclose(images.read_rgb(data)[8, 8].astype(int), [255, 0, 0], atol=4)


def test_cmyk_tiff() -> None:
    data = encode(Image.new("CMYK", (4, 4), (255, 0, 0, 0)), "TIFF")
    np.testing.assert_array_equal(images.read_rgb(data)[0, 0], [0, 255, 255])


DEEP = np.array([[0, 257, 25_700, 65_535]], np.uint16)
SHALLOW = np.array([0, 1, 100, 255])


def test_16_bit_gray_png_and_tiff_are_scaled() -> None:
    for data in (png(4, 1, 16, 0, b"\0" + DEEP.astype(">u2").tobytes()), encode(Image.fromarray(DEEP), "TIFF")):
        np.testing.assert_array_equal(images.read_rgb(data)[0, :, 1], SHALLOW)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_tiff_of_either_byte_order(byteorder: str, channels: int) -> None:
    buffer = io.BytesIO()
    photometric = "rgb" if channels == 3 else "minisblack"
    tifffile.imwrite(
        buffer, DEEP if channels == 1 else np.repeat(DEEP[..., None], 3, -1), byteorder=byteorder, photometric=photometric
    )
    np.testing.assert_array_equal(images.read_rgb(buffer.getvalue())[0, :, 2], SHALLOW)


def test_16_bit_colour_png_is_scaled() -> None:
    rows = b"\0" + np.repeat(DEEP[..., None], 3, -1).astype(">u2").tobytes()
    np.testing.assert_array_equal(images.read_rgb(png(4, 1, 16, 2, rows))[0, :, 0], SHALLOW)


def test_16_bit_colour_png_with_alpha_is_laid_on_white() -> None:
    pixel = np.array([[[0, 0, 0, 0x8000], [0xFFFF, 0, 0, 0xFFFF]]], ">u2")
    np.testing.assert_allclose(
        images.read_rgb(png(2, 1, 16, 6, b"\0" + pixel.tobytes()))[0].astype(int), [[127] * 3, [255, 0, 0]], atol=1
    )


def test_12_bit_gray_tiff_uses_its_own_range() -> None:
    full = 0xFFF
    packed = bytes([full >> 4, (full & 15) << 4, 0])  # 4095, 0
    entries = [
        (256, 3, 2),
        (257, 3, 1),
        (258, 3, 12),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 8),
        (277, 3, 1),
        (278, 3, 1),
        (279, 4, 3),
    ]
    directory = struct.pack("<H", len(entries))
    directory += b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries) + struct.pack("<I", 0)
    data = b"II*\0" + struct.pack("<I", 12) + packed + b"\0" + directory
    np.testing.assert_array_equal(images.read_rgb(data)[0, :, 0], [255, 0])


def test_float_tiff_is_refused_by_name() -> None:
    data = encode(Image.new("F", (2, 2), 0.5), "TIFF")
    with pytest.raises(ImageError, match=r"depth\.tif cannot be decoded: 32-bit samples"):
        images.read_rgb(data, name="depth.tif")


def swapped_profile() -> bytes:
    """Return an sRGB profile whose red and blue primaries have changed places."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack(">I", data[128:132])[0]
    at = {bytes(data[132 + 12 * i : 136 + 12 * i]): 132 + 12 * i for i in range(count)}
    red, blue = at[b"rXYZ"], at[b"bXYZ"]
    data[red + 4 : red + 12], data[blue + 4 : blue + 12] = data[blue + 4 : blue + 12], data[red + 4 : red + 12]
    return bytes(data)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colour_profile_is_carried_over_to_srgb(mode: str) -> None:
    picture = Image.new("RGB", (4, 4), (255, 0, 0)).convert(mode)
    data = encode(picture, "PNG", icc_profile=swapped_profile())
    np.testing.assert_allclose(images.read_rgb(data)[0, 0].astype(int), [0, 0, 255], atol=3)


def test_srgb_profile_changes_nothing() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    read = images.read_rgb(encode(Image.fromarray(gradient()), "PNG", icc_profile=profile))
    np.testing.assert_allclose(read.astype(int), gradient(), atol=1)


def test_broken_profile_counts_as_srgb_and_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    data = encode(Image.fromarray(gradient()), "PNG", icc_profile=b"no profile at all")
    np.testing.assert_array_equal(images.read_rgb(data, name="odd.png"), gradient())
    assert "odd.png: its colour profile cannot be used" in caplog.text


@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from(["JPEG", "PNG", "BMP", "WEBP", "TIFF"]), share=st.floats(0.02, 0.9))
def test_truncated_files_are_refused(kind: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    data = encode(Image.fromarray(noise), kind)
    with pytest.raises(ImageError, match=r"^cut\.jpg "):
        images.read_rgb(data[: int(len(data) * share)], name="cut.jpg")


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(["JPEG", "PNG", "BMP", "WEBP", "TIFF"]), at=st.floats(0, 0.999), junk=st.binary(min_size=1, max_size=8)
)
def test_damaged_files_give_a_picture_or_an_image_error(kind: str, at: float, junk: bytes) -> None:
    data = bytearray(encode(Image.fromarray(gradient()), kind))
    start = int(len(data) * at)
    data[start : start + len(junk)] = junk
    try:
        read = images.read_rgb(bytes(data), name="damaged")
    except ImageError:
        return
    assert read.dtype == np.uint8
    assert read.ndim == 3
    assert read.shape[2] == 3


def test_text_called_jpg_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "notes.jpg"
    path.write_text("dear diary")
    with pytest.raises(ImageError, match=r"notes\.jpg is not a JPEG, PNG, WebP, BMP or TIFF picture"):
        images.read_rgb(path)


def test_empty_missing_and_folder_are_refused_by_name(tmp_path: Path) -> None:
    empty = tmp_path / "empty.png"
    empty.touch()
    with pytest.raises(ImageError, match=r"empty\.png is empty"):
        images.read_rgb(empty)
    with pytest.raises(ImageError, match=r"gone\.png cannot be read: No such file"):
        images.read_rgb(tmp_path / "gone.png")
    with pytest.raises(ImageError, match="Is a directory"):
        images.read_rgb(tmp_path)


@pytest.mark.parametrize(("width", "height"), [(16_001, 8_000), (60_000, 60_000)])
def test_huge_pictures_are_refused_before_decoding(width: int, height: int) -> None:
    with pytest.raises(ImageError, match=r"wall\.png has .* the limit is 128 megapixels"):
        images.read_rgb(png(width, height, 8, 2, b"\0"), name="wall.png")  # there are no rows to decode: it must not try


def test_100_megapixels_are_read_without_a_warning() -> None:
    rows = b"\0" * (10_000 // 8 + 1) * 10_000
    assert images.read_rgb(png(10_000, 10_000, 1, 0, rows)).shape == (10_000, 10_000, 3)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_written_pictures_read_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "新" / f"out{suffix}"
    images.write_image(path, gradient())
    assert np.abs(images.read_rgb(path).astype(int) - gradient()).mean() < (0.001 if suffix == ".png" else 4)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_writing_an_unknown_suffix_or_a_size_the_format_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"'\.gif' is not known"):
        images.write_image(tmp_path / "a.gif", gradient())
    with pytest.raises(ImageError, match=r"wide\.webp cannot be written"):
        images.write_image(tmp_path / "wide.webp", np.zeros((1, 20_000, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_writing_below_a_file_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StylekitError, match="Cannot write"):
        images.write_image(tmp_path / "file" / "a.png", gradient())


def test_list_images_is_recursive_sorted_and_skips_hidden(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "sub/c.webp", ".hidden.png", ".partial-x/d.png", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert [str(p.relative_to(tmp_path)) for p in images.list_images(tmp_path)] == ["a.jpg", "b.PNG", "sub/c.webp"]
    with pytest.raises(ImageError, match="is not a folder"):
        images.list_images(tmp_path / "none")


def test_tensors_hold_the_range_and_come_back_exactly() -> None:
    rgb = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    tensor = images.to_tensor(rgb)
    assert tensor.shape == (1, 3, 16, 16)
    assert (tensor.min(), tensor.max()) == (-1, 1)
    np.testing.assert_array_equal(images.to_rgb(tensor)[0], rgb)
    assert images.to_rgb(images.to_tensor(np.stack([rgb, rgb])) * 3).max() == 255


def test_resize_takes_area_means_when_shrinking_and_cubic_when_enlarging() -> None:
    board = np.indices((8, 8)).sum(0) % 2 * np.uint8(200)
    board = np.repeat(board[..., None], 3, -1).astype(np.uint8)
    assert np.all(images.resize(board, (4, 4)) == 100)
    np.testing.assert_array_equal(images.resize(board, (12, 16)), cv2.resize(board, (12, 16), interpolation=cv2.INTER_CUBIC))


def test_contact_sheet_places_pictures_without_stretching() -> None:
    red, wide = np.full((10, 10, 3), RED, np.uint8), np.zeros((10, 20, 3), np.uint8)
    sheet = images.contact_sheet([red, wide, red], columns=2, cell=20, gap=2)
    assert sheet.shape == (42, 42, 3)
    assert np.all(sheet[:20, :20] == RED)
    assert np.all(sheet[5:15, 22:42] == 0)
    assert np.all(sheet[0:5, 22:42] == 255)
    assert np.all(sheet[22:, 22:] == 255)
