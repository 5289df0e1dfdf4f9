"""KID of several extractors as one figure: each in shares of what the photographs have, so that none outweighs the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from stylekit.errors import DataError
from stylekit.metrics.kid import kid_over_persons
from stylekit.metrics.persons import Interval, Resampling, interval_of
from stylekit.metrics.sets import Features


@dataclass(frozen=True)
class RelativeKid:
    """KID of one set of stylized photographs.

    Attributes:
        value: Mean over the extractors of KID in shares of the photographs' own: 1 is the photographs as they are, 0 the style.
        low: Lower end of its 95% interval over persons (`interval_of`).
        high: Its upper end.
        kids: KID of every extractor, not scaled.
        intervals: Their 95% intervals, not scaled.
    """

    value: float
    low: float
    high: float
    kids: dict[str, float]
    intervals: dict[str, Interval]


class PhotographsKid:
    """KID of the photographs themselves, by which that of whatever is made of them is divided, draw by draw.

    The same persons are drawn for all extractors, before and after: what a draw of other people moves in both cancels out.
    A KID of the photographs that is near 0 or below it, as that of photographs which lie no farther from the style than chance
    allows, would make any share of it; its standard deviation over persons takes its place, in every draw where it is larger.

    Args:
        reference: Features [M, D] of the cartoons by extractor.
        photos: Features [N, D] of the photographs by extractor.
        resampling: The draws of persons.

    Raises:
        TooFewError: If a set has fewer than four pictures.
        DataError: If features are not finite, or of different widths, or the photographs' KID is 0 whoever is drawn.
    """

    def __init__(self, reference: Mapping[str, Features], photos: Mapping[str, Features], resampling: Resampling) -> None:
        self._reference = reference
        self._every = resampling.with_everyone()
        self._scales = {}
        for name, features in photos.items():
            draws = kid_over_persons(reference[name], features, self._every)
            scale = np.maximum(draws, draws[1:].std(ddof=1))
            if not (scale > 0).all():
                raise DataError(f"By {name} the photographs lie no farther from the cartoons than these from each other.")
            self._scales[name] = scale

    def relative(self, features: Mapping[str, Features]) -> RelativeKid:
        """Return the KID of what was made of the photographs.

        Args:
            features: Features [N, D] by extractor, in the order of the photographs.

        Raises:
            DataError: If features are not finite, or of different widths.
        """
        draws = {name: kid_over_persons(self._reference[name], features[name], self._every) for name in self._scales}
        shares = np.mean([draws[name] / scale for name, scale in self._scales.items()], axis=0)
        return RelativeKid(
            float(shares[0]),
            *interval_of(shares[1:], float(shares[0])),
            kids={name: float(each[0]) for name, each in draws.items()},
            intervals={name: interval_of(each[1:], float(each[0])) for name, each in draws.items()},
        )
