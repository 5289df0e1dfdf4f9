"""How fast a recipe trains on this machine, what a step spends its time on, and how much memory it takes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor, nn

from stylekit.assets import Resolved, resolve
from stylekit.config.schema import Recipe
from stylekit.data.datasets import PictureFile, PictureSet
from stylekit.data.sampler import generator_for
from stylekit.data.superpixel import ON_CPU, superpixel_of_photo
from stylekit.engine.teacher import find_teacher, teach
from stylekit.engine.train import TrainingPictures, make_accelerator, resolve_recipe, training_pictures
from stylekit.engine.trainer import BatchLoader
from stylekit.errors import AssetError, DataError, RecipeError
from stylekit.images import write_image
from stylekit.methods.base import Batch, Method, StepContext, create_method
from stylekit.nn.cpu import can_compile
from stylekit.nn.device import find_device
from stylekit.nn.ema import Ema
from stylekit.nn.vgg import VGG19_MEAN_BGR, Vgg
from stylekit.paths import Workspace, sha256_file
from stylekit.progress import Progress, silent
from stylekit.speed.apart import Outcome, State, measure_apart
from stylekit.speed.machine import Machine, describe
from stylekit.speed.memory import GB
from stylekit.speed.timing import Parts, PeakMemory, median, seconds, settle

PARTS = ("data", "generator", "superpixel", "content", "discriminators", "backward", "optimizer", "other")
"""What a step is divided into; `other` is losses, guided filters of the surface branch, and the rest."""

_CONTENT = "vgg19-caffe"
_BLOCK = {"cuda": 10}  # steps between two looks at the clock: waiting for a GPU after every one would slow it down
_WARM = {"cuda": 10}
_LOADED = 8
_PART_OF = {"content": "content", "projection": "content", "_look": "content", "_painted": "superpixel"}
"""Attributes through which the methods call their frozen networks and paint superpixels, compiled where they are."""


class Trainee:
    """A method, its running mean and its batches, that takes steps as the training loop does, without its logs and checkpoints.

    Args:
        recipe: What to train and how; `auto` is resolved.
        pictures: What to train with.
        device: As `stylekit.train` takes it.
        assets: Frozen networks, by role, that take the place of the catalogue's.
        workspace: Where a teacher's name is looked up; the current folder by default.

    Attributes:
        recipe: With `auto` resolved.
        method: The built method.
        loader: Its batches, by step.
        device: Where it trains.
        done: Steps taken.

    Raises:
        StylekitError: As `stylekit.train` does.
    """

    def __init__(
        self,
        recipe: Recipe,
        pictures: TrainingPictures,
        *,
        device: str | None = None,
        assets: Mapping[str, Resolved] | None = None,
        workspace: Workspace | None = None,
    ) -> None:
        pictures.check(recipe.train.batch_size)
        how = recipe.train
        self._accelerator = make_accelerator(device, how.mixed_precision, allow_tf32=how.allow_tf32, low_vram=how.low_vram)
        self.device = self._accelerator.device
        self.recipe = resolve_recipe(recipe, assets)
        self.method: Method = create_method(recipe.train.method)
        self.method.build(self.recipe, self._accelerator, assets)
        train = self.recipe.train
        if train.student_of:
            teach(self.method, find_teacher(train.student_of, workspace or Workspace()))
        self._average = Ema(self._accelerator.unwrap_model(self.method.generator), train.ema_half_life_images)
        derive = superpixel_of_photo if train.superpixels == "photo" else None
        photos, cartoons = PictureSet(pictures.photos, train.size, derive), PictureSet(pictures.cartoons, train.size)
        self.loader = BatchLoader(photos, cartoons, self.recipe, self._accelerator)
        self.done = 0

    def batch(self) -> Batch:
        """Return the batch of the next step, on the device."""
        return self.loader.get(self.done)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Take the next step and return its losses, still on the device."""
        generator = generator_for(self.recipe.seed, "method", self.loader.index(self.done))
        found = self.method.step(batch, StepContext(self.done, generator)).losses
        self.done += 1
        size = self.recipe.train.batch_size
        self._average.update(self.method.generator, size, self.done * size)
        return found

    def close(self) -> None:
        """Stop reading ahead."""
        self.loader.close()


