"""Generator weights as a safetensors file that carries the recipe it was trained by."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from stylekit.bundle.style import Bundle, BundledNetwork
from stylekit.errors import ExportError
from stylekit.nn.generators import AnyGenerator, make_generator


def pack_weights(module: nn.Module, dtype: torch.dtype, metadata: Mapping[str, str]) -> bytes:
    """Return the module's weights as safetensors, stored as `dtype`, with `metadata` in the header."""
    tensors = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in module.state_dict().items()}
    return save(tensors, dict(metadata))


def unpack_generator(bundle: Bundle, network: BundledNetwork) -> AnyGenerator:
    """Return a network of a bundle as a float32 module in eval mode, on the CPU.

    Raises:
        ExportError: If the weights do not fit the network that `style.json` describes.
    """
    module = make_generator(network)
    try:
        module.load_state_dict({name: tensor.float() for name, tensor in load(bundle.files[network.weights]).items()})
    except (SafetensorError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0].rstrip(":.")
        raise ExportError(
            f"{bundle.path}: {network.weights} does not fit its network: {reason}.", "Export the style again."
        ) from error
    return module.eval().requires_grad_(False)
