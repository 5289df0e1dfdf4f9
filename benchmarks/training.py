"""Upstream's training step beside ours, in turns in one process tree, on the same batches.

    python -m benchmarks.training                       # both, 5 steps at batch 16, 256 px: about ten minutes on two cores
    python -m benchmarks.training --ours-only           # without TensorFlow
    python -m benchmarks.training --device cuda         # ours alone on a GPU: batches, precisions, memory, superpixels

Upstream is ModelScope's unmodified CartoonTranslationTrainer under the compatibility layer: its tensors are run as its `train()`
runs them, with its own superpixels in joblib. Ours is `dctnet` with preset `upstream` as the training loop runs it. Both start
from the same weights, with the same VGG-19 of drawn weights, and get the same pictures and the same gray weights; each paints its
own superpixels. Reading files is no part of upstream's time; of ours it is.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch import Tensor

from benchmarks.record import COUNTED, RESULTS, Record, is_settled, table
from benchmarks.upstream import Upstream
from stylekit.assets import Resolved
from stylekit.config.schema import LossRecipe, Recipe
from stylekit.engine.train import TrainingPictures
from stylekit.methods.base import Batch
from stylekit.modelscope.graph.weights import DISCRIMINATORS, Arrays, TrainingWeights, training_arrays, training_weights_from
from stylekit.nn import losses
from stylekit.nn.device import find_device
from stylekit.nn.discriminator import PatchDiscriminator
from stylekit.nn.unet import Generator
from stylekit.speed.apart import measure_apart
from stylekit.speed.arithmetic import step_operations
from stylekit.speed.machine import arithmetic_rates, describe
from stylekit.speed.memory import GB
from stylekit.speed.timing import Parts, PeakMemory, seconds
from stylekit.speed.training import PARTS, Trainee, drawn_pictures, instrumented, random_vgg19, replaced

IDENTICAL = "identical_work"
SHORTCUTS: Mapping[str, Mapping[str, bool]] = {
    IDENTICAL: {},
    "share_fake": {"share_fake": True},
    "share_fake, cache_photo_features": {"share_fake": True, "cache_photo_features": True},
}
"""What is timed of ours, one after the other: first the identical work, then with the recipe's named shortcuts."""

GPU_BATCHES = (16, 32, 64)
GPU_PRECISIONS: Mapping[str, Mapping[str, Any]] = {
    "fp32": {"allow_tf32": False},
    "tf32": {"allow_tf32": True},
    "bf16": {"allow_tf32": True, "mixed_precision": "bf16"},
}
_ROOT = Path(__file__).parents[1]
_RATE_REPEATS = 3
_LOW_VRAM_GB = 6.0


def recipe(batch: int, size: int, **train: Any) -> Recipe:
    """Return preset `upstream` with the content network that upstream has."""
    said = {"preset": "upstream", "batch_size": batch, "size": size, "content": {"network": "vgg19-caffe"}, **train}
    return Recipe.model_validate({"style": "benchmark", "train": said})


def start() -> Arrays:
    """Return all 210 tensors to start from: a generator that nearly repeats the photograph, discriminators of drawn weights."""
    torch.manual_seed(0)
    generator = Generator()
    generator.start_as_identity()
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
        judges = {"disc_gray": PatchDiscriminator(1), "disc_blur": PatchDiscriminator(3)}
        for inputs, judge in zip((1, 3), judges.values(), strict=True):
            for _ in range(50):  # power iterations, after which u hardly moves
                judge(torch.zeros(1, inputs, 8, 8))
    return training_arrays(TrainingWeights(generator, judges))


