"""The trained network that a student learns from (`train.student_of`), and how near the student has come to it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from stylekit.assets import Resolved, names_style
from stylekit.bundle.style import STYLE_FILE, load_style, read_bundle
from stylekit.bundle.weights import pack_weights, unpack_generator
from stylekit.config.schema import NetworkRecipe, Recipe
from stylekit.engine.checkpoint import META, checkpoint_folders, describe_checkpoint, latest_checkpoint, load_generator
from stylekit.engine.evaluations import Evaluation
from stylekit.engine.start import find_start
from stylekit.errors import DataError
from stylekit.methods.base import Method
from stylekit.methods.student import Student
from stylekit.nn.generators import AnyGenerator, network_of
from stylekit.paths import Workspace, atomic_write_text, sha256_bytes, slug

TEACHER_FILE = "teacher.json"


@dataclass(frozen=True)
class Teacher:
    """A network to learn from.

    Attributes:
        source: What `train.student_of` says to find it again.
        network: In eval mode, on the CPU.
        sha256: Digest of its weights, whatever file they came from.
        style: The style that it draws, where that is written beside it.
        inherits: Changes that make a recipe look at faces as the teacher does.
    """

    source: str
    network: AnyGenerator
    sha256: str
    style: str | None
    inherits: tuple[str, ...]


class TeacherRecord(BaseModel):
    """`teacher.json` of a student's run.

    Attributes:
        source: Where the teacher was found.
        network: Its architecture and size.
        evaluation: What was measured on its pictures as on the student's; None where nothing is measured.
    """

    model_config = ConfigDict(frozen=True)

    source: str
    sha256: str
    network: NetworkRecipe
    evaluation: Evaluation | None = None


def find_teacher(source: str, workspace: Workspace) -> Teacher:
    """Read the network to learn from.

    Args:
        source: A run (its best checkpoint, else its newest), a checkpoint, a style bundle, a style by name (its newest run that
            is no student's, else as `load_style` finds it), or whatever else `find_start` reads.
        workspace: Where styles by name lie.

    Raises:
        CheckpointError: If there is nothing of the kind, or it is damaged.
        ExportError: If a style bundle is damaged, or there is no style of that name.
        StylekitError: As `find_start` does.
    """
    path = Path(source).expanduser()
    if not path.exists() and not names_style(source):
        path = _of_style(source, workspace)
        source = str(path)
    if path.suffix == ".zip" or (path / STYLE_FILE).is_file():
        bundle = read_bundle(path)
        face = bundle.style.networks.face
        inherits = _changes({"train.size": face.size, "align.template": face.template})
        return _teacher(source, unpack_generator(bundle, face), bundle.style.name, inherits)
    if (path / META).is_file() or (path / "checkpoints").is_dir():
        loaded = load_generator(path)
        return _teacher(source, loaded.module, loaded.recipe.style, _changes(_looks(loaded.recipe)))
    return _teacher(source, find_start(source).weights.generator, None, ())


def _of_style(name: str, workspace: Workspace) -> Path:
    for run in reversed(workspace.run_folders(slug(name))):
        if checkpoint_folders(run) and describe_checkpoint(latest_checkpoint(run)).recipe.train.student_of is None:
            return run
    return load_style(name, workspace).path


def _looks(recipe: Recipe) -> dict[str, Any]:
    """Return how a recipe comes by its photographs, and what sees their content."""
    train = recipe.train.model_dump(mode="json", include={"size", "content", "augment"})
    return {
        "photos.source": recipe.photos.source,
        "photos.eval_fraction": recipe.photos.eval_fraction,
        "align.template": recipe.align.template,
        **{f"train.{key}": value for key, value in train.items()},
    }


def _changes(values: dict[str, Any]) -> tuple[str, ...]:
    return tuple(f"{key}={json.dumps(value)}" for key, value in values.items())


def _teacher(source: str, network: AnyGenerator, style: str | None, inherits: tuple[str, ...]) -> Teacher:
    digest = sha256_bytes(pack_weights(network, torch.float32, {}))
    return Teacher(source, network.eval().requires_grad_(False), digest, style, inherits)


def teach(method: Method, teacher: Teacher) -> None:
    """Give a built student its teacher; from then on the run's records name it."""
    assert isinstance(method, Student)
    name = f"{teacher.style or Path(teacher.source).name} ({network_of(teacher.network).arch})"
    source = f"user:{teacher.source}"
    method.watch(teacher.network, Resolved(name, "teacher", Path(teacher.source), source, teacher.sha256, "", ""))


def write_teacher(run: Path, teacher: Teacher, evaluation: Evaluation | None) -> None:
    """Write `teacher.json` into a student's run.

    Raises:
        StylekitError: If it cannot be written.
    """
    network = network_of(teacher.network)
    record = TeacherRecord(source=teacher.source, sha256=teacher.sha256, network=network, evaluation=evaluation)
    atomic_write_text(run / TEACHER_FILE, record.model_dump_json(indent=1) + "\n")


def read_teacher(run: Path) -> TeacherRecord | None:
    """Return what a run says of its teacher; None where it has none.

    Raises:
        DataError: If that cannot be read.
    """
    file = run / TEACHER_FILE
    if not file.is_file():
        return None
    try:
        return TeacherRecord.model_validate_json(file.read_text("utf-8"))
    except (OSError, ValueError, ValidationError) as error:
        raise DataError(f"{file} cannot be read: {error}.", "Delete it and train on: stylekit train --resume") from error
