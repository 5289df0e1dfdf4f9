"""Which protocol fits, which photographs it takes, and what it refuses."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stylekit.assets import CATALOGUE, fetch
from stylekit.config.load import load_recipe
from stylekit.config.schema import AlignRecipe, EvalRecipe, Recipe
from stylekit.data.hub import add_data
from stylekit.data.manifest import ManifestLine, Split, read_manifest, write_manifest
from stylekit.data.prepare import align
from stylekit.data.shards import shard
from stylekit.errors import DataError, TooFewError, UsageError
from stylekit.faces.identity import MAYBE_SAME_DISTANCE, cluster_persons, link_persons
from stylekit.images import read_rgb, resize, write_image
from stylekit.metrics.protocol import (
    PictureSet,
    Protocol,
    deviations,
    find_photographs,
    fitting_protocol,
    load_protocol,
    protocol_names,
    read_cartoons,
    read_photographs,
    same_protocol,
)
from stylekit.metrics.report import Conditions, UsedAsset
from stylekit.paths import Workspace

STARTER, CELEBA, OWN = (load_protocol(name) for name in ("starter-v1", "celeba-v1", "own-v1"))


def line(name: str, person: str | None = None, split: Split | None = None, **changes: Any) -> ManifestLine:
    values = {"template": "dctnet", "crop_size": 256, "face_index": 0, "status": "used"} | changes
    return ManifestLine(
        **{"file": f"cropped/{name}.png", "input": name, "input_sha256": f"sha-{name}", "person": person, "split": split} | values
    )


def starter(name: str, split: Split, **changes: Any) -> ManifestLine:
    return line(name.replace("/", "-"), name, split, asset="starter-photos", input=f"asset:starter-photos/{name}", **changes)


def celeba(number: int, partition: str, person: str | None = None, **changes: Any) -> ManifestLine:
    split = "train" if partition == "train" else "eval"
    name = f"{number:06d}"
    values = {"asset": "celeba", "partition": partition, "input": f"img_align_celeba/{name}.jpg"} | changes
    return line(name, person or f"p{number}", split, **values)  # type: ignore[arg-type]


def data_set(folder: Path, lines: Iterable[ManifestLine]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_manifest(folder / "manifest.jsonl", lines)
    return folder


def photographs(folder: Path, lines: Iterable[ManifestLine], protocol: Protocol | None = None) -> tuple[PictureSet, PictureSet]:
    return read_photographs(data_set(folder, lines), protocol)


def inputs(photos: PictureSet) -> list[str]:
    return [each.input for each in photos.lines]


HELD_OUT = [line(f"e{i}", f"p{i % 3}", "eval") for i in range(5)]
TRAINED_ON = [line(f"t{i}", f"q{i}", "train") for i in range(4)]
TEST = [celeba(n, "test") for n in range(100, 120)]
OTHERS = [celeba(1, "train"), celeba(2, "eval"), celeba(3, "train")]


def test_photographs_are_divided_and_rejected_ones_left_out(tmp_path: Path) -> None:
    rejected = line("r", None, None, status="rejected", reasons=["blurred"])
    trained_on, held_out = photographs(tmp_path, [*HELD_OUT, rejected, *TRAINED_ON])
    assert inputs(held_out) == ["e0", "e1", "e2", "e3", "e4"]
    assert inputs(trained_on) == ["t0", "t1", "t2", "t3"]


def test_a_person_in_both_splits_is_an_error_that_names_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has p2 both among the held-out photographs and those trained on") as refused:
        photographs(tmp_path, [*HELD_OUT, *TRAINED_ON, line("again", "p2", "train")])
    assert not isinstance(refused.value, TooFewError)


def test_a_person_in_both_splits_is_found_where_training_is_not_spelled_out(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has p1 both"):
        photographs(tmp_path, [*HELD_OUT, *TRAINED_ON, line("again", "p1", None)])


def test_somebody_who_may_be_the_same_in_both_splits_is_an_error(tmp_path: Path) -> None:
    lines = [*HELD_OUT, line("e5", "p5", "eval", group="q7"), line("t7", "q7", "train", group="q7"), *TRAINED_ON]
    with pytest.raises(DataError, match="has p5 or somebody who may be the same both"):
        photographs(tmp_path, lines)


def test_a_picture_in_both_splits_under_two_persons_names_is_an_error(tmp_path: Path) -> None:
    twin = TRAINED_ON[0].model_copy(update={"input_sha256": "sha-e3"})
    with pytest.raises(DataError, match="has the picture e3 both held out and trained on"):
        photographs(tmp_path, [*HELD_OUT, *TRAINED_ON, twin])


@pytest.mark.parametrize(
    ("out", "trained"),
    [("soft-ui/brooke.jpg", "soft-ui/ivana-square.jpg"), ("tabler/female/7.jpg", "tabler/female/22.jpg")],
)
def test_pictures_that_the_protocol_lists_as_one_persons_are_not_divided(tmp_path: Path, out: str, trained: str) -> None:
    lines = [*(starter(name, "eval") for name in STARTER.held_out[1:]), *(starter(f"t{n}", "train") for n in range(3))]
    photographs(tmp_path, [*lines, starter(out, "eval")], STARTER)
    with pytest.raises(DataError, match=f"has {out} or somebody who may be the same both"):
        photographs(tmp_path, [*lines, starter(out, "eval"), starter(trained, "train")], STARTER)


def test_pictures_of_nobody_known_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"does not say who is in cropped/x\.png"):
        photographs(tmp_path, [*HELD_OUT, *TRAINED_ON, line("x", None, "train")])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (HELD_OUT[:3] + TRAINED_ON, "holds out 3 photographs of 3 persons"),
        ([line(f"e{i}", "same", "eval") for i in range(6)] + TRAINED_ON, "holds out 6 photographs of 1 persons"),
        (TRAINED_ON, "holds out 0 photographs"),
        (HELD_OUT, "holds out every photograph"),
        ([], "holds out 0 photographs"),
    ],
)
def test_too_few_photographs_are_refused(tmp_path: Path, lines: Sequence[ManifestLine], message: str) -> None:
    with pytest.raises(TooFewError, match=message):
        photographs(tmp_path, lines)


def test_missing_and_small_sets_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"There is no .*Run: stylekit align"):
        read_photographs(tmp_path)
    with pytest.raises(DataError, match=r"There is no .*Run: stylekit gen-data"):
        read_cartoons(tmp_path)
    write_manifest(tmp_path / "manifest.jsonl", TRAINED_ON[:3])
    with pytest.raises(TooFewError, match="has 3 usable cartoons"):
        read_cartoons(tmp_path)


def test_digest_says_which_pictures_whatever_their_order(tmp_path: Path) -> None:
    _, first = photographs(tmp_path, [*HELD_OUT, *TRAINED_ON])
    _, turned = photographs(tmp_path, [*TRAINED_ON, *HELD_OUT[::-1]])
    _, fewer = photographs(tmp_path, [*TRAINED_ON, *HELD_OUT[:-1]])
    assert first.digest == turned.digest != fewer.digest
    assert first.manifest_sha256 != turned.manifest_sha256


def test_what_the_style_was_trained_on_is_left_out_and_counted(tmp_path: Path) -> None:
    own = data_set(
        tmp_path / "own", [line("x", "x", "train", input_sha256="sha-e0"), line("y", "y", "eval", input_sha256="sha-e1")]
    )
    there = data_set(tmp_path / "there", [*HELD_OUT, *TRAINED_ON])
    _, held_out = read_photographs(there, own=own)
    assert inputs(held_out) == ["e1", "e2", "e3", "e4"]
    assert held_out.notes == ("1 held-out photograph is left out: the style was trained with the same pictures.",)
    assert read_photographs(there, own=there)[1].notes == ()
    lost = tmp_path / "lost"
    assert read_photographs(there, own=lost)[1].notes == (
        f"Whether the style was trained on some of them is not known: {lost} is not there.",
    )


# CelebA


def test_celeba_holds_out_its_test_partition_alone(tmp_path: Path) -> None:
    bystander = celeba(105, "test", "bystander", face_index=1, file="cropped/000105+1.png")
    unlisted = celeba(9, "test").model_copy(update={"partition": None})
    trained_on, held_out = photographs(tmp_path, [*OTHERS, unlisted, *TEST[:6], bystander, *TEST[6:]])
    assert fitting_protocol(tmp_path).name == "celeba-v1"
    assert inputs(held_out) == [each.input for each in TEST]
    assert inputs(trained_on) == [each.input for each in OTHERS]


def test_the_count_is_chosen_by_a_hash_of_seed_and_name_wherever_the_pictures_lie(tmp_path: Path) -> None:
    five = CELEBA.model_copy(update={"count": 5, "centre_count": 2})
    trained_on, held_out = photographs(tmp_path, [*OTHERS, *TEST], five)
    wanted = sorted(range(100, 120), key=lambda number: sha256(f"0/{number:06d}".encode()).digest())[:5]
    assert inputs(held_out) == [f"img_align_celeba/{number:06d}.jpg" for number in sorted(wanted)]
    by_hash = sorted((1, 2, 3), key=lambda number: sha256(f"0/{number:06d}".encode()).digest())
    assert inputs(trained_on) == [f"img_align_celeba/{number:06d}.jpg" for number in sorted(by_hash[:2])]
    elsewhere = [each.model_copy(update={"input": f"/data/CelebA.zip/{each.input}"}) for each in reversed(TEST)]
    assert photographs(tmp_path, [*elsewhere, *OTHERS], five)[1].digest == held_out.digest
    other_seed = five.model_copy(update={"seed": 1})
    assert photographs(tmp_path, [*OTHERS, *TEST], other_seed)[1].digest != held_out.digest


def test_people_and_pictures_on_both_sides_of_celeba_are_left_out_and_counted(tmp_path: Path) -> None:
    twice = [celeba(10, "train", "p101"), celeba(11, "eval", "p102"), celeba(12, "train", "q", input_sha256="sha-000103")]
    _, held_out = photographs(tmp_path, [*OTHERS, *twice, *TEST])
    assert inputs(held_out) == [each.input for each in TEST if each.person not in ("p101", "p102", "p103")]
    assert held_out.notes == (
        "2 held-out photographs are left out: their persons are also among those trained on.",
        "1 held-out photograph is left out: the same pictures are also among those trained on.",
    )


def test_celebas_mean_face_is_of_the_other_partitions_or_the_styles_photographs_or_the_held_out_ones(tmp_path: Path) -> None:
    there = data_set(tmp_path / "celeba", TEST)
    own = data_set(tmp_path / "photos", TRAINED_ON)
    trained_on, _ = read_photographs(there, own=own)
    assert (trained_on.folder, inputs(trained_on)) == (own, ["t0", "t1", "t2", "t3"])
    assert trained_on.notes == ("The mean face is that of the photographs of photos; celeba has none but held-out ones.",)
    trained_on, held_out = read_photographs(there)
    assert trained_on.digest == held_out.digest
    assert trained_on.notes == ("The mean face is that of the held-out photographs themselves; celeba has no others.",)


def test_celeba_without_its_test_partition_is_anybodys_photographs(tmp_path: Path) -> None:
    lines = [celeba(n, "eval") for n in range(6)] + OTHERS[:1]
    assert fitting_protocol(data_set(tmp_path, lines)).name == "own-v1"
    with pytest.raises(TooFewError, match=r"holds out 0 photographs.*list_eval_partition\.txt"):
        read_photographs(tmp_path, CELEBA)


def test_every_set_of_photographs_has_a_protocol_that_fits(tmp_path: Path) -> None:
    assert protocol_names() == ["celeba-v1", "own-v1", "starter-v1"]
    own = [line("a", "a", "train")]
    assert fitting_protocol(data_set(tmp_path, [starter("a", "eval"), starter("b", "train")])).name == "starter-v1"
    for mixed in (own, [], [*own, starter("a", "eval")], [*TEST, starter("a", "eval")]):
        assert fitting_protocol(data_set(tmp_path, mixed)).name == "own-v1"
    _, held_out = photographs(tmp_path, [*OTHERS, *TEST])
    assert fitting_protocol(held_out).name == "celeba-v1"


NAMES = st.sets(st.integers(1, 202599), min_size=8, max_size=60)


@settings(deadline=None, max_examples=20)
@given(NAMES, st.integers(1, 40), st.data())
def test_people_who_come_or_go_change_only_their_own_places_in_the_choice(
    tmp_path_factory: pytest.TempPathFactory, numbers: set[int], count: int, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("set")
    protocol = CELEBA.model_copy(update={"count": max(count, 4)})
    lines = [celeba(number, "test") for number in sorted(numbers)]
    gone = data.draw(st.sampled_from(lines))
    before = set(inputs(photographs(folder, [*OTHERS[:0], *lines], protocol)[1]))
    after = set(inputs(photographs(folder, [each for each in lines if each != gone], protocol)[1]))
    assert len(before) == min(max(count, 4), len(lines))
    assert before - after <= {gone.input}
    assert len(after - before) <= 1


# What differs


def found_deviations(
    folder: Path,
    photos: Sequence[ManifestLine] | None = None,
    protocol: Protocol = STARTER,
    settings: EvalRecipe | None = None,
    extractors: Sequence[str] = STARTER.extractors,
    **cartoon: Any,
) -> list[str]:
    lines = photos or [*(starter(name, "eval") for name in STARTER.held_out), starter("tabler/male/1.jpg", "train")]
    trained_on, held_out = photographs(folder / "photos", lines, protocol)
    cartoons = read_cartoons(data_set(folder / "style", [line(f"c{i}", **cartoon) for i in range(4)]))
    sets = {"trained_on": trained_on, "held_out": held_out, "cartoons": cartoons}
    return deviations(protocol, settings or EvalRecipe(), extractors=extractors, **sets)


def test_default_settings_keep_the_starter_protocol(tmp_path: Path) -> None:
    assert found_deviations(tmp_path) == []


def test_more_networks_are_no_deviation_and_fewer_are(tmp_path: Path) -> None:
    one, other = STARTER.extractors
    assert found_deviations(tmp_path, extractors=[other, "inception-2015@299", one]) == []
    assert found_deviations(tmp_path, settings=EvalRecipe(embedders=("arcface", "dlib-resnet"))) == []
    assert found_deviations(tmp_path, extractors=[one]) == [f"extractors: without {other}"]
    assert found_deviations(tmp_path, settings=EvalRecipe(embedders=("arcface",))) == ["embedders: without dlib-resnet"]


def test_every_deviation_is_named(tmp_path: Path) -> None:
    own = [*HELD_OUT, *TRAINED_ON]
    assert found_deviations(tmp_path, own) == ["photographs: your own instead of the starter photographs"]
    assert found_deviations(tmp_path, template="ffhq") == ["template: dctnet and ffhq instead of dctnet"]
    assert found_deviations(tmp_path, crop_size=128) == ["crops: 128 px and 256 px instead of 256 px"]
    assert found_deviations(tmp_path, settings=EvalRecipe(subsets=7)) == ["KID subsets: 7 instead of 100"]
    assert found_deviations(tmp_path, own, OWN) == []


def test_another_split_of_the_starter_photographs_deviates(tmp_path: Path) -> None:
    kept = [starter(name, "eval") for name in STARTER.held_out[:-1]]
    assert found_deviations(tmp_path, [*kept, starter("a.jpg", "eval"), starter("b.jpg", "train")]) == [
        "held out: tabler/male/40.jpg missing, 14 of 15 there",
        "held out: a.jpg beside the protocol's 15",
    ]
    some = [starter(name, "eval") for name in STARTER.held_out[5:]]
    assert found_deviations(tmp_path, [*some, starter("b.jpg", "train")]) == [
        "held out: soft-ui/brooke.jpg, soft-ui/team-3.jpg, tabler/female/10.jpg and 2 more missing, 10 of 15 there"
    ]


def test_too_few_photographs_of_celeba_and_another_mean_face_deviate(tmp_path: Path) -> None:
    assert found_deviations(tmp_path, [*OTHERS, *TEST], CELEBA) == ["held out: 20 photographs instead of 5,000"]
    twenty = CELEBA.model_copy(update={"count": 20})
    assert found_deviations(tmp_path, [*OTHERS, *TEST], twenty) == []
    assert found_deviations(tmp_path, TEST, twenty) == ["mean face: of the held-out photographs themselves"]


def conditions(**changes: Any) -> Conditions:
    found: dict[str, Any] = {
        "name": "starter-v1",
        "deviations": [],
        "n": 15,
        "persons": 15,
        "held_out_sha256": "a",
        "photos_manifest_sha256": "b",
        "template": ["dctnet"],
        "crop_size_px": [256],
        "size_px": 128,
        "reference": "toon-head",
        "reference_n": 203,
        "reference_manifest_sha256": "c",
        "extractors": ["vgg16-hed@x", "efficientnet-lite0@x"],
        "embedders": ["dlib-resnet@x"],
        "gauges": ["features/vgg16-hed@x abc", "identity-1/dlib-resnet@x/def", "content/1/vgg16-hed/128/abc", "artefacts/1"],
        "kid_subsets": 100,
        "kid_subset_size": 7,
        "resamples": 1000,
        "identity_centre": {"dlib-resnet@x": [1.0, 0.0]},
        "identity_centre_n": 60,
        "seed": 0,
        "assets": [UsedAsset(name="vgg16-hed", role="content", source="npm", sha256="d", licence="MIT")],
    }
    return Conditions.model_validate(
        {name: value for name, value in (found | changes).items() if name in Conditions.model_fields}
    )


def test_evaluations_of_one_protocol_compare(tmp_path: Path) -> None:
    more = conditions(
        extractors=["efficientnet-lite0@x", "inception-2015@x"],
        identity_centre={"dlib-resnet@x": [1.00001, 0.0], "arcface@x": [0.5]},
        photos_manifest_sha256="other rejected ones",
        gauges=["features/efficientnet-lite0@x abc", "identity-1/arcface@x/xyz", "content/1/vgg16-hed/128/abc", "colour/1/abc"],
    )
    assert same_protocol(conditions(), conditions()) == same_protocol(conditions(), more) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "celeba-v1"}, "protocol: starter-v1 and celeba-v1"),
        ({"held_out_sha256": "z"}, "held-out photographs: not the same"),
        ({"reference_manifest_sha256": "z"}, "reference cartoons: not the same"),
        ({"n": 16}, "held-out photographs: 15 and 16"),
        ({"reference_n": 202}, "cartoons: 203 and 202"),
        ({"gauges": ["features/vgg16-hed@x abd"]}, "gauge features vgg16-hed@x: not the same"),
        ({"gauges": ["identity-2/dlib-resnet@x/def"]}, "gauge identity dlib-resnet@x: not the same"),
        ({"gauges": ["artefacts/2", "content/1/vgg16-hed/128/abc"]}, "gauge artefacts: not the same"),
        ({"gauges": ["content/1/vgg16-hed/64/abc"]}, "gauge content: not the same"),
        ({"size_px": 256}, "size in px: 128 and 256"),
        ({"template": ["dctnet", "ffhq"]}, "template: dctnet and dctnet/ffhq"),
        ({"kid_subsets": 50}, "KID subsets: 100 and 50"),
        ({"extractors": ["inception-2015@x"]}, "extractors: none in common"),
        ({"embedders": ["arcface@x"]}, "embedders: none in common"),
        ({"identity_centre": {"dlib-resnet@x": [1.0, 0.1]}}, "mean face of dlib-resnet@x: not the same"),
        (
            {"assets": [UsedAsset(name="vgg16-hed", role="content", source="user", sha256="z", licence="MIT")]},
            "weights of vgg16-hed: not the same",
        ),
    ],
)
def test_what_two_evaluations_do_not_share_is_named(changes: dict[str, Any], said: str) -> None:
    assert same_protocol(conditions(), conditions(**changes)) == [said]


def test_unknown_protocol_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"'paper'.*celeba-v1, own-v1, starter-v1"):
        load_protocol("paper")


# Where photographs are found


def test_photographs_are_found_by_folder_by_name_by_source_and_by_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    workspace = Workspace()
    starters = data_set(Path("datasets/photos"), [starter("a", "train")])
    selfies = data_set(Path("datasets/photos-selfies"), [line("a", "a", "train", input=str(tmp_path / "selfies/a.png"))])
    Path("selfies").mkdir()
    own = "asset:starter-photos"
    assert find_photographs(None, workspace, own=own) == starters
    for source in ("selfies", "photos-selfies", "datasets/photos-selfies", str(tmp_path / "selfies")):
        assert find_photographs(source, workspace, own=own).resolve() == selfies.resolve()
    assert find_photographs(own, workspace, own="selfies") == starters


def test_photographs_that_were_never_aligned_say_how_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my faces").mkdir()
    with pytest.raises(DataError, match=r"my faces were never aligned.*Run: stylekit align 'my faces' --kind photo"):
        find_photographs("my faces", Workspace(), own="asset:starter-photos")
    with pytest.raises(DataError, match="There are no photographs at elsewhere"):
        find_photographs("elsewhere", Workspace(), own="asset:starter-photos")
    with pytest.raises(DataError, match=r"asset:starter-photos were never aligned.*align asset:starter-photos --kind photo"):
        find_photographs(None, Workspace(), own="asset:starter-photos")


# The lists, and CelebA as it comes


def test_the_lists_of_the_starter_protocol_are_of_the_catalogues_asset() -> None:
    assert STARTER.asset_sha256 == CATALOGUE["starter-photos"].sha256
    listed = [*STARTER.held_out, *(name for names in (*STARTER.one_person, *STARTER.maybe_one_person) for name in names)]
    folder = fetch("starter-photos")
    assert [name for name in listed if not (folder / name).is_file()] == []
    assert len(set(STARTER.held_out)) == len(STARTER.held_out)


@pytest.mark.slow
def test_the_starter_photographs_give_the_lists_of_their_protocol(tmp_path: Path) -> None:
    recipe = load_recipe("demo")
    settled = {"recipe": recipe.align, "seed": recipe.seed, "eval_fraction": recipe.photos.eval_fraction}
    align("asset:starter-photos", kind="photo", output=tmp_path, **settled)  # type: ignore[arg-type]
    trained_on, held_out = (set(map(in_asset, inputs(each))) for each in read_photographs(tmp_path, STARTER))
    assert held_out == set(STARTER.held_out)
    with closing(sqlite3.connect(tmp_path / "align.db")) as database:
        rows = database.execute("SELECT input, embedding FROM faces JOIN pictures ON id = picture WHERE is_used").fetchall()
    names = [in_asset(name) for name, _ in rows]
    assert len(names) == len(trained_on | held_out) + 1  # the near-duplicate
    embeddings = np.stack([np.frombuffer(embedding, np.float32) for _, embedding in rows])
    persons = cluster_persons(embeddings)
    one, maybe = (set(map(frozenset, lists)) for lists in (STARTER.one_person, STARTER.maybe_one_person))
    assert together(persons, names) == one
    assert together(link_persons(embeddings, persons), names) == one | maybe
    out, known = ([name in side for name in names] for side in (held_out, trained_on))
    gaps = np.linalg.norm(embeddings[out][:, None].astype(float) - embeddings[known], axis=-1)
    assert gaps.shape == (len(held_out), len(trained_on))
    assert gaps.min() > MAYBE_SAME_DISTANCE


def in_asset(name: str) -> str:
    return name.removeprefix("asset:starter-photos/")


def every(folder: Path) -> list[ManifestLine]:
    return read_manifest(folder / "manifest.jsonl")


def together(labels: Iterable[int], names: Sequence[str]) -> set[frozenset[str]]:
    """Return the names that share a label with another."""
    members: dict[int, set[str]] = {}
    for label, name in zip(labels, names, strict=True):
        members.setdefault(int(label), set()).add(name)
    return {frozenset(each) for each in members.values() if len(each) > 1}


@pytest.mark.slow
def test_celeba_as_it_is_fetched_is_added_aligned_and_held_out_by_its_partition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    faces = [path for path in sorted(fetch("starter-photos").glob("tabler/male/*.jpg")) if path.stem not in ("13", "18", "24")][
        :24
    ]
    parts = [0] * 6 + [1] * 4 + [2] * 14
    numbers = [*range(1, 7), *range(162771, 162775), *range(182638, 182652)]
    for number, path in zip(numbers, faces, strict=True):
        picture = np.full((218, 178, 3), 128, np.uint8)
        picture[20:198] = resize(read_rgb(path), (178, 178))
        write_image(Path(f"CelebA/img_align_celeba/{number:06d}.jpg"), picture)
    rows = [f"{number:06d}.jpg {part}\n" for number, part in zip(numbers, parts, strict=True)]
    Path("CelebA/list_eval_partition.txt").write_text("".join(rows))
    whose = {number: 1000 + number % 7 if number > 182637 else 5000 + number for number in numbers}
    whose[numbers[0]] = whose[numbers[-1]]  # a person on both sides, with the pictures of theirs in the test partition
    Path("CelebA/identity_CelebA.txt").write_text("".join(f"{number:06d}.jpg {who}\n" for number, who in whose.items()))

    added = add_data("CelebA", style="toon-head")
    assert (added.photos, added.layout) == (24, "CelebA, with list_eval_partition.txt and identity_CelebA.txt")
    recipe = load_recipe(str(added.recipe))
    with pytest.raises(DataError, match="never aligned"):
        find_photographs("CelebA", Workspace(), own=recipe.photos.source)
    folder = aligned(recipe)
    assert find_photographs("CelebA", Workspace(), own="asset:starter-photos").resolve() == folder.resolve()
    assert fitting_protocol(folder).name == "celeba-v1"

    used = [each for each in every(folder) if each.status == "used"]
    number_of = {each.input: int(Path(each.input).stem) for each in used}
    assert len(used) > 16
    assert {each.asset for each in used} == {"celeba"}
    assert all("non-commercial" in str(each.licence) for each in used)
    trained_on, held_out = read_photographs(folder)
    theirs = whose[numbers[0]]
    first = {number_of[each.input] for each in used if number_of[each.input] > 182637 and not each.face_index}
    left = {number for number in first if whose[number] != theirs}
    known = any(number_of[each.input] == numbers[0] for each in used)
    assert known
    assert {number_of[each.input] for each in held_out.lines} == left < first
    assert held_out.notes[0].startswith(f"{len(first - left)} held-out photograph")
    assert {number_of[each.input] for each in trained_on.lines} == {number for number in number_of.values() if number < 182638}
    people = {each.person: whose[number_of[each.input]] for each in held_out.lines}
    assert len(people) == len(set(people.values())) == len({whose[number] for number in left})
    six = CELEBA.model_copy(update={"count": 6})
    assert len(read_photographs(folder, six)[1].lines) == 6

    report = shard(folder, Path("shards"))
    packed = read_photographs(report.folder)
    assert [each.digest for each in packed] == [trained_on.digest, held_out.digest]
    assert all(
        held_out.read(one).shape == packed[1].read(two).shape for one, two in zip(held_out.lines, packed[1].lines, strict=True)
    )


def aligned(recipe: Recipe) -> Path:
    folder = Workspace().photo_set(recipe.photos.source)
    limits = AlignRecipe(min_face_px=28, min_sharpness=4)
    align(recipe.photos.source, kind="photo", output=folder, recipe=limits, processes=1)
    return folder
