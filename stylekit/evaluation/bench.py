"""The bench: one protocol on one data set, against which any number of generators, filters and folders are measured alike."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from stylekit.assets import Resolved, resolve
from stylekit.config.schema import EvalRecipe
from stylekit.data.manifest import ManifestLine
from stylekit.data.shards import photo_set
from stylekit.errors import DataError, ImageError
from stylekit.evaluation.figures import KID_SCALE, RowFigures, Yardstick, contradictions, row_figures
from stylekit.images import Rgb, resize
from stylekit.metrics import artefacts, colour, content, expression
from stylekit.metrics.artefacts import ArtefactGauge
from stylekit.metrics.colour import ColourGauge
from stylekit.metrics.content import ContentGauge
from stylekit.metrics.embedders import IdentityGauge, load_embedder
from stylekit.metrics.expression import ExpressionGauge
from stylekit.metrics.features import FeatureGauge, load_extractor, resolve_extractor
from stylekit.metrics.folder import PictureFolder
from stylekit.metrics.kid import Difference, kid_difference
from stylekit.metrics.measure import CHUNK, Arrays, Batch, Chunk, Gauge, Kept, chunk_key, crop_digest, measure
from stylekit.metrics.persons import Resampling
from stylekit.metrics.protocol import (
    PictureSet,
    Protocol,
    deviations,
    find_photographs,
    fitting_protocol,
    load_protocol,
    read_cartoons,
    read_photographs,
)
from stylekit.metrics.report import Conditions, Skipped, UsedAsset
from stylekit.metrics.sets import SMALLEST_SET
from stylekit.nn.cpu import keep_freed_memory
from stylekit.nn.device import find_device
from stylekit.paths import Workspace, sha256_bytes, sha256_file
from stylekit.progress import Progress, silent

_ALIGN = "Align the pictures anew with stylekit align."

Maker: TypeAlias = Callable[[Sequence[Rgb], Sequence[int]], Sequence[Rgb]]
"""Makes pictures, of any size, of a batch of photographs' crops, given with their places in the bench."""


@dataclass(frozen=True, eq=False)
class Crops:
    """The readable crops of a data set; pictures are read when they are asked for.

    Attributes:
        source: The data set.
        lines: The crops' lines of its manifest.
        sides: Side of each crop in pixels.
        digests: SHA-256 of each crop's pixels.
        skipped: Crops that cannot be read.
    """

    source: PictureSet
    lines: tuple[ManifestLine, ...]
    sides: tuple[int, ...]
    digests: tuple[str, ...]
    skipped: tuple[Skipped, ...]

    def __len__(self) -> int:
        return len(self.lines)

    @property
    def files(self) -> list[str]:
        """The crops' files, relative to the data set."""
        return [str(line.file) for line in self.lines]

    @property
    def persons(self) -> list[str]:
        """Who is in each crop."""
        return [str(line.person) for line in self.lines]

    def read(self, index: int) -> Rgb:
        """Return a crop.

        Raises:
            ImageError: If it can no longer be read.
        """
        return self.source.read(self.lines[index])

    def landmarks(self, index: int, size: int) -> NDArray[np.float64]:
        """Return a crop's five points as `PictureSet.landmarks` does, float64 [5,2] in pixels of the crop brought to `size`."""
        return self.source.landmarks(self.lines[index], self.sides[index], size)

    def digest(self, size: int) -> str:
        """Return the SHA-256 of what is measured at `size`, whatever the order: every crop's pixels and five points."""
        crops = sorted(f"{digest} {self.landmarks(index, size).tolist()}" for index, digest in enumerate(self.digests))
        return sha256_bytes("\n".join(crops).encode())


def readable(source: PictureSet, least: int, progress: Progress = silent) -> Crops:
    """Read every crop once, to know which can be read and what is in them.

    Args:
        source: The data set.
        least: Crops that must be readable.
        progress: Shows how far it is.

    Raises:
        DataError: If too few can be read.
    """
    lines: list[ManifestLine] = []
    sides: list[int] = []
    digests: list[str] = []
    skipped: list[Skipped] = []
    with progress(f"Reading {source.folder.name}", len(source.lines)) as bar:
        for line in source.lines:
            try:
                crop = source.read(line)
            except ImageError as error:
                skipped.append(Skipped(file=str(line.file), reason=error.message))
            else:
                lines.append(line)
                sides.append(crop.shape[0])
                digests.append(crop_digest(crop))
            bar.advance()
    if len(lines) < least:
        reason = f": {skipped[0].reason}" if skipped else "."
        raise DataError(f"Only {len(lines)} crops of {source.folder} can be read{reason}", _ALIGN)
    return Crops(source, tuple(lines), tuple(sides), tuple(digests), tuple(skipped))


