"""Finished styles, out to others."""

from stylekit.publish.folder import PublishReport, publish

__all__ = ["PublishReport", "publish"]
