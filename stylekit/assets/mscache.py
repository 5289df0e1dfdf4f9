"""The user's own ModelScope cache, where a model folder may already lie: what its clients, old and new, have left there."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from stylekit.assets.catalogue import STYLE_OWNERS, ModelScopeFile, ModelScopeFolder, Source


def find(source: Source, holds: Sequence[str]) -> tuple[Path, str] | None:
    """Return where the cache holds a model's folder or file, without using the network; None if it does not.

    A revision is known only of what clients from 2026 on have fetched; the wanted one comes first, but any is taken.

    Args:
        source: What is looked for.
        holds: Files without which a folder is not whole: an interrupted download leaves some of them out.

    Returns:
        The path, and what a record says of it: `ms-cache:OWNER/NAME[@REVISION][/FILE]`.
    """
    if not isinstance(source, ModelScopeFile | ModelScopeFolder):
        return None
    for folder, name in _folders(source.repository, source.revision):
        if isinstance(source, ModelScopeFile):
            if (folder / source.file).is_file():
                return folder / source.file, f"{name}/{source.file}"
        elif all((folder / file).is_file() for file in holds) and folder.is_dir():
            return folder, name
    return None


def _folders(repository: str, revision: str) -> Iterator[tuple[Path, str]]:
    """Yield every place where a client puts this model, under either of its owner's names.

    Layouts: modelscope_hub/_download.py (`_repo_cache_dir_path`, `_find_legacy_repo_dir`) and modelscope/hub/utils/utils.py
    (`find_reusable_legacy_repo_dir`); the older ones write `___` for a dot.
    """
    root = Path(os.environ.get("MODELSCOPE_CACHE") or "~/.cache/modelscope").expanduser()
    owner, _, name = repository.partition("/")
    for each in dict.fromkeys((owner, *STYLE_OWNERS)) if owner in STYLE_OWNERS else (owner,):
        model = f"ms-cache:{each}/{name}"
        snapshots = root / "models" / f"{each}--{name}" / "snapshots"
        fetched = {path.name: path for path in snapshots.iterdir()} if snapshots.is_dir() else {}
        for known in sorted(fetched, key=lambda known: (known != revision, known)):
            yield fetched[known], f"{model}@{known}"
        for base in (root / "models", root / "hub" / "models", root, root / "hub"):
            for written in dict.fromkeys((name.replace(".", "___"), name)):
                yield base / each / written, model
