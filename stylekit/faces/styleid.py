"""Who a face shows, by StyleID (Yun et al., SIGGRAPH 2026): a CLIP image encoder trained to know people in stylized pictures."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stylekit.assets import fetch
from stylekit.errors import AssetError, MissingPartError
from stylekit.faces.align import face_matrix, warp
from stylekit.faces.litert import Floats

_BATCH = 16
_MEND = "Run: stylekit assets add identity FOLDER --name styleid"


class StyleIdEmbedder:
    """Embeds faces with `CLIPModel.get_image_features`, as the README of github.com/kwanyun/StyleID does.

    It asks for "a rough centre crop near the face". The crop taken is FFHQ's, around the five points, at the size that the
    folder's image processor wants; the processor then has nothing left to resize.

    Args:
        folder: A CLIP model as transformers writes it, weights as safetensors; the asset `styleid` by default.
        device: Where the network runs.

    Attributes:
        side: Side in pixels of the crop.
        features: Length of an embedding.

    Raises:
        MissingPartError: If transformers is not installed.
        AssetError: If the folder is missing, damaged, or holds another model.
    """

    def __init__(self, folder: Path | None = None, device: str | torch.device = "cpu") -> None:
        try:
            import transformers
        except ImportError as error:
            raise MissingPartError("transformers", "gen", "The embedder styleid") from error
        folder = folder or fetch("styleid")
        try:
            with _silence(transformers), torch.random.fork_rng(devices=[]):  # it draws first weights of what a file lacks
                # without torchvision and with it the same: Pillow's processor, which older releases call by the other name
                processor = getattr(transformers, "CLIPImageProcessorPil", transformers.CLIPImageProcessor)
                self._processor = processor.from_pretrained(folder, local_files_only=True)
                network, said = transformers.CLIPModel.from_pretrained(
                    folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
                )
            size = self._processor.size
            self.side = int(size.get("shortest_edge") or size.get("height") or 0)
            if missing := sorted(said["missing_keys"]):
                raise ValueError(f"it has no {missing[0]}")
            if self.side <= 0:
                raise ValueError("its image processor names no size")
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise AssetError(f"{folder} does not hold StyleID, a CLIP model of transformers ({reason}).", _MEND) from error
        self.features = int(network.config.projection_dim)
        self._network = network.to(device).requires_grad_(False).eval()
        self._device = device

    @torch.inference_mode()
    def embed(self, pictures: Sequence[NDArray[np.uint8]], points: Sequence[NDArray[np.floating]]) -> Floats:
        """Return one embedding of length 1 for each picture, float32 [N, features].

        Args:
            pictures: Photographs or crops, uint8 RGB [H,W,3], of any sizes.
            points: For each picture `landmarks_5` [5,2] in its pixels.

        Raises:
            UsageError: If the points of a face coincide.
        """
        embeddings = np.empty((len(pictures), self.features), np.float32)
        for start in range(0, len(pictures), _BATCH):
            part = slice(start, start + _BATCH)
            crops = [
                warp(picture, face_matrix(face, "ffhq", self.side), self.side)
                for picture, face in zip(pictures[part], points[part], strict=True)
            ]
            shown = self._processor(images=crops, return_tensors="pt", input_data_format="channels_last")["pixel_values"]
            found = self._network.get_image_features(pixel_values=shown.to(self._device))
            vectors: torch.Tensor = getattr(found, "pooler_output", found)  # a tensor before transformers 5
            embeddings[part] = torch.nn.functional.normalize(vectors).cpu().numpy()
        return embeddings


@contextmanager
def _silence(transformers: Any) -> Iterator[None]:
    """Keep the bars and remarks of loading off the terminal; what matters is raised."""
    log = transformers.utils.logging
    verbosity, has_bar = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity(logging.CRITICAL)
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if has_bar:
            log.enable_progress_bar()
