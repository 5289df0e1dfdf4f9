"""Engines `diffusers` and `modelscope`: pictures of people by any text-to-image pipeline of the Stable Diffusion family."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

from stylekit.config.schema import GenerateRecipe
from stylekit.data.manifest import Generation, Origin
from stylekit.errors import GenerationError, UsageError
from stylekit.generate.known import WITHOUT_A_HUB, check
from stylekit.generate.painter import ATTEMPTS, Painted, Painter, Request
from stylekit.generate.pipelines import Loaded, Lora, Task, absolute, guidance_arguments, is_path, load, local_digest
from stylekit.generate.prompts import Prompts, picture_seed
from stylekit.paths import sha256_bytes

# What a record calls by its exact name, where the recipe may use another or leave it open.
_AS_ASKED = ("model", "revision")


class StableDiffusion:
    """Paints people from a prompt, each picture from its own seed.

    Picture `i` depends on the recipe, the seed, `i` and the batch size, and not on where an interrupted run stopped or which
    pictures are painted with it. Across batch sizes it is the same but for the rounding of the batched arithmetic.

    Args:
        recipe: `model` as `pipelines.load` takes it, `prompt` a template that may hold `{person}`.
        seed: The recipe's seed.

    Attributes:
        left_out: Why a picture could not be had, by file.

    Raises:
        UsageError: If the recipe names no model or no prompt.
        GenerationError: If the list of people cannot be read.
    """

    def __init__(self, recipe: GenerateRecipe, seed: int) -> None:
        if not recipe.model:
            raise UsageError(
                "Painting from a prompt needs a Stable Diffusion model, and none is named.",
                f"Name a hub id or a folder with --model. {WITHOUT_A_HUB}",
            )
        if not recipe.prompt:
            raise UsageError(f"The engine {recipe.engine} needs a prompt.", 'Give one: stylekit gen-data "archer style".')
        self._recipe = recipe.model_copy(update={"lora": tuple(map(Lora.absolute, recipe.lora))})
        self._model = absolute(recipe.model)
        self._prompts = Prompts(recipe.prompt, recipe.people, seed)
        self._seed = seed
        self._lora_sha256: tuple[str, ...] | None = None
        self.files = [f"{index:06d}.png" for index in range(recipe.count)]
        self.left_out: dict[str, str] = {}
        self.note = ""

    def generation(self, index: int, attempt: int = 0) -> Generation:
        """Return the record of picture `index` as far as it is known before the model is loaded.

        Args:
            index: The picture's number.
            attempt: How many blanks of the safety checker came before it; each has a seed of its own.
        """
        recipe = self._recipe
        options: dict[str, Any] = {"size": recipe.size}
        if recipe.precision != "auto":
            options["precision"] = recipe.precision
        if recipe.lora:
            options["lora_sha256"] = list(self._digests())
        if traits := self._prompts.traits(index):
            options["traits"] = traits
        if attempt:
            options["attempt"] = attempt
        return Generation(
            engine=recipe.engine,
            model=self._model,
            revision=recipe.revision,
            prompt=self._prompts.text(index),
            negative=recipe.negative or None,
            seed=picture_seed(self._seed, index, attempt),
            scheduler=None if recipe.scheduler == "auto" else recipe.scheduler,
            steps=recipe.steps,
            guidance=recipe.guidance,
            lora=recipe.lora,
            options=options,
        )

    def changed(self, index: int, made: Generation) -> list[str]:
        """Return in which fields a picture made before differs from what would be made now; empty if in none.

        What the recipe leaves open (the revision, the scheduler, the precision) and what follows from the machine (versions,
        batch size, memory) never counts.
        """
        attempt = made.options.get("attempt", 0)
        asked = self.generation(index, attempt if isinstance(attempt, int) else 0)
        fields: dict[str, tuple[object, object]] = {
            "engine": (made.engine, asked.engine),
            "prompt": (made.prompt, asked.prompt),
            "negative": (made.negative, asked.negative),
            "seed": (made.seed, asked.seed),
            "steps": (made.steps, asked.steps),
            "guidance": (made.guidance, asked.guidance),
            "size": (made.options.get("size"), asked.options["size"]),
        }
        for name in _AS_ASKED:
            now = getattr(asked, name)
            if now is not None and now != made.options.get(f"asked_{name}"):
                then = getattr(made, name)
                fields[name] = (absolute(then) if name == "model" else then, now)
        if asked.scheduler is not None:
            fields["scheduler"] = (made.scheduler, asked.scheduler)
        if "precision" in asked.options:
            fields["precision"] = (made.options.get("precision"), asked.options["precision"])
        changed = [name for name, (then, now) in fields.items() if then != now]
        return changed if _laid_on_alike(made, asked) else [*changed, "lora"]

    def check(self) -> None:
        """Refuse a model that is not on this machine while its hubs are out of reach.

        Raises:
            GenerationError: If it is so.
        """
        check(self._model, self._recipe)

    def pictures(self, wanted: Mapping[int, str]) -> Iterator[tuple[Origin, bytes]]:
        """Paint the pictures of `wanted` (file name by index), PNG; one that the safety checker always blanks is left out.

        Raises:
            MissingPartError: If diffusers, transformers or (for LoRA) peft is not installed.
            GenerationError: If the model, a LoRA or the scheduler cannot be had, or memory does not suffice for one picture.
        """
        recipe = self._recipe
        loaded = load(self._model, recipe)
        self._lora_sha256 = loaded.lora_sha256
        shared = guidance_arguments(loaded, recipe.guidance, recipe.negative)
        painter = Painter(
            loaded,
            _whole_batch(loaded, recipe.steps, recipe.size, shared),
            size=recipe.size,
            batch_size=recipe.batch_size,
            most=recipe.count,
            adapt=recipe.memory == "auto",
        )
        for painted in painter.paint(wanted, lambda index, attempt: _request(self.generation(index, attempt), shared)):
            generation = self._made(painted, loaded)
            origin = Origin(
                file=wanted[painted.index], sha256=sha256_bytes(painted.png), licence=loaded.licence, generation=generation
            )
            yield origin, painted.png
        self._leave_out(painter.given_up, wanted)

    def _leave_out(self, blank: Iterable[int], wanted: Mapping[int, str]) -> None:
        reason = f"The model's safety checker blanked it {ATTEMPTS} times."
        self.left_out |= {wanted[index]: reason for index in blank}

    def _made(self, painted: Painted, loaded: Loaded) -> Generation:
        """Return the whole record of a picture."""
        record = self.generation(painted.index, painted.attempt)
        exact = {"model": loaded.model, "revision": loaded.revision}
        said = {f"asked_{name}": value for name, now in exact.items() if (value := getattr(record, name)) not in (None, now)}
        return record.model_copy(
            update=exact
            | {
                "scheduler": loaded.scheduler,
                "options": record.options | said | painted.conditions,
                "versions": loaded.versions,
            }
        )

    def _digests(self) -> tuple[str, ...]:
        """Return the SHA-256 of each LoRA file, empty for those that lie on a hub and are not loaded yet."""
        if self._lora_sha256 is None:
            paths = [Lora.parse(text).local() for text in self._recipe.lora]
            self._lora_sha256 = tuple(local_digest(path) if path else "" for path in paths)
        return self._lora_sha256


def remake(generation: Generation) -> bytes:
    """Paint a picture again from its record: PNG, on the same machine the same to the last bit.

    A batch of the recorded size is painted, all copies of the picture, so that the arithmetic rounds as it did. The model that is
    loaded stays loaded for the next picture of the same model.

    Raises:
        MissingPartError: If diffusers, transformers or (for LoRA) peft is not installed.
        GenerationError: If the model, a LoRA or the scheduler cannot be had or is not what it was, or memory does not suffice.
    """
    loaded, recipe = reload(generation)
    shared = guidance_arguments(loaded, recipe.guidance, recipe.negative)
    painter = Painter(
        loaded, _whole_batch(loaded, recipe.steps, recipe.size, shared), size=recipe.size, batch_size=1, most=1, adapt=False
    )
    return painter.paint_again(_request(generation, shared), generation.options)


def reload(generation: Generation, task: Task = "text") -> tuple[Loaded, GenerateRecipe]:
    """Load what painted a picture, and return with it what its record says as a recipe.

    Args:
        generation: The picture's record.
        task: As `pipelines.load` takes it.

    Raises:
        MissingPartError: If diffusers, transformers or (for LoRA) peft is not installed.
        GenerationError: If the model, a LoRA or the scheduler cannot be had or is not what it was.
    """
    _check_files(generation)
    options = generation.options
    said = {
        "engine": generation.engine,
        "model": generation.model,
        "revision": generation.revision,
        "lora": generation.lora,
        "scheduler": generation.scheduler or "auto",
        "precision": options.get("precision", "auto"),
        "memory": options.get("memory", "auto"),
    }
    painted = {
        "negative": generation.negative or "",
        "steps": generation.steps,
        "guidance": generation.guidance,
        "size": options.get("size"),
    }
    loaded = _loaded(GenerateRecipe.model_validate(said).model_dump_json(), task)
    if loaded.lora_sha256 != tuple(str(digest) for digest in _listed(options.get("lora_sha256"))):
        _loaded.cache_clear()  # or it would stay so when the file is as it was
        raise GenerationError(
            "A LoRA is not the one that painted the picture.",
            f"Bring back what has the SHA-256 {' and '.join(map(str, _listed(options.get('lora_sha256'))))}.",
        )
    return loaded, GenerateRecipe.model_validate(said | {name: value for name, value in painted.items() if value is not None})


def _check_files(generation: Generation) -> None:
    """Refuse to load anything if a file of this machine that painted the picture is gone or another.

    Raises:
        GenerationError: If it is so; the hint names the file and its digest.
    """
    model, digests = generation.model, _listed(generation.options.get("lora_sha256"))
    if is_path(model) and not Path(model).expanduser().exists():
        raise GenerationError(
            f"The model {model} that painted the picture is gone.",
            f"Put it there again: its digest is {generation.revision}.",
        )
    for text, digest in zip_longest(generation.lora, digests, fillvalue=""):
        source = Lora.parse(str(text)).source
        there = Lora.parse(source).local()
        hint = f"Put the file with the SHA-256 {digest} there again."
        if there is None and (is_path(source) or "/" not in source):
            raise GenerationError(f"The LoRA {source} that painted the picture is gone.", hint)
        if there and digest and local_digest(there) != digest:
            raise GenerationError(f"{there} is not the LoRA that painted the picture.", hint)


@lru_cache(maxsize=1)
def _loaded(recipe: str, task: Task) -> Loaded:
    parsed = GenerateRecipe.model_validate_json(recipe)
    return load(parsed.model or "", parsed, task)


def _request(generation: Generation, shared: Mapping[str, Any]) -> Request:
    negative = {"negative_prompt": shared["negative_prompt"]} if "negative_prompt" in shared else {}
    return Request(generation.seed, {"prompt": generation.prompt, **negative})


def _whole_batch(loaded: Loaded, steps: int, size: int, shared: Mapping[str, Any]) -> dict[str, Any]:
    arguments = {"num_inference_steps": steps, "height": size, "width": size, **shared}
    return {name: value for name, value in arguments.items() if name != "negative_prompt" and loaded.accepts(name)}


def _laid_on_alike(made: Generation, asked: Generation) -> bool:
    """Tell whether two records lay the same on the model: the same bytes where both know them, else the same names."""
    if len(made.lora) != len(asked.lora):
        return False
    digests = [[str(digest) for digest in _listed(record.options.get("lora_sha256"))] for record in (made, asked)]
    for then, now, *known in zip_longest(made.lora, asked.lora, *digests, fillvalue=""):
        before, after = Lora.parse(then), Lora.parse(now)
        same = known[0] == known[1] if all(known) else before.source == after.source
        if not same or before.weight != after.weight:
            return False
    return True


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else []
