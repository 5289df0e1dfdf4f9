"""What this machine has and lacks for stylekit, each lack with the command that mends it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import sys
from dataclasses import dataclass

from stylekit.assets import node, statuses
from stylekit.errors import MissingPartError, StylekitError
from stylekit.modelscope.runtime.device import INSTALL_CUDA, has_nvidia_gpu
from stylekit.modelscope.runtime.layer import TESTED
from stylekit.modelscope.runtime.probe import look
from stylekit.modelscope.runtime.process import missing_packages
from stylekit.paths import home

_PYTHONS = ((3, 11), (3, 14))  # requires-python in pyproject.toml: from the first, below the second
_REINSTALL_OPENCV = "pip install --force-reinstall opencv-python"
_FREE_GB = 2.0  # packages of the default assets while they are unpacked, 0.2 GB, and a training run's checkpoints


@dataclass(frozen=True)
class Check:
    """One line of the doctor's report.

    Attributes:
        name: What was looked at.
        ok: Whether it is there and works.
        detail: What was found.
        mend: The command or step that mends it; empty when `ok`.
        required: Whether the offline default needs it; a lack of anything else only closes one door.
    """

    name: str
    ok: bool
    detail: str
    mend: str = ""
    required: bool = True


def doctor(*, verify: bool = False) -> list[Check]:
    """Look at Python, the cache folder, devices, packages, Node.js and assets, without using the network.

    Args:
        verify: Also read every cached asset and compare its SHA-256.
    """
    return [_python(), _cache(), *_devices(), *_packages(), _opencv(), _pip(), _node(), _upstream(), *_assets(verify)]


def _python() -> Check:
    lowest, above = _PYTHONS
    ok = lowest <= sys.version_info[:2] < above
    mend = "" if ok else f"Install Python {lowest[0]}.{lowest[1]} to {above[0]}.{above[1] - 1}."
    return Check("python", ok, f"{platform.python_version()} on {platform.system()} {platform.machine()}", mend)


def _cache() -> Check:
    existing = next(folder for folder in (home(), *home().absolute().parents) if folder.exists())
    free_gb = shutil.disk_usage(existing).free / 1e9
    ok = os.access(existing, os.W_OK) and free_gb >= _FREE_GB
    writable = "writable" if os.access(existing, os.W_OK) else "not writable"
    mend = "" if ok else "Set STYLEKIT_HOME to a folder you can write, on a disk with free space."
    return Check("cache folder", ok, f"{home()}, {writable}, {free_gb:.0f} GB free", mend)


def _devices() -> list[Check]:
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a shared library of torch is missing
        return [Check("torch", False, str(error), "Run: pip install --force-reinstall torch")]
    checks = [
        Check("torch", True, torch.__version__),
        Check("device cpu", True, f"{os.cpu_count()} cores, {torch.get_num_threads()} torch threads"),
    ]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        checks.append(Check(f"device cuda:{index}", True, f"{properties.name}, {properties.total_memory / 1e9:.0f} GB"))
    if torch.backends.mps.is_available():
        checks.append(Check("device mps", True, platform.processor() or "Apple GPU"))
    if not torch.cuda.is_available() and has_nvidia_gpu():
        mend = "Install the CUDA build of torch, as the selector on PyTorch's site says."
        checks.append(
            Check(
                "device cuda", False, f"an NVIDIA GPU is there, but torch {torch.__version__} cannot use it", mend, required=False
            )
        )
    return checks


def _packages() -> list[Check]:
    """Check the packages that stylekit's own metadata asks for: the core ones together, each extra by itself."""
    groups: dict[str, list[str]] = {}
    for requirement in importlib.metadata.requires("stylekit") or ():
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", requirement)
        groups.setdefault(extra[1] if extra else "", []).append(re.split(r"[^\w.-]", requirement, maxsplit=1)[0])
    groups.pop("dev", None)
    checks = []
    for group, names in groups.items():
        missing = [name for name in names if not _is_installed(name)]
        detail = f"missing: {', '.join(missing)}" if missing else f"installed: {', '.join(names)}"
        mend = f"Run: pip install 'stylekit{f'[{group}]' if group else ''}'" if missing else ""
        checks.append(Check(f"extra {group}" if group else "packages", not missing, detail, mend, required=not group))
    return checks


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _opencv() -> Check:
    """Import OpenCV, whose wheel needs libraries of the system that a bare one has not."""
    try:
        import cv2
    except (ImportError, OSError) as error:
        library = re.match(r"[\w.+-]+\.so[\w.]*", str(error))
        detail = f"{library[0]} missing" if library else str(error)
        return Check("opencv", False, detail, "Run: " + ("apt install libgl1 libglib2.0-0" if library else _REINSTALL_OPENCV))
    return Check("opencv", True, cv2.__version__)


def _pip() -> Check:
    ok = importlib.util.find_spec("pip") is not None
    return Check(
        "pip", ok, "fetches assets" if ok else "missing; it fetches assets", "" if ok else f"Run: {sys.executable} -m ensurepip"
    )


def _node() -> Check:
    try:
        return Check("node.js", True, f"{node.node()}, npm {' '.join(node.npm())}")
    except MissingPartError as error:
        return Check("node.js", False, error.message, error.hint)


def _upstream() -> Check:
    """Import ModelScope's own trainer, exporter and pipeline, in a process of their own."""
    name, mend = "modelscope engine", "Run: pip install 'stylekit[modelscope]'"
    if missing := missing_packages():
        return Check(name, False, f"missing: {', '.join(missing)}", mend, required=False)
    try:
        found = look()
    except StylekitError as error:
        return Check(name, False, str(error), mend.replace("install", "install --force-reinstall"), required=False)
    detail = f"{_listed(found.versions)}; tested with {_listed(TESTED)}"
    if not found.sees_gpu and has_nvidia_gpu():
        return Check(name, False, f"{detail}; TensorFlow does not see the NVIDIA GPU", INSTALL_CUDA, required=False)
    return Check(name, True, detail)


def _listed(versions: dict[str, str]) -> str:
    return ", ".join(f"{package} {version}" for package, version in versions.items())


def _assets(verify: bool) -> list[Check]:
    checks = []
    for status in statuses(verify=verify):
        ok = status.state in ("cached", "user")
        found = (
            f"{status.state}, {status.size / 1e6:.1f} MB, {status.source}"
            if ok
            else status.problem or f"not fetched, {status.source}"
        )
        checks.append(
            Check(
                f"asset {status.name}",
                ok,
                found,
                f"Run: {status.mend}" if status.mend else "",
                required=status.state == "damaged",
            )
        )
    return checks
