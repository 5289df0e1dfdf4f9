"""Painting with a loaded pipeline: batches as large as memory allows, and another try for what the safety checker blanks."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from stylekit.errors import GenerationError
from stylekit.generate.pipelines import Loaded, free_memory, is_out_of_memory
from stylekit.images import encode_png

_LOG = logging.getLogger(__name__)

ATTEMPTS = 6
"""How often a picture is painted, each time from another seed, before the safety checker's blank is accepted as final."""

_MAX_BATCH = 16  # beyond it a GPU gains next to nothing


@dataclass(frozen=True)
class Request:
    """One picture to paint.

    Attributes:
        seed: Of its noise.
        arguments: What the pipeline's call takes as a list, one for each picture: `prompt`, `negative_prompt`, `image`.
    """

    seed: int
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Painted:
    """One picture, and what it depends on beside its request.

    Attributes:
        index: Its number.
        attempt: How many blanks of the safety checker came before it.
        png: The picture.
        conditions: For the record's `options`: `precision`, `batch_size`, `batch_place` and, unless they are 0 and `auto`,
            `attempt` and `memory`.
    """

    index: int
    attempt: int
    png: bytes
    conditions: dict[str, str | int | float | bool | list[str]]


class Painter:
    """Paints numbered pictures in batches.

    Each picture has a fixed row in its batch, its number modulo the batch size; a row without one is filled with a copy of
    another. So every batch has the same shape, rows do not see each other, and a picture is the same to the last bit
    whichever others are painted with it or were painted before an interruption. (Pipelines that pad prompts to the longest
    of the batch, such as Qwen-Image, keep that only at batch size 1.) Numbers that follow each other fill a batch; a share of
    every second number fills half of it.

    Out of memory halves the batch. At batch size 1, and with `memory` "auto", attention and VAE are then computed in slices,
    and after that the model's parts are kept in main memory until they work. Each is said in the log.

    Args:
        loaded: The pipeline.
        arguments: What its call takes once for the whole batch: steps, guidance, height, width.
        size: The picture's side in pixels, by which the batch size is found.
        batch_size: None finds it by the GPU's free memory; on a CPU it is 1.
        most: No batch is larger than this, the number of pictures there are.
        adapt: Whether memory that runs out may change how the pipeline computes (the recipe's `memory` is "auto").

    Attributes:
        batch_size: Pictures at once, as memory has allowed so far.
        blanks: Pictures that the safety checker has blanked so far.
        given_up: The numbers of those that stayed blank.
    """

    def __init__(
        self, loaded: Loaded, arguments: Mapping[str, Any], *, size: int, batch_size: int | None, most: int, adapt: bool
    ) -> None:
        self.loaded = loaded
        self.blanks = 0
        self.given_up: list[int] = []
        self._arguments = dict(arguments)
        self._side = size
        self._adapt = adapt
        self.batch_size = max(1, min(batch_size or affordable(loaded, size), most))

    def paint(self, wanted: Iterable[int], request: Callable[[int, int], Request]) -> Iterator[Painted]:
        """Paint pictures, about in order; one that stays blank after `ATTEMPTS` tries is left out.

        Args:
            wanted: Their numbers.
            request: From a number and an attempt (0, 1, ..) to what is painted.

        Raises:
            GenerationError: If memory does not suffice for one picture.
        """
        pending = deque((index, 0) for index in sorted(wanted))
        before, given_up_before = self.blanks, len(self.given_up)
        while pending:
            rows = self._next_batch(pending)
            images = self._attempt({row: request(*which) for row, which in rows.items()})
            if images is None:
                continue
            for which in rows.values():
                pending.remove(which)
            for row, (index, attempt) in rows.items():
                image = images[row]
                if image is not None:
                    yield Painted(index, attempt, _png(image), self._conditions(row, attempt))
                    continue
                self.blanks += 1
                if attempt + 1 < ATTEMPTS:
                    pending.appendleft((index, attempt + 1))
                else:
                    self.given_up.append(index)
        given_up = len(self.given_up) - given_up_before
        if self.blanks > before:
            _LOG.warning(
                "The safety checker blanked %d pictures; they were painted again from other seeds%s.",
                self.blanks - before,
                f", and {given_up} left out after {ATTEMPTS} tries" if given_up else "",
            )

    def paint_again(self, request: Request, conditions: Mapping[str, Any]) -> bytes:
        """Paint one picture as its record says, as a batch of copies in which it has its own row.

        Raises:
            GenerationError: If memory does not suffice, or the safety checker blanks it.
        """
        size, row = int(conditions.get("batch_size", 1)), int(conditions.get("batch_place", 0))
        try:
            image = self._call([request] * size)[row]
        except Exception as error:
            if is_out_of_memory(error):
                raise GenerationError(
                    f"There is not enough memory for the batch of {size} that the picture was painted in.",
                    "Make it again on the machine it was made on.",
                ) from error
            raise
        if image is None:
            raise GenerationError("The safety checker blanked the picture.", "It was made with another model or version.")
        return _png(image)

    def _next_batch(self, pending: deque[tuple[int, int]]) -> dict[int, tuple[int, int]]:
        """Return number and attempt by row: the first that is pending for each."""
        rows: dict[int, tuple[int, int]] = {}
        for which in pending:
            rows.setdefault(which[0] % self.batch_size, which)
            if len(rows) == self.batch_size:
                break
        return dict(sorted(rows.items(), key=lambda item: item[1]))

    def _attempt(self, requests: Mapping[int, Request]) -> list[Any | None] | None:
        """Paint a batch; None if memory ran out and the next try will need less of it."""
        filler = next(iter(requests.values()))
        try:
            return self._call([requests.get(row, filler) for row in range(self.batch_size)])
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self._need_less(error)
        free_memory(self.loaded.device)
        return None

    def _call(self, requests: list[Request]) -> list[Any | None]:
        import torch

        lists = {name: [request.arguments[name] for request in requests] for name in requests[0].arguments}
        output = self.loaded.pipeline(
            **lists, **self._arguments, generator=[torch.Generator("cpu").manual_seed(request.seed) for request in requests]
        )
        blanked = getattr(output, "nsfw_content_detected", None) or [False] * len(requests)
        return [None if blank else image for image, blank in zip(output.images, blanked, strict=True)]

    def _need_less(self, error: BaseException) -> None:
        loaded = self.loaded
        if self.batch_size > 1:
            _LOG.warning(
                "Out of memory with %d pictures at once; going on with %d at once.", self.batch_size, self.batch_size // 2
            )
            self.batch_size //= 2
        elif self._adapt and loaded.memory == "auto":
            _LOG.warning("Out of memory with one picture; attention and VAE are computed in slices from here on.")
            loaded.save_memory("slice")
        elif self._adapt and loaded.memory == "slice" and loaded.device.type != "cpu":
            _LOG.warning("Out of memory with one picture in slices; the model's parts are kept in main memory from here on.")
            loaded.save_memory("offload")
        else:
            saves = loaded.memory == "offload" or loaded.device.type == "cpu"
            hint = (
                "Choose a smaller --size or a smaller --model." if saves else "Add --memory offload, or choose a smaller --size."
            )
            raise GenerationError(f"There is not enough memory to paint one picture of {self._side} px.", hint) from error

    def _conditions(self, row: int, attempt: int) -> dict[str, str | int | float | bool | list[str]]:
        always = {"precision": self.loaded.precision, "batch_size": self.batch_size, "batch_place": row}
        memory = {} if self.loaded.memory == "auto" else {"memory": self.loaded.memory}
        return {**always, **memory, **({"attempt": attempt} if attempt else {})}


def affordable(loaded: Loaded, size: int) -> int:
    """Return how many pictures of `size` pixels a side to begin with: a power of two up to 16, by free memory; 1 on a CPU.

    What a picture takes is, at its largest, the VAE's decoder at full resolution: feature maps of 256, 256 and 128 channels,
    and as much again for the convolutions' workspace, 1,280 numbers a pixel. It is a start, not a promise: out of memory halves.
    """
    if loaded.device.type != "cuda":
        return 1
    import torch

    vae = getattr(loaded.pipeline, "vae", None)
    in_fp32 = loaded.precision == "fp32" or bool(getattr(getattr(vae, "config", None), "force_upcast", False))
    needed = 1280 * (4 if in_fp32 else 2) * size * size
    free, _ = torch.cuda.mem_get_info(loaded.device)
    fitting = int(0.8 * free / needed)
    return 1 << (max(1, min(fitting, _MAX_BATCH)).bit_length() - 1)


def _png(image: Any) -> bytes:
    return encode_png(np.asarray(image.convert("RGB")))
