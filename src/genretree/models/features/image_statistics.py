"""Statistics of a slice's images: distribution over frequency and modulation in time of mel, CQT and chroma.

These are established features of genre classification (Tzanetakis and Cook 2002; spectral contrast: Jiang et al. 2002;
modulation spectra: McKinney and Breebaart 2003; covariance of the cepstrum: Mandel and Ellis 2005; harmonic-percussive
median filters: FitzGerald 2010), computed from the stored images instead of the audio, so that they are available for
stores without audio, too.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import TypeVar

import numpy as np

from genretree.arrays import Float32Array, Int64Array, UInt8Array
from genretree.models.base import SliceDataset
from genretree.models.features.cache import FeatureCache
from genretree.parallel import processors_each

Numbers = TypeVar("Numbers", Float32Array, UInt8Array)

_VERSION = 2  # of the definition; a new number invalidates cached statistics
_BANDS = (32, 28, 12)  # bands of mel, CQT and chroma
_CEPSTRUM = 20
_OCTAVES = 8
_PEAKS = 5  # rows of an octave band that count as its peaks, and as its valleys
_RHYTHM = (64, 4)  # number of lowest modulation frequencies, and how many of them are averaged
_MODULATED = (8, 7, 1)  # groups of bands of mel, CQT and chroma with separate modulation spectra
_MODULATIONS = 8  # logarithmic bands of modulation frequency
_CEPSTRAL_MODULATIONS = 6
_FINE_BANDS = 56  # bands of mel and CQT for median filters
_MEDIAN = 9  # bands or pixels in time
_TEXTURES = 8
_LINES = 7  # CQT octaves in which the height of spectral lines is measured
_LINE_MEDIAN = 15 / 224  # share of an image
_EPSILON = np.float32(1e-3)
_BATCH_SIZE = 4  # slices; larger batches don't fit into a processor's cache


def image_statistics(images: UInt8Array) -> Float32Array:
    """Compute statistics of the images of slices.

    Parameters
    ----------
    images : uint8 array, shape (n, 3, size, size)

    Returns
    -------
    float32 array, shape (n, STATISTICS)
        For each image: mean, standard deviation, mean absolute difference in time, and 10th and 90th percentile of
        each band, and modulation spectra of all bands and of groups of bands. For mel also skewness, spectral
        contrast, and means, deviations, differences, correlations and modulations of the cepstrum. For mel and CQT the
        distances from medians in time (harmonic) and in frequency (percussive). For CQT the height of spectral lines.
        For chroma the sorted pitch classes and key-independent features.

    Examples
    --------
    >>> import numpy as np
    >>> from genretree.models.features.image_statistics import image_statistics
    >>> images = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64), dtype=np.uint8)
    >>> image_statistics(images).shape
    (2, 1076)
    """
    if not len(images):
        return np.zeros((0, STATISTICS), np.float32)
    return np.concatenate([_compute_unique(number, images[:, number]) for number in range(len(_BANDS))], axis=1)


def dataset_statistics(dataset: SliceDataset, progress: bool = False) -> Float32Array:
    """Compute the image statistics of stored slices, shape (n, STATISTICS), with a cache in the store."""
    cache = FeatureCache(dataset, f"statistics-{_VERSION}.npy", STATISTICS)

    def compute(rows: Int64Array) -> Float32Array:
        return image_statistics(np.asarray(dataset.images[rows]))

    return cache.read(dataset.rows, compute, "image statistics", progress)


def _compute_unique(number: int, images: UInt8Array) -> Float32Array:
    """Compute statistics of one image of each slice, (n, size, size), on all processors; equal images only once.

    Explanations score many slices that differ in one image only.
    """
    places: dict[bytes, int] = {}
    which = [places.setdefault(image.tobytes(), len(places)) for image in images]
    unique = images[np.unique(which, return_index=True)[1]]
    batches = [unique[at : at + _BATCH_SIZE] for at in range(0, len(unique), _BATCH_SIZE)]
    compute = partial(_compute, number)
    with ThreadPoolExecutor(processors_each()) as pool:
        parts = list(pool.map(compute, batches) if len(batches) > 1 else map(compute, batches))
    computed: Float32Array = np.concatenate(parts)[which]
    return computed


def _compute(number: int, images: UInt8Array) -> Float32Array:
    """Compute statistics of images, shape (n, width). All functions below take batches of shape (n, ...)."""
    image = np.asarray(images, np.float32) / np.float32(255)
    rows = _bands(image, _BANDS[number])
    parts = [*_spread(rows), _rhythm(rows), _modulations(image, _MODULATED[number], _MODULATIONS)]
    if number == 0:
        parts += [_skewness(rows), *_cepstrum(rows), *_contrast(image)]
    if number == 1:
        parts.append(_lines(images))
    if number == 2:
        highest = np.sort(rows, axis=1)[:, ::-1]
        parts += [np.sort(rows.mean(axis=2))[:, ::-1], np.sort(rows.std(axis=2))[:, ::-1], highest.mean(axis=2)]
        parts.append(_key_independent(rows))
    else:
        parts += _textures(image)
    return np.concatenate([part.reshape(len(images), -1) for part in parts], axis=1).astype(np.float32)


def _bands(images: Float32Array, bands: int) -> Float32Array:
    """Average neighbouring rows: (n, rows, columns) to (n, bands, columns)."""
    averaged: Float32Array = _band_weights(images.shape[1], bands) @ images
    return averaged


@lru_cache(maxsize=32)
def _band_weights(rows: int, bands: int) -> Float32Array:
    """Compute the weights of rows in bands, split as by `np.array_split`: shape (bands, rows)."""
    shares = np.zeros((bands, rows), np.float32)
    for band, part in enumerate(np.array_split(np.arange(rows), bands)):
        shares[band, part] = 1 / len(part)
    return shares


def _spread(rows: Float32Array) -> list[Float32Array]:
    steps = np.abs(np.diff(rows, axis=2))
    low, high = np.percentile(rows, [10, 90], axis=2)
    return [rows.mean(axis=2), rows.std(axis=2), steps.mean(axis=2), low, high]


def _skewness(rows: Float32Array) -> Float32Array:
    centred = rows - rows.mean(axis=2, keepdims=True)
    found: Float32Array = (centred * centred * centred).mean(axis=2) / (rows.std(axis=2) + _EPSILON) ** 3
    return found


def _rhythm(rows: Float32Array) -> Float32Array:
    """Compute the log magnitude of the lowest modulation frequencies, averaged over the bands."""
    from scipy import fft

    n_frequencies, together = _RHYTHM
    centred = np.abs(fft.rfft(rows - rows.mean(axis=2, keepdims=True), axis=2)).mean(axis=1)
    lowest = np.zeros((len(rows), n_frequencies), np.float32)
    lowest[:, : centred.shape[1] - 1] = centred[:, 1 : n_frequencies + 1]
    spectrum: Float32Array = np.log(lowest.reshape(len(rows), -1, together).mean(axis=2) + _EPSILON)
    return spectrum


def _modulations(rows: Float32Array, groups: int, steps: int) -> Float32Array:
    """Compute the log modulation spectrum of groups of rows, in logarithmic frequency bands."""
    from scipy import fft

    window = np.hanning(rows.shape[2]).astype(np.float32)
    magnitudes = np.abs(fft.rfft((rows - rows.mean(axis=2, keepdims=True)) * window, axis=2))[:, :, 1:]
    logarithms: Float32Array = np.log(_bands(magnitudes, groups) @ _log_bands(magnitudes.shape[2], steps) + _EPSILON)
    return logarithms


@lru_cache(maxsize=8)
def _log_bands(frequencies: int, steps: int) -> Float32Array:
    """Compute the weights of frequencies in logarithmic bands: shape (frequencies, steps)."""
    edges = np.geomspace(1, frequencies, steps + 1).round().astype(int)
    shares = np.zeros((frequencies, steps), np.float32)
    for step, (start, end) in enumerate(zip(np.append(0, edges[1:-1]), edges[1:], strict=True)):
        part = slice(start, max(end, start + 1))
        shares[part, step] = 1 / (part.stop - start)
    return shares


def _cepstrum(rows: Float32Array) -> list[Float32Array]:
    from scipy.fft import dct

    coefficients = dct(rows, axis=1, norm="ortho")[:, :_CEPSTRUM]
    steps = np.diff(coefficients, axis=2)
    centred = coefficients - coefficients.mean(axis=2, keepdims=True)
    covariance = centred @ centred.transpose(0, 2, 1) / (rows.shape[2] - 1)
    spread = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2)) + _EPSILON
    one, other = np.triu_indices(_CEPSTRUM, 1)
    return [
        coefficients.mean(axis=2),
        coefficients.std(axis=2),
        np.abs(steps).mean(axis=2),
        covariance[:, one, other] / (spread[:, one] * spread[:, other]),
        np.log(steps.var(axis=2) + _EPSILON**2),
        _modulations(coefficients, _CEPSTRUM, _CEPSTRAL_MODULATIONS),
    ]


def _contrast(mel: Float32Array) -> list[Float32Array]:
    """Compute the spectral contrast: the difference of peaks and valleys in each octave band."""
    found = []
    for band in np.array_split(mel, _OCTAVES, axis=1):
        ordered = np.sort(band, axis=1)
        found.append(ordered[:, -_PEAKS:].mean(axis=1) - ordered[:, :_PEAKS].mean(axis=1))
    contrast = np.stack(found, axis=1)
    return [contrast.mean(axis=2), contrast.std(axis=2)]


def _textures(images: Float32Array) -> list[Float32Array]:
    """Compute mean distances from running medians in time and in frequency."""
    rows = _bands(images, min(_FINE_BANDS, images.shape[1]))
    return [_bands(np.abs(rows - running_median(rows, _MEDIAN, axis)), _TEXTURES).mean(axis=2) for axis in (2, 1)]


def running_median(rows: Numbers, width: int, axis: int) -> Numbers:
    """Compute the median of each window of odd `width` along an axis, with mirrored edges.

    The result equals that of `scipy.ndimage.median_filter`, several times faster. Forgetful selection drops the minimum
    and maximum of half the window, adds another value, and repeats, for all windows at once.
    """
    half = width // 2
    padding = [(half, half) if place == axis else (0, 0) for place in range(rows.ndim)]
    padded = np.pad(rows, padding, mode="symmetric")
    shifted = list(np.moveaxis(np.lib.stride_tricks.sliding_window_view(padded, width, axis), -1, 0))
    window, others = shifted[: half + 2], shifted[half + 2 :]
    while len(window) > 1:
        for place in range(1, len(window)):
            _sort_pair(window, 0, place)
        for place in range(1, len(window) - 1):
            _sort_pair(window, place, len(window) - 1)
        window = window[1:-1]
        if others:
            window.append(others.pop())
    median: Numbers = window[0]
    return median


def _sort_pair(arrays: list[Numbers], first: int, second: int) -> None:
    """Sort two arrays elementwise."""
    one, other = arrays[first], arrays[second]
    arrays[first], arrays[second] = np.minimum(one, other), np.maximum(one, other)


def _lines(cqt: UInt8Array) -> Float32Array:
    """Compute the height of spectral lines above the local median by octave: mean, deviation and 95th percentile."""
    median = running_median(cqt, 2 * round(_LINE_MEDIAN * cqt.shape[1] / 2) + 1, 1)  # on bytes: four times as fast
    above = (cqt.astype(np.float32) - median) / np.float32(255)
    found = []
    for part in np.array_split(above, _LINES, axis=1):
        values = part.reshape(len(cqt), -1)
        found += [values.mean(axis=1), values.std(axis=1), np.percentile(values, 95, axis=1)]
    return np.stack(found, axis=1)


def _key_independent(rows: Float32Array) -> Float32Array:
    """Compute key-independent chroma features: autocorrelation over intervals, and correlation of pitch classes."""
    means = rows.mean(axis=2)
    mean = means - means.mean(axis=1, keepdims=True)
    intervals = np.stack([(mean * np.roll(mean, step, axis=1)).sum(axis=1) for step in range(7)], axis=1)
    centred = rows - means[:, :, None]
    spread = centred.std(axis=2) + _EPSILON
    together = centred @ centred.transpose(0, 2, 1) / rows.shape[2] / (spread[:, :, None] * spread[:, None, :])
    classes = np.arange(12)
    correlations = [together[:, classes, (classes + step) % 12].mean(axis=1) for step in range(1, 7)]
    return np.concatenate([intervals / (intervals[:, :1] + _EPSILON**2), np.stack(correlations, axis=1)], axis=1)


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
