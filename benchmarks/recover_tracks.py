"""Which slices were cut from one piece: learn the package's weights from known tracks, and measure how right it is.

    python benchmarks/recover_tracks.py fit STORE [--check STORE ...] --out src/genretree/recovery/recover.safetensors
    python benchmarks/recover_tracks.py measure STORE [STORE ...] [--jpeg] [--weights FILE]
    python benchmarks/recover_tracks.py scale STORE --slices 36375 [--one-label] [--folder /tmp]

`fit` takes stores whose tracks are known and whose leaves hold music that belongs together (the packages of games,
say). Everything is chosen by cross-validation over the leaves: each is scored with what the others taught, as it is,
with 21 or five slices of each track, and together with other leaves of its store. Stores after `--check` teach nothing,
but count where thresholds are chosen. `measure` shuffles the slices, forgets their tracks, and compares what is found
with the truth; the leak is the share of the test slices that have a slice of their own track in training, after a split
(test 0.2, validation 0.15) by what was found. `scale` repeats a store's slices, each a little changed, up to a number,
and takes time and memory.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from whole_process import measure as measure_process

from genretree.arrays import Float32Array, Float64Array, Int64Array, UInt8Array
from genretree.corpus.splits import split_groups
from genretree.corpus.store import Store
from genretree.recovery.chains import Chains, find_chains, iter_probabilities
from genretree.recovery.groups import MERGE_FEATURES, Groups
from genretree.recovery.pairs import (
    CONTINUITY,
    Pairs,
    SliceFeatures,
    centre_places,
    continuity,
    extract_slice_features,
    find_pairs,
)
from genretree.recovery.recover import (
    Recovery,
    join_slice_features,
    max_artist_size,
    max_block_size,
    recover_tracks,
)
from genretree.recovery.regroup import summarise_blocks
from genretree.recovery.weights import Weights, load_default_weights, read_weights, write_weights
from genretree.sound.slices import read_rendered_image

FOLDS = 5
VARIANCES, DIMENSIONS = 200, 100  # principal components kept, and directions in which tracks differ most
SHRINKAGE = 0.1
RIVALS = 18  # that a true continuation is compared with
UNITS = 16
CHAIN_NETWORKS = 4  # one alone varies with its seed where pieces are alike
ROUNDS = 2
Seen = tuple[str, Float32Array, NDArray[np.bool_]]  # kind of the case, features, and whether both are of one track
STOPS = (0.99, 0.95, 0.8, 0.5, 0.2)  # where joining is stopped to look at the groups that there are
VERSION = 0.97  # correlation of two slices that are the same music, two of which make two tracks versions of one piece
KINDS = ("leaf", "leaf, 21 slices", "leaf, 5 slices", "fold, 21 slices", "fold, 5 slices")
CHECK = -1  # fold of the slices that teach nothing; they are scored with what the last fold's weights were taught
LONG = 21  # slices of a piece of four minutes
LINK = 0.9  # probability of the continuations that are linked while chains are learned
LINK_PRECISION = 0.97  # wanted of the pairs in a chain, on average over the kinds of cases
PRECISION = 0.95  # wanted of tracks in the worst kind of cases with 21 slices of a track
LEAK = 0.02  # wanted at most of blocks, in the worst kind of cases with enough tracks
ENOUGH_TRACKS = 15  # the data set has about 100 in a label; of a few, hardly any can be held out
TRIED = (0.99, 0.985, 0.98, 0.975, 0.97, 0.96, 0.95, 0.94, 0.92, 0.9, 0.88, 0.85, 0.8, 0.7, 0.5)
TRIED_BLOCKS = (0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002)
TRIED_ARTISTS = (0.8, 0.5, 0.3, 0.1, 0.05, 0.02, 0.01)


@dataclass(frozen=True)
class Known:
    """Slices of known tracks: what is seen of them, their store, leaf and track, and which slice comes next (or -1)."""

    slices: SliceFeatures
    stores: Int64Array
    leaves: Int64Array
    tracks: Int64Array
    following: Int64Array

    def without(self, left_out: NDArray[np.bool_]) -> Known:
        """Leave slices out of what is learned from at the cuts."""
        return replace(self, leaves=np.where(left_out, -1, self.leaves))


@dataclass(frozen=True)
class Case:
    """Slices of a fold that are scored together, as if they were all of one label."""

    fold: int
    kind: str
    tracks: Int64Array
    following: Int64Array
    slices: SliceFeatures
    pairs: Pairs
    chains: Int64Array

    @property
    def same(self) -> NDArray[np.bool_]:
        """Whether the pairs are of one track."""
        return np.asarray(self.tracks[self.pairs.first] == self.tracks[self.pairs.second])

    def groups(self, weights: Weights) -> Groups:
        """Begin to join its slices."""
        counts = np.ones(len(self.tracks), np.int64)
        return Groups(self.slices, self.pairs, self.pairs.log_odds(weights), counts, weights, self.chains)


def read_all(stores: Sequence[Store]) -> Known:
    """Describe the sounding slices of all stores, with leaves and tracks of their own."""
    parts = [read_known(store) for store in stores]
    leaves, tracks, following = [], [], []
    n_leaves = n_tracks = n_slices = 0
    for part in parts:
        leaves.append(part.leaves + n_leaves)
        tracks.append(part.tracks + n_tracks)
        following.append(np.where(part.following >= 0, part.following + n_slices, -1))
        n_leaves += int(part.leaves.max()) + 1
        n_tracks += int(part.tracks.max()) + 1
        n_slices += len(part.leaves)
    return Known(
        join_slice_features([part.slices for part in parts]),
        np.repeat(np.arange(len(parts)), [len(part.leaves) for part in parts]),
        np.concatenate(leaves),
        np.concatenate(tracks),
        np.concatenate(following),
    )


def read_known(store: Store) -> Known:
    """Describe the sounding slices of a store."""
    rows = store.rows()
    parts = [extract_slice_features(np.asarray(store.images[rows[i : i + 64]])) for i in range(0, len(rows), 64)]
    slices, tracks = join_slice_features(parts), store.slice_tracks[rows]
    leaves = store.track_leaves[tracks]
    following = np.full(len(rows), -1)
    on = (np.diff(tracks) == 0) & (np.diff(store.starts[rows]) < 1.1 * store.settings.slice_seconds)
    following[:-1][on] = np.flatnonzero(on) + 1
    return Known(slices, np.zeros_like(leaves), leaves, join_versions(slices.place, leaves, tracks), following)


def join_versions(statistics: Float32Array, leaves: Int64Array, tracks: Int64Array) -> Int64Array:
    """Count versions of one piece (the same music faster, or in another file) as one track."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    first, second = [], []
    for leaf in np.unique(leaves):
        rows = np.flatnonzero(leaves == leaf)
        spectra = statistics[rows][:, :448]  # mean and spread of each bin
        spectra = spectra - spectra.mean(axis=0)
        spectra /= np.linalg.norm(spectra, axis=1, keepdims=True) + 1e-6
        a, b = (tracks[rows[index]] for index in np.nonzero(np.triu(spectra @ spectra.T, 1) > VERSION))
        first.append(np.minimum(a, b)[a != b])
        second.append(np.maximum(a, b)[a != b])
    n = int(tracks.max()) + 1
    edges = np.concatenate(first), np.concatenate(second)
    equal = coo_array((np.ones(len(edges[0])), edges), shape=(n, n)).tocsr()
    return connected_components(equal >= 2, directed=False)[1].astype(np.int64)[tracks]


