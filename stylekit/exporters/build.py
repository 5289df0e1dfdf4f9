"""The verb `export`: from a checkpoint to a style bundle whose every network was compared with the trained one."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args

import torch
from torch import nn

import stylekit
from stylekit.assets import find_in_styles, modelscope_style, names_style
from stylekit.bundle import Bundle, BundledNetwork, DataSummary, Metrics, Networks, Style, Training, read_bundle, write_bundle
from stylekit.bundle.card import PREVIEW_FILE, documents
from stylekit.bundle.style import STYLE_FILE
from stylekit.bundle.weights import pack_weights, unpack_generator
from stylekit.config.schema import NetworkRecipe
from stylekit.data.datasets import is_described, used_crops
from stylekit.data.manifest import ManifestLine
from stylekit.data.shards import photo_set
from stylekit.engine.checkpoint import META, LoadedGenerator, chosen_checkpoint, load_generator, newest_run
from stylekit.engine.exchange import tf_arrays
from stylekit.errors import CheckpointError, ExportError, MissingPartError, UsageError
from stylekit.exporters.int8 import CALIBRATED, portraits, to_int8
from stylekit.exporters.onnx_graph import to_onnx
from stylekit.exporters.preview import preview
from stylekit.exporters.torchscript import to_torchscript
from stylekit.exporters.verify import (
    MAX_LEVELS,
    Parity,
    enforce,
    measure,
    measure_on,
    run_frozen,
    run_module,
    run_onnx,
    run_torchscript,
)
from stylekit.metrics.report import HEADLINES, EvalReport, read_report
from stylekit.modelscope.graph.folder import (
    CHECKPOINTS,
    FACE_GRAPHS,
    Checkpoint,
    ModelFolder,
    is_current,
    read_face_graphs,
    refuse_other,
    write_model_folder,
)
from stylekit.modelscope.graph.frozen import frozen_graph
from stylekit.modelscope.runtime.checkpoints import write_checkpoint
from stylekit.paths import Workspace
from stylekit.progress import Progress, silent

Format = Literal["safetensors", "onnx", "onnx-int8", "torchscript", "modelscope"]
BUNDLE_FOLDER, MODELSCOPE_FOLDER = "bundle", "modelscope"
_LOG = logging.getLogger(__name__)
_FILES: dict[Format, str] = {
    "safetensors": "face.safetensors",
    "onnx": "face.onnx",
    "onnx-int8": "face.int8.onnx",
    "torchscript": "face.torchscript.pt",
}
_UPSTREAM_NETWORK = NetworkRecipe(width=32, blocks=4)  # `unet_generator` in upstream's models/cv/cartoon/network.py
_SHOWN = 8
# The mean embedding of the people trained on is theirs, and nobody needs it to compare; the gauges' digests are for eval.json.
_PROTOCOL_OMITS = {"identity_centre", "gauges"}


@dataclass(frozen=True)
class ExportReport:
    """What `export` made.

    Attributes:
        path: The bundle; the model folder where that alone was asked for.
        style: The bundle's `style.json`.
        parity: For each format, how far it is from the trained network; empty where the bundle was up to date already.
        precision: How the bundle's weights are stored: `float16`, or `float32` where rounding showed in the pictures; None where
            no bundle was asked for.
        modelscope: The folder for ModelScope's pipeline, where one was asked for, and what it lacks.
        notes: What else there is to know about that folder, in sentences.
    """

    path: Path
    style: Style
    parity: dict[Format, Parity]
    precision: Literal["float16", "float32"] | None
    modelscope: ModelFolder | None = None
    notes: tuple[str, ...] = ()


def export(
    source: str | Path | None = None,
    *,
    formats: Sequence[Format] | None = None,
    output: Path | None = None,
    faces: str | Path | None = None,
    workspace: Workspace | None = None,
    progress: Progress = silent,
) -> ExportReport:
    """Write a style bundle from a trained run, a model folder for ModelScope, or both.

    Args:
        source: A run, a checkpoint folder or the name of a style (its newest run); None takes the current style.
        formats: Beside safetensors, which every bundle holds; by default what the recipe says. `onnx-int8` brings `onnx` with
            it, which computes where 8 bits do not pay. `modelscope` alone writes no bundle.
        output: A folder, or a zip file; `bundle/` in the run by default. A model folder goes beside it, or takes its place.
        faces: For `modelscope`: one of its own model folders, or `modelscope:NAME`, whose `detector.pb` and `keypoints.pb` are
            copied; by default those of what training started from, else of a published style that is at hand.
        workspace: The project; the current folder by default.
        progress: Shows what is under way.

    Raises:
        UsageError: If no style is named and none is current, or `output` holds other things.
        MissingPartError: If `modelscope` is asked for and its file format's package is not installed.
        CheckpointError: If there is no trained run, or it is damaged.
        AssetError: If the published style named by `faces` cannot be had.
        ExportError: If `faces` lacks a graph, or a network differs from the trained one by more than one 8-bit level (one in 8
            bits, by more than half a level on average); nothing is written then.
    """
    workspace = workspace or Workspace()
    run, checkpoint, loaded = _load(source, workspace)
    alone = tuple(formats or ()) == ("modelscope",)
    wanted = ("modelscope",) if alone else _known(formats or loaded.recipe.export.formats)
    bundle, folder = _places(run, output, wanted, alone=alone)
    if folder:
        refuse_other(folder)
    if faces and not folder:
        raise UsageError("--faces is for a ModelScope folder, and none is asked for.", "Add --format modelscope.")
    graphs, notes = _face_graphs(faces, loaded.recipe.train.init, folder) if folder else ({}, [])
    style = _describe(run, loaded, wanted, workspace)
    if style.metrics is None and (measured := [f"step {report.network.step}" for report in _reports(run)]):
        _LOG.warning(
            "The figures are left out: they are of other weights (%s), and this is step %d. Run: stylekit eval --run %s",
            ", ".join(measured),
            loaded.step,
            checkpoint,
        )
    made: dict[Format, bytes] = {}
    parity: dict[Format, Parity] = {}
    with progress("Exporting", total=len(wanted) + 2) as bar:
        shipped, precision = _rounded(loaded) if bundle else (loaded.module, None)
        half = precision == "float16"
        bar.advance()
        for kind in wanted:
            made[kind] = _convert(kind, loaded, shipped, half, style)
            parity[kind] = enforce(kind, _compare(kind, made[kind], loaded, style))
            bar.advance(1, format=kind, levels=parity[kind].max_levels)
        files = {_FILES[kind]: made[kind] for kind in wanted if kind in _FILES}
        shown = Bundle(run, style, files) if bundle else checkpoint
        files[PREVIEW_FILE] = preview(shown, _cartoon_files(workspace.style(loaded.recipe.style)))
        if bundle:
            style = write_bundle(bundle, style, files | documents(style))
        written = None
        if folder:
            kept, why = _upstream_checkpoint(checkpoint, loaded)
            notes.append(why)
            head = made["modelscope"]
            written = write_model_folder(folder, style, head, files[PREVIEW_FILE], faces=graphs, checkpoint=kept)
        bar.advance()
    target = bundle or folder
    assert target is not None
    return ExportReport(target, style, parity, precision, written, tuple(notes))


def up_to_date(source: str | Path | None = None, *, workspace: Workspace | None = None, progress: Progress = silent) -> Bundle:
    """Return the bundle in a run, exporting it first where the run went on, was measured anew, or was never exported.

    Raises:
        StylekitError: As `export` does.
    """
    workspace = workspace or Workspace()
    run, _, loaded = _load(source, workspace)
    path, folder = _places(run, None, wanted := _known(loaded.recipe.export.formats))
    assert path is not None
    if (path / STYLE_FILE).is_file():
        bundle = read_bundle(path)
        there: tuple[Format, ...] = tuple(kind for kind, name in _FILES.items() if name in bundle.files)
        described = _describe(run, loaded, there, workspace)
        if set(wanted) <= {*there, "modelscope"} and bundle.style.model_copy(update={"files": {}}) == described:
            if folder and not is_current(folder, described):
                export(source, formats=("modelscope",), workspace=workspace, progress=progress)
            return bundle
    return read_bundle(export(source, workspace=workspace, progress=progress).path)


def _places(run: Path, output: Path | None, wanted: Sequence[Format], *, alone: bool = False) -> tuple[Path | None, Path | None]:
    """Return where the bundle goes and where the model folder does, None for what is not wanted."""
    if alone:
        return None, output or run / MODELSCOPE_FOLDER
    if "modelscope" not in wanted:
        return output or run / BUNDLE_FOLDER, None
    beside = output.with_name(f"{output.name.removesuffix('.zip')}-{MODELSCOPE_FOLDER}") if output else run / MODELSCOPE_FOLDER
    return output or run / BUNDLE_FOLDER, beside


def _face_graphs(faces: str | Path | None, init: str | None, folder: Path) -> tuple[dict[str, bytes], list[str]]:
    """Return the graphs that find faces, those that the folder lacks unless they are named, and where they come from."""
    if faces:
        named = names_style(str(faces)) and not Path(faces).exists()
        return read_face_graphs(modelscope_style(str(faces)).path if named else Path(faces)), []
    lacks = [name for name in FACE_GRAPHS if not (folder / name).exists()]
    own = Path(init).expanduser() if init else None
    at_hand = (own, str(own)) if own and all((own / name).is_file() for name in FACE_GRAPHS) else find_in_styles(*FACE_GRAPHS)
    if not lacks or not at_hand:
        return {}, []
    try:
        graphs = read_face_graphs(at_hand[0])
    except ExportError as error:
        return {}, [error.message]
    return {name: graphs[name] for name in lacks}, [
        f"{' and '.join(lacks)} {'is' if len(lacks) == 1 else 'are'} from {at_hand[1]}."
    ]


def _upstream_checkpoint(checkpoint: Path, loaded: LoadedGenerator) -> tuple[Checkpoint | None, str]:
    """Return the training as upstream's trainer goes on with it, or None where it cannot; and a sentence about it."""
    number = loaded.step - 1  # upstream counts from 0, and takes 0 for a fresh start
    anew = "Upstream's trainer would begin anew with it:"
    if loaded.recipe.train.network != _UPSTREAM_NETWORK:
        size = f"width {_UPSTREAM_NETWORK.width} with {_UPSTREAM_NETWORK.blocks} residual blocks"
        return None, f"{anew} its own network has {size}."
    if number < 1:
        return None, f"{anew} it goes on from the second step or a later one."
    try:
        arrays = tf_arrays(checkpoint)
        with TemporaryDirectory() as scratch:
            write_checkpoint(arrays, Path(scratch) / f"model-{number}")
            files = {file.name: file.read_bytes() for file in sorted(Path(scratch).iterdir())}
    except MissingPartError as missing:
        return None, f"{anew} TensorFlow, which writes its checkpoints, is not installed. {missing.hint}"
    except CheckpointError as error:
        return None, f"{anew} {error.message} {error.hint}"
    return Checkpoint(number, files), f"Upstream's trainer goes on from {CHECKPOINTS}/model-{number}."


