"""Measure a trained generator on photographs of people it never saw."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stylekit.assets import Resolved, resolve
from stylekit.config.schema import EvalRecipe
from stylekit.data.manifest import ManifestLine
from stylekit.data.shards import photo_set
from stylekit.engine.checkpoint import LoadedGenerator, load_generator, newest_run
from stylekit.errors import DataError, ImageError
from stylekit.faces.arcface import ArcFaceEmbedder
from stylekit.faces.identity import FaceEmbedder
from stylekit.images import Rgb, contact_sheet, resize, to_rgb, to_tensor, write_image
from stylekit.metrics.baselines import colour_statistics, posterise, transfer_colour
from stylekit.metrics.distribution import SMALLEST_SET, compare, draw_persons, fid, kid, kid_over_persons, subset_size
from stylekit.metrics.features import extract, load_extractor
from stylekit.metrics.identity import identity
from stylekit.metrics.protocol import PictureSet, Protocol, deviations, load_protocol, read_cartoons, read_photographs
from stylekit.metrics.report import Conditions, Delta, EvalReport, RowName, Skipped, UsedAsset, metric_name, write_report
from stylekit.paths import Workspace
from stylekit.progress import Progress, silent

_SHEET_PAIRS = 24
_SHEET_CELL_PX = 256
_LANDMARKS = "photo-landmarks-5"  # the photograph's five points align every picture made from it
_ALIGN = "Align the pictures anew with stylekit align."
_SCALE = 1000  # KID is written x1000, as is usual

Sets = dict[RowName, list[Rgb]]
Values = dict[RowName, dict[str, float]]


@torch.random.fork_rng(devices=[])  # networks draw first weights when they are built
def evaluate(
    run: Path | None = None,
    *,
    workspace: Workspace | None = None,
    style: str | None = None,
    settings: EvalRecipe | None = None,
    protocol: str = "starter-v1",
    output: Path | None = None,
    batch_size: int = 16,
    progress: Progress = silent,
) -> EvalReport:
    """Measure a checkpoint on the held-out photographs and write `eval.json` and `eval_sheet.jpg` (photo | stylized).

    KID with its spreads, FID and ID are taken of the stylized pictures, of the photographs themselves and of two filters,
    all against the style's cartoons.

    Args:
        run: A run or checkpoint folder; the newest run of the style by default.
        workspace: Where the data sets and runs lie; the working folder by default.
        style: Whose cartoons are the reference; the run's own style by default, and without a run the current style.
        settings: Extractors, embedder and KID subsets; the run's recipe by default.
        protocol: Name of the protocol; deviations from it are listed, not refused.
        output: Folder for the two files; the run folder by default.
        batch_size: Pictures seen at once; changes no figure.
        progress: Shows how far it is.

    Raises:
        DataError: If there is no run, or a data set is missing, too small, or has a person in both splits.
        CheckpointError: If the run has no sound checkpoint.
        AssetError: If a network is missing.
        UsageError: If there is no such protocol.
    """
    workspace = workspace or Workspace()
    rules = load_protocol(protocol)
    run = run or _trained_run(workspace, style or workspace.current_style())
    generator = load_generator(run)
    settings = settings or generator.recipe.eval
    style = style or generator.recipe.style
    trained_on, held_out = read_photographs(photo_set(generator.recipe.photos.source, workspace))
    drawn = read_cartoons(workspace.style(style))

    size = generator.recipe.train.size
    skipped: list[Skipped] = []
    photos, known, cartoons = (_read(part, size, skipped, progress) for part in (held_out, trained_on, drawn))
    for crops, least in ((photos, SMALLEST_SET), (known, 1), (cartoons, SMALLEST_SET)):
        if len(crops.pictures) < least:
            raise DataError(f"Only {len(crops.pictures)} crops of {crops.folder} can be read: {skipped[0].reason}", _ALIGN)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    stylized = _stylize(generator.module, photos.pictures, batch_size, device, progress)
    target = colour_statistics(cartoons.pictures)
    sets: Sets = {
        "stylized": stylized,
        "photo": photos.pictures,
        "posterise": [posterise(picture) for picture in photos.pictures],
        "colour-transfer": [transfer_colour(picture, target) for picture in photos.pictures],
    }
    trainers = _trainers(generator)
    rows: Values = {row: {} for row in sets}
    delta: dict[str, Delta] = {}
    used: list[Resolved] = []
    full_rank: dict[str, int] = {}
    for name in sorted(settings.extractors, key=trainers.__contains__):  # those that did not serve in training lead
        extractor, asset = load_extractor(name)
        used.append(asset)
        full_rank[name] = extractor.num_features + 1
        with progress(f"Measuring style with {name}", len(sets) + 1) as bar:
            reference = extract(extractor, cartoons.pictures, batch_size=batch_size, device=device)
            bar.advance()
            features: dict[RowName, Tensor] = {}
            for row, pictures in sets.items():
                features[row] = extract(extractor, pictures, batch_size=batch_size, device=device)
                bar.advance()
        label = extractor.label
        found, delta[label] = _distances(reference, features, photos.persons, label, rules=rules, subsets=settings.subsets)
        rows = {row: rows[row] | found[row] for row in sets}
    embedder_asset = resolve("identity", settings.embedder)
    embedder = (
        ArcFaceEmbedder(embedder_asset.path) if settings.embedder == "arcface" else FaceEmbedder(embedder_asset.path, device)
    )
    embedder_label = f"{settings.embedder}@{_LANDMARKS}"
    likeness, centre = _identity(embedder, embedder_label, sets, photos, known, progress=progress)

    served = [f"{name}: {purpose}" for name in (settings.embedder, *settings.extractors) for purpose in trainers.get(name, ())]
    report = EvalReport(
        style=style,
        run=_run_folder(run).name,
        protocol=Conditions(
            name=rules.name,
            deviations=deviations(rules, settings, extractors=delta, trained_on=trained_on, held_out=held_out, cartoons=drawn),
            n=len(stylized),
            persons=len(set(photos.persons)),
            held_out_sha256=held_out.digest,
            photos_manifest_sha256=held_out.manifest_sha256,
            template=sorted({str(line.template) for line in held_out.lines}),
            crop_size_px=sorted({crop.shape[0] for crop in photos.crops}),
            size_px=size,
            reference=style,
            reference_n=len(cartoons.pictures),
            reference_manifest_sha256=drawn.manifest_sha256,
            extractors=list(delta),
            kid_subsets=settings.subsets,
            kid_subset_size=subset_size(len(stylized), len(cartoons.pictures)),
            resamples=rules.resamples,
            embedder=embedder_label,
            identity_centre=[float(f"{value:.6g}") for value in centre],
            identity_centre_n=len(known.pictures),
            seed=rules.seed,
            checkpoint_step=generator.step,
            checkpoint_sha256=generator.sha256,
            assets=[_used(asset) for asset in (*used, embedder_asset)],
            trained_on=served,
        ),
        rows={row: rows[row] | likeness[row] for row in sets},
        delta=delta,
        notes=_notes(served, full_rank, len(stylized), len(cartoons.pictures)),
        skipped=skipped,
    )
    folder = output or _run_folder(run)
    write_report(folder / "eval.json", report)
    write_image(folder / "eval_sheet.jpg", _sheet(photos.crops, stylized))
    return report


def _trained_run(workspace: Workspace, style: str | None) -> Path:
    run = newest_run(workspace, style)
    if run is None:
        of_style = f" of the style {style}" if style else ""
        raise DataError(f"{workspace.runs} has no trained run{of_style}.", "Run: stylekit train")
    return run


def _run_folder(run: Path) -> Path:
    """Return the run folder of a run or of one of its checkpoints."""
    return run.parent.parent if run.parent.name == "checkpoints" else run


@dataclass(frozen=True, eq=False)
class _Crops:
    """Crops as they were aligned, the same as `pictures` at the network's size, and their lines of the manifest."""

    folder: Path
    lines: list[ManifestLine]
    crops: list[Rgb]
    pictures: list[Rgb]

    @property
    def persons(self) -> list[str]:
        return [str(line.person) for line in self.lines]

    def landmarks(self) -> list[NDArray[np.float64]]:
        """Return the five points of each, float64 [5, 2] in pixels of `pictures`."""
        found: list[NDArray[np.float64]] = []
        for line, crop, picture in zip(self.lines, self.crops, self.pictures, strict=True):
            if line.landmarks_5 is None or line.matrix is None:
                raise DataError(f"{self.folder / 'manifest.jsonl'} does not say where the face in {line.file} is.", _ALIGN)
            matrix = np.asarray(line.matrix, np.float64)
            points = np.asarray(line.landmarks_5, np.float64) @ matrix[:, :2].T + matrix[:, 2]
            found.append((points + 0.5) * (picture.shape[0] / crop.shape[0]) - 0.5)
        return found


