"""Upstream's own graph beside ours: the same weights, pictures and draws in TensorFlow and in torch.

Each test prints the figures that docs/parity.md quotes; `-rP` shows them.
"""

from __future__ import annotations

import copy
import inspect
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from safetensors.numpy import load_file, save_file

from stylekit.assets import add, fetch
from stylekit.config.load import parse_recipe
from stylekit.data.datasets import PictureFile, PictureSet
from stylekit.data.superpixel import superpixels
from stylekit.engine.checkpoint import load_optimizer
from stylekit.images import list_images, read_rgb, resize, to_rgb, to_tensor, write_image
from stylekit.methods.base import Batch, StepContext
from stylekit.methods.dctnet import DctNet
from stylekit.modelscope.graph.weights import (
    DISCRIMINATORS,
    TrainingWeights,
    discriminator_arrays,
    generator_arrays,
    training_arrays,
    training_weights_from,
)
from stylekit.modelscope.runtime.checkpoints import read_checkpoint, write_checkpoint
from stylekit.modelscope.runtime.process import Child
from stylekit.nn.discriminator import PatchDiscriminator
from stylekit.nn.unet import Generator
from stylekit.nn.vgg import VGG19_MEAN_BGR, Vgg

pytestmark = pytest.mark.modelscope

ROOT = Path(__file__).parents[2]
BATCH, SIDE = 16, 64
COMPARED, CONTINUED = 3, 2
GIVEN = ("photo", "superpixel", "cartoon", "gray")
RECIPE = f"style: x\ntrain: {{preset: upstream, size: {SIDE}, batch_size: {BATCH}, content: {{network: vgg19-caffe}}}}"


def upstream(task, folder, **job):
    """Carry out a task of upstream_graph.py; return its arrays and what else it said."""
    job["output"] = str(folder / f"{task}.safetensors")
    where = {"PYTHONPATH": str(ROOT)}
    with Child(f"tests.modelscope.upstream_graph:{task}", job, f"Upstream's {task}", environment=where) as child:
        said = child.result()
    return load_file(said["output"]), said


def put(path, arrays):
    save_file({name: np.asarray(value, order="C") for name, value in arrays.items()}, path)
    return str(path)


def photos(count):
    return [read_rgb(path) for path in list_images(fetch("starter-photos"))[:count]]


def bgr(rgb):
    return rgb[..., ::-1]


# Forward: 1 of 255 levels


def near_identity():
    """A network as training makes it: the photograph, changed everywhere."""
    torch.manual_seed(1)
    network = Generator()
    network.start_as_identity()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return network


def at_random():
    """A network of random weights, its last layer scaled so that the result fills the range of levels."""
    torch.manual_seed(2)
    network = Generator()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.normal_(0, 0.1)
        seen = network(to_tensor(read_rgb(fetch("astronaut"))))
        network.unet.head.weight.mul_(0.7 / seen.std())
        network.unet.head.bias.sub_(seen.mean((0, 2, 3))).mul_(0.7 / seen.std())
    return network


NETWORKS = {"near-identity": near_identity, "random": at_random}
SIZES = {"256": (256, 256), "288": (288, 288), "720x960": (720, 960)}


@pytest.fixture(scope="module")
def pictures():
    portrait = read_rgb(fetch("astronaut"))
    tall = read_rgb(next(path for path in list_images(fetch("starter-photos")) if path.name == "brooke.jpg"))
    return {name: resize(tall if name == "720x960" else portrait, size) for name, size in SIZES.items()}


@pytest.fixture(scope="module")
def stylized(pictures, tmp_path_factory):
    """What upstream's model and exported graph make of the pictures."""
    folder = tmp_path_factory.mktemp("forward")
    weights = {name: put(folder / name, generator_arrays(make())) for name, make in NETWORKS.items()}
    given = put(folder / "pictures", {name: bgr(picture) for name, picture in pictures.items()})
    return upstream("stylize", folder, pictures=given, weights=weights, into=str(folder))[0]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("size", SIZES)
