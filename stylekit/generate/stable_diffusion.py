"""Engine `diffusers`: pictures of people by any text-to-image pipeline of the Stable Diffusion family."""

from __future__ import annotations

import difflib
import io
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from stylekit.assets.sources import is_offline
from stylekit.config.schema import GenerateRecipe
from stylekit.data.manifest import Generation, Origin
from stylekit.errors import GenerationError, MissingPartError
from stylekit.generate.prompts import fill, picture_seed
from stylekit.paths import sha256_bytes

_OFFLINE = "Or draw without a hub: --engine dicebear --model toon-head."


class StableDiffusion:
    """Paints people from a prompt, each picture from its own seed.

    Picture `i` does not depend on where an interrupted run stopped: batches begin at the same indices every time. Across batch
    sizes it is the same but for the rounding of the batched arithmetic.

    Args:
        recipe: `model` is a hub id or a folder that diffusers wrote, `prompt` a template that may hold `{person}`.
        seed: The recipe's seed.

    Raises:
        GenerationError: If the recipe names no model or no prompt.
    """

    def __init__(self, recipe: GenerateRecipe, seed: int) -> None:
        if not recipe.model:
            raise GenerationError(
                "Painting from a prompt needs a Stable Diffusion model, and none is named.",
                f"Name a hub id or a folder with --model. {_OFFLINE}",
            )
        if not recipe.prompt:
            raise GenerationError("The engine diffusers needs a prompt.", 'Give one: stylekit gen-data "archer style".')
        self._recipe = recipe
        self._model = recipe.model
        self._prompt = recipe.prompt
        self._seed = seed
        self.files = [f"{index:06d}.png" for index in range(recipe.count)]

    def generation(self, index: int) -> Generation:
        """Return the record of picture `index`, without versions."""
        recipe = self._recipe
        return Generation(
            engine="diffusers",
            model=self._model,
            revision=recipe.revision,
            prompt=fill(self._prompt, self._seed, index),
            negative=recipe.negative or None,
            seed=picture_seed(self._seed, index),
            scheduler=recipe.scheduler,
            steps=recipe.steps,
            guidance=recipe.guidance,
            options={"size": recipe.size},
        )

    def pictures(self, wanted: Mapping[int, str]) -> Iterator[tuple[Origin, bytes]]:
        """Paint the pictures of `wanted` (file name by index), PNG; what the model's safety checker blacks out is left out.

        Raises:
            MissingPartError: If diffusers or transformers is not installed.
            GenerationError: If the model or the scheduler cannot be had.
        """
        pipeline = _load(self._model, self._recipe)
        versions = {name: version(name) for name in ("diffusers", "transformers", "torch")}
        size = self._recipe.batch_size or 1
        for start in sorted({index // size * size for index in wanted}):
            indices = range(start, min(start + size, self._recipe.count))
            records = [self.generation(index) for index in indices]
            for index, record, picture in zip(indices, records, _paint(pipeline, records, self._recipe), strict=True):
                if picture is not None and index in wanted:
                    generation = record.model_copy(update={"versions": versions})
                    yield (
                        Origin(file=wanted[index], sha256=sha256_bytes(picture), asset=self._model, generation=generation),
                        picture,
                    )


def _paint(pipeline: Any, records: list[Generation], recipe: GenerateRecipe) -> list[bytes | None]:
    import torch

    output = pipeline(
        prompt=[record.prompt for record in records],
        negative_prompt=[recipe.negative] * len(records) if recipe.negative else None,
        generator=[torch.Generator("cpu").manual_seed(record.seed) for record in records],
        num_inference_steps=recipe.steps,
        guidance_scale=recipe.guidance,
        height=recipe.size,
        width=recipe.size,
    )
    unsafe = getattr(output, "nsfw_content_detected", None) or [False] * len(records)
    return [None if blacked_out else _png(image) for image, blacked_out in zip(output.images, unsafe, strict=True)]


def _png(image: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _load(model: str, recipe: GenerateRecipe) -> Any:
    try:
        import diffusers
        import transformers  # noqa: F401 - the text encoder; diffusers alone fails much later and less clearly
    except ImportError as error:
        raise MissingPartError("diffusers", "gen", "Painting pictures with Stable Diffusion") from error
    import torch

    scheduler = _scheduler(diffusers, recipe.scheduler)
    device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    is_folder = Path(model).expanduser().is_dir()
    try:
        pipeline = diffusers.DiffusionPipeline.from_pretrained(
            str(Path(model).expanduser()) if is_folder else model,
            revision=recipe.revision,
            local_files_only=is_offline(),
            dtype=torch.float16 if device == "cuda" else torch.float32,
        )
    except (OSError, ValueError) as error:
        raise _unavailable(model, is_folder, error) from error
    pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def _unavailable(model: str, is_folder: bool, error: Exception) -> GenerationError:
    reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
    if is_folder:
        return GenerationError(f"{model} is not a model that diffusers can read: {reason}.", "It should hold model_index.json.")
    if Path(model).is_absolute() or model.startswith((".", "~")) or model.count("/") != 1:
        return GenerationError(f"There is no model folder {model}.", f"Check --model. {_OFFLINE}")
    if is_offline():
        return GenerationError(
            f"The model {model} is not on this machine, and STYLEKIT_OFFLINE is set.", f"Unset STYLEKIT_OFFLINE. {_OFFLINE}"
        )
    return GenerationError(
        f"The model {model} cannot be had from the hub: {reason}.",
        "Check the name and the connection, set HF_ENDPOINT to a mirror, or download the model and name its folder with --model. "
        + _OFFLINE,
    )


def _scheduler(diffusers: Any, name: str) -> Any:
    schedulers = [key for key in dir(diffusers) if key.endswith("Scheduler")]
    if name not in schedulers:
        near = " or ".join(difflib.get_close_matches(name, schedulers, 2))
        raise GenerationError(f"diffusers has no scheduler {name!r}.", f"Did you mean {near}?" if near else "")
    return getattr(diffusers, name)
