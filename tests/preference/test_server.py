"""The page's server: votes arrive and survive, and nothing else gets in."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from stylekit.errors import UsageError
from stylekit.paths import Workspace
from stylekit.preference.server import PreferenceServer
from stylekit.preference.study import PICTURES, open_study
from stylekit.preference.votes import VOTES, VoteLog


@pytest.fixture
def study(workspace: Workspace) -> Path:
    return open_study(["flat", "loud"]).resolve()


@pytest.fixture
def server(study: Path) -> Iterator[PreferenceServer]:
    with PreferenceServer(study) as found:
        threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield found
        found.shutdown()


def ask(
    server: PreferenceServer, path: str, body: bytes | None = None, method: str | None = None, **headers: str
) -> tuple[int, bytes, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    sent = {"Content-Type": "application/json"} if body is not None else {}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method or ("GET" if body is None else "POST"), path, body, sent)
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer.status, data, answer.headers


def post(server: PreferenceServer, name: str, message: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    status, data, _ = ask(server, f"/{server.token}/{name}", json.dumps(message).encode())
    return status, json.loads(data)


def test_a_rater_gets_trials_that_tell_nothing_and_votes_arrive(server: PreferenceServer, study: Path) -> None:
    status, said = post(server, "trials", {"rater": " ann "})
    assert (status, said["rater"]) == (200, "ann")
    assert {key for trial in said["trials"] for key in trial} == {"id", "question", "left", "right", "photograph", "choice"}
    assert not any(name in json.dumps(said) for name in ("flat", "loud", "control", "repeat", "expected", ".png"))
    first, second = (trial["id"] for trial in said["trials"][:2])
    assert post(server, "votes", {"rater": "ann", "trial": first, "choice": "left", "response_ms": 700}) == (200, {"new": True})
    assert post(server, "votes", {"rater": "ann", "trial": first, "choice": "left"}) == (200, {"new": False})
    assert post(server, "votes", {"rater": "ann", "trial": first, "choice": "right"})[0] == 409
    assert post(server, "votes", {"rater": "bob", "trial": first, "choice": "right"})[0] == 404
    assert post(server, "votes", {"rater": "ann", "trial": second, "choice": "right"})[0] == 200
    assert post(server, "votes", {"rater": "ann", "trial": second, "choice": None})[0] == 200
    assert VoteLog(study).choices_of("ann") == {first: "left"}
    again = post(server, "trials", {"rater": "ann"})[1]["trials"]
    assert [trial["choice"] for trial in again[:2]] == ["left", None]


def test_who_writes_the_name_otherwise_goes_on_with_the_same_trials(server: PreferenceServer, study: Path) -> None:
    first = post(server, "trials", {"rater": "Ada"})[1]["trials"][0]["id"]
    assert post(server, "votes", {"rater": "Ada", "trial": first, "choice": "left"}) == (200, {"new": True})
    again = post(server, "trials", {"rater": "ada"})[1]["trials"][0]
    assert (again["id"], again["choice"]) == (first, "left")
    assert post(server, "votes", {"rater": "ADA", "trial": first, "choice": "left"}) == (200, {"new": False})


def test_the_page_and_the_pictures_are_served_and_nothing_is_loaded_from_outside(server: PreferenceServer, study: Path) -> None:
    for name, kind in (("", "text/html"), ("page.css", "text/css"), ("page.js", "text/javascript")):
        status, data, headers = ask(server, f"/{server.token}/{name}")
        assert (status, headers.get_content_type()) == (200, kind)
        assert b"http:" not in data
        assert b"https:" not in data
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert headers["Referrer-Policy"] == "no-referrer"
    file = next((study / PICTURES).iterdir())
    status, data, headers = ask(server, f"/{server.token}/pictures/{file.stem}")
    assert (status, data, headers.get_content_type()) == (200, file.read_bytes(), "image/png")
    assert ask(server, f"/{server.token}/", method="HEAD")[:2] == (200, b"")


PATHS = [
    "/",
    "/{t}",
    "/wrong/",
    "/{t}x/",
    "/{t}/study.json",
    "/{t}/votes.jsonl",
    "/{t}/pictures/../study.json",
    "/{t}/pictures/..%2Fstudy.json",
    "/{t}/pictures//etc/passwd",
    "/{t}/pictures/",
    "/{t}/../{t}/page.js",
    "/{t}/page.py",
    "//127.0.0.1/{t}/",
    "http://127.0.0.1/{t}/",
]


def test_other_paths_lead_nowhere(server: PreferenceServer) -> None:
    for path in PATHS:
        status, data, _ = ask(server, path.replace("{t}", server.token))
        assert status in (403, 404), path
        assert set(json.loads(data)) == {"error"}


STRANGERS = [
    {"Host": "evil.example"},
    {"Host": "evil.example:80"},
    {"Host": ""},
    {"Host": "127.0.0.1"},
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
]


def test_another_site_is_turned_away(server: PreferenceServer, study: Path) -> None:
    trial = post(server, "trials", {"rater": "ann"})[1]["trials"][0]["id"]
    body = json.dumps({"rater": "ann", "trial": trial, "choice": "left"}).encode()
    for headers in STRANGERS:
        assert ask(server, f"/{server.token}/votes", body, **headers)[0] == 403, headers
        assert ask(server, f"/{server.token}/", **headers)[0] == 403, headers
    assert VoteLog(study).votes() == []


TRIAL = "0" * 12


MESSAGES = [
    (b"{", 400),
    (b"[]", 400),
    (b"\xff\xfe", 400),
    (b"[" * 4000, 400),
    (b"{}", 400),
    (json.dumps({"rater": "ann", "trial": TRIAL, "choice": "left"}).encode(), 404),
    (json.dumps({"rater": "ann", "trial": "../../study", "choice": "left"}).encode(), 400),
    (json.dumps({"rater": "ann", "trial": TRIAL, "choice": "both"}).encode(), 400),
    (json.dumps({"rater": "ann", "trial": TRIAL, "choice": "left", "kind": "person"}).encode(), 400),
    (json.dumps({"rater": "ann", "trial": TRIAL, "choice": "left", "response_ms": -1}).encode(), 400),
    (json.dumps({"rater": "../ann", "trial": TRIAL, "choice": "left"}).encode(), 400),
    (json.dumps({"rater": "a" * 41, "trial": TRIAL, "choice": "left"}).encode(), 400),
    (json.dumps({"rater": " ", "trial": TRIAL, "choice": "left"}).encode(), 400),
    (b"x" * 5000, 413),
]


def test_a_bad_message_is_refused_and_the_server_lives(server: PreferenceServer, study: Path) -> None:
    for body, status in MESSAGES:
        assert ask(server, f"/{server.token}/votes", body)[0] == status, body[:80]
    assert not (study / VOTES).exists()
    assert ask(server, f"/{server.token}/")[0] == 200


def test_a_huge_or_nameless_length_and_a_form_are_refused_unread(server: PreferenceServer) -> None:
    path = f"/{server.token}/votes"
    assert ask(server, path, b"", Content_Length="9" * 30)[0] == 413
    assert ask(server, path, b"", Content_Length="-5")[0] == 411
    assert ask(server, path, b"", Content_Length="²")[0] in (400, 411)
    assert ask(server, path, b"{}", Content_Type="text/plain")[0] == 415
    assert ask(server, path, b"{}", Content_Type="application/x-www-form-urlencoded")[0] == 415
    assert ask(server, path, method="DELETE")[0] == 501
    assert ask(server, f"/{server.token}/page.js", b"{}")[0] == 404


def test_several_raters_at_once_lose_nothing(server: PreferenceServer, study: Path) -> None:
    def rate(rater: str) -> int:
        trials = post(server, "trials", {"rater": rater})[1]["trials"]
        answers = [post(server, "votes", {"rater": rater, "trial": trial["id"], "choice": "left"})[0] for trial in trials]
        assert set(answers) == {200}
        return len(answers)

    with ThreadPoolExecutor(4) as pool:
        cast = list(pool.map(rate, ("ann", "bob", "cy", "dee")))
    assert len(VoteLog(study).votes()) == sum(cast)


def test_a_taken_port_is_said(server: PreferenceServer, study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PreferenceServer, "allow_reuse_address", False)
    with pytest.raises(UsageError, match=f"Port {server.server_port} cannot be used"):
        PreferenceServer(study, port=server.server_port)


SERVE = """
import signal, sys
from pathlib import Path
from stylekit.preference.server import PreferenceServer, serve
server = PreferenceServer(Path(sys.argv[1]))
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
print(server.server_port, server.token, flush=True)
serve(server)
print("ended", flush=True)
"""


class Process:
    """A server in a process of its own."""

    def __init__(self, study: Path) -> None:
        self.child = subprocess.Popen([sys.executable, "-c", SERVE, str(study)], stdout=subprocess.PIPE, text=True)
        assert self.child.stdout is not None
        port, self.token = self.child.stdout.readline().split()
        self.server_port = int(port)

    def end(self, number: signal.Signals) -> str:
        os.kill(self.child.pid, number)
        return self.child.communicate(timeout=20)[0]


@pytest.mark.slow
def test_a_killed_server_has_lost_no_vote_and_ctrl_c_ends_cleanly(study: Path) -> None:
    server: Any = Process(study)
    trials = post(server, "trials", {"rater": "ann"})[1]["trials"]
    for trial in trials[:4]:
        post(server, "votes", {"rater": "ann", "trial": trial["id"], "choice": "left"})
    server.end(signal.SIGKILL)
    assert VoteLog(study).choices_of("ann") == {trial["id"]: "left" for trial in trials[:4]}
    again: Any = Process(study)
    assert again.token != server.token
    assert [trial["choice"] for trial in post(again, "trials", {"rater": "ann"})[1]["trials"][:5]] == ["left"] * 4 + [None]
    assert again.end(signal.SIGINT) == "ended\n"
    assert again.child.returncode == 0
