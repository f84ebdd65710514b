"""Metrics of hierarchical classification: accuracy, F1, calibration, confidence intervals and paired comparisons."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genretree.arrays import Float64Array, Int64Array
from genretree.metrics.intervals import FEW_GROUPS, accuracy_interval, difference_interval, effective_groups
from genretree.models.base import LevelProbabilities
from genretree.settings import Heads
from genretree.taxonomy import Taxonomy

_N_BINS = 10
_N_CHANCE_SAMPLES = 200
_N_CURVE_POINTS = 20
_TOP = (2, 3)
COVERAGE = 0.8


@dataclass(frozen=True, kw_only=True)
class ClassScores:
    """Precision, recall and F1 of one class, 0 to 1, and its number of true examples."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class ReliabilityBin:
    """One bin of a reliability diagram: mean confidence and accuracy, 0 to 1, and number of examples."""

    confidence: float
    accuracy: float
    n: int


@dataclass(frozen=True, kw_only=True)
class CalibrationScores:
    """Calibration metrics of one level.

    Parameters
    ----------
    ece, ece_before : float
        Expected calibration error of the predicted node's probability over 10 bins of equal width (Naeini et al. 2015,
        Guo et al. 2017), 0 to 1, with the bundle's temperatures and without them.
    ece_chance : float
        Mean ECE of perfectly calibrated probabilities on this number of examples; a lower ECE can't be
        distinguished from 0.
    bins, bins_before : tuple of ReliabilityBin
        Non-empty bins.
    accuracy_at_80 : float
        Accuracy on the 80 % of examples with the highest confidence.
    curve : tuple of (coverage, accuracy)
        Accuracy at coverages from 0.05 to 1 (risk-coverage curve, El-Yaniv and Wiener 2010).
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
    """Metrics of one level.

    Parameters
    ----------
    name : str
    accuracy, macro_f1, balanced_accuracy : float
        0 to 1. Macro-F1 averages over the classes that occur as label or prediction, balanced accuracy (mean recall)
        over those that occur as label.
    kappa : float
        Cohen's kappa, -1 to 1: agreement beyond chance.
    top : mapping of int to float
        Top-k accuracy for k = 2 and 3, if the level has more nodes.
    ci95 : (float, float)
        95 % confidence interval of the accuracy for new groups (`genretree.metrics.intervals.accuracy_interval`).
    classes : sequence of ClassScores
    confusion : nested lists, shape (n_classes, n_classes)
        Counts; rows are true, columns predicted.
    branches : tuple of int
        Indices of classes that begin another branch of the taxonomy.
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


@dataclass(frozen=True, kw_only=True)
class HierarchicalScores:
    """Metrics of whole paths, which give credit for a correct ancestor.

    Precision, recall and F1, 0 to 1, compare the sets of predicted and true nodes with all their ancestors, over all
    examples at once (Kiritchenko et al. 2005; Silla and Freitas 2011). `tree_distance` is the mean number of edges
    between predicted and true leaf.
    """

    precision: float
    recall: float
    f1: float
    tree_distance: float


@dataclass(frozen=True, kw_only=True)
class UnitScores:
    """Metrics over slices or tracks.

    `overall` is the mean of the levels' accuracies, as in the published study. `contradictions` is the share of units
    whose predicted nodes are on different branches: 0 by construction with the tree head. `effective_groups` is the
    inverse Simpson index of the groups' numbers of units; 0 if unknown.
    """

    n: int
    groups: int
    overall: float
    contradictions: float
    hierarchical: HierarchicalScores
    levels: tuple[LevelScores, ...]
    effective_groups: float = 0.0

    @property
    def few_groups(self) -> bool:
        """Whether the groups are too few for reliable intervals."""
        return 0 < self.effective_groups < FEW_GROUPS


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Difference of two models' accuracies at one level, on the same examples.

    Parameters
    ----------
    name : str
        Name of the level.
    difference : float
        First minus second, -1 to 1.
    ci95 : (float, float)
        95 % confidence interval for new groups (`genretree.metrics.intervals.difference_interval`).
    only_first, only_second : int
        Numbers of examples that only one model classifies correctly.
    p_value : float
        P-value of the exact McNemar test. The test assumes independent examples, which tracks of one artist are not; if
        the two disagree, rely on the confidence interval.
    """

    name: str
    difference: float
    ci95: tuple[float, float]
    only_first: int
    only_second: int
    p_value: float


def decode_levels(taxonomy: Taxonomy, heads: Heads, levels: LevelProbabilities) -> Int64Array:
    """Predict a node for each level, shape (n, depth): the best path with the tree head, else each level's argmax."""
    if heads == "tree":
        return taxonomy.ancestors[taxonomy.decode(levels)]
    return np.stack([probabilities.argmax(axis=1) for probabilities in levels], axis=1)


