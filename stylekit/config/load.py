"""Recipes as files: found by name or path, read strictly, overridden key by key, and written back with their comments."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from stylekit.config.explain import explain, unknown_key_hint
from stylekit.config.schema import UPSTREAM, Recipe
from stylekit.errors import RecipeError, UsageError
from stylekit.paths import Workspace, atomic_write_text, style_name

UNSIGNED = ('description=""', "licence=null", "authors=[]")
"""Changes that take away what a recipe says of its own pictures; with other pictures it begins without."""

OTHER_ENGINE = ("generate.model=null", "generate.revision=null", "generate.lora=[]", "generate.options={}")
"""Changes that take away what a recipe says to its own engine, which means nothing to one of another kind."""

UPSTREAM_CHANGES = tuple(f"train.{key}={json.dumps(value)}" for key, value in UPSTREAM.items())
"""Changes that make any recipe fit for preset `upstream`: asked for on a command line, the preset outranks the recipe."""

UPSTREAM_ENGINE_CHANGES = (
    *UPSTREAM_CHANGES,
    "train.mixed_precision=no",
    "train.content={network: auto, layers: []}",
    "train.share_fake=null",
    "train.cache_photo_features=false",
    "train.low_vram=false",
    "train.compile=auto",
    "train.allow_tf32=true",
)
"""The same for upstream's own trainer."""

STUDENT_CHANGES = (
    "train.method=student",
    "train.preset=default",
    "train.init=null",
    "train.network={arch: unet-lite}",
    "train.learning_rate=0.001",
    "train.superpixels=off",
    "train.loss={lambda_surface: 0, lambda_texture: 0, lambda_content: 0.06, lambda_tv: 0, lambda_identity: 0, "
    "lambda_palette: 0, lambda_projected: 0}",
    "train.warm_start=identity",
    "train.warm_start_steps=0",
    "train.share_fake=null",
    "train.cache_photo_features=false",
)
"""Changes that make a style's recipe one for a student of its network."""

_HERE = Workspace()
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


class _Loader(yaml.SafeLoader):
    """YAML with the scalars of version 1.2 (`no` is text, `2e-4` a number), and without duplicate keys."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own name and shape

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a word", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key.value} stands here twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"(~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"(true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9][0-9_]*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(_FLOAT.pattern + "$"), list("-+.0123456789"))


class _Dumper(yaml.SafeDumper):
    """Quotes whatever any YAML reader could take for something else than text."""


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(_FLOAT.pattern + "$"), list("-+.0123456789"))


def _write_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    breaks_lines = text != "".join(text.splitlines())
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if breaks_lines else None)


_Dumper.add_representer(str, _write_text)
_Dumper.add_representer(list, lambda dumper, value: dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True))


class Override(str):
    """A change `key=value` that a flag of its own asks for.

    Attributes:
        label: The flag as it was typed: `--size 2000`.
    """

    label: str

    def __new__(cls, change: str, label: str) -> Override:
        """Make the change known by its label."""
        made = super().__new__(cls, change)
        made.label = label
        return made


@dataclass(frozen=True)
class RecipeEntry:
    """One recipe that `recipe ls` shows; `recipe` is None where `error` says why it cannot be used."""

    name: str
    path: Path
    built_in: bool
    recipe: Recipe | None
    error: str = ""


def built_in_recipes() -> Path:
    """Return the folder of the recipes that come with stylekit: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent.parent
    packaged = package / "recipes"
    return packaged if packaged.is_dir() else package.parent / "recipes"


def find_recipe(name_or_path: str | Path, workspace: Workspace = _HERE) -> Path:
    """Return the file of a recipe: a path as it is, a name first in the workspace's `recipes/`, then among the built-in ones.

    Raises:
        RecipeError: If there is none; the hint names the closest.
    """
    text = str(name_or_path)
    path = Path(text)
    if path.suffix in (".yaml", ".yml") or path.name != text:
        if path.is_file():
            return path
        twin = built_in_recipes() / path.name
        hint = f"To use the built-in recipe, say {path.stem} alone." if twin.is_file() else "Run: stylekit recipe ls"
        raise RecipeError(f"There is no recipe file {path}.", hint)
    for folder in (workspace.recipes, built_in_recipes()):
        if (folder / f"{text}.yaml").is_file():
            return folder / f"{text}.yaml"
    likely = get_close_matches(text, _names(workspace), n=1)
    hint = f"Did you mean {likely[0]}?" if likely else "Run: stylekit recipe ls"
    raise RecipeError(f"There is no recipe named {text}.", hint)


