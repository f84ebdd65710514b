"""Joining slices to groups of one piece, the likeliest first, by links between slices and likeness of whole groups."""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

from genretree.arrays import Float32Array, Float64Array, Int64Array
from genretree.recovery.pairs import Pairs, SliceFeatures, Weights, log_odds

MERGE_FEATURES = 8
NO_LINK = -8.0  # log-odds of two slices that were not worth a look


def merge_features(
    likeness: Float32Array,
    rhythm: Float32Array,
    best: Float32Array,
    second: Float32Array,
    sizes: Float32Array,
    others: Float32Array,
) -> Float32Array:
    """Describe pairs of groups: cosines of their centres, their two best links, and how large they are."""
    small = np.log(np.minimum(sizes, others))
    large = np.log(np.maximum(sizes, others))
    columns = (likeness, rhythm, best, second, small, large, likeness * small, best * small)
    return np.stack(np.broadcast_arrays(*columns), axis=1).astype(np.float32)


class Groups:
    """Groups of slices that are joined step by step, the likeliest pair first.

    Parameters
    ----------
    slices : SliceFeatures
        Of one label, `place` centred.
    pairs : Pairs
    links : ndarray, float32, shape (pairs,)
        Log-odds of the pairs.
    counts : ndarray, int64, shape (n,)
        How many copies of each slice there are.
    weights : Weights
    """

    def __init__(
        self, slices: SliceFeatures, pairs: Pairs, links: Float32Array, counts: Int64Array, weights: Weights
    ) -> None:
        n = len(counts)
        self._place, self._rhythm = slices.place.copy(), slices.rhythm.copy()  # sums over the slices of each group
        self._sizes = np.ones(n, np.float32)
        self._counts = counts.astype(np.int64)
        self._weights = weights
        self._members = [[row] for row in range(n)]
        self._age = np.zeros(n, np.int64)  # grows with every change: what was computed before is void
        self._near: list[dict[int, tuple[float, float]]] = [{} for _ in range(n)]
        for a, b, link in zip(pairs.first.tolist(), pairs.second.tolist(), links.tolist(), strict=True):
            self._near[a][b] = self._near[b][a] = (link, NO_LINK)
        self._heap: list[tuple[float, int, int, int, int]] = []
        for row in range(n):
            self._weigh(row, [other for other in self._near[row] if other > row])
        heapq.heapify(self._heap)

    def join(self, least: float, largest: int) -> Int64Array:
        """Join while the likeliest pair has at least this probability, to groups of at most `largest` slices.

        Gives the group of every slice. What was too large stays apart in later calls.
        """
        bound = -np.log(least / (1 - least))
        while self._heap and self._heap[0][0] <= bound:
            _, a, b, age_a, age_b = heapq.heappop(self._heap)
            stale = self._age[a] != age_a or self._age[b] != age_b
            if not stale and self._counts[a] + self._counts[b] <= largest:
                self._unite(a, b)
        found = np.empty(len(self._members), np.int64)
        for number, members in enumerate(self._members):
            found[members] = number
        return found

    def neighbours(self) -> tuple[Int64Array, Int64Array, Float32Array]:
        """Pairs of groups as they are now, each by one of its slices, and their features: to learn from."""
        first, second, features = [], [], []
        for row, near in enumerate(self._near):
            others = [other for other in near if other > row]
            if others:
                first += [self._members[row][0]] * len(others)
                second += [self._members[other][0] for other in others]
                features.append(self._describe(row, others))
        empty = np.zeros((0, MERGE_FEATURES), np.float32)
        return np.array(first, np.int64), np.array(second, np.int64), np.concatenate([empty, *features])

    def _unite(self, a: int, b: int) -> None:
        for sums in (self._place, self._rhythm, self._sizes, self._counts):
            sums[a] += sums[b]
        self._members[a] += self._members[b]
        self._members[b] = []
        self._age[[a, b]] += 1
        near = self._near[a]
        for other, (best, second) in self._near[b].items():
            del self._near[other][b]
            if other != a:
                links = sorted((*near.get(other, (NO_LINK, NO_LINK)), best, second), reverse=True)
                near[other] = self._near[other][a] = (links[0], links[1])
        self._near[b] = {}
        before = len(self._heap)
        self._weigh(a, list(near))
        added = self._heap[before:]
        del self._heap[before:]
        for item in added:
            heapq.heappush(self._heap, item)

    def _weigh(self, row: int, others: list[int]) -> None:
        """Append the pairs of one group to the heap's list, most likely least."""
        if not others:
            return
        odds = log_odds(self._describe(row, others), self._weights.merge_hidden, self._weights.merge_output)
        for other, value in zip(others, odds.tolist(), strict=True):
            a, b = min(row, other), max(row, other)
            self._heap.append((-value, a, b, int(self._age[a]), int(self._age[b])))

    def _describe(self, row: int, others: list[int]) -> Float32Array:
        likeness, rhythm = _cosines(self._place, row, others), _cosines(self._rhythm, row, others)
        best, second = np.array([self._near[row][other] for other in others], np.float32).T
        return merge_features(likeness, rhythm, best, second, self._sizes[[row]], self._sizes[others])


def _cosines(sums: Float32Array, row: int, others: list[int]) -> Float32Array:
    chosen = sums[others]
    lengths = np.linalg.norm(chosen, axis=1) * np.linalg.norm(sums[row])
    return np.asarray(chosen @ sums[row] / (lengths + 1e-6), np.float32)


def rate_tracks(
    slices: SliceFeatures, pairs: Pairs, links: Float32Array, tracks: Int64Array, weights: Weights
) -> Float64Array:
    """Rate each track by how well its slices fit to the others of it; see `Recovery.confidence`."""
    from scipy.special import expit

    n = len(tracks)
    sizes = np.bincount(tracks, minlength=n)[tracks]
    inside = tracks[pairs.first] == tracks[pairs.second]
    own, foreign = (_two_best(pairs, links, chosen, n) for chosen in (inside, ~inside))
    likeness, rhythm = _to_others(slices.place, tracks), _to_others(slices.rhythm, tracks)
    ones, others = np.ones(n, np.float32), np.maximum(sizes - 1, 1).astype(np.float32)
    features = merge_features(likeness, rhythm, own[:, 0], own[:, 1], ones, others)
    fits = expit(log_odds(features, weights.merge_hidden, weights.merge_output).astype(np.float64))
    alone = expit(-foreign[:, 0].astype(np.float64))
    by_slice = np.where(sizes > 1, fits, alone)
    return np.bincount(tracks, by_slice, n)[tracks] / sizes


def _to_others(vectors: Float32Array, tracks: Int64Array) -> Float32Array:
    """Cosine of each slice to the sum of the others of its track."""
    sums = np.zeros_like(vectors)
    np.add.at(sums, tracks, vectors)
    rest = sums[tracks] - vectors
    lengths = np.linalg.norm(rest, axis=1) * np.linalg.norm(vectors, axis=1)
    return np.asarray(np.einsum("ij,ij->i", rest, vectors) / (lengths + 1e-6), np.float32)


def _two_best(pairs: Pairs, links: Float32Array, chosen: NDArray[np.bool_], n: int) -> Float32Array:
    """Log-odds of the two best of the chosen links of every slice, shape (n, 2)."""
    rows = np.concatenate([pairs.first[chosen], pairs.second[chosen]])
    values = np.concatenate([links[chosen], links[chosen]])
    order = np.lexsort((-values, rows))
    rows, values = rows[order], values[order]
    rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
    found = np.full((n, 2), NO_LINK, np.float32)
    top = rank < 2
    found[rows[top], rank[top]] = values[top]
    return found
