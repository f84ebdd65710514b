"""Statistics of a slice's images: how mel, CQT and chroma are spread over frequency and move in time.

The features that music information retrieval has long told genres by (Tzanetakis and Cook 2002; for the contrast of
octave bands Jiang et al. 2002), read off the stored images instead of the sound: so they serve where there are only
images, too.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_BANDS = (32, 28, 12)  # of mel, CQT and chroma
_CEPSTRUM = 20
_OCTAVES = 8
_PEAKS = 5  # rows of an octave band that count as its peaks, and as its valleys
_RHYTHM = (64, 4)  # lowest modulations, and how many are averaged


def image_statistics(images: NDArray[np.uint8]) -> Floats:
    """Describe slices by their images.

    Parameters
    ----------
    images : uint8 array, shape (n, 3, size, size)

    Returns
    -------
    float32 array, shape (n, 520)
        For each image: mean, spread, mean step in time, and 10th and 90th percentile of each band, and its modulation
        spectrum; for mel also the cepstrum's and the contrast's, for chroma the sorted classes'.
    """
    described = [_describe(np.asarray(piece, np.float32) / np.float32(255)) for piece in images]
    return np.stack(described) if described else np.zeros((0, STATISTICS), np.float32)


def _describe(piece: Floats) -> Floats:
    parts: list[Floats] = []
    for number, bands in enumerate(_BANDS):
        rows = np.stack([part.mean(axis=0) for part in np.array_split(piece[number], bands)])
        parts += _spread(rows)
        parts.append(_rhythm(rows))
        if number == 0:
            parts += [*_cepstrum(rows), *_contrast(piece[0])]
        if number == 2:
            highest = np.sort(rows, axis=0)[::-1]
            parts += [np.sort(rows.mean(axis=1))[::-1], np.sort(rows.std(axis=1))[::-1], highest.mean(axis=1)]
    return np.concatenate(parts).astype(np.float32)


def _spread(rows: Floats) -> list[Floats]:
    steps = np.abs(np.diff(rows, axis=1))
    low, high = np.percentile(rows, [10, 90], axis=1)
    return [rows.mean(axis=1), rows.std(axis=1), steps.mean(axis=1), low, high]


def _rhythm(rows: Floats) -> Floats:
    """How strongly the bands rise and fall how often in the slice, in a logarithmic measure."""
    most, together = _RHYTHM
    moving = np.abs(np.fft.rfft(rows - rows.mean(axis=1, keepdims=True), axis=1)).mean(axis=0)
    lowest = np.zeros(most)
    lowest[: len(moving) - 1] = moving[1 : most + 1]
    spectrum: Floats = np.log(lowest.reshape(-1, together).mean(axis=1) + 1e-3).astype(np.float32)
    return spectrum


def _cepstrum(rows: Floats) -> list[Floats]:
    from scipy.fft import dct

    coefficients = dct(rows, axis=0, norm="ortho")[:_CEPSTRUM]
    return [coefficients.mean(axis=1), coefficients.std(axis=1), np.abs(np.diff(coefficients, axis=1)).mean(axis=1)]


def _contrast(mel: Floats) -> list[Floats]:
    """How far the peaks of each band of octaves stand above its valleys."""
    found = []
    for band in np.array_split(mel, _OCTAVES):
        ordered = np.sort(band, axis=0)
        found.append(ordered[-_PEAKS:].mean(axis=0) - ordered[:_PEAKS].mean(axis=0))
    contrast = np.stack(found)
    return [contrast.mean(axis=1), contrast.std(axis=1)]


# Of each band five numbers, of each image the modulations, then cepstrum, contrast and sorted chroma.
STATISTICS = 5 * sum(_BANDS) + len(_BANDS) * _RHYTHM[0] // _RHYTHM[1] + 3 * _CEPSTRUM + 2 * _OCTAVES + 3 * _BANDS[2]
