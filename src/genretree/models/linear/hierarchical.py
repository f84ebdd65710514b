"""Linear classifiers of a tree on features of frozen networks: which features and how strong, chosen over groups."""

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
from genretree.models.linear.logistic import LinearHead, fit_linear, group_folds, out_of_fold, track_log_loss
from genretree.progress import progress_bar
from genretree.settings import Heads
from genretree.taxonomy import Taxonomy

HEAD_FILE = "head.safetensors"
Blocks = Sequence[Float32Array]  # kinds of features of the same slices, each (n, width), that shall weigh the same


@dataclass(frozen=True)
class LabelledRows:
    """Labelled slices: leaf, track, group and weight of each, arrays of shape (n,)."""

    leaves: Int64Array
    tracks: Int64Array
    groups: Int64Array
    weights: Float64Array

    @classmethod
    def of(cls, parts: Sequence[SliceDataset], class_weight_power: float = 0.0) -> Self:
        """Take the slices of several parts, weighed so that every track counts the same, whatever its length.

        Raises
        ------
        TrainingError
            If they are all of one leaf.
        """
        leaves, tracks, groups = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("leaves", "tracks", "groups")
        )
        if len(np.unique(leaves)) < 2:
            raise TrainingError("all slices to train on have one and the same genre; check the split")
        weights = compute_class_weights(leaves, class_weight_power) / np.bincount(tracks)[tracks]
        return cls(leaves, tracks, groups, weights / weights.mean())

    def first(self, n: int) -> Self:
        """Keep the first so many."""
        return type(self)(self.leaves[:n], self.tracks[:n], self.groups[:n], self.weights[:n])


class LinearTree:
    """A linear classifier of the leaves (`heads="tree"`), or one for each level.

    Parameters
    ----------
    linear : sequence of LinearHead or None
        None for a level with nothing to tell apart.
    taxonomy : Taxonomy
    heads : "tree" or "independent"
    """

    def __init__(self, linear: Sequence[LinearHead | None], taxonomy: Taxonomy, heads: Heads) -> None:
        self.linear = list(linear)
        self.taxonomy = taxonomy
        self.heads = heads
        self.levels = _levels(taxonomy, heads)

    @classmethod
    def fit(cls, blocks: Blocks, known: LabelledRows, C: float, taxonomy: Taxonomy, heads: Heads) -> Self:
        """Fit all classifiers with an inverse regularisation of `C`."""
        features, widths = np.concatenate(blocks, axis=1), [block.shape[1] for block in blocks]
        found: list[LinearHead | None] = []
        for level in _levels(taxonomy, heads):
            truth = taxonomy.ancestors[known.leaves, level]
            several = len(np.unique(truth)) > 1
            found.append(fit_linear(features, truth, C, known.weights, widths) if several else None)
        return cls(found, taxonomy, heads)

    @property
    def parameters(self) -> int:
        """How many numbers were learned."""
        return sum(head.weights.size + head.bias.size for head in self.linear if head is not None)

    def shuffle(self, rng: np.random.Generator) -> LinearTree:
        """Copy the classifier with the weights of each class shuffled."""
        heads = [
            None if head is None else replace(head, weights=rng.permuted(head.weights, axis=1)) for head in self.linear
        ]
        return LinearTree(heads, self.taxonomy, self.heads)

    def predict(self, blocks: Blocks) -> LevelProbabilities:
        """Give the probabilities of every node: a list of (n, n_nodes) arrays by level."""
        features = np.concatenate(blocks, axis=1)
        widths = [len(self.taxonomy.nodes(level)) for level in range(self.taxonomy.depth)]
        found = [
            np.ones((len(features), widths[level])) if head is None else head.predict(features, widths[level])
            for level, head in zip(self.levels, self.linear, strict=True)
        ]
        return self.taxonomy.sum_levels(found[0]) if self.heads == "tree" else found

    def classes(self, leaves: Int64Array) -> Int64Array:
        """Give the class of each slice for each classifier, shape (n, classifiers); -1 for those it never saw."""
        columns = []
        for level, head in zip(self.levels, self.linear, strict=True):
            if head is not None:
                places = np.full(len(self.taxonomy.nodes(level)), -1, dtype=np.int64)
                places[head.classes] = np.arange(len(head.classes))
                columns.append(places[self.taxonomy.ancestors[leaves, level]])
        return np.stack(columns, axis=1)

    def to_arrays(self) -> dict[str, Array]:
        """Give all arrays by name, to be stored."""
        arrays: dict[str, Array] = {}
        for level, head in zip(self.levels, self.linear, strict=True):
            if head is not None:
                arrays.update(head.to_arrays(f"level_{level}"))
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], width: int, taxonomy: Taxonomy, heads: Heads) -> Self:
        """Take the arrays of `to_arrays`. Raises KeyError or ValueError if they are not for `width` features."""
        linear = [
            LinearHead.from_arrays(arrays, f"level_{level}") if f"level_{level}.bias" in arrays else None
            for level in _levels(taxonomy, heads)
        ]
        if any(head is not None and head.weights.shape[1] != width for head in linear) or not any(linear):
            raise ValueError("the classifier is of another shape")
        return cls(linear, taxonomy, heads)


