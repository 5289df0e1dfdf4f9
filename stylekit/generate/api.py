"""`gen_data`: from a prompt or a recipe to a folder of aligned cartoon faces."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stylekit.config.load import load_recipe, style_recipe
from stylekit.config.schema import Recipe
from stylekit.data.prepare import AlignReport
from stylekit.data.prepare import align as align_faces
from stylekit.errors import Interrupted, UsageError
from stylekit.generate.engine import create
from stylekit.generate.journal import Journal
from stylekit.generate.prompts import portrait_prompt
from stylekit.paths import Workspace, slug
from stylekit.progress import Progress, silent

_DEMO = "demo"
_HERE = Workspace()


@dataclass(frozen=True)
class GenReport:
    """What `gen_data` did.

    Attributes:
        style: The style, now the current one.
        folder: `datasets/<style>/`; the pictures themselves are in its `raw/`.
        made: Pictures made now.
        kept: Pictures that were already there.
        skipped: Pictures that could not be had, by file name.
        aligned: What aligning them gave; None if it was not asked for.
        note: What the user should know about the choice of the recipe; empty if it was theirs.
    """

    style: str
    folder: Path
    made: int
    kept: int
    skipped: tuple[str, ...]
    aligned: AlignReport | None
    note: str

    @property
    def manifest(self) -> Path | None:
        """`manifest.jsonl`, once the pictures are aligned."""
        return self.aligned.manifest if self.aligned else None

    @property
    def contact_sheet(self) -> Path | None:
        """`contact_sheet.jpg`, once the pictures are aligned."""
        return self.aligned.contact_sheet if self.aligned else None


def gen_data(
    prompt: str | None = None,
    *,
    recipe: Recipe | None = None,
    workspace: Workspace = _HERE,
    style: str | None = None,
    count: int | None = None,
    seed: int | None = None,
    resume: bool = True,
    align: bool = True,
    progress: Progress = silent,
) -> GenReport:
    """Make the cartoon pictures of a style and align their faces.

    With neither prompt nor recipe nor style it goes on with the current style, and where there is none carries out the demo
    recipe. Killed at any moment and run again, it gives the same pictures as if it had not been. The engine `folder` copies
    the user's folder as it is now: pictures that are no longer in it go from the style too.

    Args:
        prompt: The style in a few words ("archer style"), for Stable Diffusion.
        recipe: What to do; by default the style's own recipe, else the built-in one of that name, else the defaults.
        workspace: Where `datasets/` lies.
        style: Its name; by default the recipe's, or made from the prompt.
        count: Pictures, in the place of the recipe's `generate.count`.
        seed: In the place of the recipe's.
        resume: Keep the pictures already made; False deletes them and begins anew.
        align: Also find, crop and judge the faces.
        progress: Where progress is reported.

    Raises:
        GenerationError: If the pictures cannot be made, or the folder holds pictures made with other settings.
        MissingPartError: If the engine is not installed.
        UsageError: If a prompt is given to an engine that has no use for it.
        Interrupted: If the user stops it; everything made so far is kept.
    """
    recipe, note = _choose(prompt, recipe, style, workspace)
    changes: dict[str, Any] = {"seed": recipe.seed if seed is None else seed}
    if count is not None:
        changes["generate"] = recipe.generate.model_dump() | {"count": count}
    recipe = Recipe.model_validate(recipe.model_dump() | changes)

    folder = workspace.style(recipe.style)
    made, kept, skipped = _fill(folder / "raw", recipe, resume, progress)
    workspace.set_current_style(recipe.style)
    aligned = None
    if align:
        aligned = align_faces(
            folder / "raw", kind="cartoon", output=folder, recipe=recipe.align, seed=recipe.seed, progress=progress
        )
    return GenReport(recipe.style, folder, made, kept, skipped, aligned, note)


def _choose(prompt: str | None, recipe: Recipe | None, style: str | None, workspace: Workspace) -> tuple[Recipe, str]:
    note = ""
    if recipe is not None:
        name = style or recipe.style
    elif style is not None or prompt is not None:
        name = slug(style or prompt or "")
        recipe = style_recipe(name, workspace=workspace)
    elif current := workspace.current_style():
        name = current
        recipe = style_recipe(name, workspace=workspace)
    else:
        recipe = load_recipe(_DEMO, workspace=workspace)
        name = recipe.style
        note = f"No style was named, so this is the demo: {recipe.style}, drawn by {recipe.generate.engine}."
    changes: dict[str, Any] = {"style": name}
    if prompt is not None:
        is_own = slug(prompt) == name
        if recipe.generate.engine == "diffusers" and not (is_own and recipe.generate.prompt):
            changes["generate"] = recipe.generate.model_copy(update={"prompt": portrait_prompt(prompt)})
        elif not is_own:
            raise UsageError(
                f"The style {name} is made by the engine {recipe.generate.engine}, which has no use for a prompt.",
                "Leave the prompt or the style out, or choose --engine diffusers and a --model.",
            )
    return recipe.model_copy(update=changes), note


def _fill(raw: Path, recipe: Recipe, resume: bool, progress: Progress) -> tuple[int, int, tuple[str, ...]]:
    """Make what is missing; return how many were made, how many kept, and which could not be had."""
    engine = create(recipe.generate, recipe.seed)
    files = engine.files
    journal = Journal(raw)
    if recipe.generate.engine == "folder":
        journal.mirror(set(files))
    wanted = {index: file for index, file in enumerate(files) if not (resume and journal.holds(file, engine.generation(index)))}
    missing = set(wanted.values())
    made = 0
    try:
        with progress(f"Making {recipe.style}", len(files)) as bar:
            bar.advance(len(files) - len(wanted))
            for origin, data in engine.pictures(wanted) if wanted else ():
                if not (resume or made):  # only now is it sure that there are new ones to take their place
                    journal.clear()
                made += journal.add(origin, data)
                missing.remove(origin.file)
                bar.advance()
    except KeyboardInterrupt:
        raise Interrupted(f"Stopped with {made} new pictures in {raw}.", "Run the same command to go on.") from None
    return made, len(files) - made - len(missing), tuple(sorted(missing))
