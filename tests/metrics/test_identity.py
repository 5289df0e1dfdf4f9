import tracemalloc
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stylekit.errors import DataError, TooFewError
from stylekit.metrics import identity as module
from stylekit.metrics.identity import Identity, disagreements, identity
from stylekit.metrics.persons import Resampling


def embeddings(n, seed, offset=0.0):
    return np.random.default_rng(seed).normal(offset, 1, (n, 16)).astype(np.float32)


def one_by_one(n):
    return [str(i) for i in range(n)]


def test_known_answer_in_two_dimensions():
    photo = np.array([[2.0, 1.0], [1.0, 2.0]])
    stylized = np.array([[1.0, 2.0], [1.0, 3.0]])  # the first now lies where the second photograph does
    found = identity(photo, stylized, np.array([1.0, 1.0]), ["a", "b"])
    assert found.cosine_centred == pytest.approx([0, 1])
    assert (found.centred, found.centred_deviation) == (pytest.approx(0.5), pytest.approx(0.5))
    assert found.cosine == pytest.approx([4 / 5, 7 / np.sqrt(50)])
    assert found.raw == pytest.approx((4 / 5 + 7 / np.sqrt(50)) / 2)
    assert found.distance == pytest.approx([np.sqrt(2), 1])
    assert found.l2 == pytest.approx((np.sqrt(2) + 1) / 2)
    assert found.nearest_is_own_person.tolist() == found.nearest_is_own_photo.tolist() == [False, True]
    assert (found.rank_1, found.chance, found.strangers, found.strangers_deviation) == (
        0.5,
        0.5,
        pytest.approx(0),
        pytest.approx(0),
    )


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from("abcd"), min_size=2, max_size=14), st.integers(0, 1000), st.integers(1, 5), st.integers(1, 5))
def test_equals_loops_over_pairs_in_tiles_of_any_size(persons, seed, rows, columns):
    persons = [*persons, "e"]
    n = len(persons)
    photo, centre = embeddings(n, seed, 1.0), embeddings(1, seed + 1, 1.0)[0]
    stylized = photo + embeddings(n, seed + 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_ROWS", rows)
        patch.setattr(module, "_COLUMNS", columns)
        found = identity(photo, stylized, centre, persons)

    def cosine(x, y):
        return float(np.dot(x, y) / np.linalg.norm(x) / np.linalg.norm(y))

    likeness = [[cosine(s - centre, p - centre) for p in photo.astype(float)] for s in stylized.astype(float)]
    nearest = [int(np.argmax(row)) for row in likeness]
    different = [(i, j) for i in range(n) for j in range(n) if persons[i] != persons[j]]
    others = [cosine(photo[i].astype(float) - centre, photo[j].astype(float) - centre) for i, j in different]
    assert found.cosine_centred == pytest.approx([likeness[i][i] for i in range(n)], abs=1e-9)
    assert found.cosine == pytest.approx([cosine(p, s) for p, s in zip(photo, stylized, strict=True)], rel=1e-5)
    assert found.distance == pytest.approx(
        [np.sqrt(((p - s) ** 2).sum()) for p, s in zip(photo, stylized, strict=True)], rel=1e-5
    )
    assert found.nearest_is_own_photo.tolist() == [nearest[i] == i for i in range(n)]
    assert found.nearest_is_own_person.tolist() == [persons[nearest[i]] == persons[i] for i in range(n)]
    assert found.chance == pytest.approx(1 - len(different) / n**2)
    assert (found.strangers, found.strangers_deviation) == (
        pytest.approx(np.mean(others)),
        pytest.approx(np.std(others), abs=1e-7),
    )
    assert found.rank_1 == pytest.approx(np.mean([persons[nearest[i]] == persons[i] for i in range(n)]))
    assert (found.rank_1_photo, found.chance_photo) == (pytest.approx(np.mean([nearest[i] == i for i in range(n)])), 1 / n)


def chance_by_counting(likeness, persons, draws):
    """Share of all choices of so many strangers' photographs among which none reaches the nearest own one; mean over pictures."""
    shares = []
    for row, person in zip(likeness, persons, strict=True):
        own = max(c for c, other in zip(row, persons, strict=True) if other == person)
        strangers = [c for c, other in zip(row, persons, strict=True) if other != person]
        chosen = list(combinations(strangers, min(draws, len(strangers))))
        shares.append(np.mean([max(some) < own for some in chosen]))
    return shares


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from("abcd"), min_size=2, max_size=10), st.integers(0, 1000), st.integers(1, 5), st.integers(1, 12))
def test_recognition_among_few_is_that_of_all_choices_of_strangers(persons, seed, tile, draws):
    persons = [*persons, "e"]
    photo, stylized = embeddings(len(persons), seed), embeddings(len(persons), seed + 1)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("_ROWS", tile), ("_COLUMNS", tile + 1), ("STRANGERS", draws)):
            patch.setattr(module, name, value)
        found = identity(photo, stylized, np.zeros(16), persons)
    unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in (stylized, photo)]
    assert found.own_among_few == pytest.approx(chance_by_counting(unit[0] @ unit[1].T, persons, draws))
    assert found.recognised == pytest.approx(found.own_among_few.mean())


