"""Pictures through a style: aligned faces, or whole pictures with every face pasted back."""

from stylekit.stylizer.files import StylizedFile, StylizeReport, stylize
from stylekit.stylizer.stylizer import StylizedFace, Stylizer

__all__ = ["StylizeReport", "StylizedFace", "StylizedFile", "Stylizer", "stylize"]
