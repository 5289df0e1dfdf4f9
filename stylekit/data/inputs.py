"""The pictures to be aligned: from a folder, a list of files or a catalogue asset, each with where it came from."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stylekit.assets import CATALOGUE, fetch
from stylekit.data.manifest import Origin, read_origins
from stylekit.errors import DataError
from stylekit.images import list_images
from stylekit.paths import sha256_bytes

_ASSET = "asset:"
_WRITTEN = frozenset({"cropped", "cartoon", "rejected", "contact_sheet.jpg"})
Source = str | Path | Sequence[Path]


@dataclass(frozen=True)
class Input:
    """One picture to be aligned.

    Attributes:
        path: The file.
        name: What the manifest calls it.
        stem: What its crops are called, different for every input.
        origin: Asset, licence, attribution and generation, where known.
    """

    path: Path
    name: str
    stem: str
    origin: Origin | None


def list_inputs(source: Source, output: Path) -> list[Input]:
    """Return the pictures of a source, sorted.

    Args:
        source: A folder (with `origin.jsonl` if `gen-data` filled it), a list of files, or `asset:NAME`.
        output: The folder of the manifest; inputs inside it are named relative to it.

    Raises:
        DataError: If there is no such folder or there are no pictures in it.
        AssetError: If the asset cannot be had.
    """
    if isinstance(source, str) and source.startswith(_ASSET):
        return _from_asset(source.removeprefix(_ASSET))
    if isinstance(source, str | Path):
        folder = Path(source).expanduser()
        if not folder.is_dir():
            raise DataError(f"There is no folder {folder}.", "Name a folder of pictures.")
        origins = {folder / origin.file: origin for origin in read_origins(folder / "origin.jsonl")}
        files = [file for file in list_images(folder) if not _is_written(file, output)]
        relative = [file.relative_to(folder) for file in files]
    else:
        folder, origins, files = Path(), {}, sorted(source)
        relative = [Path(file.name) for file in files]
    if not files:
        raise DataError(f"There are no pictures in {folder}.", "Put JPEG, PNG, WebP, BMP or TIFF files there.")
    names = [_name(file, output) for file in files]
    return [Input(*row, origins.get(row[0])) for row in zip(files, names, _stems(relative, names), strict=True)]


def _from_asset(name: str) -> list[Input]:
    if name not in CATALOGUE and name.startswith("ms:"):
        raise DataError(f"{name} holds photographs and cartoons.", f"Run: stylekit data add {name}")
    folder = fetch(name)
    files = list_images(folder)
    asset = CATALOGUE[name]
    relative = [file.relative_to(folder) for file in files]
    names = [f"{_ASSET}{name}/{path.as_posix()}" for path in relative]
    origin = Origin(file="", sha256="", asset=name, licence=asset.licence, attribution=asset.attribution)
    return [Input(*row, origin) for row in zip(files, names, _stems(relative, names), strict=True)]


def _is_written(file: Path, output: Path) -> bool:
    """Tell whether aligning wrote a file itself, which happens where the output holds the source."""
    return file.is_relative_to(output) and file.relative_to(output).parts[0] in _WRITTEN


def _name(file: Path, output: Path) -> str:
    whole, root = file.resolve(), output.resolve()
    return whole.relative_to(root).as_posix() if whole.is_relative_to(root) else file.as_posix()


def _stems(relative: Iterable[Path], names: Iterable[str]) -> list[str]:
    """Name crops after their inputs ("women/a.jpg" -> "women-a"), with a digest where two would be alike on some disk."""
    stems = [re.sub(r"[^\w.-]+", "-", "-".join(path.with_suffix("").parts)) for path in relative]
    uses = Counter(stem.casefold() for stem in stems)
    return [
        stem if uses[stem.casefold()] == 1 else f"{stem}-{sha256_bytes(name.encode())[:8]}"
        for stem, name in zip(stems, names, strict=True)
    ]
