"""`gen_data`: from a prompt or a recipe to a folder of aligned cartoon faces."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stylekit.config.load import load_recipe, style_recipe
from stylekit.config.schema import Recipe
from stylekit.errors import GenerationError, Interrupted, UsageError
from stylekit.generate import workers
from stylekit.generate.engine import Engine, create
from stylekit.generate.journal import Journal, exclusive
from stylekit.generate.known import complete
from stylekit.generate.ranks import launched
from stylekit.paths import Workspace, slug
from stylekit.progress import Progress, silent

if TYPE_CHECKING:
    from stylekit.data.prepare import AlignReport

_LOG = logging.getLogger(__name__)
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
        others: Pictures of the style that this recipe would not make, such as those of a larger count; they are kept, and
            aligned with the rest.
        skipped: Pictures that could not be had, with the reason.
        aligned: What aligning them gave; None if it was not asked for.
        note: What the user should know about the choice of the recipe; empty if it was theirs.
    """

    style: str
    folder: Path
    made: int
    kept: int
    others: int
    skipped: dict[str, str]
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
    processes: int | None = None,
    align: bool = True,
    progress: Progress = silent,
    begun: Callable[[], None] = lambda: None,
) -> GenReport:
    """Make the cartoon pictures of a style and align their faces.

    With neither prompt nor recipe nor style it goes on with the current style, and where there is none carries out the demo
    recipe. Killed at any moment and run again, it gives the same pictures as if it had not been. The engine `folder` copies
    the user's folder as it is now: pictures that are no longer in it go from the style too.

    In a launch by Accelerate or torchrun the processes share the pictures, the main one does all else, and each returns its
    report or raises its error.

    Args:
        prompt: The style in a few words ("archer style"), or a whole prompt with `{person}`, for engines that read one.
        recipe: What to do; by default the style's own recipe, else the built-in one of that name, else the defaults.
        workspace: Where `datasets/` lies.
        style: Its name; by default the recipe's, or made from the prompt.
        count: Pictures, in the place of the recipe's `generate.count`.
        seed: In the place of the recipe's.
        resume: Keep the pictures already made; False deletes them and begins anew.
        processes: Processes that make them, each on a device of its own as far as there are devices; by default one for each,
            and in a launch those of the launch. The pictures are the same however many there are.
        align: Also find, crop and judge the faces.
        progress: Where progress is reported.
        begun: Called once it is sure that there are pictures, before the first new one is written, and perhaps again at the end.

    Raises:
        GenerationError: If the pictures cannot be made, the folder holds pictures made with other settings, or another
            `gen_data` is at work in it.
        MissingPartError: If the engine is not installed.
        UsageError: If a prompt is given to an engine that has no use for it, or a launch is of another number of processes.
        Interrupted: If the user stops it; everything made so far is kept.
    """
    launch = launched()
    if launch and not launch.is_main:
        report: GenReport = launch.follow()
        return report

    def make() -> GenReport:
        chosen, note = _choose(prompt, recipe, style, workspace)
        changes: dict[str, Any] = {"seed": chosen.seed if seed is None else seed}
        if count is not None:
            changes["generate"] = chosen.generate.model_dump() | {"count": count}
        chosen = Recipe.model_validate(chosen.model_dump() | changes)

        def begin() -> None:
            workspace.set_current_style(chosen.style)
            begun()

        folder = workspace.style(chosen.style)
        with exclusive(folder / "raw"):
            made, kept, others, skipped = _fill(folder / "raw", chosen, resume, processes, progress, begin=begin)
            begin()
            aligned = None
            if align:
                from stylekit.data.prepare import align as align_faces  # loads torch: only once there is something to align

                aligned = align_faces(
                    folder / "raw", kind="cartoon", output=folder, recipe=chosen.align, seed=chosen.seed, progress=progress
                )
        return GenReport(chosen.style, folder, made, kept, others, skipped, aligned, note)

    return launch.lead(make) if launch else make()


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
    return with_phrase(recipe.model_copy(update={"style": name}), prompt), note


