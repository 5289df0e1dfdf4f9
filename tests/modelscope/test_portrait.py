"""`stylekit stylize --engine modelscope`: what upstream's pipeline draws, and what never gets to it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
from tensorboard.compat.proto import graph_pb2, types_pb2

from stylekit.assets import Resolved
from stylekit.cli import run
from stylekit.errors import CheckpointError, ExportError, MissingPartError, StylekitError, UsageError
from stylekit.images import read_rgb, write_image
from stylekit.modelscope import portrait
from stylekit.modelscope.runtime.child import Job
from stylekit.modelscope.runtime.process import Child
from stylekit.paths import Workspace
from tests.modelscope.folders import detector_graph
from tests.modelscope.graph.networks import run_python

ROOT = Path(__file__).parents[2]
FILES = ("cartoon_bg.pb", "alpha.jpg", "configuration.json", "detector.pb", "keypoints.pb")


@pytest.fixture
def never_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a child was started")

    monkeypatch.setattr(portrait, "Child", refuse)
    monkeypatch.setattr(portrait, "require_packages", lambda purpose: None)


@pytest.fixture
def folder(model: Path, tmp_path: Path) -> Path:
    copied = tmp_path / "model"
    shutil.copytree(model, copied, ignore=shutil.ignore_patterns("vgg19.npy"))
    return copied


@pytest.mark.usefixtures("never_started")
@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named_before_anything_starts(folder: Path, photo: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ExportError) as caught:
        portrait.stylize([photo], style=folder, output=folder.parent / "out")
    assert caught.value.message == f"{folder} has no {name}."
    assert ("--faces" in caught.value.hint) == (name in ("detector.pb", "keypoints.pb"))


@pytest.mark.usefixtures("never_started")
@pytest.mark.parametrize("name", ["cartoon_h.pb", "cartoon_bg.pb", "detector.pb", "keypoints.pb"])
@pytest.mark.parametrize("content", [b"", b"\xff" * 100, "cut"])
def test_a_damaged_graph_is_named_before_anything_starts(folder: Path, photo: Path, name: str, content: bytes | str) -> None:
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else file.read_bytes()[:-40])
    with pytest.raises(CheckpointError, match=name):
        portrait.stylize([photo], style=folder, output=folder.parent / "out")


@pytest.mark.usefixtures("never_started")
def test_another_graph_is_no_head(folder: Path, photo: Path) -> None:
    shutil.copy(folder / "detector.pb", folder / "cartoon_h.pb")
    with pytest.raises(CheckpointError, match=r"cartoon_h\.pb"):
        portrait.stylize([photo], style=folder, output=folder.parent / "out")


@pytest.mark.usefixtures("never_started")
@pytest.mark.parametrize("text", ["", "[]", '{"task": "image-portrait-stylization"}', '{"task": "x", "pipeline": {"type": "y"}}'])
def test_a_configuration_of_something_else_is_refused(folder: Path, photo: Path, text: str) -> None:
    (folder / "configuration.json").write_text(text)
    with pytest.raises(ExportError, match=r"configuration\.json is not that of a image-portrait-stylization model"):
        portrait.stylize([photo], style=folder, output=folder.parent / "out")


@pytest.mark.usefixtures("never_started")
@pytest.mark.parametrize("name", ["cartoon_h.pb", "cartoon_bg.pb", "detector.pb", "keypoints.pb"])
def test_a_graph_that_writes_files_never_gets_to_tensorflow(folder: Path, photo: Path, name: str) -> None:
    with_write_file(folder / name)
    with pytest.raises(CheckpointError, match=rf"{name}"):
        portrait.stylize([photo], style=folder, output=folder.parent / "out")


def with_write_file(file: Path) -> None:
    """Have a graph write `executed` beside itself before it gives its last node."""
    graph = graph_pb2.GraphDef.FromString(file.read_bytes())
    for name, text in (("path", str(file.with_name("executed"))), ("text", "by a graph")):
        node = graph.node.add(name=name, op="Const")
        node.attr["dtype"].type = node.attr["value"].tensor.dtype = types_pb2.DT_STRING
        node.attr["value"].tensor.tensor_shape.SetInParent()
        node.attr["value"].tensor.string_val.append(text.encode())
    last = graph.node[-3]
    last.input.append("^evil")
    graph.node.add(name="evil", op="WriteFile", input=["path", "text"])
    file.write_bytes(graph.SerializeToString())


@pytest.mark.modelscope
@pytest.mark.slow
def test_such_a_graph_does_write_files(folder: Path) -> None:
    with_write_file(folder / "cartoon_h.pb")
    assert (run_in_tensorflow(folder / "cartoon_h.pb"), (folder / "executed").read_text()) == ("(8, 8, 3)", "by a graph")


def run_in_tensorflow(file: Path) -> str:
    program = """
        import sys, numpy, tensorflow.compat.v1 as tf
        graph = tf.GraphDef.FromString(open(sys.argv[1], "rb").read())
        with tf.Graph().as_default(), tf.Session() as session:
            tf.import_graph_def(graph, name="")
            print(session.run("output_image:0", {"input_image:0": numpy.zeros((8, 8, 3))}).shape)
    """
    return run_python(dedent(program), file, folder=file.parent).strip()


def test_upstream_is_given_a_folder_of_its_own(
    folder: Path, tmp_path: Path, without_upstream: list[int], monkeypatch: Any
) -> None:
    """Its networks are written from the tensors, its configuration says what upstream looks for, and nothing else is in it."""
    for name in ("ms_wrapper.py", "executed.py"):
        (folder / name).write_text("raise SystemExit")
    said = json.loads((folder / "configuration.json").read_text())
    (folder / "configuration.json").write_text(json.dumps(said | {"plugins": ["evil"], "allow_remote": True}))
    graph = graph_pb2.GraphDef.FromString((folder / "cartoon_h.pb").read_bytes())
    graph.node.add(name="unread", op="WriteFile")
    (folder / "cartoon_h.pb").write_bytes(graph.SerializeToString())
    seen: dict[str, bytes] = {}
    start = portrait.Child

    def look(task: str, job: Job, purpose: str, **options: Any) -> Child:
        seen.update({file.name: file.read_bytes() for file in Path(job["folder"]).iterdir()})
        return start(task, job, purpose, **options)

    monkeypatch.setattr(portrait, "Child", look)
    write_image(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8))
    assert portrait.stylize([tmp_path / "a.png"], style=folder, output=tmp_path / "out").done
    assert without_upstream == [1]
    assert seen.keys() == {"cartoon_h.pb", *FILES}
    assert json.loads(seen["configuration.json"]).keys() == {"framework", "task", "pipeline"}
    assert b"WriteFile" not in seen["cartoon_h.pb"]
    for name in ("cartoon_bg.pb", "detector.pb", "keypoints.pb", "alpha.jpg"):
        assert seen[name] == (folder / name).read_bytes()


def test_missing_packages_are_named_before_anything_starts(folder: Path, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stylekit.modelscope.runtime import process

    monkeypatch.setattr(process, "find_spec", lambda name: None)
    with pytest.raises(MissingPartError, match=r"Upstream's portrait pipeline needs the packages? modelscope"):
        portrait.stylize([photo], style=folder, output=folder.parent / "out")


def found(style: str | Path | None, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that a style leads to."""
    seen: list[Path] = []

    def stop(folder: Path) -> None:
        seen.append(folder)
        raise StylekitError("found")

    monkeypatch.setattr(portrait, "_check", stop)
    with pytest.raises(StylekitError, match="found"):
        portrait.stylize([Path("me.png")], style=style, workspace=workspace)
    return seen[0]


