"""The strict comparison: how far two stretches of images agree, column by column, when laid on each other."""

from __future__ import annotations

import numpy as np

from genretree.arrays import Float32Array, UInt8Array
from genretree.audit.fingerprints import reduce_rows

_ROWS = (64, 84)  # of mel and CQT
_AROUND = 0.13  # share of a slice over which means are taken: 1.5 s of 11.4
_FLAT = 0.1  # energy of a window, of a slice's average, below which there is nothing in it to compare


def detail(images: UInt8Array) -> Float32Array:
    """Give slices in the detail that is compared.

    Means over a second and a half and over each moment's rows are taken out: fading in or out, timbre and a common
    beat, which many recordings share, count for nothing.

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
    around = max(3, round(images.shape[-1] * _AROUND))
    for number, rows in enumerate(_ROWS):
        reduced = reduce_rows(images[:, number], rows)
        moving = reduced - uniform_filter1d(reduced, around, axis=2, mode="nearest")
        moving -= moving.mean(axis=1, keepdims=True)
        parts.append(moving / np.maximum(moving.std(axis=(1, 2), keepdims=True), np.float32(1)))
    return np.concatenate(parts, axis=1)


def best_shift(one: Float32Array, other: Float32Array, most: int) -> tuple[float, int]:
    """Slide one slice along another.

    Parameters
    ----------
    one, other : float32 arrays, shape (rows, columns)
    most : int
        Columns to slide by at most, either way.

    Returns
    -------
    correlation : float
        The highest, over the columns that then overlap.
    shift : int
        Column 0 of `other` lies on column `shift` of `one`.
    """
    columns = one.shape[1]
    length = 2 * columns
    spectra = [np.fft.rfft(item, length, axis=1) for item in (one, other)]
    products = np.fft.irfft((spectra[0] * spectra[1].conj()).sum(axis=0), length)
    energies = [np.append(0, np.cumsum((item**2).sum(axis=0, dtype=np.float64))) for item in (one, other)]
    shifts = np.arange(-most, most + 1)
    low, high = np.maximum(shifts, 0), np.minimum(columns + shifts, columns)
    first = energies[0][high] - energies[0][low]
    second = energies[1][high - shifts] - energies[1][low - shifts]
    correlations = products[shifts % length] / np.sqrt(np.maximum(first * second, 1e-12))
    best = int(correlations.argmax())
    return float(correlations[best]), int(shifts[best])


def agreement(one: Float32Array, other: Float32Array, shift: int, window: int) -> Float32Array:
    """Correlate two tracks laid on each other, window by window.

    Parameters
    ----------
    one, other : float32 arrays, shape (rows, columns)
    shift : int
        Column 0 of `other` lies on column `shift` of `one`.
    window : int
        Columns in a window.

    Returns
    -------
    float32 array, shape (n_windows,)
        The correlation of each window of the overlap, NaN where hardly anything sounds in one of the two; empty if the
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
    audible = np.minimum(*energies) > _FLAT * len(one) * window
    found = np.full(count, np.nan, np.float32)
    found[audible] = products[audible] / np.sqrt(energies[0][audible] * energies[1][audible])
    return found


def similarity_score(one: Float32Array, other: Float32Array, most: int) -> tuple[float, int]:
    """Say how alike two slices are, and at which shift.

    Parameters
    ----------
    one, other : float32 arrays, shape (rows, columns)
    most : int
        Columns to slide by at most, either way.

    Returns
    -------
    correlation : float
        Median of the fifths of the overlap, so that one loud moment in common is not enough; 0 where fewer than three
        fifths can be compared.
    shift : int
        Column 0 of `other` lies on column `shift` of `one`.
    """
    _, shift = best_shift(one, other, most)
    fifths = agreement(one, other, shift, (one.shape[1] - abs(shift)) // 5)
    fifths = fifths[~np.isnan(fifths)]
    return (float(np.median(fifths)) if len(fifths) >= 3 else 0.0), shift
