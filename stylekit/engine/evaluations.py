"""`evals.jsonl`: what a run measured of itself while it trained, one line an evaluation, and what follows from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stylekit.config.schema import TrainRecipe
from stylekit.engine.checkpoint import best_checkpoint, describe_checkpoint
from stylekit.paths import atomic_write_text

EVALS_FILE = "evals.jsonl"

PLATEAU = 4
"""So many evaluations in a row without a noticeably better one are a plateau."""

NOTICEABLE = 0.5
"""What makes a figure noticeably lower, in spreads over persons: less is chance, as every evaluation sees the same few people."""

_SPREADS_IN_INTERVAL = 2 * 1.96  # of a normal distribution, in its 95% interval


class Evaluation(BaseModel):
    """One line of `evals.jsonl`.

    Attributes:
        step: Steps done.
        images_seen: Photographs seen by then.
        kid_relative: KID of all extractors in shares of the photographs' own, their mean (`metrics.relative_kid`): what chooses.
        kid_relative_low: Lower end of its 95% interval over persons.
        kid_relative_high: Upper end.
        kid_x1000: KID of all held-out pictures at once by the leading extractor, times 1000.
        kid_x1000_low: Lower end of its 95% interval over persons.
        kid_x1000_high: Upper end.
        id_centred: Mean centred cosine of the person's face before and after.
        id_recognised: How often the nearest photograph is of the same person, among that one's and 14 of strangers.
        neighbour_coverage: How much of the cartoons the pictures take after (`metrics.manifold`), by the leading extractor.
        teacher_levels: Of a student, the mean absolute difference from its teacher's pictures, in 8-bit levels.
        kids_x1000: KID by every extractor, times 1000.
        extractor: The leading one, resize included.
        embedder: What ID was taken with.
        conditions: Digest of everything two evaluations must share to be compared: networks, people, cartoons, sizes.
        above_floor: Whether the people are recognised, and the pictures various, as the protocol demands.
        best: Whether it was the best so far.
    """

    model_config = ConfigDict(frozen=True, populate_by_name=True, serialize_by_alias=True)

    step: int
    images_seen: int
    kid_relative: float = Field(alias="metric/kid_relative", allow_inf_nan=False)
    kid_relative_low: float = Field(alias="metric/kid_relative_low")
    kid_relative_high: float = Field(alias="metric/kid_relative_high")
    kid_x1000: float = Field(alias="metric/kid_x1000", allow_inf_nan=False)
    kid_x1000_low: float = Field(alias="metric/kid_x1000_low")
    kid_x1000_high: float = Field(alias="metric/kid_x1000_high")
    id_centred: float = Field(alias="metric/id_centred")
    id_recognised: float = Field(alias="metric/id_recognised")
    neighbour_coverage: float = Field(alias="metric/neighbour_coverage")
    teacher_levels: float | None = Field(None, alias="metric/teacher_levels")
    kids_x1000: dict[str, float]
    extractor: str
    embedder: str
    conditions: str
    above_floor: bool
    best: bool = False

    @property
    def spread(self) -> float:
        """Standard deviation of `kid_relative` over persons."""
        return (self.kid_relative_high - self.kid_relative_low) / _SPREADS_IN_INTERVAL

    def metrics(self) -> dict[str, float]:
        """Return the figures by the names they have in the file."""
        return {name: value for name, value in self.model_dump(exclude_none=True).items() if name.startswith("metric/")}

    def line(self) -> str:
        """Return it as one line of the file."""
        return self.model_dump_json(exclude_none=True) + "\n"


@dataclass(frozen=True)
class Standing:
    """What a run's evaluations come to.

    Attributes:
        best: The one of the lowest `kid_relative` of those above the floors; None where there is none.
        noticed: The last one that was noticeably better than those before it.
        stale: How many followed it.
    """

    best: Evaluation | None = None
    noticed: Evaluation | None = None
    stale: int = 0

    def after(self, evaluation: Evaluation) -> Standing:
        """Return the standing after one more evaluation; the count begins with the first that is above the floors."""
        better = evaluation.above_floor and (self.best is None or evaluation.kid_relative < self.best.kid_relative)
        best = evaluation if better else self.best
        mark = self.noticed
        if better and (mark is None or evaluation.kid_relative < mark.kid_relative - NOTICEABLE * mark.spread):
            return Standing(best, evaluation, 0)
        return Standing(best, mark, self.stale + (mark is not None))

    def ends(self, train: TrainRecipe) -> bool:
        """Tell whether training ends here by `train.patience`."""
        return 0 < train.patience <= self.stale and train.eval_every > 0 and train.engine == "torch"


def standing(evaluations: Iterable[Evaluation]) -> Standing:
    """Return what evaluations, in order, come to; only those count that compare with the last."""
    told = list(evaluations)
    found = Standing()
    for evaluation in told:
        if evaluation.conditions == told[-1].conditions:
            found = found.after(evaluation)
    return found


def read_evaluations(run: Path) -> list[Evaluation]:
    """Return a run's evaluations in order; a line that is damaged, as a kill may leave the last, is passed over."""
    file = run / EVALS_FILE
    found: list[Evaluation] = []
    for line in file.read_text("utf-8", errors="replace").splitlines() if file.is_file() else ():
        try:
            found.append(Evaluation.model_validate_json(line))
        except ValidationError:
            continue
    return found


def add_evaluation(run: Path, evaluation: Evaluation) -> None:
    """Append one line."""
    with (run / EVALS_FILE).open("a", encoding="utf-8") as stream:
        stream.write(evaluation.line())


def drop_evaluations_after(run: Path, step: int) -> None:
    """Leave the evaluations up to a step, of a run that goes on from there."""
    file = run / EVALS_FILE
    if file.is_file():
        kept = [evaluation.line() for evaluation in read_evaluations(run) if evaluation.step <= step]
        atomic_write_text(file, "".join(kept))


def is_due(train: TrainRecipe, step: int) -> bool:
    """Tell whether the weights after so many steps are to be measured: every `eval_every`, and the last."""
    return train.eval_every > 0 and step > 0 and (step % train.eval_every == 0 or step == train.max_steps)


def is_over(run: Path, train: TrainRecipe, step: int) -> bool:
    """Tell whether a run that stands at a step is finished: that was its last, or `train.patience` ended it there."""
    told = (evaluation for evaluation in read_evaluations(run) if evaluation.step <= step)
    return step >= train.max_steps or standing(told).ends(train)


def name_step(checkpoint: Path) -> str:
    """Return which step a checkpoint holds, in words: `step 4500, the best of 9 evaluations`, or `step 4500`.

    Raises:
        CheckpointError: If the checkpoint is damaged.
    """
    step, run = describe_checkpoint(checkpoint).step, checkpoint.parent.parent
    best = best_checkpoint(run)
    count = len(read_evaluations(run))
    if best is None or not count or describe_checkpoint(best).step != step:
        return f"step {step}"
    return f"step {step}, the best of {count} evaluation{'s' if count > 1 else ''}"
