"""Whether the person is still there: face embeddings of photo and stylized, compared pair by pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stylekit.errors import DataError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Identity:
    """Likeness over photo and stylized pairs.

    Attributes:
        centred: Mean cosine after the mean embedding of a reference set is taken off both; 1 is the same, 0 is anyone.
        centred_deviation: Its standard deviation over the pairs.
        raw: Mean cosine of the embeddings as they are. Of dlib's network even two strangers reach about 0.84.
        distance: Mean Euclidean distance of the embeddings as they are; dlib calls below 0.6 the same person.
        rank_1: Share of stylized pictures whose nearest photograph, by centred cosine, shows the same person.
        chance: `rank_1` of picking a photograph blindly.
        strangers: Mean centred cosine over pairs of photographs of different persons, the scale's other end.
    """

    centred: float
    centred_deviation: float
    raw: float
    distance: float
    rank_1: float
    chance: float
    strangers: float


def _unit(vectors: Floats) -> Floats:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12))


def identity(
    photo: NDArray[np.floating], stylized: NDArray[np.floating], centre: NDArray[np.floating], persons: Sequence[str]
) -> Identity:
    """Compare embeddings pair by pair, and each stylized picture with every photograph.

    Args:
        photo: Embeddings of the photographs, [N, D].
        stylized: Embeddings of the stylized pictures, [N, D], in the same order.
        centre: Mean embedding [D] of a reference set that shares no person with these.
        persons: Who is in each photograph, N names.

    Raises:
        DataError: If there are fewer than two persons.
    """
    who = np.asarray(persons)
    same = who[:, None] == who[None, :]
    if same.all():
        raise DataError("Likeness needs photographs of at least two persons.", "Add photographs of more people.")
    a, b = np.asarray(photo, np.float64), np.asarray(stylized, np.float64)
    photo_centred, stylized_centred = _unit(a - centre), _unit(b - centre)
    likeness = stylized_centred @ photo_centred.T
    own = np.diag(likeness)
    return Identity(
        centred=float(own.mean()),
        centred_deviation=float(own.std()),
        raw=float((_unit(a) * _unit(b)).sum(axis=1).mean()),
        distance=float(np.linalg.norm(a - b, axis=1).mean()),
        rank_1=float(same[np.arange(len(who)), likeness.argmax(axis=1)].mean()),
        chance=float(same.mean()),
        strangers=float((photo_centred @ photo_centred.T)[~same].mean()),
    )