def load_recipe(name_or_path: str | Path, overrides: Iterable[str] = (), workspace: Workspace = _HERE) -> Recipe:
    """Read and check a recipe.

    Args:
        name_or_path: As for `find_recipe`.
        overrides: `section.key=value` each, the value in YAML; later ones win.
        workspace: Whose `recipes/` is looked into first.

    Raises:
        RecipeError: If it cannot be found or read, has an unknown or duplicate key, or a value outside its range.
    """
    path = find_recipe(name_or_path, workspace)
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} cannot be read: {error}.", "A recipe is a YAML file in UTF-8.") from error
    return parse_recipe(text, overrides, source=str(path))


def parse_recipe(text: str, overrides: Iterable[str] = (), source: str = "the recipe") -> Recipe:
    """Read and check a recipe from YAML text, which `source` names in errors; otherwise as `load_recipe`."""
    content = _parse_yaml(text, source)
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise RecipeError(f"{source}: a recipe is a list of keys and values.", "Start from: stylekit recipe show demo")
    return _validate(content, overrides, source)


def style_recipe(style: str, overrides: Iterable[str] = (), workspace: Workspace = _HERE) -> Recipe:
    """Return the recipe of a style: the workspace's own, else the built-in one for it, else the defaults under that name.

    Raises:
        RecipeError: As for `load_recipe`.
        UsageError: If the name is not one that a style can have.
    """
    style = style_name(style)
    for folder in (workspace.recipes, built_in_recipes()):
        if (folder / f"{style}.yaml").is_file():
            return load_recipe(folder / f"{style}.yaml", overrides)
    for entry in list_recipes(workspace):
        if entry.recipe is not None and entry.recipe.style == style:
            return load_recipe(entry.path, overrides)
    return _validate({"style": style}, overrides, f"style {style}")


def list_recipes(workspace: Workspace = _HERE) -> list[RecipeEntry]:
    """Return the workspace's recipes and then the built-in ones, by name; one that cannot be used is listed with its error."""
    entries = []
    for folder, built_in in ((workspace.recipes, False), (built_in_recipes(), True)):
        if built_in and folder.resolve() == workspace.recipes.resolve():
            continue
        for path in sorted(folder.glob("*.yaml")):
            try:
                entries.append(RecipeEntry(path.stem, path, built_in, load_recipe(path)))
            except RecipeError as error:
                entries.append(RecipeEntry(path.stem, path, built_in, None, error.message))
    return entries


def copy_recipe(source: str | Path, style: str, workspace: Workspace = _HERE, overrides: Iterable[str] = ()) -> Path:
    """Write a recipe under another style's name to `recipes/<style>.yaml`, every key with its meaning, and return the file.

    Description, licence and authors stay with the source's own name: they speak of its pictures. With another engine,
    `OTHER_ENGINE` goes too.

    Raises:
        RecipeError: If the source is not a sound recipe.
        UsageError: If the file is already there.
    """
    name, overrides = style_name(style), tuple(overrides)
    original, changed = load_recipe(source, (), workspace), load_recipe(source, overrides, workspace)
    unsigned = UNSIGNED if original.style != name else ()
    if changed.generate.engine != original.generate.engine:
        unsigned = (*unsigned, *OTHER_ENGINE)
    recipe = load_recipe(source, (*unsigned, *overrides), workspace)
    return save_recipe(recipe.model_copy(update={"style": name}), workspace)


def save_recipe(recipe: Recipe, workspace: Workspace = _HERE) -> Path:
    """Write a recipe to the workspace's `recipes/<style>.yaml`; a different one that is already there is not replaced.

    Raises:
        UsageError: If the file is there with other content.
    """
    path = workspace.recipes / f"{recipe.style}.yaml"
    if path.is_file():
        if load_recipe(path) == recipe:
            return path
        raise UsageError(f"{path} is already there.", "Choose another name, or remove it first.")
    atomic_write_text(path, dump_recipe(recipe))
    return path


def set_key(path: Path, key: str, value: str) -> Recipe:
    """Change one key of a recipe file and nothing else in it, as `set_keys` does."""
    return set_keys(path, {key: value})


