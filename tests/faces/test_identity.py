from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stylekit.errors import UsageError
from stylekit.faces.align import face_matrix, similarity, template_points, warp
from stylekit.faces.identity import (
    FaceEmbedder,
    cluster_persons,
    cosine,
    crop_for_identity,
    identity_crop_matrix,
    link_persons,
)

CROP_POINTS = template_points("dctnet", 256)

pytestmark = pytest.mark.usefixtures("faces_found_once")


@pytest.fixture(scope="module")
def embedder(asset_home: Path) -> FaceEmbedder:
    return FaceEmbedder()


@pytest.fixture(scope="module")
def people(detector, face_mesh, starter_photos) -> tuple[list[str], list[np.ndarray], list[np.ndarray]]:
    names = list(starter_photos)
    pictures = list(starter_photos.values())
    return names, pictures, [face_mesh.mesh(rgb, detector.detect(rgb)[0]).points for rgb in pictures]


@pytest.fixture(scope="module")
def embeddings(embedder, people) -> np.ndarray:
    _, pictures, meshes = people
    return embedder.embed(pictures, meshes)


def pairs(embeddings: np.ndarray, mean: np.ndarray | float) -> np.ndarray:
    first, second = np.triu_indices(len(embeddings), 1)
    return cosine(embeddings[first], embeddings[second], mean)


def test_strangers_are_as_alike_as_dlibs_network_finds_them(embeddings):
    assert embeddings.shape == (82, 128)
    raw = pairs(embeddings, 0.0)
    assert raw.mean() == pytest.approx(0.838, abs=0.006)
    assert np.percentile(raw, 95) == pytest.approx(0.899, abs=0.006)
    centred = pairs(embeddings, embeddings.mean(axis=0))
    assert centred.mean() == pytest.approx(-0.01, abs=0.01)
    assert np.percentile(centred, 95) == pytest.approx(0.32, abs=0.02)


def test_the_one_woman_shown_twice_is_the_only_person_found_twice(embeddings, people):
    names = np.array(people[0])
    persons = cluster_persons(embeddings)
    labels, counts = np.unique(persons, return_counts=True)
    assert [sorted(names[persons == label]) for label in labels[counts > 1]] == [["soft-ui/brooke", "soft-ui/ivana-square"]]


def test_five_points_come_near_the_mesh(embedder, people, embeddings):
    _, pictures, meshes = people
    fives = [mesh[[[33, 133], [362, 263], [1, 1], [61, 61], [291, 291]], :2].mean(axis=1) for mesh in meshes]
    assert cosine(embedder.embed(pictures, fives), embeddings, embeddings.mean(axis=0)).mean() > 0.95


def test_aligned_crops_embed_as_their_pictures(embedder, people, embeddings):
    names, pictures, meshes = people
    chosen = [names.index(name) for name in ("soft-ui/team-1", "soft-ui/charles", "soft-ui/marie")]
    crops, points = [], []
    for index in chosen:
        five = meshes[index][[[33, 133], [362, 263], [1, 1], [61, 61], [291, 291]], :2].mean(axis=1)
        matrix = face_matrix(five, "dctnet", 256)
        crops.append(warp(pictures[index], matrix, 256))
        points.append(meshes[index][:, :2] @ matrix[:, :2].T + matrix[:, 2])
    assert cosine(embedder.embed(crops, points), embeddings[chosen], embeddings.mean(axis=0)).min() > 0.97


def test_mesh_points_go_where_dlib_wants_them():
    chip = {263: (110.96, 46.35), 362: (89.61, 47.90), 33: (37.06, 46.37), 133: (58.41, 47.90), 2: (74.01, 87.78)}
    mesh = np.zeros((468, 3))
    mesh[list(chip), :2] = [(10 + 2 * x, 30 + 2 * y) for x, y in chip.values()]
    np.testing.assert_allclose(identity_crop_matrix(mesh), [[0.5, 0, -5], [0, 0.5, -15]], atol=0.01)


def test_nothing_to_embed_gives_nothing(embedder):
    assert embedder.embed([], []).shape == (0, 128)


def test_coinciding_points_are_an_error():
    with pytest.raises(UsageError, match="coincide"):
        identity_crop_matrix(np.zeros((5, 2)))