def name_path(taxonomy: Taxonomy, heads: Heads, nodes: Int64Array) -> tuple[str, ...]:
    """Return the labels from the top to the leaf; with independent heads they may contradict each other."""
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
    predicted: Int64Array | None = None,
) -> UnitScores:
    """Compute all metrics from level probabilities and true leaves.

    Parameters
    ----------
    levels : list of arrays, one for each level, shape (n, n_nodes)
    leaves : array, shape (n,)
    groups : array, shape (n,)
        Group of each unit; confidence intervals are for new groups.
    seed : int
        Seed of `ece_chance`.
    before : list of arrays, optional
        Uncalibrated probabilities; default `levels`.
    predicted : array, optional
        Predicted nodes, shape (n, depth); default: those that `heads` decodes from `levels`.

    Returns
    -------
    UnitScores
    """
    if predicted is None:
        predicted = decode_levels(taxonomy, heads, levels)
    true = taxonomy.ancestors[leaves]
    raw = levels if before is None else before
    predicted_before = predicted if before is None else decode_levels(taxonomy, heads, raw)
    scores = []
    for level in range(taxonomy.depth):
        level_true, level_predicted = true[:, level], predicted[:, level]
        trust = _score_calibration(
            _confidence(levels[level], level_predicted),
            level_predicted == level_true,
            _confidence(raw[level], predicted_before[:, level]),
            predicted_before[:, level] == level_true,
            seed,
        )
        scores.append(_score_level(taxonomy, level, levels[level], level_true, level_predicted, groups, trust))
    paths = {tuple(path) for path in taxonomy.ancestors.tolist()}
    contradictions = float(np.mean([tuple(row) not in paths for row in predicted.tolist()]))
    overall = float(np.mean([level.accuracy for level in scores]))
    hierarchical = score_hierarchy(taxonomy, predicted, leaves)
    return UnitScores(
        n=len(leaves),
        groups=len(np.unique(groups)),
        overall=overall,
        contradictions=contradictions,
        hierarchical=hierarchical,
        levels=tuple(scores),
        effective_groups=float(effective_groups(np.unique(groups, return_counts=True)[1])),
    )


def score_hierarchy(taxonomy: Taxonomy, predicted: Int64Array, leaves: Int64Array) -> HierarchicalScores:
    """Compute hierarchical metrics from predicted nodes, shape (n, depth), and true leaves, shape (n,)."""
    ancestors = [[set(_with_ancestors(node)) for node in taxonomy.nodes(level)] for level in range(taxonomy.depth)]
    shared = n_predicted = n_true = 0
    distances = []
    for row, leaf in zip(predicted.tolist(), leaves.tolist(), strict=True):
        predicted_nodes = set().union(*(ancestors[level][node] for level, node in enumerate(row)))
        true_nodes = set(_with_ancestors(taxonomy.leaves[leaf]))
        shared += len(predicted_nodes & true_nodes)
        n_predicted += len(predicted_nodes)
        n_true += len(true_nodes)
        leaf_nodes = ancestors[-1][row[-1]]  # with independent heads the deepest level represents the path
        distances.append(len(leaf_nodes ^ true_nodes))
    precision, recall = shared / n_predicted, shared / n_true
    f1 = 2 * precision * recall / (precision + recall) if shared else 0.0
    return HierarchicalScores(precision=precision, recall=recall, f1=f1, tree_distance=float(np.mean(distances)))


def compare_accuracies(
    names: Sequence[str], first: NDArray[np.bool_], second: NDArray[np.bool_], groups: Int64Array
) -> tuple[Difference, ...]:
    """Compare the accuracies of two models on the same examples, for each level.

    Parameters
    ----------
    names : sequence of str
        Names of the levels.
    first, second : bool arrays, shape (n, n_levels)
        Correctness of each model's predictions.
    groups : array, shape (n,)
        The interval is for new groups.

    Returns
    -------
    tuple of Difference
    """
    from scipy.stats import binomtest

    differences = []
    for level, name in enumerate(names):
        one, other = first[:, level], second[:, level]
        only_first, only_second = int((one & ~other).sum()), int((other & ~one).sum())
        n_discordant = only_first + only_second
        p_value = float(binomtest(only_first, n_discordant).pvalue) if n_discordant else 1.0
        gains = one.astype(float) - other.astype(float)
        differences.append(
            Difference(
                name=name,
                difference=float(gains.mean()),
                ci95=difference_interval(gains, groups),
                only_first=only_first,
                only_second=only_second,
                p_value=p_value,
            )
        )
    return tuple(differences)


