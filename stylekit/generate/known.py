"""Known styles: which model paints them, on which hub it lies, and the prompt it was made for."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from stylekit import assets
from stylekit.assets import hosts
from stylekit.assets.catalogue import CARTOON_DIFFUSION, CARTOON_DIFFUSION_REVISION, CATALOGUE
from stylekit.assets.hosts import is_offline
from stylekit.config.schema import GenerateRecipe
from stylekit.errors import AssetError, GenerationError
from stylekit.generate.prompts import portrait_prompt

BASE_MODEL = "stable-diffusion-v1-5/stable-diffusion-v1-5"
"""What paints a phrase of no known style, unless the recipe names a model."""

_TEMPLATE = "sks style, a painting of a {person}, no text"
_OTHER_NAMES = {"archer": "clipart", "watercolour": "watercolor", "flat design": "flat"}
HUB_TIMEOUT_S = 10.0
"""How long Hugging Face may take to answer a question about a repository."""

WITHOUT_A_HUB = "Or draw without a hub: stylekit gen-data --style NAME --engine dicebear --model toon-head"
_OPENRAIL = "CreativeML OpenRAIL-M"

LICENCES = {
    BASE_MODEL: _OPENRAIL,
    "nitrosocke/archer-diffusion": _OPENRAIL,
    "nitrosocke/classic-anim-diffusion": _OPENRAIL,
    "nitrosocke/Ghibli-Diffusion": _OPENRAIL,
    "nitrosocke/mo-di-diffusion": _OPENRAIL,
    "prompthero/openjourney": _OPENRAIL,
    **{repository: CATALOGUE[f"cartoon-diffusion-{name}"].licence for name, repository in CARTOON_DIFFUSION.items()},
}
"""Licences of the models that the built-in recipes name, by id on their hub, as the pages there say."""


@dataclass(frozen=True)
class KnownModel:
    """A published model that paints one style.

    Attributes:
        name: Its short name, as a recipe's `model` takes it.
        modelscope: Its id on ModelScope, None if it is not there.
        huggingface: The id of its counterpart on Hugging Face, None if there is none.
        template: The prompt it was made for (DCT-Net's generate_data.py), with `{person}`.
    """

    name: str
    modelscope: str | None
    huggingface: str | None
    template: str


class Located(NamedTuple):
    """Where a model is loaded from.

    Attributes:
        place: A folder, or an id of Hugging Face.
        label: What a record calls the model: its id on the hub that has it, or the folder as the recipe names it.
        revision: Of the id; None where the recipe names none, or for a folder.
    """

    place: str
    label: str
    revision: str | None


KNOWN = tuple(
    KnownModel(
        name,
        repository,
        "nitrosocke/archer-diffusion" if name == "clipart" else None,
        portrait_prompt("archer style") if name == "clipart" else _TEMPLATE,
    )
    for name, repository in CARTOON_DIFFUSION.items()
)


def find(text: str) -> KnownModel | None:
    """Return the known model of a name ("clipart"), a phrase ("archer style") or an id on ModelScope; None if there is none."""
    word = " ".join(text.lower().split()).removesuffix(" style")
    word = _OTHER_NAMES.get(word, word)
    return next((known for known in KNOWN if word == known.name or text == known.modelscope), None)


def complete(recipe: GenerateRecipe, phrase: str | None = None) -> GenerateRecipe:
    """Fill in the model and the prompt that a recipe leaves open.

    Args:
        recipe: Of any engine; only those that read a prompt are changed.
        phrase: The style in a few words, or a whole prompt with `{person}`; it takes the place of the recipe's prompt.
            A known style brings its own template and, where the recipe names no model, its model. For any other the model
            is `BASE_MODEL`.

    Raises:
        GenerationError: If the engine modelscope is asked for a style that it has no model of.
    """
    if recipe.engine not in ("diffusers", "modelscope", "edit"):
        return recipe
    changes: dict[str, str] = {}
    said = find(phrase) if phrase else None
    if recipe.model is None and said is not None and recipe.engine != "edit":
        changes["model"] = said.name
    elif recipe.model is None and phrase and recipe.engine == "diffusers":
        changes["model"] = BASE_MODEL
    model = changes.get("model", recipe.model)
    if recipe.engine == "modelscope" and (model is None or find(model) is None):
        names = ", ".join(known.name for known in KNOWN)
        raise GenerationError(
            f"The engine modelscope has no model {model or phrase or ''!r}.", f"Name one with --model: {names}."
        )
    if phrase:
        changes["prompt"] = said.template if said else portrait_prompt(phrase)
    elif recipe.prompt is None and model and (known := find(model)):
        changes["prompt"] = known.template
    return recipe.model_copy(update=changes)


def resolve(model: str, recipe: GenerateRecipe) -> Located:
    """Say where a model is loaded from; a known one is looked for in the caches, then fetched from whichever hub answers.

    Args:
        model: A short name of a known model, its id on ModelScope, an id of Hugging Face, or a folder.
        recipe: Its engine `modelscope` takes ModelScope's copy and no other; so does a `revision` that is ModelScope's, and any
            other takes Hugging Face's.

    Raises:
        GenerationError: If a known model can be had from no hub, or not in that revision.
    """
    if Path(model).expanduser().is_dir():
        return Located(str(Path(model).expanduser()), model, None)
    if find(model) is None:
        return Located(model, model, recipe.revision)
    modelscope, counterpart = _copies(model, recipe)
    if cached := _cached(modelscope, counterpart, recipe):
        return cached
    if is_offline():
        raise _closed(model, [])
    reasons = []
    if modelscope:
        try:
            return _from_modelscope(modelscope)
        except AssetError as error:
            reasons.append(error.message.removeprefix(f"The asset {_asset(modelscope)} is not cached. ").rstrip("."))
    if counterpart:
        reason = _ask_hugging_face(counterpart, recipe.revision, cached=False)
        if reason is None:
            return Located(counterpart, counterpart, recipe.revision)
        reasons.append(f"hf:{counterpart} could not be fetched: {reason}")
    raise _closed(model, reasons)


def check(model: str, recipe: GenerateRecipe) -> None:
    """Refuse a model that is not on this machine while its hubs are out of reach; nothing large is loaded for that.

    Args:
        model: As for `resolve`.
        recipe: As for `resolve`.

    Raises:
        GenerationError: If no hub that has the model can be reached, or it is not there in the recipe's revision.
    """
    is_here = Path(model).expanduser().exists() or (find(model) is None and model.count("/") != 1)
    if is_here or find_spec("diffusers") is None:  # whoever loads it says better what is wrong
        return
    modelscope, counterpart = _copies(model, recipe)
    if _cached(modelscope, counterpart, recipe) is None:
        hubs = [address() for copy, address in ((modelscope, hosts.modelscope), (counterpart, hosts.hugging_face)) if copy]
        reasons = [hosts.out_of_reach(hub) for hub in hubs]
        if all(reasons):
            raise _closed(model, reasons)


def _copies(model: str, recipe: GenerateRecipe) -> tuple[str | None, str | None]:
    """Return the ids by which a model may be had, on ModelScope and on Hugging Face."""
    known = find(model)
    if known is None:
        return None, model
    is_modelscopes = recipe.revision == CARTOON_DIFFUSION_REVISION
    own_hub_only = recipe.engine == "modelscope" or model == known.modelscope or is_modelscopes
    counterpart = None if own_hub_only else known.huggingface
    modelscope = known.modelscope if recipe.revision is None or is_modelscopes else None
    if modelscope is None and counterpart is None:
        raise GenerationError(
            f"ModelScope's model {known.name} is there in revision {CARTOON_DIFFUSION_REVISION}, not in {recipe.revision}.",
            "Leave generate.revision out, or name a folder with --model.",
        )
    return modelscope, counterpart


def _cached(modelscope: str | None, counterpart: str | None, recipe: GenerateRecipe) -> Located | None:
    if modelscope and assets.at_hand(_asset(modelscope)):
        return _from_modelscope(modelscope)
    if counterpart and _ask_hugging_face(counterpart, recipe.revision, cached=True) is None:
        return Located(counterpart, counterpart, recipe.revision)
    return None


def _closed(model: str, reasons: list[str]) -> GenerationError:
    """Return the error for a model that no hub gives."""
    known = find(model)
    own = "Or name the folder of a Stable Diffusion model: --model DIR"
    if known and known.modelscope:
        asset = _asset(known.modelscope)
        own += f"\nOr bring this one: stylekit assets add cartoon-diffusion FOLDER --name {asset}"
    own += f"\n{WITHOUT_A_HUB}"
    name = known.name if known else model
    if is_offline():
        return GenerationError(
            f"The model {name} is not on this machine, and STYLEKIT_OFFLINE is set.",
            f"To fetch it, unset STYLEKIT_OFFLINE.\n{own}",
        )
    return GenerationError(
        f"The model {name} can be had from no hub: {'; '.join(reasons)}.",
        f"Check the connection, or name a mirror (MODELSCOPE_ENDPOINT, HF_ENDPOINT).\n{own}",
    )


def _asset(repository: str) -> str:
    return next(f"cartoon-diffusion-{known.name}" for known in KNOWN if known.modelscope == repository)


def _from_modelscope(repository: str) -> Located:
    return Located(str(assets.fetch(_asset(repository))), repository, CARTOON_DIFFUSION_REVISION)


def _ask_hugging_face(repository: str, revision: str | None, cached: bool) -> str | None:
    """Return why the model cannot be had, None if it can; nothing is fetched yet.

    Args:
        repository: Its id.
        revision: A branch, tag or commit; None for the newest.
        cached: Ask the cache alone.
    """
    from huggingface_hub import HfApi, hf_hub_download

    if not cached and (reason := hosts.out_of_reach(hosts.hugging_face())):
        return reason
    try:
        if cached:
            hf_hub_download(repository, "model_index.json", revision=revision, local_files_only=True)
        else:
            HfApi().model_info(repository, revision=revision, timeout=HUB_TIMEOUT_S)
    except Exception as error:  # its own errors, and those of the transport below it, which have no common base
        return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return None