# -- learning ------------------------------------------------------------------------------------------------


def fit_projection(
    statistics: Float32Array, leaves: Int64Array, tracks: Int64Array
) -> tuple[Float32Array, Float32Array]:
    """Find where tracks of one leaf differ much and slices of one track little (linear discriminant analysis)."""
    from scipy.linalg import eigh

    center, scale = statistics.mean(axis=0), statistics.std(axis=0) + 1e-3
    values = (statistics - center) / scale
    components = np.linalg.eigh(values.T @ values)[1][:, ::-1][:, :VARIANCES]
    values = values @ components
    within, weight, means, owners = np.zeros((VARIANCES, VARIANCES)), 0.0, [], []
    for track in np.unique(tracks):
        rows = values[tracks == track]
        means.append(rows.mean(axis=0))
        owners.append(leaves[tracks == track][0])
        if len(rows) > 1:  # a long track counts more than a short one, but not in proportion
            weight += np.sqrt(len(rows))
            within += np.sqrt(len(rows)) * np.cov(rows.T)
    within = (1 - SHRINKAGE) * within / weight + SHRINKAGE * np.eye(VARIANCES) * np.trace(within) / weight / VARIANCES
    centred = [np.array(means)[np.array(owners) == leaf] for leaf in np.unique(owners)]
    centred = [rows - rows.mean(axis=0) for rows in centred]
    between = sum(rows.T @ rows for rows in centred) / max(1, sum(len(rows) - 1 for rows in centred))
    directions = eigh(between, within)[1][:, ::-1][:, :DIMENSIONS]
    return center.astype(np.float32), (components @ directions / scale[:, None]).astype(np.float32)


