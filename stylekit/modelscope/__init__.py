"""ModelScope's DCT-Net beside ours: its files read and written, its own code run, its classes' interface on our engine."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stylekit.modelscope.dropin import CartoonTranslationExporter, CartoonTranslationTrainer

__all__ = ["CartoonTranslationExporter", "CartoonTranslationTrainer"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'stylekit.modelscope' has no attribute {name!r}")
    return getattr(import_module("stylekit.modelscope.dropin"), name)