def test_forward_parity(network, size, pictures, stylized):
    with torch.no_grad():
        made = NETWORKS[network]()(to_tensor(pictures[size]))
    theirs = bgr(stylized[f"{network}/{size}/levels"])
    clipped = made[0].permute(1, 2, 0).clamp(-0.999999, 0.999999)
    truncated = ((clipped + 1) * 127.5).to(torch.uint8).numpy()
    apart = bgr(stylized[f"{network}/{size}/float"]) - made[0].permute(1, 2, 0).numpy()

    assert theirs.shape == truncated.shape
    levels = np.abs(theirs.astype(int) - truncated)
    print(
        f"{network}, {size}: at most {levels.max()} level, {np.mean(levels > 0):.1e} of all values differ; "
        f"before truncation at most {np.abs(apart).max() * 127.5:.1e} levels"
    )
    assert np.ptp(theirs) > 240
    assert np.mean((theirs == 0) | (theirs == 254)) < 0.25  # truncation of 0.999999
    assert levels.max() <= 1
    assert np.mean(levels > 0) < 1e-4
    assert np.abs(theirs.astype(int) - to_rgb(made)[0]).max() <= 1
    assert np.abs(apart).max() < 1e-4


# Training: losses, gradients and weights


@dataclass
class Steps:
    """Steps taken: losses, gradients and tensors after each, by upstream's names."""

    losses: list[dict[str, float]] = field(default_factory=list)
    gradients: list[dict[str, np.ndarray]] = field(default_factory=list)
    after: list[dict[str, np.ndarray]] = field(default_factory=list)


@pytest.fixture(scope="module")
def vgg19(tmp_path_factory):
    """A VGG-19 of random weights in the form of upstream's vgg19.npy."""
    rng = np.random.RandomState(0)
    layers = {}
    for k, (name, conv) in enumerate(Vgg(19, VGG19_MEAN_BGR, "conv5_4").convs.items()):
        shape = (3, 3, conv.in_channels, conv.out_channels)
        kernel = rng.standard_normal(shape).astype(np.float32) * np.float32(np.sqrt(2 / (9 * conv.in_channels)))
        layers[name] = [kernel, np.full(conv.out_channels, 0.01 * k, np.float32)]
    path = tmp_path_factory.mktemp("vgg") / "vgg19.npy"
    np.save(path, layers, allow_pickle=True)
    return path


def model_folder(folder, vgg19, resume=0):
    """Write the model folder that upstream's trainer starts from."""
    folder.mkdir(exist_ok=True)
    if not (folder / "vgg19.npy").exists():
        (folder / "vgg19.npy").symlink_to(vgg19)
    train = {
        "photo": str(folder), "cartoon": str(folder), "patch_size": SIDE, "work_dir": str(folder), "batch_size": BATCH,
        "adv_train_lr": 2e-4, "max_steps": 1, "logging_interval": 1, "ckpt_period_interval": 1, "resume_epoch": resume,
        "num_gpus": 0,
    }  # fmt: skip
    content = {"framework": "tensorflow", "task": "image-portrait-stylization", "train": train}
    (folder / "configuration.json").write_text(json.dumps(content))
    return str(folder)


@pytest.fixture(scope="module")
def batches():
    """Photographs, their superpixels, flattened drawings, and the gray weights (b, g, r) of both phases, for every step."""
    rng = np.random.RandomState(3)
    pool = np.stack([resize(picture, (SIDE, SIDE)) for picture in photos(64)])
    found = {}
    for step in range(COMPARED + CONTINUED):
        photo, other = (to_tensor(pool[rng.permutation(len(pool))[:BATCH]]) for _ in range(2))
        low, high = np.array([0.014, 0.487, 0.199]), np.array([0.214, 0.687, 0.399])
        found[f"photo/{step}"] = photo
        found[f"superpixel/{step}"] = superpixels(photo, bgr=True)
        found[f"cartoon/{step}"] = (other * 2).round() / 2
        found[f"gray/{step}"] = rng.uniform(low, high, (2, 3)).astype(np.float32)
    return {
        name: value.flip(1).permute(0, 2, 3, 1).numpy() if isinstance(value, torch.Tensor) else value
        for name, value in found.items()
    }


def some(batches, steps):
    """The batches of these steps, counted anew from 0."""
    return {f"{kind}/{i}": batches[f"{kind}/{step}"] for i, step in enumerate(steps) for kind in GIVEN}


