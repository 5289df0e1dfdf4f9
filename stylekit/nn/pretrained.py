"""Frozen networks by the name of their asset."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import nn

from stylekit.assets import Resolved
from stylekit.errors import AssetError
from stylekit.nn.dlibresnet import load_dlib_resnet
from stylekit.nn.efficientnet import load_efficientnet_lite0
from stylekit.nn.vgg import load_vgg16_hed, load_vgg19_caffe

_LOADERS: dict[str, Callable[[Path], nn.Module]] = {
    "dlib-resnet": load_dlib_resnet,
    "efficientnet-lite0": load_efficientnet_lite0,
    "vgg16-hed": load_vgg16_hed,
    "vgg19-caffe": load_vgg19_caffe,
}


def load_pretrained(asset: Resolved) -> nn.Module:
    """Read a frozen network in eval mode.

    Raises:
        AssetError: If no loader knows the asset, or the file is not what it should be.
    """
    if asset.name not in _LOADERS:
        raise AssetError(f"No network is known for the asset {asset.name}.", f"Networks: {', '.join(_LOADERS)}.")
    return _LOADERS[asset.name](asset.path)