class Ours:
    """A method of ours that takes steps and says what they took."""

    def __init__(self, wanted: Recipe, pictures: TrainingPictures, vgg: Resolved, weights: Arrays) -> None:
        self.trainee = Trainee(wanted, pictures, device="cpu", assets={"content": vgg})
        self.gray: list[list[float]] = []
        started = training_weights_from(weights)
        assert started.discriminators is not None
        networks = self.trainee.method.networks
        networks["generator"].load_state_dict(started.generator.state_dict())
        for name in DISCRIMINATORS:
            networks[name].load_state_dict(started.discriminators[name].state_dict())

    def step(self) -> tuple[Batch, dict[str, Any]]:
        """Take a step; return its batch, and its seconds, losses, parts and peak memory. `gray` is what it drew, B, G, R."""
        trainee, self.gray = self.trainee, []
        parts, taken = Parts(trainee.device), []
        draw = losses.draw_gray_weights

        def noted(*given: Any) -> Tensor:
            drawn = draw(*given)
            self.gray.append(drawn.flip(0).tolist())
            return drawn

        def work() -> None:
            with parts.part("data"):
                batch = trainee.batch()
            taken.append((batch, {name: float(value) for name, value in trainee.step(batch).items()}))

        with (
            replaced(losses, "draw_gray_weights", noted),
            instrumented(trainee.method, parts),
            PeakMemory(trainee.device, alone=True) as memory,
        ):
            whole = seconds(work, trainee.device)
        batch, found = taken[0]
        return batch, {
            "seconds": whole,
            "losses": _totals(found, trainee.recipe.train.loss),
            "parts": dict(parts.seconds) | {"other": whole - sum(parts.seconds.values())},
            "peak_memory_gb": memory.gb,
        }


def _totals(found: Mapping[str, float], weights: LossRecipe) -> dict[str, float]:
    """Return the two sums that upstream's losses are, of our terms."""
    style = weights.lambda_texture * found["loss/g_gray"] + weights.lambda_surface * found["loss/g_blur"]
    generator = style + weights.lambda_content * found["loss/content"] + weights.lambda_tv * found["loss/tv"]
    return {"g_loss": generator, "d_loss": found["loss/d_gray"] + found["loss/d_blur"]}


def to_upstream(pictures: Tensor) -> NDArray[np.float32]:
    """Return [N, 3, H, W] RGB as [N, H, W, 3] BGR."""
    return np.ascontiguousarray(pictures.flip(1).permute(0, 2, 3, 1).cpu().numpy())


def model_folder(folder: Path, vgg: Resolved, batch: int, size: int) -> Path:
    """Write the folder that upstream's trainer starts from."""
    folder.mkdir()
    (folder / "vgg19.npy").symlink_to(vgg.path)
    train = {
        "photo": str(folder), "cartoon": str(folder), "work_dir": str(folder), "patch_size": size, "batch_size": batch,
        "adv_train_lr": 2e-4, "max_steps": 1, "logging_interval": 1, "ckpt_period_interval": 1, "resume_epoch": 0, "num_gpus": 0,
    }  # fmt: skip
    said = {"framework": "tensorflow", "task": "image-portrait-stylization", "train": train}
    (folder / "configuration.json").write_text(json.dumps(said), "utf-8")
    return folder


def compare(record: Record) -> None:
    """Take steps in turns on the CPU and write the figures after every round; the first round warms up and is not timed.

    The record's protocol has `batch`, `size_px`, `steps`, and `upstream`, whether it is there. Every batch has the same pictures
    in another order, so that after the first one the features of all photographs are known, as they are in a training after its
    first pass over them.
    """
    batch, size, steps, with_upstream = (record.data["protocol"][name] for name in ("batch", "size_px", "steps", "upstream"))
    data = record.data["train"] = {"rates_gflops": {}}
    rates: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch_name, ExitStack() as open_:
        scratch = Path(scratch_name)
        pictures, vgg, weights = drawn_pictures(scratch / "pictures", batch, size), random_vgg19(scratch / "vgg19.npy"), start()
        ours = {name: Ours(recipe(batch, size, **shortcut), pictures, vgg, weights) for name, shortcut in SHORTCUTS.items()}
        for each in ours.values():
            open_.callback(each.trainee.close)
        upstream = None
        if with_upstream:
            save_file({name: np.asarray(array, order="C") for name, array in weights.items()}, scratch / "start")
            job = {"model": str(model_folder(scratch / "model", vgg, batch, size)), "weights": str(scratch / "start")}
            upstream = open_.enter_context(Upstream("train", job, scratch))
            data["tensorflow"] = upstream.found["version"]
        rounds: dict[str, list[dict[str, Any]]] = {}
        gray: list[list[float]] = []
        for number in range(steps + 1):
            for name, rate in arithmetic_rates(torch.device("cpu"), repeats=_RATE_REPEATS).items():
                rates.setdefault(name, []).append(rate)
            taken: dict[str, dict[str, Any]] = {}
            for name, each in ours.items():
                seen, taken[name] = each.step()
                if name != IDENTICAL:
                    continue
                gray = each.gray
                if upstream is not None:
                    arrays = {"photo": to_upstream(seen.photo), "cartoon": to_upstream(seen.cartoon)}
                    save_file(arrays, scratch / "batch")
                    taken["upstream"] = _upstream_step(upstream, scratch / "batch", gray, watch=number == 0)
            for name, step in taken.items():
                rounds.setdefault(name, []).append(step)
            data["rates_gflops"] = {name: statistics.median(found) for name, found in rates.items()}
            _summarise(data, rounds, batch, size)
            record.write(markdown(record.data))
            print(f"{number}/{steps}", {name: round(step["seconds"], 3) for name, step in taken.items()}, flush=True)
        if upstream is not None:
            data["upstream"]["parts_s"] = _upstream_step(upstream, scratch / "batch", gray, trace=True)["parts"]
            record.write(markdown(record.data))


