"""The card of a style, `README.md` with front matter, and its `LICENSE`, both made from `style.json` alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import yaml

from stylekit.bundle.style import DataSummary, Metrics, Style

CARD_FILE, LICENCE_FILE, PREVIEW_FILE = "README.md", "LICENSE", "preview.jpg"


def documents(style: Style) -> dict[str, bytes]:
    """Return the card and the licence notice by file name."""
    return {CARD_FILE: card(style).encode(), LICENCE_FILE: licence_notice(style).encode()}


def card(style: Style) -> str:
    """Return the model card in Markdown."""
    face = style.networks.face
    return f"""\
{_front_matter(style)}
# {style.name}

{style.description or "A portrait style."}

![A portrait, its face and the whole of it in this style; below, pictures the style was learned from]({PREVIEW_FILE})

```
stylekit stylize me.jpg --style PATH_OF_THIS_FOLDER
```

Without stylekit: `{face.onnx or face.weights}` takes RGB, float32, NCHW in [-1, 1], any batch, height and width multiples of 4;
clip what comes out. It is made for faces of {face.size} px aligned to the `{face.template}` template.

The whole recipe is in `style.json`.

{account(style)}"""


def account(style: Style) -> str:
    """Return what every card of the style tells, whatever files it lies beside: authors, training, data, figures, limits."""
    training, face = style.training, style.networks.face
    train = training.recipe.get("train", {})
    metrics = _metrics(style.metrics) if style.metrics else ["Not measured; `stylekit eval` does."]
    return f"""\
## Who made it

- Authors: {", ".join(style.authors) or "not named"}
- Licence: {style.licence or "none granted yet"}

## How it was trained

- Method: {train.get("method")}, preset `{train.get("preset")}`, {training.steps:,} steps of {train.get("batch_size")} pictures
- Network: {face.arch}, width {face.width}, {face.blocks} blocks; learning rate {train.get("learning_rate")}
- Seed: {training.recipe.get("seed")}
- Hardware: {training.hardware or "not recorded"}
- Hours: {"not recorded" if training.hours is None else f"{training.hours:.2f}"}
- Frozen networks: {"; ".join(f"{role}: {name}" for role, name in training.assets.items()) or "none"}
- Checkpoint: sha256 `{training.checkpoint_sha256}`

## What it was trained with

{_lines(_data("Photographs", training.photos))}
{_lines(_data("Cartoons", training.cartoons))}

The pictures themselves do not come with the style, but for the cartoons in the preview.

## How good it is

{_lines(metrics)}

## Limits and bias

{_lines(_limits(training.photos))}
"""


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(lines)


def _front_matter(style: Style) -> str:
    matter = {
        "license": (style.licence or "unknown").lower(),
        "library_name": "stylekit",
        "pipeline_tag": "image-to-image",
        "tags": ["dct-net", "cartoon", "portrait-stylization", "onnx"],
    }
    return f"---\n{yaml.safe_dump(matter, sort_keys=False)}---\n"


def _data(title: str, data: DataSummary | None) -> Iterator[str]:
    if data is None:
        yield f"- {title}: not recorded"
        return
    persons = f" of {data.persons} persons" if data.persons else ""
    held_out = f", {data.held_out} of them held out" if data.held_out else ""
    yield f"- {title}: {data.used}{persons}{held_out}"
    yield from (f"  - licence of {count}: {licence}" for licence, count in data.licences.items())
    yield from (f"  - attribution: {attribution}" for attribution in data.attributions)
    yield from (f"  - drawn by: {generator}" for generator in data.generators)


def _metrics(metrics: Metrics) -> Iterator[str]:
    taken = list(dict.fromkeys(name for row in metrics.rows.values() for name in row))
    names = [name for name in metrics.headlines if name in taken] or taken
    yield f"| metric | {' | '.join(metrics.rows)} |"
    yield f"|---|{'---|' * len(metrics.rows)}"
    for name in names:
        yield f"| {name} | {' | '.join(_cell(metrics, row, name) for row in metrics.rows)} |"
    if any(name in intervals for intervals in metrics.intervals.values() for name in names):
        yield from ("", "In brackets, 95 % intervals over persons. All figures are in `style.json`.")
    yield from ("", "Compare these figures only with ones taken under the same protocol:", "")
    yield from (f"- {key}: {_words(value)}" for key, value in metrics.protocol.items() if value not in (None, [], ""))
    yield from (f"- note: {note}" for note in metrics.notes)


def _cell(metrics: Metrics, row: str, name: str) -> str:
    value, interval = metrics.rows[row].get(name), metrics.intervals.get(row, {}).get(name)
    if value is None:
        return "-"
    return f"{value:.4g}" + (f" [{interval[0]:.3g}, {interval[1]:.3g}]" if interval else "")


def _words(value: object) -> str:
    if isinstance(value, dict):
        return " ".join(f"{part}" if key == "name" else f"({key} {part})" for key, part in value.items())
    return ", ".join(map(_words, value)) if isinstance(value, list | tuple) else str(value)


def _limits(photos: DataSummary | None) -> Iterable[str]:
    if photos and photos.used:
        yield f"- It learned from {photos.used - photos.held_out} photographs. Skin tones, ages, hair, glasses and head poses"
        yield "  that are rare among them are drawn less well, and may be drawn towards the faces that the cartoons show."
    yield "- The cartoons decide what is left out: it can lighten or darken skin and change the apparent age or sex of a person."
    yield "- Profiles, covered faces and faces much smaller than the training size come out poorly."
    yield "- Do not use it to mislead, to mock a person, or as a way to hide who is shown: people stay recognisable."


def licence_notice(style: Style) -> str:
    """Return what the bundle's `LICENSE` says: the grant by its SPDX identifier, and whom the data ask to name."""
    owners = ", ".join(style.authors) or f"the authors of {style.name}"
    if style.licence is None:
        grant = f"No licence has been granted yet; all rights stay with {owners}."
    else:
        grant = (
            f"SPDX-License-Identifier: {style.licence}\n\n"
            f"The networks and documents of the style {style.name} are licensed by {owners} under {style.licence};\n"
            "the text is published under that identifier in the SPDX licence list."
        )
    sources = [data for data in (style.training.photos, style.training.cartoons) if data]
    named = dict.fromkeys(name for data in sources for name in data.attributions)
    notices = ["", "Trained with material by:", *(f"- {name}" for name in named)] if named else []
    return "\n".join((grant, *notices)) + "\n"
