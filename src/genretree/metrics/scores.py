"""How right level probabilities are, and how far they can be trusted: every figure of an evaluation."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genretree.arrays import Float64Array, Int64Array
from genretree.models.base import LevelProbabilities
from genretree.settings import Heads
from genretree.taxonomy import Taxonomy

_RESAMPLES = 2000
_CONFIDENCE = 0.95
_BINS = 10
_CHANCE_DRAWS = 200
_CURVE_POINTS = 20
_TOP = (2, 3)
COVERAGE = 0.8


@dataclass(frozen=True)
class ClassScores:
    """One class's precision, recall and F1, 0 to 1, and how many true examples it has."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class ReliabilityBin:
    """One bin of a reliability diagram: mean confidence and share of right answers, 0 to 1, and how many fell in."""

    confidence: float
    accuracy: float
    n: int


@dataclass(frozen=True, kw_only=True)
class CalibrationScores:
    """How far the probabilities of one level can be trusted.

    Parameters
    ----------
    ece, ece_before : float
        Expected calibration error of the chosen node's probability over 10 bins of equal width (Naeini et al. 2015, Guo
        et al. 2017), 0 to 1, with the bundle's temperatures and without them.
    ece_chance : float
        The mean that perfectly calibrated probabilities would show on so few examples; less can't be told from 0.
    bins, bins_before : tuple of ReliabilityBin
        Those that are not empty.
    accuracy_at_80 : float
        Accuracy on the 80 % of examples the model is surest of.
    curve : tuple of (coverage, accuracy)
        Accuracy on the surest share, for shares from 0.05 to 1 (risk-coverage curve, El-Yaniv and Wiener 2010).
    """

    ece: float
    ece_before: float
    ece_chance: float
    bins: tuple[ReliabilityBin, ...]
    bins_before: tuple[ReliabilityBin, ...]
    accuracy_at_80: float
    curve: tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True)
class LevelScores:
    """How right one level is.

    Parameters
    ----------
    name : str
    accuracy, macro_f1, balanced_accuracy : float
        0 to 1. Macro-F1 is over the classes that occur, as truth or as prediction; balanced accuracy is the mean recall
        of those that occur as truth.
    kappa : float
        Cohen's kappa, -1 to 1: agreement beyond chance.
    top : mapping of int to float
        Share of examples whose true node is among the k likeliest of its level, for k of 2 and 3 where there are more.
    ci95 : (float, float)
        95 % interval of the accuracy, by bootstrap over groups.
    classes : sequence of ClassScores
    confusion : nested lists, shape (n_classes, n_classes)
        Counts; rows are true, columns predicted.
    branches : tuple of int
        Classes with which another branch of the tree begins.
    trust : CalibrationScores
    """

    name: str
    accuracy: float
    macro_f1: float
    balanced_accuracy: float
    kappa: float
    top: Mapping[int, float]
    ci95: tuple[float, float]
    classes: tuple[ClassScores, ...]
    confusion: tuple[tuple[int, ...], ...]
    branches: tuple[int, ...]
    trust: CalibrationScores


@dataclass(frozen=True)
class HierarchicalScores:
    """Scores that count how much of a path is right.

    Precision, recall and F1, 0 to 1, compare the sets of predicted and true nodes with all their ancestors, over all
    examples at once (Kiritchenko et al. 2005; Silla and Freitas 2011). `tree_distance` is the mean number of edges
    between predicted and true leaf.
    """

    precision: float
    recall: float
    f1: float
    tree_distance: float


@dataclass(frozen=True)
class UnitScores:
    """Scores over one kind of unit, slices or tracks.

    `overall` is the plain mean of the levels' accuracies, as in the published study. `contradictions` is the share of
    units whose levels name nodes of different branches: 0 by construction with the tree head.
    """

    n: int
    groups: int
    overall: float
    contradictions: float
    hierarchical: HierarchicalScores
    levels: tuple[LevelScores, ...]


