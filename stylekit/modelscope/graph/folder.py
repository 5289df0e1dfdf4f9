"""A model folder as ModelScope's portrait pipeline and trainer read it.

cartoon_h.pb cartoon_bg.pb     the frozen networks of heads and of everything else
alpha.jpg                      how a head fades into the picture, 288 px as the pipeline uses it
detector.pb keypoints.pb       upstream's face detector and landmarks, where a folder that has them is at hand
tf_ckpts/model-N               the training, where upstream's trainer can go on with it
configuration.json             what the folder is, and the trainer's settings
README.md LICENSE preview.jpg  the card
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from PIL import Image

from stylekit.assets import find_style, names_style
from stylekit.assets.catalogue import ModelScopeFolder
from stylekit.bundle import Style
from stylekit.bundle.card import CARD_FILE, LICENCE_FILE, PREVIEW_FILE, account, licence_notice
from stylekit.errors import CheckpointError, ExportError, UsageError
from stylekit.faces.mask import feather_mask
from stylekit.modelscope.graph.harmless import read_harmless
from stylekit.paths import atomic_folder, sha256_bytes, sha256_file

if TYPE_CHECKING:
    from stylekit.nn.unet import Generator

HEAD_FILE, BACKGROUND_FILE, MASK_FILE, CONFIGURATION_FILE = "cartoon_h.pb", "cartoon_bg.pb", "alpha.jpg", "configuration.json"
CHECKPOINTS = "tf_ckpts"
TASK, PIPELINE = "image-portrait-stylization", "unet-person-image-cartoon"
"""Upstream's names of the task and of the pipeline. Its configuration has no `model`: no class is registered for one."""

FACE_GRAPHS = {
    "detector.pb": ("tower_0/images", "training_flag", "tower_0/boxes", "tower_0/scores", "tower_0/num_detections"),
    "keypoints.pb": ("tower_0/images", "training_flag", "tower_0/prediction"),
}
"""The nodes that the pipeline feeds and reads (`models/cv/cartoon/facelib`)."""

_CROP_PX = 288  # `box_width` of upstream's ImageCartoonPipeline
_PATCH_PX = 256  # upstream's loader resizes to this, whatever `patch_size` says
_LEAST_BATCH = 16  # upstream's sample sheet is 4 x 4
_MARK = "stylekit"
_PROSE = (CARD_FILE, LICENCE_FILE, PREVIEW_FILE)


