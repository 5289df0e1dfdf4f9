"""IR-SE50, the ArcFace network of Deng et al. (2019) with squeeze-and-excitation (Hu et al. 2018), as InsightFace_Pytorch has it.

Restated with the names of `model_ir_se50.pth` (github.com/TreB1eN/InsightFace_Pytorch, model.py), the identity network of pSp and
of many papers after it.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from stylekit.nn.frozen import load_frozen

SIDE = 112
"""Side in pixels of the crop that the network sees."""

FEATURES = 512

_STAGES = ((64, 64, 3), (64, 128, 4), (128, 256, 14), (256, 512, 3))  # channels in, out, units; the first unit has stride 2
_SQUEEZE = 16


class _SqueezeExcitation(nn.Module):
    """Weighs channels by what all of the picture says of them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // _SQUEEZE, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // _SQUEEZE, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        weights: Tensor = self.fc2(F.relu(self.fc1(x.mean((2, 3), keepdim=True))))
        return x * weights.sigmoid()


class _Unit(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.shortcut_layer = (
            nn.MaxPool2d(1, stride)
            if inputs == outputs
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            _SqueezeExcitation(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.res_layer(x) + self.shortcut_layer(x)
        return y


class IrSe50(nn.Module):
    """[N,3,112,112] RGB in [-1,1], aligned by ArcFace's template -> [N,512] of length 1.

    The published weights were trained on BGR: data/data_pipe.py writes OpenCV's pictures through Pillow without turning their
    channels round, and turns those it validates with (issue 13 there). So the channels are turned here. pSp's loss and most that
    follow it show the network RGB.
    """

    def __init__(self) -> None:
        super().__init__()
        self.input_layer = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64))
        self.body = nn.Sequential(
            *(
                _Unit(inputs if unit == 0 else outputs, outputs, 2 if unit == 0 else 1)
                for inputs, outputs, units in _STAGES
                for unit in range(units)
            )
        )
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(512),
            nn.Dropout(0.6),
            nn.Flatten(),
            nn.Linear(512 * 7 * 7, FEATURES),
            nn.BatchNorm1d(FEATURES),
        )

    def forward(self, faces: Tensor) -> Tensor:
        """Return the embeddings."""
        return F.normalize(self.output_layer(self.body(self.input_layer(faces.flip(1)))))


def load_ir_se50(path: Path) -> IrSe50:
    """Read `model_ir_se50.pth` into a frozen network in eval mode; gradients still reach its input.

    Raises:
        AssetError: If the file is not that.
    """
    mend = "Run: stylekit assets add identity model_ir_se50.pth --name ir-se50"
    return load_frozen(IrSe50, path, "the IR-SE50 of InsightFace_Pytorch", mend)
