"""Lookup of pulled bundles in the Hub client's cache, in a folder of genretree's own.

The layout is that of `huggingface_hub`::

CACHE/hub/models--USER--NAME/snapshots/COMMIT/   a bundle; `hub.json` is written last, when it has been verified
CACHE/hub/models--USER--NAME/refs/REVISION       the commit that a branch or tag pointed to when it was pulled
CACHE/hub/USER/NAME/                             bundles pulled by genretree 0.1: COMMIT/ and revisions.json
"""

from __future__ import annotations

import json
from pathlib import Path

from genretree.bundle.hub.names import HubName, is_commit
from genretree.files import cache_folder, write_text

ORIGIN = "hub.json"  # name, revision and commit of a pulled bundle
_MIN_PREFIX = 7  # hex digits of an abbreviated commit hash


def hub_cache() -> Path:
    """Return the `cache_dir` that is passed to the Hub's client."""
    return cache_folder() / "hub"


def snapshot_folder(name: HubName, commit: str) -> Path:
    """Return the folder of a commit's files, which need not exist."""
    return _storage_folder(name) / "snapshots" / commit


def write_ref(name: HubName, commit: str) -> None:
    """Record which commit a branch or tag points to; only then `find_pulled` resolves it."""
    if name.revision != commit:
        write_text(_storage_folder(name) / "refs" / name.revision, commit)


def find_pulled(name: HubName) -> Path | None:
    """Return the folder of a bundle that was pulled, or None; makes no request to the Hub.

    A branch or tag resolves to the commit it pointed to when it was last pulled.
    """
    ref = _storage_folder(name) / "refs" / name.revision
    commit = ref.read_text(encoding="utf-8") if ref.is_file() else name.revision
    old = hub_cache() / name.repo
    return _match_commit(_storage_folder(name) / "snapshots", commit) or _match_commit(old, _read_old_ref(old, name))


def _storage_folder(name: HubName) -> Path:
    return hub_cache() / f"models--{name.repo.replace('/', '--')}"


def _match_commit(folder: Path, prefix: str) -> Path | None:
    """Return the only verified bundle whose commit hash starts with `prefix`."""
    if len(prefix) < _MIN_PREFIX or not folder.is_dir():
        return None
    matches = [path for path in folder.iterdir() if path.name.startswith(prefix) and (path / ORIGIN).is_file()]
    return matches[0] if len(matches) == 1 and is_commit(matches[0].name) else None


def _read_old_ref(folder: Path, name: HubName) -> str:
    try:
        refs = json.loads((folder / "revisions.json").read_text(encoding="utf-8"))
        return str(refs.get(name.revision, name.revision))
    except (OSError, ValueError, AttributeError):  # absent or damaged: only commit hashes can be found
        return name.revision
