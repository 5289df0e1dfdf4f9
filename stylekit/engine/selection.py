"""The best step of a run: the running mean of the generator is measured while it trains, on people whom it never sees.

KID alone would choose a network that paints the same cartoon for everybody, so a step counts only where people are still
recognised, and the pictures as various, as the protocol demands. Of these the one of the lowest KID is kept as
`checkpoints/best`: KID by all extractors of the recipe together, since a single one may stand still, and choose by chance, while
the pictures still go towards the style.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from stylekit.config.schema import Recipe, TrainRecipe
from stylekit.data.manifest import ManifestLine
from stylekit.data.shards import photo_set
from stylekit.engine.checkpoint import (
    AssetUse,
    Meta,
    best_checkpoint,
    describe_checkpoint,
    keep_as_best,
    set_best_aside,
    step_folder,
)
from stylekit.engine.evaluations import (
    PLATEAU,
    Evaluation,
    add_evaluation,
    drop_evaluations_after,
    is_due,
    is_over,
    read_evaluations,
    standing,
)
from stylekit.engine.log import TrainingLog
from stylekit.engine.preview import stylize_batch
from stylekit.errors import ImageError, StylekitError, TooFewError
from stylekit.images import Rgb, resize
from stylekit.metrics.embedders import IdentityGauge, load_embedder
from stylekit.metrics.features import FeatureGauge, load_extractor
from stylekit.metrics.identity import identity
from stylekit.metrics.manifold import neighbour_coverage
from stylekit.metrics.measure import (
    CHUNK,
    Arrays,
    Batch,
    Chunk,
    Gauge,
    Kept,
    chunk_key,
    crop_digest,
    join,
    measure,
    measure_batch,
)
from stylekit.metrics.persons import Resampling
from stylekit.metrics.protocol import PictureSet, fitting_protocol, read_cartoons, read_photographs
from stylekit.metrics.relative_kid import PhotographsKid
from stylekit.paths import Workspace, remove_partials

_MOST_PHOTOS = 512
"""Held-out photographs looked at: 50,000 of CelebA would take longer than the steps between two evaluations."""
_MOST_CARTOONS = 1024
_BATCH = 16
_SCALE = 1000  # KID is written x1000, as is usual

_LOG = logging.getLogger(__name__)


def served_in_training(recipe: Recipe, assets: Mapping[str, AssetUse]) -> dict[str, list[str]]:
    """Return the frozen networks that a generator was trained against, and as what.

    Args:
        recipe: The resolved recipe.
        assets: The frozen networks in use, by role.
    """
    train = recipe.train
    uses = [
        ("dlib-resnet", "identity loss", train.loss.lambda_identity > 0),
        ("efficientnet-lite0", "projected discriminators", train.loss.lambda_projected > 0),
        (train.content.network, "content loss", train.loss.lambda_content > 0),
    ]
    found: dict[str, list[str]] = {}
    for network, purpose, used in uses:
        if used:
            found.setdefault(network, []).append(purpose)
    for asset in assets.values():
        found.setdefault(asset.name, ["in training"])
    return found


@dataclass(frozen=True, eq=False)
class _Crops:
    """Crops that could be read, at the side at which everything is measured.

    Attributes:
        lines: Their lines of the manifest.
        digests: SHA-256 of each crop's own pixels.
        pictures: uint8 [N,S,S,3].
        landmarks: float64 [N,5,2] in pixels of S.
    """

    lines: list[ManifestLine]
    digests: list[str]
    pictures: NDArray[np.uint8]
    landmarks: NDArray[np.float64]

    @property
    def persons(self) -> list[str]:
        return [str(line.person) for line in self.lines]

    @property
    def digest(self) -> str:
        """SHA-256 of what is measured: every crop's pixels and five points."""
        return chunk_key("", self.pictures.shape[1], self.digests, self.landmarks)

    def measure(self, gauges: Sequence[Gauge], title: str) -> Arrays:
        """Return what gauges say, kept on disk under the names that `stylekit eval` looks for."""
        parts = [slice(start, start + CHUNK) for start in range(0, len(self.lines), CHUNK)]
        return measure([self._chunk(part, title) for part in parts], gauges, kept=Kept(), title=title)

    def measure_now(self, gauges: Sequence[Gauge]) -> Arrays:
        """Return what gauges say, and keep nothing."""
        return join([measure_batch(batch, gauges) for batch in self._batches(slice(None))])

    def _chunk(self, part: slice, title: str) -> Chunk:
        key = chunk_key(title, self.pictures.shape[1], self.digests[part], self.landmarks[part])
        return Chunk(key, [str(line.file) for line in self.lines[part]], lambda: self._batches(part))

    def _batches(self, part: slice) -> Iterator[Batch]:
        pictures, landmarks = self.pictures[part], self.landmarks[part]
        for start in range(0, len(pictures), _BATCH):
            yield Batch(pictures[start : start + _BATCH], landmarks[start : start + _BATCH])


