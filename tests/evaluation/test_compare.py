import json
import re
from dataclasses import replace

import numpy as np
import pytest

from stylekit.cli import run as run_command
from stylekit.data.manifest import read_manifest, write_manifest
from stylekit.engine.checkpoint import META, Meta, chosen_checkpoint, load_generator, read_meta
from stylekit.engine.train import training_pictures
from stylekit.errors import DataError, UsageError
from stylekit.evaluation import compare as comparing
from stylekit.evaluation.compare import compare, export_photographs
from stylekit.evaluation.comparison import ComparedRow, Comparison, Preference, markdown, text
from stylekit.evaluation.makers import network_maker
from stylekit.evaluation.split import split_deviations
from stylekit.evaluation.trivial import TrivialRows
from stylekit.images import read_rgb, write_image
from stylekit.metrics.protocol import Floors, load_protocol
from stylekit.preference.result import Share
from tests.evaluation.test_bench import Colours, open_at
from tests.evaluation.test_evaluate import make_workspace


@pytest.fixture
def workspace(tmp_path):
    return make_workspace(tmp_path)


@pytest.fixture
def opened(workspace, monkeypatch):
    """The bench of stand-in networks, which `compare` opens."""
    bench = open_at(workspace)
    monkeypatch.setattr(comparing, "open_bench", lambda *_, **__: bench)
    monkeypatch.setattr(comparing, "_ROUNDS", 1)
    small = load_generator(workspace.run_folders("blobs")[0]).recipe
    monkeypatch.setattr(comparing, "style_recipe", lambda *_, **__: small)
    return bench


def set_floors(bench, **floors):
    least = Floors(**{"id_recognised": 0, "neighbour_coverage": 0} | floors)
    bench.protocol = bench.protocol.model_copy(update={"floors": least})


def row_of(comparison, name):
    return next(row for row in comparison.rows if row.name == name)


def painted(workspace, folder, paint):
    """Another tool's pictures of the held-out photographs."""
    for path in export_photographs(workspace.root / "to-paint", workspace=workspace).files:
        write_image(folder / f"{path.stem}.png", paint(read_rgb(path)))
    return folder


def test_a_folder_of_a_runs_pictures_has_the_runs_figures(workspace, opened):
    run = workspace.run_folders("blobs")[0]
    loaded = load_generator(run)
    make, _ = network_maker(loaded.module, loaded.recipe.train.size, loaded.sha256)
    folder = painted(workspace, workspace.root / "painted", lambda crop: make([crop], [0])[0])
    found = compare([run, folder], workspace=workspace)
    one, other = found.rows[:2]
    assert (one.kind, other.kind, other.name) == ("run", "folder", "painted")
    assert other.figures == pytest.approx(one.figures)
    assert one.against["painted"] == pytest.approx((0, 0, 0), abs=1e-6)
    assert one.cost is not None
    assert one.cost.megabytes == pytest.approx(2e-6 * sum(p.numel() for p in loaded.module.parameters()))
    assert other.cost is None
    assert [row.name for row in found.rows[2:]] == list(TrivialRows.names)
    for name in (*one.pictures, *found.photographs):
        assert read_rgb(comparing.folder_of("blobs", workspace) / name).shape == (256, 256, 3)
    written = (comparing.folder_of("blobs", workspace) / comparing.COMPARISON).read_bytes()
    assert Comparison.model_validate_json(written) == found


def test_the_trivial_rows_are_what_they_are_called(workspace, opened):
    rows = TrivialRows(opened, load_generator(workspace.run_folders("blobs")[0]).recipe)
    photos = [opened.photos.read(index) for index in range(6)]
    constant = rows["constant-cartoon"].make(photos, range(6))
    assert all(np.array_equal(picture, constant[0]) for picture in constant)
    features = opened.reference["features/tiny"]
    middle = np.linalg.norm(features - features.mean(0), axis=1).argmin()
    assert np.array_equal(constant[0], opened.cartoons.read(int(middle)))
    near = rows["nearest-cartoon"].make(photos, range(6))
    centre = opened.centres["tiny-face"]
    for index, picture in enumerate(near):
        a, b = opened.photo["embedding/tiny-face"][index] - centre, opened.reference["embedding/tiny-face"] - centre
        likeness = b @ a / np.linalg.norm(b, axis=1) / np.linalg.norm(a)
        assert np.array_equal(picture, opened.cartoons.read(int(likeness.argmax())))
    assert [np.array_equal(*pair) for pair in zip(rows["photo"].make(photos, range(6)), photos, strict=True)] == [True] * 6
    first, again = (TrivialRows(opened, rows._recipe)["untrained"].make(photos[:1], [0])[0] for _ in range(2))
    assert np.array_equal(first, again)


