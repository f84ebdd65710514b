"""Pairs of copies for splits: read from audit.json, or found by a new audit."""

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
        The audited store. Its folder and its splits may have changed since.

    Returns
    -------
    Copies
        Each pair once, the smaller track first.

    Raises
    ------
    CorpusError
        If the file cannot be read, is not an audit, or is the audit of another store.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise CorpusError(
            f"{path}: cannot be read ({error.strerror}); create it with: {_audit_command(store)}"
        ) from error
    try:
        content = json.loads(raw)
        sizes = (int(content["tracks"]), int(content["slices"]))
        digest = str(content.get("digest", ""))
        places = [
            [_place(item) for item in finding_places["places"]]
            for finding_places in content["findings"]
            if _is_copy(finding_places)
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorpusError(
            f"{path}: not an audit.json of genretree ({error!r}); create one with: {_audit_command(store)}"
        ) from error
    if sizes != (store.n_tracks, store.n_slices):
        raise _wrong_store(
            path,
            store,
            f"it covers {sizes[0]} tracks and {sizes[1]} slices, the store has {store.n_tracks} and {store.n_slices}",
        )
    if digest not in ("", store.metadata.digest):
        raise _wrong_store(path, store, "the store has been rebuilt from other music or settings")
    pairs = set()
    for finding_places in places:
        for track, name in finding_places:
            if not 0 <= track < store.n_tracks or store.tracks["path"][track] != name:
                raise _wrong_store(path, store, f"its track {track}, '{name}', is not in this store")
        if len(finding_places) != 2:
            raise CorpusError(
                f"{path}: a pair of copies has {len(finding_places)} places, expected 2; "
                f"create the audit again with: {_audit_command(store)}"
            )
        one, other = sorted(track for track, _ in finding_places)
        pairs.add((one, other))
    return Copies(str(path), hashlib.sha256(raw).hexdigest(), tuple(sorted(pairs)))


def find_copies(store: Store, *, progress: bool = False) -> Copies:
    """Audit a store, write `audit.json` and `audit.html` to its folder `audit`, and return the pairs of copies."""
    out = store.folder / "audit"
    save_audit(audit(store, progress=progress), store, out)
    return read_copies(out / "audit.json", store)


def _is_copy(finding: dict[str, Any]) -> bool:
    return finding["kind"] in COPIES


def _place(place: dict[str, Any]) -> tuple[int, str]:
    return int(place["track"]), str(place["path"])


def _audit_command(store: Store) -> str:
    return f"genretree audit {store.folder}"


def _wrong_store(path: Path, store: Store, why: str) -> CorpusError:
    return CorpusError(f"{path}: not an audit of {store.folder}: {why}; audit this store with: {_audit_command(store)}")
