"""The documentation says what is so: commands, flags, keys, links, error sentences, attributions."""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import typer
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException

import stylekit
from stylekit.assets import CATALOGUE, ROLES
from stylekit.assets.catalogue import Asset
from stylekit.cli import run
from stylekit.cli.app import app
from stylekit.config.explain import known_keys
from stylekit.config.load import parse_recipe
from stylekit.errors import RecipeError

ROOT = Path(stylekit.__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "datasets/README.md", "work_dirs/README.md")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text("utf-8") for page in PAGES}
COMMAND = typer.main.get_command(app)
CHEAP = ("doctor", "recipe cp", "recipe show", "recipe validate", "recipe ls", "assets ls", "--help")
SECTIONS = ("photos", "generate", "align", "train", "eval", "export", "stylize", "publish")


def blocks(text: str, language: str = "") -> Iterator[str]:
    """Yield the fenced blocks of a language."""
    yield from re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def passages(program: str) -> list[tuple[str, list[str]]]:
    """Return (page, command lines) for every plain block that calls a program, and every piece of code that does."""
    found = []
    for page, text in TEXTS.items():
        inline = re.findall(rf"`({program} [^`]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))
        written = [block.replace("\\\n", " ").splitlines() for block in blocks(text)]
        written += [[f"{line} --help" if is_name(line) else line] for line in inline]
        called = [[line for line in lines if line.split(maxsplit=1)[:1] == [program]] for lines in written]
        found += [(page, lines) for lines in called if lines]
    return found


def lines_of(program: str) -> list[tuple[str, str]]:
    """Return (page, command line) for every line of the `passages`."""
    return [(page, line) for page, lines in passages(program) for line in lines]


def is_name(line: str) -> bool:
    """Tell whether a piece of code only names a command, such as `stylekit align`, which would need an argument."""
    command = COMMAND
    for word in line.split()[1:]:
        command = command.commands.get(word) if isinstance(command, TyperGroup) else None
    return command is not None and line.startswith("stylekit ")


STYLEKIT = lines_of("stylekit")


def parse(command: TyperCommand | TyperGroup, name: str, arguments: list[str]) -> None:
    """Let the real parsers read a command line without carrying it out."""
    if isinstance(command, TyperGroup):
        assert arguments, f"{name} alone does nothing"
        assert arguments[0] in command.commands, f"there is no command {name} {arguments[0]}"
        parse(command.commands[arguments[0]], f"{name} {arguments[0]}", arguments[1:])
    else:
        command.make_context(name, arguments)


def check(line: str) -> None:
    arguments = shlex.split(line, comments=True)[1:]
    for part in ("--json", "--debug"):
        arguments = [argument for argument in arguments if argument != part]
    if arguments[-1] == "--help":
        assert arguments == ["--help"] or is_name(" ".join(["stylekit", *arguments[:-1]]))
        return
    parse(COMMAND, "stylekit", arguments)
    changes = [value for flag, value in pairwise(arguments) if flag == "--set"]
    parse_recipe("style: x", changes)


@pytest.mark.parametrize(("page", "line"), STYLEKIT)
def test_every_command_is_understood(page: str, line: str) -> None:
    check(line)


@pytest.mark.parametrize(
    "line", ["stylekit trian", "stylekit train --max-step 5", "stylekit export --format", "stylekit run demo --set train.step=1"]
)
def test_a_wrong_command_would_be_noticed(line: str) -> None:
    with pytest.raises((AssertionError, TyperException, RecipeError)):
        check(line)


def is_cheap(line: str) -> bool:
    return line.removeprefix("stylekit ").startswith(CHEAP) or line.endswith("--help")


@pytest.mark.parametrize(
    "lines",
    sorted({tuple(filter(is_cheap, lines)) for _, lines in passages("stylekit") if any(map(is_cheap, lines))}),
    ids=" ".join,
)
def test_cheap_commands_really_run_in_the_order_of_the_page(
    lines: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("stylekit.doctor.missing_packages", lambda: ["tensorflow"])  # whose import takes seconds
    for line in lines:
        assert run(shlex.split(line)[1:]) == 0
        assert capsys.readouterr().out


def test_every_target_of_make_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    called = {word for _, line in lines_of("make") for word in shlex.split(line)[1:] if "=" not in word}
    assert {"demo", "test"} <= called <= targets


def test_every_extra_of_an_install_command_exists() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    named = {extra for text in TEXTS.values() for extra in re.findall(r"stylekit\[(\w+)\]", text)}
    assert named
    assert named <= extras.keys()


@pytest.mark.parametrize("page", TEXTS)
def test_every_link_leads_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)", TEXTS[page]):
        assert target.startswith("https://") or (ROOT / page).parent.joinpath(target).exists(), target


def test_every_page_is_reached_from_the_readme() -> None:
    assert [page for page in TEXTS if page.startswith("docs/") and f"({page})" not in TEXTS["README.md"]] == []


@pytest.mark.parametrize("page", TEXTS)
def test_every_key_of_the_recipe_exists(page: str) -> None:
    keys = set(known_keys())
    named = re.findall(rf"`(?:--set )?((?:{'|'.join(SECTIONS)})\.[a-z_.]+)(?:=[^`]*)?`", TEXTS[page])
    assert [key for key in named if key not in keys and not key.endswith((".json", ".jpg"))] == []


@pytest.mark.parametrize(("page", "block"), [(page, block) for page, text in TEXTS.items() for block in blocks(text, "python")])
def test_python_compiles_and_names_what_exists(page: str, block: str) -> None:
    tree = ast.parse(block, page)
    compile(tree, page, "exec")
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("stylekit"):
            module = __import__(node.module or "", fromlist=["*"])
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "stylekit":
            assert node.attr in stylekit.__all__


def sentences() -> set[str]:
    """Return every text in the source, each value in it as {}."""
    found = set()
    for file in (ROOT / "stylekit").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.add("".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


def test_every_error_quoted_is_one_that_stylekit_says() -> None:
    quoted = re.findall(r"^\| (.*?) \| ", TEXTS["docs/troubleshooting.md"], re.MULTILINE)
    quoted = [sentence for sentence in quoted if sentence != "it says"]
    assert len(quoted) > 30
    known = sentences()
    generic = {sentence: re.sub(r"<[^>]+>", "{}", sentence) for sentence in quoted}
    said = {s for s, text in generic.items() if text in known or text.removeprefix("{} ").removesuffix(".") in known}
    assert set(quoted) - said == set()


def test_every_asset_and_role_is_documented() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| ", TEXTS["docs/assets.md"], re.MULTILINE)
    assert rows == list(ROLES)
    inline = re.findall(r"^stylekit assets fetch (.+)$", "\n".join(TEXTS.values()), re.MULTILINE)
    assert {name for names in inline for name in names.split()} <= CATALOGUE.keys() | {"NAME"}


@pytest.mark.parametrize("asset", CATALOGUE.values(), ids=list(CATALOGUE))
def test_notice_names_every_asset_its_owner_and_its_licence(asset: Asset) -> None:
    notice = (ROOT / "NOTICE").read_text("utf-8")
    entry = re.search(rf"^{re.escape(asset.name)}\n((?:    .*\n)+)", notice, re.MULTILINE)
    assert entry is not None
    assert asset.attribution in entry[1]
    assert asset.licence in entry[1]
    assert all(str(source) in entry[1] for source in asset.sources)


def test_the_licence_is_apache_2_whole() -> None:
    text = (ROOT / "LICENSE").read_text("utf-8")
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert "stylekit" in (ROOT / "NOTICE").read_text("utf-8")
