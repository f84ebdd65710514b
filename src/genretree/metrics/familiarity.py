"""Distance of a file from the training data of a bundle, as one number.

Probabilities are calibrated on music like the training data; on other music they may be too high. The distance is a
Mahalanobis distance of the levels of 16 frequency bands and their changes (Lee et al. 2018, on the input instead of a
network's layers), divided by the distance within which 95 % of held-out training tracks lie. Above 1, probabilities
should not be believed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genretree.arrays import Array, Float64Array, Int64Array

QUANTILE = 0.95
_BANDS = 16
_MIN_TRACKS, _MIN_GROUPS = 20, 5
_FOLDS = 5
_BATCH = 256
_TIME_FIRST = ("mel_16k", "mel_32k")  # log mel spectra, shape (n, frames, bands)


def describe_inputs(inputs: Mapping[str, Array]) -> Float64Array | None:
    """Describe slices by the mean level and the deviation over time of 16 frequency bands.

    Parameters
    ----------
    inputs : mapping of str to array
        Inputs of a model: `mel` images, or a log mel spectrum.

    Returns
    -------
    float64 array, shape (n, 32), or None
        None if the inputs have no spectrum.
    """
    if "mel" in inputs:
        spectra = np.asarray(inputs["mel"])[:, ::-1]  # images have high frequencies at the top
    else:
        name = next((name for name in _TIME_FIRST if name in inputs and np.ndim(inputs[name]) == 3), None)
        if name is None:
            return None
        spectra = np.moveaxis(np.asarray(inputs[name]), 1, 2)
    parts = [part.astype(np.float32).mean(axis=1) for part in np.array_split(spectra, _BANDS, axis=1)]
    bands = np.stack(parts, axis=1)  # shape (n, _BANDS, frames)
    described: Float64Array = np.concatenate([bands.mean(axis=2), bands.std(axis=2)], axis=1).astype(float)
    return described


def fit_reference(described: Float64Array, tracks: Int64Array, groups: Int64Array) -> dict[str, Any] | None:
    """Fit the reference from which distances are measured.

    Parameters
    ----------
    described : float64 array, shape (n_slices, n_features)
    tracks, groups : int64 array, shape (n_slices,)

    Returns
    -------
    dict or None
        `mean`, `precision` and `scale`, as lists and numbers; None for fewer than 20 tracks or 5 groups.
    """
    unique, first, index = np.unique(tracks, return_index=True, return_inverse=True)
    owners = np.unique(groups[first], return_inverse=True)[1]
    if len(unique) < _MIN_TRACKS or owners.max() + 1 < _MIN_GROUPS:
        return None
    values = np.zeros((len(unique), described.shape[1]))
    np.add.at(values, index, described)
    values /= np.bincount(index)[:, None]
    held_out = np.zeros(len(unique))
    for fold in range(_FOLDS):
        test = owners % _FOLDS == fold
        held_out[test] = _distances(*_fit(values[~test]), values[test])
    mean, precision = _fit(values)
    scale = float(np.quantile(held_out, QUANTILE))
    if not np.isfinite(scale) or scale <= 0:
        return None
    return {
        "mean": [float(f"{value:.6g}") for value in mean],
        "precision": [[float(f"{value:.6g}") for value in row] for row in precision],
        "scale": scale,
    }


def measure_distance(reference: Mapping[str, Any] | None, described: Float64Array | None) -> float | None:
    """Measure the distance of a file from the training data by the mean of its slices.

    Parameters
    ----------
    reference : mapping or None
        From `fit_reference`.
    described : float64 array, shape (n_slices, n_features), or None

    Returns
    -------
    float or None
        1 is the distance within which 95 % of held-out training tracks lie; None without a reference.
    """
    if not reference or described is None or not len(described):
        return None
    try:
        mean, precision = np.array(reference["mean"], dtype=float), np.array(reference["precision"], dtype=float)
        scale = float(reference["scale"])
    except (KeyError, TypeError, ValueError):  # a bundle made by hand
        return None
    if not (np.isfinite(scale) and scale > 0 and np.isfinite(mean).all() and np.isfinite(precision).all()):
        return None
    if mean.shape != (described.shape[1],) or precision.shape != (len(mean), len(mean)):
        return None
    distance = _distances(mean, precision, described.mean(axis=0, keepdims=True))[0]
    return float(distance / scale)


def describe_in_batches(inputs_of: Any, n: int) -> Float64Array | None:
    """Describe many slices; `inputs_of(slice)` returns the inputs of some of them."""
    parts = []
    for start in range(0, n, _BATCH):
        described = describe_inputs(inputs_of(slice(start, start + _BATCH)))
        if described is None:
            return None
        parts.append(described)
    return np.concatenate(parts) if parts else None


def _fit(values: Float64Array) -> tuple[Float64Array, Float64Array]:
    from sklearn.covariance import LedoitWolf

    scale = values.std(axis=0) + 1e-6  # the shrinkage target has equal variances
    fitted = LedoitWolf().fit(values / scale)
    precision: NDArray[np.float64] = fitted.precision_ / np.outer(scale, scale)
    return values.mean(axis=0), precision


def _distances(mean: Float64Array, precision: Float64Array, values: Float64Array) -> Float64Array:
    gaps = values - mean
    distances: Float64Array = np.sqrt(np.maximum(np.einsum("ni,ij,nj->n", gaps, precision, gaps), 0))
    return distances
