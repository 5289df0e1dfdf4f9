"""From where on a data set is good enough: every threshold of the report's advice. They reject nothing."""

from __future__ import annotations

from stylekit.data.manifest import Kind

STAGES: dict[Kind, tuple[tuple[int, str], ...]] = {
    "cartoon": (
        (0, "too few for a first try"),
        (50, "enough for a first try"),
        (200, "enough to train a style"),
        (5_000, "as many as people pick for a published style"),
    ),
    "photo": (
        (0, "too few for a first try"),
        (50, "enough for a first try"),
        (1_000, "enough to train a style"),
        (10_000, "as many as the published styles were trained on"),
    ),
}
"""From how many usable pictures on a set is enough for what.

DCT-Net takes about 100 drawings, calibrates a generator on them and trains on 10,000 photographs and as many cartoons; who
repeats it picks 5,000 to 10,000 cartoons by hand (LeslieZhoa/DCT-NET.Pytorch, issue 6). photo2cartoon's authors answer 200 for
each class of people (issue 27). The demo makes do with 240 cartoons and some 60 photographs.
"""

ENOUGH = 2
"""The stage that the headline counts up to."""

FEW = 20
"""Below so many pictures a set is told to grow, not to be balanced."""

SKIN_GROUPS = (("light-skinned", 0, 2), ("medium-skinned", 2, 4), ("dark-skinned", 4, 6))
"""Which of the six classes of `skin_tone`, from and to, make up a group."""

SKIN_SHARE = 0.1
"""Least share of each group of skin tones."""

FRONTAL_DEG = 15.0
"""A head turned less is frontal."""

FRONTAL_SHARE = 0.3
"""Least share of frontal photographs."""

TURNED_SHARE = 0.1
"""Least share of photographs turned to the left, and of those turned to the right."""

GLASSES = 0.5
"""From this score on a face counts as wearing glasses."""

GLASSES_SHARE = 0.05
"""Least share with glasses."""

GENDER_SHARE = 0.3
"""Least share of women and of men, where prompts name them."""

AGE_SHARE = 0.1
"""Least share of each age, where prompts name it."""

PERSON_SHARE = 0.1
"""Largest share of one person's photographs."""

HELD_OUT_PERSONS = 10
"""Fewest persons held out, for figures that mean something."""

ENLARGED = 1.5
"""A face enlarged more than so many times to fill its crop is soft."""

ENLARGED_SHARE = 0.2
"""Largest share of such faces."""

DUPLICATE_SHARE = 0.2
"""From this share of near-duplicates on, the source repeats itself."""

LEFT_OUT_SHARE = 0.4
"""Above this share left out, the limits or the source deserve a look."""

MOVED = 0.1
"""Largest median of a pair's landmark shift, in eye distances."""

LIKENESS = 0.3
"""Least median of a pair's likeness."""
