"""`stylekit modelscope run`: Python's own command line, and scripts as ModelScope's users write them."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest

from stylekit.assets import add, style_at_hand
from stylekit.cli import run as command_line
from stylekit.modelscope import script
from stylekit.modelscope.graph.frozen import read_frozen
from stylekit.modelscope.runtime import process
from stylekit.modelscope.runtime.checkpoints import read_checkpoint
from tests.modelscope.folders import data_folder, text_to_image_folder

UNASKED = "from stylekit.modelscope import script; script.require_packages = lambda purpose: None; "
CALL = "import sys; script.run_script(sys.argv[1:])"
STYLEKIT = "from stylekit.cli import main; main()"


def python(*arguments: str, cwd: Path, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=cwd, input=given, capture_output=True, text=True, check=False)


def under_layer(*arguments: str, cwd: Path, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run Python under the layer, whether or not upstream is installed."""
    return python("-c", UNASKED + CALL, *arguments, cwd=cwd, given=given)


def stylekit(*arguments: str, cwd: Path) -> str:
    """Run a command that is to succeed and return what it printed."""
    done = python("-c", STYLEKIT, *arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def write(folder: Path, text: str, name: str = "script.py") -> str:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(textwrap.dedent(text), "utf-8")
    return name


SEES = """
    import __main__, json, sys
    print(json.dumps([sys.argv, sys.path, __name__, __file__, __main__.__file__, sys.stdin.read(), sys.flags.safe_path]))
    print("an error", file=sys.stderr)
    sys.exit(7)
"""


def test_a_script_sees_what_python_would_show_it(tmp_path: Path) -> None:
    name = write(tmp_path, SEES, "deep/script.py")
    arguments = (name, "--json", "--help", "--", "--debug", "-m", "ü")
    plain, layered = (run(*arguments, cwd=tmp_path, given="typed") for run in (python, under_layer))
    assert layered.returncode == 7
    assert (layered.stdout, layered.stderr) == (plain.stdout, plain.stderr)
    assert json.loads(layered.stdout)[0] == list(arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ("script.py",),
        ("-m", "script", "one"),
        ("-c", "import sys; print(sys.argv, __name__); sys.exit('no')", "one"),
        ("-m", "nowhere"),
    ],
)
def test_failures_and_other_forms_are_pythons_own(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    write(tmp_path, "def f():\n    raise KeyError('what upstream says')\n\nf()")
    plain, layered = (run(*arguments, cwd=tmp_path) for run in (python, under_layer))
    assert plain.returncode == 1
    assert (layered.returncode, layered.stdout, layered.stderr) == (1, plain.stdout, plain.stderr)


def test_interrupting_is_pythons_own(tmp_path: Path) -> None:
    name = write(tmp_path, "import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(60)")
    for before in ((), ("-c", UNASKED + CALL)):
        running = subprocess.Popen(
            [sys.executable, *before, name], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert running.stdout is not None
        assert int(running.stdout.readline()) == running.pid
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=30)
        assert running.returncode == -signal.SIGINT
        assert errors.endswith("KeyboardInterrupt\n")


def test_what_a_script_starts_has_the_layer_too(tmp_path: Path) -> None:
    name = write(
        tmp_path,
        """
        import multiprocessing, subprocess, sys

        def finder(_=None):
            return [type(entry).__name__ for entry in sys.meta_path].count("_AroundImport")

        if __name__ == "__main__":
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                print(finder(), pool.map(finder, [0]))
            look = "import sys; print(type(sys.meta_path[0]).__name__)"
            print(subprocess.check_output([sys.executable, "-c", look], text=True).strip())
        """,
    )
    done = under_layer(name, cwd=tmp_path)
    assert done.stdout == "1 [1]\n_AroundImport\n", done.stderr


def test_a_hidden_sitecustomize_runs_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own").mkdir()
    write(tmp_path, "print('mine', __name__)", "own/sitecustomize.py")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "own"))
    done = under_layer("-c", "import sitecustomize; print('end')", cwd=tmp_path)
    assert done.stdout.splitlines() == ["mine sitecustomize", "mine sitecustomize", "end"]  # the command's, then the script's


