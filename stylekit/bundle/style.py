"""A style bundle: `style.json`, the networks it names, a preview, a card and a licence, in one folder or zip file."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stylekit.config.schema import NetworkRecipe
from stylekit.errors import ExportError, UsageError
from stylekit.paths import Workspace, atomic_folder, atomic_write_bytes, sha256_bytes, slug

STYLE_FILE = "style.json"
STARTER = "toon-head"
"""The style that comes with the package, for who has none yet."""

_PACKAGED = Path(__file__).parents[1] / "styles"
_MAX_FILE_BYTES = 512 * 2**20

FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class BundledNetwork(NetworkRecipe):
    """One network of a bundle: RGB float32 NCHW in [-1, 1] in and out, H and W multiples of 4.

    Attributes:
        weights: safetensors file; its tensors are named as in `stylekit.nn`.
        onnx: ONNX file, input `photo`, output `stylized`, any N, H and W, clipping left to the caller.
        onnx_int8: ONNX file of the same network with its deepest convolutions in 8 bits; draws a little differently.
        torchscript: TorchScript file of the same network.
        size: Crop side in pixels that it was trained at.
        template: How faces were aligned for it.
    """

    weights: FileName
    onnx: FileName | None = None
    onnx_int8: FileName | None = None
    torchscript: FileName | None = None
    size: Annotated[int, Field(ge=32, le=1024)]
    template: str


class Networks(_Record):
    """The networks of a style; without `background`, the face's network draws the whole picture."""

    face: BundledNetwork
    background: BundledNetwork | None = None


class DataSummary(_Record):
    """Which pictures a style was trained with.

    Attributes:
        used: Pictures trained on or held out.
        held_out: Those of them kept for evaluation.
        persons: Identity clusters among photographs, where known.
        licences: Pictures by licence; "unknown" where none was recorded.
        attributions: Whom to name.
        generators: What drew them, where they were generated.
    """

    used: int
    held_out: int = 0
    persons: int | None = None
    licences: dict[str, int] = {}
    attributions: tuple[str, ...] = ()
    generators: tuple[str, ...] = ()


class Training(_Record):
    """How a style came about.

    Attributes:
        recipe: The resolved recipe. It is kept as data, so that a later stylekit reads it whatever its schema has become.
        steps: Training steps done.
        images_seen: Photographs shown, counting repeats.
        hours: Time spent training.
        hardware: Device trained on.
        assets: Frozen networks in use, by role.
        checkpoint_sha256: Digest of the checkpoint that the networks come from.
        stylekit: Version that exported it.
    """

    recipe: dict[str, Any]
    steps: int
    images_seen: int | None = None
    hours: float | None = None
    hardware: str | None = None
    assets: dict[str, str] = {}
    checkpoint_sha256: str
    stylekit: str
    photos: DataSummary | None = None
    cartoons: DataSummary | None = None


class Metrics(_Record):
    """What `stylekit eval` measured on the checkpoint of this bundle.

    Attributes:
        protocol: The conditions the numbers were taken under.
        rows: For each set of pictures its figures, by full name.
        intervals: Their 95 % intervals over persons, of those that have one.
        headlines: Full names of the figures that the card shows; all where none is named.
        notes: What a reader must know before comparing.
    """

    protocol: dict[str, Any]
    rows: dict[str, dict[str, float]]
    intervals: dict[str, dict[str, tuple[float, float]]] = {}
    headlines: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Style(_Record):
    """`style.json`, version 1.

    Attributes:
        licence: SPDX expression; None until its owner grants one.
        strength: How much of the style shows unless the user says otherwise: 0 is the photograph, 1 the style alone.
        metrics: None when the style was not measured.
        files: SHA-256 of every other file of the bundle.
    """

    format_version: Literal[1] = 1
    name: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    version: str = "1"
    description: str = ""
    licence: str | None = None
    authors: tuple[str, ...] = ()
    networks: Networks
    strength: Annotated[float, Field(ge=0, le=1)] = 1.0
    training: Training
    metrics: Metrics | None = None
    files: dict[FileName, str] = {}


@dataclass(frozen=True)
class Bundle:
    """A style read into memory, every file checked against its digest.

    Attributes:
        path: The folder or zip file.
        style: What `style.json` says.
        files: Contents by name.
    """

    path: Path
    style: Style
    files: Mapping[str, bytes] = field(repr=False)


