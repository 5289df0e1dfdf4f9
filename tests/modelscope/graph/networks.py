"""Networks, graphs and TensorFlow's own runs that several tests need."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import torch

from stylekit.modelscope.graph.execute import constant
from stylekit.modelscope.graph.frozen import frozen_graph, parse_graph
from stylekit.nn.unet import Generator

# What upstream's modules need before they are imported (TensorFlow 1's names), and its exporter after a graph of its own.
UPSTREAM = """
import builtins, sys, types
import tensorflow, tensorflow.compat.v1 as tf, tf_slim
tf.disable_eager_execution(); tf.disable_resource_variables()
builtins._tf_version = tensorflow.__version__
tf.contrib = types.ModuleType("tensorflow.contrib")
tf.contrib.slim = tf_slim
sys.modules.update({"tensorflow": tf, "tensorflow.contrib": tf.contrib, "tensorflow.contrib.slim": tf_slim})
"""


def generator(width: int = 8, blocks: int = 1, seed: int = 0) -> Generator:
    """Return a network of random weights and biases whose pictures fill the range without leaving it much."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Generator(width, blocks)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.02)
    return network.eval().requires_grad_(False)


@cache
def graph_bytes(width: int = 8, blocks: int = 1) -> bytes:
    return frozen_graph(generator(width, blocks))


def graph(width: int = 8, blocks: int = 1):
    return parse_graph(graph_bytes(width, blocks), "test")


def under(prefix: str):
    """Return the graph as it is after being imported under a name."""
    renamed = graph()
    for node in renamed.node:
        node.name = prefix + node.name
        node.input[:] = [prefix + name for name in node.input]
    return renamed


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def levels_apart(one: np.ndarray, other: np.ndarray) -> int:
    assert one.dtype == other.dtype == np.uint8
    return int(np.abs(one.astype(int) - other).max())


def meaning(graph) -> str:
    """Return the computation that leads to `output_image` as one nested value, whatever the nodes on the way are called."""
    nodes = {node.name: node for node in graph.node}
    known: dict[str, str] = {}
    numbers: dict[tuple, str] = {}

    def of(name: str) -> str:
        if name not in known:
            node = nodes[name]
            attributes = tuple(
                (key, constant(node).tobytes() if key == "value" else node.attr[key].SerializeToString(deterministic=True))
                for key in sorted(node.attr)
                if key != "_class"
            )
            called = node.name if node.op == "Placeholder" else ""
            found = (node.op, called, attributes, tuple(of(each) for each in node.input))
            known[name] = numbers.setdefault(found, str(len(numbers)))
        return known[name]

    of("output_image")
    return repr(list(numbers))


def run_python(program: str, *arguments: object, folder: Path) -> str:
    """Run a program that uses TensorFlow in a process of its own."""
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", "MODELSCOPE_CACHE": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