def _upstream_step(
    upstream: Upstream, batch: Path, gray: Sequence[Sequence[float]], *, trace: bool = False, watch: bool = False
) -> dict[str, Any]:
    with PeakMemory(torch.device("cpu"), upstream.pid) if watch else nullcontext() as memory:  # which takes time itself
        event = upstream.ask(batch=str(batch), gray=gray, trace=trace)
    peak = memory.gb if memory else 0.0
    return {name: event[name] for name in ("seconds", "losses", "parts")} | {"peak_memory_gb": peak}


def _summarise(data: dict[str, Any], rounds: Mapping[str, list[dict[str, Any]]], batch: int, size: int) -> None:
    """Put medians, ratios and differences of what was taken so far into `data`."""
    timed = {name: [step["seconds"] for step in taken[1:]] for name, taken in rounds.items()}
    if not all(timed.values()):
        return
    data["steps"] = min(map(len, timed.values()))
    reference = "upstream" if "upstream" in rounds else IDENTICAL
    for name, taken in rounds.items():
        middle = statistics.median(timed[name])
        found: dict[str, Any] = {
            "seconds": timed[name],
            "median_s": middle,
            "peak_memory_gb": max(step["peak_memory_gb"] for step in taken),
            "losses": [step["losses"] for step in taken],
            "parts_s": _middle([step["parts"] for step in taken[1:]]),
            "loss_difference": [_apart(a["losses"], b["losses"]) for a, b in zip(taken, rounds[IDENTICAL], strict=True)],
        }
        operations = sum(step_operations(batch, size, **SHORTCUTS.get(name, {})).values())
        found["tflop"] = operations / 1e12
        found["share_of_rate"] = {rate: operations / middle / 1e9 / each for rate, each in data["rates_gflops"].items()}
        if reference == "upstream":
            found["ratio_vs_upstream"] = statistics.median(timed["upstream"]) / middle
            found["loss_difference_vs_upstream"] = [
                _apart(a["losses"], b["losses"]) for a, b in zip(taken, rounds["upstream"], strict=True)
            ]
        found["ratio_vs_identical_work"] = statistics.median(timed[IDENTICAL]) / middle
        if name in (IDENTICAL, "upstream"):
            data[name] = found
        else:
            data.setdefault("shortcuts", {})[name] = found
            if "ratio_vs_upstream" in found:
                data["shortcuts"]["ratio_vs_upstream"] = found["ratio_vs_upstream"]  # that of all, which come last


def _middle(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: statistics.median(each.get(name, 0.0) for each in parts) for name in PARTS if any(name in p for p in parts)}