def test_a_style_leads_to_its_folder(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = Workspace(tmp_path / "project")
    assert found(folder, workspace, monkeypatch) == folder
    for _ in range(3):
        newest = workspace.new_run_folder("ink", "dctnet")
    older = workspace.run_folders("ink")[1]
    shutil.copytree(folder, older / "modelscope")
    workspace.set_current_style("ink")
    for style in (None, "ink", older):
        assert found(style, workspace, monkeypatch) == older / "modelscope"
    shutil.copytree(folder, newest / "modelscope")
    assert found("ink", workspace, monkeypatch) == newest / "modelscope"


@pytest.mark.parametrize("name", ["modelscope:3d", "damo/cv_unet_person-image-cartoon-3d_compound-models"])
def test_a_published_style_is_fetched_by_name(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def resolve(style: str) -> Resolved:
        asked.append(style)
        return Resolved("modelscope-3d", "modelscope-style", folder, "ms:x", "0", "Apache-2.0", "")

    monkeypatch.setattr(portrait, "modelscope_style", resolve)
    assert found(name, Workspace(folder.parent), monkeypatch) == folder
    assert asked == [name]


@pytest.mark.parametrize(
    ("style", "error"),
    [
        (None, r"No style is named\. Name a model folder, or modelscope:3d"),
        ("ink", r"The style ink has not been written for ModelScope\. Run: stylekit export --format modelscope --style ink"),
        (".", r"has no cartoon_h\.pb"),
    ],
)
def test_no_folder_is_an_error_with_the_next_step(style: str | None, error: str, tmp_path: Path) -> None:
    with pytest.raises(StylekitError, match=error):
        portrait.stylize([Path("me.png")], style=style, workspace=Workspace(tmp_path))


@pytest.mark.parametrize("option", [("--mode", "face"), ("--size", "300"), ("--strength", "0.5")])
def test_what_upstream_has_no_choice_of_is_refused(option: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["stylize", "--engine", "modelscope", "me.png", *option]) == 2
    assert "Leave out --mode, --size, --strength and --fast." in capsys.readouterr().err


@pytest.fixture
def without_upstream(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have the stand-in draw, where upstream is not installed too; counts the children."""
    started: list[int] = []

    def start(task: str, job: Job, purpose: str, **options: Any) -> Child:
        started.append(len(job["pictures"]))
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        return Child("tests.modelscope.stand_in:draw", job, purpose, environment={"PYTHONPATH": path})

    monkeypatch.setattr(portrait, "Child", start)
    monkeypatch.setattr(portrait, "require_packages", lambda purpose: None)
    return started


def test_one_bad_picture_never_stops_the_rest(folder: Path, tmp_path: Path, without_upstream: list[int]) -> None:
    names = ["a", "refused", "killer", "faceless", "killer2", "b"]
    pictures = [tmp_path / f"{name}.png" for name in names]
    for index, picture in enumerate(pictures):
        write_image(picture, np.full((4, 5, 3), 40 * index, np.uint8))
    report = portrait.stylize(pictures, style=folder, output=tmp_path / "out")
    assert [file.input.stem for file in report.done] == ["a", "faceless", "b"]
    assert [path.stem for path in report.faceless] == ["faceless"]
    assert {path.stem for path in report.failed} == {"refused", "killer", "killer2"}
    assert report.exit_code == 3
    assert "killer.png: Upstream's portrait pipeline was ended by signal SIGKILL." in report.failed[pictures[2]]
    assert without_upstream == [6, 3, 1]
    for file in report.done:
        assert np.array_equal(read_rgb(file.outputs[0]), read_rgb(file.input))


def test_a_pipeline_that_does_not_start_is_one_error(
    folder: Path, photo: Path, monkeypatch: pytest.MonkeyPatch, without_upstream: list[int]
) -> None:
    del without_upstream
    monkeypatch.setattr(portrait, "Child", lambda task, job, purpose, **_: Child("no.module:draw", job, purpose))
    with pytest.raises(MissingPartError, match="needs the package no"):
        portrait.stylize([photo, photo.with_name("other.png")], style=folder, output=folder.parent / "out")


def test_an_input_is_never_replaced(folder: Path, tmp_path: Path) -> None:
    picture = tmp_path / "me.png"
    write_image(picture, np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(UsageError, match="would be replaced"):
        portrait.stylize([picture], style=folder, output=tmp_path)


@pytest.mark.modelscope
@pytest.mark.slow
def test_pictures_are_what_upstreams_users_save(folder: Path, photo: Path, tmp_path: Path) -> None:
    """The same picture through a script of a user's, and through the command, beside a bad one and one without faces."""
    from tests.modelscope.test_script import stylekit, write

    text = """
        import sys, cv2
        from modelscope.outputs import OutputKeys
        from modelscope.pipelines import pipeline
        portrait = pipeline('image-portrait-stylization', model=sys.argv[1])
        cv2.imwrite('theirs.png', portrait(sys.argv[2])[OutputKeys.OUTPUT_IMG])
    """
    stylekit("modelscope", "run", write(tmp_path, text), str(folder), str(photo), cwd=tmp_path)
    shutil.copy(photo, tmp_path / "me.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    write_image(tmp_path / "thin.png", np.full((1, 3, 3), 200, np.uint8))
    report = portrait.stylize(
        [tmp_path / name for name in ("me.png", "bad.png", "thin.png")], style=folder, output=tmp_path / "out"
    )
    assert [len(report.done), *(path.name for path in report.failed)] == [2, "bad.png"]
    assert np.array_equal(read_rgb(tmp_path / "out" / "me.png"), read_rgb(tmp_path / "theirs.png"))
    assert [(file.faces, read_rgb(file.outputs[0]).shape) for file in report.done] == [(1, (300, 400, 3)), (0, (1, 3, 3))]


@pytest.mark.modelscope
@pytest.mark.slow
def test_without_faces_the_background_comes_back_at_the_pictures_size(folder: Path, tmp_path: Path) -> None:
    (folder / "detector.pb").write_bytes(detector_graph([]))
    large = np.random.default_rng(0).integers(0, 256, (90, 100, 3), np.uint8).repeat(10, 0).repeat(10, 1)
    write_image(tmp_path / "hall.png", large)
    report = portrait.stylize([tmp_path / "hall.png"], style=folder, output=tmp_path / "out.png")
    assert report.faceless == (tmp_path / "hall.png",)
    drawn = read_rgb(tmp_path / "out.png")
    assert drawn.shape == large.shape
    shift = drawn.astype(int).mean((0, 1)) - large.mean((0, 1))
    assert shift[0] > 10
    assert shift[1] < -10


@pytest.mark.modelscope
@pytest.mark.slow
def test_a_gpu_that_tensorflow_does_not_see_is_refused(
    folder: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UsageError, match="TensorFlow sees no GPU here, and --device cuda asks for one"):
        portrait.stylize([photo], style=folder, output=tmp_path / "out", device="cuda")


@pytest.mark.modelscope
@pytest.mark.slow
def test_a_style_of_ours_goes_through_upstreams_pipeline(folder: Path, photo: Path, tmp_path: Path) -> None:
    """Trained here, exported with upstream's face graphs, drawn by upstream."""
    from stylekit.exporters import export
    from tests.trained import make_run

    workspace = Workspace(tmp_path / "project")
    make_run(workspace)
    export("pop-art", formats=("modelscope",), faces=folder, workspace=workspace)
    report = portrait.stylize([photo], style="pop-art", output=tmp_path / "out", workspace=workspace)
    assert [file.faces for file in report.done] == [1]
    assert np.abs(read_rgb(tmp_path / "out" / "me.png").astype(int) - read_rgb(photo)).mean() < 20
