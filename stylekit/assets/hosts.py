"""Whether a hub can be reached at all, known within seconds: the hubs' own clients go on trying for half a minute."""

from __future__ import annotations

import os
import socket
import time
import urllib.request
from contextlib import suppress
from urllib.parse import urlsplit

from stylekit.errors import StylekitError
from stylekit.paths import atomic_write_text, home

_TIMEOUT_S = 4.0
_SLOW_S = 1.0
_ASK_AGAIN_S = 600.0


def is_offline() -> bool:
    """Return whether `STYLEKIT_OFFLINE` forbids every use of the network."""
    return os.environ.get("STYLEKIT_OFFLINE", "").lower() not in ("", "0", "false", "no")


def modelscope() -> str:
    """Return the address of ModelScope's hub: `$MODELSCOPE_ENDPOINT`, else its own."""
    return os.environ.get("MODELSCOPE_ENDPOINT", "").strip() or "https://modelscope.cn"


def hugging_face() -> str:
    """Return the address of Hugging Face's hub: `$HF_ENDPOINT`, else its own."""
    return os.environ.get("HF_ENDPOINT", "").strip() or "https://huggingface.co"


def out_of_reach(address: str) -> str:
    """Return why a hub cannot be reached ("modelscope.cn: name not known"); an empty string if it can, as far as is known.

    Behind a proxy only the proxy knows. A refusal that took long to come is remembered for ten minutes.

    Args:
        address: The hub's, such as `https://modelscope.cn`.
    """
    if is_offline():
        return "STYLEKIT_OFFLINE is set"
    parts = urlsplit(address if "//" in address else f"https://{address}")
    host, scheme = parts.hostname or "", parts.scheme
    with suppress(OSError):  # of systems whose settings cannot be read
        if scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host):
            return ""
    memory = home() / "refusals" / f"host-{host}"
    with suppress(OSError):
        if 0 <= time.time() - memory.stat().st_mtime < _ASK_AGAIN_S:
            return memory.read_text("utf-8").strip()
    begun = time.monotonic()
    try:
        socket.create_connection((host, parts.port or (80 if scheme == "http" else 443)), _TIMEOUT_S).close()
    except (OSError, UnicodeError) as error:
        reason = f"{host}: {_said(error)}"
        if time.monotonic() - begun > _SLOW_S:
            with suppress(StylekitError):
                atomic_write_text(memory, reason + "\n")
        return reason
    return ""


def _said(error: OSError | UnicodeError) -> str:
    if isinstance(error, socket.gaierror | UnicodeError):
        return "name not known"
    if isinstance(error, TimeoutError):
        return "no answer"
    return (error.strerror or type(error).__name__).lower()
