"""Whether the person is still there: face embeddings of photo and stylized, compared pair by pair."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from stylekit.errors import DataError, TooFewError
from stylekit.metrics.persons import Resampling

Floats = NDArray[np.float64]

STRANGERS = 14
"""Among so many strangers' photographs, drawn at random, a person is to be recognised: as many as `starter-v1` has."""

HIGH_RECOGNISED, LOW_RECOGNISED = 0.8, 0.5
"""One embedder above the first and another below the second disagree about the same pictures."""

_ROWS, _COLUMNS = 512, 8192  # of a tile of cosines: 16 MB in float32


@dataclass(frozen=True, eq=False)
class Identity:
    """Likeness over photo and stylized pairs. Arrays hold one value a picture, in the order of the pairs.

    Attributes:
        cosine_centred: float64 [N], cosine after the mean embedding of a reference set is taken off both; 1 is the same, 0 is
            anyone.
        cosine: float64 [N], cosine of the embeddings as they are. Of dlib's network even two strangers reach about 0.84.
        distance: float64 [N], Euclidean distance of the embeddings as they are; dlib calls below 0.6 the same person.
        nearest_is_own_person: bool [N], whether the nearest photograph of all N, by centred cosine, shows the same person.
        nearest_is_own_photo: bool [N], whether it is the very photograph; another one of the same person does not count.
        own_among_few: float64 [N], the chance that the nearest photograph shows the same person, where only those of that person
            are there and 14 of strangers, drawn at random; all of strangers, where there are fewer.
        chance: `rank_1` of picking a photograph blindly.
        strangers: Mean centred cosine over pairs of photographs of different persons, the scale's other end.
        strangers_deviation: Its standard deviation over these pairs.
    """

    cosine_centred: Floats
    cosine: Floats
    distance: Floats
    nearest_is_own_person: NDArray[np.bool_]
    nearest_is_own_photo: NDArray[np.bool_]
    own_among_few: Floats
    chance: float
    strangers: float
    strangers_deviation: float

    @property
    def centred(self) -> float:
        """Mean of `cosine_centred`: ID."""
        return float(self.cosine_centred.mean())

    @property
    def centred_deviation(self) -> float:
        """Standard deviation of `cosine_centred` over the pairs."""
        return float(self.cosine_centred.std())

    @property
    def raw(self) -> float:
        """Mean of `cosine`."""
        return float(self.cosine.mean())

    @property
    def l2(self) -> float:
        """Mean of `distance`."""
        return float(self.distance.mean())

    @property
    def rank_1(self) -> float:
        """Share of stylized pictures whose nearest photograph shows the same person; the more are measured, the lower."""
        return float(self.nearest_is_own_person.mean())

    @property
    def recognised(self) -> float:
        """Mean of `own_among_few`; unlike `rank_1` it does not depend on how many photographs are measured."""
        return float(self.own_among_few.mean())

    @property
    def rank_1_photo(self) -> float:
        """Share of stylized pictures whose nearest photograph is their own."""
        return float(self.nearest_is_own_photo.mean())

    @property
    def chance_photo(self) -> float:
        """`rank_1_photo` of picking a photograph blindly."""
        return 1 / len(self.cosine)


def identity(
    photo: NDArray[np.floating], stylized: NDArray[np.floating], centre: NDArray[np.floating], persons: Sequence[str]
) -> Identity:
    """Compare embeddings pair by pair, and each stylized picture with every photograph.

    The cosines of all pairs are never in memory at once.

    Args:
        photo: Embeddings of the photographs, [N,E].
        stylized: Embeddings of the stylized pictures, [N,E], in the same order.
        centre: Mean embedding [E] of a reference set that shares no person with these. It may come from any photographs that
            were embedded alike, such as those trained on.
        persons: Who is in each photograph, N names.

    Raises:
        DataError: If a photograph has no stylized partner, embeddings are not finite, or their lengths differ.
        TooFewError: If there are fewer than two persons.
    """
    a, b, middle = np.asarray(photo, np.float64), np.asarray(stylized, np.float64), np.asarray(centre, np.float64)
    _check(a, b, middle, len(persons))
    names, who = np.unique(np.asarray(persons, dtype=str), return_inverse=True)
    if len(names) < 2:
        raise TooFewError("Likeness needs photographs of at least two persons.", "Add photographs of more people.")
    photo_centred, stylized_centred = _unit(a - middle), _unit(b - middle)
    nearest, nearer, others = _ranked(stylized_centred, photo_centred, who)
    strangers, strangers_deviation = _strangers(photo_centred, who)
    return Identity(
        cosine_centred=_pairwise(photo_centred, stylized_centred),
        cosine=_pairwise(_unit(a), _unit(b)),
        distance=np.linalg.norm(a - b, axis=1),
        nearest_is_own_person=who[nearest] == who,
        nearest_is_own_photo=nearest == np.arange(len(who)),
        own_among_few=_none_of_few(nearer, others),
        chance=float(np.square(np.bincount(who) / len(who)).sum()),
        strangers=strangers,
        strangers_deviation=strangers_deviation,
    )


def _check(photo: Floats, stylized: Floats, centre: Floats, persons: int) -> None:
    if photo.ndim != 2 or photo.shape != stylized.shape or len(photo) != persons or centre.shape != photo.shape[1:]:
        raise DataError(
            f"Embeddings of photographs {photo.shape}, of stylized pictures {stylized.shape}, their centre {centre.shape} and "
            f"{persons} persons do not belong together.",
            "Give every photograph its stylized picture and its person, all embedded by one network.",
        )
    for name, each in (("the photographs", photo), ("the stylized pictures", stylized), ("the centre", centre[None])):
        finite = np.isfinite(each).all(axis=1)
        if not finite.all():
            raise DataError(
                f"{int((~finite).sum())} of {len(each)} embeddings of {name} are not finite, the first is number "
                f"{int(finite.argmin()) + 1}.",
                "Look at that picture and at its landmarks, and leave it out.",
            )