def _read(part: PictureSet, size: int, most: int) -> _Crops:
    """Read crops in order: at most so many, chosen by a hash of theirs; those that cannot be read are left out."""
    ranked = sorted(part.lines, key=lambda line: hashlib.sha256(f"{line.input_sha256} {line.face_index}".encode()).digest())
    chosen = {line.file for line in ranked[:most]}
    lines: list[ManifestLine] = []
    digests: list[str] = []
    pictures: list[Rgb] = []
    landmarks: list[NDArray[np.float64]] = []
    for line in part.lines:
        if line.file not in chosen:
            continue
        try:
            crop = part.read(line)
        except ImageError as error:
            _LOG.warning("Left out of the evaluations: %s", error.message)
            continue
        lines.append(line)
        digests.append(crop_digest(crop))
        pictures.append(resize(crop, (size, size)))
        landmarks.append(part.landmarks(line, crop.shape[0], size))
    if not lines:
        raise TooFewError(f"No crop of {part.folder} can be read.", "Align the pictures anew with stylekit align.")
    return _Crops(lines, digests, np.stack(pictures), np.stack(landmarks))


def _untouched_random_numbers() -> AbstractContextManager[None]:
    """Give the generators of torch back as they were; networks draw first weights when they are built."""
    return torch.random.fork_rng(devices=range(torch.cuda.device_count()) if torch.cuda.is_available() else ())


class HeldOut:
    """Measures a generator on the held-out photographs; everything that stays the same is computed once.

    Args:
        recipe: The resolved recipe of the run.
        assets: The frozen networks of the training, by role.
        workspace: Where the data sets lie.
        device: Where the networks run.
        teacher: Of a student, the network that it learns from; its pictures of these photographs are kept to compare with.

    Attributes:
        protocol: The protocol that fits the photographs.
        extractor: The leading extractor, resize included: the first of the recipe's that did not serve in training.
        embedder: What ID is taken with.
        conditions: Digest of everything two evaluations must share to be compared.

    Raises:
        StylekitError: If there is nothing to measure with: too few photographs, no aligned ones, no weights.
    """

    def __init__(
        self,
        recipe: Recipe,
        assets: Mapping[str, AssetUse],
        workspace: Workspace,
        device: torch.device,
        teacher: nn.Module | None = None,
    ) -> None:
        folder = photo_set(recipe.photos.source, workspace)
        self.protocol = fitting_protocol(folder)
        trained_on, held_out = read_photographs(folder, self.protocol)
        held_out = replace(held_out, lines=tuple(line for line in held_out.lines if line.split == "eval"))
        drawn = read_cartoons(workspace.style(recipe.style))
        served = served_in_training(recipe, assets)
        size = self.protocol.size
        with _untouched_random_numbers():
            ordered = sorted(recipe.eval.extractors, key=served.__contains__)
            self._features = [FeatureGauge(*load_extractor(name, str(device))) for name in ordered]
            self._identity = IdentityGauge(*load_embedder("dlib-resnet", str(device)))
            self._photos = _read(held_out, size, _MOST_PHOTOS)
            self._inputs = _read(held_out, recipe.train.size, _MOST_PHOTOS).pictures
            cartoons, others = _read(drawn, size, _MOST_CARTOONS), _read(trained_on, size, _MOST_PHOTOS)
            self._reference = cartoons.measure(self._features, "reference")
            photo = self._photos.measure([*self._features, self._identity], "photo")
            known = others.measure([self._identity], "photo")["embedding/dlib-resnet"]
            self._taught = None if teacher is None else stylize_batch(teacher, self._inputs).astype(np.int16)
        self._faces = photo["embedding/dlib-resnet"]
        self._centre = known.mean(axis=0, dtype=np.float64)
        resampling = Resampling(self._photos.persons, self.protocol.resamples, self.protocol.seed)
        self._photo_kid = PhotographsKid(self._of_extractors(self._reference), self._of_extractors(photo), resampling)
        self.extractor, self.embedder = self._features[0].label, self._identity.embedder.label
        said = (
            self.protocol,
            recipe.train.size,
            [gauge.key for gauge in self._features],
            self._identity.key,
            self._photos.digest,
            others.digest,
            cartoons.digest,
        )
        self.conditions = hashlib.sha256(repr(said).encode()).hexdigest()[:16]

    def _of_extractors(self, arrays: Arrays) -> dict[str, NDArray[np.float32]]:
        return {gauge.label: arrays[f"features/{gauge.label}"] for gauge in self._features}

    def measure(self, network: nn.Module, meta: Meta) -> Evaluation:
        """Measure a generator, in eval mode, at the step of `meta`.

        Raises:
            DataError: If what it makes cannot be measured.
        """
        with _untouched_random_numbers():
            stylized = stylize_batch(network, self._inputs)
            pictures = np.stack([resize(picture, (self.protocol.size, self.protocol.size)) for picture in stylized])
            found = replace(self._photos, pictures=pictures).measure_now([*self._features, self._identity])
        away = None if self._taught is None else float(np.abs(stylized - self._taught).mean())
        features = self._of_extractors(found)
        kid = self._photo_kid.relative(features)
        low, high = kid.intervals[self.extractor]
        covered = neighbour_coverage(self._reference[f"features/{self.extractor}"], features[self.extractor])
        likeness = identity(self._faces, found["embedding/dlib-resnet"], self._centre, self._photos.persons)
        floors = self.protocol.floors
        return Evaluation(
            step=meta.step,
            images_seen=meta.images_seen,
            kid_relative=kid.value,
            kid_relative_low=kid.low,
            kid_relative_high=kid.high,
            kid_x1000=kid.kids[self.extractor] * _SCALE,
            kid_x1000_low=low * _SCALE,
            kid_x1000_high=high * _SCALE,
            id_centred=likeness.centred,
            id_recognised=likeness.recognised,
            neighbour_coverage=covered,
            teacher_levels=away,
            kids_x1000={name: value * _SCALE for name, value in kid.kids.items()},
            extractor=self.extractor,
            embedder=self.embedder,
            conditions=self.conditions,
            above_floor=likeness.recognised >= floors.id_recognised and covered >= floors.neighbour_coverage,
        )


