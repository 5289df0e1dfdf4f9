"""The recipe: one file that describes a style from prompt to publication.

Every default lives here and nowhere else. Models are frozen and refuse unknown keys, so a resolved recipe can travel with
the run, the checkpoint and the export, and equals itself when read back.
"""

from __future__ import annotations

import json
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PhotoRecipe(_Section):
    """Which photographs the style is trained against."""

    source: str = Field(
        "asset:starter-photos",
        description="`asset:NAME` (a data set of the catalogue), or a folder, zip or shards of photographs; aligned into "
        "datasets/photos.",
    )
    eval_fraction: Fraction = Field(0.2, description="Share of the persons held out for evaluation, never trained on.")


class GenerateRecipe(_Section):
    """Where the cartoon pictures come from."""

    engine: Literal["diffusers", "modelscope", "edit", "dicebear", "folder"] = "diffusers"
    model: str | None = Field(
        None,
        description="diffusers, edit: a Hugging Face id, a folder, or a known style (archer); edit also: `folder:DIR`, pictures "
        "made elsewhere; modelscope: design, watercolor, illustration, clipart or flat; dicebear: a style (toon-head); "
        "folder: the folder of pictures.",
    )
    revision: str | None = Field(None, description="The model's revision, for models that come from a hub.")
    lora: tuple[str, ...] = Field(
        (), description="LoRA files or ids laid on the model, each with `:WEIGHT` behind it where that is not 1."
    )
    prompt: str | None = Field(None, description="The prompt; `{person}` is filled from `people`.")
    people: str = Field(
        "balanced",
        description="Who is in the pictures: `balanced` (built-in descriptions), `celebrities` (the model cards' list, fetched "
        "or brought), or a text file, one person a line.",
    )
    negative: str = Field("", description="What the picture should not show.")
    count: Count = Field(200, description="Pictures to make.")
    steps: Count = Field(50, description="Denoising steps.")
    guidance: NonNegative = Field(7.5, description="Classifier-free guidance scale.")
    scheduler: str = Field(
        "auto",
        description="diffusers' class name; `auto` is EulerAncestralDiscreteScheduler, as the styles' model cards have it, and "
        "for flow-matching models (SD3, FLUX) their own.",
    )
    size: Annotated[int, Field(ge=16, le=4096, multiple_of=8)] = Field(512, description="Picture side in pixels.")
    precision: Literal["auto", "fp32", "fp16", "bf16"] = Field(
        "auto",
        description="Of the model; `auto` is fp16 on a CUDA GPU, bf16 there for flow-matching models (SD3, FLUX), else fp32.",
    )
    memory: Literal["auto", "slice", "offload"] = Field(
        "auto",
        description="`slice` computes attention and VAE in slices, `offload` also keeps what is not at work in main memory; "
        "`auto` does either only when memory runs out.",
    )
    batch_size: Count | None = Field(None, description="Pictures made at once; null finds by memory how many.")
    from_photos: str | None = Field(None, description="edit: the folder of photographs that are edited.")
    strength: Annotated[float, Field(gt=0, le=1)] = Field(
        0.6, description="edit: how far image-to-image leaves the photograph; instruction editors have none."
    )
    options: dict[str, str | int | float | bool | list[str]] = Field(
        default_factory=dict,
        description="dicebear: options of the drawing style; edit: further arguments of the pipeline's call "
        "(image_guidance_scale).",
    )


class AlignRecipe(_Section):
    """How faces are found, cropped and judged."""

    landmarks: Literal["mesh", "face-alignment", "dlib"] = Field(
        "mesh", description="What finds faces and their points; the last two need packages and weights of their own."
    )
    template: Literal["dctnet", "ffhq", "arcface"] = "dctnet"
    size: Annotated[int, Field(ge=32, le=1024, multiple_of=4)] = Field(256, description="Crop side in pixels.")
    faces: Literal["auto", "all", "largest"] = Field(
        "auto", description="Which faces of a picture; `auto` is all of a photograph and the largest of a cartoon."
    )
    min_face_px: Count = Field(48, description="Smallest side of the face box, in pixels of the input.")
    min_sharpness: NonNegative = Field(20.0, description="Photographs: variance of the Laplacian of the gray 256 px crop.")
    max_yaw_deg: Annotated[float, Field(gt=0, le=90)] = Field(50.0, description="Photographs: furthest turn of the head.")


