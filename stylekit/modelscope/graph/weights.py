"""Weights by TensorFlow's names and layouts, and by ours.

TensorFlow's convolutions are HWIO and upstream's pictures B, G, R; ours are OIHW and R, G, B. So a conversion transposes, and
reverses the axes that stand for the channels of a picture. Names and shapes are those of a checkpoint of ModelScope's
CartoonTranslationTrainer: 36 tensors of the generator, 42 of the discriminators, two Adam slots for every trained one, four
powers of the betas.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stylekit.errors import CheckpointError, ExportError
from stylekit.methods.dctnet import ADAM_BETAS
from stylekit.nn.discriminator import PatchDiscriminator
from stylekit.nn.generators import AnyGenerator
from stylekit.nn.unet import Generator

M = TypeVar("M", bound=nn.Module)
Arrays = dict[str, NDArray[np.float32]]
"""Tensors by their names in a checkpoint, without `:0`."""

GENERATOR, DISCRIMINATORS = "generator", ("disc_gray", "disc_blur")
SLOTS = {"exp_avg": "Adam", "exp_avg_sq": "Adam_1"}
POWERS = {"generator": ("beta1_power", "beta2_power"), "discriminators": ("beta1_power_1", "beta2_power_1")}
"""Optimizers by our names, and the variables in which TensorFlow keeps each one's betas to the power of step + 1."""

FORGOTTEN_STEPS = 10_000
"""From here on beta2^step is 0 in float32: the step is no longer written anywhere, and Adam no longer depends on it."""

_HINT = "Give a file that ModelScope's CartoonTranslationTrainer or CartoonTranslationExporter wrote."
_INPUTS = {"disc_gray": 1, "disc_blur": 3}
_WIDTHS = range(4, 257)
_MOST_BLOCKS = 16
_BEFORE = {"Conv": "stem", "Conv_1": "down1a", "Conv_2": "down1b", "Conv_3": "down2a", "Conv_4": "down2b"}
_AFTER = {"Conv_5": "mid", "Conv_6": "up1a", "Conv_7": "up1b", "Conv_8": "up2", "Conv_9": "head"}


@dataclass(frozen=True)
class _Place:
    """Where one tensor is kept: its names on both sides, its shape in TensorFlow, and the axes in B, G, R order there."""

    tf: str
    ours: str
    shape: tuple[int, ...]
    pictures: tuple[int, ...]

    def to_tensor(self, array: NDArray[np.float32]) -> Tensor:
        array = np.flip(array, self.pictures)
        return torch.from_numpy(np.array(array.transpose(3, 2, 0, 1) if array.ndim == 4 else array, np.float32, order="C"))

    def to_array(self, tensor: Tensor) -> NDArray[np.float32]:
        array = tensor.detach().to("cpu", torch.float32).numpy()
        return np.array(np.flip(array.transpose(2, 3, 1, 0) if array.ndim == 4 else array, self.pictures), np.float32, order="C")


@dataclass(frozen=True)
class TrainingWeights:
    """What a checkpoint holds; what it lacks is None.

    Attributes:
        generator: RGB, in train mode, on the CPU as everything here; only a U-Net has names in TensorFlow.
        discriminators: `disc_gray` and `disc_blur`, power iteration vectors included.
        optimizers: `state_dict` of Adam for the generator and for the discriminators, under the method's own names.
        step: Steps done, where the beta powers still tell or the caller knew.
        lacks: What is None or incomplete, in words.
    """

    generator: AnyGenerator
    discriminators: dict[str, PatchDiscriminator] | None = None
    optimizers: dict[str, dict[str, Any]] | None = None
    step: int | None = None
    lacks: tuple[str, ...] = ()


