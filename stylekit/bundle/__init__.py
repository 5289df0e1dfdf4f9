"""Styles as they travel: `style.json`, networks, preview, card, licence."""

from stylekit.bundle.style import (
    STARTER,
    Bundle,
    BundledNetwork,
    DataSummary,
    Metrics,
    Networks,
    Style,
    Training,
    load_style,
    read_bundle,
    write_bundle,
)

__all__ = [
    "STARTER",
    "Bundle",
    "BundledNetwork",
    "DataSummary",
    "Metrics",
    "Networks",
    "Style",
    "Training",
    "load_style",
    "read_bundle",
    "write_bundle",
]