def _load(source: str | Path | None, workspace: Workspace) -> tuple[Path, Path, LoadedGenerator]:
    """Return the run folder, the checkpoint asked for and its generator."""
    if source is None:
        source = workspace.current_style()
        if source is None:
            raise UsageError("No style is named and none is current here.", "Name one with --style.")
    folder = Path(source)
    if not ((folder / "checkpoints").is_dir() or (folder / META).is_file()):
        newest = newest_run(workspace, str(source))
        if newest is None:
            raise CheckpointError(f"There is no trained run of {str(source)!r}.", "Train one: stylekit train")
        folder = newest
    checkpoint = chosen_checkpoint(folder)
    return checkpoint.parent.parent if checkpoint == folder else folder, checkpoint, load_generator(checkpoint)


def _known(formats: Sequence[Format]) -> tuple[Format, ...]:
    """Return the formats in the order in which they are made, safetensors always among them, and onnx beside its 8 bits."""
    every: tuple[Format, ...] = get_args(Format)
    if unknown := [kind for kind in formats if kind not in every]:
        raise UsageError(f"There is no format {unknown[0]!r}.", f"Formats: {', '.join(every)}.")
    implied = {"safetensors", "onnx"} if "onnx-int8" in formats else {"safetensors"}
    return tuple(kind for kind in every if kind in implied.union(formats))


