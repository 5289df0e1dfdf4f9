import numpy as np
import pytest

from stylekit.errors import DataError
from stylekit.metrics.identity import identity


def embeddings(n, seed, offset=0.0):
    return np.random.default_rng(seed).normal(offset, 1, (n, 16)).astype(np.float32)


def test_known_answer_in_two_dimensions():
    photo = np.array([[2.0, 1.0], [1.0, 2.0]])
    stylized = np.array([[1.0, 2.0], [1.0, 3.0]])  # the first now lies where the second photograph does
    found = identity(photo, stylized, np.array([1.0, 1.0]), ["a", "b"])
    assert found.centred == pytest.approx((0 + 1) / 2)
    assert found.centred_deviation == pytest.approx(0.5)
    assert found.raw == pytest.approx((4 / 5 + 7 / np.sqrt(50)) / 2)
    assert found.distance == pytest.approx((np.sqrt(2) + 1) / 2)
    assert (found.rank_1, found.chance, found.strangers) == (0.5, 0.5, pytest.approx(0))


def test_equals_loops_over_pairs():
    photo, centre = embeddings(6, 0, 1.0), embeddings(1, 9, 1.0)[0]
    stylized = photo + 0.5 * embeddings(6, 1)
    persons = ["a", "a", "b", "c", "c", "c"]
    found = identity(photo, stylized, centre, persons)

    def cosine(x, y):
        return float(np.dot(x, y) / np.linalg.norm(x) / np.linalg.norm(y))

    likeness = [[cosine(s - centre, p - centre) for p in photo] for s in stylized]
    hits = [persons[int(np.argmax(row))] == persons[i] for i, row in enumerate(likeness)]
    others = [cosine(photo[i] - centre, photo[j] - centre) for i in range(6) for j in range(6) if persons[i] != persons[j]]
    assert found.centred == pytest.approx(np.mean([likeness[i][i] for i in range(6)]), rel=1e-5)
    assert found.rank_1 == pytest.approx(np.mean(hits))
    assert found.chance == pytest.approx((2 * 2 + 1 * 1 + 3 * 3) / 36)
    assert found.strangers == pytest.approx(np.mean(others), rel=1e-5, abs=1e-7)
    assert found.raw == pytest.approx(np.mean([cosine(p, s) for p, s in zip(photo, stylized, strict=True)]), rel=1e-5)


def test_photographs_against_themselves_are_perfect_and_strangers_are_not():
    photo, persons = embeddings(30, 0), [str(i) for i in range(30)]
    itself = identity(photo, photo, photo.mean(0), persons)
    assert (itself.centred, itself.rank_1, itself.distance) == (pytest.approx(1), 1.0, 0.0)
    strangers = identity(photo, embeddings(30, 1), photo.mean(0), persons)
    assert abs(strangers.centred) < 0.2
    assert strangers.rank_1 < 0.3
    assert strangers.chance == pytest.approx(1 / 30)


def test_another_photograph_of_the_same_person_counts_as_found():
    photo = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    swapped = photo[[1, 0, 2]]
    assert identity(photo, swapped, np.zeros(2), ["a", "a", "b"]).rank_1 == 1.0
    assert identity(photo, swapped, np.zeros(2), ["a", "c", "b"]).rank_1 == pytest.approx(1 / 3)


def test_each_stylized_picture_looks_for_its_photograph_and_not_the_other_way_round():
    photo, stylized = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 0.1], [1.0, 0.2]])
    assert identity(photo, stylized, np.zeros(2), ["a", "b"]).rank_1 == 0.5


def test_centring_undoes_a_common_offset_and_raw_cosine_does_not():
    photo, persons = embeddings(20, 0), [str(i) for i in range(20)]
    other = embeddings(20, 1)
    offset = np.full(16, 10.0)
    plain, moved = identity(photo, other, np.zeros(16), persons), identity(photo + offset, other + offset, offset, persons)
    assert moved.centred == pytest.approx(plain.centred, abs=1e-5)
    assert moved.rank_1 == plain.rank_1
    assert moved.raw > 0.9 > abs(plain.raw)


def test_one_person_alone_is_refused():
    with pytest.raises(DataError, match="two persons"):
        identity(embeddings(3, 0), embeddings(3, 1), np.zeros(16), ["a", "a", "a"])
