"""Statistics of a slice's images: how mel, CQT and chroma are spread over frequency and move in time.

The features that music information retrieval has long told genres by (Tzanetakis and Cook 2002; contrast of octave
bands: Jiang et al. 2002; modulation spectra: McKinney and Breebaart 2003; covariance of the cepstrum: Mandel and Ellis
2005; medians in time and in frequency: FitzGerald 2010), read off the stored images instead of the sound: so they serve
where there are only images, too.
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
_SMALLEST = np.float32(1e-3)
_AT_A_TIME = 4  # slices: more don't stay in a processor's cache


def image_statistics(images: UInt8Array) -> Float32Array:
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
    if not len(images):
        return np.zeros((0, STATISTICS), np.float32)
    return np.concatenate([_describe_each(number, images[:, number]) for number in range(len(_BANDS))], axis=1)


def dataset_statistics(examples: SliceDataset, progress: bool = False) -> Float32Array:
    """Describe stored slices, shape (n, STATISTICS); what was described before is not described again."""
    kept = FeatureCache(examples, f"statistics-{_KIND}.npy", STATISTICS)

    def describe(rows: Int64Array) -> Float32Array:
        return image_statistics(np.asarray(examples.images[rows]))

    return kept.read(examples.rows, describe, "describe", progress)


def _describe_each(number: int, images: UInt8Array) -> Float32Array:
    """Describe one image of each slice, (n, size, size), on all processors; equal ones are described once.

    Explanations ask for many slices that differ in one image only.
    """
    places: dict[bytes, int] = {}
    which = [places.setdefault(image.tobytes(), len(places)) for image in images]
    different = images[np.unique(which, return_index=True)[1]]
    pieces = [different[at : at + _AT_A_TIME] for at in range(0, len(different), _AT_A_TIME)]
    describe = partial(_describe, number)
    with ThreadPoolExecutor(processors_each()) as pool:
        parts = list(pool.map(describe, pieces) if len(pieces) > 1 else map(describe, pieces))
    described: Float32Array = np.concatenate(parts)[which]
    return described


def _describe(number: int, images: UInt8Array) -> Float32Array:
    """Describe some images: shape (n, width). Everything below works on all of them at once, shape (n, ...)."""
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
        parts.append(_keyless(rows))
    else:
        parts += _textures(image)
    return np.concatenate([part.reshape(len(images), -1) for part in parts], axis=1).astype(np.float32)


def _bands(images: Float32Array, bands: int) -> Float32Array:
    """Average neighbouring rows, (n, rows, columns) to (n, bands, columns)."""
    averaged: Float32Array = _averaging(images.shape[1], bands) @ images
    return averaged


@lru_cache(maxsize=32)
def _averaging(rows: int, bands: int) -> Float32Array:
    """Give the shares of rows in bands, cut as `np.array_split` cuts: shape (bands, rows)."""
    shares = np.zeros((bands, rows), np.float32)
    for band, part in enumerate(np.array_split(np.arange(rows), bands)):
        shares[band, part] = 1 / len(part)
    return shares


def _spread(rows: Float32Array) -> list[Float32Array]:
    steps = np.abs(np.diff(rows, axis=2))
    low, high = np.percentile(rows, [10, 90], axis=2)
    return [rows.mean(axis=2), rows.std(axis=2), steps.mean(axis=2), low, high]


def _skewness(rows: Float32Array) -> Float32Array:
    moving = rows - rows.mean(axis=2, keepdims=True)
    found: Float32Array = (moving * moving * moving).mean(axis=2) / (rows.std(axis=2) + _SMALLEST) ** 3
    return found


def _rhythm(rows: Float32Array) -> Float32Array:
    """How strongly the bands rise and fall how often in the slice, in a logarithmic measure."""
    from scipy import fft

    most, together = _RHYTHM
    moving = np.abs(fft.rfft(rows - rows.mean(axis=2, keepdims=True), axis=2)).mean(axis=1)
    lowest = np.zeros((len(rows), most), np.float32)
    lowest[:, : moving.shape[1] - 1] = moving[:, 1 : most + 1]
    spectrum: Float32Array = np.log(lowest.reshape(len(rows), -1, together).mean(axis=2) + _SMALLEST)
    return spectrum


def _modulations(rows: Float32Array, groups: int, steps: int) -> Float32Array:
    """How strongly groups of rows rise and fall, in steps from the slowest to the fastest, logarithmic."""
    from scipy import fft

    window = np.hanning(rows.shape[2]).astype(np.float32)
    strengths = np.abs(fft.rfft((rows - rows.mean(axis=2, keepdims=True)) * window, axis=2))[:, :, 1:]
    logarithms: Float32Array = np.log(_bands(strengths, groups) @ _stepping(strengths.shape[2], steps) + _SMALLEST)
    return logarithms


@lru_cache(maxsize=8)
def _stepping(frequencies: int, steps: int) -> Float32Array:
    """Give the shares of frequencies in octave-like steps: shape (frequencies, steps)."""
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
    moving = coefficients - coefficients.mean(axis=2, keepdims=True)
    covariance = moving @ moving.transpose(0, 2, 1) / (rows.shape[2] - 1)
    spread = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2)) + _SMALLEST
    one, other = np.triu_indices(_CEPSTRUM, 1)
    return [
        coefficients.mean(axis=2),
        coefficients.std(axis=2),
        np.abs(steps).mean(axis=2),
        covariance[:, one, other] / (spread[:, one] * spread[:, other]),
        np.log(steps.var(axis=2) + _SMALLEST**2),
        _modulations(coefficients, _CEPSTRUM, _CEPSTRAL_MODULATIONS),
    ]


def _contrast(mel: Float32Array) -> list[Float32Array]:
    """How far the peaks of each band of octaves stand above its valleys."""
    found = []
    for band in np.array_split(mel, _OCTAVES, axis=1):
        ordered = np.sort(band, axis=1)
        found.append(ordered[:, -_PEAKS:].mean(axis=1) - ordered[:, :_PEAKS].mean(axis=1))
    contrast = np.stack(found, axis=1)
    return [contrast.mean(axis=2), contrast.std(axis=2)]


def _textures(images: Float32Array) -> list[Float32Array]:
    """How far bands lie from their medians in time, and moments from their medians in frequency."""
    rows = _bands(images, min(_FINE_BANDS, images.shape[1]))
    return [_bands(np.abs(rows - running_median(rows, _MEDIAN, axis)), _TEXTURES).mean(axis=2) for axis in (2, 1)]


def running_median(rows: Numbers, width: int, axis: int) -> Numbers:
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
    median: Numbers = kept[0]
    return median


def _order(arrays: list[Numbers], first: int, second: int) -> None:
    """Put the lesser of each pair of numbers first."""
    one, other = arrays[first], arrays[second]
    arrays[first], arrays[second] = np.minimum(one, other), np.maximum(one, other)


def _lines(cqt: UInt8Array) -> Float32Array:
    """How high spectral lines stand above their surroundings, by octave: mean, spread and 95th percentile."""
    median = running_median(cqt, 2 * round(_LINE_MEDIAN * cqt.shape[1] / 2) + 1, 1)  # of bytes: four times as fast
    above = (cqt.astype(np.float32) - median) / np.float32(255)
    found = []
    for part in np.array_split(above, _LINES, axis=1):
        values = part.reshape(len(cqt), -1)
        found += [values.mean(axis=1), values.std(axis=1), np.percentile(values, 95, axis=1)]
    return np.stack(found, axis=1)


def _keyless(rows: Float32Array) -> Float32Array:
    """Which intervals the classes form on the whole, and which sound together, in whatever key."""
    means = rows.mean(axis=2)
    mean = means - means.mean(axis=1, keepdims=True)
    intervals = np.stack([(mean * np.roll(mean, step, axis=1)).sum(axis=1) for step in range(7)], axis=1)
    moving = rows - means[:, :, None]
    spread = moving.std(axis=2) + _SMALLEST
    together = moving @ moving.transpose(0, 2, 1) / rows.shape[2] / (spread[:, :, None] * spread[:, None, :])
    classes = np.arange(12)
    coupled = [together[:, classes, (classes + step) % 12].mean(axis=1) for step in range(1, 7)]
    return np.concatenate([intervals / (intervals[:, :1] + _SMALLEST**2), np.stack(coupled, axis=1)], axis=1)


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
