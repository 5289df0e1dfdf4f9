"""The page on this machine where raters choose: nothing of it leaves the machine, and nothing else can reach it."""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stylekit.errors import StylekitError, UsageError
from stylekit.preference.pack import rater_name
from stylekit.preference.records import Choice, Question, Rater, TrialId
from stylekit.preference.study import PICTURES, plan_of, read_study
from stylekit.preference.votes import VoteConflictError, VoteLog

ADDRESS = "127.0.0.1"
ASKED: dict[Question, tuple[str, str]] = {
    "pref_a": (
        "Which is better stylized?",
        "The small pictures show what the style looks like. Choose the one that you would rather take for one of them.",
    ),
    "pref_b": (
        "Which keeps the person better?",
        "Both were made from the photograph. Choose the one that you would sooner know the person by.",
    ),
}
"""What raters are asked, and how they are to take it."""

_LARGEST_BODY = 4096
_IDLE_S = 30
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_PAGE = {
    "": ("page.html", "text/html; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    "page.js": ("page.js", "text/javascript; charset=utf-8"),
}


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Greeting(_Message):
    rater: Rater


class Ballot(_Message):
    """A vote as the page sends it."""

    rater: Rater
    trial: TrialId
    choice: Choice | None
    response_ms: Annotated[int, Field(ge=0, le=10**9)] | None = None


class PreferenceServer(ThreadingHTTPServer):
    """Serves one study on 127.0.0.1; `url` holds the token without which it answers nothing.

    Args:
        study: The study's folder.
        port: Where to listen; 0 takes any that is free.

    Raises:
        UsageError: If the port is taken.
        DataError: If the study is damaged.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, study: Path, *, port: int = 0) -> None:
        self.folder = study
        self.study = read_study(study)
        self.log = VoteLog(study)
        self.token = secrets.token_urlsafe(24)
        self.pictures = {picture: study / PICTURES / f"{picture}.png" for picture in self.study.picture_ids()}
        self.assets = {
            name: (files("stylekit.preference").joinpath(file).read_bytes(), kind) for name, (file, kind) in _PAGE.items()
        }
        try:
            super().__init__((ADDRESS, port), _Handler)
        except (OSError, OverflowError) as error:
            raise UsageError(f"Port {port} cannot be used: {error}.", "Choose another with --port, or leave it out.") from error

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{ADDRESS}:{self.server_port}/{self.token}/"

    def greet(self, rater: str) -> dict[str, Any]:
        """Return what the page needs for a rater: the questions, the trials in order, and which are answered."""
        plan = plan_of(self.folder, self.study, rater)
        choices = self.log.choices_of(rater)
        trials = [trial.model_dump(include={"id", "question", "left", "right", "photograph"}) for trial in plan.trials]
        return {
            "rater": rater,
            "questions": {question: ASKED[question] for question in self.study.questions},
            "references": self.study.references,
            "trials": [{**trial, "choice": choices.get(trial["id"])} for trial in trials],
        }

    def vote(self, ballot: Ballot) -> bool:
        """Write a vote down.

        Raises:
            KeyError: If the rater has no such trial.
            StylekitError: If the vote cannot be taken.
        """
        rater = rater_name(ballot.rater)
        trial = {trial.id: trial for trial in plan_of(self.folder, self.study, rater).trials}[ballot.trial]
        return self.log.cast(rater, "person", trial, ballot.choice, ballot.response_ms)

    def handle_error(self, request: object, client_address: object) -> None:
        """Pass over clients that went away."""


class _Handler(BaseHTTPRequestHandler):
    """Answers known paths below the token only. No part of a path ever names a file."""

    server: PreferenceServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "stylekit", ""
    timeout = _IDLE_S

    def do_GET(self) -> None:
        """Send the page or a picture."""
        if (name := self._allowed()) is None:
            return
        if name in self.server.assets:
            data, kind = self.server.assets[name]
            self._send(HTTPStatus.OK, data, kind)
        elif path := self.server.pictures.get(name.removeprefix("pictures/")):
            try:
                self._send(HTTPStatus.OK, path.read_bytes(), "image/png", "private, max-age=86400")
            except OSError:
                self._refuse(HTTPStatus.NOT_FOUND, "That picture is gone.")
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "There is no such page.")

    do_HEAD = do_GET  # noqa: N815 - the name that http.server looks for

    def do_POST(self) -> None:
        """Greet a rater, or take a vote."""
        if (name := self._allowed()) is None:
            return
        actions: dict[str, Callable[[bytes], dict[str, Any]]] = {"trials": self._greet, "votes": self._vote}
        if name not in actions:
            self._refuse(HTTPStatus.NOT_FOUND, "There is no such page.")
        elif (body := self._body()) is not None:
            try:
                self._send(HTTPStatus.OK, json.dumps(actions[name](body)).encode(), "application/json")
            except ValidationError:
                self._refuse(HTTPStatus.BAD_REQUEST, "That is no message of this page.")
            except KeyError:
                self._refuse(HTTPStatus.NOT_FOUND, "There is no such trial.")
            except VoteConflictError as error:
                self._refuse(HTTPStatus.CONFLICT, error.message)
            except UsageError as error:
                self._refuse(HTTPStatus.BAD_REQUEST, error.message)
            except StylekitError as error:
                self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))

    def _greet(self, body: bytes) -> dict[str, Any]:
        rater = rater_name(_Greeting.model_validate_json(body).rater)
        return self.server.greet(rater)

    def _vote(self, body: bytes) -> dict[str, Any]:
        return {"new": self.server.vote(Ballot.model_validate_json(body))}

    def _allowed(self) -> str | None:
        """Return the path below the token, or answer with a refusal and return None."""
        own = {f"{name}:{self.server.server_port}" for name in (ADDRESS, "localhost")}
        origin = self.headers.get("Origin")
        if self.headers.get("Host") not in own or (origin is not None and origin.removeprefix("http://") not in own):
            self._refuse(HTTPStatus.FORBIDDEN, "This page is for this machine only.")
            return None
        token, slash, name = self.path.partition("?")[0].removeprefix("/").partition("/")
        if not slash or not hmac.compare_digest(token.encode(), self.server.token.encode()):
            self._refuse(HTTPStatus.FORBIDDEN, "Open the address that stylekit prefer printed.")
            return None
        return name

    def _body(self) -> bytes | None:
        """Return the body, or answer with a refusal and return None."""
        length = self.headers.get("Content-Length", "")
        if self.headers.get_content_type() != "application/json":
            self._refuse(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Send JSON.")
        elif not (length.isascii() and length.isdigit()):
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "Say how long it is.")
        elif len(length) > len(str(_LARGEST_BODY)) or int(length) > _LARGEST_BODY:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "That is too much.")
        else:
            try:
                body = self.rfile.read(int(length))
            except TimeoutError:
                self._refuse(HTTPStatus.REQUEST_TIMEOUT, "That took too long.")
                return None
            if len(body) == int(length):
                return body
            self.close_connection = True
        return None

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        self.close_connection = True  # a body may be left unread
        self._send(status, json.dumps({"error": reason}).encode(), "application/json")

    def _send(self, status: HTTPStatus, data: bytes, kind: str, cache: str = "no-store") -> None:
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(data)), "Cache-Control": cache, **_HEADERS}
        for name, value in headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's own name
        """Say nothing: addresses hold the token."""


def serve(server: PreferenceServer) -> None:
    """Serve until Ctrl-C."""
    with server, suppress(KeyboardInterrupt):
        server.serve_forever(poll_interval=0.2)