def _read(part: PictureSet, size: int, skipped: list[Skipped], progress: Progress) -> _Crops:
    found = _Crops(part.folder, [], [], [])
    with progress(f"Reading {part.folder.name}", len(part.lines)) as bar:
        for line in part.lines:
            try:
                crop = part.read(line)
            except ImageError as error:
                skipped.append(Skipped(file=str(line.file), reason=error.message))
            else:
                found.lines.append(line)
                found.crops.append(crop)
                found.pictures.append(resize(crop, (size, size)))
            bar.advance()
    return found


@torch.inference_mode()
def _stylize(module: nn.Module, pictures: list[Rgb], batch_size: int, device: str, progress: Progress) -> list[Rgb]:
    network = module.to(device)
    result: list[Rgb] = []
    with progress("Stylizing", len(pictures)) as bar:
        for start in range(0, len(pictures), batch_size):
            batch = np.stack(pictures[start : start + batch_size])
            result.extend(to_rgb(network(to_tensor(batch).to(device))))
            bar.advance(len(batch))
    return result


def _distances(
    reference: Tensor, features: dict[RowName, Tensor], persons: list[str], label: str, *, rules: Protocol, subsets: int
) -> tuple[Values, Delta]:
    """Return KID and FID of every set against the reference, and how much nearer the stylized pictures are than the photos."""
    weights = draw_persons(persons, rules.resamples, rules.seed)
    rows: Values = {}
    spreads: dict[RowName, float] = {}
    for row, own in features.items():
        mean, deviation = kid(reference, own, subsets=subsets, seed=rules.seed)
        spreads[row] = float(kid_over_persons(reference, own, weights).std(ddof=1))
        values = {
            "kid_x1000": mean * _SCALE,
            "kid_x1000_subset_std": deviation * _SCALE,
            "kid_x1000_all": float(kid_over_persons(reference, own, np.ones((1, len(own))))[0]) * _SCALE,
            "kid_x1000_person_std": spreads[row] * _SCALE,
            "fid": fid(reference, own),
        }
        rows[row] = {metric_name(key, label, len(own)): value for key, value in values.items()}
    difference = compare(reference, features["stylized"], features["photo"], weights)
    return rows, Delta(
        kid_x1000=difference.value * _SCALE,
        paired_mean_x1000=difference.mean * _SCALE,
        paired_std_x1000=difference.deviation * _SCALE,
        paired_spreads=_spreads(difference.value, difference.deviation),
        photo_spreads=_spreads(difference.value, spreads["photo"]),
    )