def _apart(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """Return the largest relative difference of two losses."""
    return max(abs(one[name] / other[name] - 1) for name in one)


def gpu_rows(record: Record, device: str) -> None:
    """Time ours on a GPU, each row in a process of its own, and write the figures after every row.

    The record's protocol has `size_px` and `steps`, groups of ten. Rows that are there are kept, unless they failed.
    """
    size, steps = (record.data["protocol"][name] for name in ("size_px", "steps"))
    found = record.data.setdefault("gpu", {})
    if "rates_gflops" not in record.data:
        record.data["rates_gflops"] = arithmetic_rates(find_device(device))
        torch.cuda.empty_cache()  # the rows are other processes
    rates = record.data["rates_gflops"]
    rows: dict[str, dict[str, Any]] = {}
    for batch in GPU_BATCHES:
        for precision, how in GPU_PRECISIONS.items():
            rows[f"batch {batch}, {precision}"] = {"batch_size": batch, "precision": precision, "train": how}
    first = {"batch_size": GPU_BATCHES[0], "precision": "tf32"}
    rows["batch 16, tf32, CUDA graphs"] = first | {"train": {"compile": "reduce-overhead"}}
    rows["batch 16, tf32, not compiled"] = first | {"train": {"compile": "no"}}
    shortcuts = list(SHORTCUTS.values())[-1]
    rows["batch 16, tf32, shortcuts"] = first | {"train": shortcuts, "shortcuts": shortcuts}
    low = first | {"train": {"low_vram": True}, "memory_gb": _LOW_VRAM_GB}
    rows[f"batch 16, tf32, low_vram, capped at {_LOW_VRAM_GB:g} GB"] = low
    rows["batch 16, tf32, scikit-image superpixels"] = first | {"train": {"superpixel_engine": "scikit-image"}}
    for name, row in rows.items():
        if is_settled(found.get(name)):
            continue
        job = row | {"size": size, "steps": steps, "device": device}
        outcome = measure_apart("benchmarks.training:gpu_row", job, limit_s=600, environment={"PYTHONPATH": str(_ROOT)})
        found[name] = {"precision": row["precision"], **asdict(outcome)}
        if outcome.state == "measured":
            work = sum(step_operations(row["batch_size"], size, **row.get("shortcuts", {})).values())
            found[name]["tflops"] = work / outcome.result["step_s"] / 1e12
            kinds = [kind for kind in rates if kind.endswith(row["precision"])]
            found[name]["share_of_rate"] = {kind: found[name]["tflops"] * 1e3 / rates[kind] for kind in kinds}
        record.write(markdown(record.data))
        print(name, outcome.result.get("step_s") or outcome.reason, flush=True)


def gpu_row(job: dict[str, Any]) -> dict[str, Any]:
    """Time one row in this process."""
    from stylekit.speed.training import measure_training

    place = find_device(job["device"])
    if "memory_gb" in job:
        share = job["memory_gb"] * GB / torch.cuda.get_device_properties(place).total_memory
        torch.cuda.set_per_process_memory_fraction(share, place)
    with tempfile.TemporaryDirectory() as scratch:
        pictures = drawn_pictures(Path(scratch) / "pictures", 4 * job["batch_size"], job["size"])
        wanted = recipe(job["batch_size"], job["size"], **job["train"])
        return asdict(measure_training(wanted, pictures, steps=job["steps"], device=job["device"]))


def markdown(data: Mapping[str, Any]) -> str:
    """Return the figures as Markdown tables."""
    machine, protocol = data["machine"], data["protocol"]
    lines = [f"# Training: {machine['name']}, torch {machine['torch']}, {machine['date']}", ""]
    train = data.get("train", {})
    if IDENTICAL in train:
        lines += _comparison(train, machine, protocol)
    if "gpu" in data:
        lines += [
            f"Preset upstream, {protocol['size_px']} px, medians of {protocol['steps']} groups of ten steps, each row in a "
            "process of its own. Peak memory is what torch reserved; CUDA's own context comes on top.",
            "",
            "Rates of this GPU, GFLOP/s: " + _listed(data["rates_gflops"]) + ".",
            "",
            _gpu_table(data["gpu"]),
            COUNTED,
            "",
        ]
    return "\n".join(lines)


def _comparison(train: Mapping[str, Any], machine: Mapping[str, Any], protocol: Mapping[str, Any]) -> list[str]:
    rows = {name: train[name] for name in ("upstream", IDENTICAL) if name in train}
    rows |= {name: row for name, row in train.get("shortcuts", {}).items() if isinstance(row, dict)}
    head = ["step of", "s, median", "times upstream", "peak GB", "TFLOP", "of the matrix rate", "of the convolution rate"]
    body = [
        [
            name.replace("_", " ") if name == IDENTICAL else name,
            f"{row['median_s']:.3g}",
            f"{row['ratio_vs_upstream']:.2f}" if "ratio_vs_upstream" in row else "",
            f"{row['peak_memory_gb']:.2f}",
            f"{row['tflop']:.3g}",
            *(f"{row['share_of_rate'][rate]:.0%}" for rate in ("matrix_fp32", "convolution_fp32")),
        ]
        for name, row in rows.items()
    ]
    parts = [[name, *(f"{row['parts_s'].get(part, 0):.3g}" for part in PARTS)] for name, row in rows.items() if row["parts_s"]]
    apart = [
        [
            name,
            *(
                f"{row[of][at]:.1e}" if of in row else ""
                for of in ("loss_difference", "loss_difference_vs_upstream")
                for at in (0, -1)
            ),
        ]
        for name, row in rows.items()
    ]
    return [
        f"Batch {protocol['batch']}, {protocol['size_px']} px, {train['steps']} steps of each in turns after one to warm up, "
        f"{machine['threads']} threads. In the same run, GFLOP/s: {_listed(train['rates_gflops'])}.",
        "",
        table(head, body),
        COUNTED,
        "",
        "Peak memory is resident memory. All variants of ours live in one process, so each of their peaks is of all of them. "
        "Upstream's is the sum over its process and its workers; pages that they share count once for each.",
        "",
        "Seconds by part (upstream's of one step more, its two updates divided by the time of their operations):",
        "",
        table(["step of", *PARTS], parts),
        "Largest relative difference of the generator's and the discriminators' loss, at the first and the last step:",
        "",
        table(["step of", "from ours, first", "last", "from upstream, first", "last"], apart),
    ]


def _gpu_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    body = []
    for name, row in rows.items():
        if row["state"] != "measured":
            body.append([name, f"{row['state']}: {row['reason']}", *[""] * 5])
            continue
        result, matrix = row["result"], f"matrix_{row['precision']}"
        whole = sum(result["parts"].values())
        shares = ", ".join(f"{part} {each / whole:.0%}" for part, each in result["parts"].items())
        body.append(
            [
                name,
                f"{1 / result['step_s']:.1f}",
                f"{row['tflops']:.1f}",
                f"{row['share_of_rate'][matrix]:.0%}",
                f"{result['peak_memory_gb']:.2f}",
                f"{result['batches_per_s']:.0f}",
                shares,
            ]
        )
    return table(["row", "steps/s", "TFLOP/s", "of the matrix rate", "peak GB", "loader, batches/s", "parts"], body)


def _listed(rates: Mapping[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {rate:.0f}" for name, rate in rates.items())


def main(arguments: Sequence[str] | None = None) -> Path:
    """Print every round as it is taken, write all figures, and return their files' common name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5, help="steps of each")
    parser.add_argument("--batch", type=int, default=16, help="upstream takes no less than 16")
    parser.add_argument("--size", type=int, default=256, help="side of the pictures in pixels")
    parser.add_argument("--ours-only", action="store_true", help="leave upstream, and so TensorFlow, out")
    parser.add_argument("--device", default=None, help="cpu, cuda, cuda:1; else a GPU of NVIDIA's where one is")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the figures")
    given = parser.parse_args(arguments)
    place = find_device(given.device)
    protocol = {"preset": "upstream", "content": "vgg19 of drawn weights", "size_px": given.size, "steps": given.steps}
    if place.type != "cuda":
        place = torch.device("cpu")
        protocol |= {"batch": given.batch, "upstream": not given.ours_only}
    machine = describe(place)
    record = Record("train", machine, protocol, given.output)
    print(machine, flush=True)
    if place.type == "cuda":
        gpu_rows(record, str(place))
    else:
        compare(record)
    print(f"{record.path}.md")
    return record.path


if __name__ == "__main__":
    main()
