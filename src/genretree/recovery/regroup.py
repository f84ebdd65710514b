"""Adding to a store of drawn slices which of them seem to be of one piece."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from genretree.corpus.copies import Copies, count_joined, join_copies
from genretree.corpus.splits import RECOVERED, join_groups, split_groups
from genretree.corpus.store import Store, write_tables
from genretree.errors import CorpusError
from genretree.recovery.recover import recover_tracks

SPLIT = "recovered"


def regroup_store(store: Store, *, copies: Copies | None = None, progress: bool = False) -> Store:
    """Group the slices of a store by the piece they seem to be cut from, and add a split by these groups.

    Parameters
    ----------
    store : Store
        One whose slices carry no track.
    copies : Copies, optional
        Pairs of slices that an audit found to be the same. Their blocks are joined, across labels too, which the
        grouping by images alone never does. A store that is grouped already keeps its blocks and has them joined.
    progress : bool
        Show bars on standard error.

    Returns
    -------
    Store
        The same folder, opened anew. The column `group` of its tracks (each of one slice) holds the block, what is kept
        together by every split from now on; `recovered_track` and `recovered_confidence` say more. The split
        `recovered` is cut by blocks, and its file names the audit; the other splits are left as they were. A store that
        is grouped already, and without `copies`, is returned as it is.

    Raises
    ------
    CorpusError
        If the tracks of the store are known.
    """
    if store.facts.group_by == RECOVERED:
        return store if copies is None else _write(store, dict(store.tracks), copies)
    if store.facts.group_by != "slice":
        raise CorpusError(f"{store.folder}: its tracks are known; only slices without a track are grouped by images")
    found = recover_tracks(store.images, store.track_leaves[store.slice_tracks], progress=progress)
    tracks: dict[str, list[Any]] = {
        **store.tracks,
        "group": [f"block:{number:05d}" for number in found.blocks],
        "recovered_track": found.tracks.tolist(),
        "recovered_confidence": np.round(found.confidence, 3).tolist(),
    }
    return _write(store, tracks, copies)


def _write(store: Store, tracks: dict[str, list[Any]], copies: Copies | None) -> Store:
    """Join the blocks of copies, cut the split, and write both."""
    joined = None
    if copies is not None:
        names, blocks = np.unique(np.array(tracks["group"], dtype=object).astype(str), return_inverse=True)
        merged = join_copies(blocks, copies.pairs)
        joined = count_joined(copies, blocks, merged)
        tracks["group"] = names[merged].tolist()
    slices = {"track": store.slice_tracks, "start": store.starts, "padded": store.padded, "silent": store.silent}
    facts = replace(store.facts, group_by=RECOVERED)
    # The split first: what write_tables writes last says that all is there.
    groups = join_groups(tracks["group"], tracks["sha256"])
    split = split_groups(store.track_leaves, groups, name=SPLIT)
    replace(split, protocol="recovered", copies=joined).save(store.folder / "splits")
    write_tables(store.folder, tracks, slices, store.taxonomy, store.settings, facts, store.failures)
    return Store(store.folder)
