"""Loading a diffusion pipeline: from a hub, a folder or one file, with LoRA, scheduler, precision and memory as a recipe says."""

from __future__ import annotations

import difflib
import gc
import inspect
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from stylekit.assets import hosts
from stylekit.assets.hosts import is_offline
from stylekit.config.schema import GenerateRecipe
from stylekit.errors import GenerationError, MissingPartError
from stylekit.generate.known import HUB_TIMEOUT_S, LICENCES, WITHOUT_A_HUB, resolve
from stylekit.paths import sha256_file

_LOG = logging.getLogger(__name__)

Task = Literal["text", "image"]
Memory = Literal["auto", "slice", "offload"]

_ONE_FILE = (".safetensors", ".ckpt")
_WEIGHTS = (".safetensors", ".bin")
_LORA_FILE = "pytorch_lora_weights.safetensors"  # as diffusers' save_lora_weights names it
_WEIGHT = re.compile(r"(?P<source>.+):(?P<weight>[-+]?(\d+\.?\d*|\.\d+))")
_HUB_FILE = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)/(?P<file>.+)")


@dataclass
class Loaded:
    """A pipeline, and what it was made of.

    Attributes:
        pipeline: diffusers' pipeline, on its device, silent.
        model: What a record calls the model (`known.Located.label`).
        revision: The commit that was loaded; for a folder or a file the SHA-256 of its weights, `sha256:` and 64 digits.
        scheduler: Class name of its scheduler.
        precision: Of the weights.
        device: Where it computes.
        memory: How it saves memory now; it only ever saves more.
        lora_sha256: Of the LoRA files, in the recipe's order.
        versions: Of the packages that paint.
    """

    pipeline: Any
    model: str
    revision: str | None
    scheduler: str
    precision: Literal["fp32", "fp16", "bf16"]
    device: Any
    memory: Memory
    lora_sha256: tuple[str, ...]
    versions: dict[str, str]

    @property
    def licence(self) -> str | None:
        """The model's licence; None if it is not known."""
        return LICENCES.get(self.model)

    def accepts(self, argument: str) -> bool:
        """Tell whether the pipeline's call takes an argument."""
        return argument in inspect.signature(self.pipeline.__call__).parameters

    def save_memory(self, memory: Memory) -> None:
        """Compute attention and VAE in slices; for `offload` also keep in main memory whatever is not at work."""
        if memory == "auto":
            return
        if self.memory == "auto":
            self.pipeline.enable_attention_slicing()
            if hasattr(getattr(self.pipeline, "vae", None), "enable_slicing"):
                self.pipeline.vae.enable_slicing()
        if memory == "offload" and self.memory != "offload" and self.device.type != "cpu":
            self.pipeline.enable_model_cpu_offload(device=self.device)
        self.memory = memory


@dataclass(frozen=True)
class Lora:
    """A LoRA as a recipe names it.

    Attributes:
        source: A file, a folder, a hub id, or a hub id and a file in it.
        weight: How strongly it is laid on the model.
    """

    source: str
    weight: float

    @classmethod
    def parse(cls, text: str) -> Lora:
        r"""Read "file.safetensors:0.8", "owner/name" or "C:\\loras\\ink.safetensors:0.8"; the weight is 1 if none is named."""
        match = _WEIGHT.fullmatch(text)
        if match is None or len(match["source"]) == 1 or Path(text).expanduser().exists():
            return cls(text, 1.0)
        return cls(match["source"], float(match["weight"]))

    @classmethod
    def absolute(cls, text: str) -> str:
        """Return the same in words that hold in every folder: a file or folder of this machine by its absolute path."""
        source = cls.parse(text).source
        return absolute(source) + text.removeprefix(source)

    def local(self) -> Path | None:
        """Return its file if it lies on this machine, None if it is a hub's.

        Raises:
            GenerationError: If it is a folder without exactly one LoRA in it.
        """
        path = Path(self.source).expanduser()
        if path.is_file():
            return path
        if path.is_dir():
            return path / _one_lora([file.name for file in path.iterdir()], str(path), str(path / "FILE"))
        return None

    def fetch(self) -> Path:
        """Return its file, from the hub or its cache if it is not on this machine.

        Raises:
            GenerationError: If it cannot be had, or the hub has several and none is named.
        """
        if path := self.local():
            return path
        if is_path(self.source) or not self.source.count("/") >= 1:
            raise GenerationError(
                f"There is no LoRA {self.source}.", "--lora takes a file or a hub id, each with :WEIGHT or none."
            )
        from huggingface_hub import hf_hub_download

        match = _HUB_FILE.fullmatch(self.source)
        repository, file = (match["repository"], match["file"]) if match else (self.source, _LORA_FILE)
        listed, cause = _hub_files(repository, None)
        if listed and not match:
            file = _one_lora(listed, repository, f"{repository}/FILE")
        try:
            return Path(hf_hub_download(repository, file, local_files_only=not listed))
        except (OSError, ValueError) as error:
            raise unavailable(self.source, "LoRA", cause or error) from error


