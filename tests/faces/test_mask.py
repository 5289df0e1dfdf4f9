from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stylekit.faces.mask import PortraitMask, feather_mask


def test_portrait_mask_shows_the_person_only(asset_home: Path, portrait):
    mask = PortraitMask()(portrait)
    assert mask.shape == (512, 512)
    assert mask.dtype == np.float32
    assert 0 <= mask.min() <= mask.max() <= 1
    assert mask[90:170, 190:260].mean() > 0.95
    assert mask[250:400, 120:240].mean() > 0.95
    assert mask[:60, :60].mean() < 0.05
    assert mask[20:200, 330:400].mean() < 0.1


@pytest.mark.parametrize("size", [96, 256, 288])
def test_feather_mask_is_one_inside_and_fades_to_nothing(size):
    mask = feather_mask(size)
    assert mask[size // 2, size // 2] == 1
    assert mask[[0, -1]].max() == 0
    assert mask[:, [0, -1]].max() == 0
    np.testing.assert_allclose(mask, mask[::-1, ::-1], atol=0.02)
    middle = mask[size // 2, : size // 2]
    assert (np.diff(middle) >= 0).all()
    edge = int(np.argmax(middle > 0))
    assert edge == pytest.approx(0.1 * size, abs=2)
    assert int(np.argmax(middle == 1)) - edge == pytest.approx(0.15 * size, abs=3)
