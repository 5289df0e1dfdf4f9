"""`stylekit stylize --engine modelscope`: pictures through upstream's own portrait pipeline, for comparison with ours."""

from __future__ import annotations

import json
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stylekit.assets import modelscope_style, names_style
from stylekit.errors import ExportError, ImageError, StylekitError, UsageError
from stylekit.images import Rgb, read_rgb
from stylekit.modelscope.graph.folder import (
    BACKGROUND_FILE,
    CONFIGURATION_FILE,
    FACE_GRAPHS,
    HEAD_FILE,
    MASK_FILE,
    PIPELINE,
    TASK,
)
from stylekit.modelscope.graph.frozen import frozen_graph, read_file, read_frozen
from stylekit.modelscope.graph.harmless import MAX_BYTES, read_harmless
from stylekit.modelscope.graph.weights import generator_from
from stylekit.modelscope.runtime.device import found_device
from stylekit.modelscope.runtime.process import Child, Event, require_packages, visible_devices
from stylekit.paths import Workspace
from stylekit.progress import Progress, silent
from stylekit.stylizer.files import Format, StylizeReport, pair_files, stylize_files

if TYPE_CHECKING:
    from stylekit.modelscope.runtime.child import Job, Link

_PURPOSE = "Upstream's portrait pipeline"
_TASK = "stylekit.modelscope.portrait:draw"


def stylize(
    inputs: Sequence[Path],
    *,
    style: str | Path | None = None,
    output: Path | None = None,
    file_format: Format = "png",
    quality: int = 92,
    device: str = "auto",
    workspace: Workspace | None = None,
    progress: Progress = silent,
) -> StylizeReport:
    """Draw pictures with ModelScope's ImageCartoonPipeline; one that cannot be drawn is reported, and the rest goes on.

    Args:
        inputs: Picture files and folders of them.
        style: A model folder; `modelscope:3d` or another of the seven published styles; or a style or run that was exported as
            `modelscope`. The current style by default.
        output: A folder, or a file name when there is one input file; `stylized/` in the workspace by default.
        file_format: Format of the files in an output folder.
        quality: 1 to 100, for `jpg` and `webp`.
        device: `auto`, `cpu` or `cuda`.
        workspace: The project; the current folder by default.
        progress: Shows rate and time left.

    Raises:
        UsageError: If there is nothing to do, or an output would replace an input.
        ExportError: If there is no such style, or its folder lacks a file that the pipeline reads.
        CheckpointError: If one of its graphs is damaged, or the networks are others than DCT-Net's.
        MissingPartError: If a package that upstream imports is not installed.
        StylekitError: If the pipeline does not start.
    """
    workspace = workspace or Workspace()
    pairs = pair_files(inputs, output or workspace.root / "stylized", file_format)
    environment = visible_devices(device)
    folder = _find(style or workspace.current_style(), workspace)
    files = _check(folder)
    require_packages(_PURPOSE)
    with tempfile.TemporaryDirectory() as copied:
        for name, data in files.items():
            (Path(copied) / name).write_bytes(data)
        with _Upstream(Path(copied), [file for file, _ in pairs], device, environment) as upstream:
            return stylize_files(pairs, upstream.draw, style=str(style or folder), quality=quality, progress=progress)


def _find(style: str | Path | None, workspace: Workspace) -> Path:
    """Return the model folder of a style."""
    from stylekit.exporters.build import MODELSCOPE_FOLDER

    if style is None:
        raise UsageError("No style is named.", "Name a model folder, or modelscope:3d, with --style.")
    runs = reversed(workspace.run_folders(str(style)))
    for folder in (Path(style), *(run / MODELSCOPE_FOLDER for run in (Path(style), *runs))):
        if (folder / HEAD_FILE).is_file():
            return folder
    if Path(style).is_dir():
        raise ExportError(
            f"{style} has no {HEAD_FILE}.", "Name a folder of ModelScope's, or write one: stylekit export --format modelscope"
        )
    if names_style(str(style)):
        return modelscope_style(str(style)).path
    raise ExportError(
        f"The style {style} has not been written for ModelScope.",
        f"Run: stylekit export --format modelscope --style {style}, or name a published one, such as modelscope:{style}.",
    )