@dataclass(frozen=True)
class ModelFolder:
    """A model folder that was written.

    Attributes:
        path: The folder.
        lacks: Those of `detector.pb` and `keypoints.pb` that are not in it; with them it works in ModelScope's pipeline.
    """

    path: Path
    lacks: tuple[str, ...]

    def __str__(self) -> str:
        if not self.lacks:
            return str(self.path)
        return f"{self.path} (add {' and '.join(self.lacks)} of one of ModelScope's styles, or export with --faces DIR)"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of upstream's trainer, `model-N`.

    Attributes:
        number: N, steps counted from 0; the trainer takes 0 for none.
        files: Its files, by name.
    """

    number: int
    files: Mapping[str, bytes]


def write_model_folder(
    path: Path,
    style: Style,
    head: bytes,
    preview: bytes,
    *,
    background: bytes | None = None,
    faces: Mapping[str, bytes] | None = None,
    checkpoint: Checkpoint | None = None,
) -> ModelFolder:
    """Write a style as a model folder, in one rename.

    Args:
        path: Where to; an older one of ours is replaced, and whatever else was put into it (`detector.pb`, `vgg19.npy`, other
            checkpoints) stays.
        style: What it is.
        head: The face's network, frozen.
        preview: JPEG for the card.
        background: The network of the rest of the picture, frozen; by default the face's.
        faces: `detector.pb` and `keypoints.pb`, or one of them, as `read_face_graphs` returns them.
        checkpoint: Where upstream's trainer goes on; without it, it begins anew.

    Raises:
        UsageError: If other things are at `path`.
        StylekitError: If it cannot be written.
    """
    refuse_other(path)
    files = {HEAD_FILE: head, BACKGROUND_FILE: background or head, MASK_FILE: _mask(), PREVIEW_FILE: preview}
    files |= faces or {}
    files |= {f"{CHECKPOINTS}/{name}": data for name, data in checkpoint.files.items()} if checkpoint else {}
    there = {entry.name: entry for entry in path.iterdir()} if path.is_dir() else {}
    lacks = tuple(name for name in FACE_GRAPHS if name not in files and name not in there)
    epoch = checkpoint.number if checkpoint else 0
    files |= {LICENCE_FILE: licence_notice(style).encode(), CARD_FILE: _card(style, lacks, epoch).encode()}
    files[CONFIGURATION_FILE] = (json.dumps(_configuration(style, files, epoch), indent=2) + "\n").encode()
    before = _marked(path).get("files", {})
    if checkpoint and (path / CHECKPOINTS).is_symlink():
        del there[CHECKPOINTS]  # nothing is written through a link
    with atomic_folder(path) as folder:
        for name, entry in there.items():
            if name not in files:
                _copy(entry, folder / name)
        _remove_own(folder / CHECKPOINTS, before)
        for name, data in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(data)
    return ModelFolder(path, lacks)


def refuse_other(path: Path) -> None:
    """Refuse to write a model folder over anything but an older one of ours.

    Raises:
        UsageError: If `path` is a file, or a folder that stylekit did not write.
    """
    ours = bool(_marked(path)) or (path.is_dir() and not any(path.iterdir()))
    if path.suffix == ".zip" or (path.exists() and not ours):
        reason = "names a zip file" if path.suffix == ".zip" else "exists and is not a model folder of stylekit's"
        raise UsageError(f"{path} {reason}, so no ModelScope folder is written there.", "Choose another folder with --output.")


def is_current(path: Path, style: Style) -> bool:
    """Tell whether the model folder at `path` was written of this very style, and its networks are still whole."""
    mark = _marked(path)
    digests = mark.get("files", {})
    return (
        mark.get("style_sha256") == _digest(style)
        and set(digests) >= {HEAD_FILE, BACKGROUND_FILE, MASK_FILE}
        and all((path / name).is_file() and sha256_file(path / name) == digest for name, digest in digests.items())
    )


def read_face_graphs(folder: Path) -> dict[str, bytes]:
    """Return `detector.pb` and `keypoints.pb` of one of upstream's model folders.

    Raises:
        ExportError: If one is missing, does not have the nodes that the pipeline uses, or could do more than find faces.
    """
    try:
        return {name: read_harmless(folder / name, wanted) for name, wanted in FACE_GRAPHS.items()}
    except CheckpointError as error:
        raise ExportError(
            error.message,
            "Give --faces the folder of one of ModelScope's DCT-Net styles; every one of them has the same two files.",
        ) from error


def read_networks(path: Path) -> tuple[Generator, Generator]:
    """Return the networks of a model folder for faces and for the whole picture; of a single `.pb`, that one for both.

    Raises:
        CheckpointError: If a graph is missing, damaged, or another network.
    """
    from stylekit.modelscope.graph.frozen import read_frozen
    from stylekit.modelscope.graph.weights import generator_from

    head, whole = (path / HEAD_FILE, path / BACKGROUND_FILE) if path.is_dir() else (path, path)
    found = [generator_from(read_frozen(file), str(file)) for file in (head, whole if whole.is_file() else head)]
    return found[0].eval().requires_grad_(False), found[1].eval().requires_grad_(False)


def _marked(path: Path) -> dict[str, Any]:
    """Return what stylekit noted in the configuration of a folder; empty where it is not ours."""
    try:
        found = json.loads((path / CONFIGURATION_FILE).read_text("utf-8"))
        mark = found.get(_MARK)
    except (OSError, ValueError, AttributeError):
        return {}
    return mark if isinstance(mark, dict) else {}


def _copy(entry: Path, to: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.copytree(entry, to, symlinks=True)
    else:
        shutil.copy2(entry, to, follow_symlinks=False)


def _remove_own(checkpoints: Path, digests: Mapping[str, str]) -> None:
    """Remove the checkpoint that an earlier export has written, and the folder where it was alone in it."""
    if checkpoints.is_symlink() or not checkpoints.is_dir():
        return
    for file in list(checkpoints.iterdir()):
        digest = digests.get(f"{CHECKPOINTS}/{file.name}")
        if digest and file.is_file() and digest == sha256_file(file):
            file.unlink()
    if not any(checkpoints.iterdir()):
        checkpoints.rmdir()


def _mask() -> bytes:
    buffer = BytesIO()
    Image.fromarray((feather_mask(_CROP_PX) * 255 + 0.5).astype(np.uint8)).save(buffer, "JPEG", quality=100)
    return buffer.getvalue()


def _digest(style: Style) -> str:
    """Return a digest of what the folder tells of a style; which files its bundle has is no part of that."""
    return sha256_bytes(style.model_dump_json(exclude={"files", "networks"}).encode())


def _configuration(style: Style, files: Mapping[str, bytes], epoch: int) -> dict[str, Any]:
    train = style.training.recipe.get("train", {})
    return {
        "framework": "tensorflow",
        "task": TASK,
        "pipeline": {"type": PIPELINE},
        "train": {
            "photo": "face_photo",
            "cartoon": "face_cartoon",
            "patch_size": _PATCH_PX,
            "work_dir": "work_dir",
            "batch_size": max(train.get("batch_size", _LEAST_BATCH), _LEAST_BATCH),
            "adv_train_lr": train.get("learning_rate", 2e-4),
            "max_steps": train.get("max_steps", 300_000),
            "logging_interval": train.get("log_every", 50),
            "ckpt_period_interval": train.get("save_every", 1000),
            "resume_epoch": epoch,
            "num_gpus": 1,
        },
        _MARK: {
            "style": style.name,
            "style_sha256": _digest(style),
            "files": {name: sha256_bytes(data) for name, data in sorted(files.items()) if name not in _PROSE},
        },
    }


def _base_model(style: Style) -> str | None:
    """Return the hub's id of the published style that training started from; None where it started from another thing."""
    init = str(style.training.recipe.get("train", {}).get("init"))
    try:
        source = find_style(init).sources[0] if names_style(init) else None
    except UsageError:
        return None
    return source.repository if isinstance(source, ModelScopeFolder) else None


