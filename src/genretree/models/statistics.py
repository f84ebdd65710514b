"""Statistics of a slice's images: how mel, CQT and chroma are spread over frequency and move in time.

The features that music information retrieval has long told genres by (Tzanetakis and Cook 2002; contrast of octave
bands: Jiang et al. 2002; modulation spectra: McKinney and Breebaart 2003; covariance of the cepstrum: Mandel and Ellis
2005; medians in time and in frequency: FitzGerald 2010), read off the stored images instead of the sound: so they serve
where there are only images, too.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from genretree.models.contract import Examples
from genretree.models.kept import KeptRows

Floats = NDArray[np.float32]

_KIND = 2  # another number, other statistics: those that were kept are computed anew
_BANDS = (32, 28, 12)  # of mel, CQT and chroma
_CEPSTRUM = 20
_OCTAVES = 8
_PEAKS = 5  # rows of an octave band that count as its peaks, and as its valleys
_RHYTHM = (64, 4)  # lowest modulations, and how many are averaged
_MODULATED = (8, 7, 1)  # groups of bands of mel, CQT and chroma whose modulations are told apart
_MODULATIONS = 8  # octave-like steps from the slowest modulation to the fastest
_CEPSTRAL_MODULATIONS = 6
_FINE_BANDS = 56  # of mel and CQT, for medians
_MEDIAN = 9  # bands or pixels in time
_TEXTURES = 8
_LINES = 7  # CQT octaves in which the height of spectral lines is measured
_LINE_MEDIAN = 15 / 224  # share of an image
_SMALLEST = 1e-3


def image_statistics(images: NDArray[np.uint8]) -> Floats:
    """Describe slices by their images.

    Parameters
    ----------
    images : uint8 array, shape (n, 3, size, size)

    Returns
    -------
    float32 array, shape (n, STATISTICS)
        For each image: mean, spread, mean step in time, and 10th and 90th percentile of each band, and its modulation
        spectrum, of all bands and of groups of them; for mel also skewness, contrast, and the cepstrum's means,
        spreads, steps, correlations and modulations; for mel and CQT how far they lie from medians in time (what is
        sustained) and in frequency (what is struck); for CQT how high spectral lines stand out; for chroma the sorted
        classes and what doesn't depend on the key.
    """
    known: dict[tuple[int, bytes], Floats] = {}  # explanations ask for many slices that differ in one image only
    described = [_describe(piece, known) for piece in images]
    return np.stack(described) if described else np.zeros((0, STATISTICS), np.float32)


def statistics_of(examples: Examples, progress: bool = False) -> Floats:
    """Describe stored slices, shape (n, STATISTICS); what was described before is not described again."""
    kept = KeptRows(examples, f"statistics-{_KIND}.npy", STATISTICS)

    def describe(rows: NDArray[np.int64]) -> Floats:
        return image_statistics(np.asarray(examples.images[rows]))

    return kept.read(examples.rows, describe, "describe", progress)


def _describe(piece: NDArray[np.uint8], known: dict[tuple[int, bytes], Floats]) -> Floats:
    parts = []
    for number, image in enumerate(piece):
        key = number, image.tobytes()
        if key not in known:
            known[key] = _describe_image(number, np.asarray(image, np.float32) / np.float32(255))
        parts.append(known[key])
    return np.concatenate(parts)


def _describe_image(number: int, image: Floats) -> Floats:
    rows = _bands(image, _BANDS[number])
    parts = [*_spread(rows), _rhythm(rows), _modulations(image, _MODULATED[number], _MODULATIONS)]
    if number == 0:
        parts += [_skewness(rows), *_cepstrum(rows), *_contrast(image)]
    if number == 1:
        parts.append(_lines(image))
    if number == 2:
        highest = np.sort(rows, axis=0)[::-1]
        parts += [np.sort(rows.mean(axis=1))[::-1], np.sort(rows.std(axis=1))[::-1], highest.mean(axis=1)]
        parts.append(_keyless(rows))
    else:
        parts += _textures(image)
    return np.concatenate(parts).astype(np.float32)


def _bands(image: Floats, bands: int) -> Floats:
    return np.stack([part.mean(axis=0) for part in np.array_split(image, bands)])


def _spread(rows: Floats) -> list[Floats]:
    steps = np.abs(np.diff(rows, axis=1))
    low, high = np.percentile(rows, [10, 90], axis=1)
    return [rows.mean(axis=1), rows.std(axis=1), steps.mean(axis=1), low, high]


def _skewness(rows: Floats) -> Floats:
    moving = rows - rows.mean(axis=1, keepdims=True)
    found: Floats = (moving**3).mean(axis=1) / (rows.std(axis=1) + _SMALLEST) ** 3
    return found


def _rhythm(rows: Floats) -> Floats:
    """How strongly the bands rise and fall how often in the slice, in a logarithmic measure."""
    most, together = _RHYTHM
    moving = np.abs(np.fft.rfft(rows - rows.mean(axis=1, keepdims=True), axis=1)).mean(axis=0)
    lowest = np.zeros(most)
    lowest[: len(moving) - 1] = moving[1 : most + 1]
    spectrum: Floats = np.log(lowest.reshape(-1, together).mean(axis=1) + _SMALLEST).astype(np.float32)
    return spectrum


def _modulations(rows: Floats, groups: int, steps: int) -> Floats:
    """How strongly groups of rows rise and fall, in steps from the slowest to the fastest, logarithmic."""
    moving = (rows - rows.mean(axis=1, keepdims=True)) * np.hanning(rows.shape[1])
    strengths = np.abs(np.fft.rfft(moving, axis=1))[:, 1:]
    edges = np.geomspace(1, strengths.shape[1], steps + 1).round().astype(int)
    starts, ends = np.append(0, edges[1:-1]), edges[1:]
    grouped = _bands(strengths, groups)
    found = [grouped[:, start : max(end, start + 1)].mean(axis=1) for start, end in zip(starts, ends, strict=True)]
    logarithms: Floats = np.log(np.stack(found, axis=1) + _SMALLEST).ravel()
    return logarithms


def _cepstrum(rows: Floats) -> list[Floats]:
    from scipy.fft import dct

    coefficients = dct(rows, axis=0, norm="ortho")[:_CEPSTRUM]
    steps = np.diff(coefficients, axis=1)
    covariance = np.cov(coefficients)
    spread = np.sqrt(np.diag(covariance)) + _SMALLEST
    return [
        coefficients.mean(axis=1),
        coefficients.std(axis=1),
        np.abs(steps).mean(axis=1),
        (covariance / np.outer(spread, spread))[np.triu_indices(_CEPSTRUM, 1)],
        np.log(steps.var(axis=1) + _SMALLEST**2),
        _modulations(coefficients, _CEPSTRUM, _CEPSTRAL_MODULATIONS),
    ]


def _contrast(mel: Floats) -> list[Floats]:
    """How far the peaks of each band of octaves stand above its valleys."""
    found = []
    for band in np.array_split(mel, _OCTAVES):
        ordered = np.sort(band, axis=0)
        found.append(ordered[-_PEAKS:].mean(axis=0) - ordered[:_PEAKS].mean(axis=0))
    contrast = np.stack(found)
    return [contrast.mean(axis=1), contrast.std(axis=1)]


def _textures(image: Floats) -> list[Floats]:
    """How far bands lie from their medians in time, and moments from their medians in frequency."""
    rows = _bands(image, min(_FINE_BANDS, len(image)))
    return [_bands(np.abs(rows - running_median(rows, _MEDIAN, axis)), _TEXTURES).mean(axis=1) for axis in (1, 0)]


def running_median(rows: Floats, width: int, axis: int) -> Floats:
    """Give the median of each window of odd `width` along an axis, rows mirrored at their ends.

    The same to the last digit as `scipy.ndimage.median_filter`, several times faster: by forgetful selection, which
    drops the least and the greatest of half the window, takes in another value, and so on, for all windows at once.
    """
    half = width // 2
    padding = [(half, half) if place == axis else (0, 0) for place in range(rows.ndim)]
    padded = np.pad(rows, padding, mode="symmetric")
    shifted = list(np.moveaxis(np.lib.stride_tricks.sliding_window_view(padded, width, axis), -1, 0))
    kept, others = shifted[: half + 2], shifted[half + 2 :]
    while len(kept) > 1:
        for place in range(1, len(kept)):
            _order(kept, 0, place)
        for place in range(1, len(kept) - 1):
            _order(kept, place, len(kept) - 1)
        kept = kept[1:-1]
        if others:
            kept.append(others.pop())
    median: Floats = kept[0]
    return median


def _order(arrays: list[Floats], first: int, second: int) -> None:
    """Put the lesser of each pair of numbers first."""
    one, other = arrays[first], arrays[second]
    arrays[first], arrays[second] = np.minimum(one, other), np.maximum(one, other)


def _lines(cqt: Floats) -> Floats:
    """How high spectral lines stand above their surroundings, by octave: mean, spread and 95th percentile."""
    above = cqt - running_median(cqt, 2 * round(_LINE_MEDIAN * len(cqt) / 2) + 1, 0)
    return np.array(
        [(part.mean(), part.std(), np.percentile(part, 95)) for part in np.array_split(above, _LINES)]
    ).ravel()


def _keyless(rows: Floats) -> Floats:
    """Which intervals the classes form on the whole, and which sound together, in whatever key."""
    mean = rows.mean(axis=1) - rows.mean()
    intervals = np.array([mean @ np.roll(mean, step) for step in range(7)])
    moving = rows - rows.mean(axis=1, keepdims=True)
    spread = moving.std(axis=1) + _SMALLEST
    together = moving @ moving.T / rows.shape[1] / np.outer(spread, spread)
    classes = np.arange(12)
    coupled = [together[classes, (classes + step) % 12].mean() for step in range(1, 7)]
    return np.append(intervals / (intervals[0] + _SMALLEST**2), coupled)


STATISTICS = (
    5 * sum(_BANDS)  # spread
    + len(_BANDS) * _RHYTHM[0] // _RHYTHM[1]
    + sum(_MODULATED) * _MODULATIONS
    + _BANDS[0]  # skewness
    + (4 + _CEPSTRAL_MODULATIONS) * _CEPSTRUM
    + _CEPSTRUM * (_CEPSTRUM - 1) // 2
    + 2 * _OCTAVES  # contrast
    + 2 * 2 * _TEXTURES
    + 3 * _LINES
    + 3 * _BANDS[2]  # sorted classes
    + 7
    + 6  # intervals
)
