"""The cache: what is fetched once, checked, and found again.

`<home>/assets/<name>/<version>/` holds `files/` and `asset.json`, the record of where they came from and of every file's
size and SHA-256. A user's own file lies beside it as version `user`. A folder appears there complete, in one rename. Sizes
are checked whenever an asset is asked for; digests when it is fetched and when `verify` is asked for.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import filelock

from stylekit.assets import catalogue, sources
from stylekit.assets.catalogue import Asset, Source
from stylekit.errors import AssetError, MissingPartError, UsageError
from stylekit.paths import atomic_folder, atomic_write_text, home, remove_partials, sha256_bytes, sha256_file, slug

_LOG = logging.getLogger(__name__)
_USER = "user"
_ASK_AGAIN_S = 24 * 3600


@dataclass(frozen=True)
class Resolved:
    """An asset that is ready to be read, and what a record says about it.

    Attributes:
        source: `pypi:NAME==VERSION`, `npm:NAME@VERSION`, `hf:...`, `ms:...`, `installed:...` or `user:FILE`.
        sha256: Of the file, or of the folder (`digest`).
    """

    name: str
    role: str
    path: Path
    source: str
    sha256: str
    licence: str
    attribution: str


@dataclass(frozen=True)
class Status:
    """One line of `stylekit assets ls`.

    Attributes:
        state: `cached`, `user` (the user's own file stands in for it), `damaged` or `missing`.
        path: Where it lies; None if missing.
        source: Where the cached files came from, or would come from.
        sha256: Of what is cached, else what the catalogue expects; None if unknown.
        size: Bytes; 0 if unknown.
        problem: What is damaged; empty otherwise.
        mend: The command that mends a damaged or missing one; empty otherwise.
    """

    name: str
    roles: tuple[str, ...]
    state: str
    path: Path | None
    source: str
    version: str
    sha256: str | None
    size: int
    licence: str
    attribution: str
    problem: str = ""
    mend: str = ""


@dataclass(frozen=True)
class _Record:
    name: str
    version: str
    source: str
    entry: str
    sha256: str
    files: dict[str, tuple[int, str]]

    @property
    def size(self) -> int:
        return sum(size for size, _ in self.files.values())


def fetch(name: str, *, verify: bool = False) -> Path:
    """Return an asset's file or folder: the user's own, the cached one, or a fresh one from its source.

    Args:
        name: A name of the catalogue.
        verify: Read every cached file and compare its SHA-256; a damaged asset is fetched again.

    Raises:
        UsageError: If there is no asset of that name.
        AssetError: If it is missing and cannot be fetched, if a user's own file is damaged, or a digest is wrong.
        MissingPartError: If fetching it needs a program that is not installed.
    """
    return _path(_ensure(catalogue.find(name), verify))


def resolve(role: str, prefer: str | None = None) -> Resolved:
    """Return the best asset available for a role.

    A user's own file comes first, then the catalogue's order. What comes in packages is fetched when it is missing. A hub is
    asked where its client is installed, and after a refusal not again for a day, since hubs are closed to many; `prefer` and
    `fetch` ask at once.

    Args:
        role: A role of the catalogue.
        prefer: Take this one and no other.

    Raises:
        UsageError: If there is no such role, or `prefer` cannot fill it.
        AssetError: If none is available; the message says why for each.
    """
    assets = catalogue.candidates(role)
    if prefer is not None:
        if prefer not in catalogue.ROLES[role]:
            raise UsageError(f"{prefer!r} cannot be used for {role}.", f"Choose one of: {', '.join(catalogue.ROLES[role])}.")
        return _resolved(role, catalogue.find(prefer))
    refusals: list[str] = []
    for asset in sorted(assets, key=lambda asset: not _has_own(asset)):
        hub_only = not asset.packaged and not is_available(asset.name)
        if hub_only and not _worth_asking(asset):
            continue
        try:
            return _resolved(role, asset)
        except (sources.SourceUnavailableError, MissingPartError) as error:
            _LOG.warning("%s", error)
            refusals.append(error.message)
            if hub_only:
                atomic_write_text(_refusal(asset), error.message + "\n")
    names = " or ".join(asset.name for asset in assets)
    raise AssetError(
        f"Nothing is available for {role}: {' '.join(refusals) or 'every candidate must be asked for by name.'}",
        f"Run: stylekit assets fetch {assets[0].name}, or stylekit assets add {role} FILE for {names}.",
    )


def _worth_asking(asset: Asset) -> bool:
    """Say whether to ask a hub of our own accord: it may, its client is there, and it did not refuse within a day."""
    if sources.is_offline() or not asset.sources or not all(map(sources.has_client, asset.sources)):
        return False
    refused = _refusal(asset)
    return not refused.is_file() or time.time() - refused.stat().st_mtime > _ASK_AGAIN_S


def _refusal(asset: Asset) -> Path:
    return home() / "refusals" / asset.name


def is_available(name: str) -> bool:
    """Return whether an asset can be had without the network: cached whole, or brought by the user."""
    record = _record(catalogue.find(name))
    return record is not None and not _damage(record)


def add(role: str, path: Path, name: str | None = None) -> Resolved:
    """Copy the user's own file or folder into the cache, where it stands in for a catalogue asset from now on.

    Args:
        role: The role it is for.
        path: The file or folder.
        name: The asset it stands in for, which says how it is read; by default the one of the role that has this file name,
            else the only one of this kind of file.

    Raises:
        UsageError: If the path does not exist, or it is not clear which asset it stands in for.
    """
    assets = catalogue.candidates(role)
    path = path.expanduser().resolve()
    if not path.exists():
        raise UsageError(f"{path} does not exist.")
    if name is None:
        fitting = [a for a in assets if Path(a.entry).name == path.name] or [
            a for a in assets if Path(a.entry).suffix == path.suffix
        ]
        if len(fitting) != 1:
            raise UsageError(
                f"It is not clear what {path.name} is.", f"Say which with --name: {', '.join(a.name for a in assets)}."
            )
        name = fitting[0].name
    elif name not in catalogue.ROLES[role]:
        raise UsageError(f"{name!r} cannot be used for {role}.", f"Choose one of: {', '.join(catalogue.ROLES[role])}.")
    asset = catalogue.find(name)
    with _lock(_group(asset)), atomic_folder(_folder(asset, _USER)) as folder:
        files = folder / "files"
        entry = "" if path.is_dir() else path.name
        if path.is_dir():
            shutil.copytree(path, files)
        else:
            files.mkdir()
            shutil.copyfile(path, files / entry)
        _write_record(folder, asset, _USER, f"user:{path.name}", entry)
    return _resolved(role, asset)


def remove(name: str) -> bool:
    """Drop the user's own file for an asset, so that the catalogue's own counts again; return whether there was one."""
    asset = catalogue.find(name)
    with _lock(_group(asset)):
        folder = _folder(asset, _USER)
        existed = _has_own(asset)
        shutil.rmtree(folder, ignore_errors=True)
    return existed


def statuses(*, verify: bool = False) -> list[Status]:
    """Return the state of every asset of the catalogue, in its order, without using the network.

    Args:
        verify: Read every cached file and compare its SHA-256, not only its size.
    """
    return [_status(asset, verify) for asset in catalogue.CATALOGUE.values()]


def digest(path: Path) -> str:
    """Return the SHA-256 of a file; for a folder, of its listing: sorted lines "SHA256  PATH" as `sha256sum` prints them."""
    if path.is_file():
        return sha256_file(path)
    return _listing_digest({file.relative_to(path).as_posix(): sha256_file(file) for file in _walk(path)})


def _listing_digest(digests: dict[str, str]) -> str:
    return sha256_bytes("".join(f"{digests[path]}  {path}\n" for path in sorted(digests)).encode())


def _walk(folder: Path) -> Iterator[Path]:
    return (file for file in folder.rglob("*") if file.is_file())


def _folder(asset: Asset, version: str) -> Path:
    return home() / "assets" / asset.name / version


def _group(asset: Asset) -> str:
    """Assets of the same packages share a lock and a download."""
    return slug(" ".join(map(str, asset.sources)) or asset.name)


def _lock(group: str) -> filelock.BaseFileLock:
    folder = home() / "locks"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AssetError(f"Cannot write {folder}: {error.strerror}.", "Set STYLEKIT_HOME to a folder you can write.") from error
    return filelock.FileLock(folder / f"{group}.lock")


def _path(record: _Record) -> Path:
    return home() / "assets" / record.name / record.version / "files" / record.entry


def _has_own(asset: Asset) -> bool:
    return _folder(asset, _USER).exists()


def _record(asset: Asset) -> _Record | None:
    """Return the record of the user's own file, else of the cached one that the catalogue expects; None without one."""
    version = _USER if _has_own(asset) else asset.version
    try:
        stored = json.loads((_folder(asset, version) / "asset.json").read_text("utf-8"))
        record = _Record(**{**stored, "files": {path: (size, sha256) for path, (size, sha256) in stored["files"].items()}})
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return record if version == _USER or _expected(asset, record.sha256) else None


def _damage(record: _Record, verify: bool = False) -> str:
    """Return what is wrong with the cached files, an empty string if nothing is."""
    root = home() / "assets" / record.name / record.version / "files"
    for path, (size, sha256) in record.files.items():
        file = root / path
        try:
            found = file.stat().st_size
        except OSError:
            return f"{file} is missing"
        if found != size:
            return f"{file} has {found} bytes instead of {size}"
        if verify and sha256_file(file) != sha256:
            return f"{file} is not what was stored (its SHA-256 differs)"
    return ""


def _ensure(asset: Asset, verify: bool = False) -> _Record:
    record = _usable(asset, verify)
    if record is None:
        with _lock(_group(asset)):
            record = _usable(asset, verify)
            if record is None and not asset.parts:
                raise AssetError(f"The asset {asset.name} has to be brought by you. {asset.note}", f"Run: {_mend(asset)}")
            record = record or _fetch(asset)
    return record


def _usable(asset: Asset, verify: bool) -> _Record | None:
    record = _record(asset)
    damage = _damage(record, verify) if record else "its record is unreadable"
    if damage and _has_own(asset):
        raise AssetError(f"Your own file for {asset.name} is damaged: {damage}.", f"Run: {_mend(asset, own=True)}")
    return None if damage else record


def _expected(asset: Asset, sha256: str) -> bool:
    return asset.sha256 is None or sha256.startswith(asset.sha256)


def _mend(asset: Asset, own: bool = False) -> str:
    if own or not asset.parts:
        return f"stylekit assets add {catalogue.roles_of(asset.name)[0]} FILE --name {asset.name}"
    return f"stylekit assets fetch {asset.name}"


def _fetch(asset: Asset) -> _Record:
    """Fetch an asset, and with it every other that comes from the same packages. The group's lock is held."""
    downloads = home() / "downloads" / _group(asset)
    remove_partials(_folder(asset, asset.version).parent)
    try:
        archives = [_download(source, downloads) for source in asset.sources]
    except sources.SourceUnavailableError as error:
        own = f"or bring your own file: {_mend(asset, own=True)}"
        raise sources.SourceUnavailableError(
            f"The asset {asset.name} is not cached. {error.message}", f"{error.hint} {own}"
        ) from error
    siblings = [
        a for a in catalogue.CATALOGUE.values() if a.sources == asset.sources and a is not asset and not is_available(a.name)
    ]
    try:
        for each in (*siblings, asset):
            record = _install(each, archives)
    finally:
        shutil.rmtree(downloads, ignore_errors=True)
    return record


def _download(source: Source, folder: Path) -> Path:
    _LOG.info("Fetching %s", source)
    return sources.download(source, folder)


def _install(asset: Asset, archives: list[Path]) -> _Record:
    with atomic_folder(_folder(asset, asset.version)) as folder:
        files = folder / "files"
        files.mkdir()
        for part, archive in zip(asset.parts, archives, strict=True):
            sources.unpack(archive, part.members, files)
        record = _write_record(folder, asset, asset.version, " ".join(map(str, asset.sources)), asset.entry)
        if not _expected(asset, record.sha256):
            raise AssetError(
                f"{asset.name} from {record.source} is not the expected one: its SHA-256 is {record.sha256}, not {asset.sha256}.",
                f"Try again, check the mirror you use, or bring your own: {_mend(asset, own=True)}",
            )
    return record


def _write_record(folder: Path, asset: Asset, version: str, source: str, entry: str) -> _Record:
    files = {
        file.relative_to(folder / "files").as_posix(): (file.stat().st_size, sha256_file(file))
        for file in _walk(folder / "files")
    }
    if entry in files:
        sha256 = files[entry][1]
    else:
        prefix = f"{entry}/" if entry else ""
        sha256 = _listing_digest({path.removeprefix(prefix): digest for path, (_, digest) in files.items()})
    record = _Record(asset.name, version, source, entry, sha256, files)
    atomic_write_text(folder / "asset.json", json.dumps(asdict(record), ensure_ascii=False, indent=1) + "\n")
    return record


def _resolved(role: str, asset: Asset) -> Resolved:
    record = _ensure(asset)
    known = _expected(asset, record.sha256)
    licence, attribution = (asset.licence, asset.attribution) if known else ("unknown", "the user's own file")
    return Resolved(asset.name, role, _path(record), record.source, record.sha256, licence, attribution)


def _status(asset: Asset, verify: bool) -> Status:
    own = _has_own(asset)
    record = _record(asset)
    missing = not _folder(asset, _USER if own else asset.version).exists()
    problem = "" if missing else _damage(record, verify) if record else "its record is unreadable"
    return Status(
        name=asset.name,
        roles=catalogue.roles_of(asset.name),
        state="missing" if missing else "damaged" if problem else "user" if own else "cached",
        path=_path(record) if record else None,
        source=record.source if record else " ".join(map(str, asset.sources)) or "your own file",
        version=record.version if record else asset.version,
        sha256=record.sha256 if record else asset.sha256,
        size=record.size if record else asset.size,
        licence=asset.licence,
        attribution=asset.attribution,
        problem=problem,
        mend=_mend(asset, own) if missing or problem else "",
    )
