"""Near-duplicates in blocks, held against the plain comparison of all with all."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from stylekit.data.duplicates import fingerprint, near_duplicates
from stylekit.data.manifest import Generation
from stylekit.faces import identity
from stylekit.generate.dicebear import redraw
from stylekit.images import read_rgb


def repeats(crops: list[np.ndarray], embeddings: np.ndarray | None = None) -> list[int]:
    prints = [fingerprint(crop) for crop in crops]
    hashes = np.array([int.from_bytes(bits, "little") for bits, _ in prints], np.uint64)
    colours = np.array([np.frombuffer(colour, np.uint8) for _, colour in prints], np.uint8).reshape(-1, 768)
    return near_duplicates(hashes, colours, embeddings).tolist()


def one_by_one(hashes: np.ndarray, colours: np.ndarray, embeddings: np.ndarray | None) -> list[int]:
    repeated: list[int] = []
    for i in range(len(hashes)):
        pairs = ([j, i] for j in range(i) if repeated[j] < 0)
        same = (
            j
            for j, i in pairs
            if near_duplicates(*(a if a is None else a[[j, i]] for a in (hashes, colours, embeddings)))[1] == 0
        )
        repeated.append(next(same, -1))
    return repeated


def faces(count: int, originals: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fingerprints of a few pictures, each many times over: flipped by up to 9 bits, shifted by up to 4 levels."""
    random = np.random.default_rng(seed)
    source = random.integers(0, originals, count)
    hashes = random.integers(0, 2**64, originals, np.uint64)[source]
    flips = [sum(1 << int(bit) for bit in random.choice(64, random.integers(0, 6), replace=False)) for _ in range(count)]
    colours = random.integers(20, 235, (originals, 768), np.int64)[source] + random.integers(-4, 5, (count, 1))
    embeddings = random.normal(size=(originals, 128))[source] + random.normal(size=(count, 128)) * random.choice([1e-3, 0.02])
    return hashes ^ np.array(flips, np.uint64), colours.astype(np.uint8), embeddings.astype(np.float32)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("is_photo", [False, True])
def test_blocks_find_what_one_by_one_finds(seed: int, is_photo: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(identity, "_ROWS", 16)
    monkeypatch.setattr(identity, "_COLUMNS", 48)
    hashes, colours, embeddings = faces(70, 12 if seed % 2 else 60, seed)
    expected = one_by_one(hashes, colours, embeddings if is_photo else None)
    assert near_duplicates(hashes, colours, embeddings if is_photo else None).tolist() == expected
    assert any(index >= 0 for index in expected)
    assert -1 in expected


def test_recompressed_crops_repeat_the_first_and_others_do_not():
    random = np.random.default_rng(3)
    crops = [cv2.resize(random.integers(0, 255, (12, 12, 3), np.uint8), (256, 256)) for _ in range(8)]
    copies = []
    for crop in crops:
        small = cv2.resize(crop, (96, 96), interpolation=cv2.INTER_AREA)
        _, data = cv2.imencode(".jpg", cv2.resize(small, (256, 256)), [cv2.IMWRITE_JPEG_QUALITY, 60])
        copies.append(cv2.imdecode(data, cv2.IMREAD_COLOR))
    assert repeats(crops + copies) == [-1] * 8 + list(range(8))


def test_same_drawing_in_other_colours_is_kept():
    drawing = np.full((128, 128, 3), 220, np.uint8)
    cv2.circle(drawing, (64, 60), 40, (240, 190, 150), -1)
    cv2.circle(drawing, (50, 55), 6, (20, 20, 20), -1)
    cv2.rectangle(drawing, (44, 80), (84, 88), (160, 30, 30), -1)
    assert repeats([drawing, np.ascontiguousarray(drawing[..., ::-1]), drawing]) == [-1, -1, 0]


def test_embeddings_find_the_same_photograph_cut_differently():
    random = np.random.default_rng(0)
    crops = list(random.integers(0, 255, (3, 64, 64, 3), np.uint8))
    embeddings = random.normal(size=(3, 128)).astype(np.float32)
    embeddings[2] = embeddings[0] + 0.001
    assert repeats(crops) == [-1, -1, -1]
    assert repeats(crops, embeddings) == [-1, -1, 0]


def test_what_repeats_only_a_dropped_crop_is_kept():
    crops = list(np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3), np.uint8))
    embeddings = np.zeros((3, 128), np.float32)
    embeddings[:, 0] = (0.0, 0.1, 0.2)
    assert repeats(crops, embeddings) == [-1, 0, -1]