def fit_cut(known: Known) -> Float32Array:
    """Weigh correlations at a cut so that the true continuation wins among its rivals (conditional logit)."""
    from scipy.optimize import minimize

    found = []
    for leaf in np.unique(known.leaves[known.leaves >= 0]):
        rows = np.flatnonzero(known.leaves == leaf)
        asked = np.flatnonzero(known.following[rows] >= 0)
        if len(rows) < RIVALS + 2 or not len(asked):
            continue
        scores = known.slices.ends[rows] @ known.slices.starts[rows].T
        np.fill_diagonal(scores, -np.inf)
        truth = np.searchsorted(rows, known.following[rows[asked]])
        scores[asked, truth] = -np.inf
        rivals = np.argpartition(-scores[asked], RIVALS, axis=1)[:, :RIVALS]
        chosen = np.column_stack([truth, rivals])
        earlier = np.repeat(rows[asked], RIVALS + 1)
        found.append(continuity(known.slices, earlier, rows[chosen].ravel()).reshape(len(asked), RIVALS + 1, -1))
    features = np.concatenate(found).astype(float)

    def loss(weights: Float64Array) -> tuple[float, Float64Array]:
        scores = features @ weights
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        gradient = np.einsum("ij,ijk->k", shares, features) - features[:, 0].sum(axis=0)
        value = -np.log(shares[:, 0] + 1e-12).mean() + 1e-4 * weights @ weights
        return float(value), gradient / len(features) + 2e-4 * weights

    return np.asarray(minimize(loss, np.ones(CONTINUITY), jac=True, method="L-BFGS-B").x, np.float32)


