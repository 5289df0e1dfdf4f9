"""Who may import whom, and what may not wake up early."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import stylekit

PACKAGE = Path(stylekit.__file__).parent
MODULES = {
    ".".join(("stylekit", *path.relative_to(PACKAGE).with_suffix("").parts)): path for path in sorted(PACKAGE.rglob("*.py"))
}
MODULES = {name.removesuffix(".__init__"): path for name, path in MODULES.items()}

# Each row imports only from its own row and the rows above it.
LAYERS = (
    ("errors", "progress", "process"),
    ("paths",),
    ("images",),
    ("pages",),
    ("assets", "config"),
    ("nn",),
    ("faces",),
    ("data",),
    ("methods",),
    ("bundle",),
    ("modelscope.graph",),
    ("modelscope.runtime",),
    ("metrics",),
    ("engine",),
    ("preference",),
    ("evaluation",),
    ("generate",),
    ("exporters", "stylizer"),
    ("hubs",),
    ("modelscope",),
    ("pipeline", "doctor"),
    ("speed",),
    ("cli", "__main__"),
)
HEIGHT = {part: height for height, row in enumerate(LAYERS) for part in row}
LIGHT = ("stylekit", "stylekit.errors", "stylekit.paths", "stylekit.progress", "stylekit.images", "stylekit.data.manifest")
LIGHT_PACKAGES = ("stylekit.cli", "stylekit.config", "stylekit.assets")
HEAVY = ("torch", "cv2", "accelerate", "scipy", "skimage", "onnxruntime", "ai_edge_litert", "torchmetrics")


def imported(name: str, source: str) -> set[str]:
    """Return the parts of stylekit that a module imports, wherever in the file; imports for type checking only count too."""
    parts = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            module = node.module or ""
            within = module in ("stylekit", "stylekit.modelscope")
            targets = [f"{module}.{alias.name}" for alias in node.names] if within else [module]
        else:
            continue
        parts |= {part_of(target) for target in targets if target.startswith("stylekit.")}
    return parts - {"__version__"}


def part_of(name: str) -> str:
    """Return the part that a module belongs to: its top package, or the room of it that has a row of its own."""
    parts = name.split(".")[1:3]
    return ".".join(parts) if ".".join(parts) in HEIGHT else parts[0]


def climbs(name: str, source: str) -> list[str]:
    """Return the parts above its own layer that a module imports."""
    own = HEIGHT[part_of(name)]
    return sorted(part for part in imported(name, source) if HEIGHT[part] > own)


@pytest.mark.parametrize("name", [name for name in MODULES if name != "stylekit"])
def test_no_file_imports_upward(name: str) -> None:
    assert climbs(name, MODULES[name].read_text("utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import stylekit.cli.app",
        "from stylekit import engine",
        "from stylekit.engine.train import train",
        "def f():\n    from stylekit.cli import app",
        "from stylekit.modelscope import trainer",
        "from stylekit.modelscope.graph.weights import generator_from",
    ],
)
def test_climbing_imports_of_every_form_are_seen(source: str) -> None:
    assert climbs("stylekit.nn.unet", source) in (["cli"], ["engine"], ["modelscope"], ["modelscope.graph"])


def test_a_room_with_a_row_of_its_own_is_told_from_its_package() -> None:
    assert climbs("stylekit.engine.start", "from stylekit.modelscope.runtime.process import Child") == []
    assert climbs("stylekit.modelscope.runtime.process", "from stylekit.engine.train import train") == ["engine"]
    assert climbs("stylekit.engine.start", "from stylekit.modelscope.trainer import train") == ["modelscope"]


def test_every_module_imports() -> None:
    for name in MODULES:
        assert importlib.import_module(name).__name__ == name


def processor_seconds() -> float:
    """Return the time that finished child processes used; unlike the clock it does not depend on what else runs."""
    times = os.times()
    return times.children_user + times.children_system


def loaded_by(program: str) -> tuple[set[str], float]:
    """Run Python and return which heavy packages were loaded at its end, and the processor seconds it took."""
    report = (
        f"import atexit, sys; atexit.register(lambda: print('LOADED', *({set(HEAVY)} & sys.modules.keys()), file=sys.stderr))"
    )
    start = processor_seconds()
    done = subprocess.run([sys.executable, "-c", f"{report}\n{program}"], capture_output=True, text=True, check=False)
    elapsed = processor_seconds() - start
    line = next(line for line in done.stderr.splitlines() if line.startswith("LOADED"))
    return set(line.split()[1:]), elapsed


def test_help_answers_before_torch_wakes() -> None:
    call = "import sys; sys.argv = ['stylekit', '--help']; from stylekit.cli import main; main()"
    heavy, elapsed = min((loaded_by(call) for _ in range(2)), key=lambda run: run[1])
    assert heavy == set()
    assert elapsed < 1.0


def test_light_modules_load_nothing_heavy() -> None:
    names = [name for name in MODULES if name in LIGHT or name.startswith(LIGHT_PACKAGES)]
    heavy, _ = loaded_by("import " + ", ".join(names))
    assert heavy == set()


def test_the_probe_sees_heavy_packages() -> None:
    assert loaded_by("import cv2")[0] == {"cv2"}


@pytest.mark.parametrize("name", stylekit.__all__)
def test_the_public_names_resolve_lazily(name: str) -> None:
    assert getattr(stylekit, name) is not None
    assert name in dir(stylekit)


def test_public_functions_are_not_hidden_by_packages_of_the_same_name() -> None:
    for name in MODULES:
        importlib.import_module(name)
    for name in stylekit.__all__:
        assert callable(getattr(stylekit, name)), name


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        stylekit.nonsense  # noqa: B018
