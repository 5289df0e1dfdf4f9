"""What is wrong with a recipe, in a sentence: the key, its value, what it may be, and what was probably meant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Literal, get_args, get_origin

import annotated_types
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from stylekit.config.schema import Recipe
from stylekit.errors import RecipeError

_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a number",
    "bool": "true or false",
    "string": "text (put it in quotes)",
    "tuple": "a list",
    "list": "a list",
    "dict": "a section of keys",
    "model": "a section of keys",
}


def explain(error: ValidationError, source: str, overridden: Mapping[str, str]) -> RecipeError:
    """Turn pydantic's errors into one `RecipeError` about the first, whose hint says what else is wrong, a line for each.

    Args:
        error: What validating a `Recipe` raised.
        source: The file the recipe came from.
        overridden: Dotted keys set on the command line, and what did it, as it was typed.
    """
    faults: dict[str, tuple[str, str]] = {}
    for detail in error.errors():
        key, sentence, hint = _explain_one(detail)
        where = next((label for path, label in overridden.items() if _touches(path, key)), source)
        faults.setdefault(key, (f"{where}: {sentence}", hint))
    (message, hint), *others = faults.values()
    also = [f"Also wrong: {sentence} {mend}".rstrip() for sentence, mend in others]
    return RecipeError(message, "\n".join([hint, *also] if hint else also))


def _touches(path: str, key: str) -> bool:
    return key == path or key.startswith((f"{path}.", f"{path}[")) or path.startswith(f"{key}.")


def known_keys(model: type[BaseModel] = Recipe, prefix: str = "") -> Iterator[str]:
    """Yield the dotted path of every key, sections included."""
    for name, field in model.model_fields.items():
        yield prefix + name
        if section := _section(field):
            yield from known_keys(section, f"{prefix}{name}.")


def unknown_key_hint(key: str) -> str:
    """Return what was probably meant by a key that is not in the schema, else the keys that stand in its section."""
    keys = {known: known.rpartition(".") for known in known_keys()}
    parent, _, name = key.rpartition(".")
    siblings = [leaf for section, _, leaf in keys.values() if section == parent]
    if likely := get_close_matches(name, siblings, n=1):
        return f"Did you mean {f'{parent}.' if parent else ''}{likely[0]}?"
    if elsewhere := [known for known, (_, _, leaf) in keys.items() if get_close_matches(name, [leaf], cutoff=0.8)]:
        return f"Did you mean {elsewhere[0]}?"
    if not siblings:
        return f"{parent} holds no further keys."
    return f"Known keys: {', '.join(siblings)}."


def _explain_one(detail: ErrorDetails) -> tuple[str, str, str]:
    key, field = _locate(detail["loc"])
    kind = detail["type"]
    if kind == "extra_forbidden":
        return key, f"{key} is not a known key.", unknown_key_hint(key)
    if kind == "missing" and field is not None and key.endswith("]"):
        return key, f"{key.rpartition('[')[0]} has too few entries.", ""
    if kind == "missing":
        return key, f"{key} is missing.", f"Add a line: {key}: ..."
    if kind == "value_error":
        message, *hint = detail["ctx"]["error"].args
        return key, f"{key}: {message}.", " ".join(hint)
    value = "empty" if detail["input"] is None else f"{_shorten(detail['input'])}"
    return key, f"{key} is {value}, but must be {_allowed(detail, field)}.", _meant(detail, field)


def _locate(loc: tuple[int | str, ...]) -> tuple[str, FieldInfo | None]:
    """Return the dotted key of an error and the schema field it stands in; union branches of pydantic's path are left out."""
    section: type[BaseModel] | None = Recipe
    field: FieldInfo | None = None
    key = ""
    for part in loc:
        if section is not None:
            field = section.model_fields.get(str(part))
            key += f".{part}" if key else str(part)
            section = _section(field) if field else None
        elif isinstance(part, int):
            key += f"[{part}]"
        elif field is not None and get_origin(field.annotation) is dict:
            key += f".{part}"
            field = None
    return key or "the recipe", field


def _section(field: FieldInfo) -> type[BaseModel] | None:
    annotation = field.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _allowed(detail: ErrorDetails, field: FieldInfo | None) -> str:
    choices = _choices(field)
    if choices:
        return "one of " + ", ".join(choices) if len(choices) > 1 else choices[0]
    if detail["type"] == "string_pattern_mismatch":
        return "lower-case letters and digits, joined by single hyphens"
    kind = _KINDS.get(detail["type"].partition("_")[0])
    limits = _limits(field)
    if kind is None and not limits:
        return detail["msg"].removeprefix("Input should be ")
    if kind in (None, "a whole number", "a number"):
        number = "a whole number" if detail["type"].startswith("int") or (field and field.annotation is int) else "a number"
        return f"{number} {limits}".strip()
    return kind


def _limits(field: FieldInfo | None) -> str:
    low = high = multiple = ""
    for rule in field.metadata if field else ():
        match rule:
            case annotated_types.Ge(ge=bound):
                low = f"from {bound}"
            case annotated_types.Gt(gt=bound):
                low = f"above {bound}"
            case annotated_types.Le(le=bound):
                high = f"to {bound}"
            case annotated_types.Lt(lt=bound):
                high = f"below {bound}"
            case annotated_types.MultipleOf(multiple_of=factor):
                multiple = f", a multiple of {factor}"
    if low.startswith("from") and not high:
        low = low.replace("from", "of at least")
    elif high.startswith("below") and low:
        high = f"and {high}"
    return " ".join(part for part in (low, high) if part) + multiple


def _choices(field: FieldInfo | None) -> list[str]:
    if field is None:
        return []
    annotation = field.annotation
    if get_origin(annotation) is tuple:
        annotation = get_args(annotation)[0]
    return [str(choice) for choice in get_args(annotation)] if get_origin(annotation) is Literal else []


def _meant(detail: ErrorDetails, field: FieldInfo | None) -> str:
    likely = get_close_matches(str(detail["input"]), _choices(field), n=1)
    return f"Did you mean {likely[0]}?" if likely else ""


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
