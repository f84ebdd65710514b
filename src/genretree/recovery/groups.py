"""Agglomerative clustering of slices into tracks, by links between slices and similarity of groups."""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

from genretree.arrays import Float32Array, Float64Array, Int64Array
from genretree.recovery.pairs import Pairs, SliceFeatures, log_odds
from genretree.recovery.weights import Weights

MERGE_FEATURES = 8
NO_LINK = -8.0  # log odds of two slices that are not a candidate pair


def merge_features(
    similarity: Float32Array,
    rhythm: Float32Array,
    best: Float32Array,
    second: Float32Array,
    sizes: Float32Array,
    others: Float32Array,
) -> Float32Array:
    """Compute features of pairs of groups: cosines of their centres, their two best links, and their sizes."""
    small = np.log(np.minimum(sizes, others))
    large = np.log(np.maximum(sizes, others))
    columns = (similarity, rhythm, best, second, small, large, similarity * small, best * small)
    return np.stack(np.broadcast_arrays(*columns), axis=1).astype(np.float32)


class Groups:
    """Groups of slices, merged greedily in order of probability.

    Parameters
    ----------
    slices : SliceFeatures
        Slices of one label, with centred `place`.
    pairs : Pairs
    links : ndarray, float32, shape (pairs,)
        Log odds of the pairs.
    counts : ndarray, int64, shape (n,)
        Number of copies of each slice.
    weights : Weights
    chains : ndarray, int64, shape (n,), optional
        Chain of each slice. Each chain is a group at first; by default, each slice is.
    """

    def __init__(
        self,
        slices: SliceFeatures,
        pairs: Pairs,
        links: Float32Array,
        counts: Int64Array,
        weights: Weights,
        chains: Int64Array | None = None,
    ) -> None:
        n = len(counts)
        self._weights = weights
        # A group has the number of one of its slices; the other numbers are unused.
        owners = np.arange(n)
        if chains is not None:
            _, first_rows, chain_index = np.unique(chains, return_index=True, return_inverse=True)
            owners = first_rows[chain_index]
        self._members: list[list[int]] = [[] for _ in range(n)]
        for row, owner in enumerate(owners.tolist()):
            self._members[owner].append(row)
        # Sums over the slices of each group.
        self._place, self._rhythm = np.zeros_like(slices.place), np.zeros_like(slices.rhythm)
        self._sizes, self._counts = np.zeros(n, np.float32), np.zeros(n, np.int64)
        for sums, values in (
            (self._place, slices.place),
            (self._rhythm, slices.rhythm),
            (self._sizes, np.ones(n, np.float32)),
            (self._counts, counts),
        ):
            np.add.at(sums, owners, values)
        self._version = np.zeros(n, np.int64)  # incremented by every merge; older heap entries are stale
        self._neighbours: list[dict[int, tuple[float, float]]] = [{} for _ in range(n)]
        first, second = owners[pairs.first].tolist(), owners[pairs.second].tolist()
        for a, b, link in zip(first, second, links.tolist(), strict=True):
            if a != b:
                best, next_best = self._neighbours[a].get(b, (link, NO_LINK))
                if b in self._neighbours[a]:
                    best, next_best = (link, best) if link >= best else (best, max(link, next_best))
                self._neighbours[a][b] = self._neighbours[b][a] = (best, next_best)
        self._refused: list[tuple[float, int, int, int, int]] = []  # pairs that exceeded a limit
        self._heap: list[tuple[float, int, int, int, int]] = []
        for row in range(n):
            self._push_pairs(row, [other for other in self._neighbours[row] if other > row])
        heapq.heapify(self._heap)

    def join(self, min_probability: float, max_size: int) -> Int64Array:
        """Merge pairs of at least `min_probability`, up to `max_size` slices, and return the group of each slice."""
        for item in self._refused:
            heapq.heappush(self._heap, item)
        self._refused = []
        max_cost = -np.log(min_probability / (1 - min_probability))
        while self._heap and self._heap[0][0] <= max_cost:
            item = heapq.heappop(self._heap)
            _, a, b, age_a, age_b = item
            if self._version[a] != age_a or self._version[b] != age_b:
                continue
            if self._counts[a] + self._counts[b] <= max_size:
                self._merge(a, b)
            else:
                self._refused.append(item)
        group_of_slice = np.empty(len(self._members), np.int64)
        for group, members in enumerate(self._members):
            group_of_slice[members] = group
        return group_of_slice

    def neighbours(self) -> tuple[Int64Array, Int64Array, Float32Array]:
        """Return the current pairs of groups, each as one slice of it, and their features, for training."""
        first, second, features = [], [], []
        for row, near in enumerate(self._neighbours):
            others = [other for other in near if other > row]
            if others:
                first += [self._members[row][0]] * len(others)
                second += [self._members[other][0] for other in others]
                features.append(self._features(row, others))
        empty = np.zeros((0, MERGE_FEATURES), np.float32)
        return np.array(first, np.int64), np.array(second, np.int64), np.concatenate([empty, *features])

    def _merge(self, a: int, b: int) -> None:
        for sums in (self._place, self._rhythm, self._sizes, self._counts):
            sums[a] += sums[b]
        self._members[a] += self._members[b]
        self._members[b] = []
        self._version[[a, b]] += 1
        near = self._neighbours[a]
        for other, (best, second) in self._neighbours[b].items():
            del self._neighbours[other][b]
            if other != a:
                links = sorted((*near.get(other, (NO_LINK, NO_LINK)), best, second), reverse=True)
                near[other] = self._neighbours[other][a] = (links[0], links[1])
        self._neighbours[b] = {}
        before = len(self._heap)
        self._push_pairs(a, list(near))
        added = self._heap[before:]
        del self._heap[before:]
        for item in added:
            heapq.heappush(self._heap, item)

    def _push_pairs(self, row: int, others: list[int]) -> None:
        """Append the pairs of one group to the heap list; the smallest entry is the most probable pair."""
        if not others:
            return
        odds = log_odds(self._features(row, others), self._weights.merge_hidden, self._weights.merge_output)
        for other, value in zip(others, odds.tolist(), strict=True):
            a, b = min(row, other), max(row, other)
            self._heap.append((-value, a, b, int(self._version[a]), int(self._version[b])))

    def _features(self, row: int, others: list[int]) -> Float32Array:
        similarity, rhythm = _cosines(self._place, row, others), _cosines(self._rhythm, row, others)
        best, second = np.array([self._neighbours[row][other] for other in others], np.float32).T
        return merge_features(similarity, rhythm, best, second, self._sizes[[row]], self._sizes[others])