def generator_from(arrays: Mapping[str, NDArray[np.float32]], source: str = "The checkpoint") -> Generator:
    """Return the generator in `arrays`, whatever its width and number of blocks; other networks' tensors are passed over.

    Args:
        arrays: Tensors by name; kernels HWIO, pictures B, G, R.
        source: What error messages call it.

    Raises:
        CheckpointError: If a tensor is missing, too many, of another shape or type, or not finite.
    """
    own = [name for name in arrays if name.startswith("generator/") and name.endswith(("/weights", "/biases"))]
    width = _last_axis(arrays, "generator/Conv/weights", source)
    blocks = 0
    while f"generator/block_{blocks}/conv1/weights" in arrays and blocks < _MOST_BLOCKS:
        blocks += 1
    with torch.device("meta"):
        module = Generator(width, blocks)
    places = _generator_places(module)
    if unknown := sorted(set(own) - {place.tf for place in places}):
        raise CheckpointError(f"{source}: {unknown[0]} belongs to no layer of this network.", _HINT)
    return _fill(module, places, arrays, source)


def generator_arrays(generator: nn.Module) -> Arrays:
    """Return the generator's tensors by TensorFlow's names; the exact reverse of `generator_from`.

    Raises:
        ExportError: If it is no U-Net.
    """
    if not isinstance(generator, Generator):
        raise ExportError(
            "ModelScope knows no network but the U-Net, and this is another.",
            "Use --format onnx, or export the network that it learned from.",
        )
    return _read(generator, _generator_places(generator))


def discriminators_from(
    arrays: Mapping[str, NDArray[np.float32]], source: str = "The checkpoint"
) -> dict[str, PatchDiscriminator] | None:
    """Return `disc_gray` and `disc_blur`, or None if any of their tensors is not there.

    Raises:
        CheckpointError: If a tensor is of another shape or type, or not finite.
    """
    if _lacking_discriminators(arrays, source):
        return None
    found = {}
    for name in DISCRIMINATORS:
        module = _blank_discriminator(name, arrays, source)
        found[name] = _fill(module, _discriminator_places(name, module), arrays, source)
    return found


def discriminator_arrays(discriminators: Mapping[str, nn.Module]) -> Arrays:
    """Return the discriminators' tensors by TensorFlow's names; the exact reverse of `discriminators_from`."""
    return {
        name: array
        for network in DISCRIMINATORS
        for name, array in _read(discriminators[network], _discriminator_places(network, discriminators[network])).items()
    }


def optimizer_state_from(
    arrays: Mapping[str, NDArray[np.float32]],
    networks: Mapping[str, nn.Module],
    *,
    step: int | None = None,
    learning_rate: float = 2e-4,
    source: str = "The checkpoint",
) -> dict[str, dict[str, Any]] | None:
    """Return the `state_dict` of both Adam optimizers, or None if any slot or beta power is not there.

    Args:
        arrays: Tensors by name.
        networks: `generator`, `disc_gray` and `disc_blur`, as converted; only shapes are used.
        step: Steps done, for a checkpoint so old that its beta powers have become 0.
        learning_rate: What to write into the parameter groups, since TensorFlow does not save it.
        source: What error messages call it.

    Raises:
        CheckpointError: If a slot is of another shape or type, or not finite, or a beta power is none.
    """
    if _lacking_slots(arrays, networks):
        return None
    states = {}
    for optimizer, places in _trained(networks).items():
        done = torch.tensor(float(_step(arrays, optimizer, step, source)))
        adam = torch.optim.Adam(
            [nn.Parameter(place.to_tensor(np.zeros(place.shape, np.float32))) for place in places],
            lr=learning_rate,
            betas=ADAM_BETAS,
            eps=1e-8,
            fused=True,
        )
        state = adam.state_dict()
        state["state"] = {
            index: {"step": done.clone()}
            | {key: place.to_tensor(_checked(arrays, f"{place.tf}/{slot}", place.shape, source)) for key, slot in SLOTS.items()}
            for index, place in enumerate(places)
        }
        states[optimizer] = state
    return states


def optimizer_arrays(states: Mapping[str, Mapping[str, Any]], networks: Mapping[str, nn.Module]) -> Arrays:
    """Return Adam slots and beta powers; a parameter that no step has touched yet gets what TensorFlow starts with.

    Args:
        states: `state_dict` of each optimizer: `generator`, `discriminators`; empty ones for a fresh start.
        networks: `generator`, `disc_gray` and `disc_blur`.
    """
    arrays: Arrays = {}
    for optimizer, places in _trained(networks).items():
        moments = states.get(optimizer, {}).get("state", {})
        for index, place in enumerate(places):
            for key, slot in SLOTS.items():
                moment = moments.get(index, {}).get(key)
                arrays[f"{place.tf}/{slot}"] = np.zeros(place.shape, np.float32) if moment is None else place.to_array(moment)
        done = max((float(moment["step"]) for moment in moments.values()), default=0.0)
        for beta, name in zip(ADAM_BETAS, POWERS[optimizer], strict=True):
            arrays[name] = np.array(beta ** (done + 1), np.float32)
    return arrays