def choose_features(
    candidates: Sequence[Blocks],
    Cs: Sequence[float],
    known: LabelledRows,
    n_leaves: int,
    seed: int,
    progress: bool,
) -> tuple[list[dict[str, float]], int, float]:
    """Choose features and strength by the log loss of the leaf on groups left out.

    Returns
    -------
    history : list of dict
        A row for each pair that was tried; none if there was nothing to choose.
    number : int
        Which of the candidates.
    C : float
    """
    history: list[dict[str, float]] = []
    pairs = [(number, C) for number in range(len(candidates)) for C in Cs]
    if len(pairs) == 1:
        return history, *pairs[0]
    if not group_folds(known.leaves, known.groups, seed):  # a single group tells nothing: the middle of each
        return history, 0, sorted(Cs)[len(Cs) // 2]
    with progress_bar(len(pairs), "choose", "setting", progress) as tick:
        for number, C in pairs:
            blocks = candidates[number]
            features, widths = np.concatenate(blocks, axis=1), [block.shape[1] for block in blocks]
            found = out_of_fold(features, known.leaves, known.groups, C, n_leaves, seed, known.weights, widths)
            loss = track_log_loss(found, known.leaves, known.tracks)
            row = {"iteration": len(history), "features": features.shape[1], "strength": C}
            history.append({**{name: float(value) for name, value in row.items()}, "validation_loss": loss})
            tick()
    best = min(range(len(pairs)), key=lambda place: history[place]["validation_loss"])
    return history, *pairs[best]


def hold_out(
    blocks: Blocks, known: LabelledRows, C: float, taxonomy: Taxonomy, heads: Heads, seed: int
) -> OutOfFoldPredictions | None:
    """Score every slice by classifiers like the one fitted on all, but that saw nothing of its group.

    None where there are too few groups for that.
    """
    if not group_folds(known.leaves, known.groups, seed):
        return None
    features, widths = np.concatenate(blocks, axis=1), [block.shape[1] for block in blocks]
    found = []
    for level in _levels(taxonomy, heads):
        truth, width = taxonomy.ancestors[known.leaves, level], len(taxonomy.nodes(level))
        found.append(out_of_fold(features, truth, known.groups, C, width, seed, known.weights, widths))
    return OutOfFoldPredictions(taxonomy.sum_levels(found[0]) if heads == "tree" else found, known.leaves, known.tracks)


def _levels(taxonomy: Taxonomy, heads: Heads) -> Sequence[int]:
    return [taxonomy.depth - 1] if heads == "tree" else range(taxonomy.depth)


def read_head(folder: Path, width: int | None, taxonomy: Taxonomy, heads: Heads) -> tuple[LinearTree, bool]:
    """Read the classifier on a network's features of `width`, None if that isn't known, and whether it sees statistics.

    Raises
    ------
    BundleError
        If it can't be read, or is for something else.
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
    """Write what `read_head` reads; gives the names of the files."""
    save_file({"statistics": np.array([statistics]), **linear.to_arrays()}, folder / HEAD_FILE)
    return [HEAD_FILE]
