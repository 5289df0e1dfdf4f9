"""Model and data folders of ModelScope's true format, made here: random weights, and faces where we say they are."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tensorboard.compat.proto import graph_pb2, types_pb2

from stylekit.faces.mask import feather_mask
from stylekit.modelscope.graph.frozen import frozen_graph
from stylekit.nn.unet import Generator
from tests.generate.models import write_model

Box = tuple[float, float, float, float]
MIDDLE: Box = (0.2, 0.2, 0.8, 0.8)
"""A face in the middle of a square picture: (y1, x1, y2, x2)."""

_VGG19 = {1: (3, 64, 64), 2: (64, 128, 128), 3: (128, 256, 256, 256, 256), 4: (256, 512, 512, 512, 512)}


def model_folder(
    folder: Path, *, boxes: Sequence[Box] = (MIDDLE,), width: int = 32, trains: bool = False, **train: object
) -> Path:
    """Write what `damo/cv_unet_person-image-cartoon_compound-models` holds: the pipeline's files, and what training needs.

    Args:
        folder: Where to.
        boxes: The faces that the detector finds in every picture, in parts of its long side.
        width: Of the networks.
        trains: Whether `vgg19.npy`, which is large, is among the files.
        train: What the configuration's `train` says other than the usual.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(("cartoon_h.pb", "cartoon_bg.pb")):
        (folder / name).write_bytes(frozen_graph(toned_generator(seed, width)))
    (folder / "detector.pb").write_bytes(detector_graph(boxes))
    (folder / "keypoints.pb").write_bytes(keypoints_graph(face_points()))
    Image.fromarray(np.rint(feather_mask(288) * 255).astype(np.uint8)).save(folder / "alpha.jpg", quality=100)
    (folder / "configuration.json").write_text(json.dumps(configuration(**train), indent=4), "utf-8")
    if trains:
        np.save(folder / "vgg19.npy", np.array(vgg19_arrays(), dtype=object), allow_pickle=True)
    return folder


def configuration(**train: object) -> dict[str, Any]:
    """Return a configuration with the eleven keys that the trainer reads.

    It has no `model`: upstream's pipeline would look for a class of that name, which it does not have.
    """
    return {
        "framework": "tensorflow",
        "task": "image-portrait-stylization",
        "pipeline": {"type": "unet-person-image-cartoon"},
        "train": {
            "num_gpus": 1,
            "batch_size": 16,
            "adv_train_lr": 0.0002,
            "max_steps": 300000,
            "logging_interval": 1000,
            "ckpt_period_interval": 1000,
            "resume_epoch": 0,
            "patch_size": 256,
            "work_dir": "exp_localtoon",
            "photo": "face_photo",
            "cartoon": "face_cartoon",
            **train,
        },
    }


def toned_generator(seed: int, width: int = 32) -> Generator:
    """Return a network that nearly repeats the photograph in colours of its own: head and background can be told apart."""
    torch.manual_seed(seed)
    network = Generator(width, 4)
    network.start_as_identity()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 1e-3)
        network.unet.head.bias += torch.tensor((0.3, -0.3, 0.0) if seed else (-0.3, 0.0, 0.3))
    return network


def vgg19_arrays(scale: float = 1.0) -> dict[str, list[NDArray[np.float32]]]:
    """Return conv1_1 to conv4_4 as `vgg19.npy` has them, HWIO kernels and biases, random."""
    draw = np.random.default_rng(0)
    arrays = {}
    for group, channels in _VGG19.items():
        for index, (before, after) in enumerate(pairwise(channels), start=1):
            kernel = draw.standard_normal((3, 3, before, after), np.float32) * np.float32(scale * (2 / (9 * before)) ** 0.5)
            arrays[f"conv{group}_{index}"] = [kernel, np.zeros(after, np.float32)]
    return arrays


