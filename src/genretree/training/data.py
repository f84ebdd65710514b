"""Training data from a store: labelled slices, and the fingerprints that a bundle records of them."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genretree.arrays import Int64Array
from genretree.corpus.manifest import ALONE
from genretree.corpus.names import fold_name, split_names
from genretree.corpus.splits import Split
from genretree.corpus.store import Store
from genretree.models.base import SliceDataset


def slice_dataset(store: Store, split: Split, part: str) -> SliceDataset:
    """Select the labelled slices of one part ("train", "validation", "test" or "all") of a store."""
    return slice_dataset_of(store, store.rows(part, split))


def slice_dataset_of(store: Store, rows: Int64Array) -> SliceDataset:
    """Select labelled slices of a store by row number, an array of shape (n,)."""
    tracks = store.slice_tracks[rows]
    return SliceDataset(
        store.images,
        rows,
        store.track_leaves[tracks],
        tracks,
        store.track_groups[tracks],
        store.features,
        store.folder / "cache",
    )


def unknown_groups(store: Store) -> NDArray[np.bool_]:
    """Mark the tracks whose artist (or album) is unknown, each of which is its own group: shape (n_tracks,)."""
    alone = np.array([str(name).startswith(ALONE) for name in store.tracks["group"]], dtype=bool)
    return alone & (store.metadata.group_by != "track")


def fingerprint(text: str) -> str:
    """Hash a group's name, so that a bundle can recognise artists without naming them."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def group_fingerprints(store: Store, track: int) -> set[str]:
    """Hash all names of a track's group: the store's name, the source's spelling, and the name of each artist.

    Two stores may name the group of the same artist differently, because of spelling or joint credits. The groups
    match if they have any name in common.
    """
    group_by = store.metadata.group_by
    names = {str(store.tracks["group"][track])}
    value = str(store.tracks[group_by][track] or "") if group_by in store.tracks else ""
    if value:
        names |= {f"{group_by}:{value}", *(f"{group_by}:{fold_name(name)}" for name in split_names(value, group_by))}
    return {fingerprint(name) for name in names}


def parts_digest(split: Split) -> str:
    """Hash the assignment of tracks or slices to parts, which changes when a split is made again under its old name."""
    return hashlib.sha256("".join(split.parts).encode()).hexdigest()[:16]


def describe_data(store: Store, split: Split) -> dict[str, Any]:
    """Describe the training data, so that an evaluation can recognise tracks and groups seen in training."""
    seen = np.unique(np.concatenate([store.slice_tracks[store.rows(part, split)] for part in ("train", "validation")]))
    return {
        "store": {"folder": str(store.folder), "source": store.metadata.source, "digest": store.metadata.digest},
        "split": {
            "name": split.name,
            "protocol": split.protocol,
            "seed": split.seed,
            "note": split.note,
            "parts": parts_digest(split),
        },
        "group_by": store.metadata.group_by,
        "slices": {part: len(store.rows(part, split)) for part in ("train", "validation", "test")},
        "unknown_groups": int(unknown_groups(store)[seen].sum()),
        "tracks_seen": sorted({store.tracks["sha256"][track] for track in seen}),
        "groups_seen": sorted({name for track in seen for name in group_fingerprints(store, track)}),
    }