def absolute(place: str) -> str:
    """Return the absolute path of a file or folder of this machine; what is none, such as a hub id, stays as it is."""
    path = Path(place).expanduser()
    if path.is_dir():
        return str(path.resolve())
    return str(path.parent.resolve() / path.name) if path.is_file() else place  # links have suffixes, files of a cache none


def _hub_files(repository: str, revision: str | None) -> tuple[list[str], Exception | None]:
    """Return the files of a repository; none, and why, where the hub does not say: then only its cache can help."""
    if reason := hosts.out_of_reach(hosts.hugging_face()):
        return [], None if is_offline() else ConnectionError(reason)
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(repository, revision=revision, timeout=HUB_TIMEOUT_S)
    except Exception as error:  # whatever the hub's HTTP client raises
        return [], error
    return [file.rfilename for file in info.siblings or []], None


def _one_lora(files: list[str], place: str, example: str) -> str:
    """Return the LoRA among the files of a folder or a repository."""
    found = sorted(file for file in files if file.endswith(".safetensors"))
    if _LORA_FILE in found:
        return _LORA_FILE
    if len(found) == 1:
        return found[0]
    if not found:
        raise GenerationError(f"{place} holds no LoRA: it has no .safetensors file.", f"Name the file itself: --lora {example}")
    raise GenerationError(f"{place} holds {len(found)} LoRAs: {', '.join(found[:8])}.", f"Name one of them: --lora {example}")


def local_digest(path: Path) -> str:
    """Return the SHA-256 of a file, computed once for as long as the file stays as it is."""
    state = path.stat()
    return _digest(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=4096)
def _digest(path: Path, size: int, modified_ns: int) -> str:
    return sha256_file(path)


