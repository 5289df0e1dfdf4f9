"""Weights and data sets by name: fetched once from where they are published, checked, cached, or the user's own."""

from stylekit.assets.catalogue import CATALOGUE, ROLES, Asset, find_style, names_style
from stylekit.assets.pairs import Pair, find_pair, pairs_in
from stylekit.assets.store import (
    Resolved,
    Status,
    add,
    at_hand,
    dataset_folder,
    digest,
    fetch,
    find_in_styles,
    is_available,
    modelscope_style,
    remove,
    resolve,
    statuses,
    style_at_hand,
)

__all__ = [
    "CATALOGUE",
    "ROLES",
    "Asset",
    "Pair",
    "Resolved",
    "Status",
    "add",
    "at_hand",
    "dataset_folder",
    "digest",
    "fetch",
    "find_in_styles",
    "find_pair",
    "find_style",
    "is_available",
    "modelscope_style",
    "names_style",
    "pairs_in",
    "remove",
    "resolve",
    "statuses",
    "style_at_hand",
]
