import numpy as np
import pytest

from stylekit.config.load import parse_recipe
from stylekit.images import write_image
from stylekit.paths import Workspace

TINY = """
style: dots
train:
  network: {width: 6, blocks: 1}
  size: 32
  batch_size: 3
  max_steps: 6
  log_every: 2
  sample_every: 3
  save_every: 2
  superpixels: "off"
  ema_half_life_images: 20
  loss: {lambda_content: 0}
"""


def tiny_recipe(*overrides):
    return parse_recipe(TINY, overrides)


@pytest.fixture
def workspace(tmp_path):
    """Seven photographs and five cartoons of smooth colour blobs."""
    drawn = np.random.default_rng(0)
    project = Workspace(tmp_path)
    for folder, count in ((project.photos, 7), (project.style("dots"), 5)):
        for i in range(count):
            coarse = drawn.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            write_image(folder / f"{i}.png", np.kron(coarse, np.ones((8, 8, 1), np.uint8)))
    return project