@contextmanager
def instrumented(method: Method, parts: Parts) -> Iterator[None]:
    """While inside, count what a method does to `PARTS`; afterwards the method is as it was.

    Nothing is changed but which functions are called: hooks on the trained networks, and wrappers around the frozen networks,
    the superpixels, `backward` and the optimizers' steps. What is computed again for a gradient counts to `backward`.
    """
    with ExitStack() as undo:
        kinds = {"generator": "generator"} | {name: "discriminators" for name in method.networks if name.startswith("disc_")}
        for name, kind in kinds.items():
            _hook(method.networks[name], kind, parts, undo)
        wrapped: list[tuple[Any, str, str]] = [(optimizer, "step", "optimizer") for optimizer in method.optimizers.values()]
        wrapped += [(method, name, kind) for name, kind in _PART_OF.items() if name in vars(method)]
        if (accelerator := getattr(method, "accelerator", None)) is not None:
            wrapped.append((accelerator, "backward", "backward"))
        for owner, attribute, kind in wrapped:
            undo.enter_context(replaced(owner, attribute, parts.wrap(kind, getattr(owner, attribute))))
        yield


@contextmanager
def replaced(owner: Any, name: str, value: object) -> Iterator[None]:
    """While inside, let an attribute of an object or a module be another."""
    own = vars(owner).get(name, owner)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own is owner:
            delattr(owner, name)
        else:
            setattr(owner, name, own)


def _hook(network: nn.Module, kind: str, parts: Parts, undo: ExitStack) -> None:
    if (compiled := vars(network).get("_compiled_call_impl")) is not None:  # a hook would be compiled into it
        undo.enter_context(replaced(network, "_compiled_call_impl", parts.wrap(kind, compiled)))
        return
    before = network.register_forward_pre_hook(lambda *_: parts.enter())
    # Also after an exception: with one a checkpoint ends what it computes again, once it has all it needs.
    after = network.register_forward_hook(lambda *_: parts.leave(kind), always_call=True)
    undo.callback(before.remove)
    undo.callback(after.remove)


@dataclass(frozen=True)
class TrainSpeed:
    """What a training takes.

    Attributes:
        steps: Steps that were timed, after those that warm up.
        step_s: Seconds of a step, the median; on CUDA of groups of ten.
        parts: Seconds of a step by part (`PARTS`), means of the timed steps, on CUDA of steps taken for the purpose, which are
            slower than the others since every part is waited for.
        batches_per_s: What the loader alone gives, its pictures decoded before.
        peak_memory_gb: Most memory at once: resident memory of the process, on CUDA what torch reserved (`PeakMemory`).
        content: The content network.
        is_random: Whether its weights were drawn, its file not being here.
        superpixels: What finds the regions in every step: `numba`, `scikit-image`, or `torch` on a GPU; None where nothing does.
    """

    steps: int
    step_s: float
    parts: dict[str, float]
    batches_per_s: float
    peak_memory_gb: float
    content: str | None
    is_random: bool
    superpixels: str | None


def measure_training(
    recipe: Recipe,
    pictures: TrainingPictures,
    *,
    steps: int,
    budget_s: float | None = None,
    device: str | None = None,
    workspace: Workspace | None = None,
) -> TrainSpeed:
    """Train a few steps and time them.

    Args:
        recipe: What to train and how.
        pictures: What to train with.
        steps: Steps to time, on CUDA groups of ten of them.
        budget_s: After so many seconds no further step is timed; one is in any case.
        device: As `stylekit.train` takes it.
        workspace: Where a teacher's name is looked up; the current folder by default.

    Raises:
        StylekitError: As `stylekit.train` does.
    """
    with tempfile.TemporaryDirectory() as scratch:
        assets, is_random = _content(recipe, Path(scratch))
        with PeakMemory(find_device(device)) as memory:
            trainee = Trainee(recipe, pictures, device=device, assets=assets, workspace=workspace)
            try:
                times, parts = _timed(trainee, steps, budget_s)
                batches_per_s = _loader_rate(trainee)
            finally:
                trainee.close()
    content = trainee.method.assets.get("content")
    return TrainSpeed(
        steps=len(times) * _BLOCK.get(trainee.device.type, 1),
        step_s=median(times),
        parts=parts,
        batches_per_s=batches_per_s,
        peak_memory_gb=memory.gb,
        content=content.name if content else None,
        is_random=is_random and content is not None,
        superpixels=_superpixels(trainee.recipe, trainee.device),
    )


def _superpixels(recipe: Recipe, device: torch.device) -> str | None:
    train = recipe.train
    if train.method != "dctnet" or train.superpixels != "stylized" or not train.loss.lambda_content:
        return None
    if train.superpixel_engine == "scikit-image":
        return "scikit-image"
    if device.type not in ON_CPU:
        return "torch"
    return "numba" if can_compile() else "scikit-image"


