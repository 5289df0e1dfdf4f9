"""Descriptions of people for prompts, balanced and the same for the same seed on every machine."""

from __future__ import annotations

import hashlib

_ADULT = ("young", "middle-aged", "elderly")
_SKIN = ("very fair", "fair", "olive", "tan", "brown", "dark brown", "deep dark")
_EXPRESSION = ("smiling", "laughing", "calm", "serious", "surprised")
_TEXTURE = ("straight", "wavy", "curly", "coily")
_COLOUR = {
    "young": ("black", "dark brown", "light brown", "blond", "red"),
    "middle-aged": ("black", "dark brown", "light brown", "blond", "greying"),
    "elderly": ("white", "grey", "silver"),
}
_WEARS = {
    "woman": ("", "glasses", "earrings", ""),
    "man": ("", "glasses", "a short beard", "a moustache"),
    "person": ("", "glasses", "", "freckles"),
}
_LENGTH = {
    "woman": ("long", "shoulder-length", "short", "tied-back"),
    "man": ("short", "cropped", "medium-length", "long"),
    "person": ("short", "shoulder-length", "shaved", "medium-length"),
}
_VIEW = ("looking at the viewer", "facing forward", "head turned slightly to the left", "head turned slightly to the right")


def describe(seed: int, index: int) -> str:
    """Return the description of person `index`, such as "a young woman with brown skin and long curly black hair, smiling".

    Every attribute runs through all its values, in an order shuffled by the seed, before one comes again: any run of
    pictures is balanced in age, gender presentation, skin tone and expression.
    """

    def turn(name: str, values: tuple[str, ...]) -> str:
        return _shuffled(f"{seed}/{name}/{index // len(values)}", values)[index % len(values)]

    # Women and men each come up three times as often as a person of unnamed gender.
    gender = turn("gender", ("woman", "man") * 3 + ("person",))
    age = turn("age", _ADULT)
    hair = f"{turn('length', _LENGTH[gender])} {turn('texture', _TEXTURE)} {turn('colour', _COLOUR[age])} hair"
    wears = turn("wears", _WEARS[gender])
    features = [f"{turn('skin', _SKIN)} skin", hair, *([wears] if wears else [])]
    article = "an" if age.startswith("e") else "a"
    traits = f"{', '.join(features[:-1])} and {features[-1]}"
    return f"{article} {age} {gender} with {traits}, {turn('expression', _EXPRESSION)}, {turn('view', _VIEW)}"


def _shuffled(key: str, values: tuple[str, ...]) -> list[str]:
    """Shuffle by hash rather than by `random`, whose sequences may change between Python versions."""
    order = sorted(range(len(values)), key=lambda place: hashlib.sha256(f"{key}/{place}".encode()).digest())
    return [values[place] for place in order]
