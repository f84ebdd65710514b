"""A linear classifier for few examples with many features, its strength chosen by cross-validation over groups."""

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


Regularisations = Annotated[tuple[float, ...], AfterValidator(_positive)]  # inverse regularisations, as a setting
_FOLDS = 5
_USUAL_WIDTH = 200  # features of a block that is scaled to a spread of 1
_MOST_ITERATIONS = 500


@dataclass(frozen=True)
class LinearHead:
    """Standardisation and multinomial logistic regression.

    Parameters
    ----------
    mean, scale : float32 arrays, shape (n_features,)
    weights : float32 array, shape (n_classes, n_features)
    bias : float32 array, shape (n_classes,)
    classes : int64 array, shape (n_classes,)
        Those that occurred in training.
    """

    mean: Float32Array
    scale: Float32Array
    weights: Float32Array
    bias: Float32Array
    classes: Int64Array

    def predict(self, features: Float32Array, width: int) -> Float64Array:
        """Give probabilities of `width` classes, shape (n, width); classes never seen in training get 0."""
        from scipy.special import softmax

        scores = ((features - self.mean) / self.scale) @ self.weights.T + self.bias
        probabilities = np.zeros((len(features), width))
        probabilities[:, self.classes] = softmax(scores.astype(np.float64), axis=1)
        return probabilities

    def to_arrays(self, prefix: str) -> dict[str, NDArray[np.generic]]:
        """Give all arrays by name, to be stored."""
        names = ("mean", "scale", "weights", "bias", "classes")
        return {f"{prefix}.{name}": np.ascontiguousarray(getattr(self, name)) for name in names}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]], prefix: str) -> Self:
        """Take the arrays of `to_arrays`. Raises KeyError if one is missing."""
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
        Class numbers, at least two different ones.
    C : float
        Inverse of the regularisation (scikit-learn's `C`).
    weights : array, shape (n,), optional
        Of the examples.
    widths : sequence of int, optional
        Widths of blocks of features, side by side, that shall weigh the same however many features they have.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    scaler = StandardScaler().fit(features)
    if widths is not None:
        scaler.scale_ = scaler.scale_ * np.sqrt(np.repeat(widths, widths) / _USUAL_WIDTH)
    model = LogisticRegression(C=C, max_iter=_MOST_ITERATIONS, tol=1e-3)
    # The products are small: threads that share one wait for each other longer than they work.
    with threadpool_limits(1):
        model.fit(scaler.transform(features), truth, sample_weight=weights)
    coefficients, bias = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # scikit-learn keeps one row, the log odds of the second class
        coefficients, bias = np.vstack([-coefficients / 2, coefficients / 2]), np.concatenate([-bias / 2, bias / 2])
    parts = (scaler.mean_, scaler.scale_, coefficients, bias)
    mean, scale, coefficients, bias = (np.asarray(part, np.float32) for part in parts)
    return LinearHead(mean, scale, coefficients, bias, np.asarray(model.classes_, np.int64))


def out_of_fold(
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
    """Predict each example by a classifier that saw nothing of its group: shape (n, width). `tick`: after each fold."""
    found = np.full((len(truth), width), 1 / width)
    for learn, check in group_folds(truth, groups, seed):
        if len(np.unique(truth[learn])) > 1:
            chosen = None if weights is None else weights[learn]
            head = fit_linear(features[learn], truth[learn], C, chosen, widths)
            found[check] = head.predict(features[check], width)
        if tick is not None:
            tick()
    return found


def group_folds(
    truth: Int64Array, groups: Int64Array, seed: int = 0, most: int = _FOLDS
) -> Sequence[tuple[Int64Array, Int64Array]]:
    """Cut examples into at most so many folds, no group on both sides, classes spread evenly; none for one group."""
    from sklearn.model_selection import StratifiedGroupKFold

    folds = min(most, len(np.unique(groups)), int(np.bincount(truth).max(initial=0)))
    if folds < 2:
        return []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")  # then some folds go without it
        return list(StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(truth, truth, groups))


def track_log_loss(probabilities: Float64Array, truth: Int64Array, tracks: Int64Array) -> float:
    """Mean over tracks of minus the log of the true class's probability, averaged over the track's slices."""
    position = np.unique(tracks, return_inverse=True)[1]
    true = probabilities[np.arange(len(truth)), truth]
    mean = np.bincount(position, weights=true) / np.bincount(position)
    return float(-np.log(np.maximum(mean, 1e-9)).mean())