def _card(style: Style, lacks: tuple[str, ...], epoch: int) -> str:
    base = _base_model(style)
    matter = {
        "tasks": [TASK],
        "domain": ["cv"],
        "frameworks": ["TensorFlow"],
        "license": (style.licence or "unknown").lower(),
        "tags": ["dct-net", "cartoon", "portrait-stylization"],
        **({"base_model": base} if base else {}),
    }
    names = " and ".join(f"`{name}`" for name in lacks)
    missing = f"""
**Not yet here: {names}**, upstream's own face detector and landmarks, without which the pipeline does not
start. Every DCT-Net style on ModelScope has them: copy them from the folder of one into this folder, or export again with
`stylekit export --format modelscope --faces THAT_FOLDER`.
"""
    trainer = f"Upstream's trainer goes on from `{CHECKPOINTS}/model-{epoch}`, {epoch + 1:,} steps old."
    if not epoch:
        trainer = f"Upstream's trainer reads neither: without `{CHECKPOINTS}/` it begins anew, from random weights."
    return f"""\
---
{yaml.safe_dump(matter, sort_keys=False)}---

# {style.name}

{style.description or "A portrait style."}

![A portrait, its face and the whole of it in this style; below, pictures the style was learned from]({PREVIEW_FILE})

```python
from modelscope.pipelines import pipeline
from modelscope.utils.constant import Tasks

stylize = pipeline(Tasks.image_portrait_stylization, model="PATH_OF_THIS_FOLDER")
picture = stylize("me.jpg")["output_img"]  # B, G, R
```
{missing if lacks else ""}
`{HEAD_FILE}` draws aligned faces of {_CROP_PX} px, `{BACKGROUND_FILE}` the rest of the picture: `input_image`
(B, G, R from 0 to 255, height and width multiples of 4) to `output_image`.

{trainer} It needs the `vgg19.npy` of any DCT-Net style on ModelScope in this folder too.

{account(style)}"""
