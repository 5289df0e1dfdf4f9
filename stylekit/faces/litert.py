"""Small TensorFlow Lite networks on the CPU, run by LiteRT."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from stylekit.errors import AssetError

Floats = NDArray[np.float32]
_STDERR = Lock()


@contextmanager
def _without_greeting() -> Iterator[None]:
    """Keep off stderr that LiteRT has made its delegate: it has no setting for that, and writes past Python."""
    with _STDERR, tempfile.TemporaryFile() as caught:
        sys.stderr.flush()
        try:
            kept = os.dup(2)
        except OSError:  # a process without stderr
            yield
            return
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            caught.seek(0)
            for line in caught:
                if b"Created TensorFlow Lite" not in line:
                    os.write(2, line)


class LiteNetwork:
    """A `.tflite` file with one picture as input; safe to call from several threads.

    Args:
        path: The network's file.
        threads: CPU threads for one call. The default of 1 suits many processes side by side.

    Raises:
        AssetError: If the file is missing or not a network.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        try:
            with _without_greeting():
                self._interpreter = Interpreter(model_path=str(path), num_threads=threads)
                self._interpreter.allocate_tensors()
        except (ValueError, OSError) as error:
            raise AssetError(
                f"{path} is not a readable TensorFlow Lite network.", "Delete the file and fetch it again."
            ) from error
        self._input = self._interpreter.get_input_details()[0]
        self._outputs = self._interpreter.get_output_details()
        self._lock = Lock()

    @property
    def side(self) -> int:
        """Side in pixels of the square input."""
        return int(self._input["shape"][1])

    def __call__(self, picture: Floats) -> list[Floats]:
        """Run the network on one picture, float32 [side,side,3], and return its outputs, each float32 with a leading 1."""
        with self._lock:
            self._interpreter.set_tensor(self._input["index"], picture[None])
            self._interpreter.invoke()
            return [self._interpreter.get_tensor(output["index"]) for output in self._outputs]
