import hashlib
import sys
from typing import get_args

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from skimage.transform import SimilarityTransform, warp

from stylekit import assets
from stylekit.config import schema
from stylekit.errors import AssetError, MissingPartError, UsageError
from stylekit.metrics.embedders import EMBEDDERS, IdentityGauge, load_embedder
from stylekit.metrics.measure import Batch
from stylekit.nn.mobilefacenet import MobileFaceNet

TEMPLATE = np.array([(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)])


def faces(count, seed=0, side=160):
    """Smooth pictures, and where five points lie in them."""
    random = np.random.default_rng(seed)
    coarse = torch.from_numpy(random.uniform(0, 255, (count, 3, 6, 6)))
    smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 255)
    points = TEMPLATE * random.uniform(1.1, 1.3, (count, 1, 1)) + random.uniform(-2, 12, (count, 1, 2))
    return smooth.round().byte().permute(0, 2, 3, 1).numpy(), points


@pytest.fixture
def mobilefacenet(empty_home, tmp_path):
    """A user's own file of the true form; gives its path."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = MobileFaceNet().state_dict()
        state["conv1.bn.bias"] = 0.3 * torch.randn(64)  # or its answer would not depend on the input's scale
    torch.save(state, tmp_path / "model_mobilefacenet.pth")
    assets.add("identity", tmp_path / "model_mobilefacenet.pth")
    return tmp_path / "model_mobilefacenet.pth"


def test_the_recipe_and_the_catalogue_know_every_embedder():
    assert tuple(EMBEDDERS) == get_args(schema.Embedder)
    assert set(EMBEDDERS) == set(assets.ROLES["identity"])


@pytest.mark.slow
def test_embeds_the_face_that_the_points_show_as_the_network_was_trained_to(mobilefacenet):
    """Against skimage's own fit and warp, and the network fed by hand, in BGR."""
    pictures, points = faces(3)
    before = torch.get_rng_state()
    embedder, asset = load_embedder("mobilefacenet")
    found = embedder.embed(pictures, points)
    assert torch.equal(torch.get_rng_state(), before)
    assert (embedder.label, embedder.dimension, found.dtype) == ("mobilefacenet@112-arcface", 512, np.float32)
    assert asset.sha256 == hashlib.sha256(mobilefacenet.read_bytes()).hexdigest()

    network = MobileFaceNet().eval()
    network.load_state_dict(torch.load(mobilefacenet, weights_only=True))
    crops = [
        warp(picture, SimilarityTransform.from_estimate(five, TEMPLATE).inverse, output_shape=(112, 112), preserve_range=True)
        for picture, five in zip(pictures, points, strict=True)
    ]
    rgb = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.inference_mode():
        by_hand, turned = network(rgb), network(rgb.flip(1))
    assert (by_hand.numpy() * found).sum(axis=1) == pytest.approx(1, abs=1e-4)
    assert ((turned.numpy() * found).sum(axis=1) < 0.999).all()


@pytest.mark.slow
def test_the_number_of_pictures_at_once_changes_nothing(mobilefacenet):
    pictures, points = faces(18)
    embedder, _ = load_embedder("mobilefacenet")
    alone = np.concatenate([embedder.embed(pictures[i : i + 1], points[i : i + 1]) for i in range(18)])
    np.testing.assert_allclose(embedder.embed(pictures, points), alone, atol=1e-5)


@pytest.mark.slow
def test_a_gauge_gives_the_embeddings_and_its_key_follows_the_weights(mobilefacenet, tmp_path):
    pictures, points = faces(2)
    gauge = IdentityGauge(*load_embedder("mobilefacenet"))
    assert gauge(Batch(pictures, points)).keys() == {"embedding/mobilefacenet"}
    np.testing.assert_array_equal(
        gauge(Batch(pictures, points))["embedding/mobilefacenet"], gauge.embedder.embed(pictures, points)
    )
    state = torch.load(mobilefacenet, weights_only=True)
    state["bn.bias"] += 1
    torch.save(state, tmp_path / "model_mobilefacenet.pth")
    assets.add("identity", tmp_path / "model_mobilefacenet.pth")
    other = IdentityGauge(*load_embedder("mobilefacenet"))
    assert other.key != gauge.key
    assert other.embedder.label in other.key


def test_a_face_without_points_has_no_embedding_and_spoils_no_other(mobilefacenet):
    pictures, points = faces(4)
    embedder, _ = load_embedder("mobilefacenet")
    whole = embedder.embed(pictures, points)
    points[1, 2] = np.inf
    points[2] = 50.0
    found = embedder.embed(pictures, points)
    assert np.isnan(found[1:3]).all()
    np.testing.assert_allclose(found[[0, 3]], whole[[0, 3]], atol=1e-5)
    assert np.isnan(embedder.embed(pictures, np.full((4, 5, 2), np.nan))).all()
    assert embedder.embed([], []).shape == (0, 512)


