"""Under which conditions a number was taken: named protocols, and the sets of pictures they speak of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from stylekit.config.schema import EvalRecipe
from stylekit.data.datasets import PictureFile, used_crops
from stylekit.data.manifest import ManifestLine
from stylekit.data.shards import INDEX
from stylekit.data.split import split_by_person
from stylekit.errors import DataError, TooFewError, UsageError
from stylekit.images import Rgb
from stylekit.metrics.distribution import SMALLEST_SET
from stylekit.paths import sha256_bytes, sha256_file

_FOLDER = resources.files("stylekit.metrics") / "protocols"
Count = Annotated[int, Field(ge=1)]


class Protocol(BaseModel):
    """The conditions a name stands for; `protocols/*.yaml` say what each means."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    photographs: str
    eval_fraction: Annotated[float, Field(gt=0, lt=1)]
    split_seed: int
    template: str
    crop_size: Count
    extractors: tuple[str, ...]
    embedder: str
    reference: Literal["style"]
    subsets: Count
    resamples: Count
    seed: int


def protocol_names() -> list[str]:
    """Return the names of the protocols that come with stylekit."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _FOLDER.iterdir() if entry.name.endswith(".yaml"))


def load_protocol(name: str) -> Protocol:
    """Return a protocol by name.

    Raises:
        UsageError: If there is none of that name.
    """
    if name not in protocol_names():
        raise UsageError(f"There is no protocol {name!r}.", f"Choose one of: {', '.join(protocol_names())}.")
    return Protocol.model_validate(yaml.safe_load((_FOLDER / f"{name}.yaml").read_text("utf-8")))


@dataclass(frozen=True)
class PictureSet:
    """Usable crops of one manifest.

    Attributes:
        folder: The folder of the manifest.
        lines: Lines of status `used`; each has a `file`.
        manifest_sha256: Digest of the manifest file; of shards, that of `shards.json`.
        files: Where the crops of shards lie, by the `file` of their lines.
    """

    folder: Path
    lines: tuple[ManifestLine, ...]
    manifest_sha256: str
    files: Mapping[str, PictureFile] = field(default_factory=dict)

    def read(self, line: ManifestLine) -> Rgb:
        """Return a crop.

        Raises:
            ImageError: If it cannot be read.
        """
        return (self.files.get(str(line.file)) or PictureFile(self.folder / str(line.file))).read()

    @property
    def digest(self) -> str:
        """SHA-256 over which inputs, and which face of each, are in the set, whatever their order."""
        return sha256_bytes("\n".join(sorted(f"{line.input_sha256} {line.face_index}" for line in self.lines)).encode())


def read_cartoons(folder: Path) -> PictureSet:
    """Return all usable cartoons of a style's folder.

    Raises:
        DataError: If the manifest is missing or damaged.
        TooFewError: If it has fewer than four usable cartoons.
    """
    cartoons = _read(folder, "stylekit gen-data")
    if len(cartoons.lines) < SMALLEST_SET:
        raise TooFewError(
            f"{folder / 'manifest.jsonl'} has {len(cartoons.lines)} usable cartoons; an evaluation needs {SMALLEST_SET}.",
            "Make or add more cartoons.",
        )
    return cartoons


def read_photographs(folder: Path) -> tuple[PictureSet, PictureSet]:
    """Return the photographs trained on and the ones held out.

    Raises:
        DataError: If the manifest is missing or damaged, a person or a picture is in both splits, or a photograph names nobody.
        TooFewError: If fewer than four photographs of two persons are held out, or none is left to train on.
    """
    photographs = _read(folder, "stylekit align --kind photo")
    manifest = folder / "manifest.jsonl"
    held_out = tuple(line for line in photographs.lines if line.split == "eval")
    trained_on = tuple(line for line in photographs.lines if line.split != "eval")
    again = "Align the photographs anew, so that they are split by person."
    if nameless := [str(line.file) for line in photographs.lines if line.person is None]:
        raise DataError(
            f"{manifest} does not say who is in {nameless[0]}, so nobody can tell whether that person was trained on.", again
        )
    if shared := {line.person for line in held_out} & {line.person for line in trained_on}:
        raise DataError(
            f"{manifest} has {min(map(str, shared))} both among the held-out photographs and those trained on.", again
        )
    if shared := {line.input_sha256 for line in held_out} & {line.input_sha256 for line in trained_on} - {None}:
        file = next(line.input for line in held_out if line.input_sha256 in shared)
        raise DataError(f"{manifest} has the picture {file} both held out and trained on.", again)
    persons = len({line.person for line in held_out})
    if len(held_out) < SMALLEST_SET or persons < 2:
        raise TooFewError(
            f"{manifest} holds out {len(held_out)} photographs of {persons} persons; "
            f"an evaluation needs at least {SMALLEST_SET} of two persons.",
            "Add photographs of more people, or raise photos.eval_fraction.",
        )
    if not trained_on:
        raise TooFewError(
            f"{manifest} holds out every photograph, which leaves no mean face to compare with.", "Lower photos.eval_fraction."
        )
    return replace(photographs, lines=trained_on), replace(photographs, lines=held_out)


def _read(folder: Path, command: str) -> PictureSet:
    manifest = folder / (INDEX if (folder / INDEX).is_file() else "manifest.jsonl")
    if not manifest.is_file():
        raise DataError(f"There is no {manifest}.", f"Run: {command}")
    crops = list(used_crops(folder))
    files = {str(line.file): file for line, file in crops if file.span is not None}
    return PictureSet(folder, tuple(line for line, _ in crops), sha256_file(manifest), files)


def deviations(
    protocol: Protocol,
    settings: EvalRecipe,
    *,
    extractors: Iterable[str],
    trained_on: PictureSet,
    held_out: PictureSet,
    cartoons: PictureSet,
) -> list[str]:
    """Return in which ways an evaluation, differs from its protocol, one phrase each; `extractors` are labels."""
    photos = [*trained_on.lines, *held_out.lines]
    crops = [*photos, *cartoons.lines]
    groups = {str(line.person): line.group or str(line.person) for line in photos}
    sides = split_by_person(groups, protocol.eval_fraction, protocol.split_seed, groups)
    split = {person for person, side in sides.items() if side == "eval"}
    conditions: tuple[tuple[str, set[object], set[object]], ...] = (
        ("photographs", {line.asset for line in photos}, {protocol.photographs}),
        ("template", {line.template for line in crops}, {protocol.template}),
        ("crop_size", {line.crop_size for line in crops}, {protocol.crop_size}),
        ("extractors", set(extractors), set(protocol.extractors)),
        ("embedder", {settings.embedder}, {protocol.embedder}),
        ("subsets", {settings.subsets}, {protocol.subsets}),
    )
    found_otherwise = [
        f"{key}: {_listed(found)} instead of {_listed(wanted)}" for key, found, wanted in conditions if found != wanted
    ]
    if {line.person for line in held_out.lines} != split:
        found_otherwise.append(
            f"split: other persons than eval_fraction {protocol.eval_fraction} and seed {protocol.split_seed} hold out"
        )
    return found_otherwise


def _listed(values: set[object]) -> str:
    return ", ".join(sorted(map(str, values)))