def load(model: str, recipe: GenerateRecipe, task: Task = "text") -> Loaded:
    """Load the pipeline that paints a recipe's pictures.

    Args:
        model: A known style, a hub id, a folder that diffusers wrote, or one .safetensors or .ckpt file.
        recipe: `revision`, `lora`, `scheduler`, `precision` and `memory` are read. `revision` may also be what a record says of
            a folder (`sha256:..`); then its weights must be those.
        task: `text` paints from a prompt alone, `image` from a picture and a prompt. A model of the other kind is taken over
            into its family's pipeline for the task.

    Raises:
        MissingPartError: If diffusers, transformers or (for LoRA) peft is not installed.
        GenerationError: If the model, a LoRA or the scheduler cannot be had, or do not fit together.
    """
    diffusers = _installed(with_lora=bool(recipe.lora))
    digest = recipe.revision if recipe.revision and recipe.revision.startswith("sha256:") else None
    if digest:
        recipe = recipe.model_copy(update={"revision": None})
    place, label, revision = resolve(model, recipe)
    path = Path(place).expanduser()
    loras = [(lora, lora.fetch()) for lora in map(Lora.parse, recipe.lora)]
    _check_scheduler_name(diffusers, recipe.scheduler)
    device = _device()
    wants_half = recipe.precision in ("fp16", "bf16") or (recipe.precision == "auto" and device.type == "cuda")
    with _silence(diffusers):
        if path.is_file():
            pipeline, precision = _from_file(diffusers, path, recipe.precision, device)
            revision = f"sha256:{local_digest(path)}"
        else:
            commit = None
            if not path.is_dir():
                path = _download(diffusers, place, revision, wants_half)
                commit = path.name
            pipeline, precision, files = _from_folder(diffusers, path, label, recipe.precision, device)
            revision = commit or revision or _folder_digest(path, files)
        if digest and digest != revision:
            raise GenerationError(
                f"The weights of {label} are not those that painted the picture.",
                f"Put there again what was there then: its digest is {digest}.",
            )
        pipeline = _for_task(diffusers, pipeline, label, task)
        _set_scheduler(diffusers, pipeline, recipe.scheduler, label)
        _lay_on(pipeline, loras, label)
        pipeline.set_progress_bar_config(disable=True)
        loaded = Loaded(
            pipeline=pipeline,
            model=label,
            revision=revision,
            scheduler=type(pipeline.scheduler).__name__,
            precision=precision,
            device=device,
            memory="auto",
            lora_sha256=tuple(local_digest(path) for _, path in loras),
            versions={name: version(name) for name in ("diffusers", "transformers", "torch", *(["peft"] if loras else []))},
        )
        _place(loaded, recipe.memory)
    return loaded


def _installed(with_lora: bool) -> Any:
    purpose = "Painting pictures with Stable Diffusion"
    try:
        import diffusers
        import transformers  # noqa: F401 - the text encoder; diffusers alone fails much later and less clearly
    except ImportError as error:
        raise MissingPartError("diffusers", "gen", purpose) from error
    if with_lora:
        try:
            import peft  # noqa: F401
        except ImportError as error:
            raise MissingPartError("peft", "gen", "Painting with a LoRA") from error
    return diffusers


@contextmanager
def _silence(diffusers: Any) -> Iterator[None]:
    """Keep the bars and remarks of loading off the terminal, where ours are; what matters is raised."""
    import transformers

    logs = [part.utils.logging for part in (diffusers, transformers)]
    before = [(log.get_verbosity(), log.is_progress_bar_enabled()) for log in logs]
    for log in logs:
        log.set_verbosity(logging.CRITICAL)
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log, (verbosity, has_bar) in zip(logs, before, strict=True):
            log.set_verbosity(verbosity)
            if has_bar:
                log.enable_progress_bar()


def _device() -> Any:
    from stylekit.nn.device import find_device

    device = find_device()
    if device.type == "cuda":
        import torch

        return torch.device("cuda", torch.cuda.current_device())  # a worker's own, where there are several
    return device


def _dtype(precision: str, device: Any, flows: bool) -> tuple[Any, Literal["fp32", "fp16", "bf16"]]:
    """Choose the precision; flow-matching models are made in bf16, and their text encoders overflow in fp16."""
    import torch

    if precision == "auto":
        precision = "fp32" if device.type != "cuda" else "bf16" if flows else "fp16"
    if precision == "fp16":
        return torch.float16, "fp16"
    return (torch.bfloat16, "bf16") if precision == "bf16" else (torch.float32, "fp32")


def is_path(model: str) -> bool:
    """Tell whether a name can only be that of a file or folder."""
    return Path(model).is_absolute() or model.startswith((".", "~")) or "\\" in model


def _download(diffusers: Any, model: str, revision: str | None, wants_half: bool) -> Path:
    """Bring a hub's model into its cache and return the folder, which is named by the commit."""
    if is_path(model) or model.count("/") != 1:
        raise GenerationError(f"There is no model folder {model}.", f"Check --model. {WITHOUT_A_HUB}")
    listed, cause = _hub_files(model, revision)
    variants: list[str | None] = ["fp16", None] if wants_half else [None, "fp16"]
    if listed and not any(".fp16." in file for file in listed):
        variants = [None]
    for variant in variants:
        try:
            return Path(
                diffusers.DiffusionPipeline.download(model, revision=revision, variant=variant, local_files_only=not listed)
            )
        except Exception as error:  # whatever the hub's HTTP client raises
            cause = cause or error
    raise unavailable(model, "model", cause) from cause