def _spreads(difference: float, spread: float) -> float:
    """Return the difference in spreads; 0 where there is no spread to measure it by."""
    return difference / spread if spread > 0 else 0.0


def _identity(
    embedder: ArcFaceEmbedder | FaceEmbedder, label: str, sets: Sets, photos: _Crops, known: _Crops, *, progress: Progress
) -> tuple[Values, NDArray[np.float64]]:
    """Return ID of every set, and the mean embedding of the photographs trained on."""
    rows: Values = {}
    with progress("Measuring identity", len(sets) + 1) as bar:
        centre = np.asarray(embedder.embed(known.pictures, known.landmarks()).mean(axis=0), np.float64)
        landmarks = photos.landmarks()
        photo_faces = embedder.embed(photos.pictures, landmarks)
        bar.advance()
        for row, pictures in sets.items():
            found = identity(photo_faces, embedder.embed(pictures, landmarks), centre, photos.persons)
            values = {
                "id_centred": found.centred,
                "id_centred_std": found.centred_deviation,
                "id_raw": found.raw,
                "id_l2": found.distance,
                "id_rank_1": found.rank_1,
                "id_rank_1_chance": found.chance,
                "id_centred_strangers": found.strangers,
            }
            rows[row] = {metric_name(key, label, len(pictures)): value for key, value in values.items()}
            bar.advance()
    return rows, centre


def _trainers(generator: LoadedGenerator) -> dict[str, list[str]]:
    """Return the frozen networks that the generator was trained against, and as what."""
    train = generator.recipe.train
    uses = [
        ("dlib-resnet", "identity loss", train.loss.lambda_identity > 0),
        ("efficientnet-lite0", "projected discriminators", train.loss.lambda_projected > 0),
        (train.content.network, "content loss", train.loss.lambda_content > 0),
    ]
    found: dict[str, list[str]] = {}
    for network, purpose, used in uses:
        if used:
            found.setdefault(network, []).append(purpose)
    for asset in generator.meta.assets.values():
        found.setdefault(asset.name, ["in training"])
    return found


def _notes(served: list[str], full_rank: dict[str, int], n: int, m: int) -> list[str]:
    notes = [
        "KID rewards flat colour: read it beside ID, the filters' rows and the sheet.",
        "The reference cartoons are also what the style was trained on.",
        "The held-out persons were told apart by the face network dlib-resnet.",
    ]
    if lacking := [f"{least} for {name}" for name, least in full_rank.items() if min(n, m) < least]:
        notes.append(
            f"FID compares only with n={n} against {m}: of too few pictures (fewer than {', '.join(lacking)}), "
            "its covariance has not full rank and it is mostly bias."
        )
    if served:
        notes.append(f"Also served in training, which flatters the stylized row: {'; '.join(served)}.")
    return notes


def _used(asset: Resolved) -> UsedAsset:
    return UsedAsset(name=asset.name, role=asset.role, source=asset.source, sha256=asset.sha256, licence=asset.licence)


def _sheet(photos: list[Rgb], stylized: list[Rgb]) -> Rgb:
    """Return photo | stylized pairs, two to a row, evenly spread over the set where it has more than 24."""
    chosen = np.linspace(0, len(photos) - 1, min(len(photos), _SHEET_PAIRS)).round().astype(int)
    pairs = [picture for index in chosen for picture in (photos[index], stylized[index])]
    return contact_sheet(pairs, 4, _SHEET_CELL_PX)
