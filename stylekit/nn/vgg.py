"""VGG-16 and VGG-19 up to conv5, frozen, for the content loss and KID; inputs as Caffe's (BGR minus a mean)."""

from __future__ import annotations

import io
import math
import pickle
import struct
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from stylekit.errors import AssetError
from stylekit.nn.winograd import FrozenWeights, conv3x3
from stylekit.paths import atomic_write_bytes

_REPEATS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_CHANNELS = (64, 128, 256, 512, 512)
INPUT_SIZE = 224
MAX_BYTES = 2**30
"""A weight file larger than this is refused; VGG-19 with its fully connected layers has 575 million bytes."""
_MOST_GROWTH = 4  # float16 doubles as float32, and Python 3's protocol 2 encodes every array's bytes once more
VGG19_MEAN_BGR = (103.939, 116.779, 123.68)
VGG16_HED_MEAN_BGR = (104.007, 116.669, 122.679)


class Vgg(nn.Module):
    """Convolutions named `conv1_1` .. `conv5_4`, each 3x3 with ReLU, max-pooling between the groups.

    Args:
        depth: 16 or 19.
        mean_bgr: What is taken from the B, G and R values in 0..255.
        last: Name of the last convolution that is needed; the rest is not built.
    """

    mean: Tensor

    def __init__(self, depth: int, mean_bgr: tuple[float, float, float], last: str = "conv5_1") -> None:
        super().__init__()
        self.order: list[str] = []
        self._frozen = FrozenWeights()
        self.convs = nn.ModuleDict()
        inputs = 3
        names = [
            (f"conv{g}_{k}", c)
            for g, (n, c) in enumerate(zip(_REPEATS[depth], _CHANNELS, strict=True), 1)
            for k in range(1, n + 1)
        ]
        if last not in dict(names):
            raise ValueError(f"VGG-{depth} has no layer {last}")
        for name, outputs in names:
            self.order.append(name)
            self.convs[name] = nn.Conv2d(inputs, outputs, 3, padding=1)
            inputs = outputs
            if name == last:
                break
        self.register_buffer("mean", torch.tensor(mean_bgr).view(1, 3, 1, 1), persistent=False)

    def features(self, picture: Tensor, layers: tuple[str, ...]) -> dict[str, Tensor]:
        """Return the named convolutions' outputs BEFORE their ReLU, as ModelScope's content loss takes them.

        Args:
            picture: [N, 3, H, W] RGB in [-1, 1].
            layers: Names such as `conv4_4`.

        Raises:
            AssetError: If the weight file ended before one of them.
        """
        found: dict[str, Tensor] = {}
        x = (picture.flip(1) + 1) * 127.5 - self.mean
        previous = "1"
        for name in self.order:
            if name[4] != previous:
                x, previous = F.max_pool2d(x, 2, ceil_mode=True), name[4]
            conv = self.convs[name]
            assert isinstance(conv, nn.Conv2d)
            assert conv.bias is not None
            kept = self._frozen.of(x, conv.weight)
            if name not in layers:
                x = conv3x3(x, conv.weight, conv.bias, 0.0, kept)
                continue
            x = found[name] = conv3x3(x, conv.weight, conv.bias, kept=kept)
            if len(found) == len(layers):
                return found
            x = F.relu(x)
        missing = ", ".join(sorted(set(layers) - found.keys()))
        raise AssetError(f"The VGG weights end before {missing}.", "Use the full VGG weight file.")

    def pooled(self, picture: Tensor) -> Tensor:
        """Return [N, C] globally averaged features after the last convolution's ReLU, of pictures [N, 3, H, W] in [-1, 1].

        The picture is brought to 224 x 224 by antialiased bilinear resizing first, without rounding to 8 bits.
        """
        if picture.shape[-2:] != (INPUT_SIZE, INPUT_SIZE):
            picture = F.interpolate(picture, (INPUT_SIZE, INPUT_SIZE), mode="bilinear", antialias=True)
        last = self.order[-1]
        return F.relu(self.features(picture, (last,))[last]).mean((2, 3))


class _Array:
    """What NumPy's pickled form of an array becomes: float32 values, made only when all their bytes are there."""

    __slots__ = ("_reader", "values")

    def __init__(self, reader: _ArraysOnly) -> None:
        self._reader = reader
        self.values: Any = None

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, by_column, raw = state
        if kind.name in _OBJECTS:  # the box around the whole dictionary
            if shape != () or len(raw) != 1:
                raise ValueError("it holds an array of objects")
            self.values = raw[0]
            return
        if not isinstance(raw, bytes | str):
            raise ValueError("it holds an array without bytes")
        array = np.frombuffer(raw if isinstance(raw, bytes) else raw.encode("latin1"), kind.order + kind.name)
        if array.size != math.prod(shape):
            raise ValueError(f"it holds {array.size:,} numbers for an array of shape {shape!s:.60}")
        self._reader.charge(4 * array.size)
        self.values = array.reshape(shape, order="F" if by_column else "C").astype(np.float32)