def _check(folder: Path) -> dict[str, bytes]:
    """Return the files that upstream is given in a folder's place, where that is whole and what it should be.

    Networks are written anew from their tensors, and the configuration holds what upstream looks for and no more: it could name
    packages to install. What is left of the folder's own are the picture of the mask and the face graphs, which only compute.
    """
    for name in (CONFIGURATION_FILE, BACKGROUND_FILE, MASK_FILE, *FACE_GRAPHS):
        if not (folder / name).is_file():
            hint = "Every DCT-Net style on ModelScope has the same one: copy it from there, or export again with --faces DIR."
            raise ExportError(f"{folder} has no {name}.", hint if name in FACE_GRAPHS else "Copy or export the folder again.")
    try:
        said: Any = json.loads((folder / CONFIGURATION_FILE).read_text("utf-8"))
        known = said["task"] == TASK and said["pipeline"]["type"] == PIPELINE
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        known = False
    if not known:
        raise ExportError(f"{folder / CONFIGURATION_FILE} is not that of a {TASK} model.", "Name a folder of a DCT-Net style.")
    configuration = {"framework": "tensorflow", "task": TASK, "pipeline": {"type": PIPELINE}}
    return {
        CONFIGURATION_FILE: json.dumps(configuration).encode(),
        MASK_FILE: read_file(folder / MASK_FILE, MAX_BYTES),
        **{name: frozen_graph(generator_from(read_frozen(folder / name))) for name in (HEAD_FILE, BACKGROUND_FILE)},
        **{name: read_harmless(folder / name, wanted) for name, wanted in FACE_GRAPHS.items()},
    }


class _Upstream:
    """The pipeline, drawing pictures in their order in a child process; one that brings the child down costs only itself."""

    def __init__(self, folder: Path, files: Sequence[Path], device: str, environment: dict[str, str]) -> None:
        self._folder, self._left, self._device, self._environment = folder, deque(files), device, environment
        self._running = ExitStack()
        self._events: Iterator[Event] | None = None

    def __enter__(self) -> _Upstream:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def _start(self) -> None:
        with ExitStack() as starting:
            scratch = starting.enter_context(tempfile.TemporaryDirectory())
            pictures = [str(file) for file in self._left]
            job = {"folder": str(self._folder.resolve()), "pictures": pictures, "scratch": scratch, "device": self._device}
            self._events = starting.enter_context(Child(_TASK, job, _PURPOSE, environment=self._environment)).events()
            next(self._events)
            self._running = starting.pop_all()

    def draw(self, file: Path) -> tuple[list[Rgb], int]:
        """Return the next picture drawn, and how many faces were found in it."""
        try:
            if self._events is None:
                self._start()
            assert self._events is not None
            self._left.popleft()
            event = next(self._events)
        except StylekitError as error:
            self._running.close()
            self._events = None
            raise ImageError(f"{file}: {error.message}", error.hint) from error
        if "error" in event:
            raise ImageError(event["error"], event["hint"])
        drawn = Path(event["drawn"])
        picture: Rgb = np.load(drawn)
        drawn.unlink()
        return [picture], event["faces"]


def draw(job: Job, link: Link) -> None:
    """In the child: draw one picture after the other; each becomes an event, with the picture or the reason why not."""
    import tensorflow as tf
    from modelscope.outputs import OutputKeys
    from modelscope.pipelines import pipeline

    found_device(tf, job["device"], link)
    upstream: Any = pipeline(TASK, model=job["folder"])
    detect = upstream.detect_face
    faces = 0

    def detect_and_count(image: Any) -> Any:
        nonlocal faces
        landmarks = detect(image)
        faces = 0 if landmarks is None else len(landmarks)
        return landmarks

    upstream.detect_face = detect_and_count
    link.tell("ready")
    for index, name in enumerate(job["pictures"]):
        if link.stopping.is_set():
            break
        try:
            photo = read_rgb(Path(name))
            result = upstream(photo[..., ::-1])[OutputKeys.OUTPUT_IMG]
        except StylekitError as error:
            link.tell("refused", error=error.message, hint=error.hint)
        except Exception as error:
            reason = (str(error).strip().splitlines() or [""])[0].rstrip(".")
            link.tell("refused", error=f"{_PURPOSE} cannot draw {name}: {type(error).__name__}: {reason}.", hint="")
        else:
            drawn = Path(job["scratch"]) / f"{index}.npy"
            np.save(drawn, _to_rgb(result, photo.shape))
            link.tell("picture", drawn=str(drawn), faces=faces)


def _to_rgb(result: Any, shape: tuple[int, ...]) -> Rgb:
    """Return a result as `cv2.imwrite` rounds it, in RGB; one without faces, which upstream leaves small, at the photo's size."""
    import cv2

    if result.shape[:2] != shape[:2]:
        result = cv2.resize(result, shape[1::-1], interpolation=cv2.INTER_AREA)
    levels: Rgb = np.clip(np.rint(result), 0, 255).astype(np.uint8)[..., ::-1]
    return np.ascontiguousarray(levels)