def square(picture: Rgb, size: int) -> Rgb:
    """Return a picture at the side at which everything is measured."""
    return resize(picture, (size, size))


def as_they_are(crops: Sequence[Rgb], indices: Sequence[int]) -> Sequence[Rgb]:
    """The `Maker` of the photographs themselves."""
    return crops


class Bench:
    """One protocol on one data set; `open_bench` makes it.

    Attributes:
        protocol: The conditions.
        style: Whose cartoons are the reference.
        photos: The held-out photographs.
        cartoons: The reference.
        known: Photographs whose mean embedding is taken off all embeddings.
        gauges: What measures every picture made from a photograph.
        extractors: Labels of the extractors; the first leads.
        embedders: Labels of the embedders; the first leads.
        assets: The networks' files.
        skipped: Crops that cannot be read.
    """

    def __init__(
        self,
        protocol: Protocol,
        style: str,
        photos: Crops,
        cartoons: Crops,
        known: Crops,
        *,
        features: Sequence[FeatureGauge],
        identities: Sequence[IdentityGauge],
        faults: Sequence[Gauge] = (),
        faces: Sequence[Gauge] = (),
        settings: EvalRecipe | None = None,
        batch_size: int = 16,
        device: str = "cpu",
        kept: Kept | None = None,
        progress: Progress = silent,
    ) -> None:
        self.protocol, self.style, self.photos, self.cartoons, self.known = protocol, style, photos, cartoons, known
        self.settings = settings or EvalRecipe()
        self.identities = list(identities)
        self.gauges: list[Gauge] = [*features, *identities, *faults, *faces]
        self._of_reference: list[Gauge] = [*features, *identities, *faults]
        self.extractors = [gauge.label for gauge in features]
        self.embedders = [gauge.embedder.label for gauge in identities]
        self.assets: list[Resolved] = [*(gauge.asset for gauge in features), *(gauge.asset for gauge in identities)]
        self.skipped = [*photos.skipped, *cartoons.skipped, *known.skipped]
        self._batch_size = batch_size
        self._device = device
        self._kept = kept or Kept()
        self._progress = progress

    @property
    def size(self) -> int:
        """Side in pixels at which everything is measured."""
        return self.protocol.size

    @property
    def n(self) -> int:
        """Held-out photographs."""
        return len(self.photos)

    @property
    def notes(self) -> list[str]:
        """What the choice of photographs left out, one sentence each."""
        return list(dict.fromkeys([*self.photos.source.notes, *self.known.source.notes]))

    @property
    def widths(self) -> list[int]:
        """Length of each extractor's features."""
        return [self.reference[f"features/{label}"].shape[1] for label in self.extractors]

    def measure(self, make: Maker, key: str | None, title: str) -> Arrays:
        """Return the arrays of the pictures that `make` makes of the held-out photographs, one row a photograph.

        Args:
            make: Called with batches of crops, each at its own size; what it gives is brought to `size`.
            key: What its pictures depend on beside the photographs; arrays are kept under it. None keeps nothing.
            title: What progress and errors call it.

        Raises:
            DataError: If a feature or an embedding is not finite, or `make` gives another number of pictures.
        """
        return self._measure(self.photos, self.gauges, title, key, make)

    def pictures(self, make: Maker, indices: Sequence[int]) -> list[Rgb]:
        """Return what `make` makes of some photographs, at its own size."""
        return [picture for part in self._parts(indices) for picture in made_of(make, [self.photos.read(i) for i in part], part)]

    @cached_property
    def photo(self) -> Arrays:
        """Arrays of the photographs themselves: the row `photo`."""
        return self.measure(as_they_are, "photo", "photo")

    @cached_property
    def reference(self) -> Arrays:
        """Arrays of the reference cartoons: features, embeddings, faults."""
        return self._measure(self.cartoons, self._of_reference, "cartoons", "reference", None)

    @cached_property
    def centres(self) -> dict[str, NDArray[np.float64]]:
        """Mean embedding of the `known` photographs, float64 [E] by embedder."""
        arrays = self._measure(self.known, self.identities, "mean face", "photo", as_they_are)
        return {name.removeprefix("embedding/"): np.asarray(a.mean(axis=0, dtype=np.float64)) for name, a in arrays.items()}

    @cached_property
    def yardstick(self) -> Yardstick:
        """What every row is held against."""
        return Yardstick(
            photo=self.photo,
            reference=self.reference,
            centres=self.centres,
            persons=self.photos.persons,
            extractors=self.extractors,
            embedders={gauge.embedder.name: gauge.embedder.label for gauge in self.identities},
            subsets=self.settings.subsets,
            seed=self.protocol.seed,
            resampling=Resampling(self.photos.persons, self.protocol.resamples, self.protocol.seed),
            device=self._statistics_device,
        )

    @property
    def _statistics_device(self) -> str:
        return self._device if self._device.startswith("cuda") else "cpu"  # others know no float64

    def figures(self, row: Arrays) -> RowFigures:
        """Return the figures of a row, with its intervals and its values for every picture."""
        return row_figures(row, self.yardstick)

    def paired(self, row: Arrays, other: Arrays, extractor: str | None = None) -> Difference:
        """Return KID (x1000) of a row less that of another, over the same draws of persons.

        Args:
            row: Arrays of one row.
            other: Arrays of the other.
            extractor: Label of the extractor; the leading one by default.
        """
        name = f"features/{extractor or self.extractors[0]}"
        found = kid_difference(
            self.reference[name], row[name], other[name], self.yardstick.resampling, device=self.yardstick.device
        )
        return Difference(*(KID_SCALE * each for each in (found.value, found.deviation, found.low, found.high)))

    def disagreements(self, rows: Mapping[str, Arrays]) -> list[str]:
        """Return where two embedders disagree about rows, by name, one sentence each."""
        return contradictions(rows, self.yardstick)

    def conditions(self, further: Sequence[str] = ()) -> Conditions:
        """Return what another evaluation must share for its figures to compare.

        Args:
            further: Deviations that the sets of pictures do not show.
        """
        held_out, cartoons = self.photos.source, self.cartoons.source
        return Conditions(
            name=self.protocol.name,
            deviations=[
                *deviations(
                    self.protocol,
                    self.settings,
                    extractors=self.extractors,
                    trained_on=self.known.source,
                    held_out=held_out,
                    cartoons=cartoons,
                ),
                *further,
            ],
            n=self.n,
            persons=len(set(self.photos.persons)),
            held_out_sha256=self.photos.digest(self.size),
            photos_manifest_sha256=held_out.manifest_sha256,
            template=sorted({str(line.template) for line in held_out.lines}),
            crop_size_px=sorted(set(self.photos.sides)),
            size_px=self.size,
            reference=self.style,
            reference_n=len(self.cartoons),
            reference_manifest_sha256=cartoons.manifest_sha256,
            extractors=self.extractors,
            embedders=self.embedders,
            gauges=[gauge.key for gauge in self.gauges],
            kid_subsets=self.settings.subsets,
            kid_subset_size=min(self.n, len(self.cartoons)) // 2,
            resamples=self.protocol.resamples,
            identity_centre={
                gauge.embedder.label: [float(f"{value:.6g}") for value in self.centres[gauge.embedder.name]]
                for gauge in self.identities
            },
            identity_centre_n=len(self.known),
            seed=self.protocol.seed,
            assets=[
                UsedAsset(name=a.name, role=a.role, source=a.source, sha256=a.sha256, licence=a.licence) for a in self.assets
            ],
        )

    def _measure(self, crops: Crops, gauges: Sequence[Gauge], title: str, key: str | None, make: Maker | None) -> Arrays:
        starts = range(0, len(crops), CHUNK)
        chunks = [self._chunk(crops, range(start, min(start + CHUNK, len(crops))), key, make) for start in starts]
        with self._progress(f"Measuring {title}", len(crops)) as bar:
            return measure(chunks, gauges, kept=self._kept, title=title, advance=bar.advance)

    def _chunk(self, crops: Crops, indices: range, key: str | None, make: Maker | None) -> Chunk:
        points = np.stack([crops.landmarks(index, self.size) for index in indices])

        def batches() -> Iterator[Batch]:
            for part in self._parts(indices):
                photos = [crops.read(index) for index in part]
                at_size = np.stack([square(photo, self.size) for photo in photos])
                landmarks = points[part[0] - indices[0] : part[-1] + 1 - indices[0]]
                if make is None:
                    yield Batch(at_size, landmarks)
                else:
                    made = (
                        at_size if make is as_they_are else np.stack([square(p, self.size) for p in made_of(make, photos, part)])
                    )
                    yield Batch(made, landmarks, at_size)

        digest = None if key is None else chunk_key(key, self.size, [crops.digests[index] for index in indices], points)
        return Chunk(digest, [crops.files[index] for index in indices], batches)

    def _parts(self, indices: Sequence[int]) -> Iterator[Sequence[int]]:
        for start in range(0, len(indices), self._batch_size):
            yield indices[start : start + self._batch_size]