def test_recognition_does_not_depend_on_how_many_are_measured_and_rank_1_does():
    photo = embeddings(3000, 0)
    stylized = photo + 1.7 * embeddings(3000, 1)
    few, many = (identity(photo[:n], stylized[:n], np.zeros(16), one_by_one(n)) for n in (600, 3000))
    assert many.rank_1 < 0.7 * few.rank_1
    assert many.recognised == pytest.approx(few.recognised, abs=0.03)
    apart = [identity(photo[i : i + 15], stylized[i : i + 15], np.zeros(16), one_by_one(15)) for i in range(0, 3000, 15)]
    assert all(each.recognised == each.rank_1 for each in apart)
    assert many.recognised == pytest.approx(np.mean([each.recognised for each in apart]), abs=0.03)


def test_a_stranger_who_is_as_near_as_the_person_is_not_told_apart():
    photo = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    found = identity(photo, photo, np.zeros(2), ["a", "b", "c"])
    assert found.own_among_few.tolist() == [0, 0, 1]


def test_photographs_against_themselves_are_perfect():
    photo = embeddings(200, 0, 1.0)
    found = identity(photo, photo, photo.mean(0), one_by_one(200))
    assert (found.centred, found.rank_1, found.rank_1_photo, found.l2) == (pytest.approx(1), 1.0, 1.0, 0.0)
    assert found.recognised == 1


@pytest.mark.parametrize("seed", range(3))
def test_shuffled_pairs_are_strangers_and_found_by_chance(seed):
    photo = embeddings(200, seed, 1.0)
    order = np.roll(np.random.default_rng(seed).permutation(200), 1)
    found = identity(photo, photo[order] + 0.3 * embeddings(200, seed + 10), photo.mean(0), one_by_one(200))
    standard_error = found.strangers_deviation / np.sqrt(200)
    assert abs(found.centred - found.strangers) < 4 * standard_error
    assert found.strangers_deviation == pytest.approx(1 / np.sqrt(16), rel=0.1)  # of random directions in 16 dimensions
    assert found.rank_1 <= found.chance + 4 * np.sqrt(found.chance / 200)
    assert found.chance == pytest.approx(1 / 200)


def test_another_photograph_of_the_same_person_counts_for_the_person_only():
    photo = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    found = identity(photo, photo[[1, 0, 2]], np.zeros(2), ["a", "a", "b"])
    assert (found.rank_1, found.rank_1_photo) == (1.0, pytest.approx(1 / 3))
    assert identity(photo, photo[[1, 0, 2]], np.zeros(2), ["a", "c", "b"]).rank_1 == pytest.approx(1 / 3)


def test_each_stylized_picture_looks_for_its_photograph_and_not_the_other_way_round():
    photo, stylized = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 0.1], [1.0, 0.2]])
    assert identity(photo, stylized, np.zeros(2), ["a", "b"]).rank_1 == 0.5


def test_centring_undoes_a_common_offset_and_raw_cosine_does_not():
    photo, persons = embeddings(20, 0), one_by_one(20)
    other = embeddings(20, 1)
    offset = np.full(16, 10.0)
    plain, moved = identity(photo, other, np.zeros(16), persons), identity(photo + offset, other + offset, offset, persons)
    assert moved.centred == pytest.approx(plain.centred, abs=1e-5)
    assert moved.rank_1 == plain.rank_1
    assert moved.raw > 0.9 > abs(plain.raw)


