"""Under which conditions a number was taken: named protocols, and the sets of pictures they speak of."""

from __future__ import annotations

import hashlib
import heapq
import math
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from stylekit.config.schema import EvalRecipe
from stylekit.data.datasets import PictureFile, is_described, listing, used_crops
from stylekit.data.manifest import ManifestLine
from stylekit.data.shards import photo_set
from stylekit.errors import DataError, TooFewError, UsageError
from stylekit.faces.align import template_points
from stylekit.images import Rgb
from stylekit.metrics.report import Conditions
from stylekit.metrics.sets import SMALLEST_SET
from stylekit.paths import Workspace, sha256_bytes, sha256_file

_FOLDER = resources.files("stylekit.metrics") / "protocols"
_PHOTOGRAPHS = {"starter-photos": "the starter photographs", "celeba": "CelebA", None: "your own"}
_AGAIN = "Align the photographs anew, so that they are split by person."
_SHOWN = 3
_CENTRE_TOLERANCE = 1e-3
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Names = tuple[str, ...]
Crop = tuple[ManifestLine, PictureFile]


class Floors(BaseModel):
    """What a row must reach before its KID counts: below them it is no picture of these people, or always the same picture.

    Attributes:
        id_recognised: How often the photograph nearest to a stylized face, among those of its own person and 14 of strangers,
            is of its own person (`identity.Identity.own_among_few`).
        neighbour_coverage: How much of the reference the pictures take after (`manifold.neighbour_coverage`): 0 is one picture
            repeated.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id_recognised: Share
    neighbour_coverage: Share


class Protocol(BaseModel):
    """The conditions a name stands for. The name holds its version: what it stands for never changes.

    Attributes:
        name: Ends in its version, `-v1`.
        photographs: The data set that the photographs come from, as `ManifestLine.asset` names it; `any` takes all.
        asset_sha256: Digest of that asset, if the catalogue has it.
        held_out: Names of the held-out pictures in the asset; empty if the split is told otherwise.
        one_person: Names of pictures that show one person.
        maybe_one_person: Names of pictures that may show one person, as the face network sees it.
        partition: The part of the data set that is held out, as `ManifestLine.partition` says; None for the split of `align`.
        count: Held-out photographs taken, by a hash of `seed` and name; None takes all.
        centre_count: Other photographs that the mean face of the identity figures is taken from, chosen likewise.
        template: How photographs and cartoons are aligned.
        crop_size: Side of the crops in pixels.
        size: Side in pixels at which everything is measured.
        extractors: Labels of the networks of KID, FID and coverage, each with its layer and resize.
        embedders: Names of the networks of the identity figures.
        reference: The cartoons compared with: all usable ones of the style.
        subsets: Of KID, each half the smaller set.
        resamples: Bootstrap draws of the persons behind each interval.
        seed: Of the choice of photographs, the subsets and the draws.
        floors: What a row must reach.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*-v[0-9]+$")]
    photographs: Literal["starter-photos", "celeba", "any"]
    asset_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    held_out: Names = ()
    one_person: tuple[Names, ...] = ()
    maybe_one_person: tuple[Names, ...] = ()
    partition: Literal["test"] | None = None
    count: Count | None = None
    centre_count: Count | None = None
    template: str
    crop_size: Count
    size: Count
    extractors: Annotated[Names, Field(min_length=1)]
    embedders: Annotated[Names, Field(min_length=1)]
    reference: Literal["style"]
    subsets: Count
    resamples: Count
    seed: int
    floors: Floors


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
        notes: What a reader must know of the choice, one sentence each: what was left out, and how many.
    """

    folder: Path
    lines: tuple[ManifestLine, ...]
    manifest_sha256: str
    files: Mapping[str, PictureFile] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def read(self, line: ManifestLine) -> Rgb:
        """Return a crop.

        Raises:
            ImageError: If it cannot be read.
        """
        return (self.files.get(str(line.file)) or PictureFile(self.folder / str(line.file))).read()

    def landmarks(self, line: ManifestLine, side: int, size: int) -> NDArray[np.float64]:
        """Return a crop's five points, float64 [5,2] in pixels of the crop brought from `side` to `size`, to four decimals.

        Those of a cartoon whose manifest does not say are the points of its template.

        Raises:
            DataError: If neither points nor a template are there.
        """
        if line.landmarks_5 is None or line.matrix is None:
            if line.template is None or line.person is not None:
                raise DataError(
                    f"{self.folder / 'manifest.jsonl'} does not say where the face in {line.file} is.",
                    "Align the pictures anew with stylekit align.",
                )
            points = template_points(line.template, size)
        else:
            matrix = np.asarray(line.matrix, np.float64)
            in_crop = np.asarray(line.landmarks_5, np.float64) @ matrix[:, :2].T + matrix[:, 2]
            points = (in_crop + 0.5) * (size / side) - 0.5
        return np.round(points, 4)

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
    crops = list(_crops(folder, "stylekit gen-data"))
    if len(crops) < SMALLEST_SET:
        raise TooFewError(
            f"{folder / 'manifest.jsonl'} has {len(crops)} usable cartoons; an evaluation needs {SMALLEST_SET}.",
            "Make or add more cartoons.",
        )
    return _picture_set(folder, crops)


def find_photographs(source: str | None, workspace: Workspace, *, own: str) -> Path:
    """Return the aligned data set of a source of photographs.

    Args:
        source: An aligned data set's folder or its name in `datasets/`, or a source that was aligned; None for `own`.
        workspace: Where the data sets lie.
        own: The source of the style's recipe (`photos.source`).

    Raises:
        DataError: If there is no such source, or it was never aligned; the hint is the command that does it.
    """
    source = source or own
    folder = Path(source).expanduser()
    for place in (folder, workspace.photos.parent / source):
        if (place / "manifest.jsonl").is_file():
            return place
    aligned = photo_set(source, workspace)
    if is_described(aligned):
        return aligned
    if not source.startswith("asset:") and "{" not in source and not folder.exists():
        raise DataError(
            f"There are no photographs at {source}.", "Name a data set's folder, or the folder that its photographs are in."
        )
    raise DataError(f"The photographs of {source} were never aligned.", f"Run: stylekit align {shlex.quote(source)} --kind photo")


def fitting_protocol(photographs: Path | PictureSet) -> Protocol:
    """Return the protocol that fits photographs: a data set's own where all of them come from it, else `own-v1`.

    Args:
        photographs: An aligned data set.

    Raises:
        DataError: If the manifest is missing or damaged.
    """
    if isinstance(photographs, Path):
        lines: Iterable[ManifestLine] = (line for line, _ in _crops(photographs))
    else:
        lines = photographs.lines
    found = {(line.asset, line.partition) for line in lines}
    assets = {asset for asset, _ in found}
    if assets == {"starter-photos"}:
        return load_protocol("starter-v1")
    if assets == {"celeba"} and ("celeba", "test") in found:
        return load_protocol("celeba-v1")
    return load_protocol("own-v1")


def read_photographs(folder: Path, protocol: Protocol | None = None, *, own: Path | None = None) -> tuple[PictureSet, PictureSet]:
    """Return the photographs not held out, for the mean face, and the held-out ones: no person and no picture is in both.

    Where the data set itself says the sides, held-out photographs of people who are also on the other side are left out.

    Args:
        folder: The aligned data set whose photographs are held out.
        protocol: By default the one that fits.
        own: The data set that the style was trained with, if that is another: what was trained on is not measured on. Its
            photographs give the mean face where `folder` has none but held-out ones. It need not be there; a note says so.

    Returns:
        The photographs not held out (where there are none, the held-out ones, which a note says), and the held-out ones.

    Raises:
        DataError: If the manifest is missing or damaged, a person or a picture is in both splits, or a photograph names nobody.
        TooFewError: If fewer than four photographs of two persons are held out, or none is left to train on.
    """
    protocol = protocol or fitting_protocol(folder)
    manifest = folder / "manifest.jsonl"
    elsewhere = own if own is not None and own.resolve() != folder.resolve() else None
    seen = _trained_on(elsewhere, protocol) if elsewhere is not None and is_described(elsewhere) else None
    others = _Others(protocol)
    candidates: list[Crop] = []
    for line, file in _crops(folder):
        side = _side(line, protocol)
        if side is not None and line.person is None:
            raise DataError(
                f"{manifest} does not say who is in {line.file}, so nobody can tell whether that person was trained on.", _AGAIN
            )
        if side == "eval":
            candidates.append((line, file))
        elif side == "train":
            others.add(line, file)
    held_out, notes = _apart(manifest, candidates, others, protocol)
    if seen is not None and (known := [each for each in held_out if each[0].input_sha256 in seen.pictures]):
        held_out = [each for each in held_out if each[0].input_sha256 not in seen.pictures]
        notes.append(f"{_photographs(len(known), 'held-out ')} left out: the style was trained with the same pictures.")
    if elsewhere is not None and seen is None:
        notes.append(f"Whether the style was trained on some of them is not known: {elsewhere} is not there.")
    held_out = _chosen(held_out, protocol)
    _check_enough(manifest, [line for line, _ in held_out], protocol, notes)
    measured = _picture_set(folder, held_out, tuple(notes))
    if others.crops:
        return _picture_set(folder, others.crops), measured
    if elsewhere is not None and seen is not None and seen.crops:
        said = f"The mean face is that of the photographs of {elsewhere.name}; {folder.name} has none but held-out ones."
        return _picture_set(elsewhere, seen.crops, (said,)), measured
    if protocol.partition is None:
        raise TooFewError(
            f"{manifest} holds out every photograph, which leaves no mean face to compare with.", "Lower photos.eval_fraction."
        )
    said = f"The mean face is that of the held-out photographs themselves; {folder.name} has no others."
    return _picture_set(folder, held_out, (said,)), measured


class _Others:
    """The photographs not held out: who and what is in them, and those that give the mean face, which alone are kept."""

    def __init__(self, protocol: Protocol) -> None:
        self.persons: set[str] = set()
        self.pictures: set[str] = set()
        self._protocol = protocol
        self._rank = _rank_by(protocol.seed)
        self._kept: list[tuple[int, int, ManifestLine, PictureFile]] = []
        self._number = 0

    def add(self, line: ManifestLine, file: PictureFile) -> None:
        self.persons |= _persons(line, self._protocol)
        if line.input_sha256 is not None:
            self.pictures.add(line.input_sha256)
        self._number += 1
        entry = (-self._rank(line), -self._number, line, file)  # so that the heap gives up the greatest rank first
        limit = self._protocol.centre_count
        if limit is None or len(self._kept) < limit:
            heapq.heappush(self._kept, entry)
        else:
            heapq.heappushpop(self._kept, entry)

    @property
    def crops(self) -> list[Crop]:
        """The chosen ones, in the order of the manifest."""
        return [(line, file) for _, _, line, file in sorted(self._kept, key=lambda entry: -entry[1])]


def _persons(line: ManifestLine, protocol: Protocol) -> set[str]:
    """Return who a photograph shows, and may show: the names of one person, of a group, of a picture that lists share."""
    name = _name(line)
    listed = {f"asset:{names[0]}" for names in (*protocol.one_person, *protocol.maybe_one_person) if name in names}
    return {whose for whose in (line.person, line.group) if whose is not None} | listed


def _trained_on(folder: Path, protocol: Protocol) -> _Others:
    """Return the photographs that a style was trained with."""
    found = _Others(protocol)
    for line, file in _crops(folder):
        if line.split != "eval":
            found.add(line, file)
    return found


def _side(line: ManifestLine, protocol: Protocol) -> Literal["train", "eval"] | None:
    """Return the side of a photograph; None if the protocol does not take it."""
    if protocol.partition is None:
        return "eval" if line.split == "eval" else "train"
    if line.partition is None or line.face_index:  # the lists speak of the main face alone
        return None
    return "eval" if line.partition == protocol.partition else "train"


def _apart(manifest: Path, crops: Sequence[Crop], others: _Others, protocol: Protocol) -> tuple[list[Crop], list[str]]:
    """Return the held-out photographs of people who are on no other side, and what is to be said of the rest."""
    apart, persons, pictures = [], 0, 0
    for line, file in crops:
        shared = _persons(line, protocol) & others.persons
        repeated = line.input_sha256 in others.pictures
        if not shared and not repeated:
            apart.append((line, file))
        elif line.partition is not None:
            persons += bool(shared)
            pictures += not shared
        elif shared:
            whose = line.person if line.person in shared else f"{line.person} or somebody who may be the same"
            raise DataError(f"{manifest} has {whose} both among the held-out photographs and those trained on.", _AGAIN)
        else:
            raise DataError(f"{manifest} has the picture {line.input} both held out and trained on.", _AGAIN)
    notes = []
    if persons:
        notes.append(f"{_photographs(persons, 'held-out ')} left out: their persons are also among those trained on.")
    if pictures:
        notes.append(f"{_photographs(pictures, 'held-out ')} left out: the same pictures are also among those trained on.")
    return apart, notes


def _photographs(count: int, what: str = "") -> str:
    return f"{count:,} {what}photograph is" if count == 1 else f"{count:,} {what}photographs are"


def _chosen(crops: list[Crop], protocol: Protocol) -> list[Crop]:
    """Return as many as the protocol takes, in the order of the manifest."""
    rank = _rank_by(protocol.seed)
    ranks = sorted(range(len(crops)), key=lambda place: rank(crops[place][0]))
    return [crops[place] for place in sorted(islice(ranks, protocol.count))]


def _rank_by(seed: int) -> Callable[[ManifestLine], int]:
    """Return what orders photographs by a hash of seed and name, wherever they lie."""

    def rank(line: ManifestLine) -> int:
        name = PurePosixPath(line.input).stem
        return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big")

    return rank


def _check_enough(manifest: Path, lines: Sequence[ManifestLine], protocol: Protocol, notes: Sequence[str]) -> None:
    persons = len({line.person for line in lines})
    if len(lines) >= SMALLEST_SET and persons >= 2:
        return
    hint = "Add photographs of more people, or raise photos.eval_fraction."
    if protocol.partition is not None:
        hint = f"{protocol.name} holds out the part {protocol.partition} of CelebA: align it with its list_eval_partition.txt."
    raise TooFewError(
        f"{manifest} holds out {len(lines)} photographs of {persons} persons; "
        f"an evaluation needs at least {SMALLEST_SET} of two persons.",
        " ".join((*notes, hint)),
    )


def _crops(folder: Path, command: str = "stylekit align --kind photo") -> Iterator[Crop]:
    if not is_described(folder):
        raise DataError(f"There is no {folder / 'manifest.jsonl'}.", f"Run: {command}")
    return used_crops(folder)


def _picture_set(folder: Path, crops: Sequence[Crop], notes: tuple[str, ...] = ()) -> PictureSet:
    files = {str(line.file): file for line, file in crops if file.span is not None}
    return PictureSet(folder, tuple(line for line, _ in crops), sha256_file(listing(folder)), files, notes)


def _name(line: ManifestLine) -> str:
    """Return the name of a catalogue's picture within its asset."""
    return line.input.removeprefix(f"asset:{line.asset}/")


