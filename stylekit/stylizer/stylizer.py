"""`Stylizer`: a style as a Python object that turns pictures into pictures."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from stylekit.assets import modelscope_style, names_style
from stylekit.bundle import STARTER, Bundle, load_style
from stylekit.bundle.style import STYLE_FILE
from stylekit.errors import UsageError
from stylekit.faces.align import Matrix, face_matrix, paste_back, scale_of, warp
from stylekit.faces.finder import FaceFinder, MeshFinder
from stylekit.faces.mask import feather_mask
from stylekit.faces.quality import shows_face
from stylekit.modelscope.graph.folder import HEAD_FILE, read_networks
from stylekit.paths import Workspace
from stylekit.stylizer.network import Rgb, Translate, holds_8_bits, open_network, torch_network, translate

_LOG = logging.getLogger(__name__)

# modelscope pipelines/cv/image_cartoon_pipeline.py runs a network trained at 256 px on faces of 288 px and on pictures whose
# short side is 720 px at most; both are kept in proportion to the training size.
_FACE_ZOOM = 288 / 256
_SHORT_SIDE = 720 / 256
_PUBLISHED_PX = 256
_LONGEST = 4.0  # long sides to short sides; beyond it the network sees less, so that a panorama needs no more memory


@dataclass(frozen=True)
class StylizedFace:
    """One face of a picture.

    Attributes:
        crop: The aligned face, stylized, RGB uint8 [S, S, 3].
        matrix: Picture to crop.
    """

    crop: Rgb
    matrix: Matrix


class Stylizer:
    """A style, ready to use. Networks are loaded once, the face finder when it is first needed.

    Args:
        style: A bundle, the path of one, a run or checkpoint folder, or the name of a style; a model folder of ModelScope, a
            `.pb` or `modelscope:NAME`, one of the published styles. None takes the current style, and where there is none the
            starter style that comes with the package.
        size: Short side in pixels at which the network sees a whole picture; by default 720/256 of its training size.
        strength: How much of the style shows: 0 is the photograph, 1 the style alone, 0.5 the mean of both. By default what the
            style itself says, which is 1 for the published ones.
        device: `auto`, `cpu`, `cuda` or `mps`.
        fast: On a CPU, compute in 8 bits where the style was exported so and that is faster here; it draws a little differently.
            A warning says where it comes to nothing.
        workspace: Where names are looked up; the current folder by default.

    Raises:
        UsageError: If the device is not there, or `strength` is not from 0 to 1.
        ExportError: If there is no such style, or it is damaged.
        CheckpointError: If a frozen graph is damaged, or another network.
        AssetError: If a published style cannot be had.

    Example:
        stylized = Stylizer("archer-style")(photo)
    """

    def __init__(
        self,
        style: str | Path | Bundle | None = None,
        *,
        size: int | None = None,
        strength: float | None = None,
        device: str = "auto",
        fast: bool = False,
        workspace: Workspace | None = None,
    ) -> None:
        if strength is not None and not 0 <= strength <= 1:
            raise UsageError(f"The strength must be from 0 to 1, not {strength:g}.", "1 is the style alone.")
        self._face: Translate
        self._background: Translate
        in_8_bits = self._open(style, device, workspace or Workspace(), fast)
        if fast and not in_8_bits:
            _LOG.warning(
                "%s is drawn in float32: 8 bits need a CPU, and a bundle made with: stylekit export --format onnx-int8", self.name
            )
        self._short_side = size or round(_SHORT_SIDE * self._trained_size)
        if strength is not None:
            self.strength = strength

    def _open(self, style: str | Path | Bundle | None, device: str, workspace: Workspace, fast: bool) -> bool:
        """Load the networks, and tell whether there is one that `fast` is for."""
        if style is None:
            style = workspace.current_style() or STARTER
        if not isinstance(style, Bundle) and (published := _published(style)):
            self.name, self._trained_size, self._template = published.stem, _PUBLISHED_PX, "dctnet"
            self.strength = 1.0
            self._face, self._background = (torch_network(module, device) for module in read_networks(published))
            return False
        found = style if isinstance(style, Bundle) else bundle_or_run(style, workspace)
        if isinstance(found, Bundle):
            networks = found.style.networks
            self.name, self._trained_size, self._template = found.style.name, networks.face.size, networks.face.template
            self.strength = found.style.strength
            self._face = open_network(found, networks.face, device, fast=fast)
            behind = networks.background
            self._background = open_network(found, behind, device, fast=fast) if behind else self._face
            return any(holds_8_bits(each, device) for each in (networks.face, behind) if each)
        from stylekit.engine.checkpoint import load_generator

        loaded = load_generator(found)
        self.name, self._trained_size, self._template = (
            loaded.recipe.style,
            loaded.recipe.train.size,
            loaded.recipe.align.template,
        )
        self.strength = loaded.recipe.stylize.strength
        self._face = self._background = torch_network(loaded.module, device)
        return False

    def __call__(self, image: NDArray[np.uint8]) -> Rgb:
        """Return the whole picture stylized, background and every face, at its own size; RGB uint8 [H, W, 3] in and out."""
        return self.picture(image)[0]

    def picture(self, image: NDArray[np.uint8]) -> tuple[Rgb, int]:
        """Return the whole picture stylized, and how many faces were found in it."""
        photo = _check(image)
        result = translate(self._background, photo, self._seen(photo))
        faces = self._faces(photo)
        for face in reversed(faces):  # the largest last, on top
            result = paste_back(result, face.crop, face.matrix, feather_mask(len(face.crop)))
        return self._mix(photo, result), len(faces)

    def faces(self, image: NDArray[np.uint8], size: int | None = None) -> list[StylizedFace]:
        """Return every face found, aligned and stylized, the largest first.

        Args:
            image: RGB uint8 [H, W, 3].
            size: Side of the crops in pixels; by default as large as the face is in the picture, and no less than the network
                was trained at.
        """
        photo = _check(image)
        if self.strength == 1:
            return self._faces(photo, size)
        return [
            replace(face, crop=self._mix(warp(photo, face.matrix, len(face.crop)), face.crop))
            for face in self._faces(photo, size)
        ]

    def _faces(self, photo: Rgb, size: int | None = None) -> list[StylizedFace]:
        """Return every face at full strength."""
        found = self._finder.find(photo)
        return [
            self._stylize_face(photo, each.landmarks_5, size) for each in found if shows_face(each.mesh.presence, each.mesh.shift)
        ]

    @cached_property
    def _finder(self) -> FaceFinder:
        return MeshFinder()

    def _stylize_face(self, photo: Rgb, points: NDArray[np.float32], size: int | None) -> StylizedFace:
        natural = math.ceil(self._trained_size / scale_of(face_matrix(points, self._template, self._trained_size)))
        side = size or max(self._trained_size, natural)
        matrix = face_matrix(points, self._template, side)
        seen = min(side, round(_FACE_ZOOM * self._trained_size / 4) * 4)
        return StylizedFace(translate(self._face, warp(photo, matrix, side), (seen, seen)), matrix)

    def _mix(self, photo: Rgb, stylized: Rgb) -> Rgb:
        if self.strength == 1:
            return stylized
        return np.asarray(cv2.addWeighted(stylized, self.strength, photo, 1 - self.strength, 0), np.uint8)

    def _seen(self, photo: Rgb) -> tuple[int, int]:
        height, width = photo.shape[:2]
        short, long = sorted((height, width))
        scale = min(1.0, self._short_side / short, self._short_side * _LONGEST / long)
        return max(1, round(width * scale)), max(1, round(height * scale))


def _published(style: str | Path) -> Path | None:
    """Return the model folder or frozen graph of ModelScope's that is meant, None for a style of ours."""
    path = Path(style)
    if names_style(str(style)) and not path.exists():
        return modelscope_style(str(style)).path
    return path if path.suffix == ".pb" or (path / HEAD_FILE).is_file() else None


