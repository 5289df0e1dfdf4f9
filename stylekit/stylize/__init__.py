"""Pictures through a style: aligned faces, or whole pictures with every face pasted back."""

from stylekit.stylize.files import StylizedFile, StylizeReport, stylize
from stylekit.stylize.stylizer import StylizedFace, Stylizer

__all__ = ["StylizeReport", "StylizedFace", "StylizedFile", "Stylizer", "stylize"]