def deviations(
    protocol: Protocol,
    settings: EvalRecipe,
    *,
    extractors: Iterable[str],
    trained_on: PictureSet,
    held_out: PictureSet,
    cartoons: PictureSet,
) -> list[str]:
    """Return in which ways an evaluation differs from its protocol, one phrase each.

    Networks beyond those of the protocol are no deviation, since each figure's name says which network it was taken with.

    Args:
        protocol: What was asked for.
        settings: What was set.
        extractors: The labels of the extractors that measured.
        trained_on: The photographs of the mean face.
        held_out: The photographs that were stylized.
        cartoons: The reference.
    """
    crops = [*held_out.lines, *trained_on.lines, *cartoons.lines]
    return [
        *_other_photographs(protocol, trained_on, held_out),
        *_other("template", [str(line.template) for line in crops], protocol.template),
        *_other("crops", [f"{line.crop_size} px" for line in crops], f"{protocol.crop_size} px"),
        *(f"extractors: without {name}" for name in protocol.extractors if name not in set(extractors)),
        *(f"embedders: without {name}" for name in protocol.embedders if name not in settings.embedders),
        *_other("KID subsets", [str(settings.subsets)], str(protocol.subsets)),
    ]


def _other(what: str, found: Iterable[str], wanted: str) -> list[str]:
    values = sorted(set(found))
    return [] if values == [wanted] else [f"{what}: {' and '.join(values)} instead of {wanted}"]


