"""Hierarchical linear classifiers on feature blocks, with cross-validated features and regularisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from genretree.arrays import Array, Float32Array, Float64Array, Int64Array
from genretree.errors import BundleError, TrainingError
from genretree.models.base import LevelProbabilities, OutOfFoldPredictions, SliceDataset, compute_class_weights
from genretree.models.features.image_statistics import STATISTICS
from genretree.models.finite_weights import require_finite
from genretree.models.linear.logistic import LinearHead, fit_linear, group_folds, predict_out_of_fold, track_log_loss
from genretree.progress import progress_bar
from genretree.settings import Heads
from genretree.taxonomy import Taxonomy

HEAD_FILE = "head.safetensors"
Blocks = Sequence[Float32Array]  # feature blocks of the same slices, each (n, width), that get the same weight


@dataclass(frozen=True)
class LabelledRows:
    """Labels of slices: leaf, track, group and sample weight, arrays of shape (n,)."""

    leaves: Int64Array
    tracks: Int64Array
    groups: Int64Array
    weights: Float64Array

    @classmethod
    def of(cls, parts: Sequence[SliceDataset], class_weight_power: float = 0.0) -> Self:
        """Join the labels of several data sets; sample weights give every track the same weight, whatever its length.

        Raises
        ------
        TrainingError
            If all slices have the same leaf.
        """
        leaves, tracks, groups = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("leaves", "tracks", "groups")
        )
        if len(np.unique(leaves)) < 2:
            raise TrainingError("all training slices have the same genre; check the labels and the split")
        weights = compute_class_weights(leaves, class_weight_power) / np.bincount(tracks)[tracks]
        return cls(leaves, tracks, groups, weights / weights.mean())

    def first(self, n: int) -> Self:
        """Select the first `n` slices."""
        return type(self)(self.leaves[:n], self.tracks[:n], self.groups[:n], self.weights[:n])


class LinearTree:
    """A linear classifier of the leaves (`heads="tree"`), or one for each level.

    Parameters
    ----------
    linear : sequence of LinearHead or None
        None for a level with a single class.
    taxonomy : Taxonomy
    heads : "tree" or "independent"
    """

    def __init__(self, linear: Sequence[LinearHead | None], taxonomy: Taxonomy, heads: Heads) -> None:
        self.linear = list(linear)
        self.taxonomy = taxonomy
        self.heads = heads
        self.levels = _levels(taxonomy, heads)

    @classmethod
    def fit(cls, blocks: Blocks, labelled: LabelledRows, C: float, taxonomy: Taxonomy, heads: Heads) -> Self:
        """Fit all classifiers with the inverse regularisation `C`."""
        features, widths = np.concatenate(blocks, axis=1), [block.shape[1] for block in blocks]
        classifiers: list[LinearHead | None] = []
        for level in _levels(taxonomy, heads):
            truth = taxonomy.ancestors[labelled.leaves, level]
            has_classes = len(np.unique(truth)) > 1
            classifiers.append(fit_linear(features, truth, C, labelled.weights, widths) if has_classes else None)
        return cls(classifiers, taxonomy, heads)

    @property
    def parameters(self) -> int:
        """Number of fitted parameters."""
        return sum(head.weights.size + head.bias.size for head in self.linear if head is not None)

    def shuffle(self, rng: np.random.Generator) -> LinearTree:
        """Copy the classifier and shuffle the weights of each class."""
        heads = [
            None if head is None else replace(head, weights=rng.permuted(head.weights, axis=1)) for head in self.linear
        ]
        return LinearTree(heads, self.taxonomy, self.heads)

    def predict(self, blocks: Blocks) -> LevelProbabilities:
        """Predict the probabilities of every node: a list of (n, n_nodes) arrays by level."""
        features = np.concatenate(blocks, axis=1)
        widths = [len(self.taxonomy.nodes(level)) for level in range(self.taxonomy.depth)]
        predictions = [
            np.ones((len(features), widths[level])) if head is None else head.predict(features, widths[level])
            for level, head in zip(self.levels, self.linear, strict=True)
        ]
        return self.taxonomy.sum_levels(predictions[0]) if self.heads == "tree" else predictions

    def classes(self, leaves: Int64Array) -> Int64Array:
        """Look up the class of each slice for each classifier, shape (n, n_classifiers); -1 if absent from training."""
        columns = []
        for level, head in zip(self.levels, self.linear, strict=True):
            if head is not None:
                places = np.full(len(self.taxonomy.nodes(level)), -1, dtype=np.int64)
                places[head.classes] = np.arange(len(head.classes))
                columns.append(places[self.taxonomy.ancestors[leaves, level]])
        return np.stack(columns, axis=1)

    def to_arrays(self) -> dict[str, Array]:
        """Collect all arrays by name, for saving."""
        arrays: dict[str, Array] = {}
        for level, head in zip(self.levels, self.linear, strict=True):
            if head is not None:
                arrays.update(head.to_arrays(f"level_{level}"))
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], width: int, taxonomy: Taxonomy, heads: Heads) -> Self:
        """Create a classifier from the arrays of `to_arrays`.

        Raises
        ------
        KeyError, ValueError
            If an array is missing, or they don't fit `width` features.
        """
        linear = [
            LinearHead.from_arrays(arrays, f"level_{level}") if f"level_{level}.bias" in arrays else None
            for level in _levels(taxonomy, heads)
        ]
        if any(head is not None and head.weights.shape[1] != width for head in linear) or not any(linear):
            raise ValueError(f"the classifier doesn't fit {width} features")
        return cls(linear, taxonomy, heads)


def choose_features(
    candidates: Sequence[Blocks],
    Cs: Sequence[float],
    labelled: LabelledRows,
    n_leaves: int,
    seed: int,
    progress: bool,
) -> tuple[list[dict[str, float]], int, float]:
    """Select features and regularisation by the cross-validated log loss of the leaves, with groups held out.

    Returns
    -------
    history : list of dict
        One row for each combination; empty if there is only one.
    number : int
        Index of the best candidate.
    C : float
        Best inverse regularisation.
    """
    history: list[dict[str, float]] = []
    pairs = [(number, C) for number in range(len(candidates)) for C in Cs]
    if len(pairs) == 1:
        return history, *pairs[0]
    if not group_folds(labelled.leaves, labelled.groups, seed):  # with a single group, cross-validation is impossible
        return history, 0, sorted(Cs)[len(Cs) // 2]
    with progress_bar(len(pairs), "choose", "setting", progress) as tick:
        for number, C in pairs:
            blocks = candidates[number]
            features, widths = np.concatenate(blocks, axis=1), [block.shape[1] for block in blocks]
            predictions = predict_out_of_fold(
                features, labelled.leaves, labelled.groups, C, n_leaves, seed, labelled.weights, widths
            )
            loss = track_log_loss(predictions, labelled.leaves, labelled.tracks)
            row = {"iteration": len(history), "features": features.shape[1], "C": C}
            history.append({**{name: float(value) for name, value in row.items()}, "validation_loss": loss})
            tick()
    best = min(range(len(pairs)), key=lambda place: history[place]["validation_loss"])
    return history, *pairs[best]


def predict_out_of_fold_levels(
    blocks: Blocks, labelled: LabelledRows, C: float, taxonomy: Taxonomy, heads: Heads, seed: int
) -> OutOfFoldPredictions | None:
    """Predict every slice with classifiers that were not fitted on its group; None if there are too few groups."""
    if not group_folds(labelled.leaves, labelled.groups, seed):
        return None
    features, widths = np.concatenate(blocks, axis=1), [block.shape[1] for block in blocks]
    predictions = []
    for level in _levels(taxonomy, heads):
        truth, width = taxonomy.ancestors[labelled.leaves, level], len(taxonomy.nodes(level))
        predictions.append(
            predict_out_of_fold(features, truth, labelled.groups, C, width, seed, labelled.weights, widths)
        )
    return OutOfFoldPredictions(
        taxonomy.sum_levels(predictions[0]) if heads == "tree" else predictions, labelled.leaves, labelled.tracks
    )


def _levels(taxonomy: Taxonomy, heads: Heads) -> Sequence[int]:
    return [taxonomy.depth - 1] if heads == "tree" else range(taxonomy.depth)


def read_head(folder: Path, width: int | None, taxonomy: Taxonomy, heads: Heads) -> tuple[LinearTree, bool]:
    """Load a classifier, and whether its features include image statistics.

    Parameters
    ----------
    folder : Path
        Folder of the bundle.
    width : int, optional
        Number of the network's features, if known.
    taxonomy : Taxonomy
    heads : "tree" or "independent"

    Raises
    ------
    BundleError
        If the file can't be read or doesn't fit.
    """
    path = folder / HEAD_FILE
    try:
        arrays = load_file(path)
        require_finite(path, arrays)
        statistics = bool(arrays["statistics"][0])
        if width is None:
            width = next(value.shape[1] for name, value in arrays.items() if name.endswith(".weights"))
        else:
            width += STATISTICS * statistics
        return LinearTree.from_arrays(arrays, width, taxonomy, heads), statistics
    except (OSError, SafetensorError, KeyError, IndexError, ValueError, StopIteration) as error:
        raise BundleError(f"{path}: can't be read ({error}); copy or train the bundle again") from error


def write_head(folder: Path, linear: LinearTree, statistics: bool) -> list[str]:
    """Write a classifier for `read_head`, and return the file names."""
    save_file({"statistics": np.array([statistics]), **linear.to_arrays()}, folder / HEAD_FILE)
    return [HEAD_FILE]