def training_weights_from(
    arrays: Mapping[str, NDArray[np.float32]],
    *,
    step: int | None = None,
    learning_rate: float = 2e-4,
    source: str = "The checkpoint",
) -> TrainingWeights:
    """Return everything that a checkpoint holds.

    Args:
        arrays: Tensors by name.
        step: Steps done, if the checkpoint's name or its owner tells; the beta powers tell more surely as long as they can.
        learning_rate: What to write into the optimizers' parameter groups.
        source: What error messages call it.

    Raises:
        CheckpointError: If the generator is not whole, or anything is of another shape or type, or not finite.
    """
    generator = generator_from(arrays, source)
    discriminators = discriminators_from(arrays, source)
    if discriminators is None:
        return TrainingWeights(generator, step=step, lacks=(_lacking_discriminators(arrays, source), "optimizers"))
    networks = {GENERATOR: generator, **discriminators}
    optimizers = optimizer_state_from(arrays, networks, step=step, learning_rate=learning_rate, source=source)
    if optimizers is None:
        return TrainingWeights(generator, discriminators, step=step, lacks=(_lacking_slots(arrays, networks),))
    return TrainingWeights(generator, discriminators, optimizers, _step(arrays, "generator", step, source))


def training_arrays(weights: TrainingWeights) -> Arrays:
    """Return all tensors that upstream's trainer restores; without optimizers, those of a fresh start.

    Raises:
        CheckpointError: If there are no discriminators, which the trainer does not start without.
    """
    if weights.discriminators is None:
        raise CheckpointError(
            "Upstream's trainer restores discriminators, and there are none.", "Start from a checkpoint of a training run."
        )
    networks = {GENERATOR: weights.generator, **weights.discriminators}
    return {
        **generator_arrays(weights.generator),
        **discriminator_arrays(weights.discriminators),
        **optimizer_arrays(weights.optimizers or {}, networks),
    }


def _generator_places(module: nn.Module) -> list[_Place]:
    scopes = {f"unet.{ours}": tf for tf, ours in (_BEFORE | _AFTER).items()}
    places = []
    for key, tensor in module.state_dict().items():
        layer, _, kind = key.rpartition(".")
        scope = scopes.get(layer) or layer.replace("unet.res.", "block_").replace(".", "/")
        pictures = {"unet.stem": {"weight": (2,)}, "unet.head": {"weight": (3,), "bias": (0,)}}.get(layer, {}).get(kind, ())
        name = f"generator/{scope}/{'weights' if kind == 'weight' else 'biases'}"
        places.append(_Place(name, key, _tf_shape(tensor), pictures))
    return places


def _discriminator_places(network: str, module: nn.Module) -> list[_Place]:
    places = []
    for key, tensor in module.state_dict().items():
        layer, _, kind = key.rpartition(".")
        index = layer.removeprefix("convs.")
        scope = "conv_out" if layer == "out" else f"conv{int(index) // 2}_{int(index) % 2 + 1}"
        name = {"weight": "kernel"}.get(kind, kind)
        sees_colours = tensor.ndim == 4 and layer == "convs.0" and tensor.shape[1] == 3
        places.append(_Place(f"{network}/{scope}/{name}", key, _tf_shape(tensor), (2,) if sees_colours else ()))
    return places


def _trained(networks: Mapping[str, nn.Module]) -> dict[str, list[_Place]]:
    """Return the places of each optimizer's parameters in the order in which the method hands them over."""
    discriminators = [
        place for name in DISCRIMINATORS for place in _discriminator_places(name, networks[name]) if not place.tf.endswith("/u")
    ]
    return {"generator": _generator_places(networks[GENERATOR]), "discriminators": discriminators}


