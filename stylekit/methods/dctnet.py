"""DCT-Net's texture translator (Men et al., SIGGRAPH 2022): as ModelScope trains it, and our own default.

Preset `upstream` keeps the mathematics of ModelScope's CartoonTranslationTrainer: its losses with their divisors (feature and
picture size), a fresh forward of the updated generator for the discriminators, SLIC on the current result in B, G, R order.
Preset `default` takes plain means, the content's as a share of the features' size, shares the forward with the discriminators,
and adds what the recipe names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from stylekit.assets import Resolved, resolve
from stylekit.config.schema import ContentRecipe, Recipe
from stylekit.data.sampler import generator_for
from stylekit.data.superpixel import superpixels
from stylekit.faces.align import template_points
from stylekit.faces.identity import crop_for_identity, identity_crop_matrix
from stylekit.methods.base import Batch, StepContext, StepResult
from stylekit.nn import losses
from stylekit.nn.discriminator import PatchDiscriminator
from stylekit.nn.efficientnet import EfficientNetLite0
from stylekit.nn.palette import Palette
from stylekit.nn.pretrained import load_pretrained
from stylekit.nn.projected import LAYERS, ProjectedDiscriminator
from stylekit.nn.unet import Generator, guided_filter
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
FEATURE_NETWORKS: tuple[type[EfficientNetLite0 | Vgg], ...] = (EfficientNetLite0, Vgg)
Features = Callable[[Tensor, tuple[str, ...]], dict[str, Tensor]]


def content_layers(content: ContentRecipe) -> tuple[str, ...]:
    """Return the recipe's layers, or the network's usual ones."""
    usual = {"vgg19-caffe": ("conv4_4",), "vgg16-hed": ("conv3_3",), "efficientnet-lite0": ("block2", "block4")}
    return content.layers or usual[content.network]


def surface(picture: Tensor) -> Tensor:
    """The smoothed picture that `disc_blur` sees: the guided filter of a picture by itself, radius 5, eps 0.2."""
    return guided_filter(picture, picture, SURFACE_RADIUS, SURFACE_EPS)


def upstream_content(features: Features, layer: str, photo: Tensor, fake: Tensor, superpixel: Tensor) -> Tensor:
    """ModelScope's content loss: (mean|F(photo)-F(fake)| + mean|F(superpixel)-F(fake)|) / (h*w*c) of the feature map."""
    with torch.no_grad():
        kept = features(torch.cat((photo, superpixel)), (layer,))[layer]
    of_photo, of_superpixel = kept.chunk(2)
    of_fake = features(fake, (layer,))[layer]
    distance = (of_photo - of_fake).abs().mean() + (of_superpixel - of_fake).abs().mean()
    return distance / of_fake[0].numel()


def match_tensorflow(adam: torch.optim.Optimizer) -> None:
    """Set an Adam's epsilon so that its next step is TensorFlow's, whose epsilon stands outside the bias correction.

    TensorFlow divides by sqrt(v) + eps, the correction being in the rate; torch divides by sqrt(v) / sqrt(1 - beta2^t) + eps.
    """
    for group in adam.param_groups:
        done = int(adam.state.get(group["params"][0], {}).get("step", 0))
        group["eps"] = ADAM_EPS / math.sqrt(1 - ADAM_BETAS[1] ** (done + 1))


