"""Linear corrections of prior probabilities, which are shrunk towards zero: a few examples are enough to train them.

At every node with children, the log odds of the children are those of the prior plus a linear function of features.
Its weights have a Gaussian prior of mean 0, so that without examples the probabilities are the prior's, and the
examples outweigh it as their number grows. Where the prior already predicts the training tracks well, the variance of
the weights is small (empirical Bayes): there is little to correct, and much to spoil.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from genretree.arrays import Array, Float32Array, Float64Array, Int64Array
from genretree.models.base import LevelProbabilities, OutOfFoldPredictions
from genretree.models.linear.hierarchical import LabelledRows
from genretree.models.linear.logistic import group_folds
from genretree.progress import progress_bar
from genretree.settings import Heads
from genretree.taxonomy import NodePath, Taxonomy

_BIAS_PENALTY = 100.0  # class frequencies among a few examples say little about those of other music
_PSEUDO_LOSS = 0.5  # nats; log loss of one additional track at each node
_MIN_GROUPS = 30  # below this, cross-validation is too noisy to select anything
_MIN_PROBABILITY = 1e-9
_MAX_ITERATIONS = 300
_NAMES = ("mean", "scale", "weights", "bias")


@dataclass(frozen=True)
class TrackRows:
    """Means of the slices of every track, on which the corrections are fitted.

    Parameters
    ----------
    features : float64 array, shape (n_tracks, n_features)
    prior : float64 array, shape (n_tracks, n_leaves)
        Leaf probabilities before training.
    leaves, groups : int64 array, shape (n_tracks,)
    weights : float64 array, shape (n_tracks,)
        Sample weights.
    position : int64 array, shape (n_slices,)
        Track of every slice.
    """

    features: Float64Array
    prior: Float64Array
    leaves: Int64Array
    groups: Int64Array
    weights: Float64Array
    position: Int64Array

    @classmethod
    def of(cls, features: Float32Array, prior: Float64Array, labelled: LabelledRows) -> Self:
        """Average the slices of each track."""
        _, first, position, n_slices = np.unique(
            labelled.tracks, return_index=True, return_inverse=True, return_counts=True
        )
        weights = np.bincount(position, weights=labelled.weights)
        return cls(
            _mean_by(np.asarray(features, np.float64), position, n_slices),
            _mean_by(prior, position, n_slices),
            labelled.leaves[first],
            labelled.groups[first],
            weights / weights.mean(),
            position,
        )

    def select(self, tracks: Int64Array) -> TrackRows:
        """Select tracks."""
        names = ("features", "prior", "leaves", "groups", "weights")
        return replace(self, **{name: getattr(self, name)[tracks] for name in names})


@dataclass(frozen=True)
class NodeCorrection:
    """A linear function of features that is added to the log odds of a node's children.

    Parameters
    ----------
    mean, scale : float32 array, shape (n_features,)
    weights : float32 array, shape (n_children, n_features)
    bias : float32 array, shape (n_children,)
    """

    mean: Float32Array
    scale: Float32Array
    weights: Float32Array
    bias: Float32Array

    def predict(self, features: Float32Array, prior: Float64Array) -> Float64Array:
        """Correct the shares of the children, shape (n, n_children); rows sum to 1."""
        from scipy.special import softmax

        correction = ((features - self.mean) / self.scale) @ self.weights.T + self.bias
        corrected: Float64Array = softmax(_log(prior) + correction.astype(np.float64), axis=1)
        return corrected


class PriorCorrection:
    """Corrections at all nodes of a tree (`heads="tree"`), or of the nodes of each level.

    Parameters
    ----------
    nodes : sequence of NodeCorrection or None
        One for each node with several children, or for each level; None where no training track is.
    taxonomy : Taxonomy
    heads : "tree" or "independent"

    Examples
    --------
    >>> import numpy as np
    >>> from genretree.models.linear.hierarchical import LabelledRows
    >>> from genretree.models.linear.prior_correction import PriorCorrection, TrackRows
    >>> from genretree.taxonomy import Taxonomy
    >>> tree = Taxonomy.from_nested(["Pop", "Rock"])
    >>> features, prior = np.array([[0.0], [1.0]], np.float32), np.full((2, 2), 0.5)
    >>> labelled = LabelledRows(np.array([0, 1]), np.array([0, 1]), np.array([0, 1]), np.ones(2))
    >>> correction = PriorCorrection.fit(TrackRows.of(features, prior, labelled), 1.0, [1], tree, "tree")
    >>> correction.predict(features, prior)[0].argmax(axis=1)
    array([0, 1])
    """

    def __init__(self, nodes: Sequence[NodeCorrection | None], taxonomy: Taxonomy, heads: Heads) -> None:
        self.nodes = list(nodes)
        self.taxonomy = taxonomy
        self.heads = heads
        self._children = _list_children(taxonomy, heads)

    @classmethod
    def fit(cls, tracks: TrackRows, C: float, widths: Sequence[int], taxonomy: Taxonomy, heads: Heads) -> Self:
        """Fit the corrections of all nodes.

        Parameters
        ----------
        tracks : TrackRows
        C : float
            Inverse regularisation: the variance of a new track's corrections, divided by the prior's mean log loss.
        widths : sequence of int
            Widths of the feature blocks. Every block gets the same weight, whatever its width.
        taxonomy : Taxonomy
        heads : "tree" or "independent"
        """
        nodes = []
        for children in _list_children(taxonomy, heads):
            member = (children >= 0)[tracks.leaves]
            selected = tracks.select(np.flatnonzero(member))
            shares = _sum_children(selected.prior, children)
            nodes.append(_fit_node(selected, shares, children[selected.leaves], C, widths) if member.any() else None)
        return cls(nodes, taxonomy, heads)

    @property
    def parameters(self) -> int:
        """Number of fitted parameters."""
        return sum(node.weights.size + node.bias.size for node in self.nodes if node is not None)

    def shuffle(self, rng: np.random.Generator) -> PriorCorrection:
        """Copy the corrections and shuffle the weights of each child."""
        nodes = [
            None if node is None else replace(node, weights=rng.permuted(node.weights, axis=1)) for node in self.nodes
        ]
        return PriorCorrection(nodes, self.taxonomy, self.heads)

    def predict(self, features: Float32Array, prior: Float64Array) -> LevelProbabilities:
        """Correct probabilities.

        Parameters
        ----------
        features : array, shape (n, n_features)
        prior : array, shape (n, n_leaves)
            Leaf probabilities before training.

        Returns
        -------
        list of arrays, shape (n, n_nodes)
            The probabilities of the nodes, one array for each level.
        """
        if self.heads == "independent":
            levels = self.taxonomy.sum_levels(prior)
            return [
                level if node is None else node.predict(features, level)
                for node, level in zip(self.nodes, levels, strict=True)
            ]
        leaves = prior.astype(np.float64)
        for node, children in zip(self.nodes, self._children, strict=True):
            if node is not None:
                inside = np.flatnonzero(children >= 0)
                shares = _sum_children(prior, children)
                corrected = node.predict(features, shares)
                leaves[:, inside] *= (corrected / np.maximum(shares, _MIN_PROBABILITY))[:, children[inside]]
        leaves = np.maximum(leaves, 0) + np.finfo(float).tiny
        return self.taxonomy.sum_levels(leaves / leaves.sum(axis=1, keepdims=True))

    def to_arrays(self) -> dict[str, Array]:
        """Collect all arrays by name, for saving."""
        return {
            f"node_{number}.{name}": np.ascontiguousarray(getattr(node, name))
            for number, node in enumerate(self.nodes)
            if node is not None
            for name in _NAMES
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], width: int, taxonomy: Taxonomy, heads: Heads) -> Self:
        """Restore the corrections from the arrays of `to_arrays`.

        Raises
        ------
        KeyError, ValueError
            If an array is missing, or they don't fit the tree and `width` features.
        """
        nodes: list[NodeCorrection | None] = []
        for number, children in enumerate(_list_children(taxonomy, heads)):
            if f"node_{number}.bias" not in arrays:
                nodes.append(None)
                continue
            node = NodeCorrection(*(arrays[f"node_{number}.{name}"] for name in _NAMES))
            n_children = int(children.max()) + 1
            shapes = [array.shape for array in (node.mean, node.scale, node.weights, node.bias)]
            if shapes != [(width,), (width,), (n_children, width), (n_children,)]:
                raise ValueError(f"the corrections don't fit {n_children} children and {width} features")
            nodes.append(node)
        if not any(nodes):
            raise ValueError("no corrections")
        return cls(nodes, taxonomy, heads)


def choose_regularisation(
    tracks: TrackRows, Cs: Sequence[float], widths: Sequence[int], taxonomy: Taxonomy, seed: int, progress: bool
) -> tuple[list[dict[str, float]], float]:
    """Select the inverse regularisation by the cross-validated log loss of the leaves, with groups held out.

    With fewer than 30 groups, the smallest `C` is chosen.

    Returns
    -------
    history : list of dict
        One row for each C; empty without cross-validation.
    C : float
    """
    ordered = sorted(Cs)
    groups = np.unique(tracks.groups, return_inverse=True)[1]
    folds = group_folds(tracks.leaves, groups, seed) if groups.max(initial=0) + 1 >= _MIN_GROUPS else []
    if len(ordered) == 1 or not folds:
        return [], ordered[0]
    losses = np.zeros((len(ordered), len(groups)))
    with progress_bar(len(ordered), "choose", "setting", progress) as tick:
        for place, C in enumerate(ordered):
            for train, test in folds:
                fitted = PriorCorrection.fit(tracks.select(train), C, widths, taxonomy, "tree")
                held_out = tracks.select(test)
                leaves = fitted.predict(held_out.features.astype(np.float32), held_out.prior)[-1]
                losses[place, test] = -_log(leaves[np.arange(len(test)), held_out.leaves])
            tick()
    history = [
        {"iteration": float(place), "C": C, "validation_loss": float(losses[place].mean())}
        for place, C in enumerate(ordered)
    ]
    return history, ordered[int(losses.mean(axis=1).argmin())]


def predict_corrected_out_of_fold(
    features: Float32Array,
    prior: Float64Array,
    labelled: LabelledRows,
    C: float,
    widths: Sequence[int],
    taxonomy: Taxonomy,
    heads: Heads,
    seed: int,
) -> OutOfFoldPredictions | None:
    """Predict every slice with corrections that were not fitted on its group; None if there are too few groups."""
    tracks = TrackRows.of(features, prior, labelled)
    folds = group_folds(tracks.leaves, tracks.groups, seed)
    if not folds:
        return None
    levels = [np.zeros((len(features), len(taxonomy.nodes(level)))) for level in range(taxonomy.depth)]
    for train, test in folds:
        fitted = PriorCorrection.fit(tracks.select(train), C, widths, taxonomy, heads)
        rows = np.flatnonzero(np.isin(tracks.position, test))
        for level, values in zip(levels, fitted.predict(features[rows], prior[rows]), strict=True):
            level[rows] = values
    return OutOfFoldPredictions(levels, labelled.leaves, labelled.tracks)


def _fit_node(
    tracks: TrackRows, shares: Float64Array, truth: Int64Array, C: float, widths: Sequence[int]
) -> NodeCorrection:
    """Fit the correction of one node by L-BFGS."""
    from scipy.optimize import minimize
    from scipy.special import log_softmax
    from threadpoolctl import threadpool_limits

    n, n_children = shares.shape
    log_prior = _log(shares)
    indices = np.arange(n)
    prior_loss = (_PSEUDO_LOSS - (tracks.weights * log_prior[indices, truth]).sum()) / (1 + tracks.weights.sum())
    penalty = 1 / (C * prior_loss)
    mean, scale = _standardise(tracks.features, widths)
    with threadpool_limits(1):  # the matrix products are too small for threads to pay off
        standardised = (tracks.features - mean) / scale
        # Weights outside the span of the tracks stay 0, so the problem has at most as many dimensions as tracks.
        left, singular, right = np.linalg.svd(standardised, full_matrices=False)
        used = singular > 1e-6 * max(float(singular.max(initial=0)), 1e-6)
        x, basis = (left * singular)[:, used], right[used]

        def loss(parameters: Float64Array) -> tuple[float, Float64Array]:
            bias, weights = parameters[:n_children], parameters[n_children:].reshape(n_children, -1)
            log_probabilities = log_softmax(log_prior + x @ weights.T + bias, axis=1)
            residual = np.exp(log_probabilities)
            residual[indices, truth] -= 1
            residual *= tracks.weights[:, None]
            value = -(tracks.weights * log_probabilities[indices, truth]).sum()
            value += 0.5 * (_BIAS_PENALTY * (bias**2).sum() + penalty * (weights**2).sum())
            gradient = (residual.T @ x + penalty * weights).ravel()
            return float(value), np.concatenate([residual.sum(axis=0) + _BIAS_PENALTY * bias, gradient])

        start = np.zeros(n_children * (1 + x.shape[1]))
        found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": _MAX_ITERATIONS}).x
        weights = found[n_children:].reshape(n_children, -1) @ basis
    parts = (mean, scale, weights, found[:n_children])
    return NodeCorrection(*(np.ascontiguousarray(part, np.float32) for part in parts))


def _standardise(features: Float64Array, widths: Sequence[int]) -> tuple[Float64Array, Float64Array]:
    """Return mean and scale by which a new track has an expected squared norm of 1, shape (n_features,) each.

    The features of a block share one scale: the variances of single features are unknown for a few tracks.
    """
    n = len(features)
    variance = features.var(axis=0) * (n + 1) / max(n - 1, 1)  # of a new track around the mean of n
    blocks = np.split(variance, np.cumsum(widths)[:-1])
    scales = [np.sqrt(len(blocks) * block.sum()) if block.sum() > 0 else 1.0 for block in blocks]
    return features.mean(axis=0), np.repeat(scales, widths)


def _list_children(taxonomy: Taxonomy, heads: Heads) -> list[Int64Array]:
    """List for every node with several children, or every level, the child that holds each leaf; -1 if none does."""
    if heads == "independent":
        return [taxonomy.ancestors[:, level] for level in range(taxonomy.depth)]
    found = []
    parents: list[NodePath] = list(dict.fromkeys(leaf[:cut] for leaf in taxonomy.leaves for cut in range(len(leaf))))
    for parent in sorted(parents, key=len):
        depth = len(parent)
        names = [leaf[: depth + 1] if leaf[:depth] == parent else None for leaf in taxonomy.leaves]
        order = {name: place for place, name in enumerate(dict.fromkeys(name for name in names if name is not None))}
        if len(order) > 1:
            found.append(np.array([-1 if name is None else order[name] for name in names], np.int64))
    return found


def _sum_children(leaves: Float64Array, children: Int64Array) -> Float64Array:
    """Sum leaf probabilities by child and divide them by their sum, shape (n, n_children)."""
    sums = np.stack([leaves[:, children == child].sum(axis=1) for child in range(int(children.max()) + 1)], axis=1)
    shares: Float64Array = sums / np.maximum(sums.sum(axis=1, keepdims=True), _MIN_PROBABILITY)
    return shares


def _mean_by(values: Float64Array, position: Int64Array, counts: Int64Array) -> Float64Array:
    sums = np.zeros((len(counts), values.shape[1]))
    np.add.at(sums, position, values)
    return sums / counts[:, None]


def _log(probabilities: Float64Array) -> Float64Array:
    logs: Float64Array = np.log(np.maximum(probabilities, _MIN_PROBABILITY))
    return logs