@pytest.fixture(scope="module")
def start():
    """All 210 tensors before the first step, u after 50 power iterations."""
    torch.manual_seed(4)
    discriminators = {"disc_gray": PatchDiscriminator(1), "disc_blur": PatchDiscriminator(3)}
    generator = Generator()
    with torch.no_grad():
        for module in (generator, *discriminators.values()):
            for parameter in module.parameters():
                if parameter.ndim == 1:
                    parameter.normal_(0, 0.05)
        for inputs, module in zip((1, 3), discriminators.values(), strict=True):
            for _ in range(50):
                module(torch.zeros(1, inputs, 8, 8))
    arrays = training_arrays(TrainingWeights(generator, discriminators))
    assert len(arrays) == 210
    return arrays


class Ours:
    """DctNet with preset upstream, given all weights, draws and superpixels; nothing else of it is changed."""

    def __init__(self, arrays, vgg19, home, dtype=torch.float32):
        self.dtype = dtype
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("STYLEKIT_HOME", str(home))
            add("content", vgg19, "vgg19-caffe")
            self.method = DctNet()
            self.method.build(parse_recipe(RECIPE), Accelerator(cpu=True))
        weights = training_weights_from(arrays)
        for name, network in {"generator": weights.generator, **weights.discriminators}.items():
            self.method.networks[name].load_state_dict(network.state_dict())
            self.method.networks[name].to(dtype)
        for name, state in weights.optimizers.items():
            load_optimizer(self.method.optimizers[name], state)
        inspect.unwrap(self.method.content).__self__.to(dtype)

    def take(self, batches):
        """Step through batches and record what upstream's graph records."""
        steps = Steps()
        update = self.method._update
        for step in range(len(batches) // len(GIVEN)):
            photo, superpixel, cartoon = (self.to_ours(batches[f"{kind}/{step}"]) for kind in GIVEN[:3])
            draws = list(torch.from_numpy(bgr(batches[f"gray/{step}"]).copy()).to(self.dtype))
            totals = {}

            def record(name, loss, totals=totals):
                totals[f"{name[0]}_loss"] = loss
                update(name, loss)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("stylekit.methods.dctnet.superpixels", lambda *a, kept=superpixel, **k: kept)
                patch.setattr("stylekit.nn.losses.draw_gray_weights", lambda *a, draws=draws: draws.pop(0))
                patch.setattr(torch.Tensor, "float", lambda tensor: tensor.to(self.dtype))
                patch.setattr(self.method, "_update", record)
                found = self.method.step(Batch(photo, cartoon), StepContext(step, torch.Generator())).losses
            assert draws == []
            steps.losses.append({name.removeprefix("loss/"): value.item() for name, value in (found | totals).items()})
            steps.gradients.append(self.gradients())
            steps.after.append(self.arrays())
        return steps

    def to_ours(self, pictures):
        return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).flip(1).to(self.dtype)

    def gradients(self):
        networks = copy.deepcopy({name: self.method.networks[name] for name in ("generator", *DISCRIMINATORS)})
        for name, network in networks.items():
            for parameter, original in zip(network.parameters(), self.method.networks[name].parameters(), strict=True):
                parameter.data = original.grad
        arrays = generator_arrays(networks.pop("generator")) | discriminator_arrays(networks)
        return {name: value for name, value in arrays.items() if not name.endswith("/u")}

    def arrays(self):
        networks = self.method.networks
        states = {name: optimizer.state_dict() for name, optimizer in self.method.optimizers.items()}
        return training_arrays(TrainingWeights(networks["generator"], {name: networks[name] for name in DISCRIMINATORS}, states))


def steps_of(arrays, said):
    """Put what the child saved into the same form."""

    def part(prefix):
        return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}

    count = range(len(said["losses"]))
    return Steps(said["losses"], [part(f"gradient/{s}/") for s in count], [part(f"after/{s}/") for s in count])


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def compared(start, vgg19, batches, tmp_path_factory):
    """The batches that both took, and what upstream's trainer did with them."""
    folder = tmp_path_factory.mktemp("train")
    given = some(batches, range(COMPARED))
    arrays, said = upstream(
        "train",
        folder,
        model=model_folder(folder / "model", vgg19),
        work_dir=str(folder / "work"),
        weights=put(folder / "start", start),
        batches=put(folder / "batches", given),
        steps=COMPARED,
        save_after=None,
    )
    assert all(np.array_equal(arrays[f"start/{name}"], value) for name, value in start.items())
    return given, steps_of(arrays, said)


