"""What makes cartoon pictures, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from stylekit.config.schema import GenerateRecipe
from stylekit.data.manifest import Generation, Origin


class Engine(Protocol):
    """A maker of numbered pictures; picture `i` is the same whichever others are made with it.

    Attributes:
        files: Names of all pictures, by index.
    """

    @property
    def files(self) -> list[str]: ...  # noqa: D102

    def generation(self, index: int) -> Generation | None:
        """Return the record that makes picture `index` again, without versions; None if it is not generated."""

    def pictures(self, wanted: Mapping[int, str]) -> Iterator[tuple[Origin, bytes]]:
        """Make the pictures of `wanted` (file name by index) in order; one that cannot be had is left out.

        Raises:
            StylekitError: If none can be had.
        """


def create(recipe: GenerateRecipe, seed: int) -> Engine:
    """Return the engine a recipe names; what it needs is loaded when it makes its first picture.

    Raises:
        GenerationError: If the recipe leaves out what the engine needs.
    """
    if recipe.engine == "dicebear":
        from stylekit.generate.dicebear import DiceBear

        return DiceBear(recipe, seed)
    if recipe.engine == "diffusers":
        from stylekit.generate.stable_diffusion import StableDiffusion

        return StableDiffusion(recipe, seed)
    from stylekit.generate.folder import OwnPictures

    return OwnPictures(recipe)
