"""What makes DctNet's step faster or smaller, beside the plain step: the same losses and the same gradients."""

import contextlib
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.utils._python_dispatch import TorchDispatchMode

from stylekit.assets import Resolved
from stylekit.config.load import parse_recipe
from stylekit.data import cache
from stylekit.data.datasets import PictureFile, PictureSet
from stylekit.data.sampler import generator_for
from stylekit.engine.train import make_accelerator
from stylekit.images import from_levels, write_image
from stylekit.methods import dctnet, photo_features
from stylekit.methods.base import Batch, Drawn, StepContext, create_method
from stylekit.nn import box, unet, winograd
from stylekit.nn.cpu import can_compile
from stylekit.nn.device import send
from stylekit.nn.parts import in_parts
from stylekit.nn.vgg import VGG19_MEAN_BGR, Vgg

SIDE, BATCH = 32, 6
START = f"style: x\ntrain: {{size: {SIDE}, batch_size: {BATCH}, network: {{width: 8, blocks: 1}}, "
TINY = START + "content: {network: efficientnet-lite0}, "
UPSTREAM = f"style: x\ntrain: {{size: {SIDE}, batch_size: {BATCH}, preset: upstream, content: {{network: efficientnet-lite0}}, "
EVERYTHING = TINY + (
    "superpixels: 'off', augment: {scale: [1, 1], rotate_deg: 0}, loss: {lambda_projected: 1, lambda_palette: 1}, "
)
RECIPES = {"upstream": UPSTREAM, "everything": EVERYTHING}
pytestmark = pytest.mark.filterwarnings("ignore:.*lr_scheduler.*")


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@contextlib.contextmanager
def precision(name):
    """An accelerator of another precision; one process has one state, which is put back."""
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        yield Accelerator(cpu=True, mixed_precision=name)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def build(text, said="", accelerator=None, assets=None):
    method = create_method("dctnet")
    method.build(parse_recipe(f"{text}{said}}}"), accelerator or Accelerator(cpu=True), assets)
    with torch.no_grad():  # an identity start would hide most gradients of the first step
        method.generator.get_parameter("unet.head.weight").add_(
            torch.randn(3, method.train.network.width, 7, 7, generator=torch.Generator().manual_seed(3)) * 0.02
        )
    return method


def pictures(seed, count=BATCH):
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bicubic").clamp(-1, 1)


def batch(step, drawn=None):
    return Batch(pictures(0), pictures(100 + step), drawn=drawn)


def take(method, given, index=0):
    return method.step(given, StepContext(index, generator_for(0, "method", index))).losses


def gradients(method):
    return {
        f"{name}.{key}": parameter.grad
        for name, network in method.networks.items()
        for key, parameter in network.named_parameters()
    }


def assert_equal_steps(plain, other, given=batch, steps=2, slack=1e-5):
    """Both take the same steps; losses are equal to 1e-5 of their size, gradients to `slack`."""
    for index in range(steps):
        a, b = take(plain, batch(index), index), take(other, given(index), index)
        assert a.keys() == b.keys()
        for name in a:
            assert b[name].item() == pytest.approx(a[name].item(), rel=1e-5), (index, name)
        theirs = gradients(other)
        largest = max(gradient.norm() for gradient in gradients(plain).values())
        for name, gradient in gradients(plain).items():
            size = max(gradient.norm(), 1e-3 * largest)
            assert (theirs[name] - gradient).norm() <= slack * size, (index, name)
        for network, same in zip(plain.networks.values(), other.networks.values(), strict=True):
            same.load_state_dict(network.state_dict())  # Adam magnifies what is left of a difference


@pytest.mark.parametrize("text", RECIPES.values(), ids=RECIPES)
def test_low_vram_equals_the_plain_step(text, monkeypatch):
    plain, small = build(text), build(text, "low_vram: true")
    seen, painted = [], []
    small.generator.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    paint = dctnet.superpixels
    monkeypatch.setattr(dctnet, "superpixels", lambda fake, **how: painted.append(len(fake)) or paint(fake, **how))
    assert_equal_steps(plain, small)
    assert set(seen) == {4, 2}
    assert painted == ([BATCH, 4, 2] * 2 if text == UPSTREAM else [])


