from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from stylekit.assets import Resolved
from stylekit.methods import dctnet
from stylekit.methods.base import Batch, StepContext, create_method
from stylekit.nn.efficientnet import EfficientNetLite0
from tests.engine.conftest import tiny_recipe

TEACHER = Resolved("dots (unet)", "teacher", Path("run"), "user:run", "0" * 64, "", "")
AS_STUDENT = ("train.method=student", "train.student_of=run", "train.network={arch: unet-lite, width: 8, blocks: 1}")


class Negative(nn.Module):
    """Draws the negative, much too bright and dark."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(-3.0))

    def forward(self, photo):
        return self.gain * photo


def built(*changes):
    method = create_method("student")
    method.build(tiny_recipe(*AS_STUDENT, "train.learning_rate=0.01", *changes), Accelerator(cpu=True))
    method.watch(Negative(), TEACHER)
    return method


def batch(count=2):
    drawn = torch.Generator().manual_seed(0)
    return Batch(torch.rand(count, 3, 32, 32, generator=drawn) * 2 - 1, torch.full((count, 3, 32, 32), torch.nan))


def test_it_comes_nearer_to_the_clipped_pictures_and_leaves_the_teacher_alone():
    method, pictures = built(), batch()
    found = [method.step(pictures, StepContext(n, torch.Generator())).losses["loss/difference"].item() for n in range(30)]
    wanted = (-3 * pictures.photo).clamp(-1, 1)
    assert found[0] == pytest.approx((pictures.photo - wanted).abs().mean().item(), rel=1e-5)  # it begins as the photograph
    assert found[-1] < 0.6 * found[0]
    assert method._teacher.gain.item() == -3
    assert method.assets == {"teacher": TEACHER}


def test_the_content_network_adds_what_it_sees_of_both(monkeypatch):
    torch.manual_seed(0)
    seeing = EfficientNetLite0().eval().requires_grad_(False)
    monkeypatch.setattr(dctnet, "load_pretrained", lambda _: seeing)
    monkeypatch.setattr(dctnet, "resolve", lambda role, prefer: Resolved(prefer, role, Path(), "", "1" * 64, "", ""))
    changes = ("train.content={network: efficientnet-lite0, layers: [block1]}", "train.loss.lambda_content=0.5")
    method, pictures = built(*changes), batch()
    losses = method.step(pictures, StepContext(0, torch.Generator())).losses
    with torch.no_grad():
        drawn, wanted = (seeing.features(p, ("block1",))["block1"] for p in (pictures.photo, (-3 * pictures.photo).clamp(-1, 1)))
    expected = (drawn - wanted).abs().mean() / wanted.abs().mean()
    assert losses["loss/content"].item() == pytest.approx(expected.item(), rel=1e-4)
    assert set(method.assets) == {"content", "teacher"}
    assert method.generator.head.weight.abs().sum() > 0
