"""Weights of face-alignment's networks with random numbers: the true file names and forms, which its own code loads."""

from __future__ import annotations

from pathlib import Path

import torch

from stylekit.assets import CATALOGUE

DETECTOR, LANDMARKS = CATALOGUE["face-alignment"].holds


def write_random_weights(folder: Path, finds: bool) -> None:
    """Write S3FD and FAN-4 into `folder`.

    Args:
        folder: Where to; made if it is not there.
        finds: Whether S3FD sees a face of 512 px around every 128th pixel, with a score of 0.88; else it sees none, so that
            no time goes into boxes that only random numbers give.
    """
    from face_alignment.detection.sfd.net_s3fd import s3fd
    from face_alignment.models import FAN

    torch.manual_seed(0)
    detector = s3fd()
    for name, layer in detector.named_children():
        if name.endswith(("_conf", "_loc")):
            torch.nn.init.zeros_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
        if name.endswith("_conf"):
            with torch.no_grad():
                layer.bias[-1] = 2.0 if finds and name.startswith("conv7_2") else -20.0
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(detector.state_dict(), folder / DETECTOR)
    torch.save(FAN(4).state_dict(), folder / LANDMARKS)