def unavailable(name: str, kind: str, error: BaseException | None) -> GenerationError:
    """Return the error for what a hub does not give."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, GatedRepoError):
        return GenerationError(
            f"The {kind} {name} asks for its terms to be accepted.", "Accept them on its page, then log in: hf auth login"
        )
    if isinstance(error, RevisionNotFoundError):
        return GenerationError(f"The {kind} {name} has no such revision.", "Check the recipe's generate.revision.")
    if isinstance(error, RepositoryNotFoundError):
        return GenerationError(f"The hub has no {kind} {name}, or shows it to others only.", "Check the name, or: hf auth login")
    option = "--lora" if kind == "LoRA" else "--model"
    if is_offline():
        return GenerationError(
            f"The {kind} {name} is not on this machine, and STYLEKIT_OFFLINE is set.", f"Unset STYLEKIT_OFFLINE. {WITHOUT_A_HUB}"
        )
    return GenerationError(
        f"The {kind} {name} cannot be had from the hub: {_reason(error)}.",
        f"Check the name and the connection, set HF_ENDPOINT to a mirror, or download it and name its place with {option}. "
        + WITHOUT_A_HUB,
    )


def _reason(error: BaseException | None) -> str:
    if "size mismatch" in str(error):
        return "its layers have other sizes"
    lines = str(error).strip().splitlines() if error else []
    return lines[0].strip().rstrip(".:") if lines else type(error).__name__


def _from_folder(diffusers: Any, folder: Path, label: str, asked: str, device: Any) -> tuple[Any, Any, list[Path]]:
    """Load a folder; return the pipeline, its precision, and the files it was read from."""
    try:
        index = diffusers.DiffusionPipeline.load_config(str(folder))
    except (OSError, ValueError) as error:
        raise GenerationError(
            f"{label} is not a model that diffusers can read: {_reason(error)}.", "It should hold model_index.json."
        ) from error
    dtype, precision = _dtype(asked, device, str(index.get("scheduler", [None, ""])[1]).startswith("FlowMatch"))
    parts = [folder / name for name, value in index.items() if isinstance(value, list | tuple) and (folder / name).is_dir()]
    files = sorted(file for part in parts for file in part.rglob("*") if file.is_file())
    has_fp16 = any(".fp16." in file.name for file in files)
    errors: list[Exception] = []
    for variant in ["fp16", None] if has_fp16 and precision != "fp32" else [None, "fp16"] if has_fp16 else [None]:
        try:
            pipeline = diffusers.DiffusionPipeline.from_pretrained(
                str(folder), variant=variant, dtype=dtype, local_files_only=True
            )
        except Exception as error:  # reading damaged weights raises whatever their format's reader does
            if is_out_of_memory(error):
                raise _too_large(label) from error
            errors.append(error)
        else:
            return pipeline, precision, _read(files, variant)
    raise _unreadable(label, errors[0]) from errors[0]


def _unreadable(label: str, error: Exception) -> GenerationError:
    hint = "Get it again, or name another with --model."
    if "torchvision" in str(error).lower():
        hint = "Install what it needs: pip install torchvision"  # transformers' video processor, in Qwen-Image-Edit
    elif isinstance(error, AttributeError):
        hint = "It may need a newer diffusers: pip install -U diffusers"
    return GenerationError(f"{label} is not a model that diffusers can read: {_reason(error)}.", hint)


def _too_large(label: str) -> GenerationError:
    return GenerationError(f"There is not enough memory to load {label}.", "Close other programs, or choose a smaller --model.")


def _read(files: list[Path], variant: str | None) -> list[Path]:
    """Return the files that diffusers reads: of the same weights in several forms, one."""
    names = {(file.parent, file.name) for file in files}

    def is_read(file: Path) -> bool:
        if file.suffix not in _WEIGHTS:
            return file.suffix in (".json", ".txt", ".model")
        plain = file.name.replace(".fp16.", ".")
        half = f"{Path(plain).stem}.fp16{file.suffix}"
        other = plain if ".fp16." in file.name else half
        if (".fp16." in file.name) != (variant == "fp16") and (file.parent, other) in names:
            return False
        return file.suffix == ".safetensors" or not any(
            folder == file.parent and name.endswith(".safetensors") for folder, name in names
        )

    return [file for file in files if is_read(file)]


def _folder_digest(folder: Path, files: list[Path]) -> str:
    """Return the SHA-256 over names and digests of the files; they have just been loaded, so the disk's cache holds them."""
    lines = (f"{file.relative_to(folder).as_posix()} {local_digest(file)}\n" for file in files)
    return f"sha256:{sha256(''.join(lines).encode()).hexdigest()}"