def test_parts_keep_nothing_for_the_gradient_but_the_pictures():
    kept = []
    layers = torch.nn.Sequential(*[torch.nn.Conv2d(3, 3, 3, padding=1) for _ in range(5)])
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        x = torch.randn(6, 3, 8, 8, requires_grad=True)
        plain, plainly = layers(x), sum(kept)
        kept.clear()
        parted = in_parts(layers, 4)(x)
    assert torch.allclose(plain, parted, atol=1e-6)
    assert sum(kept) < plainly / 3


class Sight:
    """Counts the pictures that the content network looks at without a gradient."""

    def __init__(self, method, monkeypatch):
        self.count = 0
        look = method.content

        def counted(picture, layers):
            self.count += 0 if torch.is_grad_enabled() else len(picture)
            return look(picture, layers)

        monkeypatch.setattr(method, "content", counted)


@pytest.fixture
def vgg19(tmp_path):
    torch.manual_seed(0)
    arrays = {
        name: [conv.weight.permute(2, 3, 1, 0).detach().numpy(), conv.bias.detach().numpy()]
        for name, conv in Vgg(19, VGG19_MEAN_BGR, "conv4_4").convs.items()
    }
    path = tmp_path / "vgg19.npy"
    np.save(path, np.array(arrays, dtype=object), allow_pickle=True)
    return {"content": Resolved("vgg19-caffe", "content", path, "user:vgg19.npy", "5" * 64, "", "")}


