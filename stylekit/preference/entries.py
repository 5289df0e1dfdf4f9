"""The methods that are compared: runs, checkpoints, style bundles, and folders of pictures made by any other tool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn

from stylekit.bundle import load_style
from stylekit.bundle.style import STYLE_FILE, Bundle
from stylekit.bundle.weights import unpack_generator
from stylekit.config.schema import Recipe
from stylekit.engine.checkpoint import META, Meta, load_generator, newest_run
from stylekit.errors import DataError, ImageError, UsageError
from stylekit.images import Rgb, list_images, read_rgb, resize, to_rgb, to_tensor
from stylekit.metrics.folder import PictureFolder
from stylekit.nn.device import find_device
from stylekit.paths import Workspace, sha256_bytes, sha256_file
from stylekit.preference.records import Entry


class Maker(Protocol):
    """Makes one picture of a crop."""

    def __call__(self, stem: str, crop: Rgb) -> Rgb:
        """Return the picture, RGB uint8 [S, S, 3], of the crop whose file has this stem.

        Raises:
            ImageError: If there is none.
        """


@dataclass(frozen=True, eq=False)
class OpenEntry:
    """An entry that is ready to draw.

    Attributes:
        entry: What the study keeps of it.
        size: Side of its pictures in pixels.
        network: photo [N, 3, H, W] RGB in [-1, 1] -> stylized, in eval mode on the CPU; None for a folder.
        template: How faces were aligned for it; None for a folder.
        meta: What the checkpoint of a run says of itself.
    """

    entry: Entry
    size: int
    network: nn.Module | None = None
    template: str | None = None
    meta: Meta | None = None

    @property
    def recipe(self) -> Recipe | None:
        """The recipe of a run."""
        return self.meta.recipe if self.meta else None

    def maker(self) -> Maker:
        """Return what makes its picture of a crop."""
        return _folder_maker(Path(self.entry.source)) if self.network is None else _network_maker(self.network, self.size)


def open_entries(names: Sequence[str | Path], workspace: Workspace) -> list[OpenEntry]:
    """Find every entry.

    Args:
        names: Paths of runs, checkpoints, bundles and folders of pictures; or names of runs in the workspace, and of styles.
        workspace: Where names are looked up.

    Raises:
        UsageError: If there are fewer than two, two are the same, or one is nothing of this kind.
        DataError: If a folder has no pictures.
        CheckpointError: If a run has no sound checkpoint.
        ExportError: If a bundle is damaged.
    """
    if len(names) < 2:
        raise UsageError("A choice needs two methods at least.", "For example: stylekit prefer 00000-mine-dctnet painted/")
    found = [open_entry(name, workspace) for name in names]
    for index, one in enumerate(found):
        for other in found[:index]:
            if one.entry.digest == other.entry.digest:
                raise UsageError(f"{other.entry.source} and {one.entry.source} are the same.", "Name two that differ.")
    labels = [one.entry.label for one in found]
    return [one if labels.count(one.entry.label) == 1 else _relabelled(one, one.entry.source) for one in found]


def _relabelled(one: OpenEntry, label: str) -> OpenEntry:
    return replace(one, entry=one.entry.model_copy(update={"label": label}))


def open_entry(name: str | Path, workspace: Workspace) -> OpenEntry:
    """Find one entry; see `open_entries`.

    Raises:
        UsageError: If it is nothing of this kind.
        DataError: If a folder has no pictures.
        CheckpointError: If a run has no sound checkpoint.
        ExportError: If a bundle is damaged.
    """
    name = str(name)
    path = Path(name)
    if not path.exists() and (workspace.runs / name).is_dir():
        path = workspace.runs / name
    if (path / "checkpoints").is_dir() or (path / META).is_file():
        return _run(path)
    if path.suffix == ".zip" or (path / STYLE_FILE).is_file():
        return _bundle(load_style(path, workspace), name)
    if path.is_dir():
        return _folder(path)
    if path.name == name and not path.suffix:
        run = newest_run(workspace, name)
        return _run(run) if run is not None else _bundle(load_style(name, workspace), name)
    raise UsageError(f"{name} is not a run, a checkpoint, a style or a folder of pictures.", "Check the path.")


def _run(path: Path) -> OpenEntry:
    loaded = load_generator(path)
    run = path.resolve()
    run = run.parent.parent if run.parent.name == "checkpoints" else run
    entry = Entry(label=f"{run.name}@{loaded.step}", kind="run", source=str(path), digest=loaded.sha256)
    recipe = loaded.recipe
    return OpenEntry(entry, recipe.train.size, loaded.module, recipe.align.template, loaded.meta)


def _bundle(bundle: Bundle, name: str) -> OpenEntry:
    network = bundle.style.networks.face
    entry = Entry(label=bundle.style.name, kind="style", source=name, digest=bundle.style.files[network.weights])
    return OpenEntry(entry, network.size, unpack_generator(bundle, network), network.template)


def _network_maker(network: nn.Module, size: int) -> Maker:
    device = find_device(None)
    module = network.to(device).eval()

    @torch.inference_mode()
    def make(stem: str, crop: Rgb) -> Rgb:
        seen = resize(crop, (size, size))
        return np.asarray(to_rgb(module(to_tensor(seen).to(device)))[0])

    return make


def _folder(path: Path) -> OpenEntry:
    files = _pictures_in(path)
    try:
        size = min(read_rgb(files[0]).shape[:2])
    except ImageError:
        size = 0
    lines = "".join(f"{file.relative_to(path).as_posix()} {sha256_file(file)}\n" for file in files)
    entry = Entry(label=path.resolve().name, kind="folder", source=str(path), digest=sha256_bytes(lines.encode()))
    return OpenEntry(entry, size)


def _pictures_in(path: Path) -> list[Path]:
    files = list_images(path)
    if not files:
        raise DataError(f"{path} holds no pictures, no run and no style.", "Check the path.")
    return files


def _folder_maker(path: Path) -> Maker:
    folder = PictureFolder(path)
    return lambda stem, crop: folder.read(stem)
