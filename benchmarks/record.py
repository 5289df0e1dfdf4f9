"""Where a benchmark's figures go: a JSON file and a Markdown table of the same name, written anew after every row."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

from stylekit.paths import atomic_write_text
from stylekit.speed.machine import Machine

RESULTS = Path(__file__).parent / "results"

COUNTED = (
    "Operations are those that are needed, as direct convolutions, whatever an engine does. Winograd's algorithm does a quarter "
    "of the multiplications of a 3x3 convolution, so where it is taken (by ours on a CPU, by cuDNN where it chooses so) a share "
    "is no utilization and may exceed 100%. So may direct convolutions of the matrix rate, where they are faster than a matrix "
    "product."
)
"""What is to be said beside shares of a rate."""


class Record:
    """The figures of one benchmark on one machine under one protocol.

    Args:
        kind: Of the benchmark; the file name begins with it.
        machine: The machine; file names carry its device, torch's version and the date.
        protocol: What else the figures depend on, such as sizes, steps and limits; what JSON can hold. Where the day's file is of
            another protocol it is left alone, and the name gets a number behind the date.
        folder: Where the files lie.

    Attributes:
        data: The figures, to be added to, and `protocol`. What an interrupted run of the same day and protocol left is there.
        path: The files' common name, without suffix.
    """

    def __init__(self, kind: str, machine: Machine, protocol: Mapping[str, Any], folder: Path = RESULTS) -> None:
        name = f"{kind}-{machine.label}-torch{machine.torch}-{machine.date}"
        own = {"benchmark": kind, "machine": asdict(machine), "protocol": json.loads(json.dumps(protocol))}
        for number in count(1):
            self.path = folder / (name if number == 1 else f"{name}-{number}")
            json_file = self._file("json")
            before = json.loads(json_file.read_text("utf-8")) if json_file.is_file() else own
            if before.get("protocol") == own["protocol"]:
                break
        self.data: dict[str, Any] = before | own

    def write(self, markdown: str) -> None:
        """Write both files."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(self._file("json"), json.dumps(self.data, indent=2) + "\n")
        atomic_write_text(self._file("md"), markdown)

    def _file(self, suffix: str) -> Path:
        return self.path.with_name(f"{self.path.name}.{suffix}")


def is_settled(row: Mapping[str, Any] | None) -> bool:
    """Return whether a row need not be measured again: it was, or it exceeded a limit. One that failed is tried again."""
    return row is not None and row["state"] != "failed"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table; the first column is text, the others are figures."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines) + "\n"
