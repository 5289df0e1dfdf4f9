import numpy as np
import pytest

from stylekit.errors import DataError, ImageError
from stylekit.images import write_image
from stylekit.metrics.folder import PictureFolder


@pytest.fixture
def folder(tmp_path):
    for name, shape in (
        ("a.png", (20, 20)),
        ("sub/b.v2.jpg", (51, 50)),
        ("c.png", (20, 30)),
        ("d.png", (8, 8)),
        ("d.webp", (8, 8)),
    ):
        write_image(tmp_path / name, np.zeros((*shape, 3), np.uint8))
    (tmp_path / "e.png").write_bytes(b"no picture")
    return PictureFolder(tmp_path)


def test_a_picture_is_found_by_the_whole_stem_of_its_crop_wherever_it_lies(folder):
    assert folder.read("a").shape == (20, 20, 3)
    assert folder.read("b.v2").shape == (51, 50, 3)
    folder.check(["a", "b.v2"])


@pytest.mark.parametrize(
    ("stem", "said"),
    [
        ("b", "no pictures named b"),
        ("c", r"c\.png is not square, .* but 30x20"),
        ("d", r"2 pictures named d: .*d\.png and .*d\.webp"),
        ("e", r"e\.png is not a JPEG"),
    ],
)
def test_a_picture_that_cannot_be_measured_is_refused(folder, stem, said):
    with pytest.raises(ImageError, match=said):
        folder.read(stem)
    with pytest.raises(DataError, match="no usable picture of 1 of the 2 photographs"):
        folder.check(["a", stem])


def test_everything_that_is_wrong_is_said_in_one_error(folder):
    with pytest.raises(
        DataError, match=r"of 5 of the 6 photographs: no picture of b, f; .*c\.png .*; .* named d.*; .*e\.png"
    ) as error:
        folder.check(["a", "b", "c", "d", "e", "f"])
    assert "stylekit compare --write-photos" in error.value.hint