@dataclass(frozen=True)
class Difference:
    """One level's accuracy of a model less that of another on the same examples.

    Parameters
    ----------
    name : str
        Of the level.
    difference : float
        -1 to 1; above 0 the first is better.
    ci95 : (float, float)
        By paired bootstrap over groups.
    only_first, only_second : int
        Examples that only one of them has right.
    p_value : float
        Exact McNemar test: how likely the two counts differ at least so much if neither is better. It takes examples as
        independent, which tracks of one artist are not; where the two disagree, trust the interval.
    """

    name: str
    difference: float
    ci95: tuple[float, float]
    only_first: int
    only_second: int
    p_value: float


def decode_levels(taxonomy: Taxonomy, heads: Heads, levels: LevelProbabilities) -> Int64Array:
    """Choose a node for each level, shape (n, depth): one path with the tree head, each level's best without."""
    if heads == "tree":
        return taxonomy.ancestors[taxonomy.decode(levels)]
    return np.stack([probabilities.argmax(axis=1) for probabilities in levels], axis=1)


def name_path(taxonomy: Taxonomy, heads: Heads, nodes: Int64Array) -> tuple[str, ...]:
    """Names from the top to the leaf; with independent heads the names of all levels, whatever they say together."""
    if heads == "tree":
        return taxonomy.leaves[int(nodes[-1])]
    return tuple(taxonomy.labels(level)[node] for level, node in enumerate(nodes))


def score_units(
    taxonomy: Taxonomy,
    heads: Heads,
    levels: LevelProbabilities,
    leaves: Int64Array,
    groups: Int64Array,
    seed: int,
    before: LevelProbabilities | None = None,
) -> UnitScores:
    """Compare level probabilities with the true leaves.

    Parameters
    ----------
    levels : list of arrays, one for each level, shape (n, n_nodes)
    leaves : array, shape (n,)
    groups : array, shape (n,)
        Group of each unit; the bootstrap draws whole groups.
    seed : int
    before : list of arrays, optional
        The probabilities before calibration, where they differ.
    """
    predicted = decode_levels(taxonomy, heads, levels)
    true = taxonomy.ancestors[leaves]
    raw = levels if before is None else before
    predicted_before = decode_levels(taxonomy, heads, raw)
    scores = []
    for level in range(taxonomy.depth):
        truth, chosen = true[:, level], predicted[:, level]
        trust = _score_trust(
            _confidence(levels[level], chosen),
            chosen == truth,
            _confidence(raw[level], predicted_before[:, level]),
            predicted_before[:, level] == truth,
            seed,
        )
        scores.append(_score_level(taxonomy, level, levels[level], truth, chosen, groups, seed, trust))
    paths = {tuple(path) for path in taxonomy.ancestors.tolist()}
    contradictions = float(np.mean([tuple(row) not in paths for row in predicted.tolist()]))
    overall = float(np.mean([level.accuracy for level in scores]))
    hierarchical = score_hierarchy(taxonomy, predicted, leaves)
    return UnitScores(len(leaves), len(np.unique(groups)), overall, contradictions, hierarchical, tuple(scores))


def score_hierarchy(taxonomy: Taxonomy, predicted: Int64Array, leaves: Int64Array) -> HierarchicalScores:
    """Compare predicted nodes, shape (n, depth), with true leaves, shape (n,): whole paths, not levels."""
    named = [[set(_paths_above(node)) for node in taxonomy.nodes(level)] for level in range(taxonomy.depth)]
    shared = n_predicted = n_true = 0
    distances = []
    for row, leaf in zip(predicted.tolist(), leaves.tolist(), strict=True):
        found = set().union(*(named[level][node] for level, node in enumerate(row)))
        truth = set(_paths_above(taxonomy.leaves[leaf]))
        shared += len(found & truth)
        n_predicted += len(found)
        n_true += len(truth)
        end = named[-1][row[-1]]  # with independent heads the deepest level stands for the whole
        distances.append(len(end ^ truth))
    precision, recall = shared / n_predicted, shared / n_true
    f1 = 2 * precision * recall / (precision + recall) if shared else 0.0
    return HierarchicalScores(precision, recall, f1, float(np.mean(distances)))