def _tf_shape(tensor: Tensor) -> tuple[int, ...]:
    shape = tuple(tensor.shape)
    return (*shape[2:], shape[1], shape[0]) if len(shape) == 4 else shape


def _last_axis(arrays: Mapping[str, NDArray[np.float32]], name: str, source: str) -> int:
    """Return the width of a network, read off its first kernel."""
    if name not in arrays:
        raise CheckpointError(f"{source} has no {name}.", _HINT)
    shape = arrays[name].shape
    if len(shape) != 4 or shape[3] not in _WIDTHS:
        raise CheckpointError(f"{source}: {name} has the shape {_spell(shape)}, which no network of this kind has.", _HINT)
    return int(shape[3])


def _fill(module: M, places: Sequence[_Place], arrays: Mapping[str, NDArray[np.float32]], source: str) -> M:
    tensors = {place.ours: place.to_tensor(_checked(arrays, place.tf, place.shape, source)) for place in places}
    module.load_state_dict(tensors, assign=True)
    return module


def _read(module: nn.Module, places: Sequence[_Place]) -> Arrays:
    state = module.state_dict()
    return {place.tf: place.to_array(state[place.ours]) for place in places}


def _checked(arrays: Mapping[str, NDArray[np.float32]], name: str, shape: tuple[int, ...], source: str) -> NDArray[np.float32]:
    if name not in arrays:
        raise CheckpointError(f"{source} has no {name}.", _HINT)
    array = arrays[name]
    if array.dtype != np.float32:
        raise CheckpointError(f"{source}: {name} holds {array.dtype}, not float32.", _HINT)
    if array.shape != shape:
        raise CheckpointError(f"{source}: {name} has the shape {_spell(array.shape)} instead of {_spell(shape)}.", _HINT)
    if not np.isfinite(array).all():
        raise CheckpointError(
            f"{source}: {name} holds values that are not finite.", "The training had diverged; use an older one."
        )
    return array


def _spell(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "of one number"


def _blank_discriminator(name: str, arrays: Mapping[str, NDArray[np.float32]], source: str) -> PatchDiscriminator:
    width = _last_axis(arrays, f"{name}/conv0_1/kernel", source)
    with torch.device("meta"):
        return PatchDiscriminator(_INPUTS[name], width)


def _lacking_discriminators(arrays: Mapping[str, NDArray[np.float32]], source: str) -> str:
    for name in DISCRIMINATORS:
        if f"{name}/conv0_1/kernel" not in arrays:
            return name
        wanted = _discriminator_places(name, _blank_discriminator(name, arrays, source))
        if lacking := _missing(arrays, (place.tf for place in wanted)):
            return lacking
    return ""


def _lacking_slots(arrays: Mapping[str, NDArray[np.float32]], networks: Mapping[str, nn.Module]) -> str:
    slots = (f"{place.tf}/{slot}" for places in _trained(networks).values() for place in places for slot in SLOTS.values())
    return _missing(arrays, (*slots, *(power for powers in POWERS.values() for power in powers)))


def _missing(arrays: Mapping[str, NDArray[np.float32]], names: Iterator[str] | Sequence[str]) -> str:
    """Name the first missing tensor and count the others; empty where all are there."""
    missing = [name for name in names if name not in arrays]
    others = f" and {len(missing) - 1} more tensors" if len(missing) > 1 else ""
    return f"{missing[0]}{others}" if missing else ""


def _step(arrays: Mapping[str, NDArray[np.float32]], optimizer: str, known: int | None, source: str) -> int:
    """Return the steps that an optimizer has done, by its second beta power, or by what is known once that is 0."""
    name = POWERS[optimizer][1]
    power = float(_checked(arrays, name, (), source))
    if not 0 <= power <= ADAM_BETAS[1] * 1.0001:
        raise CheckpointError(f"{source}: {name} is {power:g}, which is no power of {ADAM_BETAS[1]}.", _HINT)
    if power < np.finfo(np.float32).tiny:
        return max(known or 0, FORGOTTEN_STEPS)
    return round(math.log(power) / math.log(ADAM_BETAS[1])) - 1
