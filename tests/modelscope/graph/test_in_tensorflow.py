"""Our graphs in TensorFlow itself, and upstream's exporter's in ours."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from stylekit.exporters.onnx_graph import to_onnx
from stylekit.exporters.verify import MAX_LEVELS, measure, run_frozen, run_onnx
from stylekit.modelscope.graph.execute import execute
from stylekit.modelscope.graph.frozen import draw, frozen_graph, parse_graph, read_frozen
from stylekit.modelscope.graph.weights import generator_arrays, generator_from
from tests.modelscope.graph.networks import UPSTREAM, generator, graph, graph_bytes, levels_apart, meaning, noise, run_python

pytestmark = pytest.mark.modelscope

SIZES = ((256, 256), (288, 288), (720, 960))

# As ImageCartoonPipeline loads and runs a graph.
DRAW = """
import sys, numpy as np, tensorflow.compat.v1 as tf
graph_file, pictures = sys.argv[1:]
graph = tf.GraphDef.FromString(open(graph_file, "rb").read())
with tf.Graph().as_default(), tf.Session() as session:
    tf.import_graph_def(graph, name="model_anime_head")
    given = np.load(pictures)
    fed = session.graph.get_tensor_by_name("model_anime_head/output_image:0")
    np.savez(pictures + ".drawn.npz", **{
        key: session.run(fed, feed_dict={"model_anime_head/input_image:0": given[key]}) for key in given
    })
"""

# Upstream's exporter on given weights.
EXPORT = (
    UPSTREAM
    + """
from safetensors.numpy import load_file
from modelscope.exporters.cv.cartoon_translation_exporter import CartoonTranslationExporter
from modelscope.models.cv.cartoon import CartoonModel
CartoonModel("")(tf.placeholder(tf.float32, [1, None, None, 3]))
weights = load_file("weights.safetensors")
with tf.Session() as session:
    variables = {variable.op.name: variable for variable in tf.global_variables()}
    assert variables.keys() == weights.keys()
    session.run([variable.initializer for variable in variables.values()],
                {variable.initializer.inputs[1]: weights[name] for name, variable in variables.items()})
    tf.train.Saver().save(session, "./model-0")
CartoonTranslationExporter().export_frozen_graph_def(ckpt_path="./model-0", frozen_graph_path="cartoon_h.pb")
"""
)


def drawn_by_tensorflow(data, folder):
    (folder / "cartoon_h.pb").write_bytes(data)
    np.savez(folder / "pictures.npz", **{f"{h}x{w}": noise(h, w) for h, w in SIZES})
    run_python(DRAW, "cartoon_h.pb", "pictures.npz", folder=folder)
    return np.load(folder / "pictures.npz.drawn.npz")


def test_tensorflow_draws_with_our_graph_what_we_draw(tmp_path):
    drawn = drawn_by_tensorflow(graph_bytes(32, 4), tmp_path)
    for height, width in SIZES:
        picture, made = noise(height, width), drawn[f"{height}x{width}"]
        assert levels_apart(made, draw(generator(32, 4), picture)) <= 1
        assert levels_apart(made, execute(graph(32, 4), picture)) <= 1
        assert made.std() > 5


def test_tensorflow_draws_with_any_width_and_number_of_blocks(tmp_path):
    drawn = drawn_by_tensorflow(graph_bytes(5, 0), tmp_path)
    assert levels_apart(drawn["288x288"], execute(graph(5, 0), noise(288, 288))) <= 1


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("upstream")
    save_file(generator_arrays(generator(32, 4)), folder / "weights.safetensors")
    run_python(EXPORT, folder=folder)
    return folder / "cartoon_h.pb"


def test_what_upstreams_exporter_writes_comes_back_to_the_bit(exported):
    arrays = read_frozen(exported)
    given = load_file(exported.with_name("weights.safetensors"))
    assert arrays.keys() == given.keys()
    assert all(np.array_equal(arrays[name], value) for name, value in given.items())


def test_our_graph_is_upstreams_node_for_node(exported):
    upstreams = parse_graph(exported.read_bytes(), "upstream")
    assert len(upstreams.node) == len(graph(32, 4).node)
    assert meaning(graph(32, 4)) == meaning(upstreams)
    assert meaning(graph(32, 4)) != meaning(parse_graph(frozen_graph(generator(32, 4, seed=1)), "other weights"))


def test_from_upstreams_graph_to_onnx(exported):
    network = generator_from(read_frozen(exported)).eval()
    whole = parse_graph(exported.read_bytes(), "upstream")
    assert levels_apart(execute(whole, noise(288, 288)), draw(network, noise(288, 288))) <= 1
    assert measure(network, run_frozen(exported.read_bytes()), 128).max_levels <= MAX_LEVELS
    assert measure(network, run_onnx(to_onnx(network, half=False)), 128).max_levels <= MAX_LEVELS
