"""Colours that cartoons of aligned faces have at each place, and how far a stylized face is from them.

Aligned faces have hair, skin and background at nearly the same places in every picture, so a colour can be asked for where it
belongs: each cell of a stylized picture is drawn to the colour, among those that the most similar cartoons have near that cell,
that is nearest to the photograph's own. So skin goes to the cartoons' skin tones, the lightest to the lightest.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GRID = 32
MEMORY = 192
NEIGHBOURS = 16
REACH = 2
_LAYOUT = 8
# Likeness counts most in the middle, where hair and skin are: a Gaussian of this standard deviation, in halves of the side.
_CENTRE = 0.5


class Palette(nn.Module):
    """Remembers the latest cartoons as small pictures, and measures the distance to their colours.

    Attributes:
        memory: [192, 3, 32, 32] the latest cartoons, in [-1, 1].
        seen: How many cartoons were ever remembered.
    """

    memory: Tensor
    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("memory", torch.zeros(MEMORY, 3, GRID, GRID))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self._count: int | None = 0
        self.register_load_state_dict_post_hook(_read_again)  # type: ignore[no-untyped-call]

    def _known(self) -> int:
        """Return `seen`, asking the device for it only after loading."""
        if self._count is None:
            self._count = int(self.seen)
        return self._count

    @torch.no_grad()
    def remember(self, cartoons: Tensor) -> None:
        """Put a batch [N, 3, H, W] in the place of the oldest ones."""
        self._count = self._known() + len(cartoons)
        at = (self.seen + torch.arange(len(cartoons), device=self.seen.device)) % MEMORY
        self.memory[at] = F.interpolate(cartoons.float(), (GRID, GRID), mode="area")
        self.seen += len(cartoons)

    @torch.no_grad()
    def targets(self, photo: Tensor) -> Tensor:
        """Return the colour each cell of a photograph should take, [N, 3, 32, 32].

        Args:
            photo: [N, 3, H, W] in [-1, 1].
        """
        known = self.memory[: min(self._known(), MEMORY)]
        cells = F.interpolate(photo.float(), (GRID, GRID), mode="area")
        away = torch.linspace(-1, 1, _LAYOUT, device=photo.device).square()
        weight = torch.exp(-(away.view(-1, 1) + away) / (2 * _CENTRE**2))
        ours, theirs = ((F.adaptive_avg_pool2d(x, _LAYOUT) * weight).flatten(1) for x in (cells, known))
        nearest = torch.cdist(ours, theirs).topk(min(NEIGHBOURS, len(known)), largest=False).indices
        padded = F.pad(known[nearest].flatten(0, 1), (REACH,) * 4, mode="replicate")
        # [N, 3, neighbours * 9, cells]: the colours the similar cartoons have at each cell and two cells away to each side.
        around = F.unfold(padded, 3, dilation=REACH).view(len(cells), -1, 3, 9, GRID * GRID)
        offered = around.transpose(1, 2).flatten(2, 3)
        distance = (offered - cells.flatten(2).unsqueeze(2)).square().sum(1, keepdim=True)
        choice = distance.argmin(2, keepdim=True).expand(-1, 3, -1, -1)
        return offered.gather(2, choice).view_as(cells)

    def forward(self, stylized: Tensor, photo: Tensor) -> Tensor:
        """Return the mean absolute distance of the stylized cells from their colours.

        Args:
            stylized: [N, 3, H, W] in about [-1, 1].
            photo: The photographs it was made from, the same shape.
        """
        return (F.interpolate(stylized, (GRID, GRID), mode="area") - self.targets(photo)).abs().mean()


def _read_again(palette: nn.Module, _: object) -> None:
    assert isinstance(palette, Palette)
    palette._count = None