def _from_file(diffusers: Any, file: Path, asked: str, device: Any) -> tuple[Any, Any]:
    """Load one checkpoint file; which family it is of is read from its weights, its configuration comes from the hub."""
    from diffusers.loaders.single_file_utils import infer_diffusers_model_type, load_single_file_checkpoint

    if file.suffix not in _ONE_FILE:
        raise GenerationError(f"{file} is no checkpoint.", "A model is a folder, a hub id, or a .safetensors or .ckpt file.")
    try:
        family = infer_diffusers_model_type(load_single_file_checkpoint(str(file)))
        name = next(
            (name for start, name in _FAMILIES.items() if family.startswith(start)),
            "StableDiffusionPipeline",
        )
        dtype, precision = _dtype(asked, device, name in ("StableDiffusion3Pipeline", "FluxPipeline"))
        return getattr(diffusers, name).from_single_file(str(file), dtype=dtype, local_files_only=is_offline()), precision
    except Exception as error:  # reading damaged weights raises whatever their format's reader does
        if is_out_of_memory(error):
            raise _too_large(file.name) from error
        raise GenerationError(
            f"{file} cannot be loaded: {_reason(error)}.",
            "One file needs its family's configuration from the hub, once; or convert it with diffusers and name the folder.",
        ) from error


_FAMILIES = {
    "xl": "StableDiffusionXLPipeline",
    "playground": "StableDiffusionXLPipeline",
    "sd3": "StableDiffusion3Pipeline",
    "flux": "FluxPipeline",
}


def _for_task(diffusers: Any, pipeline: Any, label: str, task: Task) -> Any:
    """Return the model's own pipeline if it does the task, else its family's that does."""
    parameters = inspect.signature(pipeline.__call__).parameters
    needs_image = "image" in parameters and (parameters["image"].default is inspect.Parameter.empty or _edits(pipeline))
    if task == "text":
        fits = "prompt" in parameters and not needs_image and "mask_image" not in parameters
    else:
        fits = "prompt" in parameters and "image" in parameters and "mask_image" not in parameters
    if fits:
        return pipeline
    family = diffusers.AutoPipelineForText2Image if task == "text" else diffusers.AutoPipelineForImage2Image
    try:
        return family.from_pipe(pipeline)
    except (ValueError, TypeError, AttributeError) as error:
        if task == "text" and needs_image:
            raise GenerationError(
                f"{label} edits photographs ({type(pipeline).__name__}); it cannot paint from a prompt alone.",
                "Edit photographs with it: --engine edit --from-photos DIR",
            ) from error
        wanted = "a prompt" if task == "text" else "a photograph and a prompt"
        raise GenerationError(
            f"{label} ({type(pipeline).__name__}) does not paint from {wanted}.", "Name another model with --model."
        ) from error


def _edits(pipeline: Any) -> bool:
    """Tell whether a pipeline works on a picture: diffusers declares the picture optional even where there must be one."""
    return any(word in type(pipeline).__name__ for word in ("Img2Img", "Edit", "Kontext", "Pix2Pix", "Inpaint", "Upscale"))


