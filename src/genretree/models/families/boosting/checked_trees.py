"""Boosted trees as plain arrays, every index of which is checked before use.

scikit-learn evaluates its trees in compiled code without checks: an index outside a tree reads foreign memory, and a
child that points back to its parent causes an endless loop. Trees from files are therefore checked first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from genretree.errors import BundleError

_MAX_NODES = 50_000_000
_MAX_TREE_DEPTH = 512  # scikit-learn's default of 31 leaves allows 30
# Name in scikit-learn's record and stored type of each field of a node.
_FIELDS: dict[str, tuple[str, type[np.generic]]] = {
    "value": ("value", np.float64),
    "feature": ("feature_idx", np.int64),
    "threshold": ("num_threshold", np.float64),
    "missing_left": ("missing_go_to_left", np.uint8),
    "left": ("left", np.uint32),
    "right": ("right", np.uint32),
    "leaf": ("is_leaf", np.uint8),
}
_ARRAYS: dict[str, type[np.generic]] = {
    "classes": np.int64,
    "baseline": np.float64,
    "n_features": np.int64,
    "starts": np.int64,
    **{name: dtype for name, (_, dtype) in _FIELDS.items()},
}

Arrays = Mapping[str, NDArray[Any]]


class CheckedTrees:
    """The trees of a gradient boosting classifier.

    Predictions equal those of the scikit-learn HistGradientBoostingClassifier that the trees are from.

    Parameters
    ----------
    arrays : mapping of str to array
        ``classes``: int64, shape (n_classes,), increasing. ``baseline``: float64, shape (n_scores,), where n_scores is
        1 for two classes and n_classes for more. ``n_features``: int64, shape (1,). ``starts``: int64, shape
        (n_trees + 1,), the first node of each tree, in the order of growth with n_scores trees for each iteration. And
        with one entry for each node, shape (n_nodes,): ``value`` (of leaves), ``feature``, ``threshold``,
        ``missing_left``, ``left`` and ``right`` (indices within the tree, after the node itself), ``leaf``.

    Raises
    ------
    ValueError
        If an array or value is invalid.
    """

    def __init__(self, arrays: Arrays) -> None:
        _check_arrays(arrays)
        self.arrays = _clear_unused(arrays)
        self.classes_ = arrays["classes"]
        self.n_features = int(arrays["n_features"][0])
        self._predictors = list(self._make_predictors())

    def predict_proba(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Predict the probabilities of the classes, shape (n, n_classes), for features of shape (n, n_features).

        Raises
        ------
        BundleError
            If the number of features differs from that in training.
        """
        from sklearn._loss.loss import HalfBinomialLoss, HalfMultinomialLoss
        from sklearn.utils._openmp_helpers import _openmp_effective_n_threads

        if features.shape[1] != self.n_features:
            raise BundleError(f"expected {self.n_features} features, got {features.shape[1]}; train the bundle again")
        width, threads = len(self.arrays["baseline"]), _openmp_effective_n_threads()
        values = np.ascontiguousarray(features, dtype=np.float64)
        known = np.zeros((0, 8), dtype=np.uint32)  # there are no categorical features
        places = np.zeros(0, dtype=np.uint32)
        scores = np.zeros((len(values), width), order="F")
        scores += self.arrays["baseline"]
        for number, predictor in enumerate(self._predictors):
            scores[:, number % width] += predictor.predict(values, known, places, threads)
        if width == 1:
            probabilities: NDArray[np.float64] = HalfBinomialLoss().predict_proba(scores)
            return probabilities
        found: NDArray[np.float64] = HalfMultinomialLoss(n_classes=width).predict_proba(scores)
        return found

    def _make_predictors(self) -> Iterator[Any]:
        """Create scikit-learn's predictor for each tree."""
        from sklearn.ensemble._hist_gradient_boosting.common import PREDICTOR_RECORD_DTYPE
        from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor

        nodes = np.zeros(len(self.arrays["value"]), dtype=PREDICTOR_RECORD_DTYPE)
        for name, (field, _) in _FIELDS.items():
            nodes[field] = self.arrays[name]
        nothing = np.zeros((0, 8), dtype=np.uint32)
        starts = self.arrays["starts"]
        for start, stop in pairwise(starts):
            yield TreePredictor(nodes[start:stop], nothing, nothing)

    def save(self, path: Path) -> None:
        """Write the arrays as safetensors."""
        save_file({name: np.ascontiguousarray(value) for name, value in self.arrays.items()}, path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Load and check what `save` wrote.

        Raises
        ------
        BundleError
            If the file can't be read, or a value is invalid.
        """
        try:
            return cls(load_file(path))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise BundleError(f"{path}: can't be read ({error}); copy or train the bundle again") from error

    @classmethod
    def from_classifier(cls, classifier: Any) -> Self:
        """Copy the trees of a fitted HistGradientBoostingClassifier.

        Raises
        ------
        ValueError, TypeError, AttributeError, KeyError
            If the object is of another type, or a value is invalid.
        """
        baseline = _as_array(classifier._baseline_prediction, np.float64).ravel()
        iterations: Sequence[Sequence[Any]] = classifier._predictors
        if any(len(iteration) != len(baseline) for iteration in iterations):
            raise ValueError(f"an iteration doesn't have {len(baseline)} trees")
        trees = [tree.nodes for iteration in iterations for tree in iteration]
        for nodes in trees:
            if not isinstance(nodes, np.ndarray) or nodes.ndim != 1 or nodes.dtype.names is None:
                raise ValueError("a tree is not a list of nodes")
            if nodes["is_categorical"].any():
                raise ValueError("a node splits by categories, which is not supported")
        if not trees:
            raise ValueError("there are no trees")
        arrays = {
            name: np.concatenate([_as_array(nodes[field], dtype) for nodes in trees])
            for name, (field, dtype) in _FIELDS.items()
        }
        arrays["starts"] = np.cumsum([0, *(len(nodes) for nodes in trees)], dtype=np.int64)
        arrays["classes"] = _as_array(classifier.classes_, np.int64)
        arrays["baseline"] = baseline
        arrays["n_features"] = np.array([classifier.n_features_in_], dtype=np.int64)
        return cls(arrays)


def _as_array(values: Any, dtype: type[np.generic]) -> NDArray[Any]:
    """Convert an array to another type, without changing any value. Raises ValueError."""
    found = np.asarray(values)
    if found.dtype.kind not in "iuf":
        raise ValueError(f"the values are of type {found.dtype}")
    changed = found.astype(dtype)
    if not np.array_equal(changed, found, equal_nan=found.dtype.kind == "f"):
        raise ValueError(f"the values don't fit the type {np.dtype(dtype)}")
    return changed


def _check_arrays(arrays: Arrays) -> None:
    """Check arrays against the description in `CheckedTrees`. Raises ValueError."""
    if set(arrays) != set(_ARRAYS):
        raise ValueError(f"arrays missing or unknown: {', '.join(sorted(set(arrays) ^ set(_ARRAYS)))}")
    for name, dtype in _ARRAYS.items():
        if arrays[name].dtype != dtype or arrays[name].ndim != 1:
            raise ValueError(f"'{name}' is {arrays[name].dtype} in {arrays[name].ndim} dimensions")
    classes, baseline, starts = arrays["classes"], arrays["baseline"], arrays["starts"]
    n_nodes, width = len(arrays["value"]), 1 if len(classes) == 2 else len(classes)
    if len(classes) < 2 or classes[0] < 0 or (classes[1:] <= classes[:-1]).any():
        raise ValueError("the classes are not increasing from 0")
    if len(baseline) != width:
        raise ValueError(f"{len(baseline)} baselines for {len(classes)} classes")
    if not np.isfinite(baseline).all():
        raise ValueError("a baseline contains NaN or infinity")
    if len(arrays["n_features"]) != 1 or not 1 <= arrays["n_features"][0] < 2**31:
        raise ValueError("the number of features is invalid")
    if any(len(arrays[name]) != n_nodes for name in _FIELDS):
        raise ValueError("the fields of the nodes differ in length")
    if len(starts) < 1 + width or (len(starts) - 1) % width:
        raise ValueError(f"{len(starts) - 1} trees for {width} scores")
    if starts[0] != 0 or starts[-1] != n_nodes or (starts[1:] <= starts[:-1]).any():
        raise ValueError("the starts of the trees are invalid")
    _check_nodes(arrays, n_nodes)


def _check_nodes(arrays: Arrays, n_nodes: int) -> None:
    """Check that the nodes form trees. Raises ValueError."""
    starts, leaf = arrays["starts"], arrays["leaf"]
    for name in ("leaf", "missing_left"):
        if (arrays[name] > 1).any():
            raise ValueError(f"'{name}' of a node is neither 0 nor 1")
    sizes = np.diff(starts)
    inner = leaf == 0
    first = np.repeat(starts[:-1], sizes)[inner]  # of the inner node's tree
    own = np.flatnonzero(inner) - first
    size = np.repeat(sizes, sizes)[inner]
    parents = np.zeros(n_nodes, dtype=np.int64)
    for side in ("left", "right"):
        children = arrays[side][inner].astype(np.int64)
        if (children >= size).any():
            raise ValueError(f"the {side} child of a node is outside its tree")
        if (children <= own).any():
            raise ValueError(f"the {side} child of a node does not come after it: a cycle")
        parents += np.bincount(first + children, minlength=n_nodes)
    expected = np.ones(n_nodes, dtype=np.int64)
    expected[starts[:-1]] = 0
    if (parents != expected).any():
        raise ValueError("a node has no parent or several")
    features = arrays["feature"][inner]
    if ((features < 0) | (features >= arrays["n_features"][0])).any():
        raise ValueError(f"a node refers to a feature outside the {arrays['n_features'][0]} features")
    thresholds = arrays["threshold"][inner]
    if (
        np.isnan(thresholds) | np.isneginf(thresholds)
    ).any():  # +inf is valid: scikit-learn splits off missing values with it
        raise ValueError("a threshold contains NaN or infinity")
    if not np.isfinite(arrays["value"][~inner]).all():
        raise ValueError("a leaf contains NaN or infinity")
    _check_depth(arrays)


def _check_depth(arrays: Arrays) -> None:
    """Check the size and depth of the trees. Raises ValueError."""
    starts, leaf = arrays["starts"], arrays["leaf"]
    if len(leaf) > _MAX_NODES:
        raise ValueError(f"{len(leaf):,} nodes, more than {_MAX_NODES:,}")
    first = level = starts[:-1]
    for _ in range(_MAX_TREE_DEPTH):
        inner = leaf[level] == 0
        first, level = first[inner], level[inner]
        if not len(level):
            return
        children = [first + arrays[side][level].astype(np.int64) for side in ("left", "right")]
        first, level = np.concatenate([first, first]), np.concatenate(children)
    raise ValueError(f"a tree is more than {_MAX_TREE_DEPTH} levels deep")


def _clear_unused(arrays: Arrays) -> dict[str, NDArray[Any]]:
    """Set fields that predictions don't read to zero: the split of leaves, and the value of inner nodes."""
    leaf = arrays["leaf"] == 1
    cleared = dict(arrays)
    for name in _FIELDS:
        if name != "leaf":
            unused = ~leaf if name == "value" else leaf
            cleared[name] = np.where(unused, arrays[name].dtype.type(0), arrays[name])
    return cleared
