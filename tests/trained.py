"""A finished training run without the training: the network that repeats the photograph, in the files a run leaves."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from stylekit.config.schema import Recipe
from stylekit.data.manifest import Generation, ManifestLine, write_manifest
from stylekit.engine.checkpoint import META, STATE, WEIGHTS, AssetUse, Meta
from stylekit.exporters.onnx_graph import to_onnx
from stylekit.images import write_image
from stylekit.nn.generators import AnyGenerator
from stylekit.nn.unet import Generator
from stylekit.paths import Workspace, sha256_file

CARTOONS = 3


def recipe(**changes: object) -> Recipe:
    """Return a small recipe of style `pop-art`, 64 px, 8 channels."""
    train = {"size": 64, "network": {"width": 8, "blocks": 1}, "batch_size": 2, "max_steps": 7}
    formats = ("onnx", "safetensors")
    return Recipe.model_validate(
        {"style": "pop-art", "train": train, "export": {"formats": formats}, "authors": ("Ada",), **changes}
    )


def generator(width: int = 8, blocks: int = 1) -> Generator:
    """Return the network that repeats the photograph, moved a little so that no weight is round."""
    torch.manual_seed(0)
    network = Generator(width, blocks)
    network.start_as_identity()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 1e-3)
    return network.eval().requires_grad_(False)


@cache
def half_graph() -> bytes:
    """Return the network as ONNX with float16 weights, made once."""
    return to_onnx(generator(), half=True)


def is_generator(module: nn.Module) -> bool:
    """Tell whether a network is that of `generator`, with weights rounded to float16 or not."""
    own, other = generator().state_dict(), module.state_dict()
    return own.keys() == other.keys() and all(torch.equal(own[name].half(), other[name].half()) for name in own)


def make_run(workspace: Workspace, step: int = 7, made_by: Recipe | None = None, network: AnyGenerator | None = None) -> Path:
    """Write a run of style `pop-art` with one checkpoint, and the data sets it was trained with; return the run."""
    made_by = made_by or recipe()
    network = network or generator()
    _data_sets(workspace)
    run = workspace.new_run_folder(made_by.style, "dctnet")
    checkpoint = run / "checkpoints" / f"step-{step:06d}"
    checkpoint.mkdir(parents=True)
    save_file({f"generator_ema.{key}": value for key, value in network.state_dict().items()}, checkpoint / WEIGHTS)
    torch.save({}, checkpoint / STATE)
    meta = Meta(
        step=step,
        images_seen=2 * step,
        recipe=made_by,
        assets={"content": AssetUse(name="vgg16-hed", sha256="0" * 64, source="package")},
        data={},
        train_s=5400,
        sha256={name: sha256_file(checkpoint / name) for name in (WEIGHTS, STATE)},
    )
    (checkpoint / META).write_text(meta.model_dump_json())
    (run / "env.json").write_text(json.dumps({"device": "cpu"}))
    workspace.set_current_style(made_by.style)
    return run


def _data_sets(workspace: Workspace) -> None:
    cartoons, photos = workspace.style("pop-art"), workspace.photos
    drawn = [
        ManifestLine(
            file=f"cartoon/{i}.png",
            input=f"raw/{i}.png",
            input_sha256=None,
            status="used",
            licence="CC-BY-4.0",
            attribution="Grace Example",
            generation=Generation(engine="dicebear", model="toon-head", seed=i),
        )
        for i in range(CARTOONS)
    ]
    for number, line in enumerate(drawn):
        write_image(cartoons / str(line.file), np.full((64, 64, 3), 80 * number, np.uint8))
    write_manifest(cartoons / "manifest.jsonl", drawn)
    taken = [
        ManifestLine(
            file=f"cropped/{i}.png",
            input=f"{i}.jpg",
            input_sha256=None,
            status="used",
            person=f"p{i % 2}",
            split="eval" if i % 2 else "train",
        )
        for i in range(4)
    ]
    rejected = ManifestLine(file=None, input="wall.jpg", input_sha256=None, status="rejected", reasons=["no face"])
    write_manifest(photos / "manifest.jsonl", [*taken, rejected])