def made_of(make: Maker, photos: Sequence[Rgb], indices: Sequence[int]) -> Sequence[Rgb]:
    """Return what a `Maker` makes of some photographs.

    Raises:
        DataError: If it gives another number of pictures.
    """
    made = make(photos, indices)
    if len(made) != len(photos):
        raise DataError(f"{len(made)} pictures were made of {len(photos)} photographs.")
    return made


def face_gauges(device: str) -> list[Gauge]:
    """Return the gauges that hold a picture against its photograph: expression, content, colour.

    Raises:
        AssetError: If a network is missing or damaged.
    """
    return [ExpressionGauge(), ContentGauge(device), ColourGauge()]


def measured_with(settings: EvalRecipe) -> list[str]:
    """Return what every figure depends on beside the pictures: versions of the gauges, digests of the networks' files.

    Nothing is loaded; the keys of the gauges themselves say the same once they are open.

    Raises:
        AssetError: If a network is missing or damaged.
    """
    networks = [
        *(resolve_extractor(name) for name in settings.extractors),
        *(resolve("identity", name) for name in settings.embedders),
        resolve("content", content.NETWORK),
        *(resolve(role) for role in ("face-detector", "face-mesh", "iris", "portrait-mask")),
    ]
    versions = [f"{module.__name__} {module.VERSION}" for module in (artefacts, colour, content, expression)]
    return [*versions, *(f"{asset.role} {asset.name} {asset.sha256}" for asset in networks)]


