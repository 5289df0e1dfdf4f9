"""What TensorFlow computes on. Its package for pip brings no CUDA libraries, so it may pass over a GPU that is there."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

from stylekit.errors import UsageError

if TYPE_CHECKING:
    from stylekit.modelscope.runtime.child import Link

INSTALL_CUDA = "Run: pip install 'tensorflow[and-cuda]'"


def has_nvidia_gpu() -> bool:
    """Return whether an NVIDIA GPU is there, as its driver or torch says, and not hidden by `CUDA_VISIBLE_DEVICES`."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return False
    program = shutil.which("nvidia-smi")
    try:
        if program and subprocess.run([program, "-L"], capture_output=True, timeout=30, check=False).returncode == 0:
            return True
    except (OSError, subprocess.TimeoutExpired):
        pass
    try:
        import torch
    except (ImportError, OSError):
        return False
    return torch.version.cuda is not None and torch.cuda.is_available()


def found_device(tf: Any, asked: str | None, link: Link) -> dict[str, str]:
    """In the child: return what TensorFlow computes on, as `env.json` says it.

    Args:
        tf: TensorFlow.
        asked: `cpu`, `cuda` or `cuda:1`; None or `auto` for what there is.
        link: Hears a warning where a GPU is there that TensorFlow does not see, and none was asked for.

    Raises:
        UsageError: If a GPU is asked for and TensorFlow sees none.
    """
    if gpus := tf.config.list_physical_devices("GPU"):
        name = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "")
        return {"device": "cuda", **({"gpu": name} if name else {})}
    passed_over = asked != "cpu" and has_nvidia_gpu()
    if asked not in (None, "auto", "cpu"):
        hint = f"{INSTALL_CUDA}, or use --device cpu." if passed_over else "Use --device cpu."
        raise UsageError(f"TensorFlow sees no GPU here, and --device {asked} asks for one.", hint)
    if passed_over:
        link.warn(f"TensorFlow computes on the CPU: it does not see the NVIDIA GPU that is there. {INSTALL_CUDA}")
    return {"device": "cpu"}
