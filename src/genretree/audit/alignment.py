"""The strict comparison: how far two stretches of images agree, column by column, when laid on each other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from genretree.audit.looks import centre, reduce_rows

Floats = NDArray[np.float32]

_ROWS = (64, 84)  # of mel and CQT


def detail(images: NDArray[np.uint8]) -> Floats:
    """Give slices, uint8 (n, 3, size, size), in the detail that is compared: float32 (n, rows, size)."""
    parts = [centre(reduce_rows(images[:, number], rows)) for number, rows in enumerate(_ROWS)]
    return np.concatenate(parts, axis=1)


def best_shift(one: Floats, other: Floats, most: int) -> tuple[float, int]:
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


def agreement(one: Floats, other: Floats, shift: int, window: int) -> Floats:
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
        The correlation of each window of the overlap; empty if that is shorter than a window.
    """
    low, high = max(shift, 0), min(one.shape[1], other.shape[1] + shift)
    count = max(0, high - low) // window
    low += (max(0, high - low) - count * window) // 2
    high = low + count * window
    first = one[:, low:high].reshape(len(one), count, window)
    second = other[:, low - shift : high - shift].reshape(len(other), count, window)
    products = (first * second).sum(axis=(0, 2))
    energy = (first**2).sum(axis=(0, 2)) * (second**2).sum(axis=(0, 2))
    found: Floats = products / np.sqrt(np.maximum(energy, 1e-9))
    return found