def open_bench(
    workspace: Workspace,
    style: str,
    settings: EvalRecipe,
    *,
    photos: str | None = None,
    own_photos: str,
    protocol: str | None = None,
    batch_size: int = 16,
    device: str | None = None,
    progress: Progress = silent,
) -> Bench:
    """Return the bench of a style.

    Args:
        workspace: Where the data sets lie.
        style: Whose cartoons are the reference.
        settings: Extractors and embedders in order, the leading ones first, and KID's subsets.
        photos: Where the photographs come from, as `find_photographs` takes it; `own_photos` by default.
        own_photos: The recipe's `photos.source`, whose photographs the style was trained with.
        protocol: Name of the protocol; the one that fits the photographs by default.
        batch_size: Pictures measured at once; changes no figure.
        device: Where networks run; the best there is by default.
        progress: Shows how far it is.

    Raises:
        DataError: If a data set is missing or damaged, has a person in both splits, or too few readable pictures.
        UsageError: If there is no such protocol or device.
        AssetError: If a network is missing or damaged.
        MissingPartError: If one needs a package that is not installed.
    """
    where = str(find_device(device))
    if where == "cpu":
        keep_freed_memory()
    folder = find_photographs(photos, workspace, own=own_photos)
    rules = load_protocol(protocol) if protocol else fitting_protocol(folder)
    others, held_out = read_photographs(folder, rules, own=photo_set(own_photos, workspace))
    cartoons = read_cartoons(workspace.style(style))
    return Bench(
        rules,
        style,
        readable(held_out, SMALLEST_SET, progress),
        readable(cartoons, SMALLEST_SET, progress),
        readable(others, 1, progress),
        features=[FeatureGauge(*load_extractor(name, where)) for name in settings.extractors],
        identities=[IdentityGauge(*load_embedder(name, where)) for name in settings.embedders],
        faults=[ArtefactGauge()],
        faces=face_gauges(where),
        settings=settings,
        batch_size=batch_size,
        device=where,
        progress=progress,
    )


def pictures_of_folder(folder: Path, photos: Crops) -> tuple[Maker, str]:
    """Return the `Maker` of pictures that another tool made of the photographs, and its key.

    Args:
        folder: The pictures, named as the photographs' crops are (`PictureFolder`).
        photos: The held-out photographs.

    Raises:
        DataError: If a picture is missing, doubled, unreadable or not square; the message names every one.
        ImageError: If it is not a folder.
    """
    pictures = PictureFolder(folder)
    stems = [Path(file).stem for file in photos.files]
    pictures.check(stems)
    key = "folder " + hashlib.sha256("".join(sha256_file(pictures.file(stem)) for stem in stems).encode()).hexdigest()
    return (lambda crops, indices: [pictures.read(stems[index]) for index in indices]), key
