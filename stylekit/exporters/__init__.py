"""Trained networks in the formats others read, each compared with the trained one before it is written."""

from stylekit.exporters.build import ExportReport, export, up_to_date
from stylekit.exporters.verify import Parity

__all__ = ["ExportReport", "Parity", "export", "up_to_date"]