class _Kind:
    """What NumPy's pickled form of an array's number type becomes."""

    __slots__ = ("name", "order")

    def __init__(self, name: str) -> None:
        if name not in ("f2", "f4", "f8", *_OBJECTS):
            raise pickle.UnpicklingError(f"it holds an array of type {name}")
        self.name, self.order = name, "<"

    def __setstate__(self, state: Any) -> None:
        self.order = state[1] if state[1] in ("<", ">") else "<"


class _Named(dict[str, Any]):
    """A dictionary whose keys are names: hashing what else a file can build may bring the interpreter down."""

    __slots__ = ()

    def __setitem__(self, name: str, value: Any) -> None:
        if not isinstance(name, str):
            raise TypeError("a layer has no name")
        super().__setitem__(name, value)


class _ArraysOnly(pickle._Unpickler):
    """Unpickler that can build dictionaries, lists and numeric NumPy arrays, and nothing else.

    It is Python's own in Python: the one in C lets a file ask for any amount of memory before it is seen what the file holds.
    Nothing of NumPy is called by what a file says. What is made from it may have a few times the file's size.
    """

    def __init__(self, data: bytes, start: int) -> None:
        stream = io.BytesIO(data)
        stream.seek(start)
        super().__init__(stream, encoding="latin1")
        self._left = _MOST_GROWTH * len(data)

    def _dictionary(self) -> None:
        self.append(_Named())  # type: ignore[attr-defined]

    def _refuse(self) -> None:
        raise pickle.UnpicklingError("it holds sets, or a dictionary of another kind")

    dispatch: ClassVar[dict[int, Any]] = {
        **pickle._Unpickler.dispatch,
        pickle.EMPTY_DICT[0]: _dictionary,
        **dict.fromkeys((pickle.DICT[0], pickle.EMPTY_SET[0], pickle.ADDITEMS[0], pickle.FROZENSET[0]), _refuse),
    }

    def charge(self, size: int) -> None:
        """Count bytes that are made."""
        self._left -= size
        if self._left < 0:
            raise ValueError("it asks for far more memory than its own size")

    def find_class(self, module: str, name: str) -> Any:
        """Return our own stand-in for the few things that a pickled array names."""
        found = {
            ("numpy._core.multiarray", "_reconstruct"): self._array,
            ("numpy", "ndarray"): _NDARRAY,
            ("numpy", "dtype"): self._kind,
            ("_codecs", "encode"): self._encode,
        }.get((module.replace("numpy.core", "numpy._core"), name))
        if found is None:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return found

    def _array(self, kind: Any, shape: Any, letter: Any) -> _Array:
        if kind is not _NDARRAY or shape != (0,):
            raise pickle.UnpicklingError("it asks for an array of another kind")
        return _Array(self)

    def _kind(self, name: str, align: Any = False, copy: Any = True) -> _Kind:
        return _Kind(name)

    def _encode(self, text: str, encoding: str) -> bytes:
        if encoding not in ("latin1", "latin-1"):
            raise pickle.UnpicklingError(f"it asks for the encoding {encoding}")
        self.charge(len(text))
        return text.encode("latin1")


def read_array_dict(path: Path) -> dict[str, list[NDArray[np.float32]]]:
    """Read `vgg19.npy` (a pickled dictionary: layer name -> [HWIO kernel, bias]) without executing anything it holds.

    Raises:
        AssetError: If the file is missing, far too large, not of that form, or asks for anything beside plain arrays or for far
            more memory than its own size.
    """
    mend = "Get the file again from a source you trust and run: stylekit assets add content FILE"
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise ValueError(f"it has {size / 2**20:,.0f} MB, and the whole of VGG-19 548")
        data = path.read_bytes()
        stream = io.BytesIO(data)
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, kind = read_header(stream)
        if kind != np.dtype(object) or shape != ():
            raise ValueError("it does not hold one dictionary")
        content = _ArraysOnly(data, stream.tell()).load()
        if isinstance(content, _Array):
            content = content.values
        if not isinstance(content, dict):
            raise ValueError("it does not hold one dictionary")
        arrays = {}
        for name, values in content.items():
            if not isinstance(values, list | tuple) or not all(
                isinstance(each, _Array) and isinstance(each.values, np.ndarray) for each in values
            ):
                raise ValueError(f"its {name!s:.40} is not a list of arrays")
            arrays[str(name)] = [each.values for each in values]
        return arrays
    except _UNREADABLE as error:
        reason = str(error) or "it asks for more memory than there is"
        raise AssetError(f"{path} is not a safe VGG weight file: {reason.rstrip('.')}.", mend) from error


