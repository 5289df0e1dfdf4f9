"""dlib's face recognition ResNet (King 2017, `dnn_face_recognition_resnet_model_v1`), restated in torch.

The weights are those of face-api.js, which holds dlib's network as TensorFlow.js shards, most of them as 8-bit integers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stylekit.errors import AssetError

_STEM = "face_recognition_model"
_MEAN = (122.782, 117.001, 104.298)
_BLOCKS = (
    ("conv32_1", 32, 32, 1),
    ("conv32_2", 32, 32, 1),
    ("conv32_3", 32, 32, 1),
    ("conv64_down", 32, 64, 2),
    ("conv64_1", 64, 64, 1),
    ("conv64_2", 64, 64, 1),
    ("conv64_3", 64, 64, 1),
    ("conv128_down", 64, 128, 2),
    ("conv128_1", 128, 128, 1),
    ("conv128_2", 128, 128, 1),
    ("conv256_down", 128, 256, 2),
    ("conv256_1", 256, 256, 1),
    ("conv256_2", 256, 256, 1),
    ("conv256_down_out", 256, 256, 2),
)


class _Block(nn.Module):
    """Two convolutions and a shortcut; with stride 2 the shortcut is an average, filled up with empty channels."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(channels, out, 3, stride, padding=1 if stride == 1 else 0)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.relu(self.conv1(x)))
        if self.stride == 2:
            x = F.avg_pool2d(x, 2)
            x = F.pad(x, (0, 0, 0, 0, 0, y.shape[1] - x.shape[1]))
            y = F.pad(y, (0, x.shape[3] - y.shape[3], 0, x.shape[2] - y.shape[2]))
        return F.relu(x + y)


class DlibResNet(nn.Module):
    """[N,3,150,150] RGB in 0..255 -> [N,128]. The learned scale after every convolution is folded into it."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(_MEAN).view(3, 1, 1), persistent=False)
        self.conv32_down = nn.Conv2d(3, 32, 7, 2)
        self.blocks = nn.ModuleDict({name: _Block(channels, out, stride) for name, channels, out, stride in _BLOCKS})
        self.fc = nn.Linear(256, 128, bias=False)

    def forward(self, faces: Tensor) -> Tensor:
        """Return the embeddings, not normalised."""
        x = F.relu(self.conv32_down((faces - self.mean) / 255))
        x = F.max_pool2d(x, 3, 2)
        for block in self.blocks.values():
            x = block(x)
        embedding: Tensor = self.fc(x.mean(dim=(2, 3)))
        return embedding


def load_dlib_resnet(folder: Path) -> DlibResNet:
    """Return the network in eval mode with frozen weights; gradients still reach its input.

    Args:
        folder: Holds `face_recognition_model.bin` and `face_recognition_model-weights_manifest.json`.

    Raises:
        AssetError: If a file is missing, damaged, or of another network.
    """
    try:
        tensors = _read(folder)
        state = {"fc.weight": tensors["fc"].T.contiguous()}
        state |= _folded(tensors, "conv32_down", "conv32_down")
        for name, *_ in _BLOCKS:
            for part in ("conv1", "conv2"):
                state |= _folded(tensors, f"{name}/{part}", f"blocks.{name}.{part}")
        network = DlibResNet()
        network.load_state_dict(state)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise AssetError(
            f"{folder} does not hold dlib's face recognition network: {error}", "Delete the folder and fetch it again."
        ) from error
    return network.eval().requires_grad_(False)


def _folded(tensors: dict[str, Tensor], source: str, target: str) -> dict[str, Tensor]:
    weights = tensors[f"{source}/conv/filters"].permute(3, 2, 0, 1)
    scale = tensors[f"{source}/scale/weights"]
    bias = tensors[f"{source}/conv/bias"] * scale + tensors[f"{source}/scale/biases"]
    return {f"{target}.weight": weights * scale.view(-1, 1, 1, 1), f"{target}.bias": bias}


def _read(folder: Path) -> dict[str, Tensor]:
    """Read TensorFlow.js weights: tensors one after another, plain or as integers with a scale and a least value."""
    manifest: list[dict[str, Any]] = json.loads((folder / f"{_STEM}-weights_manifest.json").read_text("utf-8"))
    data = (folder / f"{_STEM}.bin").read_bytes()
    tensors = {}
    offset = 0
    for entry in (weight for group in manifest for weight in group["weights"]):
        quantization = entry.get("quantization")
        stored = np.dtype(quantization["dtype"] if quantization else entry["dtype"])
        count = int(np.prod(entry["shape"]))
        values = np.frombuffer(data, stored, count, offset).astype(np.float32)
        offset += count * stored.itemsize
        if quantization:
            values = values * np.float32(quantization["scale"]) + np.float32(quantization["min"])
        tensors[entry["name"]] = torch.from_numpy(values.reshape(entry["shape"]))
    if offset != len(data):
        raise ValueError(f"{_STEM}.bin holds {len(data)} bytes, its manifest describes {offset}")
    return tensors
