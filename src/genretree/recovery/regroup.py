"""Adding recovered tracks and a split by them to a store of slices."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from genretree.arrays import Int64Array
from genretree.corpus.copies import Copies, count_joined, join_copies
from genretree.corpus.splits import RECOVERED, RecoveredBlocks, join_groups, split_groups
from genretree.corpus.store import Store, write_tables
from genretree.errors import CorpusError
from genretree.recovery.recover import max_block_size, recover_tracks
from genretree.taxonomy import Taxonomy, format_path

SPLIT = "recovered"


def regroup_store(store: Store, *, copies: Copies | None = None, progress: bool = False) -> Store:
    """Recover the tracks of a store of slices, and add a split that keeps blocks together.

    Parameters
    ----------
    store : Store
        Store of slices without track labels.
    copies : Copies, optional
        Pairs of copies from an audit. Their blocks are merged, even across labels, which recovery from images does not
        do. A store with blocks keeps them and has them merged.
    progress : bool, default False
        Show progress bars on standard error.

    Returns
    -------
    Store
        The same folder, reopened. The column `group` of its tracks (one slice each) holds the block, which later splits
        keep together; `recovered_track` and `recovered_confidence` hold the recovered tracks. The split `recovered`
        keeps blocks together, and its file records the audit and the labels whose blocks may hold a whole artist. Other
        splits do not change. A store with blocks is returned unchanged without `copies`.

    Raises
    ------
    CorpusError
        If the tracks of the store are known.

    See Also
    --------
    genretree.recovery.recover.recover_tracks : Recover tracks from images.
    genretree.audit.evidence.find_copies : Find pairs of copies.
    """
    if store.metadata.group_by == RECOVERED:
        return store if copies is None else _write(store, dict(store.tracks), copies)
    if store.metadata.group_by != "slice":
        raise CorpusError(
            f"{store.folder}: its tracks are known; only stores of slices without tracks can be regrouped"
        )
    recovery = recover_tracks(store.images, store.track_leaves[store.slice_tracks], progress=progress)
    tracks: dict[str, list[Any]] = {
        **store.tracks,
        "group": [f"block:{number:05d}" for number in recovery.blocks],
        "recovered_track": recovery.tracks.tolist(),
        "recovered_confidence": np.round(recovery.confidence, 3).tolist(),
    }
    return _write(store, tracks, copies)


def summarise_blocks(leaves: Int64Array, blocks: Int64Array, taxonomy: Taxonomy) -> RecoveredBlocks:
    """Find the labels with a block above the limit for probable tracks, and those that are a single block.

    Parameters
    ----------
    leaves, blocks : ndarray, int64, shape (n,)
        Label and block of each slice.
    taxonomy : Taxonomy
        Names of the labels.
    """
    by_artist, whole = {}, []
    for leaf in np.unique(leaves):
        name, in_leaf = format_path(taxonomy.leaves[leaf]), leaves == leaf
        sizes = np.unique(blocks[in_leaf], return_counts=True)[1]
        n_label = int(in_leaf.sum())
        if len(sizes) == 1:
            whole.append(name)
        elif sizes.max() > max_block_size(n_label, len(leaves)):
            by_artist[name] = round(float(sizes.max()) / n_label, 3)
    return RecoveredBlocks(len(np.unique(blocks)), by_artist, tuple(whole))


def _write(store: Store, tracks: dict[str, list[Any]], copies: Copies | None) -> Store:
    """Merge the blocks of copies, compute the split, and write both."""
    joined = None
    if copies is not None:
        names, blocks = np.unique(np.array(tracks["group"], dtype=object).astype(str), return_inverse=True)
        merged = join_copies(blocks, copies.pairs)
        joined = count_joined(copies, blocks, merged)
        tracks["group"] = names[merged].tolist()
    slices = {"track": store.slice_tracks, "start": store.starts, "padded": store.padded, "silent": store.silent}
    metadata = replace(store.metadata, group_by=RECOVERED)
    # The split first: write_tables writes the file that marks the store as complete.
    groups = join_groups(tracks["group"], tracks["sha256"])
    split = split_groups(store.track_leaves, groups, name=SPLIT)
    recovery = summarise_blocks(store.track_leaves, groups, store.taxonomy)
    replace(split, protocol="recovered", copies=joined, recovery=recovery).save(store.folder / "splits")
    write_tables(store.folder, tracks, slices, store.taxonomy, store.settings, metadata, store.failures)
    return Store(store.folder)