class NetworkRecipe(_Section):
    """The generator and its size."""

    arch: Literal["unet", "unet-lite"] = Field("unet", description="`unet-lite` is the one for phones and browsers.")
    width: Annotated[int, Field(ge=4, le=256)] = Field(
        32, description="Channels: of the unet at full resolution, doubled twice on the way down; of the unet-lite at a quarter."
    )
    blocks: Annotated[int, Field(ge=0, le=16)] = Field(
        4, description="Residual blocks at the lowest resolution: a quarter in the unet, an eighth in the unet-lite."
    )


def _vgg_layers(*repeats: int) -> tuple[str, ...]:
    return tuple(f"conv{group}_{k}" for group, count in enumerate(repeats, 1) for k in range(1, count + 1))


CONTENT_LAYERS = {
    "vgg19-caffe": _vgg_layers(2, 2, 4, 4, 4),
    "vgg16-hed": _vgg_layers(2, 2, 3, 3, 3),
    "efficientnet-lite0": tuple(f"block{index}" for index in range(16)),
}


class ContentRecipe(_Section):
    """The frozen network that says whether the photograph's content was kept."""

    network: Literal["auto", "vgg19-caffe", "vgg16-hed", "efficientnet-lite0"] = Field(
        "auto", description="`auto` takes the best available; the resolved recipe names it."
    )
    layers: tuple[str, ...] = Field((), description="Feature layers; empty takes the network's usual one (VGG-19: conv4_4).")

    @model_validator(mode="after")
    def _layers_of_the_network(self) -> ContentRecipe:
        if self.network == "auto" and self.layers:
            raise ValueError("layers go with a network, and auto names none", "Set train.content.network too.")
        known = CONTENT_LAYERS.get(self.network, ())
        for layer in self.layers:
            if layer not in known:
                likely = get_close_matches(layer, known, n=1)
                hint = f"Did you mean {likely[0]}?" if likely else f"Its layers: {', '.join(known)}."
                raise ValueError(f"{self.network} has no layer {layer}", hint)
        return self


class AugmentRecipe(_Section):
    """Geometry expansion, drawn anew for every picture of every batch."""

    flip: bool = True
    scale: tuple[float, float] = Field((0.9, 1.1), description="Range of the zoom factor.")
    rotate_deg: NonNegative = Field(10.0, description="Rotation is uniform in plus and minus this many degrees.")

    @model_validator(mode="after")
    def _ordered(self) -> AugmentRecipe:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError("scale must be two positive numbers, the smaller first")
        return self


class LossRecipe(_Section):
    """Weights of the losses; preset `upstream` has its own, fixed, of losses that it divides by feature and picture size."""

    lambda_surface: NonNegative = Field(0.1, description="adversarial loss on the smoothed picture (disc_blur).")
    lambda_texture: NonNegative = Field(0.1, description="adversarial loss on the colour-shifted gray picture (disc_gray).")
    lambda_content: NonNegative = Field(0.06, description="relative feature distance to photo and superpixels.")
    lambda_tv: NonNegative = Field(0.05, description="total variation.")
    lambda_identity: NonNegative = Field(0.0, description="squared distance of dlib's face embeddings of photo and stylized.")
    lambda_palette: NonNegative = Field(0.0, description="distance to the colours that similar cartoons have at the same place.")
    lambda_projected: NonNegative = Field(0.0, description="discriminators on frozen EfficientNet features (Sauer et al. 2021).")


