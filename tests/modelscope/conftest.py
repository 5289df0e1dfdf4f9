"""What the tests of the bridge share: no hub, and folders of ModelScope's form."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _no_hub(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Close every hub, and keep the user's caches out of it."""
    closed = {
        "MODELSCOPE_DOMAIN": "127.0.0.1:9",
        "MODELSCOPE_ENDPOINT": "http://127.0.0.1:9",
        "MODELSCOPE_CACHE": str(tmp_path_factory.getbasetemp() / "modelscope-cache"),
        "HF_HUB_OFFLINE": "1",
    }
    for name, value in closed.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model folder, set to train at 64 px; not to be changed."""
    from tests.modelscope.folders import model_folder

    return model_folder(tmp_path_factory.mktemp("model"), trains=True, patch_size=64)


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of 400 x 300 px, lossless."""
    import cv2
    import numpy as np

    path = tmp_path_factory.mktemp("photo") / "me.png"
    noise = np.random.default_rng(0).integers(0, 256, (10, 14, 3), np.uint8)
    cv2.imwrite(str(path), cv2.resize(noise, (400, 300), interpolation=cv2.INTER_CUBIC))
    return path