def fit_network(parts: Sequence[Seen], networks: int = 1) -> tuple[Float32Array, Float32Array]:
    """Learn log-odds from features, as the mean of `networks` networks; all types of cases count alike."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    by_kind = [
        tuple(np.concatenate([part[column] for part in parts if part[0] == kind]) for column in (1, 2))
        for kind in sorted({part[0] for part in parts})
    ]
    hidden, outputs, biases = [], [], []
    for seed in range(networks):
        rng = np.random.default_rng(seed)
        rows = [rng.integers(len(same), size=25_000) for _, same in by_kind]
        values = np.concatenate([features[index] for (features, _), index in zip(by_kind, rows, strict=True)])
        labels = np.concatenate([same[index] for (_, same), index in zip(by_kind, rows, strict=True)])
        center, scale = values.mean(axis=0), values.std(axis=0) + 1e-6
        network = MLPClassifier(
            (UNITS,), alpha=0.01, max_iter=20, batch_size=512, learning_rate_init=0.002, random_state=seed
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            network.fit((values - center) / scale, labels)
        inner = network.coefs_[0] / scale[:, None]
        hidden.append(np.vstack([inner, network.intercepts_[0] - center @ inner]))
        outputs.append(network.coefs_[1][:, 0] / networks)
        biases.append(network.intercepts_[1])
    joined = np.append(np.concatenate(outputs), np.mean(biases))
    return np.concatenate(hidden, axis=1).astype(np.float32), joined.astype(np.float32)


def fit_pair(cases: Sequence[Case]) -> tuple[Float32Array, Float32Array]:
    """Learn to tell pairs of one track."""
    return fit_network([(case.kind, case.pairs.features, case.same) for case in cases])


def look_at_chains(case: Case, weights: Weights) -> Iterator[Seen]:
    """Yield features of candidate continuations in each round, and whether they are right.

    Other slices of the same track are left out: to link them is no error.
    """
    chains = Chains(case.slices, weights)
    for min_probability in iter_probabilities(LINK):
        found = chains.find_continuations()
        earlier = np.array([members[-1] for members in chains.members])[found.earlier]
        later = np.array([members[0] for members in chains.members])[found.later]
        follows = case.following[earlier] == later
        clear = follows | (case.tracks[earlier] != case.tracks[later])
        yield case.kind, found.features[clear], follows[clear]
        if not chains.link(found, min_probability) and min_probability == LINK:
            return


def look_at_groups(case: Case, weights: Weights) -> Iterator[Seen]:
    """Yield features of neighbouring groups at each stop, and whether most of both is of one track."""
    groups = case.groups(weights)
    for stop in (None, *STOPS):
        now = case.chains if stop is None else groups.join(stop, len(case.tracks))
        most = _majority(now, case.tracks)
        first, second, features = groups.neighbours()
        yield case.kind, features, most[first] == most[second]


def _majority(groups: Int64Array, tracks: Int64Array) -> Int64Array:
    """Give each slice the track that most of its group is of."""
    both, counts = np.unique(np.column_stack([groups, tracks]), axis=0, return_counts=True)
    order = np.lexsort((counts, both[:, 0]))
    last = both[order][np.append(np.diff(both[order, 0]) > 0, True)]
    return np.asarray(last[np.searchsorted(last[:, 0], groups), 1])


def first_merge() -> tuple[Float32Array, Float32Array]:
    """Joining by the best link alone, to have groups to learn from."""
    hidden = np.zeros((MERGE_FEATURES + 1, 2), np.float32)
    hidden[2] = 1, -1
    return hidden, np.array([1, -1, 0], np.float32)


def crop(tracks: Int64Array, rows: Int64Array, most: int, rng: np.random.Generator) -> Int64Array:
    """Keep at most so many consecutive slices of each track."""
    kept = []
    for track in np.unique(tracks[rows]):
        own = rows[tracks[rows] == track]
        start = int(rng.integers(max(1, len(own) - most + 1)))
        kept.append(own[start : start + most])
    return np.concatenate(kept)


def make_cases(known: Known, places: Float32Array, folds: Int64Array, by_fold: Sequence[Weights]) -> list[Case]:
    """Make what is scored: each leaf, and the leaves of a store and fold, with all slices of a track or some."""
    rng = np.random.default_rng(0)
    slices = replace(known.slices, place=places)
    cases = []
    for (store, fold), everything in _by_store_and_fold(known, folds):
        leaves = [everything[known.leaves[everything] == leaf] for leaf in np.unique(known.leaves[everything])]
        chosen = [(KINDS[0], rows) for rows in leaves]
        chosen += [(KINDS[1], crop(known.tracks, rows, LONG, rng)) for rows in leaves]
        chosen += [(KINDS[2], crop(known.tracks, rows, 5, rng)) for rows in leaves]
        chosen += [
            (KINDS[3], crop(known.tracks, everything, LONG, rng)),
            (KINDS[4], crop(known.tracks, everything, 5, rng)),
        ]
        for kind, rows in chosen:
            own = slices.take(rows)
            own = replace(own, place=centre_places(own.place))
            place_of_row = np.full(len(known.tracks) + 1, -1)  # the last for "none follows"
            place_of_row[rows] = np.arange(len(rows))
            following = place_of_row[known.following[rows]]
            pairs, alone = find_pairs(own, by_fold[fold]), np.arange(len(rows))
            cases.append(Case(fold, f"{store}: {kind}", known.tracks[rows], following, own, pairs, alone))
    return cases


def _by_store_and_fold(known: Known, folds: Int64Array) -> Iterator[tuple[tuple[int, int], Int64Array]]:
    for store in np.unique(known.stores):
        for fold in (*range(FOLDS), CHECK):
            rows = np.flatnonzero((known.stores == store) & (folds == fold))
            if len(rows):
                yield (int(store), fold), rows


def assign_folds(leaves: Int64Array) -> Int64Array:
    """Deal the leaves out, the largest first, to the fold that has least."""
    sizes = np.bincount(leaves)
    fold_of, filled = np.zeros(len(sizes), np.int64), np.zeros(FOLDS)
    for leaf in np.argsort(-sizes, kind="stable"):
        fold_of[leaf] = filled.argmin()
        filled[fold_of[leaf]] += sizes[leaf]
    return fold_of[leaves]


def fit(stores: Sequence[Store], checks: Sequence[Store]) -> Weights:
    """Learn all weights, and choose the thresholds, by cross-validation over the leaves and on stores of their own."""
    known = read_all([*stores, *checks])
    learned = known.stores < len(stores)
    folds = np.full(len(learned), CHECK)
    folds[learned] = assign_folds(known.leaves[learned])
    nothing, merge = np.zeros(0, np.float32), first_merge()
    places = np.zeros((len(folds), DIMENSIONS), np.float32)
    by_fold = []
    for fold in range(FOLDS):
        rest = learned & (folds != fold)
        center, projection = fit_projection(known.slices.place[rest], known.leaves[rest], known.tracks[rest])
        out = (folds == fold) | (folds == CHECK)  # those to check keep the places of the last fold
        places[out] = (known.slices.place[out] - center) @ projection
        by_fold.append(Weights(center, projection, fit_cut(known.without(~rest)), nothing, nothing, *merge, nothing))
    cases = make_cases(known, places, folds, by_fold)
    by_fold = [
        replace(weights, **dict(zip(("pair_hidden", "pair_output"), fit_pair(_others(cases, fold)), strict=True)))
        for fold, weights in enumerate(by_fold)
    ]
    by_fold, chains_seen = learn_in_rounds(cases, by_fold, look_at_chains, _with_chains)
    min_link = choose_link(cases, by_fold)
    thresholds = np.array([0, 0, min_link, 1], np.float32)
    by_fold = [replace(weights, thresholds=thresholds) for weights in by_fold]
    cases = [replace(case, chains=find_chains(case.slices, by_fold[case.fold])) for case in cases]
    by_fold, groups_seen = learn_in_rounds(cases, by_fold, look_at_groups, _with_merge)
    min_track = choose_track(cases, by_fold)
    min_artist, min_block = choose_blocks(cases, by_fold)
    center, projection = fit_projection(known.slices.place[learned], known.leaves[learned], known.tracks[learned])
    thresholds = np.array([min_track, min(min_block, min_track), min_link, min_artist], np.float32)
    cut, pair = fit_cut(known.without(~learned)), fit_pair(_others(cases, None))
    final = Weights(center, projection, cut, *pair, *merge, thresholds)
    return _with_merge(_with_chains(final, chains_seen), groups_seen)


def _others(cases: Sequence[Case], fold: int | None) -> list[Case]:
    """Select the cases that teach the weights of a fold; those of all folds without one."""
    return [case for case in cases if case.fold not in (fold, CHECK)]


def learn_in_rounds(
    cases: Sequence[Case],
    by_fold: Sequence[Weights],
    look: Callable[[Case, Weights], Iterator[Seen]],
    learn: Callable[[Weights, Sequence[Seen]], Weights],
) -> tuple[list[Weights], list[Seen]]:
    """Learn the weights of each fold from the cases of the others; each round looks at what the last one leads to."""
    cases = _others(cases, None)
    seen: list[list[Seen]] = [[] for _ in cases]
    learned = list(by_fold)
    for _ in range(ROUNDS):
        for case, parts in zip(cases, seen, strict=True):
            parts += look(case, learned[case.fold])
        learned = [
            learn(weights, [part for case, own in zip(cases, seen, strict=True) if case.fold != fold for part in own])
            for fold, weights in enumerate(learned)
        ]
    return learned, [part for parts in seen for part in parts]


def _with_chains(weights: Weights, parts: Sequence[Seen]) -> Weights:
    hidden, output = fit_network(parts, CHAIN_NETWORKS)
    return replace(weights, chain_hidden=hidden, chain_output=output)


def _with_merge(weights: Weights, parts: Sequence[Seen]) -> Weights:
    hidden, output = fit_network(parts)
    return replace(weights, merge_hidden=hidden, merge_output=output)


def _by_kind(cases: Sequence[Case], values: Sequence[Float64Array]) -> dict[str, Float64Array]:
    """Sum values of cases by kind."""
    return {
        kind: np.sum([value for case, value in zip(cases, values, strict=True) if case.kind == kind], axis=0)
        for kind in sorted({case.kind for case in cases})
    }


def choose_link(cases: Sequence[Case], by_fold: Sequence[Weights]) -> float:
    """Take the least probability at which chains are precise enough on average over the kinds of cases."""
    chosen = TRIED[0]
    print("| least probability of a link | kind | precision of pairs in a chain | recall |\n|---|---|---|---|")
    for tried in TRIED:
        thresholds = np.array([0, 0, tried, 1], np.float32)
        counts = [
            count_pairs(find_chains(case.slices, replace(by_fold[case.fold], thresholds=thresholds)), case.tracks)
            for case in cases
        ]
        precisions = []
        for kind, (both, in_chain, in_track) in _by_kind(cases, counts).items():
            precisions.append(both / max(1, in_chain))
            print(f"| {tried} | {kind} | {precisions[-1]:.3f} | {both / in_track:.3f} |")
        if np.mean(precisions) < LINK_PRECISION:
            break
        chosen = tried
    return chosen


def choose_track(cases: Sequence[Case], by_fold: Sequence[Weights]) -> float:
    """Take the least probability with enough precision for tracks in the worst kind of cases with 21 slices."""
    cases = [case for case in cases if f"{LONG} slices" in case.kind]
    joined = [case.groups(by_fold[case.fold]) for case in cases]
    chosen = TRIED[0]
    print("| least probability of a track | kind | precision | recall |\n|---|---|---|---|")
    for tried in TRIED:
        counts = [
            count_pairs(groups.join(tried, len(case.tracks)), case.tracks)
            for groups, case in zip(joined, cases, strict=True)
        ]
        precisions = []
        for kind, (both, in_group, in_track) in _by_kind(cases, counts).items():
            precisions.append(both / max(1, in_group))
            print(f"| {tried} | {kind} | {precisions[-1]:.3f} | {both / in_track:.3f} |")
        if min(precisions) < PRECISION:
            break
        chosen = tried
    return chosen


def choose_blocks(cases: Sequence[Case], by_fold: Sequence[Weights]) -> tuple[float, float]:
    """Take the probabilities for blocks of any size, and of limited size, with the most blocks and little leak.

    The leak is that of the worst kind of cases with enough tracks. Leaves with all slices are left out: few tracks of
    up to half an hour.
    """
    cases = [case for case in cases if not case.kind.endswith(": leaf")]
    many = {case.kind for case in cases if len(np.unique(case.tracks)) >= ENOUGH_TRACKS}
    columns = ("by artist", "block", "leak: worst kind", "mean", "blocks a case", "single blocks", "by kind")
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    best = (False, -1.0)
    chosen = TRIED_ARTISTS[0], TRIED_BLOCKS[-1]
    for artist in TRIED_ARTISTS:
        joined = [case.groups(by_fold[case.fold]) for case in cases]
        for groups, case in zip(joined, cases, strict=True):
            groups.join(artist, max_artist_size(len(case.tracks)))
        for tried in TRIED_BLOCKS:
            if tried > artist:
                continue
            found = [
                groups.join(tried, max_block_size(len(case.tracks), 10**9))
                for groups, case in zip(joined, cases, strict=True)
            ]
            sums = [expect_leak(blocks, case.tracks) for blocks, case in zip(found, cases, strict=True)]
            leaks = {kind: leaked / max(1, n) for kind, (leaked, n) in _by_kind(cases, sums).items()}
            counts = np.array([len(np.unique(blocks)) for blocks in found])
            worst = max(leaks[kind] for kind in many)
            by_kind = ", ".join(f"{kind} {100 * value:.1f}" for kind, value in leaks.items())
            print(
                f"| {artist} | {tried} | {worst:.3f} | {np.mean(list(leaks.values())):.3f} | {counts.mean():.1f} "
                f"| {(counts == 1).sum()} of {len(counts)} | {by_kind} |",
                flush=True,
            )
            score = (True, float(counts.mean())) if worst <= LEAK else (False, -worst)
            if score > best:
                best, chosen = score, (artist, tried)
    return chosen


def expect_leak(blocks: Int64Array, tracks: Int64Array) -> Float64Array:
    """Expect how many slices would leak in a test part, and how many could be in it.

    A slice leaks if one of the other blocks of its track is in training, which holds 65 % of them. Blocks of more than
    half of a label are never in a test part.
    """
    numbers, sizes = np.unique(blocks, return_inverse=True, return_counts=True)[1:]
    can_be_tested = sizes[numbers] <= len(blocks) / 2
    n_blocks = np.unique(np.unique(np.column_stack([tracks, blocks]), axis=0)[:, 0], return_counts=True)
    others = n_blocks[1][np.searchsorted(n_blocks[0], tracks)] - 1
    return np.array([(1 - 0.35 ** others[can_be_tested]).sum(), can_be_tested.sum()], float)


# -- measuring -----------------------------------------------------------------------------------------------


def count_pairs(found: Int64Array, truth: Int64Array) -> Float64Array:
    """Pairs of slices in one group that are of one track, in one group, and of one track."""

    def pairs(groups: Int64Array) -> float:
        counts = np.unique(groups, axis=0, return_counts=True)[1].astype(float)
        return float((counts * (counts - 1) / 2).sum())

    return np.array([pairs(np.column_stack([found, truth])), pairs(found), pairs(truth)])


def leak(groups: Int64Array, leaves: Int64Array, tracks: Int64Array, seed: int) -> float:
    """Share of the test slices that have a slice of their own track in training."""
    parts = np.array(split_groups(leaves, groups, test=0.2, validation=0.15, seed=seed).parts)
    test = parts == "test"
    return float(np.isin(tracks[test], tracks[parts == "train"]).mean()) if test.any() else 0.0


def draw_as_jpeg(images: UInt8Array) -> UInt8Array:
    """Draw images again as the data set's are, in magma at 496x369 pixels as JPEG, and read them back."""
    import io

    import matplotlib
    from PIL import Image

    colours = matplotlib.colormaps["magma"](np.arange(256), bytes=True)[:, :3]
    drawn = np.empty_like(images)
    for place in np.ndindex(images.shape[:2]):
        large = Image.fromarray(images[place]).resize((496, 369), Image.Resampling.BICUBIC)
        stream = io.BytesIO()
        Image.fromarray(colours[np.asarray(large)]).save(stream, "JPEG", quality=75)
        drawn[place] = read_rendered_image(stream.getvalue(), images.shape[-1])
    return drawn


