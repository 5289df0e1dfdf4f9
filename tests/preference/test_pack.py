"""Packs for raters elsewhere, and their answers read back."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from stylekit.cli import run
from stylekit.errors import DataError, UsageError
from stylekit.images import read_rgb
from stylekit.paths import Workspace
from stylekit.preference.pack import ANSWERS, export_pack, import_votes
from stylekit.preference.records import Study
from stylekit.preference.result import read_result
from stylekit.preference.server import Ballot, PreferenceServer
from stylekit.preference.study import list_studies, open_study, plan_of, read_study, studies_folder
from stylekit.preference.votes import VOTES, VoteLog

PACK = Path("pack")


@pytest.fixture
def study(workspace: Workspace) -> Path:
    return open_study(["flat", "loud"])


def rows() -> list[dict[str, str]]:
    return list(csv.DictReader((PACK / ANSWERS).open()))


def answer(study: Path, better: int = 1) -> list[dict[str, str]]:
    """Fill in the table as one who prefers an entry and reads controls."""
    found: Study = read_study(study)
    trials = {trial.id: trial for trial in plan_of(study, found, "pack 1").trials}
    filled = rows()
    for row in filled:
        trial = trials[row["trial"]]
        row["answer"] = trial.expected or ("left" if found.entry_of(trial.left) == better else "right")
    return filled


def write(filled: list[dict[str, str]], path: Path = PACK / "filled.csv", delimiter: str = ",") -> Path:
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(filled[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(filled)
    return path


def test_a_pack_shows_what_the_plan_says_and_names_nothing(study: Path) -> None:
    report = export_pack(study, PACK)
    found = read_study(study)
    plan = plan_of(study, found, report.name)
    assert [row["trial"] for row in rows()] == [trial.id for trial in plan.trials]
    for row, trial in zip(rows(), plan.trials, strict=True):
        for side, key in (("left", trial.left), ("right", trial.right), ("photograph", trial.photograph)):
            assert bool(row[side]) == bool(key)
            if key:
                assert (read_rgb(PACK / row[side]) == read_rgb(study / "pictures" / f"{key}.png")).all()
    text = " ".join(str(path) for path in PACK.rglob("*")) + (PACK / ANSWERS).read_text() + (PACK / "README.md").read_text()
    hidden = ["flat", "loud", "control", "repeat", "expected", *found.picture_ids(), *(shown.file for shown in found.photographs)]
    assert [word for word in hidden if word in text] == []
    assert f"has {len(plan.trials)} rows" in text
    roles = [trial.role for trial in plan.trials]
    assert (roles.count("pair"), roles.count("repeat"), roles.count("control")) == (12, 8, 2)


def test_a_second_pack_is_drawn_anew_and_nothing_is_written_over(study: Path) -> None:
    first = export_pack(study, PACK)
    with pytest.raises(UsageError, match="already there"):
        export_pack(study, PACK)
    second = export_pack(study, Path("second"))
    assert (first.name, second.name) == ("pack 1", "pack 2")
    trials = [row["trial"] for row in csv.DictReader((Path("second") / ANSWERS).open())]
    assert not {row["trial"] for row in rows()} & set(trials)


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_answers_come_back_once(study: Path, delimiter: str) -> None:
    export_pack(study, PACK)
    file = write(answer(study), delimiter=delimiter)
    report = import_votes(file, "ann", "person")
    assert (report.new, report.known, report.empty, report.bad) == (22, 0, 0, ())
    lines = (study / VOTES).read_bytes()
    again = import_votes(file, "ann", "person")
    assert (again.new, again.known) == (0, 22)
    assert (study / VOTES).read_bytes() == lines
    shares = read_result(study).shares["pref_a"]
    assert [share.share if share else None for share in shares] == [0.0, 1.0]
    assert import_votes(file, "bob", "person").new == 22


def test_a_models_answers_as_json_lines_have_columns_of_their_own(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export_pack(study, PACK)
    file = PACK / "answers.jsonl"
    file.write_text("\n".join(json.dumps({"trial": row["trial"], "answer": row["answer"]}) for row in answer(study)))
    assert run(["prefer", "--import", str(file), "--rater", "some-model", "--rater-kind", "model"]) == 0
    said = capsys.readouterr().out
    assert "Pref." not in said
    assert "chosen by a model, better stylized" in said
    assert set(read_result(study).shares) == {"model_a", "model_b"}
    with pytest.raises(UsageError, match="known as a model"):
        import_votes(file, "some-model", "person")


def test_every_bad_line_is_listed_and_the_others_count(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export_pack(study, PACK)
    filled = answer(study)
    filled[0]["answer"] = "both"
    filled[1]["trial"] = "0" * 12
    filled[2]["trial"] = "../../x"
    filled[3]["answer"] = ""
    filled[4]["answer"] = "1"
    file = write(filled)
    assert run(["prefer", "--import", str(file), "--rater", "ann", "--rater-kind", "person", "--json"]) == 3
    said = json.loads(capsys.readouterr().out)
    assert (said["new"], said["empty"]) == (18, 1)
    assert [bad["line"] for bad in said["bad"]] == [2, 3, 4]
    assert "'both', but must be left or right" in said["bad"][0]["reason"]
    assert "no trial 000000000000" in said["bad"][1]["reason"]
    assert len(VoteLog(study).choices_of("ann")) == 18
    filled[4]["answer"] = "2"
    changed = import_votes(write(filled), "ann", "person")
    assert [bad.line for bad in changed.bad] == [2, 3, 4, 6]
    assert "already chosen left" in changed.bad[3].reason


NO_ANSWERS = [
    ("gone.csv", None, "Cannot read"),
    ("a.csv", b"", "no columns trial and answer"),
    ("a.csv", b"trial,answer\n", "No line of"),
    ("a.csv", b"\xff\xfe\x00", "not text in UTF-8"),
    ("a.jsonl", b"{\n[]\n" + b"[" * 100_000, "No line of"),
    ("a.jsonl", b'{"trial": "000000000000", "answer": "left"}', "No line of"),
]


def test_files_that_are_no_answers(study: Path) -> None:
    for name, data, said in NO_ANSWERS:
        if data is not None:
            Path(name).write_bytes(data)
        with pytest.raises(DataError, match=said):
            import_votes(Path(name), "ann", "person")
    assert not (study / VOTES).exists()


def test_the_command_exports_shows_results_and_asks_for_a_name(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["prefer", "flat", "loud", "--export-pack", str(PACK), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["trials"] == 22
    file = write(answer(study))
    assert run(["prefer", "--import", str(file)]) == 2
    assert "--rater NAME" in capsys.readouterr().err
    person = ["--rater-kind", "person"]
    assert run(["prefer", "--import", str(file), "--rater", "a/b", *person]) == 2
    assert run(["prefer", "--import", str(file), "--rater", "ann", *person]) == 0
    assert run(["prefer", "loud", "flat", "--result"]) == 0
    assert "Pref.A, better stylized" in capsys.readouterr().out
    assert json.loads((study / "preference.json").read_text())["shares"]["pref_b"][1]["share"] == 1.0
    assert run(["prefer"]) == 2


def test_imported_answers_count_as_nobodys_until_it_is_said_whose(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export_pack(study, PACK)
    file = write(answer(study))
    assert run(["prefer", "--import", str(file), "--rater", "gpt"]) == 2
    assert "Is gpt a person or a model?" in capsys.readouterr().err
    assert not (study / VOTES).exists()
    assert run(["prefer", "flat", "loud", "--no-browser", "--rater-kind", "model"]) == 2
    assert "speaks of imported answers" in capsys.readouterr().err


def test_a_result_without_a_study_is_refused_and_nothing_is_drawn(
    study: Path, workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["prefer", "flat", "dull", "--result"]) == 2
    assert "no study of these entries" in capsys.readouterr().err
    assert run(["prefer", "flat", "loud", "--pairs", "7", "--result"]) == 2
    assert [folder for folder, _ in list_studies(workspace)] == [studies_folder(workspace) / study.name]
    assert run(["prefer", "loud", "flat", "--result"]) == 0
    assert "No votes yet" in capsys.readouterr().out


def test_a_pack_is_named_unlike_any_rater_but_for_capitals(study: Path) -> None:
    plan_of(study, read_study(study), "PACK 1")
    assert export_pack(study, PACK).name == "pack 2"


def test_the_command_serves_until_ctrl_c_and_then_shows_the_result(
    study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(server: PreferenceServer, poll_interval: float) -> None:
        trial = server.greet("Ada B")["trials"][0]["id"]
        server.vote(Ballot(rater="Ada B", trial=trial, choice="left"))
        raise KeyboardInterrupt

    monkeypatch.setattr(PreferenceServer, "serve_forever", interrupt)
    assert run(["prefer", "flat", "loud", "--no-browser", "--rater", "Ada B"]) == 0
    shown = capsys.readouterr()
    assert "http://127.0.0.1:" in shown.err
    assert "?rater=Ada+B" in shown.err
    assert "Raters: 1 person" in shown.out
    assert run(["prefer", "flat", "loud", "--no-browser", "--rater", "a/b"]) == 2


def test_pictures_that_a_folder_lacks_are_named_and_the_rest_goes_on(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    (workspace.root / "loud" / "2.png").unlink()
    assert run(["prefer", "flat", "loud", "--export-pack", "pack"]) == 3
    said = capsys.readouterr().out
    assert "left out: cropped/2.png: " in said
    assert said.count("left out") == 1