CONTENTS = {
    "efficientnet": "content: {network: efficientnet-lite0, layers: [block2, block4]}, ",
    "vgg19": "content: {network: vgg19-caffe, layers: [conv2_1, conv3_2]}, ",
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
@pytest.mark.parametrize("place", ["memory", "disk"])
def test_kept_photo_features_equal_fresh_ones(content, place, vgg19, tmp_path, monkeypatch):
    if place == "disk":
        monkeypatch.setattr(photo_features, "MEMORY_BYTES", 0)
        monkeypatch.setattr(cache, "_RESERVE_BYTES", 0)
        monkeypatch.setenv("STYLEKIT_HOME", str(tmp_path))
    write_image(tmp_path / "photos" / "0.png", np.zeros((SIDE, SIDE, 3), np.uint8))
    photos = PictureSet([PictureFile(tmp_path / "photos" / "0.png")] * 3, SIDE)
    drawn = Drawn(photos, tuple(itertools.product(range(3), (False, True))))
    text = START + content + "superpixels: 'off', augment: {scale: [1, 1], rotate_deg: 0}, loss: {lambda_texture: 0}, "
    assets = vgg19 if "vgg" in content else None
    plain, keeping = build(text, assets=assets), build(text, "cache_photo_features: true", assets=assets)
    sight = Sight(keeping, monkeypatch)
    # An absolute difference's gradient jumps where its sign changes, so a map's last bit counts for more in it.
    assert_equal_steps(plain, keeping, lambda step: batch(step, drawn), slack=1e-3)
    assert sight.count == BATCH + 1  # each once, and the first to see how large its maps are
    backwards = Batch(pictures(0).flip(0), pictures(1), drawn=Drawn(photos, drawn.keys[::-1]))
    (fresh,), (kept,) = (method._targets(pictures(0), backwards) for method in (plain, keeping))
    for layer, maps in fresh.items():
        assert (kept[layer] - maps).abs().max() <= 1e-5 * maps.abs().max(), layer
    assert sight.count == BATCH + 1
    if place == "disk":
        again = build(text, "cache_photo_features: true", assets=assets)
        sight = Sight(again, monkeypatch)
        take(again, batch(0, drawn))
        assert sight.count == 1


def test_where_nothing_can_be_kept_the_whole_batch_is_looked_at_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(photo_features, "MEMORY_BYTES", 0)
    monkeypatch.setattr(cache, "_RESERVE_BYTES", 1 << 62)  # no disk has that much free
    monkeypatch.setenv("STYLEKIT_HOME", str(tmp_path))
    write_image(tmp_path / "0.png", np.zeros((SIDE, SIDE, 3), np.uint8))
    drawn = Drawn(PictureSet([PictureFile(tmp_path / "0.png")] * BATCH, SIDE), tuple((i, False) for i in range(BATCH)))
    plain, keeping = build(EVERYTHING), build(EVERYTHING, "cache_photo_features: true")
    seen = []
    look = keeping.content
    monkeypatch.setattr(
        keeping,
        "content",
        lambda picture, layers: (None if torch.is_grad_enabled() else seen.append(len(picture))) or look(picture, layers),
    )
    assert_equal_steps(plain, keeping, lambda step: batch(step, drawn))
    assert seen == [1, BATCH, BATCH]  # the one to see how large its maps are


@pytest.mark.parametrize("flip", [True, False])
def test_mirror_images_have_rows_only_where_there_are_any(flip, tmp_path, monkeypatch):
    monkeypatch.setattr(photo_features, "MEMORY_BYTES", 0)
    asked = []

    class Pictures(PictureSet):
        def cache_of(self, what, key, rows, row_bytes):
            asked.append((key, rows))
            return cache.RowCache(tmp_path, f"{len(asked)}", rows, row_bytes)

    monkeypatch.setattr(cache, "_RESERVE_BYTES", 0)
    photos = Pictures([PictureFile(tmp_path / "0.png")] * BATCH, SIDE)
    text = EVERYTHING.replace("rotate_deg: 0", f"rotate_deg: 0, flip: {str(flip).lower()}")
    plain, keeping = build(text), build(text, "cache_photo_features: true")
    keys = tuple(itertools.product(range(BATCH // 2), (False, True))) if flip else tuple((i, False) for i in range(BATCH))
    for _ in range(2):
        given = Batch(pictures(0), pictures(1), drawn=Drawn(photos, keys))
        (fresh,), (kept,) = (method._targets(pictures(0), given) for method in (plain, keeping))
        for layer, maps in fresh.items():
            assert (kept[layer] - maps).abs().max() <= 1e-5 * maps.abs().max(), layer
    ((_, rows),) = asked
    assert rows == (2 * BATCH if flip else BATCH)


def test_kept_features_of_photo_and_of_its_superpixels_are_two_things():
    text = TINY + "superpixels: photo, augment: {scale: [1, 1], rotate_deg: 0}, "
    plain, keeping = build(text), build(text, "cache_photo_features: true")
    drawn = Drawn(None, tuple((i, False) for i in range(BATCH)))
    for index in range(2):
        given = [Batch(pictures(0), pictures(9), pictures(1), known) for known in (None, drawn)]
        a, b = (take(method, one, index) for method, one in zip((plain, keeping), given, strict=True))
        assert b["loss/content"].item() == pytest.approx(a["loss/content"].item(), rel=1e-5)


@pytest.mark.parametrize("preset", ["upstream", "default"])
def test_the_discriminators_share_the_result_where_the_recipe_says_so(preset, monkeypatch):
    text = UPSTREAM if preset == "upstream" else EVERYTHING
    shared, fresh = (build(text, f"share_fake: {said}") for said in ("true", "false"))
    assert build(text).train.shares_fake is (preset == "default")
    seen = {}
    for name, method in {"shared": shared, "fresh": fresh}.items():
        method.generator.register_forward_hook(lambda *a, name=name: seen.setdefault(name, []).append(a[2].detach().clone()))
    judged = []
    for method in (shared, fresh):
        monkeypatch.setattr(method, "_surface", lambda x: judged.append(x.detach().clone()) or dctnet.surface(x))
    a, b = take(shared, batch(0)), take(fresh, batch(0))
    assert [len(results) for results in seen.values()] == [1, 2]
    differing = {name for name in a if not torch.equal(a[name], b[name])}
    assert "loss/d_blur" in differing
    assert differing <= {name for name in a if name.startswith("loss/d_")}
    first, real, of_shared, same, real_again, of_fresh = judged
    assert torch.equal(first, of_shared)
    assert torch.equal(first, same)
    assert torch.equal(real, real_again)
    assert torch.equal(of_fresh, fresh.generator(batch(0).photo))


@pytest.mark.slow
@pytest.mark.parametrize("text", RECIPES.values(), ids=RECIPES)
def test_compiled_networks_equal_plain_ones_and_keep_their_names(text, monkeypatch):
    """Traced whole, without a break, and run by torch's own kernels: what a GPU would make code of."""
    whole = {"dynamic": False, "backend": "aot_eager", "fullgraph": True}
    on_cpu = "superpixel_engine: scikit-image"  # that is never compiled
    with precision("no") as accelerator:
        monkeypatch.setattr(dctnet, "compile_options", lambda *_, **__: whole)
        torch.compiler.reset()
        compiled = build(text, on_cpu, accelerator)
        monkeypatch.undo()
        plain = build(text, on_cpu, accelerator)
        assert_equal_steps(plain, compiled, steps=1)
    torch.compiler.reset()
    for name, network in plain.networks.items():
        assert list(network.state_dict()) == list(compiled.networks[name].state_dict())


@pytest.mark.skipif(not can_compile(), reason="numba is not installed")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("text", RECIPES.values(), ids=RECIPES)
def test_a_step_by_compiled_kernels_and_a_divided_batch_equals_one_by_torch(text, threads, monkeypatch):
    for fewest in ("_FEWEST_CHANNELS", "_FEWEST_TILES", "_FEWEST_TILES_ANEW"):
        monkeypatch.setattr(winograd, fewest, 1)
    used = []
    for name in ("convolve", "weight_gradient"):
        real = getattr(winograd, name)
        monkeypatch.setattr(winograd, name, lambda *a, name=name, real=real, **k: used.append(name) or real(*a, **k))
    text = text.replace("width: 8", "width: 16")
    by_kernels, by_torch = build(text), build(text)
    torch.set_num_threads(threads)
    a = take(by_kernels, batch(0))
    torch.set_num_threads(1)
    assert set(used) == {"convolve", "weight_gradient"}
    used.clear()
    for module in (winograd, box):
        monkeypatch.setattr(module, "can_compile", lambda: False)
    b = take(by_torch, batch(0))
    assert not used
    for name in a:
        assert b[name].item() == pytest.approx(a[name].item(), rel=1e-5), name
    of_torch, of_kernels = gradients(by_torch), gradients(by_kernels)
    for network in by_torch.networks:
        names = [name for name in of_torch if name.startswith(f"{network}.")]
        if names:
            whole = torch.cat([of_torch[name].flatten() for name in names])
            apart = torch.cat([of_kernels[name].flatten() for name in names]) - whole
            assert apart.norm() <= 1e-5 * whole.norm(), network


def test_upstreams_epsilon_counts_the_steps_that_were_taken():
    weight = torch.ones(1, requires_grad=True)
    adam = torch.optim.Adam([weight], betas=dctnet.ADAM_BETAS, fused=True)
    epsilon = dctnet.TensorFlowEpsilon(adam, skips=True)
    taken = 0
    for overflowed in (0.0, 1.0, 0.0, 1.0, 1.0, 0.0):
        weight.grad = torch.ones(1)
        adam.grad_scale, adam.found_inf = torch.ones(()), torch.tensor(overflowed)  # as torch's scaler tells it
        epsilon.set()
        expected = dctnet.ADAM_EPS / math.sqrt(1 - dctnet.ADAM_BETAS[1] ** (taken + 1))
        assert adam.param_groups[0]["eps"] == pytest.approx(expected, rel=1e-12)
        adam.step()
        taken += not overflowed


class NeverAsked(TorchDispatchMode):
    """Fails where a tensor's value is asked for, for which a GPU's user would have to wait."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function is not torch.ops.aten._local_scalar_dense.default, "a number was read from the device"
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("text", RECIPES.values(), ids=RECIPES)
def test_no_step_asks_the_device_for_a_number(text, monkeypatch):
    monkeypatch.setattr(dctnet, "superpixels", lambda fake, *_, **__: fake.detach().round())
    method = build(text)
    for index in range(2):
        take(method, batch(index), index)
    with NeverAsked():
        take(method, batch(2), 2)


def test_bf16_leaves_filter_and_losses_in_float32(monkeypatch):
    kinds = []
    real = unet.guided_filter

    def noted(guide, source, radius, eps):
        made = real(guide, source, radius, eps)
        kinds.append({guide.dtype, source.dtype, made.dtype})
        return made

    monkeypatch.setattr(unet, "guided_filter", noted)
    monkeypatch.setattr(dctnet, "guided_filter", noted)
    plain = take(build(EVERYTHING), batch(0))
    with precision("bf16") as accelerator:
        method = build(EVERYTHING, accelerator=accelerator)
        rough = take(method, batch(0))
    assert set(map(frozenset, kinds)) == {frozenset({torch.float32})}
    for name, value in rough.items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(plain[name].item(), rel=0.05, abs=2e-3), name
    assert rough["loss/content"].item() != plain["loss/content"].item()
    exact = build(EVERYTHING)
    take(exact, batch(0))
    first = method.networks["disc_blur"].convs[0].u
    assert torch.allclose(first, exact.networks["disc_blur"].convs[0].u, atol=1e-6)


@pytest.fixture
def on_gpu():
    """Makes accelerators on the GPU, whatever earlier tests chose for the process; what was set or compiled is put back."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA here")
    conv = torch.backends.cudnn
    before = conv.allow_tf32, conv.benchmark
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.compiler.reset()
    yield lambda **how: make_accelerator("cuda", "no", **how)
    torch.compiler.reset()
    AcceleratorState._reset_state(reset_partial_state=True)
    conv.allow_tf32, conv.benchmark = before


@pytest.mark.gpu
def test_low_vram_trains_at_full_size_in_less_than_6_gb(vgg19, on_gpu):
    """Preset upstream, batch 16, 256 pixels, VGG-19 of random weights; half a gigabyte of the 6 is left to CUDA itself."""
    share = 5.5e9 / torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(share)
    try:
        recipe = parse_recipe("style: x\ntrain: {preset: upstream, low_vram: true, content: {network: vgg19-caffe}}")
        method = create_method("dctnet")
        method.build(recipe, on_gpu(low_vram=True), vgg19)
        given = Batch(*(torch.rand(16, 3, 256, 256, device="cuda") * 2 - 1 for _ in range(2)))
        for index in range(3):
            found = take(method, given, index)
        assert all(torch.isfinite(value) for value in found.values())
        with pytest.raises(torch.OutOfMemoryError):  # the cap is one
            torch.empty(int(5.5e9), dtype=torch.uint8, device="cuda")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.gpu
@pytest.mark.parametrize("how", ["compile: 'no'", "compile: auto", "compile: reduce-overhead"])
@pytest.mark.parametrize("text", RECIPES.values(), ids=RECIPES)
def test_no_step_waits_for_the_gpu(text, how, on_gpu):
    method = build(text, how, on_gpu())
    given = [Batch(pictures(0).cuda(), pictures(i).cuda()) for i in range(6)]
    for index in range(5):
        take(method, given[index], index)
    torch.cuda.set_sync_debug_mode("error")
    try:
        take(method, given[5], 5)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("how", ["compile: auto", "compile: reduce-overhead", "low_vram: true"])
@pytest.mark.parametrize("text", RECIPES.values(), ids=RECIPES)
def test_steps_on_the_gpu_equal_plain_ones(text, how, on_gpu):
    accelerator = on_gpu(allow_tf32=False)
    plain, other = (build(text, said, accelerator) for said in ("compile: 'no'", how))
    assert plain._compile is None
    assert other._compile is not None  # as on every GPU that Triton makes code for
    given = Batch(pictures(0).cuda(), pictures(100).cuda())
    for index in range(3):
        a, b = take(plain, given, index), take(other, given, index)
        for name in a:
            assert b[name].item() == pytest.approx(a[name].item(), rel=1e-3), (index, name)


@pytest.mark.gpu
@pytest.mark.parametrize("how", ["compile: auto", "compile: reduce-overhead", "compile: reduce-overhead, low_vram: true"])
def test_a_students_steps_on_the_gpu_equal_plain_ones(how, on_gpu):
    accelerator = on_gpu(allow_tf32=False)
    network = "network: {arch: unet-lite, width: 8, blocks: 1}, content: {network: efficientnet-lite0}"
    made = []
    for said in ("compile: 'no'", how):
        method = create_method("student")
        text = f"style: x\ntrain: {{method: student, student_of: x, size: {SIDE}, batch_size: {BATCH}, {network}, {said}}}"
        method.build(parse_recipe(text), accelerator)
        method.watch(torch.nn.Conv2d(3, 3, 1).requires_grad_(False), Resolved("t", "teacher", Path(), "", "0" * 64, "", ""))
        method._teacher.load_state_dict({"weight": -torch.eye(3)[..., None, None], "bias": torch.zeros(3)})
        made.append(method)
    plain, other = made
    assert other._compile is not None
    given = Batch(pictures(0).cuda(), pictures(100).cuda())
    for index in range(4):
        a, b = take(plain, given, index), take(other, given, index)
        for name in a:
            assert b[name].item() == pytest.approx(a[name].item(), rel=1e-3), (index, name)


@pytest.mark.gpu
def test_pictures_reach_the_gpu_without_a_wait(on_gpu):
    levels = torch.randint(0, 256, (4, 8, 8, 3), dtype=torch.uint8)
    torch.cuda.set_sync_debug_mode("error")
    try:
        there = from_levels(send(levels, torch.device("cuda")))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(there.cpu(), from_levels(levels))