def measure(store: Store, seeds: Sequence[int], weights: Weights, jpeg: bool) -> None:
    """Print how right the recovery is on a store with known tracks."""
    from sklearn.metrics import v_measure_score

    rows = np.random.default_rng(0).permutation(store.rows())
    tracks = store.slice_tracks[rows]
    leaves = store.track_leaves[tracks]
    images = np.asarray(store.images[rows])
    found = recover_tracks(draw_as_jpeg(images) if jpeg else images, leaves, weights=weights)
    print(
        f"\n{store.folder.name}: {len(rows)} slices, {len(np.unique(tracks))} tracks, {len(np.unique(leaves))} labels"
    )
    print("| grouping | precision | recall | F1 | V-measure | groups | largest | leak (mean, by seed) | test share |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, groups in (("tracks", found.tracks), ("blocks", found.blocks)):
        both, in_group, in_track = count_pairs(groups, tracks)
        precision, recall = both / max(1, in_group), both / max(1, in_track)
        leaks = [leak(groups, leaves, tracks, seed) for seed in seeds]
        shares = [np.mean(np.array(split_groups(leaves, groups, seed=seed).parts) == "test") for seed in seeds]
        by_seed = ", ".join(f"{100 * value:.1f}" for value in leaks)
        print(
            f"| {name} | {precision:.3f} | {recall:.3f} | {2 * both / max(1, in_group + in_track):.3f} "
            f"| {v_measure_score(tracks, groups):.3f} | {len(np.unique(groups))} "
            f"| {100 * np.bincount(groups).max() / len(rows):.1f} % | {100 * np.mean(leaks):.1f} % ({by_seed}) "
            f"| {100 * np.mean(shares):.0f} % |"
        )
    _print_artists(found, leaves, store.track_groups[tracks], store.metadata.group_by, store)
    leaks = [leak(np.arange(len(rows)), leaves, tracks, seed) for seed in seeds]
    print(f"leak of a split by slices: {100 * np.mean(leaks):.1f} %")
    _print_calibration(found, tracks)


def _print_artists(found: Recovery, leaves: Int64Array, groups: Int64Array, group_by: str, store: Store) -> None:
    """Print which labels have blocks that may hold a whole artist, and how far tracks and blocks are within artists."""
    for name, numbers in (("tracks", found.tracks), ("blocks", found.blocks)):
        both, in_group, in_artist = count_pairs(numbers, groups)
        precision, recall = both / max(1, in_group), both / max(1, in_artist)
        print(f"{name}: {precision:.3f} of their pairs within one {group_by}, which are {recall:.3f} of its pairs")
    summary = summarise_blocks(leaves, found.blocks, store.taxonomy)
    tested = [
        np.unique(leaves[np.array(split_groups(leaves, found.blocks, seed=seed).parts) == "test"]) for seed in (0, 1)
    ]
    print(f"labels with test slices (seeds 0, 1): {len(tested[0])}, {len(tested[1])}")
    print(str(summary) or "no block above the limit")


def _print_calibration(found: Recovery, tracks: Int64Array) -> None:
    """Print, by the confidence of the tracks of two slices or more, the share of their pairs that are right."""
    print("| confidence | tracks found | slices | precision of their pairs |\n|---|---|---|---|")
    sizes = np.bincount(found.tracks)[found.tracks]
    for low, high in ((0, 0.5), (0.5, 0.7), (0.7, 0.8), (0.8, 0.9), (0.9, 0.95), (0.95, 1.01)):
        rows = (sizes > 1) & (found.confidence >= low) & (found.confidence < high)
        if rows.any():
            both, in_group, _ = count_pairs(found.tracks[rows], tracks[rows])
            count = len(np.unique(found.tracks[rows]))
            print(f"| {low} to {min(high, 1)} | {count} | {int(rows.sum())} | {both / in_group:.3f} |")


# -- time and memory -----------------------------------------------------------------------------------------


def write_repeated(store: Store, slices: int, folder: Path) -> None:
    """Write images and labels of so many slices: the store's, made louder or softer and noisy."""
    rng = np.random.default_rng(0)
    size = store.settings.size
    images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (slices, 3, size, size))
    rows = np.resize(store.rows(), slices)
    for start in range(0, slices, 256):
        piece = np.asarray(store.images[rows[start : start + 256]], np.float32)
        gain = rng.uniform(0.8, 1, (len(piece), 1, 1, 1)).astype(np.float32)
        noise = rng.standard_normal((1, 3, size, size), np.float32)
        images[start : start + 256] = np.clip(gain * piece + 6 * noise, 0, 255)
    images.flush()
    order = np.argsort(np.argsort(rows, kind="stable"), kind="stable")
    np.save(folder / "leaves.npy", order * 16 // slices)


def scale(store: Store, slices: int, one_label: bool, folder: Path | None) -> None:
    """Take time and memory of a process of its own."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        write_repeated(store, slices, Path(name))
        labels = "np.zeros(len(images), int)" if one_label else f"np.load({name + '/leaves.npy'!r})"
        code = (
            f"import numpy as np; images = np.load({name + '/images.npy'!r}, mmap_mode='r')\n"
            "from genretree.recovery.recover import recover_tracks\n"
            f"found = recover_tracks(images, {labels}, progress=True)\n"
            "print(len(np.unique(found.tracks)), 'tracks,', len(np.unique(found.blocks)), 'blocks')"
        )
        seconds, peak, printed = measure_process([sys.executable, "-c", code])
    labels = "1 label" if one_label else "16 labels"
    print(f"{slices} slices, {labels}: {seconds:.0f} s, peak {peak:.0f} MB; {printed}")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    jobs = parser.add_subparsers(dest="job", required=True)
    job = jobs.add_parser("fit")
    job.add_argument("stores", type=Path, nargs="+")
    job.add_argument("--check", type=Path, nargs="+", default=[], help="stores for choosing thresholds only")
    job.add_argument("--out", type=Path, required=True)
    job = jobs.add_parser("measure")
    job.add_argument("stores", type=Path, nargs="+")
    job.add_argument("--jpeg", action="store_true", help="draw the images again as JPEG first")
    job.add_argument("--weights", type=Path, help="weights other than the package's")
    job.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    job = jobs.add_parser("scale")
    job.add_argument("store", type=Path)
    job.add_argument("--slices", type=int, default=36_375)
    job.add_argument("--one-label", action="store_true")
    job.add_argument("--folder", type=Path, help="where to make the temporary folder")
    given = parser.parse_args()
    if given.job == "fit":
        weights = fit([Store(path) for path in given.stores], [Store(path) for path in given.check])
        write_weights(weights, given.out)
        print(f"thresholds: {weights.thresholds}; {given.out.stat().st_size} bytes")
    elif given.job == "measure":
        weights = read_weights(given.weights) if given.weights else load_default_weights()
        for path in given.stores:
            measure(Store(path), given.seeds, weights, given.jpeg)
    else:
        scale(Store(given.store), given.slices, given.one_label, given.folder)


if __name__ == "__main__":
    main()
