"""The user's own ModelScope cache, where a model folder may already lie: what its clients, old and new, have left there."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from stylekit.assets.catalogue import ModelScopeFile, ModelScopeFolder, Source, under_each_owner


def find(source: Source, holds: Sequence[str], *, any_revision: bool = False) -> tuple[Path, str] | None:
    """Return where the cache holds a model's folder or file, without using the network; None if it does not.

    A revision is known only of what clients from 2026 on have fetched; the wanted one comes first, then what may be it.

    Args:
        source: What is looked for.
        holds: Files without which a folder is not whole: an interrupted download leaves some of them out.
        any_revision: Take one that is known to be another, too, if there is nothing else.

    Returns:
        The path, and what a record says of it: `ms-cache:OWNER/NAME[@REVISION][/FILE]`.
    """
    if not isinstance(source, ModelScopeFile | ModelScopeFolder):
        return None
    order = {source.revision: 0, "": 1}
    places = (place for each in under_each_owner(source) for place in _folders(each))
    for folder, name, revision in sorted(places, key=lambda place: order.get(place[2], 2)):
        if revision not in order and not any_revision:
            return None
        if isinstance(source, ModelScopeFile):
            if (folder / source.file).is_file():
                return folder / source.file, f"{name}/{source.file}"
        elif all((folder / file).is_file() for file in holds) and folder.is_dir():
            return folder, name
    return None


def _folders(source: ModelScopeFile | ModelScopeFolder) -> Iterator[tuple[Path, str, str]]:
    """Yield every place where a client puts this model, what a record says of it, and its revision, "" where it is unknown.

    Layouts: modelscope_hub/_download.py (`_repo_cache_dir_path`, `_find_legacy_repo_dir`) and modelscope/hub/utils/utils.py
    (`find_reusable_legacy_repo_dir`); the older ones write `___` for a dot.
    """
    root = Path(os.environ.get("MODELSCOPE_CACHE") or "~/.cache/modelscope").expanduser()
    owner, _, name = source.repository.partition("/")
    model = f"ms-cache:{owner}/{name}"
    snapshots = root / "models" / f"{owner}--{name}" / "snapshots"
    for path in sorted(snapshots.iterdir()) if snapshots.is_dir() else ():
        yield path, f"{model}@{path.name}", path.name
    for base in (root / "models", root / "hub" / "models", root, root / "hub"):
        for written in dict.fromkeys((name.replace(".", "___"), name)):
            yield base / owner / written, model, ""
