"""Finished styles, out to others."""

from stylekit.hubs.folder import PublishReport, publish

__all__ = ["PublishReport", "publish"]