class TrainRecipe(_Section):
    """How the network is trained."""

    method: Literal["dctnet", "student", "template"] = Field(
        "dctnet", description="`student` learns to draw what `student_of` draws."
    )
    engine: Literal["torch", "modelscope"] = Field(
        "torch", description="`modelscope` runs upstream's own trainer on TensorFlow, which implies preset `upstream`."
    )
    preset: Literal["upstream", "default"] = Field("default", description="`upstream` equals ModelScope's mathematics.")
    init: str | None = Field(
        None,
        description="What to start from. For a new style: a run, a checkpoint, a style bundle, a frozen graph (.pb), a model "
        "folder of ModelScope, or one of the published styles (`modelscope:3d`). To go on with a training, with Adam's moments: "
        "a TensorFlow checkpoint (`tf_ckpts/model-299999`), whose steps count towards max_steps.",
    )
    student_of: str | None = Field(
        None, description="student: whose pictures it learns to draw; a run, a checkpoint, a style bundle or whatever init takes."
    )
    network: NetworkRecipe = NetworkRecipe()
    content: ContentRecipe = ContentRecipe()
    size: Annotated[int, Field(ge=32, le=1024, multiple_of=8)] = Field(256, description="Picture side in training.")
    batch_size: Count = 16
    max_steps: Count = 300_000
    superpixels: Literal["stylized", "photo", "off"] = Field(
        "stylized",
        description="Content target beside the photo: superpixels of the result (every step), of the photo (once), or none.",
    )
    superpixel_engine: Literal["auto", "scikit-image"] = Field(
        "auto", description="Who finds the superpixels of the result: `auto` is the fastest there is on the device."
    )
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = Field(2e-4, description="Adam, betas 0.5 and 0.99, constant.")
    loss: LossRecipe = LossRecipe()
    augment: AugmentRecipe = AugmentRecipe()
    warm_start: Literal["none", "identity"] = Field(
        "identity", description="`identity` starts from weights that repeat the photograph."
    )
    warm_start_steps: Annotated[int, Field(ge=0)] = Field(
        0, description="First steps that only learn to repeat the photograph (L1)."
    )
    ema_half_life_images: NonNegative = Field(
        10_000, description="Half-life of the generator's running mean, in pictures; 0 switches it off."
    )
    gradient_clip: NonNegative = Field(0.0, description="Largest gradient norm; 0 does not clip.")
    share_fake: bool | None = Field(
        None,
        description="Whether the discriminators learn from the result that the generator's own update saw, instead of a fresh "
        "one; null: in preset default they do, in upstream they do not.",
    )
    cache_photo_features: bool = Field(
        False,
        description="Keep what the content network sees in each photograph instead of looking again; needs photographs that are "
        "neither zoomed nor turned.",
    )
    mixed_precision: Literal["no", "fp16", "bf16"] = Field(
        "no", description="Of the networks on a GPU; losses and guided filters stay in float32."
    )
    allow_tf32: bool = Field(True, description="NVIDIA GPUs compute float32 convolutions with 10 bits of mantissa (TF32).")
    compile: Literal["auto", "no", "reduce-overhead"] = Field(
        "auto",
        description="torch.compile; `auto` compiles on CUDA, where Triton can, and `reduce-overhead` adds CUDA graphs.",
    )
    low_vram: bool = Field(
        False, description="Send the batch through the large networks in parts and compute them again for the gradient."
    )
    log_every: Count = 50
    sample_every: Count = 500
    save_every: Count = 1000
    eval_every: Annotated[int, Field(ge=0)] = Field(
        5000,
        description="Steps between evaluations on the held-out photographs; the best step is kept. 0 never evaluates.",
    )
    patience: Annotated[int, Field(ge=0)] = Field(
        0, description="Evaluations in a row without a better one before training ends early; 0 trains to max_steps."
    )
    keep_checkpoints: Count = Field(3, description="Newest checkpoints kept.")
    report_to: Literal["none", "tensorboard"] = "none"

    @model_validator(mode="before")
    @classmethod
    def _usual_where_nothing_else_is_said(cls, data: Any) -> Any:
        """Fill in that a student has no superpixels; and what the preset fixes, also over defaults that a recipe spells out."""
        if not isinstance(data, dict):
            return data
        if data.get("engine") == "modelscope" and data.get("preset") in (None, "default"):
            data = data | {"preset": "upstream"}
        if data.get("preset") != "upstream":
            return {"superpixels": "off"} | data if data.get("method") == "student" else data
        try:
            said = cls.model_validate(data | {"engine": "torch", "preset": "default", "cache_photo_features": False})
        except ValidationError:
            return data  # what is wrong is found again, and named, in the fields themselves
        return data | _instead_of(cls().model_dump(), said.model_dump(), UPSTREAM)

    @model_validator(mode="after")
    def _a_student_has_a_teacher(self) -> TrainRecipe:
        if self.method == "student" and self.preset == "upstream":
            raise ValueError("preset upstream knows no students", "Leave train.preset out.")
        if (self.method == "student") != (self.student_of is not None):
            lacking = "method" if self.student_of else "student_of"
            raise ValueError(
                f"a student has a teacher, and {lacking} does not say so",
                "Use stylekit train --student-of RUN, which sets both.",
            )
        if self.method == "student" and (found := _unknown(_STUDENT, self.model_dump())):
            key, value, known = found
            raise ValueError(f"method student knows no {key} {value}", f"Set train.{key} to {json.dumps(known[0])}.")
        return self

    @model_validator(mode="after")
    def _upstream_is_fixed(self) -> TrainRecipe:
        if self.preset == "upstream" and (other := _differing(UPSTREAM, self.model_dump(include=set(UPSTREAM)))):
            raise ValueError(
                f"preset upstream fixes {', '.join(other)}", f"Leave train.{other[0]} out, or set train.preset to default."
            )
        return self

    @model_validator(mode="after")
    def _photographs_come_back_as_they_were(self) -> TrainRecipe:
        if self.cache_photo_features and (self.augment.scale != (1.0, 1.0) or self.augment.rotate_deg):
            raise ValueError(
                "cache_photo_features needs photographs that are neither zoomed nor turned",
                "Set train.augment.scale to [1, 1] and train.augment.rotate_deg to 0, or leave train.cache_photo_features out.",
            )
        return self

    @property
    def shares_fake(self) -> bool:
        """What `share_fake` comes to."""
        return self.preset == "default" if self.share_fake is None else self.share_fake

    @model_validator(mode="after")
    def _what_upstreams_trainer_can_do(self) -> TrainRecipe:
        if self.engine == "modelscope" and (found := _unknown(_MODELSCOPE, self.model_dump())):
            key, value, _ = found
            raise ValueError(
                f"engine modelscope knows no {key} {list(value) if isinstance(value, tuple) else value}",
                f"Leave train.{key} out, or set train.engine to torch.",
            )
        return self


