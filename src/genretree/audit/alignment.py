"""Alignment of slices and tracks: the best time shift, and the correlation of the aligned images."""

from __future__ import annotations

import numpy as np

from genretree.arrays import Float32Array, UInt8Array
from genretree.audit.fingerprints import reduce_rows

_ROWS = (64, 84)  # of mel and CQT
_MEAN_SHARE = 0.13  # share of a slice for moving means: 1.5 s of 11.4
_MIN_ENERGY = 0.1  # of a window, relative to the mean of the slice; windows below it are not compared


def detail(images: UInt8Array) -> Float32Array:
    """Compute the details of slices for comparison.

    Subtracts moving means over 1.5 s and the mean of each column, so that fades, timbre and a common beat, which many
    recordings share, do not count.

    Parameters
    ----------
    images : uint8 array, shape (n, 3, size, size)

    Returns
    -------
    float32 array, shape (n, rows, size)
        Mel above CQT.
    """
    from scipy.ndimage import uniform_filter1d

    parts = []
    window = max(3, round(images.shape[-1] * _MEAN_SHARE))
    for number, rows in enumerate(_ROWS):
        reduced = reduce_rows(images[:, number], rows)
        residual = reduced - uniform_filter1d(reduced, window, axis=2, mode="nearest")
        residual -= residual.mean(axis=1, keepdims=True)
        parts.append(residual / np.maximum(residual.std(axis=(1, 2), keepdims=True), np.float32(1)))
    return np.concatenate(parts, axis=1)


def best_shift(one: Float32Array, other: Float32Array, max_shift: int) -> tuple[float, int]:
    """Find the time shift with the highest correlation of two slices.

    Parameters
    ----------
    one, other : float32 arrays, shape (rows, columns)
    max_shift : int
        Maximum shift in columns, in either direction.

    Returns
    -------
    correlation : float
        Highest correlation over the overlapping columns.
    shift : int
        Column 0 of `other` aligns with column `shift` of `one`.
    """
    columns = one.shape[1]
    length = 2 * columns
    spectra = [np.fft.rfft(item, length, axis=1) for item in (one, other)]
    products = np.fft.irfft((spectra[0] * spectra[1].conj()).sum(axis=0), length)
    energies = [np.append(0, np.cumsum((item**2).sum(axis=0, dtype=np.float64))) for item in (one, other)]
    shifts = np.arange(-max_shift, max_shift + 1)
    low, high = np.maximum(shifts, 0), np.minimum(columns + shifts, columns)
    first = energies[0][high] - energies[0][low]
    second = energies[1][high - shifts] - energies[1][low - shifts]
    correlations = products[shifts % length] / np.sqrt(np.maximum(first * second, 1e-12))
    best = int(correlations.argmax())
    return float(correlations[best]), int(shifts[best])


def agreement(one: Float32Array, other: Float32Array, shift: int, window: int) -> Float32Array:
    """Correlate two aligned tracks, window by window.

    Parameters
    ----------
    one, other : float32 arrays, shape (rows, columns)
    shift : int
        Column 0 of `other` aligns with column `shift` of `one`.
    window : int
        Columns per window.

    Returns
    -------
    float32 array, shape (n_windows,)
        Correlation of each window of the overlap; NaN for windows with too little energy in either track. Empty if the
        overlap is shorter than a window.
    """
    low, high = max(shift, 0), min(one.shape[1], other.shape[1] + shift)
    count = max(0, high - low) // window
    low += (max(0, high - low) - count * window) // 2
    high = low + count * window
    first = one[:, low:high].reshape(len(one), count, window)
    second = other[:, low - shift : high - shift].reshape(len(other), count, window)
    products = (first * second).sum(axis=(0, 2))
    energies = [(item**2).sum(axis=(0, 2)) for item in (first, second)]
    audible = np.minimum(*energies) > _MIN_ENERGY * len(one) * window
    correlations = np.full(count, np.nan, np.float32)
    correlations[audible] = products[audible] / np.sqrt(energies[0][audible] * energies[1][audible])
    return correlations


def similarity_score(one: Float32Array, other: Float32Array, max_shift: int) -> tuple[float, int]:
    """Compute the similarity of two slices at their best shift.

    Parameters
    ----------
    one, other : float32 arrays, shape (rows, columns)
    max_shift : int
        Maximum shift in columns, in either direction.

    Returns
    -------
    correlation : float
        Median over fifths of the overlap, so that one loud moment in common is not sufficient; 0 if fewer than three
        fifths can be compared.
    shift : int
        Column 0 of `other` aligns with column `shift` of `one`.
    """
    _, shift = best_shift(one, other, max_shift)
    fifths = agreement(one, other, shift, (one.shape[1] - abs(shift)) // 5)
    fifths = fifths[~np.isnan(fifths)]
    return (float(np.median(fifths)) if len(fifths) >= 3 else 0.0), shift
