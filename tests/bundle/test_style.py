"""Style bundles: what is written is what is read, and nothing else is."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from stylekit.bundle import (
    Bundle,
    BundledNetwork,
    DataSummary,
    Metrics,
    Networks,
    Style,
    Training,
    load_style,
    read_bundle,
    write_bundle,
)
from stylekit.bundle.card import card, documents, licence_notice
from stylekit.bundle.weights import pack_weights, unpack_generator
from stylekit.errors import ExportError, UsageError
from stylekit.paths import Workspace
from tests.trained import generator, recipe

FACE = BundledNetwork(width=8, blocks=1, weights="face.safetensors", size=64, template="dctnet")


def make_style(**changes: object) -> Style:
    training = Training(
        recipe=recipe().model_dump(mode="json"),
        steps=7,
        checkpoint_sha256="0" * 64,
        stylekit="0.1.0",
        cartoons=DataSummary(used=3, licences={"CC-BY-4.0": 3}, attributions=("Grace Example",)),
    )
    return Style(name="pop-art", networks=Networks(face=FACE), training=training).model_copy(update=changes)


def files() -> dict[str, bytes]:
    return {"face.safetensors": pack_weights(generator(), torch.float16, {"style": "pop-art"}), "preview.jpg": b"picture"}


@pytest.fixture
def written(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "pop-art", make_style(), files())
    return tmp_path / "pop-art"


@pytest.mark.parametrize("name", ["pop-art", "pop-art.zip"])
def test_a_bundle_is_read_as_it_was_written(tmp_path: Path, name: str) -> None:
    style = write_bundle(tmp_path / name, make_style(), files())
    bundle = read_bundle(tmp_path / name)
    assert bundle.style == style
    assert bundle.files == files()


def test_equal_contents_make_equal_zip_files(tmp_path: Path) -> None:
    for name in ("a.zip", "b.zip"):
        write_bundle(tmp_path / name, make_style(), files())
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_changed_byte_is_noticed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("bundle") / "style"
    write_bundle(folder, make_style(), files())
    victim = folder / data.draw(st.sampled_from(sorted(files())))
    content = bytearray(victim.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    victim.write_bytes(content)
    with pytest.raises(ExportError, match=victim.name):
        read_bundle(folder)


def rewrite(folder: Path, **changes: object) -> None:
    document = json.loads((folder / "style.json").read_text())
    (folder / "style.json").write_text(json.dumps(document | changes))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"format_version": 2}, "reads format 1"),
        ({"colour": "red"}, "colour"),
        ({"name": "../up"}, "name"),
        ({"files": {"../../secret": "0" * 64}}, "secret"),
        ({"files": {}}, "no digest"),
    ],
)
def test_a_wrong_style_file_is_refused_with_its_reason(written: Path, changes: dict[str, object], says: str) -> None:
    rewrite(written, **changes)
    with pytest.raises(ExportError, match=says):
        read_bundle(written)


@pytest.mark.parametrize("content", [b"", b"not json", b"[]", b"\xff\xfe"])
def test_rubbish_for_a_style_file_is_refused(written: Path, content: bytes) -> None:
    (written / "style.json").write_bytes(content)
    with pytest.raises(ExportError):
        read_bundle(written)


def test_a_missing_file_is_refused_by_name(written: Path) -> None:
    (written / "preview.jpg").unlink()
    with pytest.raises(ExportError, match=r"preview\.jpg"):
        read_bundle(written)


def test_files_that_are_no_bundle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK no zip")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("other.txt", "")
    for path in (tmp_path / "a.zip", tmp_path / "b.zip", tmp_path / "missing"):
        with pytest.raises(ExportError, match=path.name):
            read_bundle(path)


def test_a_bundle_replaces_a_bundle_but_no_other_folder(written: Path, tmp_path: Path) -> None:
    write_bundle(written, make_style(version="2"), files())
    assert read_bundle(written).style.version == "2"
    mine = tmp_path / "thesis"
    mine.mkdir()
    (mine / "chapter.txt").write_text("years of work")
    with pytest.raises(UsageError, match="thesis"):
        write_bundle(mine, make_style(), files())
    assert (mine / "chapter.txt").read_text() == "years of work"


def test_styles_are_found_by_path_then_in_the_newest_run_then_among_exports(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with pytest.raises(ExportError, match="pop-art"):
        load_style("pop-art", workspace)
    places = [tmp_path / "exports" / "pop-art", *(workspace.new_run_folder("pop-art", "dctnet") / "bundle" for _ in range(2))]
    for version, place in enumerate(places):
        write_bundle(place, make_style(version=str(version)), files())
        assert load_style("Pop art", workspace).style.version == str(version)
    assert load_style(places[0], workspace).style.version == "0"


def test_weights_come_back_rounded_to_half_precision(written: Path) -> None:
    bundle = read_bundle(written)
    network = unpack_generator(bundle, bundle.style.networks.face)
    for name, tensor in generator().state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor.half().float()), name


def test_weights_of_another_network_are_refused() -> None:
    contents = {"face.safetensors": pack_weights(generator(width=12), torch.float16, {})}
    with pytest.raises(ExportError, match=r"face\.safetensors does not fit"):
        unpack_generator(Bundle(Path("x"), make_style(), contents), FACE)


def test_the_card_names_what_a_reader_must_know() -> None:
    protocol = {"name": "starter-v1", "n": 14, "extractors": ["efficientnet-lite0"], "deviations": []}
    metrics = Metrics(protocol=protocol, rows={"stylized": {"kid_x1000/e/n14": 431.2}, "photo": {"kid_x1000/e/n14": 511.0}})
    text = card(make_style(licence="CC-BY-4.0", authors=("Ada",), metrics=metrics))
    matter = yaml.safe_load(text.split("---")[1])
    assert matter["license"] == "cc-by-4.0"
    for needed in (
        "Ada",
        "Grace Example",
        "licence of 3: CC-BY-4.0",
        "| kid_x1000/e/n14 | 431.2 | 511 |",
        "n: 14",
        "Seed: 0",
        "7 steps",
    ):
        assert needed in text
    assert "Not measured" in card(make_style())


def test_the_card_shows_the_headlines_with_their_intervals() -> None:
    figures = {"kid_x1000/e/n14": 431.2, "kid_x1000_std/e/n14": 17.3, "content/n14": 0.35}
    intervals = {"stylized": {"kid_x1000/e/n14": (400.06, 460.0), "kid_x1000_std/e/n14": (1.0, 2.0)}}
    headlines = ("kid_x1000/e/n14", "content/n14", "gaze/n14")
    rows = {"stylized": figures, "photo": {"content/n14": 0.0}}
    text = card(make_style(metrics=Metrics(protocol={"n": 14}, rows=rows, intervals=intervals, headlines=headlines)))
    assert "| kid_x1000/e/n14 | 431.2 [400, 460] | - |\n| content/n14 | 0.35 | 0 |\n\nIn brackets, 95 % intervals" in text
    assert "kid_x1000_std" not in text
    assert "gaze" not in text


def test_the_licence_file_grants_only_what_was_granted() -> None:
    assert "SPDX-License-Identifier: CC0-1.0" in licence_notice(make_style(licence="CC0-1.0"))
    assert "all rights stay" in licence_notice(make_style())
    assert b"Grace Example" in documents(make_style())["LICENSE"]
