"""What each figure is called on a page, what it means, and which way is better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Meaning:
    """How a figure is shown.

    Attributes:
        title: Its name on a page.
        better: Which way is better; None where neither is.
        form: How a value is written, as `format` takes it.
        sentence: What it says, for a reader who never met it.
    """

    title: str
    better: Literal["lower", "higher"] | None
    form: str
    sentence: str

    @property
    def direction(self) -> str:
        """Which way is better, in words; empty where neither is."""
        return f"{self.better} is better" if self.better else ""


GLOSSARY = {
    "kid_x1000": Meaning(
        "KID x1000",
        "lower",
        ".1f",
        "How far the pictures as a whole lie from the style's cartoons. It rewards flat colour, so read it beside the likeness.",
    ),
    "kid_relative": Meaning(
        "Relative KID",
        "lower",
        ".2f",
        "KID by all extractors in shares of the photographs' own, the mean: 1 is the photographs, 0 the cartoons.",
    ),
    "fid": Meaning(
        "FID",
        "lower",
        ".1f",
        "The same question, asked by means and covariances. It compares only between sets of equal size.",
    ),
    "precision": Meaning("Precision", "higher", ".2f", "Share of the pictures that look like one of the cartoons."),
    "recall": Meaning("Recall", "higher", ".2f", "Share of the cartoons that look like one of the pictures."),
    "coverage": Meaning(
        "Coverage", "higher", ".2f", "Share of the cartoons that have a picture near them; low where all pictures look alike."
    ),
    "neighbour_coverage": Meaning(
        "Variety",
        "higher",
        ".2f",
        "How many of the cartoons the pictures take after, however far from them they lie: 0 is one picture repeated, 1 all.",
    ),
    "id_centred": Meaning(
        "Likeness (ID)",
        "higher",
        ".2f",
        "How like the person still is to a face network, the mean face taken off: 1 is the photograph, 0 a stranger.",
    ),
    "id_raw": Meaning("ID, raw cosine", "higher", ".2f", "The same without taking the mean face off, as papers print it."),
    "id_l2": Meaning(
        "ID, distance", "lower", ".2f", "Distance of the two embeddings; dlib calls one person what lies below 0.6."
    ),
    "id_recognised": Meaning(
        "Recognised",
        "higher",
        ".2f",
        "How often the nearest photograph is of the same person, among that person's and those of 14 strangers; blindly 1 in 15.",
    ),
    "id_rank_1": Meaning(
        "Rank-1",
        "higher",
        ".2f",
        "Share of the pictures whose nearest photograph, of all, shows the same person; it falls the more are measured.",
    ),
    "face_found": Meaning(
        "Face found", "higher", ".2f", "Share of the pictures in which a face detector sees a face in its place."
    ),
    "expression_eyes": Meaning(
        "Eyes", "lower", ".3f", "How much further open or closed the eyes became, in shares of an eye's width."
    ),
    "expression_mouth": Meaning("Mouth", "lower", ".3f", "How much the mouth's opening and corners moved."),
    "gaze": Meaning("Gaze", "lower", ".3f", "How far the look was turned, in eye widths."),
    "pose_deg": Meaning("Head turned, degrees", "lower", ".1f", "Angle between the directions of the head before and after."),
    "content": Meaning("Content distance", "lower", ".3f", "How much of what VGG sees in the photograph was changed."),
    "colour_shift": Meaning("Colour shift", None, ".1f", "How far colours moved on the whole (CIELAB Delta E)."),
    "ita_shift_deg": Meaning(
        "Skin tone shift, degrees", None, "+.1f", "Above 0 skin became lighter, below 0 darker (typology angle)."
    ),
    "artefact_eyes": Meaning(
        "Faults at the eyes", "lower", ".2f", "Specks and blur there beyond what the cartoons themselves show."
    ),
    "artefact_mouth": Meaning(
        "Faults at the mouth", "lower", ".2f", "Specks and blur there beyond what the cartoons themselves show."
    ),
}
"""By short name, in the order in which figures are shown."""
