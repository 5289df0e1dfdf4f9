from __future__ import annotations

import numpy as np
import pytest

from stylekit.faces.mask import feather_mask


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
