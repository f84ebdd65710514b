"""Chains of slices that follow each other: a path cover of the slices of one label by their continuations.

A slice has at most one next slice and one previous slice, so that the continuations of a label form paths. Each round
scores the last slice of each chain against the first slice of others, and selects the continuations with the greatest
sum of log odds (an assignment). Linked slices no longer compete, which makes the next round surer of the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from genretree.arrays import Float32Array, Float64Array, Int64Array
from genretree.recovery.pairs import (
    CONTINUITY,
    DENSITY_NEIGHBOURS,
    N_CONTINUATIONS,
    SliceFeatures,
    continuation_columns,
    continuity,
    find_nearest,
    inner_products,
    log_odds,
    log_softmax_by_owner,
    normalise_rows,
)
from genretree.recovery.weights import Weights

CHAIN_FEATURES = CONTINUITY + 7
# Share of the accepted error of a link, by round: the safest first, so that they no longer compete with others.
_ERROR_SHARES = (0.01, 0.1, 0.5, 1, 1, 1)


@dataclass(frozen=True)
class Continuations:
    """Candidate continuations of chains.

    Parameters
    ----------
    earlier, later : ndarray, int64, shape (n,)
        Chains, by number.
    features : ndarray, float32, shape (n, CHAIN_FEATURES)
    """

    earlier: Int64Array
    later: Int64Array
    features: Float32Array


class Chains:
    """Chains of the slices of one label, at first one for each slice.

    Parameters
    ----------
    slices : SliceFeatures
        With centred `place`.
    weights : Weights
    """

    def __init__(self, slices: SliceFeatures, weights: Weights) -> None:
        self._slices, self._weights = slices, weights
        self.members = [[row] for row in range(len(slices.place))]

    def number_slices(self) -> Int64Array:
        """Return the chain of each slice."""
        chain_of_slice = np.empty(len(self._slices.place), np.int64)
        for chain, members in enumerate(self.members):
            chain_of_slice[members] = chain
        return chain_of_slice

    def find_continuations(self) -> Continuations:
        """Find the best continuations of each chain and of each chain's start, and compute their features."""
        n = len(self.members)
        ends = self._slices.ends[[members[-1] for members in self.members]]
        starts = self._slices.starts[[members[0] for members in self.members]]
        columns = continuation_columns()
        later, _ = find_nearest(ends[:, columns], starts[:, columns], N_CONTINUATIONS)
        earlier, _ = find_nearest(starts[:, columns], ends[:, columns], N_CONTINUATIONS)
        rows = np.arange(n)
        keys = np.union1d(
            np.repeat(rows, later.shape[1]) * n + later.ravel(), earlier.ravel() * n + np.repeat(rows, earlier.shape[1])
        )
        before, after = keys // max(n, 1), keys % max(n, 1)
        return Continuations(before, after, self._compute_features(ends, starts, before, after))

    def _compute_features(
        self, ends: Float32Array, starts: Float32Array, earlier: Int64Array, later: Int64Array
    ) -> Float32Array:
        """Compute continuity, its log share among competitors, similarities of the whole chains, and their lengths."""
        chain_of_slice = self.number_slices()
        place, rhythm = (
            normalise_rows(_sum_by_chain(values, chain_of_slice, len(self.members)))
            for values in (self._slices.place, self._slices.rhythm)
        )
        described = SliceFeatures(ends, starts, place, rhythm)
        columns = continuity(described, earlier, later)
        scores = columns @ self._weights.cut
        n = len(self.members)
        _, similarity = find_nearest(place, place, DENSITY_NEIGHBOURS)
        density = similarity.mean(axis=1) if similarity.size else np.zeros(n, np.float32)
        cosines = inner_products(place, place, earlier, later)
        lengths = np.log(np.bincount(chain_of_slice, minlength=n))
        return np.column_stack(
            [
                columns,
                log_softmax_by_owner(scores, earlier, n),
                log_softmax_by_owner(scores, later, n),
                cosines,
                cosines - (density[earlier] + density[later]) / 2,
                inner_products(rhythm, rhythm, earlier, later),
                np.minimum(lengths[earlier], lengths[later]),
                np.maximum(lengths[earlier], lengths[later]),
            ]
        ).astype(np.float32)

    def link(self, found: Continuations, min_probability: float) -> bool:
        """Link the best continuations of at least `min_probability`, and return whether there were any."""
        hidden, output = self._weights.chain_hidden, self._weights.chain_output
        if hidden is None or output is None:
            return False
        odds = log_odds(found.features, hidden, output).astype(np.float64)
        excess = odds - np.log(min_probability / (1 - min_probability))
        good = excess > 0
        following = cover_by_paths(found.earlier[good], found.later[good], excess[good], len(self.members))
        if (following < 0).all():
            return False
        self.members = [[row for chain in path for row in self.members[chain]] for path in list_paths(following)]
        return True