def _timed(trainee: Trainee, steps: int, budget_s: float | None) -> tuple[list[float], dict[str, float]]:
    block = _BLOCK.get(trainee.device.type, 1)
    for _ in range(_WARM.get(trainee.device.type, 1)):
        trainee.step(trainee.batch())
    parts, until = Parts(trainee.device), time.perf_counter() + (budget_s if budget_s is not None else float("inf"))
    times: list[float] = []
    with instrumented(trainee.method, parts) if block == 1 else nullcontext():
        while len(times) < steps and (not times or time.perf_counter() < until):
            times.append(seconds(lambda: _take(trainee, block, parts if block == 1 else None), trainee.device) / block)
    if block == 1:
        return times, _divided(parts, sum(times), len(times))
    with instrumented(trainee.method, parts):
        _take(trainee, 1)  # compiles anew what the count made different
        parts.seconds.clear()
        whole = seconds(lambda: _take(trainee, block, parts), trainee.device)
    return times, _divided(parts, whole, block)


def _take(trainee: Trainee, count: int, parts: Parts | None = None) -> None:
    for _ in range(count):
        with parts.part("data") if parts else nullcontext():
            batch = trainee.batch()
        trainee.step(batch)


def _divided(parts: Parts, whole: float, count: int) -> dict[str, float]:
    """Return the mean seconds of each part of a step; what no part has is `other`."""
    found = dict(parts.seconds) | {"other": max(0.0, whole - sum(parts.seconds.values()))}
    return {name: found[name] / count for name in PARTS if name in found}


def _loader_rate(trainee: Trainee) -> float:
    trainee.loader.get(0)
    settle(trainee.device)
    began = time.perf_counter()
    for step in range(_LOADED):
        trainee.loader.get(step + 1)
    settle(trainee.device)
    return _LOADED / (time.perf_counter() - began)


def _content(recipe: Recipe, scratch: Path) -> tuple[dict[str, Resolved], bool]:
    """Return upstream's content network with drawn weights where the recipe wants it and it is not here; speed is the same."""
    wants = recipe.train.preset == "upstream" or recipe.train.content.network == _CONTENT
    if not wants or recipe.train.content.network not in ("auto", _CONTENT):
        return {}, False
    try:
        resolve("content", prefer=_CONTENT)
    except AssetError:
        return {"content": random_vgg19(scratch / "vgg19.npy")}, True
    return {}, False


def random_vgg19(path: Path) -> Resolved:
    """Write a VGG-19 up to conv4_4 of drawn weights in the form of upstream's `vgg19.npy`, and return it as an asset."""
    draw = np.random.default_rng(0)
    layers: dict[str, list[NDArray[np.float32]]] = {}
    for name, conv in Vgg(19, VGG19_MEAN_BGR, "conv4_4").convs.items():
        assert isinstance(conv, nn.Conv2d)
        shape = (3, 3, conv.in_channels, conv.out_channels)
        kernel = draw.standard_normal(shape, np.float32) * np.float32((2 / (9 * conv.in_channels)) ** 0.5)
        layers[name] = [kernel, np.zeros(conv.out_channels, np.float32)]
    np.save(path, np.array(layers, dtype=object), allow_pickle=True)
    return Resolved(_CONTENT, "content", path, f"user:{path.name}", sha256_file(path), "none", "drawn weights")


