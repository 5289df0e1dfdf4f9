"""Measurements by hand; see README.md."""

from stylekit import process

process.prepare()  # as the command line does, before torch is loaded