def find_chains(slices: SliceFeatures, weights: Weights) -> Int64Array:
    """Find the chains of the slices of one label (with centred `place`), and return the chain of each slice.

    Without weights for chains, each slice is one.
    """
    chains = Chains(slices, weights)
    if weights.min_link is not None:
        for min_probability in iter_probabilities(weights.min_link):
            if not chains.link(chains.find_continuations(), min_probability) and min_probability == weights.min_link:
                break
    return chains.number_slices()


def iter_probabilities(min_link: float) -> Iterator[float]:
    """Iterate over the minimum probability of a link in each round; the last rounds have `min_link`."""
    yield from (min_link if share == 1 else 1 - share * (1 - min_link) for share in _ERROR_SHARES)


def cover_by_paths(earlier: Int64Array, later: Int64Array, gains: Float64Array, n: int) -> Int64Array:
    """Select continuations with the greatest sum of gains, at most one from and one to each chain, without cycles.

    Parameters
    ----------
    earlier, later : ndarray, int64, shape (continuations,)
        Chains, 0 to n - 1; no pair twice.
    gains : ndarray, float64, shape (continuations,)
        Greater than 0.
    n : int
        Number of chains.

    Returns
    -------
    ndarray, int64, shape (n,)
        The next chain of each, or -1. Of a cycle, the continuation with the smallest gain is left out.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    following = np.full(n, -1)
    if not len(gains):
        return following
    # Each chain has a column of its own for "no continuation", of weight 1, since a zero would not be stored.
    used, rows = np.unique(earlier, return_inverse=True)
    alone = np.arange(len(used))
    graph = csr_array(
        (
            np.concatenate([1 + gains, np.ones(len(used))]),
            (np.concatenate([rows, alone]), np.concatenate([later, n + alone])),
        ),
        shape=(len(used), n + len(used)),
    )
    matched_rows, columns = min_weight_full_bipartite_matching(graph, maximize=True)
    is_linked = columns < n
    following[used[matched_rows[is_linked]]] = columns[is_linked]
    gain_of_pair = dict(zip(zip(earlier.tolist(), later.tolist(), strict=True), gains.tolist(), strict=True))
    for cycle in _list_cycles(following):
        weakest = min(cycle, key=lambda chain: gain_of_pair[chain, int(following[chain])])
        following[weakest] = -1
    return following


def list_paths(following: Int64Array) -> list[list[int]]:
    """List the paths of a cover without cycles, in order of their first chain."""
    next_chain = following.tolist()
    has_previous = set(next_chain)
    paths = []
    for start in range(len(next_chain)):
        if start in has_previous:
            continue
        path = [start]
        while next_chain[path[-1]] >= 0:
            path.append(next_chain[path[-1]])
        paths.append(path)
    return paths


def _list_cycles(following: Int64Array) -> list[list[int]]:
    """List the cycles of a cover."""
    next_chain = following.tolist()
    on_path = {chain for path in list_paths(following) for chain in path}
    cycles = []
    for start in range(len(next_chain)):
        if start in on_path:
            continue
        cycle = [start]
        while next_chain[cycle[-1]] != start:
            cycle.append(next_chain[cycle[-1]])
        on_path.update(cycle)
        cycles.append(cycle)
    return cycles


def _sum_by_chain(values: Float32Array, chain_of_slice: Int64Array, n: int) -> Float32Array:
    """Sum rows by chain."""
    order = np.argsort(chain_of_slice, kind="stable")
    first = np.searchsorted(chain_of_slice[order], np.arange(n))
    if n == 0:
        return values[:0]
    return np.asarray(np.add.reduceat(values[order], first, axis=0), np.float32)