def test_differences_are_paired_over_persons_and_of_opposite_sign(workspace, opened):
    found = compare([workspace.run_folders("blobs")[0]], workspace=workspace)
    one, two = found.rows[0], row_of(found, "colour-transfer")
    value, low, high = one.against["colour-transfer"]
    assert low < value < high
    assert two.against[one.name] == pytest.approx((-value, -high, -low))
    rows = TrivialRows(opened, load_generator(workspace.run_folders("blobs")[0]).recipe)
    arrays = [opened.measure(rows[name].make, rows[name].key, name) for name in ("photo", "colour-transfer")]
    paired = opened.paired(*arrays)
    assert row_of(found, "photo").against["colour-transfer"] == pytest.approx((paired.value, paired.low, paired.high))
    assert one.better_than == [name for name, (_, _, above) in one.against.items() if above < 0]


@pytest.mark.parametrize(
    ("floors", "good", "reason"),
    [
        ({"id_recognised": 1.0}, False, "recognised .*below the floor of 1"),
        ({"neighbour_coverage": 1.0}, False, "variety .*below the floor of 1"),
    ],
)
def test_a_run_below_a_floor_is_not_good(workspace, opened, floors, good, reason):
    set_floors(opened, **floors)
    row = compare([workspace.run_folders("blobs")[0]], workspace=workspace).rows[0]
    assert (row.good, row.above_floors) == (good, False)
    assert any(re.search(reason, each) for each in row.reasons)


def test_a_good_row_beats_every_trivial_row_above_the_floors_and_no_other_is_asked_for(workspace, opened, monkeypatch):
    run = workspace.run_folders("blobs")[0]
    folder = painted(workspace, workspace.root / "drawn", lambda crop: crop)
    nearer, unsure = (-20.0, -30.0, -10.0), (-20.0, -50.0, 10.0)

    def differences(names, extractor):
        near = {one for one in names if one not in TrivialRows.names}
        return {
            one: {other: nearer if one in near and other != "untrained" else unsure for other in names if other != one}
            for one in names
        }

    monkeypatch.setattr(comparing, "_differences", differences)
    set_floors(opened)
    found = compare([run, folder], workspace=workspace)
    for row in found.rows[:2]:
        assert (row.good, row.reasons) == (False, ["not beyond doubt nearer to the style than untrained"])
    assert all(row.good is None and row.reasons == [] for row in found.rows if row.kind == "trivial")
    assert [weakness.split()[0] for weakness in found.weaknesses] == ["constant-cartoon", "nearest-cartoon"]

    set_floors(opened, id_recognised=1)
    found = compare([folder], workspace=workspace)
    assert row_of(found, "photo").above_floors
    assert not row_of(found, "untrained").above_floors
    assert (found.rows[0].good, found.rows[0].reasons, found.weaknesses) == (True, [], [])


@pytest.mark.parametrize("name", ["colour-transfer", "bilateral-edges", "untrained"])
def test_a_protocol_in_which_a_row_that_learned_nothing_is_nearest_of_all_is_too_weak(name):
    protocol = load_protocol("own-v1")
    figures = {row: {"id_recognised": 0.0} for row in TrivialRows.names} | {"photo": {"id_recognised": 1.0}}

    def weaknesses(rivals, better_than, *compared):
        rows = [ComparedRow.model_construct(name=each, kind="run", better_than=[]) for each in compared]
        rows += [
            ComparedRow.model_construct(name=each, kind="trivial", better_than=better_than if each == name else [])
            for each in TrivialRows.names
        ]
        return comparing._weaknesses(protocol, figures, rivals, rows)

    said = f"{name}, which learned nothing, is above the floors, and beyond doubt nearer to the style than everything compared."
    assert weaknesses([name], ["run", "painted", "photo"], "run", "painted") == [said]
    assert weaknesses([name], ["run", "photo"], "run", "painted") == []
    assert weaknesses(["photo"], ["run"], "run") == []  # it is below a floor


