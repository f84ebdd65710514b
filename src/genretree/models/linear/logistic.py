"""Multinomial logistic regression with balanced feature blocks, and its cross-validation over groups."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator

from genretree.arrays import Float32Array, Float64Array, Int64Array


def _positive(Cs: tuple[float, ...]) -> tuple[float, ...]:
    if not all(C > 0 for C in Cs):
        raise ValueError("every C must be greater than 0")
    return Cs


Regularisations = Annotated[tuple[float, ...], AfterValidator(_positive)]  # values of the setting `Cs`
_FOLDS = 5
_REFERENCE_WIDTH = 200  # a block with this number of features is scaled to unit variance
_MAX_ITERATIONS = 500


@dataclass(frozen=True)
class LinearHead:
    """Standardisation and multinomial logistic regression.

    Parameters
    ----------
    mean, scale : float32 arrays, shape (n_features,)
    weights : float32 array, shape (n_classes, n_features)
    bias : float32 array, shape (n_classes,)
    classes : int64 array, shape (n_classes,)
        Classes that occurred in training.
    """

    mean: Float32Array
    scale: Float32Array
    weights: Float32Array
    bias: Float32Array
    classes: Int64Array

    def predict(self, features: Float32Array, width: int) -> Float64Array:
        """Predict the probabilities of `width` classes, shape (n, width); classes absent from training get 0."""
        from scipy.special import softmax

        scores = ((features - self.mean) / self.scale) @ self.weights.T + self.bias
        probabilities = np.zeros((len(features), width))
        probabilities[:, self.classes] = softmax(scores.astype(np.float64), axis=1)
        return probabilities

    def to_arrays(self, prefix: str) -> dict[str, NDArray[np.generic]]:
        """Collect all arrays by name, for saving."""
        names = ("mean", "scale", "weights", "bias", "classes")
        return {f"{prefix}.{name}": np.ascontiguousarray(getattr(self, name)) for name in names}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]], prefix: str) -> Self:
        """Create a classifier from the arrays of `to_arrays`. Raises KeyError if one is missing."""
        names = ("mean", "scale", "weights", "bias", "classes")
        return cls(**{name: arrays[f"{prefix}.{name}"] for name in names})  # type: ignore[arg-type]


def fit_linear(
    features: Float32Array,
    truth: Int64Array,
    C: float,
    weights: Float64Array | None = None,
    widths: Sequence[int] | None = None,
) -> LinearHead:
    """Fit scikit-learn's LogisticRegression on standardised features.

    Parameters
    ----------
    features : array, shape (n, n_features)
    truth : array, shape (n,)
        Class indices, at least two different ones.
    C : float
        Inverse of the regularisation (scikit-learn's `C`).
    weights : array, shape (n,), optional
        Sample weights.
    widths : sequence of int, optional
        Widths of the feature blocks. Every block gets the same weight, whatever its width.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    scaler = StandardScaler().fit(features)
    if widths is not None:
        scaler.scale_ = scaler.scale_ * np.sqrt(np.repeat(widths, widths) / _REFERENCE_WIDTH)
    model = LogisticRegression(C=C, max_iter=_MAX_ITERATIONS, tol=1e-3)
    # The matrix products are too small for threads to pay off.
    with threadpool_limits(1):
        model.fit(scaler.transform(features), truth, sample_weight=weights)
    coefficients, bias = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # scikit-learn keeps one row, the log odds of the second class
        coefficients, bias = np.vstack([-coefficients / 2, coefficients / 2]), np.concatenate([-bias / 2, bias / 2])
    parts = (scaler.mean_, scaler.scale_, coefficients, bias)
    mean, scale, coefficients, bias = (np.asarray(part, np.float32) for part in parts)
    return LinearHead(mean, scale, coefficients, bias, np.asarray(model.classes_, np.int64))


def predict_out_of_fold(
    features: Float32Array,
    truth: Int64Array,
    groups: Int64Array,
    C: float,
    width: int,
    seed: int = 0,
    weights: Float64Array | None = None,
    widths: Sequence[int] | None = None,
    tick: Callable[[], None] | None = None,
) -> Float64Array:
    """Predict each sample with a classifier that was not fitted on its group: shape (n, width).

    `tick` is called after each fold. The parameters are those of `fit_linear`; `width` is the number of classes.
    """
    predictions = np.full((len(truth), width), 1 / width)
    for train_index, test_index in group_folds(truth, groups, seed):
        if len(np.unique(truth[train_index])) > 1:
            sample_weight = None if weights is None else weights[train_index]
            head = fit_linear(features[train_index], truth[train_index], C, sample_weight, widths)
            predictions[test_index] = head.predict(features[test_index], width)
        if tick is not None:
            tick()
    return predictions


def group_folds(
    truth: Int64Array, groups: Int64Array, seed: int = 0, max_folds: int = _FOLDS
) -> Sequence[tuple[Int64Array, Int64Array]]:
    """Split samples into at most `max_folds` stratified folds without common groups; empty for a single group."""
    from sklearn.model_selection import StratifiedGroupKFold

    folds = min(max_folds, len(np.unique(groups)), int(np.bincount(truth).max(initial=0)))
    if folds < 2:
        return []
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="The least populated class"
        )  # such a class is missing from some folds
        return list(StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(truth, truth, groups))


def track_log_loss(probabilities: Float64Array, truth: Int64Array, tracks: Int64Array) -> float:
    """Compute the log loss by track, after averaging the true class's probability over the slices of each track."""
    position = np.unique(tracks, return_inverse=True)[1]
    true = probabilities[np.arange(len(truth)), truth]
    mean = np.bincount(position, weights=true) / np.bincount(position)
    return float(-np.log(np.maximum(mean, 1e-9)).mean())