def compare_right(
    names: Sequence[str], first: NDArray[np.bool_], second: NDArray[np.bool_], groups: Int64Array, seed: int
) -> tuple[Difference, ...]:
    """Say for each level whether one model is better than another on the same examples.

    Parameters
    ----------
    names : sequence of str
        Of the levels.
    first, second : bool arrays, shape (n, n_levels)
        Where each is right.
    groups : array, shape (n,)
        Whole groups are drawn by the bootstrap.
    seed : int
    """
    from scipy.stats import binomtest

    found = []
    for level, name in enumerate(names):
        one, other = first[:, level], second[:, level]
        only_first, only_second = int((one & ~other).sum()), int((other & ~one).sum())
        disagree = only_first + only_second
        p_value = float(binomtest(only_first, disagree).pvalue) if disagree else 1.0
        gained = one.astype(float) - other.astype(float)
        interval = _difference_interval(gained, groups, seed)
        found.append(Difference(name, float(gained.mean()), interval, only_first, only_second, p_value))
    return tuple(found)


def _difference_interval(gained: Float64Array, groups: Int64Array, seed: int) -> tuple[float, float]:
    """Give the bootstrap's interval; where all groups gain the same, what so many groups may hide (Wilson)."""
    from scipy import stats

    index = np.unique(groups, return_inverse=True)[1]
    means = np.bincount(index, weights=gained) / np.bincount(index)
    if np.ptp(means) > 0:
        return _bootstrap(gained, groups, seed) or (-1.0, 1.0)
    hidden = float(stats.binomtest(0, len(means)).proportion_ci(_CONFIDENCE, method="wilson").high)
    return max(-1.0, float(means[0]) - hidden), min(1.0, float(means[0]) + hidden)


def bootstrap_interval(right: NDArray[np.bool_], groups: Int64Array, seed: int) -> tuple[float, float]:
    """Give the 95 % interval of the share of right answers, drawing whole groups with replacement.

    Tracks of one artist rise and fall together, so artists, not tracks, are drawn (cluster bootstrap, percentile
    method, by `scipy.stats.bootstrap`). Where every group is right or every one wrong the bootstrap has no spread; the
    Wilson interval over the number of groups is given instead. One group says nothing about others: 0 to 1.
    """
    from scipy import stats

    n = len(np.unique(groups))
    if n >= 2 and (right.all() or not right.any()):
        exact = stats.binomtest(n if right.all() else 0, n).proportion_ci(_CONFIDENCE, method="wilson")
        return float(exact.low), float(exact.high)
    return _bootstrap(right.astype(float), groups, seed) or (0.0, 1.0)


