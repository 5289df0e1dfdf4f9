"""The command line: every verb is thin, calls one Python function, and loads what it needs only when it runs."""

from stylekit.cli.app import main, run

__all__ = ["main", "run"]
