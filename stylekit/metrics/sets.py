"""What every comparison of two sets of feature vectors asks of them."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from stylekit.errors import DataError, TooFewError

SMALLEST_SET = 4  # KID draws subsets of half a set, and an unbiased estimate takes two pictures

Features: TypeAlias = NDArray[np.floating]
"""Feature vectors [N, D], one row a picture."""
Floats: TypeAlias = NDArray[np.float64]


def checked_sets(reference: Features, features: Features) -> tuple[Floats, Floats]:
    """Return two sets as float64, in C order, once they can be compared.

    Args:
        reference: Features [M, D] of the reference cartoons.
        features: Features [N, D] of the pictures measured.

    Raises:
        TooFewError: If a set has fewer than four pictures.
        DataError: If a set is no table of finite numbers, or the two have different widths.
    """
    found = []
    for name, each in (("reference", reference), ("measured", features)):
        values = np.ascontiguousarray(each, np.float64)
        if values.ndim != 2:
            raise DataError(f"Features of the {name} set have {values.ndim} axes instead of 2.")
        if len(values) < SMALLEST_SET:
            raise TooFewError(
                f"A set of pictures needs at least {SMALLEST_SET} of them, and the {name} set has {len(values)}.",
                "Add more pictures.",
            )
        if bad := int((~np.isfinite(values)).any(axis=1).sum()):
            raise DataError(
                f"Features of the {name} set are not finite for {bad} of its {len(values)} pictures.",
                "Look at these pictures, and check the network's weights with stylekit assets ls --verify.",
            )
        found.append(values)
    if found[0].shape[1] != found[1].shape[1]:
        raise DataError(
            f"Features of the reference set have {found[0].shape[1]} numbers and those of the measured set {found[1].shape[1]}.",
            "Take both with one extractor.",
        )
    return found[0], found[1]
