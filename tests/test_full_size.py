"""The full-size path, dry: `recipes/archer-style.yaml` as it stands, with the batch and the steps that two cores can do."""

import json

import pytest

from stylekit.assets import fetch
from stylekit.config.load import load_recipe
from stylekit.engine.checkpoint import load_generator
from stylekit.engine.train import train
from stylekit.images import list_images, read_rgb, resize, write_image
from stylekit.paths import Workspace

KEPT = {"generate": "diffusers", "size": 256, "max_steps": 300_000, "batch_size": 16}


@pytest.mark.slow
def test_the_full_size_recipe_trains_a_step_of_the_full_width_network(tmp_path):
    whole = load_recipe("archer-style")
    assert {
        "generate": whole.generate.engine,
        "size": whole.train.size,
        "max_steps": whole.train.max_steps,
        "batch_size": whole.train.batch_size,
    } == KEPT
    workspace = Workspace(tmp_path)
    for index, photo in enumerate(list_images(fetch("starter-photos"))[:4]):
        for folder in (workspace.photos, workspace.style("archer-style")):
            write_image(folder / f"{index}.png", resize(read_rgb(photo), (256, 256)))
    recipe = load_recipe("archer-style", ["train.batch_size=2", "train.max_steps=2", "train.log_every=1", "train.save_every=2"])
    run = train(recipe, workspace=workspace, device="cpu").run
    rows = [json.loads(row) for row in (run / "stats.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    assert all({"loss/content", "loss/g_gray", "loss/g_blur", "loss/tv"} <= row.keys() for row in rows)
    trained = load_generator(run)
    assert sum(p.numel() for p in trained.module.parameters()) == 1_467_075
    assert trained.meta.assets["content"].name in {"vgg19-caffe", "vgg16-hed"}


@pytest.mark.slow
def test_the_upstream_preset_trains_at_its_own_size(tmp_path):
    workspace = Workspace(tmp_path)
    for index, photo in enumerate(list_images(fetch("starter-photos"))[:2]):
        for folder in (workspace.photos, workspace.style("archer-style")):
            write_image(folder / f"{index}.png", resize(read_rgb(photo), (256, 256)))
    changes = ["train.preset=upstream", "train.batch_size=1", "train.max_steps=2", "train.content.network=vgg16-hed"]
    run = train(load_recipe("archer-style", changes), workspace=workspace, device="cpu").run
    assert load_generator(run).recipe.train.ema_half_life_images == 0