def _check_scheduler_name(diffusers: Any, name: str) -> None:
    schedulers = [key for key in dir(diffusers) if key.endswith("Scheduler")]
    if name != "auto" and name not in schedulers:
        near = " or ".join(difflib.get_close_matches(name, schedulers, 2))
        raise GenerationError(f"diffusers has no scheduler {name!r}.", f"Did you mean {near}?" if near else "")


def _set_scheduler(diffusers: Any, pipeline: Any, name: str, label: str) -> None:
    own = pipeline.scheduler
    own_name = type(own).__name__
    flows = own_name.startswith("FlowMatch") or "flow" in str(own.config.get("prediction_type", ""))
    if name == "auto":
        compatible = {kind.__name__ for kind in own.compatibles}  # not those of distilled models, such as LCMScheduler
        if flows or "EulerAncestralDiscreteScheduler" not in compatible:
            return
        name = "EulerAncestralDiscreteScheduler"
    if name != own_name and flows != name.startswith("FlowMatch"):
        kind = "is a flow-matching model" if flows else "is no flow-matching model"
        raise GenerationError(f"{label} {kind}; {name} does not fit it.", f"Its own is {own_name}: --scheduler auto")
    pipeline.scheduler = getattr(diffusers, name).from_config(own.config)


def _lay_on(pipeline: Any, loras: list[tuple[Lora, Path]], label: str) -> None:
    if not loras:
        return
    if not hasattr(pipeline, "load_lora_weights"):
        raise GenerationError(f"{label} ({type(pipeline).__name__}) takes no LoRA.", "Leave --lora out.")
    names = [f"lora_{place}" for place in range(len(loras))]
    for name, (lora, path) in zip(names, loras, strict=True):
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Already found a `peft_config`")  # said of the second LoRA; several are meant
                pipeline.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name=name, local_files_only=True)
            if not any(name in adapters for adapters in pipeline.get_list_adapters().values()):
                raise ValueError("none of its layers are the model's")
        except Exception as error:  # a LoRA of another family fails in whichever layer differs first
            raise GenerationError(
                f"The LoRA {lora.source} does not fit {label}: {_reason(error)}.", "It must be of the model's own family."
            ) from error
    pipeline.set_adapters(names, adapter_weights=[lora.weight for lora, _ in loras])


def _place(loaded: Loaded, memory: Memory) -> None:
    """Move the pipeline to its device, or there part by part where it has no room."""
    if memory != "offload" or loaded.device.type == "cpu":
        failed = ""
        try:
            loaded.pipeline.to(loaded.device)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if memory != "auto" or loaded.device.type == "cpu":
                raise _too_large(loaded.model) from error
            failed = _reason(error)
        if failed:
            free_memory(loaded.device)
            _LOG.warning("%s does not fit into the GPU's memory (%s); its parts are moved there in turn.", loaded.model, failed)
            memory = "offload"
    loaded.save_memory(memory)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out, on whichever device."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def free_memory(device: Any) -> None:
    """Give memory that nothing holds any more back to the device."""
    import torch

    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def guidance_arguments(loaded: Loaded, guidance: float, negative: str) -> Mapping[str, Any]:
    """Return the guidance and the negative prompt as the pipeline takes them.

    Distilled models (FLUX) take the guidance as an input and have no negative prompt; those that take none as an input
    (Qwen-Image) guide with the true classifier-free scale, which needs a negative prompt, if only a blank.
    """
    parameters = inspect.signature(loaded.pipeline.__call__).parameters
    takes_negative = "negative_prompt" in parameters
    if "true_cfg_scale" in parameters:
        embedded = parameters.get("guidance_scale")
        if embedded is None or embedded.default is None:
            return {"true_cfg_scale": guidance, "negative_prompt": negative or " "}
        takes_negative = False
    if negative and not takes_negative:
        _say_once(f"{loaded.model} has no use for a negative prompt; it is left out.")
    arguments: dict[str, Any] = {"guidance_scale": guidance} if "guidance_scale" in parameters else {}
    return arguments | ({"negative_prompt": negative} if negative and takes_negative else {})


@lru_cache(maxsize=64)
def _say_once(text: str) -> None:
    _LOG.warning(text)