@pytest.mark.parametrize("size", [128, 256, 768])
def test_torch_crop_equals_the_picture_crop(starter_photos, size):
    picture = warp(starter_photos["soft-ui/marie"], np.array([[size / 900, 0, 0], [0, size / 900, 0]]), size)
    matrices = np.stack([identity_crop_matrix(CROP_POINTS * size / 256 + shift) for shift in (0, size / 40)])
    batch = torch.from_numpy(picture).permute(2, 0, 1).float()[None].expand(2, -1, -1, -1) / 127.5 - 1
    crops = crop_for_identity(batch, matrices).permute(0, 2, 3, 1).numpy()
    assert crops.shape == (2, 150, 150, 3)
    for crop, matrix in zip(crops, matrices, strict=True):
        difference = np.abs(crop - warp(picture, matrix, 150, "black"))[3:-3, 3:-3]
        assert difference.mean() < 1.5
        assert np.percentile(difference, 99) < 12


def test_identity_loss_reaches_the_picture(embedder):
    batch = torch.zeros(1, 3, 256, 256, requires_grad=True)
    embedder.network(crop_for_identity(batch, identity_crop_matrix(CROP_POINTS)[None])).sum().backward()
    gradient = batch.grad.abs().sum(dim=(0, 1))
    assert gradient[120:200, 90:170].min() > 0
    assert gradient[:20].max() == 0
    assert all(parameter.grad is None for parameter in embedder.network.parameters())


@given(st.lists(st.integers(0, 5), max_size=30), st.integers(0, 1000))
def test_clusters_put_together_exactly_who_is_near(people_shown, seed):
    random = np.random.default_rng(seed)
    faces = 2 * np.eye(6, 128)
    embeddings = faces[people_shown] + random.uniform(-0.005, 0.005, (len(people_shown), 128))
    persons = cluster_persons(embeddings.astype(np.float32).reshape(-1, 128))
    order = list(dict.fromkeys(people_shown))
    assert persons.tolist() == [order.index(person) for person in people_shown]


def test_similarity_of_crop_points_is_stable():
    matrix = identity_crop_matrix(CROP_POINTS)
    eyes = CROP_POINTS[:2] @ matrix[:, :2].T + matrix[:, 2]
    np.testing.assert_allclose(eyes, [(49.27, 47.34), (100.73, 47.34)], atol=3)
    np.testing.assert_allclose(similarity(CROP_POINTS, CROP_POINTS), [[1, 0, 0], [0, 1, 0]], atol=1e-9)


def test_persons_who_may_be_the_same_are_linked_along_chains_whatever_the_order():
    places = np.array([0.0, 2.0, 0.3, 0.75, 1.2, 2.6, 5.0], np.float32)
    embeddings = np.pad(places[:, None], ((0, 0), (0, 127)))
    persons = cluster_persons(embeddings)
    assert persons.tolist() == [0, 1, 0, 2, 3, 4, 5]
    assert link_persons(embeddings, persons).tolist() == [0, 1, 0, 0, 0, 4, 5]
    turned = np.array([6, 4, 5, 0, 3, 2, 1])
    groups = link_persons(embeddings[turned], cluster_persons(embeddings[turned]))
    assert [set(turned[groups == group]) for group in np.unique(groups)] == [{6}, {0, 2, 3, 4}, {5}, {1}]
    assert link_persons(np.array([[0.0], [9.0]]), np.array([0, 0])).tolist() == [0, 0]


def persons_one_by_one(embeddings: np.ndarray, threshold: float) -> list[int]:
    firsts: list[np.ndarray] = []
    persons = []
    for embedding in embeddings.astype(np.float64):
        distances = [np.linalg.norm(embedding - first) for first in firsts]
        if distances and min(distances) < threshold:
            persons.append(int(np.argmin(distances)))
        else:
            persons.append(len(firsts))
            firsts.append(embedding)
    return persons


def groups_one_by_one(embeddings: np.ndarray, persons: np.ndarray, threshold: float) -> list[int]:
    groups = np.array(persons)
    for i in range(len(embeddings)):
        for j in range(i):
            if np.linalg.norm(embeddings[i].astype(np.float64) - embeddings[j]) < threshold:
                both = (groups[i], groups[j])
                groups[np.isin(groups, both)] = min(both)
    return groups.tolist()


@pytest.mark.parametrize("seed", range(6))
def test_blocks_find_the_persons_and_groups_that_one_by_one_finds(seed, monkeypatch):
    monkeypatch.setattr("stylekit.faces.identity._ROWS", 16)
    monkeypatch.setattr("stylekit.faces.identity._COLUMNS", 24)
    random = np.random.default_rng(seed)
    embeddings = random.normal(scale=(0.2, 0.4, 0.8)[seed % 3], size=(130, 4)).astype(np.float32)
    persons = cluster_persons(embeddings, 0.4)
    assert persons.tolist() == persons_one_by_one(embeddings, 0.4)
    assert len(set(persons.tolist())) > 3
    for threshold in (0.5, 0.2):
        assert link_persons(embeddings, persons, threshold).tolist() == groups_one_by_one(embeddings, persons, threshold)