def _other_photographs(protocol: Protocol, trained_on: PictureSet, held_out: PictureSet) -> Iterator[str]:
    if protocol.photographs != "any":
        wanted = [_PHOTOGRAPHS[protocol.photographs]]
        if (found := _sources(held_out)) != wanted:
            yield f"photographs: {' and '.join(found)} instead of {wanted[0]}"
            return
        if trained_on.digest == held_out.digest:
            yield "mean face: of the held-out photographs themselves"
        elif (found := _sources(trained_on)) != wanted:
            yield f"mean face: of {' and '.join(found)} instead of {wanted[0]}"
    if protocol.held_out:
        names, listed = {_name(line) for line in held_out.lines}, set(protocol.held_out)
        if missing := sorted(listed - names):
            yield f"held out: {_some(missing)} missing, {len(listed & names)} of {len(listed)} there"
        if beyond := sorted(names - listed):
            yield f"held out: {_some(beyond)} beside the protocol's {len(listed)}"
    if protocol.photographs != "any" and protocol.count is not None and len(held_out.lines) != protocol.count:
        yield f"held out: {len(held_out.lines):,} photographs instead of {protocol.count:,}"


def _sources(photographs: PictureSet) -> list[str]:
    return sorted({_PHOTOGRAPHS.get(line.asset, str(line.asset)) for line in photographs.lines})


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