_NDARRAY = object()
_OBJECTS = ("O", "O4", "O8")
_UNREADABLE = (
    OSError,
    ValueError,
    TypeError,
    EOFError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    MemoryError,
    RecursionError,
    struct.error,
    pickle.UnpicklingError,
)


def _fill(network: Vgg, arrays: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]], path: Path) -> Vgg:
    for name, conv in network.convs.items():
        assert isinstance(conv, nn.Conv2d)
        if name not in arrays:
            raise AssetError(f"{path} has no layer {name}.", "Use the full VGG weight file.")
        kernel, bias = arrays[name]
        if kernel.ndim != conv.weight.ndim:
            raise AssetError(f"{path}: layer {name} has shape {kernel.shape}.", "Use the full VGG weight file.")
        weight = torch.from_numpy(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)))
        if weight.shape != conv.weight.shape or conv.bias is None or bias.shape != tuple(conv.bias.shape):
            raise AssetError(f"{path}: layer {name} has shape {kernel.shape}.", "Use the full VGG weight file.")
        conv.weight.data.copy_(weight)
        conv.bias.data.copy_(torch.from_numpy(bias))
    return network.requires_grad_(False).eval()


def load_vgg19_caffe(path: Path, last: str | None = None) -> Vgg:
    """Read upstream's `vgg19.npy` into a frozen VGG-19.

    Args:
        path: The file.
        last: Name of the last convolution that is needed; by default the file's last, at least conv4_4, which upstream uses.

    Raises:
        AssetError: If the file is not that, or holds anything beside plain arrays.
    """
    arrays = {k: (v[0], v[1]) for k, v in read_array_dict(path).items() if len(v) == 2}
    return _fill(Vgg(19, VGG19_MEAN_BGR, last or ("conv5_4" if "conv5_4" in arrays else "conv4_4")), arrays, path)


def slim_vgg19(path: Path, into: Path, last: str = "conv4_4") -> int:
    """Write what the content loss needs of a VGG-19 as float16, in the form of `vgg19.npy`, which `load_vgg19_caffe` reads.

    Args:
        path: `vgg19.npy`.
        into: The file to write.
        last: Name of the last convolution to keep.

    Returns:
        Its size in bytes.

    Raises:
        AssetError: If `path` is not that, or a number of it is too large for float16.
    """
    network = load_vgg19_caffe(path, last)
    layers: dict[str, list[NDArray[np.float16]]] = {}
    for name, conv in network.convs.items():
        assert isinstance(conv, nn.Conv2d)
        assert conv.bias is not None
        layers[name] = [conv.weight.permute(2, 3, 1, 0).contiguous().half().numpy(), conv.bias.half().numpy()]
        if not all(np.isfinite(each).all() for each in layers[name]):
            raise AssetError(f"{path}: layer {name} holds numbers that float16 cannot.", "Use the file as it is.")
    content = io.BytesIO()
    np.save(content, np.array(layers, object), allow_pickle=True)
    atomic_write_bytes(into, content.getvalue())
    return len(content.getvalue())


def load_vgg16_hed(path: Path, last: str = "conv5_3") -> Vgg:
    """Read the VGG-16 trunk of an HED edge detector (Keras HDF5, groups `block{1..5}/layers/conv2d[_k]/vars/{0,1}`).

    Raises:
        AssetError: If the file is not that.
    """
    import h5py

    arrays = {}
    try:
        with h5py.File(path) as file:
            for group in range(1, 6):
                for index in range(_REPEATS[16][group - 1]):
                    layer = file[f"block{group}/layers/conv2d{f'_{index}' if index else ''}/vars"]
                    arrays[f"conv{group}_{index + 1}"] = (np.asarray(layer["0"], np.float32), np.asarray(layer["1"], np.float32))
    except (OSError, KeyError, ValueError) as error:
        raise AssetError(f"{path} is not an HED weight file ({error}).", "Run: stylekit assets fetch vgg16-hed") from error
    return _fill(Vgg(16, VGG16_HED_MEAN_BGR, last), arrays, path)