def write_bundle(path: Path, style: Style, files: Mapping[str, bytes]) -> Style:
    """Write a bundle in one rename: a folder, or a zip file where `path` ends in `.zip`.

    Args:
        path: Where to; a bundle already there is replaced, any other folder is left alone.
        style: What to write into `style.json`; its digests are made here.
        files: Everything else, by name.

    Returns:
        The style with its digests.

    Raises:
        UsageError: If a folder of other things is at `path`.
        StylekitError: If it cannot be written.
    """
    style = style.model_copy(update={"files": {name: sha256_bytes(data) for name, data in sorted(files.items())}})
    contents = {STYLE_FILE: (style.model_dump_json(indent=2) + "\n").encode(), **files}
    if path.suffix == ".zip":
        atomic_write_bytes(path, _zip(contents))
        return style
    if path.exists() and not (path / STYLE_FILE).is_file() and not (path.is_dir() and not any(path.iterdir())):
        raise UsageError(
            f"{path} exists and is not a style bundle, so it is not replaced.", "Choose another place with --output."
        )
    with atomic_folder(path) as folder:
        for name, data in contents.items():
            (folder / name).write_bytes(data)
    return style


def _zip(contents: Mapping[str, bytes]) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)  # a fixed date: equal contents, equal file
    return buffer.getvalue()


def read_bundle(path: Path) -> Bundle:
    """Read a bundle and check every file in it.

    Raises:
        ExportError: If it is missing, damaged, of a newer format, or a file differs from its digest.
    """
    try:
        if path.is_dir():
            return _check(path, lambda name: _read_file(path / name))
        with zipfile.ZipFile(path) as archive:
            return _check(path, lambda name: _read_member(archive, name))
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, RuntimeError, NotImplementedError) as error:
        raise ExportError(f"{path} is not a readable style bundle: {error}.", "Export or fetch the style again.") from error


def _read_file(path: Path) -> bytes:
    if path.stat().st_size > _MAX_FILE_BYTES:
        raise ValueError(f"{path.name} is larger than {_MAX_FILE_BYTES >> 20} MB")
    return path.read_bytes()


def _read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).file_size > _MAX_FILE_BYTES:
        raise ValueError(f"{name} is larger than {_MAX_FILE_BYTES >> 20} MB")
    return archive.read(name)


def _check(path: Path, read: Callable[[str], bytes]) -> Bundle:
    style = _parse(path, read(STYLE_FILE))
    files = {name: read(name) for name in style.files}
    for name, digest in style.files.items():
        if sha256_bytes(files[name]) != digest:
            raise ExportError(f"{path}: {name} is not the file that style.json describes.", "Export or fetch the style again.")
    for network in (style.networks.face, style.networks.background):
        wanted = (network.weights, network.onnx, network.onnx_int8, network.torchscript) if network else ()
        if missing := [name for name in wanted if name is not None and name not in files]:
            raise ExportError(
                f"{path}: style.json names {missing[0]} but has no digest of it.", "Export or fetch the style again."
            )
    return Bundle(path, style, files)


def _parse(path: Path, data: bytes) -> Style:
    document = json.loads(data)
    version = document.get("format_version") if isinstance(document, dict) else None
    if isinstance(version, int) and version > 1:
        raise ExportError(f"{path} has style format {version}; this stylekit reads format 1.", "Update stylekit.")
    try:
        return Style.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ExportError(f"{path}: style.json: {where}: {first['msg']}.", "Export or fetch the style again.") from error


def load_style(name_or_path: str | Path, workspace: Workspace | None = None) -> Bundle:
    """Read a style by its path, or by name: its newest exported run in the workspace, `exports/<name>`, or the package's own.

    Raises:
        ExportError: If there is none, or it is damaged.
    """
    path = Path(name_or_path)
    if path.suffix == ".zip" or (path / STYLE_FILE).is_file():
        return read_bundle(path)
    workspace = workspace or Workspace()
    name = slug(str(name_or_path))
    exported = [run / "bundle" for run in reversed(workspace.run_folders(name))]
    for place in (*exported, workspace.root / "exports" / name, _PACKAGED / name):
        if (place / STYLE_FILE).is_file():
            return read_bundle(place)
    raise ExportError(f"There is no style {str(name_or_path)!r} here.", f"Make it with: stylekit export --style {name}")
