"""ModelScope's real client against a hub of its protocol on this machine: whole folders, revisions, interruptions."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from PIL import Image

from tests.assets.test_modelscope_styles import DATASET, MODEL, model_id

pytestmark = pytest.mark.modelscope
STYLE = "modelscope-sd-design"
FILES = {
    **{name: name.encode() * 999 for name in MODEL},
    "configuration.json": b"{}",
    "tf_ckpts/model-0.index": b"weights" * 50_000,
}
PICTURES = {f"train/{folder}/{n}.jpg": f"{folder}{n}".encode() for folder in ("face_photo", "face_cartoon") for n in range(3)}


@dataclass
class Hub:
    """Answers as ModelScope does (`modelscope_hub/_legacy_api.py`) for the files of its repositories.

    Attributes:
        repositories: Files by "models/OWNER/NAME@REVISION" or "datasets/...".
        torn: Files of which only the first half is sent.
        asked: Files that were asked for, each with the byte it was asked from.
        missed: Repositories that were asked for and are not there.
    """

    repositories: dict[str, dict[str, bytes]]
    torn: set[str] = field(default_factory=set)
    asked: list[tuple[str, int]] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)

    def handler(hub) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - `self` is the request's
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                url = urlsplit(self.path)
                query = {key: values[0] for key, values in parse_qs(url.query).items()}
                name, _, call = url.path.removeprefix("/api/v1/").partition("/repo")
                files = hub.repositories.get(f"{name}@{query.get('Revision')}")
                if files is None:
                    hub.missed.append(name)
                    self._send(404, json.dumps({"Code": 404, "Success": False, "Message": "not found"}).encode())
                elif call:
                    listing = [
                        {"Path": path, "Type": "blob", "Size": len(data), "Sha256": hashlib.sha256(data).hexdigest()}
                        for path, data in files.items()
                    ]
                    self._send(200, json.dumps({"Code": 200, "Success": True, "Data": {"Files": listing}}).encode())
                else:
                    self._send_file(query["FilePath"], files[query["FilePath"]])

            def _send_file(self, path: str, data: bytes) -> None:
                start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
                hub.asked.append((path, start))
                rest = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
                self._send(206 if start else 200, data[start:], half=path in hub.torn, **rest)

            def _send(self, status: int, body: bytes, *, half: bool = False, **headers: str) -> None:
                self.send_response(status)
                for key, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(key.replace("_", "-"), value)
                self.end_headers()
                self.wfile.write(body[: len(body) // 2] if half else body)
                self.close_connection = half

            def log_message(self, *args: object) -> None:
                pass

        return Handler


@pytest.fixture
def hub(tmp_path: Path, empty_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    pytest.importorskip("modelscope_hub")
    hub = Hub({f"models/{model_id('sd-design')}@v1.0.0": FILES, f"datasets/{DATASET}@master": {**PICTURES, "README.md": b"mini"}})
    with ThreadingHTTPServer(("127.0.0.1", 0), hub.handler()) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "modelscope"))
        monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path / "credentials"))
        monkeypatch.setenv("MODELSCOPE_DOWNLOAD_MAX_RETRIES", "0")
        monkeypatch.delenv("MODELSCOPE_API_TOKEN", raising=False)
        yield hub
        server.shutdown()


def stylekit(folder: Path, *arguments: str) -> tuple[int, dict[str, object]]:
    """Run a command in a process of its own, since the client reads its settings once."""
    done = subprocess.run(
        [sys.executable, "-c", "from stylekit.cli import main; main()", *arguments, "--json"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_a_style_comes_whole_at_its_pinned_revision(hub: Hub, tmp_path: Path, empty_home: Path) -> None:
    code, answer = stylekit(tmp_path, "assets", "fetch", STYLE)
    assert code == 0, answer
    folder = empty_home / f"assets/{STYLE}/v1.0.0/files"
    assert answer == {"assets": {STYLE: str(folder)}}
    found = {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert found == FILES
    record = json.loads((folder.parent / "asset.json").read_text())
    assert record["source"] == f"ms:{model_id('sd-design')}@v1.0.0"
    assert not list((empty_home / "downloads").iterdir())


def test_an_interrupted_download_is_named_and_continued(hub: Hub, tmp_path: Path) -> None:
    torn = "tf_ckpts/model-0.index"
    hub.torn.add(torn)
    code, answer = stylekit(tmp_path, "assets", "fetch", STYLE)
    assert code == 1
    assert f"ms:{model_id('sd-design')}@v1.0.0 could not be fetched: {torn}: " in str(answer["error"])
    assert f"stylekit assets add modelscope-style FOLDER --name {STYLE}" in str(answer["hint"])
    hub.torn.clear()
    hub.asked.clear()
    assert stylekit(tmp_path, "assets", "fetch", STYLE)[0] == 0
    assert hub.asked == [(torn, len(FILES[torn]) // 2)]


def test_a_folder_that_is_no_style_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.repositories[f"models/{model_id('sd-design')}@v1.0.0"] = {"README.md": b"moved"}
    code, answer = stylekit(tmp_path, "assets", "fetch", STYLE)
    assert (code, answer["error"]) == (1, f"ms:{model_id('sd-design')}@v1.0.0 holds no cartoon_h.pb.")


def test_a_style_that_the_hub_does_not_have_says_which_files_to_bring(hub: Hub, tmp_path: Path) -> None:
    code, answer = stylekit(tmp_path, "assets", "fetch", "modelscope-sd-illustration")
    assert code == 1
    assert "modelscope-sd-illustration is not cached." in str(answer["error"])
    assert "Put cartoon_h.pb (and cartoon_bg.pb," in str(answer["hint"])


@pytest.mark.parametrize("there", [True, False])
def test_a_style_is_asked_for_under_its_owners_new_name_too(hub: Hub, tmp_path: Path, empty_home: Path, there: bool) -> None:
    files = hub.repositories.pop(f"models/{model_id('sd-design')}@v1.0.0")
    if there:
        hub.repositories[f"models/{model_id('sd-design', 'iic')}@v1.0.0"] = files
    code, answer = stylekit(tmp_path, "assets", "fetch", STYLE)
    if there:
        assert code == 0, answer
        record = json.loads((empty_home / f"assets/{STYLE}/v1.0.0/asset.json").read_text())
        assert record["source"] == f"ms:{model_id('sd-design', 'iic')}@v1.0.0"
    else:
        assert code == 1
        assert f"ms:{model_id('sd-design')}@v1.0.0 could not be fetched" in str(answer["error"])
    asked = [name for name in hub.missed if name.startswith("models/")]
    assert asked == [f"models/{model_id('sd-design', owner)}" for owner in (("damo",) if there else ("damo", "iic"))]


def test_a_data_set_is_ready_to_be_trained_and_not_fetched_twice(hub: Hub, tmp_path: Path, empty_home: Path) -> None:
    hub.repositories[f"datasets/{DATASET}@master"] |= {
        f"train/{folder}/x.png": picture() for folder in ("face_photo", "face_cartoon")
    }
    for _ in range(2):
        code, answer = stylekit(tmp_path, "data", "add", f"ms:{DATASET}", "--style", "clipart")
        assert code == 0, answer
    assert (answer["style"], answer["cartoons"], answer["source"]) == ("clipart", 4, f"ms:datasets/{DATASET}@master")
    assert sorted(hub.asked) == sorted((path, 0) for path in hub.repositories[f"datasets/{DATASET}@master"])
    assert str(empty_home / "assets") in (tmp_path / "recipes/clipart.yaml").read_text()


def picture() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "PNG")
    return stream.getvalue()