UPSTREAM: dict[str, Any] = {
    "network": NetworkRecipe().model_dump(),
    "loss": LossRecipe(lambda_surface=0.1, lambda_texture=0.1, lambda_content=200, lambda_tv=1e4).model_dump(),
    "augment": AugmentRecipe(flip=False, scale=(1.0, 1.0), rotate_deg=0.0).model_dump(),
    "superpixels": "stylized",
    "warm_start": "none",
    "warm_start_steps": 0,
    "ema_half_life_images": 0.0,
    "gradient_clip": 0.0,
}
"""What ModelScope does where this schema could say otherwise (its cartoon_translation_trainer.py and model_tf.py)."""

# What its own trainer can be told, beside that.
_MODELSCOPE: tuple[tuple[Any, ...], ...] = (
    ("method", "dctnet"),
    ("mixed_precision", "no"),
    ("share_fake", None, False),
    ("cache_photo_features", False),
    ("low_vram", False),
    ("compile", "auto"),
    ("allow_tf32", True),
    ("content.network", "auto", "vgg19-caffe"),
    ("content.layers", (), ("conv4_4",)),
)

# What a student has no use for, and the value that says so.
_STUDENT: tuple[tuple[Any, ...], ...] = (
    ("superpixels", "off"),
    ("warm_start_steps", 0),
    ("share_fake", None),
    ("cache_photo_features", False),
)