def test_arcface_comes_from_an_onnx_file(empty_home, tmp_path):
    weight = np.random.default_rng(0).normal(size=(48, 512)).astype(np.float32)
    nodes = [
        helper.make_node("AveragePool", ["x"], ["pooled"], kernel_shape=[28, 28], strides=[28, 28]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["y"]),
    ]
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, form)
        for name, form in (("x", ["n", 3, 112, 112]), ("y", ["n", 512]))
    )
    graph = helper.make_graph(nodes, "arcface", [x], [y], [numpy_helper.from_array(weight, "weight")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "mine.onnx")
    assets.add("identity", tmp_path / "mine.onnx")
    embedder, _ = load_embedder("arcface")
    assert (embedder.label, embedder.dimension) == ("arcface@112-arcface", 512)
    pictures, _ = faces(2, side=112)
    pooled = (pictures.reshape(2, 4, 28, 4, 28, 3).mean((2, 4)) / 127.5 - 1).transpose(0, 3, 1, 2)
    expected = pooled.reshape(2, 48) @ weight
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(embedder.embed(pictures, [TEMPLATE, TEMPLATE]), expected, atol=1e-3)


def test_dlibs_embeddings_keep_their_own_length(asset_home):
    pictures, points = faces(2)
    embedder, asset = load_embedder("dlib-resnet")
    assert (embedder.label, asset.name) == ("dlib-resnet@150-dlib", "dlib-resnet")
    found = embedder.embed(pictures, points)
    assert found.shape == (2, 128)
    assert (np.abs(np.linalg.norm(found, axis=1) - 1) > 1e-3).all()


def test_an_unknown_embedder_and_a_missing_file_are_said(empty_home):
    with pytest.raises(UsageError, match=r"no face embedder 'facenet'.*dlib-resnet, arcface"):
        load_embedder("facenet")
    with pytest.raises(AssetError, match=r"ir-se50 has to be brought by you.*stylekit assets add identity FILE --name ir-se50"):
        load_embedder("ir-se50")


@pytest.fixture
def clip(empty_home, tmp_path):
    """A CLIP model of the true form, small; gives its folder and the model."""
    transformers = pytest.importorskip("transformers")
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config={**tower, "vocab_size": 50, "max_position_embeddings": 8, "eos_token_id": 2},
        vision_config={**tower, "image_size": 48, "patch_size": 8},
        projection_dim=24,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.CLIPModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8)  # its first weights are so small that all pictures look alike
    model.save_pretrained(tmp_path / "styleid")
    processor = transformers.CLIPImageProcessorPil(size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48})
    processor.save_pretrained(tmp_path / "styleid")
    return tmp_path / "styleid", model


@pytest.mark.slow
def test_styleid_is_a_folder_of_clip(clip, tmp_path, capfd):
    folder, model = clip
    assets.add("identity", folder, "styleid")
    before = torch.get_rng_state()
    embedder, asset = load_embedder("styleid")
    assert torch.equal(torch.get_rng_state(), before)
    assert (embedder.label, embedder.dimension, asset.licence) == ("styleid@48-ffhq", 24, "non-commercial research use")
    pictures, points = faces(3, side=300)
    points = points * 1.2 + 50
    found = embedder.embed(pictures, points)
    assert capfd.readouterr() == ("", "")
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)

    mean, deviation = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's own
    shown = []
    for picture, five in zip(pictures, points, strict=True):
        # the quad of FFHQ's recreate_aligned_images, on a picture that is reduced by area as the true one is
        eyes, mouth = five[:2].mean(0), five[3:].mean(0)
        across, down = five[1] - five[0], mouth - eyes
        x = across - np.array([-down[1], down[0]])
        x *= max(2 * np.hypot(*across), 1.8 * np.hypot(*down)) / np.hypot(*x)
        y, centre = np.array([-x[1], x[0]]), eyes + 0.1 * down
        corner = centre - x - y
        inner = (np.arange(48 * 8) + 0.5) / (48 * 8)
        u, v = np.meshgrid(inner, inner)
        place = corner + 2 * u[..., None] * x + 2 * v[..., None] * y - 0.5
        near = np.clip(np.rint(place), 0, 299).astype(int)
        fine = picture[near[..., 1], near[..., 0]].astype(np.float64)
        shown.append((fine.reshape(48, 8, 48, 8, 3).mean((1, 3)) / 255 - mean) / deviation)
    values = torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2).float()
    with torch.inference_mode():
        by_hand = model.get_image_features(pixel_values=values).pooler_output.numpy()
    by_hand /= np.linalg.norm(by_hand, axis=1, keepdims=True)
    likeness = found @ by_hand.T
    assert np.diag(likeness).min() > 0.99
    assert likeness.argmax(axis=1).tolist() == [0, 1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["no weights", "half the weights", "no processor", "another model", "pickled weights"])
def test_a_folder_that_is_not_styleid_is_refused(clip, damage):
    from safetensors.torch import load_file, save_file

    folder, model = clip
    weights = folder / "model.safetensors"
    if damage == "no weights":
        weights.unlink()
    elif damage == "half the weights":
        kept = {name: value for name, value in load_file(weights).items() if "visual_projection" not in name}
        save_file(kept, weights, {"format": "pt"})
    elif damage == "no processor":
        (folder / "preprocessor_config.json").unlink()
    elif damage == "another model":
        (folder / "config.json").write_text('{"model_type": "bert"}')
    else:
        weights.unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    assets.add("identity", folder, "styleid")
    before = torch.get_rng_state()
    with pytest.raises(AssetError, match=r"does not hold StyleID.*assets add identity FOLDER --name styleid"):
        load_embedder("styleid")
    assert torch.equal(torch.get_rng_state(), before)


def test_styleid_without_transformers_names_the_part(empty_home, tmp_path, monkeypatch):
    (tmp_path / "styleid").mkdir()
    (tmp_path / "styleid" / "config.json").write_text("{}")
    assets.add("identity", tmp_path / "styleid", "styleid")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingPartError, match=r"pip install 'stylekit\[gen\]'"):
        load_embedder("styleid")