def _score_level(
    taxonomy: Taxonomy,
    level: int,
    probabilities: Float64Array,
    true: Int64Array,
    predicted: Int64Array,
    groups: Int64Array,
    trust: CalibrationScores,
) -> LevelScores:
    from sklearn.metrics import cohen_kappa_score, confusion_matrix, precision_recall_fscore_support

    labels, nodes = taxonomy.labels(level), taxonomy.nodes(level)
    indices = np.arange(len(labels))
    occurring = np.union1d(true, predicted)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="A single label was found")  # a level of one node
        confusion = confusion_matrix(true, predicted, labels=indices)
    precision, recall, f1, support = precision_recall_fscore_support(true, predicted, labels=indices, zero_division=0)
    classes = tuple(
        ClassScores(
            name=label, precision=float(precision[i]), recall=float(recall[i]), f1=float(f1[i]), support=int(support[i])
        )
        for i, label in enumerate(labels)
    )
    correct = true == predicted
    # With a single class, agreement can't exceed chance.
    kappa = float(cohen_kappa_score(true, predicted)) if len(occurring) > 1 else 0.0
    return LevelScores(
        name=taxonomy.levels[level],
        accuracy=float(correct.mean()),
        macro_f1=float(f1[occurring].mean()),
        balanced_accuracy=float(recall[np.unique(true)].mean()),
        kappa=kappa,
        top=_score_top(probabilities, true),
        ci95=accuracy_interval(correct, groups),
        classes=classes,
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        branches=tuple(i for i in indices[1:].tolist() if level and nodes[i][:level] != nodes[i - 1][:level]),
        trust=trust,
    )


def _score_top(probabilities: Float64Array, true: Int64Array) -> dict[int, float]:
    """Compute top-k accuracies; ties are broken by index."""
    order = np.argsort(-probabilities, axis=1, kind="stable")
    rank = (order == true[:, None]).argmax(axis=1)
    return {k: float((rank < k).mean()) for k in _TOP if k < probabilities.shape[1]}


def _score_calibration(
    confidence: Float64Array,
    correct: NDArray[np.bool_],
    confidence_before: Float64Array,
    correct_before: NDArray[np.bool_],
    seed: int,
) -> CalibrationScores:
    bins, bins_before = _reliability(confidence, correct), _reliability(confidence_before, correct_before)
    samples = np.random.default_rng(seed).random((_N_CHANCE_SAMPLES, len(confidence))) < confidence
    order = np.argsort(-confidence, kind="stable")
    running = np.cumsum(correct[order]) / np.arange(1, len(correct) + 1)
    coverages = (np.arange(1, _N_CURVE_POINTS + 1) / _N_CURVE_POINTS).tolist()
    return CalibrationScores(
        ece=_ece(bins),
        ece_before=_ece(bins_before),
        ece_chance=float(np.mean([_ece(_reliability(confidence, hits)) for hits in samples])),
        bins=bins,
        bins_before=bins_before,
        accuracy_at_80=_at_coverage(running, COVERAGE),
        curve=tuple((coverage, _at_coverage(running, coverage)) for coverage in coverages),
    )


def _at_coverage(running: Float64Array, coverage: float) -> float:
    return float(running[max(1, round(coverage * len(running))) - 1])


def _confidence(probabilities: Float64Array, predicted: Int64Array) -> Float64Array:
    confidence: Float64Array = probabilities[np.arange(len(predicted)), predicted]
    return confidence


def _reliability(confidence: Float64Array, correct: NDArray[np.bool_]) -> tuple[ReliabilityBin, ...]:
    index = np.minimum((confidence * _N_BINS).astype(int), _N_BINS - 1)
    counts = np.bincount(index, minlength=_N_BINS)
    sums = np.bincount(index, weights=confidence, minlength=_N_BINS)
    hits = np.bincount(index, weights=correct, minlength=_N_BINS)
    return tuple(ReliabilityBin(float(sums[i] / n), float(hits[i] / n), int(n)) for i, n in enumerate(counts) if n)


def _ece(bins: Sequence[ReliabilityBin]) -> float:
    total = sum(item.n for item in bins)
    return sum(item.n * abs(item.confidence - item.accuracy) for item in bins) / total


def _with_ancestors(node: Sequence[str]) -> list[tuple[str, ...]]:
    """Return a node and its ancestors, without the root."""
    return [tuple(node[: cut + 1]) for cut in range(len(node))]
