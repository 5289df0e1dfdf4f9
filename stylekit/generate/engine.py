"""What makes cartoon pictures, by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from stylekit.config.schema import GenerateRecipe
from stylekit.data.manifest import Generation, Origin
from stylekit.errors import UsageError
from stylekit.generate.known import complete

ELSEWHERE = "folder:"
"""How the `model` of the engine edit begins that names a folder of pictures instead of a model."""

_PAINTING = frozenset(GenerateRecipe.model_fields) - {"engine", "people", "from_photos", "strength", "options"}
_READ = {
    "diffusers": _PAINTING | {"people"},
    "modelscope": _PAINTING | {"people"},
    "edit": _PAINTING | {"from_photos", "strength", "options"},
    ELSEWHERE: frozenset({"model", "from_photos", "count", "size"}),
    "dicebear": frozenset({"model", "count", "size", "options"}),
    "folder": frozenset({"model"}),
}


class Engine(Protocol):
    """A maker of numbered pictures; picture `i` is the same whichever others are made with it.

    Attributes:
        files: Names of all pictures, by index.
        left_out: Why a picture could not be had, by file, as far as `pictures` has come.
        note: What the user should know of the choice of pictures; mostly empty.
    """

    @property
    def files(self) -> list[str]: ...  # noqa: D102

    @property
    def left_out(self) -> Mapping[str, str]: ...  # noqa: D102

    @property
    def note(self) -> str: ...  # noqa: D102

    def generation(self, index: int, attempt: int = 0) -> Generation | None:
        """Return the record of picture `index`, as far as it is known before the model is loaded; None if it is not generated.

        Args:
            index: Which picture.
            attempt: Counts the pictures that were thrown away before it.
        """

    def changed(self, index: int, made: Generation) -> list[str]:
        """Return the fields in which a picture made before differs from what would be made now.

        What only a loaded model knows does not count, nor do versions and what changes no more than rounding.
        """

    def check(self) -> None:
        """Refuse what is known to fail, before anything large is loaded.

        Raises:
            StylekitError: If the pictures cannot be made now.
        """

    def pictures(self, wanted: Mapping[int, str]) -> Iterator[tuple[Origin, bytes]]:
        """Make the pictures of `wanted` (file name by index) in order; one that cannot be had is left out.

        Raises:
            StylekitError: If none can be had.
        """


class NotGenerated:
    """What engines have in common whose pictures are there already, made by hand or elsewhere."""

    def generation(self, index: int, attempt: int = 0) -> Generation | None:
        """Return None: nothing is known of how the pictures were made."""
        return None

    def changed(self, index: int, made: Generation) -> list[str]:
        """Say that a picture which some engine generated is not the one that lies there."""
        return ["engine"]

    def check(self) -> None:
        """Refuse nothing: there is nothing to load."""


def differences(made: Generation, asked: Generation | None) -> list[str]:
    """Return the names of the fields in which two records differ, versions left out; that of the engine if nothing is asked."""
    if asked is None:
        return ["engine"]
    old, new = made.model_dump(exclude={"versions"}), asked.model_dump(exclude={"versions"})
    return sorted(name for name in new if old[name] != new[name])


def check_read(recipe: GenerateRecipe, keys: Iterable[str]) -> None:
    """Refuse settings that would be passed over in silence.

    Args:
        recipe: What is to be made.
        keys: Those of its keys that the user has set, apart from `engine`.

    Raises:
        UsageError: If the engine does not read one of them.
    """
    is_elsewhere = recipe.engine == "edit" and (recipe.model or "").startswith(ELSEWHERE)
    if idle := sorted(set(keys) - _READ[ELSEWHERE if is_elsewhere else recipe.engine]):
        name = f"edit with --model {ELSEWHERE}DIR" if is_elsewhere else recipe.engine
        raise UsageError(
            f"The engine {name} does not read {', '.join(idle)}.",
            f"Leave {'it' if len(idle) == 1 else 'them'} out, or choose another --engine.",
        )


def create(recipe: GenerateRecipe, seed: int, raw: Path) -> Engine:
    """Return the engine a recipe names; what it needs is loaded when it makes its first picture.

    Args:
        recipe: What to make.
        seed: The recipe's.
        raw: The raw folder, where the engine edit puts the photographs.

    Raises:
        GenerationError: If the recipe leaves out what the engine needs.
    """
    if recipe.engine == "dicebear":
        from stylekit.generate.dicebear import DiceBear

        return DiceBear(recipe, seed)
    if recipe.engine == "folder":
        from stylekit.generate.folder import OwnPictures

        return OwnPictures(recipe)
    if recipe.engine == "edit":
        if (recipe.model or "").startswith(ELSEWHERE):
            from stylekit.generate.edited import EditedElsewhere

            return EditedElsewhere(recipe, raw)
        from stylekit.generate.edit import PhotoEditor

        return PhotoEditor(complete(recipe), seed, raw)
    from stylekit.generate.stable_diffusion import StableDiffusion

    return StableDiffusion(complete(recipe), seed)
