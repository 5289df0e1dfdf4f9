"""DCT-Net's texture translator (Men et al., SIGGRAPH 2022): as ModelScope trains it, and our own default.

Preset `upstream` keeps the mathematics of ModelScope's CartoonTranslationTrainer: its losses with their divisors (feature and
picture size), a fresh forward of the updated generator for the discriminators, SLIC on the current result in B, G, R order.
Preset `default` takes plain means, the content's as a share of the features' size, shares the forward with the discriminators,
and adds what the recipe names.

A step asks the device for no number, so that it does not wait before the loop logs. The exceptions: fp16, whose scaler asks in
every step; preset `upstream`, which reads Adam's count after the first step and after loading; superpixels by scikit-image; and
photo features on their way to a file or, under `low_vram`, to the CPU's memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from stylekit.assets import Resolved, resolve
from stylekit.config.schema import ContentRecipe, Recipe
from stylekit.data.sampler import generator_for
from stylekit.data.superpixel import superpixels
from stylekit.faces.align import template_points
from stylekit.faces.identity import crop_for_identity, identity_crop_matrix
from stylekit.methods.base import Batch, StepContext, StepResult, build_generator
from stylekit.methods.photo_features import PhotoFeatures
from stylekit.nn import losses
from stylekit.nn.device import begin_step, compile_options, explained_compiling
from stylekit.nn.discriminator import PatchDiscriminator
from stylekit.nn.efficientnet import EfficientNetLite0
from stylekit.nn.palette import Palette
from stylekit.nn.parts import in_parts
from stylekit.nn.pretrained import load_pretrained
from stylekit.nn.projected import LAYERS, ProjectedDiscriminator
from stylekit.nn.threads import on_threads
from stylekit.nn.unet import guided_filter
from stylekit.nn.vgg import Vgg

ADAM_BETAS = (0.5, 0.99)
ADAM_EPS = 1e-8
SURFACE_RADIUS, SURFACE_EPS = 5, 0.2
_WEIGHT_OF = {
    "g_gray": "lambda_texture",
    "g_blur": "lambda_surface",
    "g_projected": "lambda_projected",
    "content": "lambda_content",
    "palette": "lambda_palette",
    "tv": "lambda_tv",
    "identity": "lambda_identity",
}

N = TypeVar("N")
S = TypeVar("S", Tensor, dict[str, Tensor])
FEATURE_NETWORKS: tuple[type[EfficientNetLite0 | Vgg], ...] = (EfficientNetLite0, Vgg)
Features = Callable[[Tensor, tuple[str, ...]], dict[str, Tensor]]


def content_layers(content: ContentRecipe) -> tuple[str, ...]:
    """Return the recipe's layers, or the network's usual ones."""
    usual = {"vgg19-caffe": ("conv4_4",), "vgg16-hed": ("conv3_3",), "efficientnet-lite0": ("block2", "block4")}
    return content.layers or usual[content.network]


def surface(picture: Tensor) -> Tensor:
    """The smoothed picture that `disc_blur` sees: the guided filter of a picture by itself, radius 5, eps 0.2."""
    return guided_filter(picture, picture, SURFACE_RADIUS, SURFACE_EPS)


def upstream_content(targets: Sequence[Tensor], of_fake: Tensor) -> Tensor:
    """ModelScope's content loss: (mean|F(photo)-F(fake)| + mean|F(superpixel)-F(fake)|) / (h*w*c) of the feature map.

    Args:
        targets: The maps of photo and superpixel, [N, c, h, w].
        of_fake: The result's.
    """
    return torch.stack([(target - of_fake).abs().mean() for target in targets]).sum() / of_fake[0].numel()


class TensorFlowEpsilon:
    """Sets an Adam's epsilon so that its next step is TensorFlow's, whose epsilon stands outside the bias correction.

    TensorFlow divides by sqrt(v) + eps, the correction being in the rate; torch divides by sqrt(v) / sqrt(1 - beta2^t) + eps.
    A fused Adam's own count t lies on the device: it is read only where it is a new one, after the first step and after loading.

    Args:
        adam: The optimizer.
        skips: Whether a step may be none, as fp16's scaler has it after an overflow: the count is then read every time.
    """

    def __init__(self, adam: torch.optim.Optimizer, *, skips: bool = False) -> None:
        self._adam, self._skips = adam, skips
        self._known: Tensor | None = None
        self._done = 0

    def set(self) -> None:
        """Make ready for the next step, which follows."""
        (group,) = self._adam.param_groups
        count = self._adam.state.get(group["params"][0], {}).get("step")
        if self._skips or count is None or count is not self._known:
            self._known, self._done = count, 0 if count is None else int(count)
        self._done += 1
        group["eps"] = ADAM_EPS / math.sqrt(1 - ADAM_BETAS[1] ** self._done)


def judge(discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """A patch discriminator's loss on both halves in one pass, so after one power iteration, as upstream reads u once a run."""
    of_real, of_fake = discriminator(torch.cat((real, fake))).chunk(2)
    return losses.lsgan_discriminator(of_real, of_fake)


