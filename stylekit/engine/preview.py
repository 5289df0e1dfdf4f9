"""Sample sheets: the same photographs all through a run, each beside what the network makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from stylekit.data.datasets import PictureSet
from stylekit.errors import ImageError
from stylekit.images import SHEET_GAP_PX, Rgb, contact_sheet, read_rgb, to_rgb, to_tensor, write_image

PHOTOS = 8
PAIRS_IN_A_ROW = 4


@torch.no_grad()
def stylize_batch(network: nn.Module, pictures: NDArray[np.uint8], batch_size: int = 8) -> NDArray[np.uint8]:
    """Run a generator over [N, H, W, 3] pictures on the device it lies on and return [N, H, W, 3]."""
    device = next(network.parameters()).device
    return np.concatenate(
        [
            to_rgb(network(to_tensor(pictures[i : i + batch_size]).to(device)).float().cpu())
            for i in range(0, len(pictures), batch_size)
        ]
    )


def write_sample_sheet(path: Path, network: nn.Module, photos: PictureSet) -> None:
    """Write rows of photo | stylized pairs of the first eight photographs.

    Raises:
        StylekitError: If the sheet cannot be written.
    """
    shown = photos.batch(range(min(PHOTOS, len(photos))))[..., :3]
    pairs = [picture for pair in zip(shown, stylize_batch(network, shown), strict=True) for picture in pair]
    write_image(path, contact_sheet(pairs, columns=min(2 * PAIRS_IN_A_ROW, len(pairs)), cell=shown.shape[1]))


def read_sample_sheet(path: Path, size: int) -> list[tuple[Rgb, Rgb]]:
    """Return the pairs of photo and stylized of a sheet, as `write_sample_sheet` wrote it of pictures of that side.

    Raises:
        ImageError: If it cannot be read, or was made of pictures of another size.
    """
    sheet = read_rgb(path)
    pitch = size + SHEET_GAP_PX
    rows, columns = ((side + SHEET_GAP_PX) // pitch for side in sheet.shape[:2])
    if sheet.shape[:2] != (rows * pitch - SHEET_GAP_PX, columns * pitch - SHEET_GAP_PX) or columns % 2:
        raise ImageError(f"{path} is no sheet of pictures of {size} px.")
    cells = [
        sheet[row * pitch : row * pitch + size, column * pitch : column * pitch + size]
        for row in range(rows)
        for column in range(columns)
    ]
    return [pair for pair in zip(cells[::2], cells[1::2], strict=True) if not (pair[0] == 255).all()]
