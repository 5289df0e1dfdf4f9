"""TensorFlow checkpoints in and out, by TensorFlow itself in a child process.

A checkpoint `PREFIX` is the files `PREFIX.index` and `PREFIX.data-00000-of-00001`, as `tf.train.Saver` writes them.
"""

from __future__ import annotations

import math
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from stylekit.errors import CheckpointError
from stylekit.modelscope.runtime.process import Child

if TYPE_CHECKING:
    from stylekit.modelscope.runtime.child import Job, Link

Arrays = dict[str, NDArray[np.float32]]
MAX_BYTES = 1 << 30
"""Upstream's own checkpoints hold 26 MB; what is far larger is something else."""

_HERE = "stylekit.modelscope.runtime.checkpoints"


def checkpoint_prefix(path: Path) -> Path | None:
    """Return the prefix that `path` means, as the prefix itself or one of its files; None if there is no such checkpoint."""
    prefix = path.with_name(re.sub(r"\.(index|data-\d{5}-of-\d{5})$", "", path.name))
    return prefix if prefix.with_name(f"{prefix.name}.index").is_file() else None


def read_checkpoint(prefix: Path) -> Arrays:
    """Return every float tensor of a checkpoint by its TensorFlow name.

    Raises:
        CheckpointError: If it is missing, incomplete, damaged, or far too large.
        MissingPartError: If TensorFlow is not installed.
    """
    found = checkpoint_prefix(prefix)
    if found is None:
        raise CheckpointError(f"There is no TensorFlow checkpoint {prefix}.", f"It would have a file {prefix.name}.index.")
    size = sum(file.stat().st_size for file in found.parent.glob(f"{found.name}.*"))
    if size > MAX_BYTES:
        raise CheckpointError(f"{found} holds {size / 1e9:.1f} GB, which no DCT-Net checkpoint does.", "Name another one.")
    with tempfile.TemporaryDirectory() as folder:
        job = {"prefix": str(found.resolve()), "output": str(Path(folder) / "tensors.safetensors")}
        with Child(f"{_HERE}:read", job, f"Reading {found}", error=CheckpointError) as child:
            child.result()
        return {name: np.asarray(value, np.float32) for name, value in load_file(job["output"]).items()}


def write_checkpoint(arrays: Arrays, prefix: Path) -> None:
    """Write tensors as a checkpoint that `tf.train.Saver` restores; the index, which makes it one, comes last.

    Raises:
        CheckpointError: If it cannot be written.
        MissingPartError: If TensorFlow is not installed.
    """
    with tempfile.TemporaryDirectory() as folder:
        tensors = Path(folder) / "tensors.safetensors"
        save_file({name: np.asarray(value, order="C") for name, value in arrays.items()}, tensors)
        job = {"prefix": str(prefix.resolve()), "tensors": str(tensors)}
        with Child(f"{_HERE}:write", job, f"Writing {prefix}", error=CheckpointError) as child:
            child.result()


def read(job: Job, link: Link) -> None:
    """In the child: copy the checkpoint's float tensors into a safetensors file."""
    import tensorflow as tf

    try:
        reader: Any = tf.train.load_checkpoint(job["prefix"])
        types = reader.get_variable_to_dtype_map()
        shapes = reader.get_variable_to_shape_map()
        names = sorted(name for name, kind in types.items() if kind == tf.float32)
        if sum(4 * math.prod(shapes[name]) for name in names) > MAX_BYTES:
            raise ValueError("it claims to hold more than it can")
        save_file({name: np.asarray(reader.get_tensor(name), order="C") for name in names}, job["output"])
    except (tf.errors.OpError, ValueError, IndexError, TypeError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise CheckpointError(
            f"The TensorFlow checkpoint {job['prefix']} cannot be read: {reason}.", "It is damaged or incomplete; copy it again."
        ) from error


def write(job: Job, link: Link) -> None:
    """In the child: write the tensors of a safetensors file as a checkpoint."""
    import tensorflow as tf

    arrays = load_file(job["tensors"])
    Path(job["prefix"]).parent.mkdir(parents=True, exist_ok=True)
    names = sorted(arrays)
    with tf.Graph().as_default(), tf.Session() as session:
        session.run(
            tf.raw_ops.SaveV2(
                prefix=job["prefix"],
                tensor_names=names,
                shape_and_slices=[""] * len(names),
                tensors=[tf.constant(arrays[name]) for name in names],
            )
        )