def upstream_tv(fake: Tensor) -> Tensor:
    """ModelScope's total variation: the plain mean divided by 3*h*w of the picture."""
    return losses.total_variation(fake) / fake[0].numel()


def load_frozen(
    kind: type[N] | tuple[type[N], ...], role: str, name: str, given: Mapping[str, Resolved], accelerator: Accelerator
) -> tuple[Resolved, N]:
    """Load a frozen network onto the accelerator's device.

    Args:
        kind: What it must be.
        role: What it serves as.
        name: Which one the recipe prefers.
        given: Those, by role, that take the place of the catalogue's.
        accelerator: Where it runs.

    Raises:
        AssetError: If it is missing.
    """
    asset = given.get(role) or resolve(role, prefer=name)
    network = load_pretrained(asset).to(accelerator.device)
    assert isinstance(network, kind)
    if accelerator.device.type == "cuda" and isinstance(network, nn.Module):
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return asset, network


def looking(
    network: EfficientNetLite0 | Vgg, accelerator: Accelerator, options: dict[str, Any] | None, *, low_vram: bool
) -> Features:
    """Return a frozen network's `features` as a step calls it: in the run's precision and parts, maps in float32.

    Args:
        network: On the accelerator's device.
        accelerator: Its precision.
        options: What `compile_options` returned.
        low_vram: Look at a batch in parts.
    """
    look: Features = network.features
    if options is not None:
        look = torch.compile(look, **options)
    if accelerator.mixed_precision != "no":
        look = _in_precision(look, accelerator)
    return spread_out(look, accelerator, options, low_vram=low_vram)


def spread_out(
    function: Callable[..., S], accelerator: Accelerator, options: dict[str, Any] | None, *, low_vram: bool
) -> Callable[..., S]:
    """Return a network as a step calls it: a few pictures at a time under `low_vram`, else on a CPU its cores side by side.

    Args:
        function: The network, or what looks through one.
        accelerator: Several processes each have a core already.
        options: What `compile_options` returned; compiled code is not for several threads.
        low_vram: Whether to save memory.
    """
    if low_vram:
        return in_parts(function)
    return function if options is not None or accelerator.num_processes > 1 else on_threads(function)


def _in_precision(look: Features, accelerator: Accelerator) -> Features:
    def look_roughly(picture: Tensor, layers: tuple[str, ...]) -> dict[str, Tensor]:
        with accelerator.autocast():
            return {layer: maps.float() for layer, maps in look(picture, layers).items()}

    return look_roughly