def _bootstrap(values: Float64Array, groups: Int64Array, seed: int) -> tuple[float, float] | None:
    """Give the 95 % interval of the mean, drawing whole groups; None for a single group."""
    from scipy import stats

    index = np.unique(groups, return_inverse=True)[1]
    total = np.bincount(index).astype(float)
    sums = np.bincount(index, weights=values)
    if len(total) < 2:
        return None

    def share(sums: Any, total: Any, axis: int = -1) -> Any:
        return sums.sum(axis=axis) / total.sum(axis=axis)

    interval = stats.bootstrap(
        (sums, total),
        share,
        paired=True,
        vectorized=True,
        n_resamples=_RESAMPLES,
        confidence_level=_CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def _score_level(
    taxonomy: Taxonomy,
    level: int,
    probabilities: Float64Array,
    true: Int64Array,
    predicted: Int64Array,
    groups: Int64Array,
    seed: int,
    trust: CalibrationScores,
) -> LevelScores:
    from sklearn.metrics import cohen_kappa_score, confusion_matrix, precision_recall_fscore_support

    labels, nodes = taxonomy.labels(level), taxonomy.nodes(level)
    every = np.arange(len(labels))
    occurring = np.union1d(true, predicted)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="A single label was found")  # a level of one node
        confusion = confusion_matrix(true, predicted, labels=every)
    precision, recall, f1, support = precision_recall_fscore_support(true, predicted, labels=every, zero_division=0)
    classes = tuple(
        ClassScores(label, float(precision[i]), float(recall[i]), float(f1[i]), int(support[i]))
        for i, label in enumerate(labels)
    )
    right = true == predicted
    # Where only one class occurs, as truth and as prediction, nothing can agree beyond chance.
    kappa = float(cohen_kappa_score(true, predicted)) if len(occurring) > 1 else 0.0
    return LevelScores(
        name=taxonomy.levels[level],
        accuracy=float(right.mean()),
        macro_f1=float(f1[occurring].mean()),
        balanced_accuracy=float(recall[np.unique(true)].mean()),
        kappa=kappa,
        top=_score_top(probabilities, true),
        ci95=bootstrap_interval(right, groups, seed),
        classes=classes,
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        branches=tuple(i for i in every[1:].tolist() if level and nodes[i][:level] != nodes[i - 1][:level]),
        trust=trust,
    )


def _score_top(probabilities: Float64Array, true: Int64Array) -> dict[int, float]:
    """Give the share of true nodes among the k likeliest; among equals the first in index order comes first."""
    order = np.argsort(-probabilities, axis=1, kind="stable")
    rank = (order == true[:, None]).argmax(axis=1)
    return {k: float((rank < k).mean()) for k in _TOP if k < probabilities.shape[1]}


def _score_trust(
    confidence: Float64Array,
    right: NDArray[np.bool_],
    confidence_before: Float64Array,
    right_before: NDArray[np.bool_],
    seed: int,
) -> CalibrationScores:
    bins, bins_before = _reliability(confidence, right), _reliability(confidence_before, right_before)
    drawn = np.random.default_rng(seed).random((_CHANCE_DRAWS, len(confidence))) < confidence
    surest = np.argsort(-confidence, kind="stable")
    running = np.cumsum(right[surest]) / np.arange(1, len(right) + 1)
    shares = (np.arange(1, _CURVE_POINTS + 1) / _CURVE_POINTS).tolist()
    return CalibrationScores(
        ece=_ece(bins),
        ece_before=_ece(bins_before),
        ece_chance=float(np.mean([_ece(_reliability(confidence, hits)) for hits in drawn])),
        bins=bins,
        bins_before=bins_before,
        accuracy_at_80=_at_share(running, COVERAGE),
        curve=tuple((share, _at_share(running, share)) for share in shares),
    )


def _at_share(running: Float64Array, share: float) -> float:
    return float(running[max(1, round(share * len(running))) - 1])


def _confidence(probabilities: Float64Array, chosen: Int64Array) -> Float64Array:
    found: Float64Array = probabilities[np.arange(len(chosen)), chosen]
    return found


def _reliability(confidence: Float64Array, right: NDArray[np.bool_]) -> tuple[ReliabilityBin, ...]:
    index = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    counts = np.bincount(index, minlength=_BINS)
    sums = np.bincount(index, weights=confidence, minlength=_BINS)
    hits = np.bincount(index, weights=right, minlength=_BINS)
    return tuple(ReliabilityBin(float(sums[i] / n), float(hits[i] / n), int(n)) for i, n in enumerate(counts) if n)


def _ece(bins: Sequence[ReliabilityBin]) -> float:
    total = sum(item.n for item in bins)
    return sum(item.n * abs(item.confidence - item.accuracy) for item in bins) / total


def _paths_above(node: Sequence[str]) -> list[tuple[str, ...]]:
    """Give a node and all its ancestors, the root left out."""
    return [tuple(node[: cut + 1]) for cut in range(len(node))]