@pytest.fixture(scope="module")
def trained(start, vgg19, home, compared):
    """Our method after the same steps, and what it did."""
    ours = Ours(start, vgg19, home)
    return ours, ours.take(compared[0])


@pytest.fixture(scope="module")
def truth(start, vgg19, home, batches):
    """Our method's first step in float64."""
    return Ours(start, vgg19, home, torch.float64).take(some(batches, range(1)))


def distance(theirs, ours, names):
    """Root of the sum of squares of all differences, float64."""
    return np.sqrt(sum(np.square(theirs[name].astype(float) - ours[name]).sum() for name in names))


def norm(arrays, names):
    return np.sqrt(sum(np.square(arrays[name].astype(float)).sum() for name in names))


NETS = ("generator", "disc_gray", "disc_blur")
GRADIENT_FLOOR = 1e-6


def test_losses_are_upstreams(compared, trained):
    terms = {"g_loss", "g_blur", "g_gray", "content", "tv", "d_loss", "d_blur", "d_gray"}
    for step, (theirs, ours) in enumerate(zip(compared[1].losses, trained[1].losses, strict=True)):
        assert theirs.keys() == ours.keys() == terms
        apart = {name: abs(ours[name] / theirs[name] - 1) for name in terms}
        worst = max(apart, key=apart.get)
        print(
            f"step {step}: g_loss {theirs['g_loss']:.6f}, d_loss {theirs['d_loss']:.6f}; "
            f"{worst} differs most, by {apart[worst]:.1e}"
        )
        assert apart[worst] < (5e-6 if step == 0 else 1e-4)


@pytest.mark.parametrize("step", range(COMPARED))
def test_gradients_are_upstreams(step, compared, trained):
    """Every gradient's norm, and the gradients themselves; after the first step they are of weights that differ a little."""
    theirs, ours = compared[1].gradients[step], trained[1].gradients[step]
    assert theirs.keys() == ours.keys()
    assert len(theirs) == 36 + 2 * 14
    for net in NETS:
        names = [name for name in theirs if name.startswith(net)]
        apart = [abs(norm(theirs, [name]) - norm(ours, [name])) for name in names]
        relative = [d / norm(theirs, [name]) for d, name in zip(apart, names, strict=True)]
        whole = distance(theirs, ours, names) / norm(theirs, names)
        print(f"step {step}, {net}: norms differ by at most {max(relative):.1e}, the gradient as a whole by {whole:.1e}")
        limit = 1e-4 if step == 0 else 1e-3
        assert all(d < GRADIENT_FLOOR + limit * norm(theirs, [name]) for d, name in zip(apart, names, strict=True))
        assert whole < 2 * limit


def test_float64_is_as_far_from_upstream_as_from_ours(compared, trained, truth):
    """The yardstick: what separates the two is float32, and neither is the worse for it."""
    theirs, ours, exact = compared[1].gradients[0], trained[1].gradients[0], truth.gradients[0]
    for net in NETS:
        names = [name for name in theirs if name.startswith(net)]
        upstreams, own = (distance(exact, arrays, names) / norm(exact, names) for arrays in (theirs, ours))
        print(f"{net}: from float64, upstream's gradient differs by {upstreams:.1e}, ours by {own:.1e}")
        assert upstreams < 1e-4
        assert own < max(1e-5, 4 * upstreams)


def test_weights_after_three_steps_are_upstreams(start, compared, trained):
    """All 210 tensors.

    Adam's first steps are almost the gradient's sign times the learning rate of 2e-4, so the few weights whose gradient is
    within float32's noise of zero may go the other way.
    """
    theirs, ours = compared[1].after[-1], trained[1].after[-1]
    assert theirs.keys() == ours.keys() == start.keys()
    for net in NETS:
        of_net = [name for name in theirs if name.startswith(net)]
        kinds = {
            "weights": [name for name in of_net if not name.endswith(("/Adam", "/Adam_1", "/u"))],
            "first moments": [name for name in of_net if name.endswith("/Adam")],
            "second moments": [name for name in of_net if name.endswith("/Adam_1")],
        }
        for kind, names in kinds.items():
            moved = distance(theirs, start, names)
            share = distance(theirs, ours, names) / moved
            most = max(np.abs(theirs[name] - ours[name]).max() for name in names)
            apart = np.concatenate([np.abs(theirs[name] - ours[name]).ravel() for name in names])
            print(
                f"{net}, {kind}: differ by {share:.1e} of their way, at most by {most:.1e}, "
                f"{np.mean(apart > 1e-5):.1e} of them by more than 1e-5"
            )
            assert share < 5e-3
            if kind == "weights":
                assert most < 4e-4
                assert np.mean(apart > 1e-5) < 1e-3
    powers = [name for name in theirs if name.startswith("beta")]
    assert len(powers) == 4
    assert all(theirs[name] == pytest.approx(ours[name], rel=1e-6) for name in powers)


