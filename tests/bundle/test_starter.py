"""The style that comes with the package: sound, attributed, and drawn with right after installing."""

import numpy as np
import onnx
from skimage.data import astronaut

from stylekit.bundle import STARTER, load_style
from stylekit.cli import run
from stylekit.exporters.onnx_graph import OPSET
from stylekit.images import read_rgb, write_image
from stylekit.paths import Workspace
from stylekit.stylizer import Stylizer


def test_the_starter_style_is_sound_and_says_where_it_comes_from(tmp_path):
    bundle = load_style(STARTER, Workspace(tmp_path))
    assert bundle.style.licence == "CC-BY-4.0"
    card = bundle.files["README.md"].decode()
    for said in ("Johan Melin", "tabler-ui", "soft-ui-design-system", "kid_x1000"):
        assert said in card, said
    assert sum(map(len, bundle.files.values())) < 4_000_000


def test_the_starter_style_is_as_fast_as_one_exported_today(tmp_path):
    bundle = load_style(STARTER, Workspace(tmp_path))
    graph = onnx.load_from_string(bundle.files[bundle.style.networks.face.onnx])
    assert {entry.domain: entry.version for entry in graph.opset_import}[""] == OPSET, "export it again"


def test_a_picture_is_stylized_right_after_installing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    portrait = np.ascontiguousarray(astronaut())
    write_image(tmp_path / "me.png", portrait)
    assert run(["stylize", "me.png", "--output", "out"]) == 0
    (written,) = (tmp_path / "out").iterdir()
    drawn = read_rgb(written)
    assert drawn.shape == portrait.shape
    difference = np.abs(drawn.astype(int) - portrait).mean()
    assert 8 < difference < 60, "the style shows, and so does the picture"
    assert np.array_equal(Stylizer()(portrait), drawn)
