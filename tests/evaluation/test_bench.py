from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from stylekit.assets import Resolved
from stylekit.config.schema import EvalRecipe
from stylekit.data.manifest import read_manifest, write_manifest
from stylekit.errors import DataError, ImageError
from stylekit.evaluation import bench as bench_module
from stylekit.evaluation.bench import Bench, pictures_of_folder, readable, square
from stylekit.faces.align import template_points
from stylekit.images import read_rgb, resize, write_image
from stylekit.metrics.measure import Kept
from stylekit.metrics.protocol import load_protocol, read_cartoons, read_photographs
from tests.evaluation.test_evaluate import FIVE, make_workspace

ASSET = Resolved(name="fake", role="fid-features", path=None, source="x", sha256="0" * 64, licence="MIT", attribution="")
SIZE = 16


class Colours:
    """A small stand-in of an extractor, an embedder or a gauge: a fixed projection of the picture's pixels."""

    def __init__(self, array, width, seed):
        self.array, self.asset, self.seen, self.shapes = array, ASSET, 0, set()
        self.label = array.partition("/")[2]
        self.embedder = SimpleNamespace(name=self.label, label=f"{self.label}@crop")
        self.projection = np.random.default_rng(seed).normal(size=(SIZE * SIZE * 3, width)) / 100
        self.key = f"{array} {seed}"

    def __call__(self, batch):
        self.seen += len(batch.pictures)
        self.shapes.add(batch.pictures.shape[1:])
        rows = [np.tanh(picture.reshape(-1) / 255 @ self.projection) for picture in batch.pictures]
        return {self.array: np.asarray(rows, np.float32)}


@pytest.fixture
def workspace(tmp_path):
    return make_workspace(tmp_path)


def open_at(workspace, **changes):
    rules = load_protocol("own-v1").model_copy(update={"size": SIZE, "resamples": 50})
    others, held_out = read_photographs(workspace.photos, rules)
    given = {
        "features": [Colours("features/tiny", 6, 0)],
        "identities": [Colours("embedding/tiny-face", 5, 1)],
        "settings": EvalRecipe(subsets=5),
        "kept": Kept(workspace.root / "kept"),
    }
    crops = (readable(held_out, 4), readable(read_cartoons(workspace.style("blobs")), 4), readable(others, 1))
    return Bench(rules, "blobs", *crops, **(given | changes))