def test_a_python_without_stylekit_does_not_complain(tmp_path: Path) -> None:
    environment = script.environment({"PYTHONPATH": str(tmp_path / "other")})
    (tmp_path / "other" / "stylekit").mkdir(parents=True)
    write(tmp_path, "", "other/stylekit/__init__.py")
    done = subprocess.run([sys.executable, "-c", "print('fine')"], env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("fine\n", "")


def test_options_after_the_script_are_the_scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[list[str]] = []
    monkeypatch.setattr(script, "run_script", given.append)
    theirs = ["train.py", "--json", "--debug", "--help", "--version", "--", "-x", "--lr=2"]
    assert command_line(["modelscope", "run", *theirs]) == 0
    assert command_line(["--debug", "modelscope", "run", *theirs]) == 0
    assert command_line(["modelscope", "run", "-m", "package.train", "--json"]) == 0
    assert given == [theirs, theirs, ["-m", "package.train", "--json"]]


@pytest.fixture
def never_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script.os, "execve", lambda *_: pytest.fail("this process was replaced"))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["nowhere.py", "--json"], "Error: There is no script nowhere.py.\nRun: stylekit modelscope run SCRIPT [ARGUMENT...]\n"),
        (["--json", "script.py"], "Error: There is no option --json before the script.\n"),
    ],
)
@pytest.mark.usefixtures("never_started")
def test_wrong_use_is_refused(arguments: list[str], error: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line(["modelscope", "run", *arguments]) == 2
    assert capsys.readouterr().err.startswith(error)


@pytest.mark.usefixtures("never_started")
def test_missing_packages_are_named_before_the_script_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(process, "find_spec", lambda name: None if name == "tensorflow" else pytest.__spec__)
    write(tmp_path, "open('ran', 'w')")
    assert command_line(["modelscope", "run", str(tmp_path / "script.py")]) == 1
    assert "needs the package tensorflow, which is not installed" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


MODEL_ID = "damo/cv_unet_person-image-cartoon-3d_compound-models"


def bring(model: Path) -> None:
    """Bring a model folder as who cannot reach the hub does, so that scripts find it by its id."""
    add("modelscope-style", model, "modelscope-3d")


TRAIN = """
    import os
    import sys
    import cv2
    from modelscope.exporters.cv import CartoonTranslationExporter
    from modelscope.msdatasets import MsDataset
    from modelscope.outputs import OutputKeys
    from modelscope.pipelines import pipeline
    from modelscope.trainers.cv import CartoonTranslationTrainer
    from modelscope.utils.constant import Tasks

    data_dir = MsDataset.load(
        'dctnet_train_clipart_mini_ms', namespace='menyifang', split='train').config_kwargs['split_config']['train']
    data_photo = os.path.join(data_dir, 'face_photo')
    data_cartoon = os.path.join(data_dir, 'face_cartoon')
    work_dir = 'exp_localtoon'
    trainer = CartoonTranslationTrainer(
        model=sys.argv[1], work_dir=work_dir, photo=data_photo, cartoon=data_cartoon, max_steps=1)
    trainer.train()

    ckpt_path = os.path.join(work_dir, 'saved_models', 'model-' + str(0))
    pb_path = os.path.join(trainer.model_dir, 'cartoon_h.pb')
    exporter = CartoonTranslationExporter()
    exporter.export_frozen_graph_def(ckpt_path=ckpt_path, frozen_graph_path=pb_path)

    pipeline_cartoon = pipeline(Tasks.image_portrait_stylization, model=trainer.model_dir)
    result = pipeline_cartoon(input=sys.argv[2])
    cv2.imwrite('result.png', result[OutputKeys.OUTPUT_IMG])
"""

BUILD = """
    import tensorflow as tf
    import tensorflow.contrib.slim as slim
    from modelscope.exporters import Exporter, build_exporter
    from modelscope.trainers.builder import build_trainer
    from modelscope.utils.test_utils import test_level

    print(tf.__version__, test_level(), tf.executing_eagerly())
    trainer = build_trainer('cartoon-translation', default_args=dict(
        model=MODEL, work_dir='exp', photo=PHOTOS, cartoon=CARTOONS, max_steps=0))
    trainer.train()
    print(type(trainer).__name__, len(trainer.face_photo_list), trainer.input_photo.shape)
    print(len(tf.trainable_variables()), len(slim.get_variables('generator')))
"""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve `tmp_path` on this machine: the address, and what was asked for."""
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            asked.append(self.path)

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


@pytest.mark.modelscope
@pytest.mark.slow
def test_the_model_cards_script_trains_exports_and_draws(tmp_path: Path, model: Path, photo: Path, empty_home: Path) -> None:
    bring(model)
    data = data_folder(tmp_path / "set")
    stylekit("assets", "add", "dataset", str(data), "--name", "ms:menyifang/dctnet_train_clipart_mini_ms", cwd=tmp_path)
    stylekit("modelscope", "run", write(tmp_path, TRAIN), MODEL_ID, str(photo), cwd=tmp_path)
    trained = read_checkpoint(tmp_path / "exp_localtoon" / "saved_models" / "model-0")
    assert len(trained) == 210
    (copy,) = (empty_home / "modelscope").iterdir()
    frozen = read_frozen(copy / "cartoon_h.pb")
    assert len(frozen) == 36
    assert style_at_hand(MODEL_ID) is not None, "the script has written into the folder that was brought"
    assert all(np.array_equal(value, trained[name]) for name, value in frozen.items())
    sheet = cv2.imread(str(next((tmp_path / "exp_localtoon" / "images").glob("*face_photo.jpg"))))
    assert sheet.shape == (4 * 64, 4 * 64, 3)
    assert cv2.imread(str(tmp_path / "result.png")).shape == (300, 400, 3)


@pytest.mark.modelscope
@pytest.mark.slow
def test_other_ways_to_import_and_build_work_and_no_hub_is_asked(
    tmp_path: Path, model: Path, served: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, asked = served
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", hub)
    monkeypatch.setenv("MODELSCOPE_DOMAIN", hub.removeprefix("http://"))
    data = data_folder(tmp_path / "set", count=17)
    named = {"MODEL": model, "PHOTOS": data / "face_photo", "CARTOONS": data / "face_cartoon"}
    text = "".join(f"{name} = {str(path)!r}\n" for name, path in named.items()) + textwrap.dedent(BUILD)
    lines = stylekit("modelscope", "run", write(tmp_path, text), cwd=tmp_path).splitlines()
    assert lines[0].endswith(" 2 False")
    assert lines[-2:] == ["CartoonTranslationTrainer 17 (16, 64, 64, 3)", "64 108"]  # 36 with two slots each
    assert asked == []


DRAW = """
    import sys
    import cv2
    import numpy as np
    from modelscope.outputs import OutputKeys
    from modelscope.pipelines import pipeline
    from modelscope.utils.constant import Tasks

    img_cartoon = pipeline(Tasks.image_portrait_stylization, model=sys.argv[1])
    path, address = sys.argv[2:]
    results = [img_cartoon(given)[OutputKeys.OUTPUT_IMG] for given in (path, address, cv2.imread(path))]
    cv2.imwrite('result.png', results[0])
    print([np.array_equal(results[0], other) for other in results], results[0].shape)
    img_cartoon('nowhere.png')
"""


@pytest.mark.modelscope
@pytest.mark.slow
def test_the_pipeline_takes_a_path_an_address_and_an_array(
    tmp_path: Path, model: Path, photo: Path, served: tuple[str, list[str]], empty_home: Path
) -> None:
    bring(model)
    name = write(tmp_path, DRAW)
    shutil.copy(photo, tmp_path / "me.png")
    address = f"{served[0]}/me.png"
    done = python("-c", STYLEKIT, "modelscope", "run", name, MODEL_ID, str(photo), address, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "[True, True, True] (300, 400, 3)", done.stderr[-3000:]
    assert done.returncode == 1
    assert f'Traceback (most recent call last):\n  File "{tmp_path / name}", line 14, in <module>' in done.stderr
    drawn, given = (cv2.imread(str(path)).astype(int) for path in (tmp_path / "result.png", photo))
    corner, face = ((drawn - given)[part].mean((0, 1)) for part in (np.s_[:20, :20], np.s_[190:210, 190:210]))
    assert (corner[2] > 10, corner[1] < -10) == (True, True)  # the background's network is redder and less green
    assert (face[0] > 10, face[2] < -10) == (True, True)  # the head's bluer and less red


IMAGINE = """
    import sys
    import cv2
    import torch
    from diffusers.schedulers import EulerAncestralDiscreteScheduler
    from modelscope.pipelines import pipeline
    from modelscope.utils.constant import Tasks

    pipe = pipeline(Tasks.text_to_image_synthesis, model=sys.argv[1], torch_dtype=getattr(torch, sys.argv[2]))
    pipe.pipeline.scheduler = EulerAncestralDiscreteScheduler.from_config(pipe.pipeline.scheduler.config)
    output = pipe({'text': 'archer style, a portrait painting of Johnny Depp', 'num_inference_steps': 2})
    cv2.imwrite('result.png', output['output_imgs'][0])

    from transformers.utils import is_torchvision_available
    print(pipe.pipeline.unet.dtype, is_torchvision_available(), 'torchvision' in sys.modules)
"""


@pytest.mark.modelscope
@pytest.mark.slow
@pytest.mark.parametrize(("asked", "given"), [("bfloat16", "torch.bfloat16"), ("float16", "torch.float32")])
def test_text_to_image_with_another_scheduler(tmp_path: Path, asked: str, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    model = text_to_image_folder(tmp_path / "cartoon_stable_diffusion_clipart")
    printed = stylekit("modelscope", "run", write(tmp_path, IMAGINE), str(model), asked, cwd=tmp_path)
    has_torchvision = importlib.util.find_spec("torchvision") is not None
    assert printed.split()[-3:] == [given, str(has_torchvision), str(has_torchvision)]
    assert cv2.imread(str(tmp_path / "result.png")).shape == (64, 64, 3)