class DctNet:
    """The method named `dctnet`."""

    def build(self, recipe: Recipe, accelerator: Accelerator, assets: Mapping[str, Resolved] | None = None) -> None:
        """Make the generator, the discriminators the recipe gives weight to, and the frozen networks."""
        train = recipe.train
        self.train = train
        self.accelerator = accelerator
        self.upstream = train.preset == "upstream"
        self.weights = train.loss
        self.assets: dict[str, Resolved] = {}
        self._given = assets or {}
        self._compile = compile_options(train.compile, accelerator.device, low_vram=train.low_vram)
        self._photo_features: PhotoFeatures | None = None

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator_for(recipe.seed, "init", 0).initial_seed())
            generator = build_generator(recipe)
            if train.warm_start == "identity" and not train.init:
                generator.start_as_identity()
            trained: dict[str, nn.Module] = {"generator": generator}
            if self.weights.lambda_texture:
                trained["disc_gray"] = PatchDiscriminator(1, train.network.width)
            if self.weights.lambda_surface:
                trained["disc_blur"] = PatchDiscriminator(3, train.network.width)
            if self.weights.lambda_projected:
                projection = self._load(EfficientNetLite0, "fid-features", "efficientnet-lite0")
                trained["disc_projected"] = ProjectedDiscriminator(tuple(projection.channels(layer) for layer in LAYERS))
                self.projection = self._looking(projection)
            if self.weights.lambda_palette:
                trained["palette"] = Palette()
        if self.weights.lambda_content:
            self.content_layers = content_layers(train.content)[-1 if self.upstream else 0 :]
            self.content = self._looking(self._load(FEATURE_NETWORKS, "content", train.content.network))
            if train.cache_photo_features:
                self._photo_features = PhotoFeatures(
                    lambda picture: self.content(picture, self.content_layers),
                    f"{self.assets['content'].sha256} {self.content_layers} {train.size} {train.superpixels == 'photo'} "
                    f"{accelerator.mixed_precision} {train.allow_tf32} {accelerator.device.type}",
                    torch.device("cpu") if train.low_vram else accelerator.device,
                    mirrored=train.augment.flip,
                )
        # One pass over the result serves both where they look through the same network.
        self.one_pass = (
            bool(self.weights.lambda_projected and self.weights.lambda_content) and train.content.network == "efficientnet-lite0"
        )
        if self.weights.lambda_identity:
            self.embedder = self._load(nn.Module, "identity", "dlib-resnet")
            eyes_nose_mouth = template_points(recipe.align.template, train.size)
            self.identity_matrix = torch.from_numpy(identity_crop_matrix(eyes_nose_mouth))
        self._surface, self._painted = surface, self._paint
        if self._compile is not None:
            self._surface = torch.compile(surface, **self._compile)
            if train.superpixel_engine == "auto":
                self._painted = torch.compile(self._paint, **self._compile)
            for name, network in trained.items():
                if name != "palette":
                    network.compile(**self._compile)
        if train.low_vram:
            self._painted = in_parts(self._painted)

        layout = torch.channels_last
        prepared = {name: net.to(accelerator.device).to(memory_format=layout) for name, net in trained.items()}  # type: ignore[call-overload]
        self.networks = {
            name: accelerator.prepare(net) if any(True for _ in net.parameters()) else net for name, net in prepared.items()
        }
        self.generator = self.networks["generator"]
        self._generate: Callable[[Tensor], Tensor] = spread_out(
            self.generator, accelerator, self._compile, low_vram=train.low_vram
        )
        self.discriminators = [net for name, net in self.networks.items() if name.startswith("disc_")]
        trained_by = {"generator": [self.generator], "discriminators": self.discriminators}
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        for name, networks in trained_by.items():
            if parameters := [p for net in networks for p in net.parameters()]:
                adam = torch.optim.Adam(parameters, lr=train.learning_rate, betas=ADAM_BETAS, eps=ADAM_EPS, fused=True)
                self.optimizers[name] = accelerator.prepare(adam)
        skips = accelerator.mixed_precision == "fp16"
        self._epsilons = (
            {name: TensorFlowEpsilon(adam, skips=skips) for name, adam in self.optimizers.items()} if self.upstream else {}
        )

    def _load(self, kind: type[N] | tuple[type[N], ...], role: str, name: str) -> N:
        self.assets[role], network = load_frozen(kind, role, name, self._given, self.accelerator)
        return network

    def _looking(self, network: EfficientNetLite0 | Vgg) -> Features:
        return looking(network, self.accelerator, self._compile, low_vram=self.train.low_vram)

    @explained_compiling()
    def step(self, batch: Batch, context: StepContext) -> StepResult:
        """Update the generator, then the discriminators, on one batch."""
        begin_step(self._compile, self.optimizers.values())
        if context.step < self.train.warm_start_steps:
            reconstruction = (self._generate(batch.photo) - batch.photo).abs().mean()
            self._update("generator", reconstruction)
            return StepResult({"loss/reconstruction": reconstruction.detach()})

        found: dict[str, Tensor] = {}
        for net in self.discriminators:
            net.requires_grad_(False)
        fake = self._generate(batch.photo).float()
        self._adversarial(fake, context.generator, found)
        seen = {} if self.upstream else self._look(fake)
        total = self._upstream_loss(fake, batch, found) if self.upstream else self._default_loss(fake, seen, batch, found)
        self._update("generator", total)

        if self.discriminators:
            for net in self.discriminators:
                net.requires_grad_(True)
            if self.train.shares_fake:
                fake = fake.detach()
            else:
                with torch.no_grad():
                    fake = self._generate(batch.photo).float()
                    seen = self.projection(fake, LAYERS) if self.weights.lambda_projected else {}
            self._update("discriminators", self._discriminator_loss(fake, seen, batch.cartoon, context.generator, found))
        return StepResult({f"loss/{name}": value.detach() for name, value in found.items()})

    def _adversarial(self, fake: Tensor, generator: torch.Generator, found: dict[str, Tensor]) -> None:
        """Put the two patch discriminators' generator losses into `found`."""
        if self.weights.lambda_texture:
            gray = losses.colour_shift(fake, losses.draw_gray_weights(generator, fake))
            found["g_gray"] = losses.lsgan_generator(self.networks["disc_gray"](gray))
        if self.weights.lambda_surface:
            found["g_blur"] = losses.lsgan_generator(self.networks["disc_blur"](self._surface(fake)))

    def _upstream_loss(self, fake: Tensor, batch: Batch, found: dict[str, Tensor]) -> Tensor:
        (layer,) = self.content_layers
        targets = [target[layer] for target in self._targets(fake, batch)]
        found["content"] = upstream_content(targets, self.content(fake, (layer,))[layer])
        found["tv"] = upstream_tv(fake)
        return self._weigh(found)

    def _look(self, fake: Tensor) -> dict[str, Tensor]:
        """Return the frozen networks' maps of the result, for the content loss and the projected discriminators."""
        if self.one_pass:
            return self.content(fake, tuple(dict.fromkeys((*self.content_layers, *LAYERS))))
        seen = self.content(fake, self.content_layers) if self.weights.lambda_content else {}
        return seen | (self.projection(fake, LAYERS) if self.weights.lambda_projected else {})

    def _default_loss(self, fake: Tensor, seen: dict[str, Tensor], batch: Batch, found: dict[str, Tensor]) -> Tensor:
        """Weigh and add the generator's losses, leaving each plain value in `found`."""
        weights = self.weights
        if weights.lambda_projected:
            scores = self.networks["disc_projected"]({layer: seen[layer] for layer in LAYERS})
            found["g_projected"] = losses.hinge_generator(scores)
        if weights.lambda_content:
            of_fake = {layer: seen[layer] for layer in self.content_layers}
            targets = self._targets(fake, batch)
            found["content"] = torch.stack([losses.feature_distance(target, of_fake) for target in targets]).mean()
        if weights.lambda_palette:
            palette = self.networks["palette"]
            palette.remember(batch.cartoon)
            found["palette"] = palette(fake, batch.photo)
        if weights.lambda_tv:
            found["tv"] = losses.total_variation(fake)
        if weights.lambda_identity:
            matrices = self.identity_matrix.expand(len(fake), 2, 3)
            with torch.no_grad():
                of_photo = self.embedder(crop_for_identity(batch.photo, matrices))
            of_fake = self.embedder(crop_for_identity(fake, matrices))
            found["identity"] = (of_fake - of_photo).square().sum(1).mean()
        return self._weigh(found)

    def _weigh(self, found: dict[str, Tensor]) -> Tensor:
        return torch.stack([getattr(self.weights, _WEIGHT_OF[name]) * value for name, value in found.items()]).sum()

    def _paint(self, fake: Tensor) -> Tensor:
        return superpixels(fake, bgr=self.upstream, engine=self.train.superpixel_engine)

    @torch.no_grad()
    def _targets(self, fake: Tensor, batch: Batch) -> list[dict[str, Tensor]]:
        """Return what the content network sees in the photograph and, where the recipe asks for them, in its superpixels."""
        fixed = [batch.photo] if batch.superpixel is None else [batch.photo, batch.superpixel]
        made = [self._painted(fake)] if self.train.superpixels == "stylized" else []
        known: list[dict[str, Tensor]] = []
        if self._photo_features is not None and batch.drawn is not None:
            kept = self._photo_features.get(batch.drawn, fixed)
            if kept is not None:
                known, fixed = kept, []
        if not (new := [*fixed, *made]):
            return known
        seen = self.content(torch.cat(new), self.content_layers)
        return known + [{layer: maps.chunk(len(new))[i] for layer, maps in seen.items()} for i in range(len(new))]

    def _discriminator_loss(
        self, fake: Tensor, seen: dict[str, Tensor], real: Tensor, generator: torch.Generator, found: dict[str, Tensor]
    ) -> Tensor:
        weights = self.weights
        if weights.lambda_texture:
            gray, net = losses.draw_gray_weights(generator, fake), self.networks["disc_gray"]
            found["d_gray"] = judge(net, losses.colour_shift(real, gray), losses.colour_shift(fake, gray))
        if weights.lambda_surface:
            net = self.networks["disc_blur"]
            found["d_blur"] = judge(net, self._surface(real), self._surface(fake))
        if weights.lambda_projected:
            net = self.networks["disc_projected"]
            with torch.no_grad():
                of_real = self.projection(real, LAYERS)
            of_fake = {layer: seen[layer].detach() for layer in LAYERS}
            found["d_projected"] = losses.hinge_discriminator(net(of_real), net(of_fake))
        return torch.stack([found[name] for name in ("d_gray", "d_blur", "d_projected") if name in found]).sum()

    def _update(self, name: str, loss: Tensor) -> None:
        optimizer = self.optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(loss)
        if self.train.gradient_clip:
            self.accelerator.clip_grad_norm_(
                [p for group in optimizer.param_groups for p in group["params"]], self.train.gradient_clip
            )
        if (epsilon := self._epsilons.get(name)) is not None:
            epsilon.set()
        optimizer.step()