def drawn_pictures(folder: Path, count: int, size: int) -> TrainingPictures:
    """Write drawn pictures, smooth ones as photographs and the same in four levels a channel as cartoons, and return them.

    Args:
        folder: Where to.
        count: Of each kind.
        size: Side in pixels.
    """
    draw = np.random.default_rng(0)
    found: dict[str, list[PictureFile]] = {}
    for kind in ("photos", "cartoons"):
        (folder / kind).mkdir(parents=True)
        found[kind] = []
        for index in range(count):
            coarse = draw.uniform(0, 255, (size // 8, size // 8, 3)).astype(np.float32)
            picture = np.clip(cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)
            path = folder / kind / f"{index:04d}.png"
            write_image(path, picture if kind == "photos" else picture // 64 * 85, durable=False)
            found[kind].append(PictureFile(path))
    return TrainingPictures(found["photos"], found["cartoons"], found["photos"])


@dataclass(frozen=True)
class TrainPoint:
    """What a batch and a size take, or why they were not measured.

    Attributes:
        batch_size: Pictures of a batch.
        size: Their side in pixels.
        state: `measured`, or why not.
        speed: None where there is none.
        hours: For the steps asked for, at that speed.
        reason: Why there is no speed.
        hint: The next step, where one is known.
    """

    batch_size: int
    size: int
    state: State
    speed: TrainSpeed | None = None
    hours: float | None = None
    reason: str = ""
    hint: str = ""


@dataclass(frozen=True)
class TrainReport:
    """What a recipe's training takes on this machine.

    Attributes:
        machine: The machine.
        style: The recipe's style.
        preset: The recipe's preset.
        precision: The recipe's mixed precision.
        pictures: `data set` or `drawn`.
        max_steps: The steps of `TrainPoint.hours`.
        points: Every batch with every size.
    """

    machine: Machine
    style: str
    preset: str
    precision: str
    pictures: str
    max_steps: int
    points: list[TrainPoint] = field(default_factory=list)


def bench_train(
    recipe: Recipe,
    *,
    workspace: Workspace | None = None,
    batch_sizes: Sequence[int] = (),
    sizes: Sequence[int] = (),
    steps: int = 3,
    budget_s: float = 20.0,
    device: str | None = None,
    memory_gb: float | None = None,
    limit_s: float | None = None,
    progress: Progress = silent,
) -> TrainReport:
    """Measure a recipe's training for every batch with every size, each in a process of its own; nothing is kept of it.

    Args:
        recipe: What to train and how.
        workspace: Where its data sets lie; the current folder by default. If they are missing or too small, pictures are drawn.
        batch_sizes: Batches, the recipe's by default.
        sizes: Sides in pixels, the recipe's by default.
        steps: Steps to time of each, on CUDA groups of ten.
        budget_s: After so many seconds no further step of a point is timed; one is in any case.
        device: As `stylekit.train` takes it.
        memory_gb: Most memory of each; what needs more is said so.
        limit_s: Most seconds of each, likewise.
        progress: Shows how far it is.

    Raises:
        UsageError: If the device is not there.
        RecipeError: If a batch or a size is none.
    """
    place, workspace = find_device(device), workspace or Workspace()
    train = recipe.train
    grid = [_with(recipe, batch, size) for size in sizes or [train.size] for batch in batch_sizes or [train.batch_size]]
    largest = max(each.train.batch_size for each in grid)
    own = _has_data(recipe, workspace, largest)
    points = []
    with progress("Measuring", total=len(grid)) as bar:
        for each in grid:
            job = {
                "recipe": each.model_dump(mode="json"),
                "workspace": str(workspace.root.resolve()),
                "own_pictures": own,
                "steps": steps,
                "budget_s": budget_s,
                "device": str(place),
                "memory_gb": memory_gb,
            }
            resident_gb = None if place.type == "cuda" else memory_gb  # there the task caps what it takes of the GPU
            outcome = measure_apart("stylekit.speed.training:task", job, memory_gb=resident_gb, limit_s=limit_s)
            points.append(_point(each, outcome))
            bar.advance()
    return TrainReport(
        describe(place),
        recipe.style,
        train.preset,
        train.mixed_precision,
        "data set" if own else "drawn",
        train.max_steps,
        points,
    )


def task(job: dict[str, Any]) -> dict[str, Any]:
    """Measure one point in this process: `recipe`, `workspace`, `own_pictures`, `steps`, `budget_s`, `device`, `memory_gb`."""
    recipe, device = Recipe.model_validate(job["recipe"]), str(job["device"])
    place = find_device(device)
    if place.type == "cuda" and job["memory_gb"]:
        total = torch.cuda.get_device_properties(place).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, job["memory_gb"] * GB / total), place)
    workspace = Workspace(Path(job["workspace"]))
    limits = {"steps": job["steps"], "budget_s": job["budget_s"], "device": device, "workspace": workspace}
    if job["own_pictures"]:
        return asdict(measure_training(recipe, training_pictures(recipe, workspace), **limits))
    with tempfile.TemporaryDirectory() as scratch:
        pictures = drawn_pictures(Path(scratch) / "pictures", recipe.train.batch_size, recipe.train.size)
        return asdict(measure_training(recipe, pictures, **limits))


def _with(recipe: Recipe, batch_size: int, size: int) -> Recipe:
    said = recipe.model_dump()
    said["train"] |= {"batch_size": batch_size, "size": size}
    try:
        return Recipe.model_validate(said)
    except ValidationError as error:
        wrong = error.errors()[0]
        said_of = f"{'.'.join(map(str, wrong['loc']))} is {wrong['input']}: {wrong['msg']}."
        raise RecipeError(said_of, "Give --batch-size and --size other numbers.") from error


def _has_data(recipe: Recipe, workspace: Workspace, batch_size: int) -> bool:
    try:
        training_pictures(recipe, workspace).check(batch_size)
    except DataError:
        return False
    return True


def _point(recipe: Recipe, outcome: Outcome) -> TrainPoint:
    train = recipe.train
    if outcome.state != "measured":
        return TrainPoint(train.batch_size, train.size, outcome.state, reason=outcome.reason, hint=outcome.hint)
    speed = TrainSpeed(**outcome.result)
    return TrainPoint(train.batch_size, train.size, "measured", speed, speed.step_s * train.max_steps / 3600)
