"""Whether a hub is there is known at once, and what took long is not asked again for a while."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from stylekit.assets import hosts
from stylekit.assets.hosts import hugging_face, modelscope, out_of_reach


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch, empty_home: Path) -> None:
    monkeypatch.setattr(hosts.urllib.request, "getproxies", dict)


def closed(monkeypatch: pytest.MonkeyPatch, error: OSError, seconds: float = 0) -> list[tuple[str, int]]:
    asked: list[tuple[str, int]] = []
    clock = [0.0]

    def connect(address: tuple[str, int], timeout: float) -> None:
        asked.append(address)
        clock[0] += seconds
        raise error

    monkeypatch.setattr(hosts.socket, "create_connection", connect)
    monkeypatch.setattr(hosts.time, "monotonic", lambda: clock[0])
    return asked


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (socket.gaierror(-2, "Name or service not known"), "hub.example: name not known"),
        (TimeoutError("timed out"), "hub.example: no answer"),
        (ConnectionRefusedError(111, "Connection refused"), "hub.example: connection refused"),
    ],
)
def test_each_cause_has_its_words_and_a_quick_refusal_is_asked_again(
    error: OSError, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = closed(monkeypatch, error)
    assert [out_of_reach("https://hub.example"), out_of_reach("http://hub.example:81/hf")] == [said, said]
    assert asked == [("hub.example", 443), ("hub.example", 81)]


def test_a_slow_refusal_is_remembered_for_ten_minutes(monkeypatch: pytest.MonkeyPatch, empty_home: Path) -> None:
    asked = closed(monkeypatch, TimeoutError("timed out"), seconds=4)
    for _ in range(3):
        assert out_of_reach("https://hub.example") == "hub.example: no answer"
    assert len(asked) == 1
    (memory,) = (empty_home / "refusals").iterdir()
    os.utime(memory, (time.time() - 601,) * 2)
    assert out_of_reach("https://hub.example")
    assert len(asked) == 2


def test_a_hub_that_answers_and_one_behind_a_proxy_are_in_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert not out_of_reach(f"http://127.0.0.1:{server.getsockname()[1]}")
    asked = closed(monkeypatch, TimeoutError("timed out"))
    monkeypatch.setattr(hosts.urllib.request, "getproxies", lambda: {"https": "http://proxy:8080"})
    assert not out_of_reach("https://hub.example")
    assert not asked


def test_offline_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = closed(monkeypatch, TimeoutError("timed out"))
    monkeypatch.setenv("STYLEKIT_OFFLINE", "1")
    assert out_of_reach("https://hub.example") == "STYLEKIT_OFFLINE is set"
    assert not asked


def test_the_hubs_are_where_the_settings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "https://ms.example")
    monkeypatch.setenv("HF_ENDPOINT", "https://hf.example")
    assert (modelscope(), hugging_face()) == ("https://ms.example", "https://hf.example")