def test_thousands_of_pictures_need_no_square_matrix():
    n = 4000  # whose cosines are 128 MB
    photo = embeddings(n, 0)
    tracemalloc.start()
    found = identity(photo, photo + 0.1 * embeddings(n, 1), photo.mean(0), one_by_one(n))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.rank_1 > 0.9
    assert peak < 40e6


def test_one_person_alone_is_refused():
    with pytest.raises(TooFewError, match="two persons"):
        identity(embeddings(3, 0), embeddings(3, 1), np.zeros(16), ["a", "a", "a"])


@pytest.mark.parametrize("which", ["photographs", "stylized pictures", "centre"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_embeddings_that_are_not_finite_are_said(which, value):
    photo, stylized, centre = embeddings(5, 0), embeddings(5, 1), np.zeros((1, 16))
    {"photographs": photo, "stylized pictures": stylized, "centre": centre}[which][-1, 3] = value
    n = 1 if which == "centre" else 5
    with pytest.raises(DataError, match=rf"1 of {n} embeddings of the {which} are not finite, the first is number {n}\."):
        identity(photo, stylized, centre[0], one_by_one(5))


@pytest.mark.parametrize("change", ["a photograph without partner", "a person too few", "another network", "another centre"])
def test_what_does_not_belong_together_is_refused(change):
    photo, stylized, centre, persons = embeddings(5, 0), embeddings(5, 1), np.zeros(16), one_by_one(5)
    if change == "a photograph without partner":
        stylized = stylized[:4]
    elif change == "a person too few":
        persons = persons[:4]
    elif change == "another network":
        stylized = stylized[:, :8]
    else:
        centre = np.zeros(8)
    with pytest.raises(DataError, match=r"do not belong together.*its stylized picture"):
        identity(photo, stylized, centre, persons)


def judged(likeness, recognised=0.6, n=40):
    """What an embedder may say of a row: centred cosines about `likeness`, and a share of persons found again."""
    cosines = likeness + 0.05 * np.random.default_rng(0).normal(size=n)
    hits = np.arange(n) < recognised * n
    return Identity(cosines, cosines, 1 - cosines, ~hits, ~hits, hits.astype(float), 1 / n, 0.0, 0.1)


def said(**rows):
    return disagreements(rows, Resampling(one_by_one(40), 200, 0))


def test_embedders_that_order_rows_alike_agree():
    mine, yours = {"dlib-resnet": judged(0.5), "arcface": judged(0.6)}, {"dlib-resnet": judged(0.3), "arcface": judged(0.2)}
    assert said(mine=mine, yours=yours) == []


def test_embedders_that_order_rows_the_other_way_round_are_named_once():
    mine = {"dlib-resnet": judged(0.5), "arcface": judged(0.2), "styleid": judged(0.3)}
    yours = {"dlib-resnet": judged(0.4), "arcface": judged(0.5), "styleid": judged(0.4)}
    sentence = "ID puts mine above yours by dlib-resnet and below it by arcface and styleid, so neither order can be relied on."
    assert said(mine=mine, yours=yours) == [sentence]


def test_an_order_within_the_interval_is_no_disagreement():
    noise = 0.5 * np.random.default_rng(1).normal(size=40)
    near = judged(0.4)
    near = Identity(near.cosine_centred + noise - noise.mean() - 0.01, *list(vars(near).values())[1:])
    mine, yours = {"dlib-resnet": judged(0.5), "arcface": near}, {"dlib-resnet": judged(0.3), "arcface": judged(0.4)}
    assert near.centred < judged(0.4).centred
    assert said(mine=mine, yours=yours) == []


def test_people_recognised_by_one_embedder_and_not_by_another_are_said_of_their_row():
    rows = {"run": {"dlib-resnet": judged(0.5, 0.9), "arcface": judged(0.5, 0.4), "styleid": judged(0.5, 0.7)}}
    sentence = (
        "The people of run are recognised by dlib-resnet (0.90) and not by arcface (0.40), so the pictures must be looked at."
    )
    assert said(**rows) == [sentence]
    assert said(run={"dlib-resnet": judged(0.5, 0.8), "arcface": judged(0.5, 0.4)}) == []
    assert said(run={"dlib-resnet": judged(0.5, 0.9), "arcface": judged(0.5, 0.5)}) == []


def test_an_embedder_that_one_row_lacks_is_left_out():
    mine, yours = {"dlib-resnet": judged(0.5), "arcface": judged(0.2)}, {"dlib-resnet": judged(0.4)}
    assert said(mine=mine, yours=yours) == []
