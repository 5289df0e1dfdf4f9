"""Graphs of others that TensorFlow is given: only those that compute."""

from __future__ import annotations

import pytest
from tensorboard.compat.proto import graph_pb2

from stylekit.errors import CheckpointError, ExportError
from stylekit.modelscope.graph.folder import FACE_GRAPHS, read_face_graphs
from stylekit.modelscope.graph.harmless import HARMLESS, MAX_BYTES, read_harmless
from tests.modelscope.folders import MIDDLE, detector_graph, face_points, keypoints_graph
from tests.modelscope.graph.networks import run_python

DETECTOR = detector_graph((MIDDLE,))

# One of each kind that reaches out of a graph, stays, or calls what is not in it.
HARMFUL = """
ReadFile WriteFile MatchingFiles PyFunc PyFuncStateless EagerPyFunc Print PrintV2 StringFormat DebugIdentity DebugIdentityV2 Copy
SaveV2 RestoreV2 LoadAndRemapMatrix MergeV2Checkpoints WholeFileReaderV2 ReaderReadV2 FixedLengthRecordReaderV2
TensorSliceDataset TFRecordDataset IteratorV2 OneShotIterator FIFOQueueV2 QueueEnqueueV2 InitializeTableFromTextFileV2 HashTableV2
DecodeJpeg DecodePng DecodeImage DecodeRaw ParseExample VariableV2 VarHandleOp Assign ReadVariableOp
PartitionedCall StatefulPartitionedCall SymbolicGradient If StatelessIf While StatelessWhile RemoteCall
_Send _Recv _HostSend CollectiveReduce XlaLaunch ImportEvent WriteSummary CreateSummaryFileWriter Save Restore OutfeedEnqueue
""".split()  # noqa: SIM905


def written(tmp_path, change=lambda graph: None, name="detector.pb"):
    graph = graph_pb2.GraphDef.FromString(DETECTOR)
    change(graph)
    (tmp_path / name).write_bytes(graph.SerializeToString())
    return tmp_path / name


def test_a_graph_that_only_computes_comes_as_it_is(tmp_path):
    file = written(tmp_path)
    assert read_harmless(file, FACE_GRAPHS["detector.pb"]) == file.read_bytes()


@pytest.mark.parametrize("kind", [*HARMFUL, ""])
def test_whatever_reaches_out_is_refused_by_name(tmp_path, kind):
    file = written(tmp_path, lambda graph: graph.node.add(name="evil", op=kind))
    with pytest.raises(CheckpointError, match=rf"detector\.pb: node evil is a {kind}, "):
        read_harmless(file)


def test_functions_are_refused_whatever_they_do(tmp_path):
    file = written(tmp_path, lambda graph: graph.library.function.add())
    with pytest.raises(CheckpointError, match=r"detector\.pb brings functions of its own"):
        read_harmless(file)
    assert read_harmless(written(tmp_path, lambda graph: graph.library.SetInParent())), "old exporters leave an empty one"


def test_size_and_number_have_an_end(tmp_path):
    def crowd(graph):
        graph.node.extend(graph_pb2.GraphDef.FromString(b"\x0a\x00" * 60_000).node)

    with pytest.raises(CheckpointError, match=r"has 60,005 nodes"):
        read_harmless(written(tmp_path, crowd))
    with (tmp_path / "detector.pb").open("wb") as stream:
        stream.truncate(MAX_BYTES + 1)
    with pytest.raises(CheckpointError, match=r"detector\.pb has 16 MB"):
        read_harmless(tmp_path / "detector.pb")


def test_a_node_that_the_pipeline_reads_must_be_there(tmp_path):
    with pytest.raises(CheckpointError, match=r"keypoints\.pb has no node tower_0/prediction"):
        read_harmless(written(tmp_path, name="keypoints.pb"), FACE_GRAPHS["keypoints.pb"])


def test_face_graphs_that_are_copied_are_harmless_too(tmp_path):
    written(tmp_path)
    (tmp_path / "keypoints.pb").write_bytes(keypoints_graph(face_points()))
    assert {name: len(data) for name, data in read_face_graphs(tmp_path).items()} == {
        name: (tmp_path / name).stat().st_size for name in FACE_GRAPHS
    }
    written(tmp_path, lambda graph: graph.node.add(name="evil", op="WriteFile"))
    with pytest.raises(ExportError, match=r"detector\.pb: node evil is a WriteFile.*--faces"):
        read_face_graphs(tmp_path)