def bundle_or_run(style: str | Path, workspace: Workspace) -> Bundle | Path:
    """Return the bundle of a style, or its run where the bundle does not hold the checkpoint that stands for the run.

    Args:
        style: A run or checkpoint folder, which is returned as it is; a bundle's path, or the name of a style.
        workspace: Where names are looked up.

    Raises:
        ExportError: If there is no such style, or it is damaged.
        CheckpointError: If the run has no sound checkpoint.
    """
    if (Path(style) / "checkpoints").is_dir() or (Path(style) / "meta.json").is_file():
        return Path(style)
    from stylekit.engine.checkpoint import WEIGHTS, chosen_checkpoint, describe_checkpoint, newest_run

    run = newest_run(workspace, str(style))
    if run is None or (Path(style) / STYLE_FILE).is_file():
        return load_style(style, workspace)
    if (run / "bundle" / STYLE_FILE).is_file():
        bundle = load_style(run / "bundle")
        if describe_checkpoint(chosen_checkpoint(run)).sha256[WEIGHTS] == bundle.style.training.checkpoint_sha256:
            return bundle
    return run


def _check(image: NDArray[np.uint8]) -> Rgb:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise UsageError(
            f"A picture must be RGB uint8 [H, W, 3], not {image.dtype} {list(image.shape)}.",
            "Read it with stylekit.images.read_rgb.",
        )
    return np.ascontiguousarray(image)
