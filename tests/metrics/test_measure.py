import gc
import logging
import weakref

import numpy as np
import pytest

from stylekit.errors import DataError
from stylekit.metrics.measure import Batch, Chunk, Kept, chunk_key, join, measure, measure_batch


class Mean:
    """Mean colour of every picture, under the name of a feature, and a value that half the pictures do not have."""

    def __init__(self, key="mean-1", name="features/mean", scale=1.0):
        self.key, self.name, self.scale, self.seen = key, name, scale, 0

    def __call__(self, batch):
        self.seen += len(batch.pictures)
        means = batch.pictures.mean(axis=(1, 2)).astype(np.float32) * self.scale
        return {self.name: means, f"some/{self.name}": np.where(means[:, 0] > 100, means[:, 0], np.nan).astype(np.float32)}


def pictures(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), np.uint8)


def chunk(rgb, key="a", batch_size=2, then=lambda batch: None):
    def batches():
        for start in range(0, len(rgb), batch_size):
            part = rgb[start : start + batch_size].copy()
            batch = Batch(part, np.zeros((len(part), 5, 2)))
            then(batch)
            yield batch

    return Chunk(key, [f"{index}.png" for index in range(len(rgb))], batches)


def test_chunks_and_batches_of_any_size_give_one_set_in_order(tmp_path):
    rgb = pictures(7)
    whole = measure_batch(Batch(rgb, np.zeros((7, 5, 2))), [Mean()])
    for size in (1, 3, 16):
        heard = []
        parts = [chunk(rgb[:4], None, size), chunk(rgb[4:], None, size)]
        found = measure(parts, [Mean()], kept=Kept(tmp_path), title="x", advance=heard.append)
        assert found.keys() == whole.keys()
        assert all(np.array_equal(found[name], whole[name], equal_nan=True) for name in whole)
        assert sum(heard) == 7
    assert list(tmp_path.iterdir()) == []


def test_what_is_kept_is_not_measured_again_and_a_new_gauge_measures_alone(tmp_path):
    rgb, first, second = pictures(5), Mean(), Mean("other-1", "features/other", 2)
    found = measure([chunk(rgb)], [first], kept=Kept(tmp_path), title="x")
    both = measure([chunk(rgb)], [first, second], kept=Kept(tmp_path), title="x")
    assert (first.seen, second.seen) == (5, 5)
    assert np.array_equal(both["features/mean"], found["features/mean"])
    assert np.array_equal(both["features/other"], 2 * found["features/mean"])
    heard = []
    assert measure(
        [chunk(rgb, then=lambda _: pytest.fail("read"))], [first], kept=Kept(tmp_path), title="x", advance=heard.append
    )
    assert heard == [5]


def test_other_pictures_and_other_gauges_lie_in_other_files(tmp_path):
    kept = Kept(tmp_path)
    pairs = [("a", "b"), ("b", "a"), ("ab", ""), ("", "ab"), ('a", "b', ""), ("a", '", "b')]
    assert len({kept.path(Mean(gauge), chunk(pictures(1), key)) for gauge, key in pairs}) == len(pairs)
    measure([chunk(pictures(4), "a")], [Mean()], kept=kept, title="x")
    other = measure([chunk(pictures(4, 1), "b")], [Mean()], kept=kept, title="x")
    assert np.allclose(other["features/mean"], pictures(4, 1).mean(axis=(1, 2)))


@pytest.mark.parametrize(
    "harm", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: data.replace(b"\x42", b"\x43")]
)
def test_a_damaged_file_is_measured_anew_and_said_so(tmp_path, caplog, harm):
    kept, gauge = Kept(tmp_path), Mean()
    found = measure([chunk(pictures(5))], [gauge], kept=kept, title="x")
    path = kept.path(gauge, chunk(pictures(5)))
    harmed = harm(path.read_bytes())
    assert harmed != path.read_bytes()
    path.write_bytes(harmed)
    with caplog.at_level(logging.WARNING):
        again = measure([chunk(pictures(5))], [gauge], kept=kept, title="x")
    assert np.array_equal(again["features/mean"], found["features/mean"])
    assert f"{path} is damaged" in caplog.text
    assert gauge.seen == 10
    caplog.clear()
    measure([chunk(pictures(5))], [gauge], kept=kept, title="x")
    assert (gauge.seen, caplog.text) == (10, "")


def test_a_file_of_other_length_is_measured_anew(tmp_path, caplog):
    kept, gauge = Kept(tmp_path), Mean()
    measure([chunk(pictures(5))], [gauge], kept=kept, title="x")
    found = measure([chunk(pictures(4))], [gauge], kept=kept, title="x")
    assert len(found["features/mean"]) == 4
    assert "other pictures" in caplog.text


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_name_row_network_and_picture_and_are_not_kept(tmp_path, value):
    class Broken(Mean):
        def __call__(self, batch):
            found = super().__call__(batch)
            found["features/mean"][0, 1] = value
            return found

    with pytest.raises(DataError, match=r"stylized: features/mean of 0\.png is not finite \(3 of 5 pictures\)"):
        measure([chunk(pictures(5))], [Broken()], kept=Kept(tmp_path), title="stylized")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_batches_are_in_memory_one_at_a_time(tmp_path):
    alive = []
    most = []

    def count(batch):
        gc.collect()
        alive.append(weakref.ref(batch.pictures))
        most.append(sum(reference() is not None for reference in alive))

    measure([chunk(pictures(20), "a", 2, count)], [Mean()], kept=Kept(tmp_path), title="x")
    assert len(most) == 10
    assert max(most) <= 2  # the one at work and the one just made


def test_a_set_of_nothing_has_no_arrays():
    assert join([]) == {}


def test_everything_a_chunk_is_made_of_is_in_its_key():
    points = np.zeros((2, 5, 2))
    moved = points.copy()
    moved[1, 4, 0] = 0.0001
    keys = [
        chunk_key("photo", 64, ["a", "b"], points),
        chunk_key("darker", 64, ["a", "b"], points),
        chunk_key("photo", 32, ["a", "b"], points),
        chunk_key("photo", 64, ["a", "c"], points),
        chunk_key("photo", 64, ["b", "a"], points),
        chunk_key("photo", 64, ["a", "b"], moved),
    ]
    assert len(set(keys)) == len(keys)
    assert chunk_key("photo", 64, ["a", "b"], points.copy()) == keys[0]