# As upstream's face engine makes its graphs: a training flag with both branches, anchors, and boxes chosen in a loop.
FACE_ENGINE = """
import tensorflow.compat.v1 as tf
tf.disable_v2_behavior()

images = tf.placeholder(tf.float32, (None, 512, 512, 3), name="tower_0/images")
training = tf.placeholder(tf.bool, (), name="training_flag")

def variable(name, *shape):
    return tf.get_variable(name, shape, initializer=tf.random_normal_initializer(stddev=0.1))

def conv(name, x, outputs, side=1, stride=1, act=tf.nn.relu):
    # by the statistics of the batch, or by those that are kept
    x = tf.nn.conv2d(x, variable(name, side, side, x.shape[3], outputs), stride, "SAME")
    scale, offset, mean, variance = (variable(f"{name}/{at}", outputs) for at in range(4))
    x = tf.cond(training, lambda: tf.nn.fused_batch_norm(x, scale, offset)[0],
                lambda: tf.nn.fused_batch_norm(x, scale, offset, mean, variance, is_training=False)[0])
    return act(x)

x = conv("stem", (tf.cast(images, tf.float32) - [123.0, 116.0, 103.0]) / [58.0, 57.0, 57.0], 8, 7, 4)
x = tf.nn.max_pool2d(x, 2, 2, "SAME")
x = conv("point", tf.nn.depthwise_conv2d(x, variable("depth", 3, 3, 8, 1), (1, 1, 1, 1), "SAME"), 8, act=tf.nn.relu6)
one, other = tf.split(x, 2, 3)
height, width = (tf.shape(one)[axis] for axis in (1, 2))
x = tf.reshape(tf.transpose(tf.stack((one, other), 4), (0, 1, 2, 4, 3)), (-1, height, width, 8))
up = tf.image.resize_bilinear(conv("small", x, 8, 1, 2), (height, width))
up = up + tf.image.resize_nearest_neighbor(conv("smaller", x, 8, 1, 2, tf.nn.elu), (height, width))
x = tf.nn.l2_normalize(tf.concat((x, up * x), 3), -1) * 20.0
x = tf.cond(training, lambda: tf.nn.dropout(x, 0.5), lambda: tf.identity(x))
x.set_shape((None, None, None, 16))
codes = tf.reshape(conv("codes", x, 4, 3, act=tf.identity), (tf.shape(x)[0], -1, 4))
scores = tf.nn.softmax(tf.reshape(conv("scores", x, 2, 3, act=tf.identity), (-1, height * width, 2)), axis=2)[:, :, 1:]

sides = [tf.range(0, tf.cast(tf.ceil(side / 8), tf.float32)) * 8 for side in (512, 512)]
across, down = (tf.reshape(each, (1, -1)) for each in tf.meshgrid(*sides))
anchors = tf.transpose(tf.concat((across, down, across + 16, down + 16), 0))
anchors = tf.tile(tf.expand_dims(anchors / 512.0, 0), (tf.shape(codes)[0], 1, 1))
boxes = tf.clip_by_value(anchors[:, : height * width] + tf.exp(codes / 5.0), 0.0, 1.0)
labels, scores = tf.argmax(scores, axis=2), tf.reduce_max(scores, axis=2)

def chosen(given):
    boxes, scores, labels = given
    kept = tf.squeeze(tf.where(tf.greater_equal(scores, 0.1)), axis=1)
    boxes, scores, labels = (tf.gather(each, kept) for each in (boxes, scores, labels))
    kept = tf.image.non_max_suppression(boxes, scores, 100, 0.3)
    boxes, scores, labels = (tf.gather(each, kept) for each in (boxes, scores, labels))
    number = tf.cast(tf.shape(boxes)[0], tf.int32)
    lacks = 100 - number
    boxes, scores = tf.pad(boxes, [[0, lacks], [0, 0]]), tf.pad(scores, [[0, lacks]])
    return boxes, scores, tf.pad(labels, [[0, lacks]], constant_values=-1), number

with tf.device("/cpu:0"):
    found = tf.map_fn(chosen, [boxes, scores, labels], dtype=(tf.float32, tf.float32, tf.int64, tf.int32), back_prop=False)
for name, each in zip(("boxes", "scores", "labels", "num_detections"), found):
    tf.identity(each, name="tower_0/" + name)
pooled = tf.concat([tf.reduce_mean(each, (1, 2)) for each in (x, up)], 1)
tf.nn.xw_plus_b(pooled, variable("dense", 24, 143), variable("bias", 143), name="tower_0/prediction")

with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    names = ["tower_0/images", "training_flag", "tower_0/boxes", "tower_0/scores", "tower_0/num_detections", "tower_0/prediction"]
    graph = tf.graph_util.convert_variables_to_constants(session, session.graph_def, names)
    graph = tf.graph_util.remove_training_nodes(graph, names)
open("detector.pb", "wb").write(graph.SerializeToString())
"""


@pytest.mark.modelscope
@pytest.mark.slow
def test_what_upstreams_face_engine_is_made_of_only_computes(tmp_path):
    run_python(FACE_ENGINE, folder=tmp_path)
    data = read_harmless(tmp_path / "detector.pb", {*FACE_GRAPHS["detector.pb"], *FACE_GRAPHS["keypoints.pb"]})
    kinds = {node.op for node in graph_pb2.GraphDef.FromString(data).node}
    assert kinds > {"FusedBatchNormV3", "Switch", "Merge", "RandomUniform", "NonMaxSuppressionV3", "TensorArrayV3", "LoopCond"}


@pytest.mark.modelscope
def test_tensorflow_itself_calls_them_harmless(tmp_path):
    """No operation keeps anything or takes a function, but checks, random numbers and the lists of loops."""
    program = (
        "import sys; from tensorflow.python.framework import op_def_registry as registry\n"
        "for name in sys.argv[1:]:\n"
        "    known = registry.get(name)\n"
        "    if known is None or known.is_stateful or any('func' in a.type for a in known.attr): print(name)"
    )
    found = set(run_python(program, *sorted(HARMLESS), folder=tmp_path).split())
    own = {name for name in HARMLESS if name.startswith("TensorArray")}
    assert found == {"Assert", "CheckNumerics", "RandomStandardNormal", "RandomUniform"} | own
