"""What a study keeps on disk: `study.json`, one file of trials for each rater, `votes.jsonl`."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Question = Literal["pref_a", "pref_b"]
"""`pref_a`: which picture is better stylized; `pref_b`: which keeps the person better."""

QUESTIONS: tuple[Question, ...] = ("pref_a", "pref_b")
Choice = Literal["left", "right"]
RaterKind = Literal["person", "model"]
Role = Literal["pair", "repeat", "control"]
Rater = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=40, pattern=r"^[\w .,'@+-]+$")]
"""What a rater is called: letters, digits, blanks and a few signs."""

PictureId = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
TrialId = Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]


def rater_key(rater: str) -> str:
    """Return what tells raters apart: their names, where capitals make no difference."""
    return rater.casefold()


class Record(BaseModel):
    """A part of a study: frozen, and refusing what it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Entry(Record):
    """One of the methods that are compared.

    Attributes:
        label: How the result calls it.
        source: What the user named.
        digest: SHA-256 of a network's weights file, or of all pictures of a folder.
    """

    label: str
    kind: Literal["run", "style", "folder"]
    source: str
    digest: str


class Photograph(Record):
    """One photograph and what every entry made of it.

    Attributes:
        file: The crop, as the manifest names it.
        group: Who it shows; persons that may be the same share it.
        sha256: Digest of the crop's pixels, as `stylekit.metrics.measure.crop_digest` takes it.
        picture: The photograph itself.
        pictures: One for each entry, in their order.
    """

    file: str
    group: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    picture: PictureId
    pictures: tuple[PictureId, ...]


class Skipped(Record):
    """A photograph left out, and why."""

    file: str
    reason: str


class Study(Record):
    """`study.json`, version 1. Pictures lie in `pictures/<id>.png`; the ids tell nothing of what they show.

    Attributes:
        style: Whose cartoons say what the style is; None where there are none.
        protocol: The protocol that says which photographs are held out.
        photographs_manifest_sha256: Digest of the manifest that the photographs come from.
        size_px: Side of every picture.
        pairs: Most pairs that one rater sees for each question.
        photos_limit: Most photographs in use, None for all.
        references: Cartoons of the style that are shown with Pref.A.
        cartoons: Other cartoons of it, for the controls of Pref.A.
    """

    format_version: Literal[1] = 1
    name: str
    created: str
    style: str | None
    questions: tuple[Question, ...]
    seed: int
    pairs: Annotated[int, Field(ge=1)]
    photos_limit: int | None
    template: str
    protocol: str
    photographs_manifest_sha256: str
    size_px: int
    entries: tuple[Entry, ...]
    photographs: tuple[Photograph, ...]
    references: tuple[PictureId, ...]
    cartoons: tuple[PictureId, ...]
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()

    def entry_of(self, picture: str) -> int | None:
        """Return the index of the entry that made a picture; None for photographs and cartoons."""
        return self._made[picture][1] if picture in self._made else None

    def photograph_of(self, picture: str) -> int | None:
        """Return the index of the photograph that an entry's picture was made of; None for photographs and cartoons."""
        return self._made[picture][0] if picture in self._made else None

    @cached_property
    def _made(self) -> dict[str, tuple[int, int]]:
        return {
            picture: (photograph, entry)
            for photograph, shown in enumerate(self.photographs)
            for entry, picture in enumerate(shown.pictures)
        }

    def picture_ids(self) -> set[str]:
        """Return the ids of all pictures."""
        made = {picture for shown in self.photographs for picture in (shown.picture, *shown.pictures)}
        return made | {*self.references, *self.cartoons}


class Trial(Record):
    """One choice between two pictures.

    Attributes:
        role: A `pair` counts for the result; a `repeat` is an earlier pair with its sides swapped; a `control` has an obvious
            answer.
        photograph: The photograph shown beside them, with Pref.B.
        of: The trial that a repeat repeats.
        expected: The obvious answer of a control.
    """

    id: TrialId
    question: Question
    role: Role
    left: PictureId
    right: PictureId
    photograph: PictureId | None = None
    of: TrialId | None = None
    expected: Choice | None = None

    def picture(self, choice: Choice) -> str:
        """Return the picture on one side."""
        return self.left if choice == "left" else self.right


class Plan(Record):
    """The trials of one rater, or of one exported pack, in order; written once, so that no later change of the drawing counts."""

    rater: str
    trials: tuple[Trial, ...]


class Vote(Record):
    """One line of `votes.jsonl`; the last line of a rater and trial counts.

    Attributes:
        choice: None takes the vote back.
        response_ms: From both pictures shown to the choice, where it was measured.
        at: When it was cast, UTC.
        trial: What was shown, so that a vote can be read without anything else.
    """

    rater: Rater
    kind: RaterKind
    choice: Choice | None
    response_ms: Annotated[int, Field(ge=0)] | None = None
    at: str
    trial: Trial
