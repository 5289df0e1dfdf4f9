"""One picture through one network: onnxruntime or our kernels on a CPU, torch on an accelerator."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stylekit.bundle import Bundle, BundledNetwork
from stylekit.errors import ExportError

if TYPE_CHECKING:
    import torch

Rgb = NDArray[np.uint8]
Floats = NDArray[np.float32]
Translate = Callable[[Floats], Floats]  # [1, 3, H, W] in [-1, 1] to the same, H and W multiples of 4

_LOG = logging.getLogger(__name__)
_STRIDE = 4
_TRIAL_PX = 256  # side of the picture that shows whether 8 bits pay on this CPU
_TRIAL_MEAN = 2 / 127.5  # largest mean difference: x86 without VNNI overflows some sums of 8-bit products
_LARGE = 256 * 256  # pixels; for fewer, and for few channels, onnxruntime is as fast
_WIDE = 32
_EPS = 1e-2  # as in the guided filter that ends the network (modelscope models/cv/cartoon/model_tf.py)


def open_network(bundle: Bundle, network: BundledNetwork, device: str, *, fast: bool = False) -> Translate:
    """Load a network of a bundle: on a CPU in onnxruntime where the bundle has an ONNX file, large pictures by our own kernels.

    Args:
        bundle: The style.
        network: Which of its networks.
        device: `cpu`, `cuda`, `cuda:1`, `mps` or `auto`, the best there is.
        fast: On a CPU, compute in 8 bits where the bundle has such a network and that is faster here.

    Raises:
        UsageError: If the device is not there.
        ExportError: If the network cannot be loaded.
    """
    if network.onnx is None or _place(device).type != "cpu":
        return _torch(bundle, network, device)
    exact = onnx_network(bundle, network.onnx)
    if _has_kernels(network):
        exact = _by_size(exact, _torch(bundle, network, "cpu"))
    return _faster(exact, onnx_network(bundle, network.onnx_int8)) if fast and network.onnx_int8 is not None else exact


def holds_8_bits(network: BundledNetwork, device: str) -> bool:
    """Tell whether `fast` can make a difference: on a CPU, to a network that is there in 8 bits, and as it is to compare with.

    Raises:
        UsageError: If the device is not there.
    """
    return network.onnx is not None and network.onnx_int8 is not None and _place(device).type == "cpu"


def torch_network(module: object, device: str) -> Translate:
    """Run a generator module on a device.

    Raises:
        UsageError: If the device is not there.
    """
    import torch

    assert isinstance(module, torch.nn.Module)
    place = _place(device)
    placed = module.to(place, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def run(photo: Floats) -> Floats:
        with torch.inference_mode():
            stylized = placed(torch.from_numpy(photo).to(place))
        return np.asarray(stylized.cpu().numpy(), np.float32)

    return run


def _torch(bundle: Bundle, network: BundledNetwork, device: str) -> Translate:
    from stylekit.bundle.weights import unpack_generator

    return torch_network(unpack_generator(bundle, network), device)


def _has_kernels(network: BundledNetwork) -> bool:
    """Tell whether large pictures are faster through `nn.winograd` than through onnxruntime."""
    from stylekit.nn.cpu import can_compile

    return network.arch == "unet" and network.width >= _WIDE and can_compile()


def _by_size(small: Translate, large: Translate) -> Translate:
    return lambda photo: (small if photo.shape[2] * photo.shape[3] < _LARGE else large)(photo)


def _place(device: str) -> torch.device:
    from stylekit.nn.device import find_device

    return find_device(None if device == "auto" else device)


def onnx_network(bundle: Bundle, file: str) -> Translate:
    """Run an ONNX file of a bundle in onnxruntime on the CPU; its options are its own, which are the fastest for these networks.

    Raises:
        ExportError: If it cannot be loaded.
    """
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(bundle.files[file], providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no class of their own
        reason = str(error).splitlines()[0]
        raise ExportError(f"{bundle.path}: {file} cannot be loaded: {reason}", "Export the style again.") from error
    return lambda photo: np.asarray(session.run(["stylized"], {"photo": photo})[0], np.float32)


def _faster(exact: Translate, rounded: Translate) -> Translate:
    """Return `rounded` if it is faster on this CPU and draws what `exact` does, else `exact`."""
    ramp = np.linspace(-1, 1, _TRIAL_PX, dtype=np.float32)
    photo = np.tile(np.add.outer(ramp, ramp) / 2, (1, 3, 1, 1)).astype(np.float32)
    apart = float(np.abs(np.clip(exact(photo), -1, 1) - np.clip(rounded(photo), -1, 1)).mean())
    seconds: dict[Translate, float] = {}
    for network in (exact, rounded) * 5:
        begun = time.perf_counter()
        network(photo)
        seconds[network] = min(seconds.get(network, float("inf")), time.perf_counter() - begun)
    pays = seconds[rounded] < seconds[exact]
    if not pays or apart > _TRIAL_MEAN:
        _LOG.warning("8 bits are not %s on this CPU; float32 is used.", "faster" if not pays else "exact enough")
        return exact
    return rounded


def translate(network: Translate, photo: Rgb, size: tuple[int, int] | None = None) -> Rgb:
    """Stylize a picture and return it at its own size.

    Args:
        network: What `open_network` gives.
        photo: RGB uint8 [H, W, 3], any size.
        size: Width and height at which the network sees it. Where that is smaller than the picture, the result is enlarged with
            the picture's own detail, so that its outlines stay sharp.
    """
    height, width = photo.shape[:2]
    seen_width, seen_height = size or (width, height)
    interpolation = cv2.INTER_AREA if seen_width * seen_height < width * height else cv2.INTER_CUBIC
    seen = (
        photo
        if (seen_width, seen_height) == (width, height)
        else cv2.resize(photo, (seen_width, seen_height), interpolation=interpolation)
    )
    guide = seen.astype(np.float32) / 127.5 - 1
    padded = cv2.copyMakeBorder(guide, 0, -seen_height % _STRIDE, 0, -seen_width % _STRIDE, cv2.BORDER_REPLICATE)
    result = network(np.ascontiguousarray(padded.transpose(2, 0, 1)[None]))[0]
    stylized = np.ascontiguousarray(result.transpose(1, 2, 0)[:seen_height, :seen_width])
    if seen.shape != photo.shape:
        stylized = _enlarge(stylized, guide, photo.astype(np.float32) / 127.5 - 1)
    return np.clip((stylized + 1) * 127.5 + 0.5, 0, 255).astype(np.uint8)


def _enlarge(stylized: Floats, guide: Floats, photo: Floats) -> Floats:
    """Bring `stylized` to the size of `photo`, with the photograph's finer detail where the style follows the photograph.

    Enlarged by cubics, so that strokes which only the style has stay as they are drawn; to that comes what `photo` has and its
    small version `guide` has not, times the local slope of the guided filter (He et al. 2010) from `guide` to `stylized`.
    """
    size = (photo.shape[1], photo.shape[0])

    def mean(x: NDArray[Any]) -> Floats:
        return np.asarray(cv2.blur(x, (3, 3), borderType=cv2.BORDER_REPLICATE), np.float32)

    def large(x: NDArray[Any], interpolation: int) -> Floats:
        return np.asarray(cv2.resize(x, size, interpolation=interpolation), np.float32)

    mean_x = mean(guide)
    slope = mean((mean(guide * stylized) - mean_x * mean(stylized)) / (mean(guide * guide) - mean_x * mean_x + _EPS))
    detail = photo - large(guide, cv2.INTER_CUBIC)
    return large(stylized, cv2.INTER_CUBIC) + large(slope, cv2.INTER_LINEAR) * detail
