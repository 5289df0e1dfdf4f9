"""MobileFaceNet (Chen et al. 2018) with 512 features, as InsightFace_Pytorch has it.

Restated with the names of `model_mobilefacenet.pth` (github.com/TreB1eN/InsightFace_Pytorch, model.py), the identity network of
photo2cartoon.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from stylekit.nn.frozen import load_frozen

SIDE = 112
"""Side in pixels of the crop that the network sees."""

FEATURES = 512


class _Conv(nn.Module):
    """Convolution, batch normalisation, and PReLU unless it is `linear`."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        padding: int = 0,
        groups: int = 1,
        linear: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        if not linear:
            self.prelu = nn.PReLU(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(self.conv(x))
        return self.prelu(y) if hasattr(self, "prelu") else y


class _Bottleneck(nn.Module):
    """Widens to `width` channels, filters each, and narrows; with stride 1 the input is added."""

    def __init__(self, inputs: int, outputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.residual = stride == 1
        self.conv = _Conv(inputs, width)
        self.conv_dw = _Conv(width, width, 3, stride, padding=1, groups=width)
        self.project = _Conv(width, outputs, linear=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.conv_dw(self.conv(x)))
        return x + y if self.residual else y


class _Stage(nn.Module):
    def __init__(self, channels: int, width: int, blocks: int) -> None:
        super().__init__()
        self.model = nn.Sequential(*(_Bottleneck(channels, channels, width, 1) for _ in range(blocks)))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.model(x)
        return y


class MobileFaceNet(nn.Module):
    """[N,3,112,112] RGB in [-1,1], aligned by ArcFace's template -> [N,512] of length 1.

    The published weights were trained on BGR, see `IrSe50`, so the channels are turned here. photo2cartoon's loss
    (models/face_features.py) shows the network RGB, of a plain square of its crops instead of an aligned one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _Conv(3, 64, 3, 2, padding=1)
        self.conv2_dw = _Conv(64, 64, 3, padding=1, groups=64)
        self.conv_23 = _Bottleneck(64, 64, 128, 2)
        self.conv_3 = _Stage(64, 128, 4)
        self.conv_34 = _Bottleneck(64, 128, 256, 2)
        self.conv_4 = _Stage(128, 256, 6)
        self.conv_45 = _Bottleneck(128, 128, 512, 2)
        self.conv_5 = _Stage(128, 256, 2)
        self.conv_6_sep = _Conv(128, 512)
        self.conv_6_dw = _Conv(512, 512, 7, groups=512, linear=True)
        self.linear = nn.Linear(512, FEATURES, bias=False)
        self.bn = nn.BatchNorm1d(FEATURES)

    def forward(self, faces: Tensor) -> Tensor:
        """Return the embeddings."""
        x = self.conv2_dw(self.conv1(faces.flip(1)))
        x = self.conv_3(self.conv_23(x))
        x = self.conv_4(self.conv_34(x))
        x = self.conv_5(self.conv_45(x))
        x = self.conv_6_dw(self.conv_6_sep(x)).flatten(1)
        return F.normalize(self.bn(self.linear(x)))


def load_mobilefacenet(path: Path) -> MobileFaceNet:
    """Read `model_mobilefacenet.pth` into a frozen network in eval mode; gradients still reach its input.

    Raises:
        AssetError: If the file is not that.
    """
    mend = "Run: stylekit assets add identity model_mobilefacenet.pth --name mobilefacenet"
    return load_frozen(MobileFaceNet, path, "the MobileFaceNet of InsightFace_Pytorch", mend)
