"""Engine `dicebear`: cartoon people drawn offline by the DiceBear styles, as SVG in Node.js and to pixels with resvg."""

from __future__ import annotations

import difflib
import json
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import resvg_py

from stylekit.assets import fetch
from stylekit.assets.node import node
from stylekit.config.schema import GenerateRecipe
from stylekit.data.manifest import Generation, Origin
from stylekit.errors import GenerationError, UsageError
from stylekit.generate.engine import differences
from stylekit.generate.prompts import picture_seed
from stylekit.paths import sha256_bytes

_DRIVER = Path(__file__).with_name("dicebear.mjs")
_RESERVED = frozenset({"seed", "size"})


class DiceBear:
    """Draws avatars of one DiceBear style; picture `i` depends on the seed, `i` and the options, and on nothing else.

    Args:
        recipe: `model` names the style ("toon-head"), `options` are the style's own, `size` is the side in pixels.
        seed: The recipe's seed.

    Raises:
        UsageError: If no style is named.
    """

    def __init__(self, recipe: GenerateRecipe, seed: int) -> None:
        if not recipe.model:
            raise UsageError("The engine dicebear needs a drawing style.", "Name one with --model, for example toon-head.")
        self._style = recipe.model
        self._options = recipe.options
        self._size = recipe.size
        self._seed = seed
        self.files = [f"{index:06d}.png" for index in range(recipe.count)]
        self.left_out: dict[str, str] = {}
        self.note = ""

    def generation(self, index: int, attempt: int = 0) -> Generation:
        """Return the record of picture `index`, without versions; no attempt fails."""
        options = self._options | {"size": self._size}
        return Generation(engine="dicebear", model=self._style, seed=picture_seed(self._seed, index), options=options)

    def changed(self, index: int, made: Generation) -> list[str]:
        """Return the fields in which a picture made before differs from what would be drawn now."""
        return differences(made, self.generation(index))

    def check(self) -> None:
        """Refuse nothing: what is missing is fetched in a moment."""

    def pictures(self, wanted: Mapping[int, str]) -> Iterator[tuple[Origin, bytes]]:
        """Draw the pictures of `wanted` (file name by index), PNG, one after another.

        Raises:
            GenerationError: If an option is not one of the style's, or Node.js fails.
            AssetError: If the style or Node.js cannot be had.
        """
        yield from _draw(list(wanted.values()), [self.generation(index) for index in wanted], self._options)


def redraw(generation: Generation) -> bytes:
    """Draw one picture again from its record; return it as PNG.

    Raises:
        GenerationError: If an option is not one of the style's, or Node.js fails.
        AssetError: If the style or Node.js cannot be had.
    """
    options = {name: value for name, value in generation.options.items() if name != "size"}
    return next(data for _, data in _draw([""], [generation], options))


def _draw(files: list[str], records: list[Generation], options: Mapping[str, Any]) -> Iterator[tuple[Origin, bytes]]:
    style = records[0].model
    asset = f"dicebear-{style}"
    job = {"modules": str(fetch(asset)), "style": style, "options": options, "seeds": [str(r.seed) for r in records]}
    with _driver_output(job) as lines:
        known = next(lines)
        check_options(style, options, known["options"])
        versions = known["versions"] | {"resvg-py": version("resvg-py")}
        source = {"asset": asset, "licence": _spdx(known["licence"]), "attribution": known["attribution"]}
        for file, record, line in zip(files, records, lines, strict=True):
            size = int(str(record.options["size"]))
            data = bytes(resvg_py.svg_to_bytes(svg_string=line["svg"], width=size, height=size, skip_system_fonts=True))
            generation = record.model_copy(update={"versions": versions})
            yield Origin(file=file, sha256=sha256_bytes(data), generation=generation, **source), data


def check_options(style: str, options: Mapping[str, object], schema: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse what DiceBear itself would silently pass over.

    Args:
        style: Name of the style, for messages.
        options: The recipe's; a single value is accepted where the style takes a list.
        schema: JSON schema properties of the style and of DiceBear's core.

    Raises:
        GenerationError: If a name or a value is not among the style's own.
    """
    names = sorted(schema.keys() - _RESERVED)
    for name, value in options.items():
        if name not in names:
            raise _unknown(style, f"option {name!r}", name, names)
        rule = schema[name].get("items", schema[name])
        for item in value if isinstance(value, list) else [value]:
            if (choices := rule.get("enum")) and item not in choices:
                raise _unknown(style, f"{name} {item!r}", str(item), choices)
            if (pattern := rule.get("pattern")) and not re.search(pattern, str(item)):
                raise GenerationError(f"The style {style} takes no {name} {item!r}.", f"It must match {pattern}.")


def _unknown(style: str, what: str, given: str, known: Sequence[str]) -> GenerationError:
    near = difflib.get_close_matches(given, known, 1)
    return GenerationError(
        f"The style {style} has no {what}.", f"Did you mean {near[0]}?" if near else f"It has: {', '.join(known)}."
    )


@contextmanager
def _driver_output(job: Mapping[str, object]) -> Iterator[Iterator[Any]]:
    """Run the driver and give the objects it prints; whatever ends the block ends Node.js too."""
    command = [str(node()), str(_DRIVER)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, encoding="utf-8") as process:
        try:
            assert process.stdin is not None
            with suppress(BrokenPipeError):  # it died at once, and its exit code says why
                process.stdin.write(json.dumps(job))
                process.stdin.close()
            yield _objects(process)
        finally:
            process.kill()


def _objects(process: subprocess.Popen[str]) -> Iterator[Any]:
    assert process.stdout is not None
    assert process.stderr is not None
    yield from map(json.loads, process.stdout)
    if process.wait():
        reason = next((line for line in process.stderr if re.match(r"\w*Error", line)), f"exit code {process.returncode}").strip()
        raise GenerationError(f"Node.js could not draw the avatars: {reason}.", "See what `stylekit doctor` says about Node.js.")


def _spdx(licence: str | None) -> str | None:
    """Turn "CC BY 4.0" into its SPDX id; a designer's own terms stay in their words."""
    return licence.replace(" ", "-") if licence and re.fullmatch(r"CC(0| BY[A-Z -]*) \d\.\d", licence) else licence
