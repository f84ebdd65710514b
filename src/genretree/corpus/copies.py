"""Merging of groups that contain copies of the same tracks, so that a split keeps copies in one part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genretree.corpus.splits import JoinedCopies


@dataclass(frozen=True)
class Copies:
    """Pairs of tracks of a store that an audit found to be copies of each other.

    Parameters
    ----------
    audit : str
        The file that lists them.
    sha256 : str
        SHA-256 of that file.
    pairs : tuple of pairs of int
        Rows of the store's table of tracks.
    """

    audit: str
    sha256: str
    pairs: tuple[tuple[int, int], ...]


def join_copies(groups: NDArray[np.int64], pairs: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """Merge groups that are connected by pairs of copies, directly or through other groups.

    Parameters
    ----------
    groups : int64 array, shape (n_tracks,)
        Group number of each track.
    pairs : sequence of pairs of int
        Tracks, by row.

    Returns
    -------
    int64 array, shape (n_tracks,)
        The smallest group number of each merged set; other groups are unchanged.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not pairs:
        return groups.copy()
    numbers, index = np.unique(groups, return_inverse=True)
    first, second = index[np.array(pairs, dtype=np.int64)].T
    size = len(numbers)
    edges = coo_array((np.ones(len(pairs)), (first, second)), shape=(size, size))
    components = connected_components(edges, directed=False)[1]
    # The numbers are sorted, so the first of each component is its smallest.
    smallest = numbers[np.unique(components, return_index=True)[1]]
    joined: NDArray[np.int64] = smallest[components][index]
    return joined


def count_joined(copies: Copies, before: NDArray[np.int64], after: NDArray[np.int64]) -> JoinedCopies:
    """Count the groups that `join_copies` merged, for the split file."""
    pairs = np.unique(np.stack([before, after], axis=1), axis=0)
    sizes = np.unique(pairs[:, 1], return_counts=True)[1]
    merged = sizes[sizes > 1]
    return JoinedCopies(copies.audit, copies.sha256, len(copies.pairs), int(merged.sum()), len(merged))