def test_beyond_doubt_is_by_every_extractor(workspace, monkeypatch):
    bench = open_at(workspace, features=[Colours("features/tiny", 6, 0), Colours("features/small", 6, 3)])
    monkeypatch.setattr(comparing, "open_bench", lambda *_, **__: bench)
    monkeypatch.setattr(comparing, "_ROUNDS", 1)
    by = {"tiny": (-20.0, -30.0, -10.0), "small": (-20.0, -30.0, 10.0)}
    sure = {"constant-cartoon"}

    def differences(figures, extractor):
        return {
            one: {other: by["tiny"] if other in sure else by[extractor] for other in figures if other != one} for one in figures
        }

    monkeypatch.setattr(comparing, "_differences", differences)
    row = compare([workspace.run_folders("blobs")[0]], workspace=workspace).rows[0]
    assert row.better_than == ["constant-cartoon"]
    assert row.against["photo"] == by["tiny"]


def test_folders_of_one_name_and_of_a_trivial_rows_are_told_apart(workspace, opened, monkeypatch):
    monkeypatch.chdir(workspace.root)
    for name, value in (("a/out", 10), ("b/out", 90), ("photo", 200)):
        painted(workspace, workspace.root / name, lambda crop, value=value: np.full_like(crop, value))
    found = compare(["a/out", "b/out", "photo"], workspace=workspace, style="blobs")
    assert [row.name for row in found.rows[:3]] == ["a/out (folder)", "b/out (folder)", "photo (folder)"]
    assert len({row.name for row in found.rows}) == 9
    assert row_of(found, "photo").pictures == found.photographs
    shown = [read_rgb(comparing.folder_of("blobs", workspace) / row.pictures[0]) for row in found.rows[:3]]
    assert [int(picture[0, 0, 0]) for picture in shown] == pytest.approx([10, 90, 200], abs=3)


def test_extractors_that_put_two_rows_the_other_way_round_are_named(workspace, opened):
    rows = TrivialRows(opened, load_generator(workspace.run_folders("blobs")[0]).recipe)
    one, two = (comparing._Row(name, kind, "", rows["photo"].make, {}) for name, kind in (("one", "run"), ("two", "folder")))
    nearer, further, unsure = (-9.0, -12.0, -6.0), (9.0, 6.0, 12.0), (9.0, -6.0, 24.0)
    led = {"one": {"two": nearer}, "two": {"one": further}}
    for found, said in ((further, 1), (unsure, 0), (nearer, 0)):
        turned = {"one": {"two": found}, "two": {"one": (-found[0], -found[2], -found[1])}}
        notes = comparing._contradicted([one, two], {"tiny": led, "other": turned})
        assert len(notes) == said
        assert all("one is nearer to the style than two by tiny, and further by other" in note for note in notes)


def test_a_photograph_without_a_picture_is_counted_and_named(workspace, opened):
    folder = painted(workspace, workspace.root / "painted", lambda crop: crop)
    (folder / "e1.png").unlink()
    (folder / "e4.png").unlink()
    with pytest.raises(DataError, match=r"no usable picture of 2 of the 6 photographs: no picture of e1, e4\."):
        compare([folder], workspace=workspace, style="blobs")


def test_held_out_photographs_that_a_run_was_trained_with_are_refused(workspace, opened):
    manifest = workspace.photos / "manifest.jsonl"
    lines = read_manifest(manifest)
    known = next(line for line in lines if line.split == "eval")
    write_manifest(manifest, [*lines, known.model_copy(update={"split": "train", "person": "q0"})])
    with pytest.raises(DataError, match=r"1 of the held-out photographs, first cropped/e0\.png, served to train"):
        compare([workspace.run_folders("blobs")[0]], workspace=workspace)


def test_runs_of_two_styles_need_a_style_named(workspace):
    recipe = load_generator(workspace.run_folders("blobs")[0]).recipe
    assert comparing._style_of([recipe, recipe], workspace) == "blobs"
    with pytest.raises(UsageError, match="several styles: blobs, dots"):
        comparing._style_of([recipe, recipe.model_copy(update={"style": "dots"})], workspace)
    with pytest.raises(UsageError, match="no trained run of the style nothing to compare"):
        compare(workspace=workspace, style="nothing")