def face_points() -> NDArray[np.float32]:
    """Return 68 landmarks [68, 2] (x, y) of a face that looks straight ahead, in parts of its crop's side."""
    turn = np.linspace(0, 2 * np.pi, 60)
    points = np.stack((0.5 + 0.3 * np.cos(turn), 0.5 + 0.35 * np.sin(turn)), 1)
    points = np.concatenate((points, np.full((8, 2), 0.5)))
    for first, (x, y) in ((36, (0.38, 0.42)), (42, (0.62, 0.42))):
        points[first : first + 6] = [
            (x - 0.04, y),
            (x, y - 0.02),
            (x + 0.02, y - 0.02),
            (x + 0.04, y),
            (x, y + 0.02),
            (x, y + 0.02),
        ]
    points[30], points[48], points[54] = (0.5, 0.56), (0.41, 0.68), (0.59, 0.68)
    return points.astype(np.float32)


def detector_graph(boxes: Sequence[Box]) -> bytes:
    """Return a detector that finds `boxes` in every picture."""
    graph = graph_pb2.GraphDef()
    _placeholder(graph, "tower_0/images", types_pb2.DT_FLOAT, (1, 512, 512, 3))
    _placeholder(graph, "training_flag", types_pb2.DT_BOOL, ())
    rows = max(1, len(boxes))  # a real one too returns rows beyond those it counts
    found = np.zeros((1, rows, 4), np.float32)
    found[0, : len(boxes)] = np.reshape(boxes, (-1, 4))
    _constant(graph, "tower_0/boxes", found)
    _constant(graph, "tower_0/scores", np.full((1, rows), 0.99, np.float32))
    _constant(graph, "tower_0/num_detections", np.array([len(boxes)], np.int32))
    return bytes(graph.SerializeToString())


def keypoints_graph(points: NDArray[np.float32]) -> bytes:
    """Return a landmark network that finds the same 68 `points` in every crop: 136 numbers, 3 of pose, 4 of state."""
    graph = graph_pb2.GraphDef()
    _placeholder(graph, "tower_0/images", types_pb2.DT_FLOAT, (1, 160, 160, 3))
    _placeholder(graph, "training_flag", types_pb2.DT_BOOL, ())
    _constant(graph, "tower_0/prediction", np.concatenate((points.reshape(-1), np.zeros(7)))[None].astype(np.float32))
    return bytes(graph.SerializeToString())


def _placeholder(graph: Any, name: str, kind: int, shape: Iterable[int]) -> None:
    node = graph.node.add(name=name, op="Placeholder")
    node.attr["dtype"].type = kind
    node.attr["shape"].shape.SetInParent()
    for size in shape:
        node.attr["shape"].shape.dim.add(size=size)


def _constant(graph: Any, name: str, value: NDArray[Any]) -> None:
    node = graph.node.add(name=name, op="Const")
    kind = {np.dtype(np.float32): types_pb2.DT_FLOAT, np.dtype(np.int32): types_pb2.DT_INT32}[value.dtype]
    node.attr["dtype"].type = node.attr["value"].tensor.dtype = kind
    for size in value.shape:
        node.attr["value"].tensor.tensor_shape.dim.add(size=size)
    node.attr["value"].tensor.tensor_content = value.tobytes()


def data_folder(folder: Path, *, count: int = 16, size: int = 64) -> Path:
    """Write a data set as `menyifang/dctnet_train_clipart_mini_ms` holds it: face_photo/ and face_cartoon/ of PNG files."""
    for kind, tone in (("face_photo", (90, 60, 40)), ("face_cartoon", (30, 120, 200))):
        (folder / kind).mkdir(parents=True)
        for index in range(count):
            draw = random.Random(f"{kind}{index}")
            picture = np.full((size, size, 3), tone, np.uint8)
            picture += np.random.default_rng(index).integers(0, 40, (size // 8, size // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
            centre = (size // 2 + draw.randint(-4, 4), size // 2 + draw.randint(-4, 4))
            cv2.circle(picture, centre, size // 4, (200, 170, 150), -1)
            Image.fromarray(picture).save(folder / kind / f"{index:03d}.png")
    return folder


def text_to_image_folder(folder: Path) -> Path:
    """Write what `damo/cv_cartoon_stable_diffusion_clipart` holds, a few thousand weights large."""
    write_model(folder, safe_serialization=False)
    said = {
        "framework": "pytorch",
        "task": "text-to-image-synthesis",
        "pipeline": {"type": "diffusers-stable-diffusion"},
    }
    (folder / "configuration.json").write_text(json.dumps(said, indent=4), "utf-8")
    return folder