def _unit(vectors: Floats) -> Floats:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12))


def _pairwise(a: Floats, b: Floats) -> Floats:
    return np.asarray(np.einsum("ne,ne->n", a, b))


def _ranked(
    queries: NDArray[np.floating], gallery: NDArray[np.floating], who: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.int64], NDArray[np.int64]]:
    """Return, for each of `queries` [N,E], three integers [N]; products with `gallery` [N,E] are taken to single precision.

    The place of the largest product, how many of other persons' products reach the largest of the own person's, and how many of
    other persons there are.
    """
    queries, gallery = queries.astype(np.float32), gallery.astype(np.float32)  # twice as fast, and what networks give
    nearest, nearer = np.empty(len(queries), np.intp), np.zeros(len(queries), np.int64)
    for top in range(0, len(queries), _ROWS):
        block = slice(top, top + _ROWS)
        best = own = np.full(len(queries[block]), -np.inf, np.float32)
        for columns, products in _products(queries[block], gallery):
            place = products.argmax(axis=1)
            largest = products[np.arange(len(products)), place]
            better = largest > best
            nearest[block][better] = place[better] + columns.start
            best = np.maximum(best, largest)
            own = np.maximum(own, products.max(axis=1, initial=-np.inf, where=who[block, None] == who[columns]))
        for columns, products in _products(queries[block], gallery):
            nearer[block] += ((products >= own[:, None]) & (who[block, None] != who[columns])).sum(axis=1)
    return nearest, nearer, len(who) - np.bincount(who)[who]


def _products(queries: NDArray[np.float32], gallery: NDArray[np.float32]) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    for left in range(0, len(gallery), _COLUMNS):
        columns = slice(left, min(left + _COLUMNS, len(gallery)))
        yield columns, queries @ gallery[columns].T


def _none_of_few(nearer: NDArray[np.int64], others: NDArray[np.int64]) -> Floats:
    """Return the chance [N] that none of `nearer` among `others` is drawn, where `STRANGERS` of these are, or all if fewer.

    It is C(others - nearer, k) / C(others, k) for k draws without replacement (the hypergeometric distribution at 0).
    """
    draws = np.minimum(STRANGERS, others)
    chance = np.ones(len(others))
    for drawn in range(STRANGERS):
        left = others - drawn
        chance *= np.where(drawn < draws, np.maximum(left - nearer, 0) / np.maximum(left, 1), 1)
    return chance


def _strangers(vectors: Floats, who: NDArray[np.intp]) -> tuple[float, float]:
    """Return mean and standard deviation of the cosines of all pairs of vectors [N,E] of different persons.

    All pairs together have the sum |sum of vectors|^2 and the sum of squares |V'V|^2; each person's own are taken off.
    """
    order = np.argsort(who, kind="stable")
    each = np.split(vectors[order], np.flatnonzero(np.diff(who[order])) + 1)
    totals = np.array([_sums(own) for own in (vectors, *each)])
    pairs, first, second = totals[0] - totals[1:].sum(axis=0)
    mean = first / pairs
    return float(mean), float(np.sqrt(max(second / pairs - mean**2, 0)))


def _sums(vectors: Floats) -> tuple[float, float, float]:
    """Return the number of ordered pairs of vectors, each with itself too, and the sums of their cosines and of the squares."""
    few = len(vectors) < vectors.shape[1]
    products = vectors @ vectors.T if few else vectors.T @ vectors
    return len(vectors) ** 2, float(np.square(vectors.sum(axis=0)).sum()), float(np.square(products).sum())


def disagreements(rows: Mapping[str, Mapping[str, Identity]], resampling: Resampling) -> list[str]:
    """Say where face embedders contradict each other, one sentence each; none of them is right of itself.

    Two do if they order two rows differently by ID, each with its paired interval over persons beyond 0, or if one recognises
    the persons of a row (`recognised` above 0.8) and another does not (below 0.5).

    Args:
        rows: For each row of pictures, by name, its identity by each embedder; made from the same photographs.
        resampling: Draws over the persons of these photographs.
    """
    return [*_order(rows, resampling), *_recognition(rows)]


def _order(rows: Mapping[str, Mapping[str, Identity]], resampling: Resampling) -> list[str]:
    found = []
    for (row, own), (other_row, other) in combinations(rows.items(), 2):
        above: dict[bool, list[str]] = {True: [], False: []}
        shared = [name for name in own if name in other]
        if len({own[name].centred > other[name].centred for name in shared}) < 2:
            continue
        for name in shared:
            low, high = resampling.paired(own[name].cosine_centred, other[name].cosine_centred)
            if low > 0 or high < 0:
                above[low > 0].append(name)
        if above[True] and above[False]:
            found.append(
                f"ID puts {row} above {other_row} by {_listed(above[True])} and below it by {_listed(above[False])}, so neither "
                "order can be relied on."
            )
    return found


def _recognition(rows: Mapping[str, Mapping[str, Identity]]) -> list[str]:
    found = []
    for row, own in rows.items():
        high = [f"{name} ({one.recognised:.2f})" for name, one in own.items() if one.recognised > HIGH_RECOGNISED]
        low = [f"{name} ({one.recognised:.2f})" for name, one in own.items() if one.recognised < LOW_RECOGNISED]
        if high and low:
            found.append(
                f"The people of {row} are recognised by {_listed(high)} and not by {_listed(low)}, so the pictures must be "
                "looked at."
            )
    return found


def _listed(names: Sequence[str]) -> str:
    return " and ".join(names)