def _rounded(loaded: LoadedGenerator) -> tuple[nn.Module, Literal["float16", "float32"]]:
    """Round the weights to float16 if that does not show, and say which it is; arithmetic stays float32."""
    half = deepcopy(loaded.module).half().float()
    if measure(loaded.module, run_module(half), loaded.recipe.train.size).max_levels <= MAX_LEVELS / 2:
        return half, "float16"
    return loaded.module, "float32"


def _convert(kind: Format, loaded: LoadedGenerator, module: nn.Module, half: bool, style: Style) -> bytes:
    if kind == "modelscope":
        return frozen_graph(loaded.module)  # upstream has no half precision
    if kind == "onnx":
        return to_onnx(module, half=half)
    if kind == "onnx-int8":
        return to_int8(to_onnx(module, half=False), portraits(*_seen(style))[:CALIBRATED])
    if kind == "torchscript":
        return to_torchscript(module)
    training = style.training
    metadata = {
        "format": "pt",
        "stylekit": training.stylekit,
        "style": style.name,
        "arch": style.networks.face.arch,
        "step": str(training.steps),
        "recipe": json.dumps(training.recipe),
    }
    return pack_weights(module, torch.float16 if half else torch.float32, metadata)


def _compare(kind: Format, data: bytes, loaded: LoadedGenerator, style: Style) -> Parity:
    if kind == "onnx-int8":
        return measure_on(loaded.module, run_onnx(data), portraits(*_seen(style))[CALIBRATED:])
    if kind == "safetensors":
        network = style.networks.face
        run = run_module(unpack_generator(Bundle(Path(style.name), style, {network.weights: data}), network))
    else:
        run = {"onnx": run_onnx, "torchscript": run_torchscript, "modelscope": run_frozen}[kind](data)
    return measure(loaded.module, run, loaded.recipe.train.size)