FACE: dict[str, Any] = {"skin": (225, 170, 130), "hair": (70, 40, 20), "brow": -14, "mouth": 180, "beard": False}
TRAITS = ({"skin": (165, 105, 75)}, {"hair": (165, 85, 40)}, {"brow": 14}, {"mouth": 0}, {"beard": True})


def draw(**traits: Any) -> np.ndarray:
    """A face as simple as an avatar, 512 px."""
    face = FACE | traits
    picture = np.full((512, 512, 3), 245, np.uint8)
    cv2.ellipse(picture, (256, 230), (180, 210), 0, 0, 360, face["hair"], -1, cv2.LINE_AA)
    cv2.ellipse(picture, (256, 280), (140, 180), 0, 0, 360, face["skin"], -1, cv2.LINE_AA)
    cv2.ellipse(picture, (320, 130), (130, 60), 20, 0, 360, face["hair"], -1, cv2.LINE_AA)
    cv2.ellipse(picture, (100, 400), (50, 120), 10, 0, 360, face["hair"], -1, cv2.LINE_AA)
    if face["beard"]:
        cv2.ellipse(picture, (256, 320), (136, 140), 0, 20, 160, face["hair"], -1, cv2.LINE_AA)
    for side in (-1, 1):
        cv2.circle(picture, (256 + side * 60, 240), 24, (250, 250, 250), -1, cv2.LINE_AA)
        cv2.circle(picture, (256 + side * 60, 240), 13, (40, 25, 20), -1, cv2.LINE_AA)
        ends = (256 + side * 30, 200 - face["brow"]), (256 + side * 90, 200 + face["brow"])
        cv2.line(picture, *ends, face["hair"], 16, cv2.LINE_AA)
    cv2.ellipse(picture, (256, 370), (50, 24), face["mouth"], 0, 180, (150, 50, 50), -1, cv2.LINE_AA)
    return picture


def cut(picture: np.ndarray, side: int = 256, right: float = 0.0, down: float = 0.0, scale: float = 1.0) -> np.ndarray:
    matrix = np.array([[scale, 0, 2 * right], [0, scale, 2 * down]])
    moved = cv2.warpAffine(picture, matrix, picture.shape[1::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return cv2.resize(moved, (side, side), interpolation=cv2.INTER_AREA)


def compressed(picture: np.ndarray, quality: int) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)


@pytest.mark.parametrize("trait", TRAITS, ids=lambda trait: next(iter(trait)))
def test_drawings_that_differ_in_one_trait_are_both_kept(trait: dict[str, Any]):
    assert repeats([cut(draw()), cut(draw(**trait))]) == [-1, -1]


@pytest.mark.parametrize("trait", [{}, *TRAITS], ids=lambda trait: next(iter(trait), "plain"))
def test_copies_of_a_drawing_repeat_it(trait: dict[str, Any]):
    whole = draw(**trait)
    small = cv2.resize(whole, (224, 224), interpolation=cv2.INTER_AREA)
    crop = cut(whole)
    copies = [
        *(compressed(crop, quality) for quality in (60, 75, 95)),
        cv2.resize(crop, (192, 192), interpolation=cv2.INTER_AREA),
        cut(compressed(cv2.resize(small, (512, 512), interpolation=cv2.INTER_CUBIC), 80)),
        *(cut(whole, right=right, down=down) for right, down in ((2, 0), (0, -2), (-1.5, 1))),
        compressed(cut(whole, right=-2, down=1, scale=1.02), 70),
    ]
    assert repeats([crop, *copies]) == [-1] + [0] * len(copies)


@pytest.mark.slow
def test_avatars_with_other_eyebrows_or_mouths_are_kept():
    def avatar(**options: Any) -> np.ndarray:
        made = {"size": 512, "hairColor": ["2c1b18"], "skinColor": ["b98e6a"], "hair": ["bun"], "beardProbability": 0} | options
        data = redraw(Generation(engine="dicebear", model="toon-head", seed=1, options=made))
        return cv2.resize(read_rgb(data)[:420, 46:466], (256, 256), interpolation=cv2.INTER_AREA)

    plain = {"eyes": ["wide"], "mouth": ["smile"], "eyebrows": ["neutral"]}
    others = ({"eyebrows": ["angry"]}, {"mouth": ["laugh"]}, {"eyes": ["wink"]}, {"skinColor": ["a36b4f"]})
    assert repeats([avatar(**plain), *(avatar(**plain | other) for other in others)]) == [-1] * 5


def test_no_crops_have_no_duplicates():
    assert repeats([]) == []
