"""Studies: which entries, which photographs, begun once and gone on with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stylekit.config.schema import Recipe
from stylekit.data.manifest import ManifestLine, write_manifest
from stylekit.errors import DataError, StylekitError, TooFewError, UsageError
from stylekit.images import read_rgb, write_image
from stylekit.metrics.measure import crop_digest
from stylekit.metrics.protocol import read_photographs
from stylekit.paths import Workspace, sha256_file
from stylekit.preference.study import PICTURES, STUDY, find_study, list_studies, open_study, plan_of, read_study, studies_folder
from tests.preference.conftest import picture
from tests.trained import make_run


def colour(study: Path, key: str) -> tuple[int, ...]:
    return tuple(read_rgb(study / PICTURES / f"{key}.png")[5, 5].tolist())


def test_every_entry_has_its_own_picture_of_every_photograph(workspace: Workspace) -> None:
    folder = open_study(["flat", "dull"])
    study = read_study(folder)
    assert len(study.photographs) == 6
    for shown in study.photographs:
        red = 20 * int(Path(shown.file).stem)
        assert colour(folder, shown.picture) == (red, 0, 0)
        assert [colour(folder, key) for key in shown.pictures] == [(red, 0, 100), (red, 0, 102)]
    assert {colour(folder, key)[0] for key in (*study.references, *study.cartoons)} == {0}
    assert (len(study.references), len(study.cartoons)) == (6, 6)
    assert not {*study.references} & {*study.cartoons}
    names = " ".join(path.name for path in (folder / PICTURES).iterdir())
    assert not any(name in names for name in ("flat", "dull", "photo", "cartoon"))
    assert {path.stem for path in (folder / PICTURES).iterdir()} == study.picture_ids()


def test_the_same_entries_go_on_and_other_settings_begin_anew(workspace: Workspace) -> None:
    first = open_study(["flat", "loud"], pairs=3, seed=5)
    assert open_study(["loud", "flat"]) == first
    assert open_study(["flat", "loud"], pairs=3) == first
    assert open_study(["flat", "loud"], pairs=4) != first
    assert open_study(["flat", "dull"]) != first
    write_image(Path("loud/0.png"), picture(1, 2, 3))
    assert open_study(["flat", "loud"], pairs=3) != first
    assert len(list_studies(workspace)) == 4


def test_the_photographs_are_those_that_an_evaluation_holds_out(workspace: Workspace) -> None:
    parts = ["test"] * 5 + ["eval", "train", "train"]
    persons = ["p1", "p1", "p2", "p3", "p6", "p5", "p6", "p7"]
    lines = [
        photograph(i, asset="celeba", partition=part, person=person, split="train", template="dctnet")
        for i, (part, person) in enumerate(zip(parts, persons, strict=True))
    ]
    write_manifest(workspace.photos / "manifest.jsonl", lines)
    study = read_study(open_study(["flat", "loud"]))
    _, held_out = read_photographs(workspace.photos)
    assert study.protocol == "celeba-v1"
    assert (
        {shown.file for shown in study.photographs}
        == {line.file for line in held_out.lines}
        == {f"cropped/{i}.png" for i in range(4)}
    )
    assert study.notes[0] == "1 held-out photograph is left out: their persons are also among those trained on."
    assert study.photographs_manifest_sha256 == held_out.manifest_sha256
    for shown in study.photographs:
        assert shown.sha256 == crop_digest(read_rgb(workspace.photos / shown.file))


def test_a_person_on_both_sides_is_refused(workspace: Workspace) -> None:
    hold_out(workspace, person="p1")
    with pytest.raises(DataError, match="p1 both among the held-out photographs and those trained on"):
        open_study(["flat", "loud"])
    assert list_studies(workspace) == []


def test_a_study_is_found_and_never_made(workspace: Workspace) -> None:
    assert find_study(["flat", "loud"]) is None
    assert list_studies(workspace) == []
    made = open_study(["flat", "loud"], pairs=3)
    assert find_study(["loud", "flat"]) == find_study(["flat", "loud"], pairs=3) == made
    assert find_study(["flat", "loud"], pairs=4) is None


def test_a_killed_beginning_leaves_no_study(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("stylekit.preference.study._cartoons", kill)
    with pytest.raises(KeyboardInterrupt):
        open_study(["flat", "loud"])
    assert list(studies_folder(workspace).rglob(STUDY)) == []


def test_a_raters_trials_are_drawn_once(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = open_study(["flat", "loud"])
    plan = plan_of(folder, read_study(folder), "ann")
    monkeypatch.setattr("stylekit.preference.study.make_plan", lambda *_: pytest.fail("drawn again"))
    assert plan_of(folder, read_study(folder), "ann") == plan_of(folder, read_study(folder), "Ann") == plan


def test_what_one_folder_lacks_is_left_out_and_listed(workspace: Workspace) -> None:
    Path("loud/2.png").unlink()
    write_image(Path("loud/3.png"), np.zeros((16, 30, 3), np.uint8))
    Path("flat/4.png").write_bytes(b"torn")
    study = read_study(open_study(["flat", "loud"]))
    assert {shown.file for shown in study.photographs} == {"cropped/0.png", "cropped/1.png", "cropped/5.png"}
    reasons = {each.file: each.reason for each in study.skipped}
    assert set(reasons) == {"cropped/2.png", "cropped/3.png", "cropped/4.png"}
    assert "no pictures named 2" in reasons["cropped/2.png"]
    assert "not square" in reasons["cropped/3.png"]


def test_photos_limit_takes_as_many_as_can_be_had_drawn_by_the_seed(workspace: Workspace) -> None:
    first, second = (read_study(open_study(["flat", "dull"], photos_limit=2, seed=seed)) for seed in (0, 1))
    assert len(first.photographs) == len(second.photographs) == 2
    assert {shown.file for shown in first.photographs} != {shown.file for shown in second.photographs}
    for index in range(3):
        Path(f"loud/{index}.png").unlink()
    assert len(read_study(open_study(["flat", "loud"], photos_limit=3)).photographs) == 3


@pytest.mark.parametrize(
    ("entries", "kind", "said"),
    [
        (["flat"], UsageError, "two methods"),
        (["flat", "flat"], UsageError, "are the same"),
        (["flat", "nothing/here"], UsageError, "nothing/here is not a run"),
        (["flat", "nostyle"], StylekitError, "There is no style 'nostyle'"),
        (["flat", "empty"], DataError, "holds no pictures"),
        (["flat", "strange"], TooFewError, "Of 6 held-out photographs 0 have a picture of every entry"),
    ],
)
def test_entries_that_cannot_be_compared(workspace: Workspace, entries: list[str], kind: type[StylekitError], said: str) -> None:
    Path("empty").mkdir()
    write_image(Path("strange/a.png"), picture(0, 0, 0))
    with pytest.raises(kind, match=said):
        open_study(entries)
    assert list_studies(workspace) == []


def test_without_cartoons_it_is_said_that_there_are_no_references(workspace: Workspace) -> None:
    (workspace.style("pop-art") / "manifest.jsonl").unlink()
    study = read_study(open_study(["flat", "loud"]))
    assert (study.references, study.style) == ((), None)
    assert "no references and no controls" in study.notes[0]


def test_a_damaged_study_is_named(workspace: Workspace) -> None:
    folder = open_study(["flat", "loud"])
    (folder / STUDY).write_text("{}")
    with pytest.raises(DataError, match=r"study\.json: name"):
        read_study(folder)


def test_a_run_of_another_alignment_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    workspace = Workspace()
    write_image(Path("other/1.png"), picture(0, 0, 0))
    run = make_run(
        workspace,
        made_by=Recipe.model_validate(
            {"style": "pop-art", "align": {"template": "ffhq"}, "train": {"size": 64, "network": {"width": 8, "blocks": 1}}}
        ),
    )
    hold_out(workspace, template="dctnet")
    with pytest.raises(UsageError, match="takes faces aligned as ffhq"):
        open_study([run, "other"])
    assert list_studies(workspace) == []


def test_a_run_draws_at_its_own_size_and_keeps_the_digest_of_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    workspace = Workspace()
    run = make_run(workspace)
    hold_out(workspace)
    for index in range(6):
        write_image(workspace.photos / f"cropped/{index}.png", np.full((100, 100, 3), 50 * index, np.uint8))
        write_image(Path(f"other/{index}.png"), picture(index, index, index))
    noise = np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8)
    write_image(workspace.photos / "cropped/3.png", noise)
    study = read_study(folder := open_study([run, "other"]))
    weights = run / "checkpoints/step-000007/weights.safetensors"
    assert [(entry.kind, entry.label) for entry in study.entries] == [("run", "00000-pop-art-dctnet@7"), ("folder", "other")]
    assert study.entries[0].digest == sha256_file(weights)
    assert {shown.file for shown in study.photographs} == {f"cropped/{index}.png" for index in (1, 3, 4, 5)}
    for shown in study.photographs:  # the network repeats the photograph
        drawn, photograph = (read_rgb(folder / PICTURES / f"{key}.png") for key in (shown.pictures[0], shown.picture))
        assert drawn.shape == photograph.shape == (256, 256, 3)
        if shown.file == "cropped/3.png":  # of which 64 px leave little
            assert drawn.std() < 0.8 * photograph.std()
        else:
            assert np.abs(drawn.astype(int) - photograph).mean() < 8


def hold_out(workspace: Workspace, **changes: object) -> None:
    """Describe six photographs, of which 1, 3, 4 and 5, of two persons, are held out."""
    persons = ["p0", "p1", "p0", "p1", "p2", "p2"]
    lines = [
        photograph(i, **{"person": who, "split": "train" if who == "p0" else "eval", **changes}) for i, who in enumerate(persons)
    ]
    write_manifest(workspace.photos / "manifest.jsonl", lines)


def photograph(number: int, **changes: object) -> ManifestLine:
    line = {"file": f"cropped/{number}.png", "input": f"{number}.jpg", "input_sha256": None, "status": "used"}
    return ManifestLine.model_validate(line | changes)
