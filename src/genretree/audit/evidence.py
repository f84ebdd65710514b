"""The copies that an audit found, as evidence for splits: read from audit.json, or looked for now."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from genretree.audit import audit
from genretree.audit.findings import COPIES
from genretree.audit.page import save_audit
from genretree.corpus.copies import Copies
from genretree.corpus.store import Store
from genretree.errors import CorpusError


def read_copies(path: str | Path, store: Store) -> Copies:
    """Read the pairs of copies from an audit of a store.

    Parameters
    ----------
    path : path
        `audit.json`, as `genretree audit` writes it.
    store : Store
        The store that was audited. It may have been moved, and its splits may have changed.

    Returns
    -------
    Copies
        Every pair once, the smaller row first.

    Raises
    ------
    CorpusError
        If the file cannot be read, is not an audit, or is the audit of another store.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error.strerror}); make it with: {_again(store)}") from error
    try:
        content = json.loads(raw)
        shape = (int(content["tracks"]), int(content["slices"]))
        digest = str(content.get("digest", ""))
        places = [[_place(item) for item in found["places"]] for found in content["findings"] if _is_copy(found)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorpusError(
            f"{path}: not an audit.json of genretree ({error!r}); make one with: {_again(store)}"
        ) from error
    if shape != (store.n_tracks, store.n_slices):
        raise _other_store(
            path,
            store,
            f"it lists {shape[0]} tracks and {shape[1]} slices, this store has {store.n_tracks} and {store.n_slices}",
        )
    if digest not in ("", store.facts.digest):
        raise _other_store(path, store, "the store was made from other music or settings since")
    pairs = set()
    for found in places:
        for track, name in found:
            if not 0 <= track < store.n_tracks or store.tracks["path"][track] != name:
                raise _other_store(path, store, f"its track {track}, '{name}', is not in this store")
        if len(found) != 2:
            raise CorpusError(f"{path}: a pair of copies has {len(found)} places; make it again with: {_again(store)}")
        one, other = sorted(track for track, _ in found)
        pairs.add((one, other))
    return Copies(str(path), hashlib.sha256(raw).hexdigest(), tuple(sorted(pairs)))


def find_copies(store: Store, *, progress: bool = False) -> Copies:
    """Audit a store, write `audit.json` and `audit.html` into its folder `audit`, and return the pairs of copies."""
    out = store.folder / "audit"
    save_audit(audit(store, progress=progress), store, out)
    return read_copies(out / "audit.json", store)


def _is_copy(finding: dict[str, Any]) -> bool:
    return finding["kind"] in COPIES


def _place(place: dict[str, Any]) -> tuple[int, str]:
    return int(place["track"]), str(place["path"])


def _again(store: Store) -> str:
    return f"genretree audit {store.folder}"


def _other_store(path: Path, store: Store, why: str) -> CorpusError:
    return CorpusError(f"{path}: not an audit of {store.folder}: {why}; audit this store with: {_again(store)}")
