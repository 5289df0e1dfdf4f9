"""Upstream's own classes at work, for the parity tests: each function is a task of a child under the compatibility layer.

Arrays travel in safetensors files; pictures are B, G, R and channels last, as upstream has them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from stylekit.modelscope.runtime.child import Job, Link

GRAY_DRAWS = {"random_uniform": 0.014, "random_uniform_1": 0.487, "random_uniform_2": 0.199}
"""Upstream's draws of the gray weights by name, in the order blue, green, red, and the lower end of each one's range."""


def stylize(job: Job, link: Link) -> Job:
    """Run pictures through CartoonModel and through what CartoonTranslationExporter makes of the same weights."""
    import tensorflow as tf
    from modelscope.exporters.cv.cartoon_translation_exporter import CartoonTranslationExporter
    from modelscope.models.cv.cartoon import CartoonModel

    pictures, found = load_file(job["pictures"]), {}
    for name, weights in job["weights"].items():
        tf.reset_default_graph()
        photo = tf.placeholder(tf.float32, [1, None, None, 3])
        made = CartoonModel("")(photo)["output_cartoon"]
        with tf.Session() as session:
            _put(session, load_file(weights))
            for picture, levels in pictures.items():
                found[f"{name}/{picture}/float"] = session.run(made, {photo: levels[None].astype(np.float32) / 127.5 - 1})[0]
            saved = tf.train.Saver().save(session, f"{job['into']}/{name}")
        frozen = f"{job['into']}/{name}.pb"
        CartoonTranslationExporter().export_frozen_graph_def(ckpt_path=saved, frozen_graph_path=frozen)
        graph = tf.GraphDef.FromString(Path(frozen).read_bytes())
        with tf.Graph().as_default(), tf.Session() as session:
            tf.import_graph_def(graph, name="model")
            for picture, levels in pictures.items():
                fed = {"model/input_image:0": levels}
                found[f"{name}/{picture}/levels"] = session.run("model/output_image:0", fed)
    return _save(found, job["output"])


def train(job: Job, link: Link) -> Job:
    """Take steps with CartoonTranslationTrainer's own tensors, as its train() does, on batches and draws that are given.

    The job names a model folder, what to load first (or None, and the trainer starts as its configuration says), a file of
    batches, how many steps to take, and after which to save.
    """
    import tensorflow as tf
    from modelscope.trainers.cv.cartoon_translation_trainer import CartoonTranslationTrainer

    trainer = CartoonTranslationTrainer(job["model"], work_dir=job["work_dir"])
    session, graph = trainer._session, tf.get_default_graph()
    assert session.run([f"{name}/min:0" for name in GRAY_DRAWS]) == [np.float32(low) for low in GRAY_DRAWS.values()]
    if job["weights"]:
        _put(session, load_file(job["weights"]))
    variables = {variable.op.name: variable for variable in tf.global_variables()}
    updates = [op for op in graph.get_operations() if op.type == "ApplyAdam"]
    gradients = {op.inputs[0].op.name: op.inputs[9] for op in updates}
    terms, saved = _terms(trainer), None
    batches = load_file(job["batches"])

    found = {f"start/{name}": value for name, value in session.run(variables).items()}
    losses = []
    for step in range(job["steps"]):
        given = {name: batches[f"{name}/{step}"] for name in ("photo", "superpixel", "cartoon", "gray")}
        feed = {
            trainer.input_photo: given["photo"],
            trainer.input_superpixel: given["superpixel"],
            trainer.input_cartoon: given["cartoon"],
        }
        of_step: dict[str, float] = {}
        for phase, (net, optimizer) in enumerate((("gene", trainer.g_optim), ("disc", trainer.d_optim))):
            draws = {f"{name}:0": given["gray"][phase, i : i + 1] for i, name in enumerate(GRAY_DRAWS)}
            of_net = {name: gradient for name, gradient in gradients.items() if net in name}
            fetched = {"terms": terms[net], "gradients": of_net, "optimizer": optimizer}
            if net == "disc":
                fetched["summary"] = trainer.summary_op
            seen = session.run(fetched, feed | draws)
            of_step |= {name: float(value) for name, value in seen["terms"].items()}
            found |= {f"gradient/{step}/{name}": value for name, value in seen["gradients"].items()}
        losses.append(of_step)
        found |= {f"after/{step}/{name}": value for name, value in session.run(variables).items()}
        if step == job["save_after"]:
            saved = trainer.saver.save(session, f"{job['work_dir']}/saved_models/model", step, write_meta_graph=False)
    return _save(found, job["output"]) | {"losses": losses, "saved": saved}


def data(job: Job, link: Link) -> Job:
    """Read files one by one with upstream's loader, and paint superpixels with its function."""
    import tensorflow as tf
    from modelscope.models.cv.cartoon import simple_superpixel, tf_data_loader

    found = {}
    with tf.Session() as session:
        for file in job["files"]:
            following = tf_data_loader([file], 1).make_initializable_iterator()
            session.run(following.initializer)
            found[f"picture/{Path(file).name}"] = session.run(following.get_next())[0]
    found["superpixel"] = simple_superpixel(load_file(job["pictures"])["pictures"], seg_num=200)
    return _save(found, job["output"])


def _put(session: Any, weights: dict[str, np.ndarray]) -> None:
    import tensorflow as tf

    variables = {variable.op.name: variable for variable in tf.global_variables()}
    assert variables.keys() == weights.keys()
    fed = {variable.initializer.inputs[1]: weights[name] for name, variable in variables.items()}
    session.run([variable.initializer for variable in variables.values()], fed)


def _terms(trainer: Any) -> dict[str, dict[str, Any]]:
    """Find the parts of upstream's losses, which have no names of their own, by going back from the sums."""

    def parts(tensor: Any, kind: str) -> list[Any]:
        assert tensor.op.type == kind, tensor
        return list(tensor.op.inputs)

    style_and_content, tv = parts(trainer.g_loss, "AddV2")
    style, content = parts(style_and_content, "AddV2")
    style, content, tv = (parts(weighed, "Mul")[1] for weighed in (style, content, tv))
    (g_blur, g_gray), (d_blur, d_gray) = parts(style, "AddV2"), parts(trainer.d_loss, "AddV2")
    of_generator = {"g_loss": trainer.g_loss, "g_blur": g_blur, "g_gray": g_gray, "content": content, "tv": tv}
    return {"gene": of_generator, "disc": {"d_loss": trainer.d_loss, "d_blur": d_blur, "d_gray": d_gray}}


def _save(arrays: dict[str, np.ndarray], output: str) -> Job:
    save_file({name: np.asarray(value, order="C") for name, value in arrays.items()}, output)
    return {"output": output}