def open_held_out(
    meta: Meta, workspace: Workspace, device: torch.device, run: Path | None = None, teacher: nn.Module | None = None
) -> HeldOut | None:
    """Return what measures the held-out photographs; None where nothing is to be measured, or can be.

    That it cannot be is said in the log, as a warning where the recipe asks for evaluations otherwise than by default.

    Args:
        meta: Where training stands.
        workspace: Where the data sets lie.
        device: Where the networks run.
        run: The run that goes on.
        teacher: Of a student, the network that it learns from.
    """
    recipe, train = meta.recipe, meta.recipe.train
    told = read_evaluations(run) if run else []
    finished = run is not None and is_over(run, train, meta.step)
    if not train.eval_every or (finished and (not told or told[-1].step >= meta.step)):
        return None
    try:
        return HeldOut(recipe, meta.assets, workspace, device, teacher)
    except StylekitError as missing:
        asked_for = train.patience > 0 or train.eval_every != TrainRecipe.model_fields["eval_every"].default
        level = logging.WARNING if asked_for else logging.INFO
        _LOG.log(level, "Not evaluated while it trains, so that no best step is kept: %s", missing.message)
        return None


def rewind(run: Path, step: int) -> None:
    """Bring a run's evaluations and its best checkpoint back to where they were at a step that training goes on from.

    A best checkpoint of a later step, whose own checkpoint was deleted since, is set aside: training comes to it again.

    Raises:
        StylekitError: If it cannot be written.
    """
    remove_partials(run / "checkpoints")
    drop_evaluations_after(run, step)
    if (best := best_checkpoint(run)) and describe_checkpoint(best).step > step:
        aside = set_best_aside(run)
        _LOG.info("The best step so far is later than step %d, which training goes on from; it lies in %s now.", step, aside)
    found = standing(read_evaluations(run)).best
    if found is None or best_checkpoint(run) is not None:
        return
    own = step_folder(run, found.step)
    if own.is_dir():
        keep_as_best(run, own)
        return
    _LOG.warning("The checkpoint of step %d, the best so far, is gone; the newest stands for the run.", found.step)