def set_keys(path: Path, values: Mapping[str, Any]) -> Recipe:
    """Change some keys of a recipe file and nothing else in it: comments and order stay.

    Args:
        path: The file.
        values: What a key (`seed`, `section.name`) is to say: text, a number, or whatever JSON can say.

    Raises:
        RecipeError: If the recipe is not sound with them.
        UsageError: If the file is written in a way that cannot be changed line by line.
    """
    said = {key: json.dumps(value, ensure_ascii=False) for key, value in values.items()}
    wanted = load_recipe(path, [f"{key}={text}" for key, text in said.items()])
    lines = path.read_text("utf-8").splitlines()
    for key, value in said.items():
        _set_line(lines, key, value)
    text = "\n".join(lines) + "\n"
    try:
        same = parse_recipe(text, source=str(path)) == wanted
    except RecipeError:
        same = False
    if not same:
        by_hand = ", ".join(f"{key}: {value}" for key, value in said.items())
        raise UsageError(f"{path} cannot be changed without writing it anew.", f"Set in it by hand: {by_hand}")
    atomic_write_text(path, text)
    return wanted


def _set_line(lines: list[str], key: str, value: str) -> None:
    section, _, name = key.rpartition(".")
    begin, end, indent = 0, len(lines), ""
    if section:
        head = _find(lines, section, range(len(lines)), "")
        if head is None:
            lines += ["", f"{section}:", f"  {name}: {value}"]
            return
        begin = head + 1
        end = next((n for n in range(begin, end) if re.match(r"[^\s#]", lines[n])), end)
        indent = next((m[0] for n in range(begin, end) if (m := re.match(r"\s+(?=[^\s#])", lines[n]))), "  ")
    place = _find(lines, name, range(begin, end), indent)
    if place is None:
        lines.insert(begin, f"{indent}{name}: {value}")
        return
    last = next((n for n in range(place + 1, end) if not re.match(rf"{indent}\s+[^\s#]", lines[n])), end)
    comment = re.search(r"\s+#[^\"']*$", lines[place])
    lines[place:last] = [f"{indent}{name}: {value}{comment[0] if comment else ''}"]


def _find(lines: list[str], name: str, where: Iterable[int], indent: str) -> int | None:
    return next((n for n in where if re.match(rf"{indent}{re.escape(name)}:(\s|$)", lines[n])), None)


def dump_recipe(recipe: Recipe) -> str:
    """Return a recipe as YAML, each key below a comment with its meaning; read back, it equals itself."""
    return f"# {_first_line(Recipe)}\n" + "\n".join(_dump_section(recipe, depth=0)) + "\n"


def _dump_section(section: BaseModel, depth: int) -> Iterable[str]:
    indent = "  " * depth
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield f"\n{indent}# {_first_line(type(value))}\n{indent}{name}:"
            yield from _dump_section(value, depth + 1)
            continue
        if field.description:
            yield f"{indent}# {field.description}"
        plain = list(value) if isinstance(value, tuple) else value
        line = yaml.dump(
            {name: plain}, Dumper=_Dumper, allow_unicode=True, default_flow_style=False, sort_keys=False, width=2**20
        )
        yield textwrap.indent(line, indent).rstrip("\n")


def _first_line(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().partition("\n")[0]


def _parse_yaml(text: str, source: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise RecipeError(f"{source}{line}: {error.problem or 'not YAML'}.", "Mend that line.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RecipeError(f"{source} is not YAML: {error}.", "Start from: stylekit recipe show demo") from error


def _validate(content: dict[Hashable, Any], overrides: Iterable[str], source: str) -> Recipe:
    overridden = {}
    for override in overrides:
        key, equals, value = override.partition("=")
        key = key.strip()
        label = override.label if isinstance(override, Override) else f"--set {override}"
        if not equals or not key:
            raise RecipeError(f"{label} is not of the form key=value.", "For example: --set train.max_steps=1000")
        _assign(content, key, _parse_yaml(value, label), label)
        overridden[key] = label
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise explain(error, source, overridden) from error


def _assign(content: dict[Hashable, Any], key: str, value: Any, label: str) -> None:
    *sections, name = key.split(".")
    for section in sections:
        inner = content.setdefault(section, {})
        if not isinstance(inner, dict):
            raise RecipeError(f"{label}: {key} is not a known key.", unknown_key_hint(key))
        content = inner
    content[name] = value


def _names(workspace: Workspace) -> list[str]:
    return [path.stem for folder in (workspace.recipes, built_in_recipes()) for path in folder.glob("*.yaml")]