def _seen(style: Style) -> tuple[str, int]:
    """Return how the network's faces are aligned, and their side in pixels."""
    return style.networks.face.template, style.networks.face.size


def _describe(run: Path, loaded: LoadedGenerator, formats: Sequence[Format], workspace: Workspace) -> Style:
    recipe, meta = loaded.recipe, loaded.meta
    face = BundledNetwork(
        **recipe.train.network.model_dump(),
        weights=_FILES["safetensors"],
        onnx=_FILES["onnx"] if "onnx" in formats else None,
        onnx_int8=_FILES["onnx-int8"] if "onnx-int8" in formats else None,
        torchscript=_FILES["torchscript"] if "torchscript" in formats else None,
        size=recipe.train.size,
        template=recipe.align.template,
    )
    training = Training(
        recipe=_without_folders(recipe.model_dump(mode="json")),
        steps=loaded.step,
        images_seen=meta.images_seen,
        hours=round(meta.train_s / 3600, 3) if meta.train_s else None,
        hardware=_hardware(run),
        assets={role: used.name for role, used in meta.assets.items()},
        checkpoint_sha256=loaded.sha256,
        stylekit=stylekit.__version__,
        photos=_summary(photo_set(recipe.photos.source, workspace)),
        cartoons=_summary(workspace.style(recipe.style)),
    )
    return Style(
        name=recipe.style,
        description=recipe.description,
        licence=recipe.licence,
        authors=recipe.authors,
        networks=Networks(face=face),
        strength=recipe.stylize.strength,
        training=training,
        metrics=_metrics(run, loaded.sha256),
    )


def _without_folders(value: Any) -> Any:
    """Shorten absolute paths to their last part: a bundle travels, and a home folder is nobody else's business."""
    if isinstance(value, dict):
        return {key: _without_folders(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_without_folders(part) for part in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _hardware(run: Path) -> str | None:
    try:
        found = json.loads((run / "env.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return str(found.get("gpu") or found.get("device") or "") or None


def _used(folder: Path) -> list[ManifestLine]:
    return [line for line, _ in used_crops(folder)] if is_described(folder) else []


def _summary(folder: Path) -> DataSummary | None:
    lines = _used(folder)
    if not lines:
        return None
    generators = {f"{line.generation.engine}: {line.generation.model}" for line in lines if line.generation}
    persons = {line.person for line in lines if line.person}
    return DataSummary(
        used=len(lines),
        held_out=sum(line.split == "eval" for line in lines),
        persons=len(persons) or None,
        licences=dict(Counter(line.licence or "unknown" for line in lines).most_common()),
        attributions=tuple(sorted({line.attribution for line in lines if line.attribution})),
        generators=tuple(sorted(_without_folders(sorted(generators)))),
    )


def _reports(run: Path) -> list[EvalReport]:
    """Return the evaluations of a run, and of those of its checkpoints that were measured by themselves."""
    files = [run / "eval.json", *sorted(run.glob("checkpoints/*/eval.json"))]
    return [read_report(file) for file in files if file.is_file()]


def _metrics(run: Path, checkpoint_sha256: str) -> Metrics | None:
    """Return what was measured on this very checkpoint."""
    report = next((each for each in _reports(run) if each.network.sha256 == checkpoint_sha256), None)
    if report is None:
        return None
    return Metrics(
        protocol=report.protocol.model_dump(mode="json", exclude=_PROTOCOL_OMITS),
        rows=report.rows,
        intervals=report.intervals,
        headlines=tuple(report.name(metric) for metric in HEADLINES),
        notes=tuple(report.notes),
    )


def _cartoon_files(folder: Path) -> list[Path]:
    """Return the cartoons to show, evenly spread over the set."""
    lines = _used(folder)
    count = min(_SHOWN, len(lines))
    return [folder / str(lines[i * len(lines) // count].file) for i in range(count)]