class Selection:
    """Keeps a run's best step while it trains, and its evaluations in `evals.jsonl`.

    An evaluation is judged first and written last, after its checkpoint, so that a process killed at any moment between
    comes to the same: a step that is due and has no line is measured again.

    Args:
        run: The run folder, rewound to where training goes on.
        held_out: What measures.
        train: When to end.
        log: Hears the figures too, and that its clock stands still meanwhile.
    """

    def __init__(self, run: Path, held_out: HeldOut, train: TrainRecipe, log: TrainingLog) -> None:
        self._run, self._held_out, self._train, self._log = run, held_out, train, log
        told = read_evaluations(run)
        comparable = [evaluation for evaluation in told if evaluation.conditions == held_out.conditions]
        if told and not comparable:
            _LOG.warning("The best step before counts no more: it was measured on other pictures, or with other networks.")
        self._last = told[-1].step if told else -1
        self._standing = standing(comparable)
        self._said_plateau = self._standing.stale >= PLATEAU

    @property
    def ends(self) -> bool:
        """Whether training ends here by `train.patience`."""
        return self._standing.ends(self._train)

    def catch_up(self, network: nn.Module, start: Meta) -> None:
        """Measure the checkpoint that training goes on from, where that is due and was not written down."""
        if self._last < start.step and is_due(self._train, start.step) and step_folder(self._run, start.step).is_dir():
            found = self.evaluate(network, start)
            if found is not None:
                self.record(found)

    def evaluate(self, network: nn.Module, meta: Meta) -> Evaluation | None:
        """Measure a generator and judge it; None, with a line of the log, where it could not be measured."""
        try:
            with self._log.paused():
                found = self._held_out.measure(network, meta)
        except (StylekitError, torch.OutOfMemoryError) as failure:
            _LOG.warning("Step %d is not evaluated: %s", meta.step, failure)
            return None
        self._standing = self._standing.after(found)
        return found.model_copy(update={"best": self._standing.best is found})

    def record(self, evaluation: Evaluation) -> None:
        """Write an evaluation down, and keep its checkpoint, which is there by now, if it is the best so far.

        Raises:
            StylekitError: If the checkpoint cannot be kept.
        """
        if evaluation.best:
            keep_as_best(self._run, step_folder(self._run, evaluation.step))
        add_evaluation(self._run, evaluation)
        self._log.scalars(evaluation.step, evaluation.metrics())
        self._last = evaluation.step
        self._say(evaluation)

    def _say(self, evaluation: Evaluation) -> None:
        _LOG.info(
            "Step %d: KID %.2f of the photographs' (%.2f to %.2f), x1000 %.1f, ID %.2f, recognised %.0f%%%s%s",
            evaluation.step,
            evaluation.kid_relative,
            evaluation.kid_relative_low,
            evaluation.kid_relative_high,
            evaluation.kid_x1000,
            evaluation.id_centred,
            100 * evaluation.id_recognised,
            "" if evaluation.teacher_levels is None else f", {evaluation.teacher_levels:.1f} levels from its teacher",
            f"; {verdict}" if (verdict := self._verdict(evaluation)) else "",
        )
        stale, noticed = self._standing.stale, self._standing.noticed
        if stale < PLATEAU:
            self._said_plateau = False
        elif not self._said_plateau and noticed is not None and self._standing.best is not None:
            self._said_plateau = True
            _LOG.info(
                "No step since %d was noticeably better; the best, step %d, is kept, and Ctrl-C loses nothing.",
                noticed.step,
                self._standing.best.step,
            )

    def _verdict(self, evaluation: Evaluation) -> str:
        if evaluation.above_floor:
            return "the best so far" if evaluation.best else ""
        floors = self._held_out.protocol.floors
        failed = [
            reason
            for reason, value, least in (
                ("too few are recognised", evaluation.id_recognised, floors.id_recognised),
                ("they take after too few of the cartoons", evaluation.neighbour_coverage, floors.neighbour_coverage),
            )
            if value < least
        ]
        return ", and ".join(failed)

    def conclude(self) -> None:
        """Say at the end of training what is not in any line: that no step was good enough, or that patience ended it."""
        if self._last >= 0 and self._standing.best is None:
            floors = self._held_out.protocol.floors
            _LOG.warning(
                "No step is kept as the best: none reached the floors of %s, %.0f%% of the people recognised and a neighbour "
                "coverage of %.2f. The newest stands for the run.",
                self._held_out.protocol.name,
                100 * floors.id_recognised,
                floors.neighbour_coverage,
            )
