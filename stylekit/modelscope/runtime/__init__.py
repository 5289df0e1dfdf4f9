"""Upstream's own code on today's Python: the compatibility layer, and the child process it lives in."""