_VALUES = {
    "name": "protocol",
    "n": "held-out photographs",
    "reference_n": "cartoons",
    "size_px": "size in px",
    "template": "template",
    "kid_subsets": "KID subsets",
    "resamples": "resamples",
    "seed": "seed",
}
_DIGESTS = {
    "held_out_sha256": "held-out photographs: not the same",
    "reference_manifest_sha256": "reference cartoons: not the same",
}


def same_protocol(a: Conditions, b: Conditions) -> list[str]:
    """Return what two evaluations do not share, one phrase each; their figures compare only if there is nothing.

    Networks that only one of them used are no hindrance, since figures of another network have another name.
    """
    found = [
        f"{said}: {_text(one)} and {_text(other)}"
        for key, said in _VALUES.items()
        if (one := getattr(a, key)) != (other := getattr(b, key))
    ]
    found += [said for key, said in _DIGESTS.items() if getattr(a, key) != getattr(b, key)]
    for what, one, other in (("extractor", a.extractors, b.extractors), ("embedder", a.embedders, b.embedders)):
        if not set(one) & set(other):
            found.append(f"{what}s: none in common")
    shared = a.identity_centre.keys() & b.identity_centre.keys()
    found += [
        f"mean face of {name}: not the same"
        for name in sorted(shared)
        if not _is_near(a.identity_centre[name], b.identity_centre[name])
    ]
    weights = {asset.name: asset.sha256 for asset in a.assets}
    found += [
        f"weights of {asset.name}: not the same" for asset in b.assets if weights.get(asset.name, asset.sha256) != asset.sha256
    ]
    gauges = {_gauge(key): key for key in a.gauges}
    return found + [f"gauge {_gauge(key)}: not the same" for key in b.gauges if gauges.get(_gauge(key), key) != key]


def _gauge(key: str) -> str:
    """Return what a gauge is called, whatever its version and weights: `content`, `features vgg16-hed@...`."""
    kind = re.match("[a-z]*", key)
    network = re.search(r"[^/ ]+@[^/ ]+", key)
    return " ".join(part[0] for part in (kind, network) if part)


def _text(value: object) -> str:
    return "/".join(map(str, value)) if isinstance(value, list) else str(value)


def _is_near(one: Sequence[float], other: Sequence[float]) -> bool:
    """Tell whether two embeddings are the same but for what another processor rounds."""
    return len(one) == len(other) and math.dist(one, other) <= _CENTRE_TOLERANCE * math.hypot(*one)
