"""Weights and data sets by name: fetched once from where they are published, checked, cached, or the user's own."""

from stylekit.assets.catalogue import CATALOGUE, ROLES, Asset
from stylekit.assets.pairs import Pair, find_pair
from stylekit.assets.store import (
    Resolved,
    Status,
    add,
    dataset_folder,
    digest,
    fetch,
    is_available,
    modelscope_style,
    remove,
    resolve,
    statuses,
)

__all__ = [
    "CATALOGUE",
    "ROLES",
    "Asset",
    "Pair",
    "Resolved",
    "Status",
    "add",
    "dataset_folder",
    "digest",
    "fetch",
    "find_pair",
    "is_available",
    "modelscope_style",
    "remove",
    "resolve",
    "statuses",
]