def _unknown(table: tuple[tuple[Any, ...], ...], said: dict[str, Any]) -> tuple[str, Any, list[Any]] | None:
    """Return the first dotted key of a table that is said to be none of the values behind it: key, value, and those values."""
    for key, *known in table:
        value: Any = said
        for part in key.split("."):
            value = value[part]
        if value not in known:
            return key, value, known
    return None


def _instead_of(usual: Any, said: Any, fixed: Any) -> Any:
    """Return `fixed` wherever `said` is no more than the `usual`, key by key."""
    if isinstance(fixed, dict):
        return {key: _instead_of(usual[key], said[key], fixed[key]) for key in fixed}
    return fixed if said == usual else said


def _differing(fixed: dict[str, Any], said: dict[str, Any], prefix: str = "") -> list[str]:
    """Return the dotted keys of `fixed` that are said otherwise."""
    found: list[str] = []
    for key, value in fixed.items():
        inner = isinstance(value, dict)
        found += _differing(value, said[key], f"{prefix}{key}.") if inner else [prefix + key] if said[key] != value else []
    return found


Extractor = Literal["vgg16-hed", "efficientnet-lite0", "inception-2015", "inception-2015-clean"]
Embedder = Literal["dlib-resnet", "arcface", "ir-se50", "mobilefacenet", "styleid"]


class EvalRecipe(_Section):
    """How a trained style is measured."""

    extractors: Annotated[tuple[Extractor, ...], Field(min_length=1)] = Field(
        ("vgg16-hed", "efficientnet-lite0"),
        description="KID and FID are taken with each; one that also served in training flatters.",
    )
    embedders: Annotated[tuple[Embedder, ...], Field(min_length=1)] = Field(
        ("dlib-resnet",), description="ID is taken with each; the first leads, and the report says where they disagree."
    )
    subsets: Count = Field(100, description="KID subsets.")

    @model_validator(mode="before")
    @classmethod
    def _one_embedder(cls, data: Any) -> Any:
        """Read the recipes of older runs, which named a single embedder."""
        if isinstance(data, dict) and "embedder" in data and "embedders" not in data:
            return {key: value for key, value in data.items() if key != "embedder"} | {"embedders": (data["embedder"],)}
        return data


class ExportRecipe(_Section):
    """What is written for use elsewhere."""

    formats: tuple[Literal["onnx", "onnx-int8", "safetensors", "torchscript", "modelscope"], ...] = ("onnx", "safetensors")


class StylizeRecipe(_Section):
    """How the style is shown, unless `stylekit stylize` is told otherwise."""

    strength: Fraction = Field(1.0, description="How much of the style shows: 0 is the photograph, 1 the style alone.")


class PublishRecipe(_Section):
    """Where the finished style goes."""

    to: str = Field("dir:exports", description="`dir:FOLDER`; hubs come later.")


class Recipe(_Section):
    """A style from prompt to publication."""

    style: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")] = Field(
        description="Name of the style, lower case and hyphens."
    )
    description: str = ""
    licence: str | None = Field(None, description="Licence of the published style (SPDX id); publishing asks for it.")
    authors: tuple[str, ...] = ()
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    photos: PhotoRecipe = PhotoRecipe()
    generate: GenerateRecipe = GenerateRecipe()
    align: AlignRecipe = AlignRecipe()
    train: TrainRecipe = TrainRecipe()
    eval: EvalRecipe = EvalRecipe()
    export: ExportRecipe = ExportRecipe()
    stylize: StylizeRecipe = StylizeRecipe()
    publish: PublishRecipe = PublishRecipe()