def with_phrase(recipe: Recipe, phrase: str | None) -> Recipe:
    """Return a recipe with what a prompt on the command line adds to it: the template, and where it names none, the model.

    Args:
        recipe: Of any engine.
        phrase: The style in a few words, or a whole prompt with `{person}`. Words that only repeat the style's name leave the
            recipe's own prompt alone.

    Raises:
        UsageError: If the engine has no use for a prompt.
        GenerationError: If the engine modelscope has no model of that style.
    """
    is_own = phrase is not None and slug(phrase) == recipe.style
    if recipe.generate.engine in ("dicebear", "folder") and phrase is not None and not is_own:
        raise UsageError(
            f"The style {recipe.style} is made by the engine {recipe.generate.engine}, which has no use for a prompt.",
            "Leave the prompt or the style out, or choose --engine diffusers and a --model.",
        )
    keeps_its_own = is_own and recipe.generate.prompt is not None
    completed = complete(recipe.generate, None if keeps_its_own else phrase)
    return recipe.model_copy(update={"generate": completed})


def _fill(
    raw: Path, recipe: Recipe, resume: bool, processes: int | None, progress: Progress, *, begin: Callable[[], None]
) -> tuple[int, int, int, dict[str, str]]:
    """Make what is missing; return how many were made, how many kept, how many others are there, and what could not be had."""
    engine = create(recipe.generate, recipe.seed, raw)
    if engine.note:
        _LOG.info("%s", engine.note)
    files = engine.files
    copies = bool(files) and engine.generation(0) is None
    journal = Journal(raw, recipe.licence)
    if copies:
        journal.mirror(set(files))
    wanted = {index: file for index, file in enumerate(files) if not (resume and _is_made(engine, index, journal))}
    there = (journal.get(file) for index, file in enumerate(files) if index not in wanted)
    kept = next((origin.generation for origin in there if origin), None)
    if wanted:
        engine.check()
    launch = launched()
    if launch and processes not in (None, launch.number):
        raise UsageError(f"{processes} processes are asked for in a launch of {launch.number}.", "Leave --processes out.")
    if launch:
        processes = launch.number
    number = 1 if copies else processes or (workers.devices(recipe.generate) if wanted else 1)
    made, missing, problems = 0, set(wanted.values()), dict(engine.left_out)

    def clear() -> None:
        begin()
        if not resume:  # only now is it sure that there are new ones to take their place
            journal.clear()

    try:
        with (progress if wanted else silent)(f"Making {recipe.style}", len(files)) as bar:
            bar.advance(len(files) - len(wanted))
            if number > 1 and wanted:
                jobs = [
                    workers.Job(recipe.generate, recipe.seed, raw, place, share, kept)
                    for place, share in enumerate(workers.shares(list(wanted), number, workers.at_once(recipe.generate)))
                ]
                paint = launch.paint if launch else workers.paint
                with journal.parts(), closing(paint(jobs, clear)) as all_done:
                    for file, problem in all_done:
                        if problem:
                            problems[file] = problem
                            continue
                        made += 1
                        missing.discard(file)
                        bar.advance()
            elif wanted:
                for origin, data in workers.begin(engine.pictures(wanted), kept, clear):
                    made += journal.add(origin, data)
                    missing.discard(origin.file)
                    bar.advance()
                problems |= engine.left_out
    except KeyboardInterrupt:
        if not len(journal):  # else what is there is of the recipe that is there
            begin()
        raise Interrupted(f"Stopped with {made} new pictures in {raw}.", "Run the same command to go on.") from None
    kept_now = len(files) - made - len(missing)
    others = len(journal) - sum(journal.get(file) is not None for file in files)
    return made, kept_now, others, {file: problems.get(file, "") for file in sorted(missing)}


def _is_made(engine: Engine, index: int, journal: Journal) -> bool:
    """Tell whether a generated picture is there already; of one that is not generated only `Journal.add` can tell.

    Raises:
        GenerationError: If the file is there but was made with other settings.
    """
    origin = journal.get(engine.files[index])
    if origin is None or (origin.generation is None and engine.generation(index) is None):
        return False
    changed = ["engine"] if origin.generation is None else engine.changed(index, origin.generation)
    if changed:
        raise GenerationError(
            f"{journal.folder} already holds pictures made with other settings ({', '.join(changed)}).",
            "Name another style with --style, or make them anew with --fresh.",
        )
    return True
