"""Weights and data sets by name: fetched once from where they are published, checked, cached, or the user's own."""

from stylekit.assets.catalogue import CATALOGUE, ROLES, Asset
from stylekit.assets.store import Resolved, Status, add, digest, fetch, is_available, remove, resolve, statuses

__all__ = [
    "CATALOGUE",
    "ROLES",
    "Asset",
    "Resolved",
    "Status",
    "add",
    "digest",
    "fetch",
    "is_available",
    "remove",
    "resolve",
    "statuses",
]