def test_the_tables_have_every_row_and_published_ones_only_when_asked(workspace, opened, monkeypatch):
    shares = {"pref_a": Share(share=0.75, low=0.5, high=0.9, votes=12, raters=3, photographs=4)}
    digest = load_generator(workspace.run_folders("blobs")[0]).sha256
    monkeypatch.setattr(comparing, "find_preferences", lambda *_: {digest: shares})
    run = workspace.run_folders("blobs")[0]
    found = compare([run], workspace=workspace, paper=True)
    assert found.rows[0].preferences == {"pref_a": Preference(share=0.75, low=0.5, high=0.9, votes=12)}
    for table in (text(found), markdown(found)):
        for row in found.rows:
            assert row.name in table
        assert "75% [50% 90%] of 12" in table
        assert "DCT-Net" in table
        assert "another protocol" in table
    plain = compare([run], workspace=workspace)
    assert plain.published == []
    assert "DCT-Net" not in text(plain)
    columns = [line for line in markdown(plain).splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in columns}) == 1
    assert (workspace.runs / "comparisons" / "blobs" / comparing.MARKDOWN).read_text() == markdown(plain)
    assert "<html" in (workspace.runs / "comparisons" / "blobs" / comparing.PAGE).read_text()
    assert "<svg" in (workspace.runs / "comparisons" / "blobs" / comparing.PARETO).read_text()


def test_an_entry_that_comes_twice_stands_in_the_table_once_and_a_note_says_so(workspace, opened):
    run = workspace.run_folders("blobs")[0]
    found = compare([run, run / "checkpoints" / "step-000012"], workspace=workspace)
    assert [row.kind for row in found.rows].count("run") == 1
    assert found.notes[0] == f"{run / 'checkpoints' / 'step-000012'} is the same as {run} and stands in the table once."
    assert not any("stands in the table once" in note for note in compare([run], workspace=workspace).notes)


def test_rows_whose_names_give_one_file_name_keep_pictures_of_their_own(workspace, opened, monkeypatch):
    monkeypatch.chdir(workspace.root)
    for name, value in (("my out", 10), ("my-out", 200)):
        painted(workspace, workspace.root / name, lambda crop, value=value: np.full_like(crop, value))
    found = compare(["my out", "my-out"], workspace=workspace, style="blobs")
    shown = [read_rgb(comparing.folder_of("blobs", workspace) / row.pictures[0]) for row in found.rows[:2]]
    assert [int(picture[0, 0, 0]) for picture in shown] == pytest.approx([10, 200], abs=3)


def test_photographs_that_cannot_be_read_are_listed_and_the_rest_written(workspace, monkeypatch, capsys):
    (workspace.photos / "cropped/e2.png").write_bytes(b"not a picture")
    monkeypatch.chdir(workspace.root)
    assert run_command(["compare", "--write-photos", "out", "--json"]) == 3
    found = json.loads(capsys.readouterr().out)
    assert found["photographs"] == [f"out/e{i}.png" for i in (0, 1, 3, 4, 5)]
    assert all(read_rgb(workspace.root / file).shape == (64, 64, 3) for file in found["photographs"])
    assert [each["file"] for each in found["skipped"]] == ["cropped/e2.png"]
    assert run_command(["compare", "--write-photos", "out"]) == 3
    assert "left out: cropped/e2.png: " in capsys.readouterr().out


def train_with_the_present_split(workspace, run):
    """Let the run's checkpoint say that it was trained with the photographs that are not held out now."""
    path = run / "checkpoints" / "step-000012" / META
    meta = Meta.model_validate_json(path.read_text())
    data = training_pictures(meta.recipe, workspace).fingerprints()
    path.write_text(meta.model_copy(update={"data": data}).model_dump_json())


def test_a_run_that_was_trained_under_another_split_deviates(workspace, opened):
    run = workspace.run_folders("blobs")[0]
    train_with_the_present_split(workspace, run)
    assert not any(each.startswith("split") for each in compare([run], workspace=workspace).protocol.deviations)
    manifest = workspace.photos / "manifest.jsonl"
    lines = read_manifest(manifest)
    again = [line.model_copy(update={"split": "eval"}) if line.file == "cropped/t0.png" else line for line in lines]
    write_manifest(manifest, again)
    found = compare([run], workspace=workspace)
    name = found.rows[0].name
    said = [each for each in found.protocol.deviations if each.startswith("split")]
    assert said == [
        f"split: the photographs are split otherwise than when {name} was trained; it may have seen who is held out (train anew)"
    ]
    assert said[0] in text(found)
    metas = {"the run": read_meta(chosen_checkpoint(run))}
    assert len(split_deviations(metas, opened.photos.source, workspace)) == 1
    other = replace(opened.photos.source, lines=tuple(line.model_copy(update={"input_sha256": "0"}) for line in again))
    assert split_deviations(metas, other, workspace) == []
    manifest.unlink()
    assert split_deviations(metas, opened.photos.source, workspace) == []
