import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from stylekit.errors import AssetError
from stylekit.faces.arcface import ArcFaceEmbedder, arcface_matrix

TEMPLATE = np.array([(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)])


def network(path, side=112, features=512, first="n"):
    """Mean of each channel, times a fixed matrix: [first,3,side,side] -> [first,features]."""
    weight = np.random.default_rng(0).normal(size=(3, features)).astype(np.float32)
    nodes = [
        helper.make_node("GlobalAveragePool", ["input.1"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["683"]),
    ]
    graph = helper.make_graph(
        nodes,
        "arcface",
        [helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [first, 3, side, side])],
        [helper.make_tensor_value_info("683", TensorProto.FLOAT, [first, features])],
        [numpy_helper.from_array(weight, "weight")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return weight


def test_embeds_the_aligned_crop_in_rgb_between_minus_one_and_one(tmp_path):
    weight = network(tmp_path / "arcface.onnx")
    random = np.random.default_rng(1)
    crop = random.integers(0, 256, (112, 112, 3), dtype=np.uint8)
    crop[..., 0] //= 3
    picture = np.zeros((200, 180, 3), np.uint8)
    picture[30:142, 20:132] = crop
    found = ArcFaceEmbedder(tmp_path / "arcface.onnx").embed([picture, crop], [TEMPLATE + np.array((20, 30)), TEMPLATE])
    expected = ((crop.astype(np.float64) - 127.5) / 127.5).mean((0, 1)) @ weight
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [expected / np.linalg.norm(expected)] * 2, atol=1e-3)


def test_the_crop_is_umeyamas():
    """As skimage's SimilarityTransform.estimate gives it, which insightface calls."""
    from skimage.transform import SimilarityTransform

    points = np.array([(300.5, 250.25), (400, 245), (352, 310), (310, 360), (395, 355.5)])
    np.testing.assert_allclose(arcface_matrix(points), SimilarityTransform.from_estimate(points, TEMPLATE).params[:2], atol=1e-9)


@pytest.mark.parametrize("first", ["n", 1, 4])
def test_many_faces_are_shown_at_once_or_as_many_as_the_graph_takes(tmp_path, monkeypatch, first):
    network(tmp_path / "arcface.onnx", first=first)
    embedder = ArcFaceEmbedder(tmp_path / "arcface.onnx")
    pictures = list(np.random.default_rng(1).integers(0, 256, (18, 112, 112, 3), dtype=np.uint8))
    one_by_one = np.concatenate([embedder.embed([picture], [TEMPLATE]) for picture in pictures])
    shown, session = [], embedder._session

    class Counted:
        def run(self, outputs, inputs):
            shown.append(len(inputs["input.1"]))
            return session.run(outputs, inputs)

    monkeypatch.setattr(embedder, "_session", Counted())
    np.testing.assert_allclose(embedder.embed(pictures, [TEMPLATE] * 18), one_by_one, atol=1e-6)
    assert shown == {"n": [16, 2], 1: [1] * 18, 4: [4] * 5}[first]


def test_nothing_to_embed_gives_nothing(tmp_path):
    network(tmp_path / "arcface.onnx")
    assert ArcFaceEmbedder(tmp_path / "arcface.onnx").embed([], []).shape == (0, 512)


@pytest.mark.parametrize("form", [{"side": 128}, {"features": 128}])
def test_a_network_of_another_form_is_refused(tmp_path, form):
    network(tmp_path / "other.onnx", **form)
    with pytest.raises(AssetError, match=r"other\.onnx takes .*ArcFace takes \[N,3,112,112\]"):
        ArcFaceEmbedder(tmp_path / "other.onnx")


def test_a_file_that_is_no_network_is_refused(tmp_path):
    (tmp_path / "arcface.onnx").write_bytes(b"not a network")
    with pytest.raises(AssetError, match=r"arcface\.onnx is not an ONNX file"):
        ArcFaceEmbedder(tmp_path / "arcface.onnx")
