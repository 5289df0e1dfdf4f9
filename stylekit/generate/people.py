"""Who is in the pictures: descriptions of people, balanced and the same for the same seed on every machine, or a list."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Protocol

from stylekit.assets import fetch
from stylekit.errors import GenerationError

BALANCED = "balanced"
CELEBRITIES = "celebrities"

# Women and men each come up three times as often as a person of unnamed gender.
_GENDER = ("woman", "man") * 3 + ("person",)
_AGE = ("young", "middle-aged", "elderly")
_SKIN = ("very fair", "fair", "olive", "tan", "brown", "dark brown", "deep dark")
_LENGTH = {
    "woman": ("long", "shoulder-length", "short", "tied-back"),
    "man": ("short", "cropped", "medium-length", "long", "no"),
    "person": ("short", "shoulder-length", "cropped", "medium-length"),
}
_TEXTURE = ("straight", "wavy", "curly", "coily")
_COLOUR = {
    "young": ("black", "dark brown", "light brown", "blond", "red"),
    "middle-aged": ("black", "dark brown", "light brown", "blond", "greying"),
    "elderly": ("white", "grey", "silver"),
}
_GLASSES = ("yes", "", "", "")
_BEARD = ("", "", "a short beard", "a full beard", "a moustache", "stubble")
_EXPRESSION = ("smiling", "laughing", "calm", "serious", "surprised")
_POSE = (
    "facing forward",
    "looking at the viewer",
    "head turned slightly to the left",
    "head turned slightly to the right",
    "head tilted",
)
_LIGHTING = ("soft light", "daylight", "warm light", "light from the left", "light from the right")


class People(Protocol):
    """Numbered people for prompts; person `i` is the same whichever others are asked for."""

    def describe(self, index: int) -> str:
        """Return what stands for person `index` in a prompt."""

    def traits(self, index: int) -> dict[str, str]:
        """Return what that says of the person, by name; empty where only a name is known."""


class Balanced:
    """Descriptions of adults, balanced over every trait; see `traits`."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def describe(self, index: int) -> str:
        """Return a description that begins with an article."""
        return describe(self._seed, index)

    def traits(self, index: int) -> dict[str, str]:
        """Return the traits in that description."""
        return traits(self._seed, index)


class Listed:
    """People of a list, in its order, over and over.

    Args:
        names: One or more, in the words that stand in the prompt.
    """

    def __init__(self, names: list[str]) -> None:
        self._names = names

    def describe(self, index: int) -> str:
        """Return name `index` of the list, counted round."""
        return self._names[index % len(self._names)]

    def traits(self, index: int) -> dict[str, str]:
        """Return nothing: a name says none."""
        return {}


def people(source: str, seed: int) -> People:
    """Return the people a recipe names.

    Args:
        source: `balanced`; `celebrities`, the list of DCT-Net's repository, fetched or brought (`stylekit assets add
            celebrities FILE`); or a text file, one person a line, in which blank lines and those that begin with # are passed
            over.
        seed: The recipe's.

    Raises:
        GenerationError: If the file cannot be read or names nobody.
        AssetError: If the list of celebrities can neither be found nor fetched.
    """
    if source == BALANCED:
        return Balanced(seed)
    return Listed(_read(fetch("celebrities") if source == CELEBRITIES else Path(source).expanduser()))


def _read(path: Path) -> list[str]:
    hint = "--people takes balanced, celebrities, or a text file with one person a line."
    try:
        lines = [line.strip() for line in path.read_text("utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise GenerationError(f"The list of people {path} cannot be read: {reason}.", hint) from error
    if names := [line for line in lines if line and not line.startswith("#")]:
        return names
    raise GenerationError(f"The list of people {path} names nobody.", hint)


def describe(seed: int, index: int) -> str:
    """Return the description of person `index`, such as "a young woman with brown skin and long curly black hair, smiling"."""
    said = traits(seed, index)
    hair = "a bald head" if said["hair"] == "bald" else f"{said['hair']} hair"
    wears = ["glasses" if name == "glasses" else said[name] for name in ("glasses", "beard") if name in said]
    features = [f"{said['skin']} skin", hair, *wears]
    article = "an" if said["age"].startswith("e") else "a"
    look = f"{', '.join(features[:-1])} and {features[-1]}"
    return (
        f"{article} {said['age']} {said.get('gender', 'person')} with {look}, "
        f"{said['expression']}, {said['pose']}, {said['lighting']}"
    )


def traits(seed: int, index: int) -> dict[str, str]:
    """Return the traits of person `index` that its description names.

    Every trait runs through all its values, in an order shuffled by the seed, before one comes again. So in any run of people
    each value comes up as often as the others, but for less than two; beards run through men alone, the colour of hair
    through people of one age.

    Returns:
        `age`, `skin`, `hair`, `expression`, `pose`, `lighting`; where the description says so also `gender` (woman or man),
        `glasses` (yes) and `beard`.
    """

    def turn(name: str, values: tuple[str, ...], place: int = index) -> str:
        return _shuffled(f"{seed}/{name}/{place // len(values)}", values)[place % len(values)]

    gender, age = turn("gender", _GENDER), turn("age", _AGE)
    peer = _rank(f"{seed}/gender", _GENDER, index)
    said = {"gender": gender, "age": age, "skin": turn("skin", _SKIN)}
    if (length := turn(f"length/{gender}", _LENGTH[gender], peer)) == "no":
        said["hair"] = "bald"
    else:
        texture = "" if length == "cropped" else f" {turn('texture', _TEXTURE)}"
        said["hair"] = f"{length}{texture} {turn(f'colour/{age}', _COLOUR[age], index // len(_AGE))}"
    said["glasses"] = turn("glasses", _GLASSES)
    said["beard"] = turn("beard", _BEARD, peer) if gender == "man" else ""
    said |= {"expression": turn("expression", _EXPRESSION), "pose": turn("pose", _POSE), "lighting": turn("lighting", _LIGHTING)}
    if gender == "person":
        del said["gender"]
    return {name: value for name, value in said.items() if value}


def _rank(key: str, values: tuple[str, ...], index: int) -> int:
    """Return how many before `index` have the value that `index` has."""
    block, place = divmod(index, len(values))
    order = _shuffled(f"{key}/{block}", values)
    return block * values.count(order[place]) + order[:place].count(order[place])


def _shuffled(key: str, values: tuple[str, ...]) -> list[str]:
    """Shuffle by hash rather than by `random`, whose sequences may change between Python versions."""
    order = sorted(range(len(values)), key=lambda place: hashlib.sha256(f"{key}/{place}".encode()).digest())
    return [values[place] for place in order]