def darker(crops, indices):
    return [crop // 2 for crop in crops]


def test_every_batch_size_gives_the_same_figures_and_intervals(workspace):
    found = []
    for size in (1, 3, 16):
        bench = open_at(workspace, batch_size=size, kept=Kept(workspace.root / f"kept{size}"))
        found.append(bench.figures(bench.measure(darker, "darker", "darker")))
    assert len(found[0].values) > 12
    for other in found[1:]:
        assert other.values == pytest.approx(found[0].values, rel=1e-6, abs=1e-9)
        assert other.intervals.keys() == found[0].intervals.keys()
        assert all(other.intervals[name] == pytest.approx(found[0].intervals[name], rel=1e-6) for name in other.intervals)


def test_the_photographs_are_themselves_and_others_are_not(workspace):
    bench = open_at(workspace)
    photo, dark = bench.figures(bench.photo), bench.figures(bench.measure(darker, "darker", "darker"))
    assert photo.values["id_centred/tiny-face@crop/n6"] == pytest.approx(1)
    assert photo.intervals["id_rank_1/tiny-face@crop/n6"] == pytest.approx((0.51, 1), abs=1e-3)  # of four persons
    assert dark.values["id_l2/tiny-face@crop/n6"] > 0 == pytest.approx(photo.values["id_l2/tiny-face@crop/n6"], abs=1e-6)
    assert dark.pictures["id_l2/tiny-face@crop"].shape == (6,)
    assert dark.values["id_l2/tiny-face@crop/n6"] == pytest.approx(dark.pictures["id_l2/tiny-face@crop"].mean())
    low, high = dark.intervals["id_l2/tiny-face@crop/n6"]
    assert low < dark.values["id_l2/tiny-face@crop/n6"] < high


def test_paired_difference_is_that_of_the_rows(workspace):
    bench = open_at(workspace)
    rows = {"photo": bench.photo, "dark": bench.measure(darker, "darker", "darker")}
    kid = {name: bench.figures(row).values["kid_x1000_all/tiny/n6"] for name, row in rows.items()}
    found = bench.paired(rows["dark"], rows["photo"])
    assert found.value == pytest.approx(kid["dark"] - kid["photo"])
    assert found.low < found.value < found.high
    same = bench.paired(rows["photo"], rows["photo"])
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_pictures_of_every_size_are_measured_at_the_protocols(workspace):
    photo = workspace.photos / "cropped/e1.png"
    write_image(photo, resize(read_rgb(photo), (48, 48)))
    gauge = Colours("features/tiny", 6, 0)
    bench = open_at(workspace, features=[gauge])
    found = bench.measure(
        lambda crops, indices: [square(crop, 24 + index) for crop, index in zip(crops, indices, strict=True)], None, "x"
    )
    assert len(found["features/tiny"]) == 6
    assert gauge.shapes == {(SIZE, SIZE, 3)}
    assert bench.photos.landmarks(0, 64) == pytest.approx(FIVE)
    assert bench.photos.landmarks(1, 64) == pytest.approx((FIVE + 0.5) * 64 / 48 - 0.5, abs=1e-4)
    assert bench.cartoons.landmarks(0, 64) == pytest.approx(template_points("dctnet", 64), abs=1e-4)


def test_a_row_is_measured_once_and_anew_where_a_photograph_or_its_key_changed(workspace):
    def seen(key="darker"):
        gauge = Colours("features/tiny", 6, 0)
        open_at(workspace, features=[gauge]).measure(darker, key, "darker")
        return gauge.seen

    assert [seen(), seen(), seen("other"), seen()] == [6, 0, 6, 0]
    photo = workspace.photos / "cropped/e1.png"
    write_image(photo, 255 - read_rgb(photo))
    assert [seen(), seen()] == [6, 0]


def test_a_row_is_measured_anew_where_landmarks_changed(workspace):
    def seen():
        gauge = Colours("features/tiny", 6, 0)
        open_at(workspace, features=[gauge]).measure(darker, "darker", "darker")
        return gauge.seen

    manifest = workspace.photos / "manifest.jsonl"
    lines = read_manifest(manifest)
    moved = [[x + 1, y] for x, y in next(line.landmarks_5 for line in lines if line.split == "eval")]
    counts = [seen(), seen()]
    write_manifest(manifest, [line.model_copy(update={"landmarks_5": moved}) if line.split == "eval" else line for line in lines])
    assert [*counts, seen(), seen()] == [6, 0, 6, 0]


def test_a_killed_measurement_goes_on_where_it_was(workspace, monkeypatch):
    monkeypatch.setattr(bench_module, "CHUNK", 2)

    class Killed(Colours):
        def __call__(self, batch):
            if self.seen == 4:
                raise KeyboardInterrupt
            return super().__call__(batch)

    with pytest.raises(KeyboardInterrupt):
        open_at(workspace, features=[Killed("features/tiny", 6, 0)]).measure(darker, "darker", "darker")
    gauge = Colours("features/tiny", 6, 0)
    found = open_at(workspace, features=[gauge]).measure(darker, "darker", "darker")
    assert gauge.seen == 2
    whole = open_at(workspace, kept=Kept(workspace.root / "other")).measure(darker, "darker", "darker")
    assert np.array_equal(found["features/tiny"], whole["features/tiny"])


def test_another_number_of_pictures_is_refused(workspace):
    with pytest.raises(DataError, match="5 pictures were made of 6 photographs"):
        open_at(workspace).measure(lambda crops, indices: list(crops)[:-1], None, "short")


def test_a_network_whose_features_are_not_finite_is_named_with_its_row(workspace):
    class Broken(Colours):
        def __call__(self, batch):
            found = super().__call__(batch)
            found[self.array][-1] = np.nan
            return found

    bench = open_at(workspace, features=[Broken("features/tiny", 6, 0)])
    with pytest.raises(DataError, match=r"stylized: features/tiny of cropped/e5\.png is not finite"):
        bench.measure(darker, None, "stylized")


def folder_of(workspace, names):
    folder = workspace.root / "theirs"
    for index, name in enumerate(names):
        write_image(folder / name, np.full((20, 20, 3), 10 * index, np.uint8))
    return folder


def test_a_folders_pictures_go_with_their_photographs_by_name(workspace):
    bench = open_at(workspace)
    folder = folder_of(workspace, [f"e{i}.png" for i in (3, 1, 0, 2)] + ["sub/e5.jpg", "e4.webp", "someone-else.png"])
    make, key = pictures_of_folder(folder, bench.photos)
    made = bench.pictures(make, [0, 1, 2, 3])
    assert [int(picture[0, 0, 0]) for picture in made] == [20, 10, 30, 0]
    assert pictures_of_folder(folder, bench.photos)[1] == key
    write_image(folder / "e1.png", np.full((20, 20, 3), 99, np.uint8))
    assert pictures_of_folder(folder, bench.photos)[1] != key


def test_a_folders_picture_named_as_the_photograph_instead_of_its_crop_is_missing(workspace):
    crops = open_at(workspace).photos
    renamed = replace(
        crops, lines=tuple(line.model_copy(update={"input": f"selfies/IMG_{i}.jpg"}) for i, line in enumerate(crops.lines))
    )
    with pytest.raises(DataError, match=r"of 6 of the 6 photographs: no picture of e0, e1, e2, e3, e4, e5\."):
        pictures_of_folder(folder_of(workspace, [f"IMG_{i}.png" for i in range(6)]), renamed)


def test_everything_wrong_with_a_folders_pictures_is_said_at_once(workspace):
    folder = folder_of(workspace, ["e0.png", "e0.webp", "e2.png", "e3.png", "e4.png"])
    (folder / "e3.png").write_bytes(b"no picture")
    write_image(folder / "e4.png", np.zeros((20, 30, 3), np.uint8))
    with pytest.raises(DataError, match="of 5 of the 6 photographs: no picture of e1, e5;") as found:
        pictures_of_folder(folder, open_at(workspace).photos)
    for said in ("2 pictures named e0", "e0.png and", "e3.png is not a JPEG", "e4.png is not square", "30x20"):
        assert said in found.value.message
    with pytest.raises(ImageError, match="not a folder"):
        pictures_of_folder(workspace.root / "nowhere", open_at(workspace).photos)


def test_a_folders_pictures_keep_their_own_size_and_may_be_square_to_within_a_fiftieth(workspace):
    folder = folder_of(workspace, [f"e{i}.png" for i in range(6)])
    write_image(folder / "e2.png", np.zeros((200, 203, 3), np.uint8))
    make, _ = pictures_of_folder(folder, open_at(workspace).photos)
    assert make([None], [2])[0].shape == (200, 203, 3)


def test_the_digest_of_the_held_out_photographs_is_of_what_was_measured(workspace):
    def digest():
        return open_at(workspace).conditions().held_out_sha256

    before = digest()
    manifest = workspace.photos / "manifest.jsonl"
    lines = read_manifest(manifest)
    write_manifest(manifest, lines[::-1])
    assert digest() == before
    moved = [[x + 2, y] for x, y in lines[0].landmarks_5]
    write_manifest(manifest, [lines[0].model_copy(update={"landmarks_5": moved}), *lines[1:]])
    assert digest() != before
    write_manifest(manifest, lines)
    photo = workspace.photos / "cropped/e1.png"
    pixels = read_rgb(photo)
    write_image(photo, 255 - pixels)
    assert digest() != before
    write_image(photo, pixels)
    assert digest() == before
    (workspace.photos / "cropped/e2.png").write_bytes(b"not a picture")
    assert digest() != before


def test_skipped_crops_are_listed_once(workspace):
    (workspace.photos / "cropped/e2.png").write_bytes(b"not a picture")
    (workspace.style("blobs") / "cartoon/3.png").unlink()
    bench = open_at(workspace)
    bench.figures(bench.photo)
    assert [each.file for each in bench.skipped] == ["cropped/e2.png", "cartoon/3.png"]
    conditions = bench.conditions()
    assert (conditions.n, conditions.reference_n, conditions.persons) == (5, 7, 3)