def test_u_starts_on_its_way_to_the_fixed_point(start):
    """50 iterations bring it to where one changes little; the limit, where none changes anything, takes 40 times as many."""
    discriminators = copy.deepcopy(training_weights_from(start).discriminators)
    then = {}
    with torch.no_grad():
        for count in range(1, 2001):
            for inputs, name in ((1, "disc_gray"), (3, "disc_blur")):
                discriminators[name](torch.zeros(1, inputs, 8, 8))
            if count in (1, 1999, 2000):
                then[count] = {name: u for name, u in discriminator_arrays(discriminators).items() if name.endswith("/u")}

    def apart(one, other):
        return max(np.abs(one[name] - other[name]).max() for name in then[1])

    moved, way, left = apart(start, then[1]), apart(start, then[2000]), apart(then[1999], then[2000])
    print(f"one more iteration moves u by up to {moved:.1e}; its limit is up to {way:.1e} away, where one moves it by {left:.1e}")
    assert 1e-3 < moved < 1e-2
    assert left < 1e-6
    assert way > 0.1


def test_a_step_takes_as_many_power_iterations_as_upstreams(start, compared, trained):
    """One in the generator's run and one in the discriminators', where real and fake share it."""
    names = [name for name in start if name.endswith("/u")]
    assert len(names) == 14
    for step in range(COMPARED):
        theirs, ours = compared[1].after[step], trained[1].after[step]
        before = compared[1].after[step - 1] if step else start
        apart = max(np.abs(theirs[name] - ours[name]).max() for name in names)
        moved = max(np.abs(theirs[name] - before[name]).max() for name in names)
        print(f"step {step}: u differs by at most {apart:.1e}; the step moved it by up to {moved:.1e}")
        assert moved > 1e-3
        assert apart < 1e-5


# Round trips


@pytest.fixture(scope="module")
def continued(trained, vgg19, batches, tmp_path_factory):
    """Upstream's trainer going on from our checkpoint for two steps, and our method too."""
    folder = tmp_path_factory.mktemp("continue")
    model = model_folder(folder / "model", vgg19, resume=COMPARED)
    handed = trained[0].arrays()
    write_checkpoint(handed, folder / "model" / "tf_ckpts" / f"model-{COMPARED}")
    given = some(batches, range(COMPARED, COMPARED + CONTINUED))
    arrays, said = upstream(
        "train",
        folder,
        model=model,
        work_dir=str(folder / "work"),
        weights=None,
        batches=put(folder / "batches", given),
        steps=CONTINUED,
        save_after=0,
    )
    restored = {name.removeprefix("start/"): value for name, value in arrays.items() if name.startswith("start/")}
    return handed, restored, given, steps_of(arrays, said), Path(said["saved"])


def test_upstreams_trainer_restores_our_checkpoint_to_the_last_bit(continued):
    handed, restored, *_ = continued
    assert len(restored) == 210
    assert restored.keys() == handed.keys()
    for name, value in handed.items():
        assert np.array_equal(restored[name], value), name
        assert restored[name].any(), name


def test_upstreams_first_loss_after_our_checkpoint_is_ours(continued, trained):
    *_, given, theirs, _ = continued
    ours = trained[0].take(given)
    for step, (a, b) in enumerate(zip(theirs.losses, ours.losses, strict=True)):
        apart = max(abs(b[name] / a[name] - 1) for name in a)
        print(f"step {COMPARED + step}: losses differ by at most {apart:.1e}")
        assert apart < (5e-6 if step == 0 else 1e-4)
    names = [name for name in continued[0] if name.endswith(("/weights", "/biases", "/kernel", "/bias"))]
    share = distance(theirs.after[-1], ours.after[-1], names) / distance(theirs.after[-1], continued[0], names)
    print(f"weights after both went on for {CONTINUED} steps: differ by {share:.1e} of their way")
    assert share < 5e-3


