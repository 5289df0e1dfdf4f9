"""Measurements by hand; see README.md."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `stylekit` sets it, before torch is loaded
