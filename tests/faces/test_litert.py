from __future__ import annotations

import os

import pytest

from stylekit.assets import fetch
from stylekit.faces import litert
from stylekit.faces.litert import LiteNetwork


def test_litert_says_nothing_of_its_delegate_and_the_rest_comes_through(capfd: pytest.CaptureFixture[str]) -> None:
    LiteNetwork(fetch("face-detector"))
    with litert._without_greeting():
        os.write(2, b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\nsomething else\n")
    assert capfd.readouterr().err == "something else\n"