def test_our_method_goes_on_from_upstreams_checkpoint(continued, vgg19, home):
    *_, given, theirs, saved = continued
    arrays = read_checkpoint(saved)
    assert all(np.array_equal(arrays[name], value) for name, value in theirs.after[0].items())
    assert training_weights_from(arrays).step == COMPARED + 1
    ours = Ours(arrays, vgg19, home)
    taken = ours.take(some(given, [1]))
    apart = max(abs(taken.losses[0][name] / value - 1) for name, value in theirs.losses[1].items())
    names = [name for name in arrays if name.endswith(("/weights", "/biases", "/kernel", "/bias"))]
    share = distance(theirs.after[1], taken.after[0], names) / distance(theirs.after[1], arrays, names)
    print(f"one step from upstream's checkpoint: losses differ by at most {apart:.1e}, weights by {share:.1e} of their way")
    assert apart < 5e-6
    assert share < 5e-3


# Pictures


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One portrait as a PNG of the training size, as a larger PNG, and as a JPEG of the training size."""
    folder = tmp_path_factory.mktemp("pictures")
    large = read_rgb(fetch("astronaut"))
    small = resize(large, (256, 256))
    write_image(folder / "small.png", small)
    write_image(folder / "large.png", large)
    Image.fromarray(small).save(folder / "small.jpg", quality=92)
    return folder


@pytest.fixture(scope="module")
def read(files, tmp_path_factory):
    """What upstream's loader makes of the files, and its function of the superpixels."""
    folder = tmp_path_factory.mktemp("read")
    painted = put(folder / "pictures", {"pictures": unfinished().flip(1).permute(0, 2, 3, 1).numpy()})
    names = [str(files / name) for name in ("small.png", "large.png", "small.jpg")]
    return upstream("data", folder, files=names, pictures=painted)[0]


def unfinished():
    """Results of a network in training, which leave [-1, 1] a little: what superpixels are made of."""
    with torch.no_grad():
        return near_identity()(to_tensor(np.stack([resize(p, (128, 128)) for p in photos(4)])))


def both(read, files, name):
    theirs = torch.from_numpy(read[f"picture/{name}"]).flip(-1).permute(2, 0, 1)
    return theirs, to_tensor(PictureSet([PictureFile(files / name)], 256)[0])[0]


def test_pictures_of_the_training_size_are_read_alike(read, files):
    theirs, ours = both(read, files, "small.png")
    print(f"a PNG of the training size: at most {(theirs - ours).abs().max():.1e} of [-1, 1]")
    assert (theirs - ours).abs().max() < 2e-7


def test_larger_pictures_are_thinned_by_upstream_and_averaged_by_us(read, files):
    theirs, ours = both(read, files, "large.png")
    every_second = to_tensor(read_rgb(files / "large.png"))[0, :, ::2, ::2]
    apart = (theirs - ours).abs() * 127.5
    print(f"a PNG twice as large: {apart.mean():.1f} levels in the mean, {apart.max():.0f} at most")
    assert (theirs - every_second).abs().max() < 2e-7
    assert 1 < apart.mean() < 10


def test_jpeg_files_are_decoded_nearly_alike(read, files):
    theirs, ours = both(read, files, "small.jpg")
    apart = ((theirs - ours).abs() * 127.5).round()
    print(f"a JPEG of the training size: {apart.mean():.2f} levels in the mean, {apart.max():.0f} at most")
    assert apart.mean() < 2


def test_superpixels_are_upstreams(read):
    ours = superpixels(unfinished(), bgr=True).flip(1).permute(0, 2, 3, 1).numpy()
    theirs = read["superpixel"]
    regions = [len(np.unique(picture.reshape(-1, 3), axis=0)) for picture in ours]
    print(f"superpixels: {min(regions)} to {max(regions)} regions, values differ by at most {np.abs(theirs - ours).max():.1e}")
    assert min(regions) > 50
    assert theirs.shape == ours.shape
    assert theirs.dtype == ours.dtype
    assert np.abs(theirs - ours).max() < 1e-5
