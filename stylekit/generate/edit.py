"""Engine `edit`: photographs repainted by image-to-image and instruction-editing pipelines, each kept with its photograph."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from stylekit.config.schema import GenerateRecipe
from stylekit.data.manifest import Generation, Origin
from stylekit.data.pairs import PHOTOS
from stylekit.errors import GenerationError, ImageError, UsageError
from stylekit.generate.painter import Painter, Request
from stylekit.generate.photographs import Photographs
from stylekit.generate.pipelines import Loaded, guidance_arguments, load
from stylekit.generate.prompts import picture_seed, put
from stylekit.generate.stable_diffusion import StableDiffusion, reload
from stylekit.images import Rgb, encode_png, resize, write_image
from stylekit.paths import sha256_bytes

_THE_PERSON = "this person"
_FRAMED_AT_ONCE = 64  # photographs in memory; a multiple of the batch sizes, so that batches are full

# Editors that take a list of photographs as one for each picture. To others it is several photographs for one picture.
_IN_BATCHES = ("StableDiffusionInstructPix2PixPipeline", "StableDiffusionXLInstructPix2PixPipeline", "FluxKontextPipeline")


class PhotoEditor(StableDiffusion):
    """Repaints photographs, each framed around its largest face and from its own seed.

    A picture is called after its photograph and depends on that, the recipe and the seed, and not on the other photographs. The
    pipeline is the model's own if that takes a picture and a prompt (FluxKontext, QwenImageEdit, InstructPix2Pix), else its
    family's image-to-image pipeline, to which `strength` applies.

    Args:
        recipe: `from_photos` names the photographs, of which the first `count` are taken; `model` is as `pipelines.load` takes
            it, `prompt` may hold `{person}`, for which it says "this person"; `options` are further arguments of the
            pipeline's call.
        seed: The recipe's seed.
        raw: The raw folder, where the framed photographs go.

    Attributes:
        left_out: Why a picture could not be had, by file.
        note: How many photographs there are, if not all of them are taken; else empty.

    Raises:
        UsageError: If the recipe names no photographs, no model or no prompt.
        DataError: If there are no photographs.
        AssetError: If they are an asset that cannot be had.
    """

    def __init__(self, recipe: GenerateRecipe, seed: int, raw: Path) -> None:
        if not recipe.from_photos:
            raise UsageError(
                "The engine edit needs photographs.", "Name their folder: --from-photos DIR, or asset:starter-photos to try it."
            )
        if not recipe.model:
            raise UsageError(
                "The engine edit needs a model that edits pictures, and none is named.",
                "Name a hub id or a folder with --model, or folder:DIR with pictures made elsewhere.",
            )
        super().__init__(recipe.model_copy(update={"prompt": put(_THE_PERSON, recipe.prompt or "")}), seed)
        self._raw = raw
        self._photographs = Photographs(recipe.from_photos, recipe.size, recipe.count)
        self._stems = [item.stem for item in self._photographs.items]
        self.files = [f"{stem}.png" for stem in self._stems]
        self.note = self._photographs.note

    def generation(self, index: int, attempt: int = 0) -> Generation:
        """Return the record of picture `index` as far as it is known before the model is loaded.

        Its `options` name the photograph and its SHA-256 (`photo`, `photo_sha256`), the `strength`, and further
        `arguments` as JSON.
        """
        record = super().generation(index, attempt)
        options: dict[str, Any] = {"photo": self._photographs.items[index].name, "strength": self._recipe.strength}
        if sha256 := self._photographs.sha256(index):
            options["photo_sha256"] = sha256
        if self._recipe.options:
            options["arguments"] = json.dumps(self._recipe.options, sort_keys=True)
        seed = picture_seed(self._seed, self._stems[index], attempt)
        return record.model_copy(update={"seed": seed, "options": record.options | options})

    def changed(self, index: int, made: Generation) -> list[str]:
        """Return in which fields a picture made before differs from what would be made now; empty if in none.

        Beside what `StableDiffusion.changed` says, a photograph that cannot be read any more does not count, nor does the
        strength where the pipeline took none.
        """
        asked = self.generation(index).options
        then = made.options
        changed = super().changed(index, made)
        changed += [name for name in ("photo_sha256", "strength") if name in then and name in asked and then[name] != asked[name]]
        return [*changed, "arguments"] if then.get("arguments") != asked.get("arguments") else changed

    def pictures(self, wanted: Mapping[int, str]) -> Iterator[tuple[Origin, bytes]]:
        """Repaint the photographs of `wanted` (file name by index), PNG; one that cannot be had is left out (`left_out`).

        Raises:
            MissingPartError: If diffusers, transformers or (for LoRA) peft is not installed.
            GenerationError: If the model, a LoRA or the scheduler cannot be had, the model does not edit pictures, or memory
                does not suffice for one picture.
        """
        painter: Painter | None = None
        indices = sorted(wanted)
        for start in range(0, len(indices), _FRAMED_AT_ONCE):
            framed = self._framed({index: wanted[index] for index in indices[start : start + _FRAMED_AT_ONCE]})
            if not framed:
                continue
            painter = painter or self._painter()
            yield from self._repaint(painter, framed, wanted)

    def _framed(self, wanted: Mapping[int, str]) -> dict[int, Rgb]:
        framed = {}
        for index, file in wanted.items():
            try:
                framed[index] = self._photographs.framed(index).photo
            except (ImageError, GenerationError, UsageError) as error:
                self.left_out[file] = error.message
        return framed

    def _painter(self) -> Painter:
        recipe = self._recipe
        loaded = load(self._model, recipe, "image")
        self._lora_sha256 = loaded.lora_sha256
        return Painter(
            loaded,
            _arguments(loaded, recipe),
            size=recipe.size,
            batch_size=recipe.batch_size if _takes_batches(loaded) else 1,
            most=len(self.files),
            adapt=recipe.memory == "auto",
        )

    def _repaint(self, painter: Painter, framed: Mapping[int, Rgb], wanted: Mapping[int, str]) -> Iterator[tuple[Origin, bytes]]:
        loaded = painter.loaded
        guidance = guidance_arguments(loaded, self._recipe.guidance, self._recipe.negative)

        def request(index: int, attempt: int) -> Request:
            record = self.generation(index, attempt)
            return _request(record, framed[index], guidance)

        for painted in painter.paint(framed, request):
            generation = self._made(painted, loaded)
            if not loaded.accepts("strength"):
                options = {name: value for name, value in generation.options.items() if name != "strength"}
                generation = generation.model_copy(update={"options": options})
            file = wanted[painted.index]
            photo = f"{PHOTOS}/{file}"
            png = _in_frame(painted.png, self._recipe.size)
            yield (
                Origin(
                    file=file,
                    sha256=sha256_bytes(png),
                    photo=photo,
                    photo_sha256=self._photographs.sha256(painted.index),
                    licence=loaded.licence,
                    generation=generation,
                ),
                png,
            )
            write_image(self._raw / photo, framed[painted.index])  # last: without it the journal counts the picture as not made
        self._leave_out(painter.given_up, wanted)


def repaint(generation: Generation, photo: Rgb) -> bytes:
    """Paint a picture again from its record and its framed photograph: PNG, on the same machine the same to the last bit.

    Args:
        generation: The picture's record.
        photo: What it was painted over, from `raw/photos/`, uint8 [S,S,3].

    Raises:
        MissingPartError: If diffusers, transformers or (for LoRA) peft is not installed.
        GenerationError: If the model, a LoRA or the scheduler cannot be had or is not what it was, or memory does not suffice.
    """
    loaded, recipe = reload(generation, "image")
    options = generation.options
    edited = {
        "strength": options.get("strength", recipe.strength),
        "options": json.loads(str(options.get("arguments", "{}"))),
    }
    recipe = recipe.model_copy(update=edited)
    painter = Painter(loaded, _arguments(loaded, recipe), size=recipe.size, batch_size=1, most=1, adapt=False)
    guidance = guidance_arguments(loaded, recipe.guidance, recipe.negative)
    return _in_frame(painter.paint_again(_request(generation, photo, guidance), options), recipe.size)


def _takes_batches(loaded: Loaded) -> bool:
    """Tell whether a pipeline edits several photographs at once."""
    return loaded.accepts("strength") or type(loaded.pipeline).__name__ in _IN_BATCHES


def _arguments(loaded: Loaded, recipe: GenerateRecipe) -> dict[str, Any]:
    """Return what a pipeline's call takes once for a whole batch.

    Raises:
        GenerationError: If an option of the recipe is none of its arguments, or `steps` and `strength` leave no step.
    """
    name = type(loaded.pipeline).__name__
    if loaded.accepts("strength") and int(recipe.steps * recipe.strength) < 1:
        raise GenerationError(
            f"Of {recipe.steps} steps a strength of {recipe.strength:g} leaves none.", "Raise --steps or --strength."
        )
    guidance = guidance_arguments(loaded, recipe.guidance, recipe.negative)
    offered = {
        "num_inference_steps": recipe.steps,
        "strength": recipe.strength,
        "height": recipe.size,
        "width": recipe.size,
        "max_area": recipe.size**2,  # FluxKontext paints that many pixels, whatever height and width say
        **{key: value for key, value in guidance.items() if key != "negative_prompt"},
    }
    known = {*offered, "prompt", "negative_prompt", "image", "generator"}
    for option in recipe.options:
        if option in known or not loaded.accepts(option):
            raise GenerationError(
                f"{name} takes no option {option!r} from generate.options.", "Leave it out, or set the recipe's own key for it."
            )
    return {key: value for key, value in offered.items() if loaded.accepts(key)} | dict(recipe.options)


def _request(record: Generation, photo: Rgb, guidance: Mapping[str, Any]) -> Request:
    """Return what is painted for a record over a framed photograph [S,S,3]."""
    negative = {"negative_prompt": guidance["negative_prompt"]} if "negative_prompt" in guidance else {}
    return Request(record.seed, {"prompt": record.prompt, "image": Image.fromarray(photo), **negative})


def _in_frame(png: bytes, size: int) -> bytes:
    """Return a picture with sides of `size` px, as its photograph has: some pipelines round to multiples of 16 or 32."""
    with Image.open(io.BytesIO(png)) as picture:
        if picture.size == (size, size):
            return png
        return encode_png(resize(np.asarray(picture.convert("RGB")), (size, size)))