def judge(discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """A patch discriminator's loss on both halves in one pass, so after one power iteration, as upstream reads u once a run."""
    of_real, of_fake = discriminator(torch.cat((real, fake))).chunk(2)
    return losses.lsgan_discriminator(of_real, of_fake)


def upstream_tv(fake: Tensor) -> Tensor:
    """ModelScope's total variation: the plain mean divided by 3*h*w of the picture."""
    return losses.total_variation(fake) / fake[0].numel()


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
        self._slic = ThreadPoolExecutor(2) if train.superpixels == "stylized" else None

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator_for(recipe.seed, "init", 0).initial_seed())
            generator = Generator(train.network.width, train.network.blocks)
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
                self.projection: Features = projection.features
            if self.weights.lambda_palette:
                trained["palette"] = Palette()
        if self.weights.lambda_content:
            self.content_layers = content_layers(train.content)
            self.content: Features = self._load(FEATURE_NETWORKS, "content", train.content.network).features
        # One pass over the result serves both where they look through the same network.
        self.one_pass = (
            bool(self.weights.lambda_projected and self.weights.lambda_content) and train.content.network == "efficientnet-lite0"
        )
        if self.weights.lambda_identity:
            self.embedder = self._load(nn.Module, "identity", "dlib-resnet")
            eyes_nose_mouth = template_points(recipe.align.template, train.size)
            self.identity_matrix = torch.from_numpy(identity_crop_matrix(eyes_nose_mouth))

        layout = torch.channels_last
        prepared = {name: net.to(accelerator.device).to(memory_format=layout) for name, net in trained.items()}  # type: ignore[call-overload]
        self.networks = {
            name: accelerator.prepare(net) if any(True for _ in net.parameters()) else net for name, net in prepared.items()
        }
        self.generator = self.networks["generator"]
        self.discriminators = [net for name, net in self.networks.items() if name.startswith("disc_")]
        trained_by = {"generator": [self.generator], "discriminators": self.discriminators}
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        for name, networks in trained_by.items():
            if parameters := [p for net in networks for p in net.parameters()]:
                adam = torch.optim.Adam(parameters, lr=train.learning_rate, betas=ADAM_BETAS, eps=ADAM_EPS, fused=True)
                self.optimizers[name] = accelerator.prepare(adam)

    def _load(self, kind: type[N] | tuple[type[N], ...], role: str, name: str) -> N:
        self.assets[role] = self._given.get(role) or resolve(role, prefer=name)
        network = load_pretrained(self.assets[role]).to(self.accelerator.device)
        assert isinstance(network, kind)
        return network

    def step(self, batch: Batch, context: StepContext) -> StepResult:
        """Update the generator, then the discriminators, on one batch."""
        if context.step < self.train.warm_start_steps:
            reconstruction = (self.generator(batch.photo) - batch.photo).abs().mean()
            self._update("generator", reconstruction)
            return StepResult({"loss/reconstruction": reconstruction.detach()})

        found: dict[str, Tensor] = {}
        for net in self.discriminators:
            net.requires_grad_(False)
        fake = self.generator(batch.photo).float()
        self._adversarial(fake, context.generator, found)
        seen = {} if self.upstream else self._look(fake)
        total = self._upstream_loss(fake, batch, found) if self.upstream else self._default_loss(fake, seen, batch, found)
        self._update("generator", total)

        if self.discriminators:
            for net in self.discriminators:
                net.requires_grad_(True)
            with torch.no_grad():
                fake = self.generator(batch.photo).float() if self.upstream else fake.detach()
            self._update("discriminators", self._discriminator_loss(fake, seen, batch.cartoon, context.generator, found))
        return StepResult({f"loss/{name}": value.detach() for name, value in found.items()})

    def _adversarial(self, fake: Tensor, generator: torch.Generator, found: dict[str, Tensor]) -> None:
        """Put the two patch discriminators' generator losses into `found`."""
        if self.weights.lambda_texture:
            gray = losses.colour_shift(fake, losses.draw_gray_weights(generator, fake))
            found["g_gray"] = losses.lsgan_generator(self.networks["disc_gray"](gray))
        if self.weights.lambda_surface:
            found["g_blur"] = losses.lsgan_generator(self.networks["disc_blur"](surface(fake)))

    def _upstream_loss(self, fake: Tensor, batch: Batch, found: dict[str, Tensor]) -> Tensor:
        target = superpixels(fake, self._slic, bgr=True)
        found["content"] = upstream_content(self.content, self.content_layers[-1], batch.photo, fake, target)
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
            found["content"] = self._content_loss({layer: seen[layer] for layer in self.content_layers}, fake, batch)
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

    def _content_loss(self, of_fake: dict[str, Tensor], fake: Tensor, batch: Batch) -> Tensor:
        target = superpixels(fake, self._slic) if self._slic else batch.superpixel
        with torch.no_grad():
            kept = self.content(batch.photo if target is None else torch.cat((batch.photo, target)), self.content_layers)
        parts = [kept] if target is None else [{k: v.chunk(2)[i] for k, v in kept.items()} for i in range(2)]
        return torch.stack([losses.feature_distance(part, of_fake) for part in parts]).mean()

    def _discriminator_loss(
        self, fake: Tensor, seen: dict[str, Tensor], real: Tensor, generator: torch.Generator, found: dict[str, Tensor]
    ) -> Tensor:
        weights = self.weights
        if weights.lambda_texture:
            gray, net = losses.draw_gray_weights(generator, fake), self.networks["disc_gray"]
            found["d_gray"] = judge(net, losses.colour_shift(real, gray), losses.colour_shift(fake, gray))
        if weights.lambda_surface:
            net = self.networks["disc_blur"]
            found["d_blur"] = judge(net, surface(real), surface(fake))
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
        if self.upstream:
            match_tensorflow(optimizer)
        optimizer.step()