def _cosines(sums: Float32Array, row: int, others: list[int]) -> Float32Array:
    selected = sums[others]
    lengths = np.linalg.norm(selected, axis=1) * np.linalg.norm(sums[row])
    return np.asarray(selected @ sums[row] / (lengths + 1e-6), np.float32)


def compute_confidence(
    slices: SliceFeatures, pairs: Pairs, links: Float32Array, tracks: Int64Array, weights: Weights
) -> Float64Array:
    """Compute the confidence of each track; see `Recovery.confidence`."""
    from scipy.special import expit

    n = len(tracks)
    sizes = np.bincount(tracks, minlength=n)[tracks]
    inside = tracks[pairs.first] == tracks[pairs.second]
    own_links, other_links = (_best_two_links(pairs, links, chosen, n) for chosen in (inside, ~inside))
    similarity, rhythm = _cosine_to_rest(slices.place, tracks), _cosine_to_rest(slices.rhythm, tracks)
    unit_sizes, others = np.ones(n, np.float32), np.maximum(sizes - 1, 1).astype(np.float32)
    features = merge_features(similarity, rhythm, own_links[:, 0], own_links[:, 1], unit_sizes, others)
    belongs = expit(log_odds(features, weights.merge_hidden, weights.merge_output).astype(np.float64))
    is_alone = expit(-other_links[:, 0].astype(np.float64))
    by_slice = np.where(sizes > 1, belongs, is_alone)
    return np.bincount(tracks, by_slice, n)[tracks] / sizes


def _cosine_to_rest(vectors: Float32Array, tracks: Int64Array) -> Float32Array:
    """Compute the cosine of each slice and the sum of the other slices of its track."""
    sums = np.zeros_like(vectors)
    np.add.at(sums, tracks, vectors)
    others = sums[tracks] - vectors
    lengths = np.linalg.norm(others, axis=1) * np.linalg.norm(vectors, axis=1)
    return np.asarray(np.einsum("ij,ij->i", others, vectors) / (lengths + 1e-6), np.float32)


def _best_two_links(pairs: Pairs, links: Float32Array, selected: NDArray[np.bool_], n: int) -> Float32Array:
    """Select the log odds of the two best selected links of each slice, shape (n, 2)."""
    rows = np.concatenate([pairs.first[selected], pairs.second[selected]])
    values = np.concatenate([links[selected], links[selected]])
    order = np.lexsort((-values, rows))
    rows, values = rows[order], values[order]
    rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
    best = np.full((n, 2), NO_LINK, np.float32)
    top = rank < 2
    best[rows[top], rank[top]] = values[top]
    return best
