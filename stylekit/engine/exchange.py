"""Checkpoints of upstream's trainer and ours: the same training, kept in two forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from stylekit.engine.checkpoint import AVERAGE, STATE, WEIGHTS, part_of, read_meta
from stylekit.errors import CheckpointError
from stylekit.modelscope.graph.weights import DISCRIMINATORS, Arrays, TrainingWeights, training_arrays, training_weights_from
from stylekit.nn.discriminator import PatchDiscriminator
from stylekit.nn.generators import make_generator


def native_state(
    arrays: Arrays, step: int, *, learning_rate: float = 2e-4, source: str = "The checkpoint"
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return what `write_checkpoint_folder` takes, from the tensors of a checkpoint of upstream's trainer.

    Args:
        arrays: Tensors by TensorFlow's names.
        step: Steps done.
        learning_rate: Of the run; TensorFlow does not save it.
        source: What error messages call the checkpoint.

    Returns:
        The networks, the generator standing for its own average too, and both optimizers' `state_dict`.

    Raises:
        CheckpointError: If anything is missing, of another shape or type, or not finite.
    """
    found = training_weights_from(arrays, step=step, learning_rate=learning_rate, source=source)
    if found.discriminators is None or found.optimizers is None:
        raise CheckpointError(f"{source} has no {found.lacks[0]}.", "It is no whole checkpoint of upstream's trainer.")
    networks: dict[str, nn.Module] = {"generator": found.generator, **found.discriminators, AVERAGE: found.generator}
    weights = {f"{name}.{k}": v.clone() for name, net in networks.items() for k, v in net.state_dict().items()}
    return weights, found.optimizers


def tf_arrays(checkpoint: Path) -> Arrays:
    """Return one of our checkpoints as the tensors that upstream's trainer restores; the reverse of `native_state`.

    Raises:
        CheckpointError: If it is damaged, or its run did not train both of upstream's discriminators.
    """
    meta = read_meta(checkpoint)
    weights = load_file(checkpoint / WEIGHTS)
    states: dict[str, Any] = torch.load(checkpoint / STATE, map_location="cpu", weights_only=True)
    size = meta.recipe.train.network
    generator = make_generator(size)
    discriminators = {name: PatchDiscriminator(n, size.width) for name, n in zip(DISCRIMINATORS, (1, 3), strict=True)}
    try:
        for name, network in {"generator": generator, **discriminators}.items():
            network.load_state_dict(part_of(weights, name))
    except RuntimeError as error:
        raise CheckpointError(
            f"{checkpoint} has no {name} that upstream's trainer knows.", "Train with --preset upstream to go on there."
        ) from error
    return training_arrays(TrainingWeights(generator, discriminators, states, meta.step))
