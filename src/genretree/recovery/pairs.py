"""Features of slices and of pairs of slices, for the log odds that two slices are from one track.

A slice ends where the next slice of its track starts, so the last column of one image and the first column of the next
are adjacent and their frames overlap by three quarters. Slices of one track also share mastering, instruments and
tempo. Each image is scaled to its own minimum and maximum; the features are invariant to that scaling.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from genretree.arrays import Float32Array, Int64Array, UInt8Array
from genretree.recovery.weights import Weights
from genretree.sound.slices import overlaps

_BINS = (128, 84, 12)  # of mel, CQT and chroma
_CUTS = (slice(0, 128), slice(128, 212), slice(212, 224))
_COLUMNS = 224  # of the training images; other images are resampled
_CONTEXT = 32  # columns next to the cut whose mean is compared, 1.6 s
_CEPSTRUM = 20
_ONSET_BANDS = 4
_LAGS = slice(3, 80)  # of the onset autocorrelation: 0.15 to 4 s
_PROFILES = 5  # vectors compared at each side of a cut, for mel and for CQT each
SIDE_WIDTH = _PROFILES * (_BINS[0] + _BINS[1])
CONTINUITY = 2 * _PROFILES
STATISTICS = 3 * sum(_BINS) + _CEPSTRUM + _CEPSTRUM * (_CEPSTRUM - 1) // 2
RHYTHM = _ONSET_BANDS * (_LAGS.stop - _LAGS.start)
PAIR_FEATURES = CONTINUITY + 5
N_CONTINUATIONS, _NEIGHBOURS = 12, 24  # candidates per slice by continuity and by similarity
DENSITY_NEIGHBOURS = 10  # neighbours for the local density
_BLOCK = 512
_EPSILON = 1e-3
_MAX_CORRELATION = 1.02  # slightly above 1, which keeps the logarithm finite


@dataclass(frozen=True)
class SliceFeatures:
    """Features of slices for comparison.

    Parameters
    ----------
    ends, starts : ndarray, float32, shape (n, SIDE_WIDTH)
        Ten concatenated unit vectors of the last and of the first columns.
    place : ndarray, float32, shape (n, dimensions)
        Projected statistics; for fitting, the statistics themselves.
    rhythm : ndarray, float32, shape (n, RHYTHM)
        Autocorrelation of the onsets, as unit vectors.
    """

    ends: Float32Array
    starts: Float32Array
    place: Float32Array
    rhythm: Float32Array

    def take(self, rows: Int64Array) -> SliceFeatures:
        """Select slices."""
        return SliceFeatures(self.ends[rows], self.starts[rows], self.place[rows], self.rhythm[rows])


# -- one slice -----------------------------------------------------------------------------------------------


def extract_slice_features(images: UInt8Array) -> SliceFeatures:
    """Extract features from images, shape (n, 3, size, size); `place` holds the unprojected statistics."""
    bands = _average_bins(images)
    mean, std = bands.mean(axis=2), bands.std(axis=2)
    ends = _extract_profiles(bands[:, :, ::-1], mean)
    starts = _extract_profiles(bands, mean)
    return SliceFeatures(ends, starts, _statistics(bands, mean, std), _rhythm(bands[:, _CUTS[0]]))


def _average_bins(images: UInt8Array) -> Float32Array:
    """Average images to bins, shape (n, 224, columns), 0 to 1."""
    size = images.shape[-1]
    grey = np.asarray(images, np.float32) / np.float32(255)
    bands = np.concatenate([overlaps(size, count) @ grey[:, i] for i, count in enumerate(_BINS)], axis=1)
    return bands if size == _COLUMNS else np.asarray(bands @ overlaps(size, _COLUMNS).T)


def _extract_profiles(bands: Float32Array, mean: Float32Array) -> Float32Array:
    """Extract the profiles of the first column: itself, its deviation, its extrapolation, its context and the mean."""
    first, second = bands[:, :, 0], bands[:, :, 1]
    context = bands[:, :, :_CONTEXT].mean(axis=2)
    profiles = (first, first - mean, 1.5 * first - 0.5 * second - mean, context, mean)
    return np.concatenate([_normalise(profile[:, cut]) for cut in _CUTS[:2] for profile in profiles], axis=1)


def _normalise(values: Float32Array) -> Float32Array:
    """Centre and normalise vectors, so that inner products are correlations; near-constant vectors stay shorter."""
    centred = values - values.mean(axis=1, keepdims=True)
    return np.asarray(centred / (np.linalg.norm(centred, axis=1, keepdims=True) + _EPSILON), np.float32)


def _statistics(bands: Float32Array, mean: Float32Array, std: Float32Array) -> Float32Array:
    """Compute mean, standard deviation and time step of each bin and the cepstral covariance, relative to the image."""
    from scipy.fft import dct

    step = np.abs(np.diff(bands, axis=2)).mean(axis=2)
    centre, scale = np.zeros_like(mean), np.zeros_like(mean)
    for cut in _CUTS:
        centre[:, cut] = mean[:, cut].mean(axis=1, keepdims=True)
        power = (mean[:, cut] ** 2 + std[:, cut] ** 2).mean(axis=1, keepdims=True)
        scale[:, cut] = np.sqrt(np.maximum(power - centre[:, cut][:, :1] ** 2, _EPSILON**2))
    cepstrum = dct(bands[:, _CUTS[0]], axis=1, norm="ortho")[:, :_CEPSTRUM]
    cepstrum -= cepstrum.mean(axis=2, keepdims=True)
    covariance = cepstrum @ cepstrum.transpose(0, 2, 1) / cepstrum.shape[2]
    spread = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2)) + _EPSILON
    upper = np.triu_indices(_CEPSTRUM, 1)
    correlation = (covariance / spread[:, :, None] / spread[:, None, :])[:, upper[0], upper[1]]
    parts = ((mean - centre) / scale, std / scale, step / scale, correlation, np.log(spread / scale[:, :1]))
    return np.concatenate(parts, axis=1).astype(np.float32)


def _rhythm(mel: Float32Array) -> Float32Array:
    """Compute the autocorrelation of onsets in four bands."""
    increases = np.maximum(np.diff(mel, axis=2), 0)
    onsets = np.stack([part.mean(axis=1) for part in np.array_split(increases, _ONSET_BANDS, axis=1)], axis=1)
    onsets -= onsets.mean(axis=2, keepdims=True)
    spectrum = np.abs(np.fft.rfft(onsets, 2 * _COLUMNS, axis=2)) ** 2
    lags = np.fft.irfft(spectrum, axis=2)
    shares = np.asarray(lags[:, :, _LAGS] / (lags[:, :, :1] + _EPSILON**2), np.float32)
    return _normalise(shares.reshape(len(mel), RHYTHM))


def centre_places(place: Float32Array) -> Float32Array:
    """Subtract the mean of the slices of one label, and normalise to unit vectors.

    The mean is shrunk for few slices, since it then reflects the slices more than the label.
    """
    mean = place.sum(axis=0) / (len(place) + 2 * DENSITY_NEIGHBOURS)
    return normalise_rows(place - mean)


def normalise_rows(values: Float32Array) -> Float32Array:
    """Normalise rows to unit vectors; near-zero rows stay shorter."""
    return np.asarray(values / (np.linalg.norm(values, axis=1, keepdims=True) + _EPSILON), np.float32)


# -- pairs of slices -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pairs:
    """Candidate pairs of slices.

    Parameters
    ----------
    first, second : ndarray, int64, shape (pairs,)
        Rows, the lower first, without duplicates.
    features : ndarray, float32, shape (pairs, PAIR_FEATURES)
    """

    first: Int64Array
    second: Int64Array
    features: Float32Array

    def log_odds(self, weights: Weights) -> Float32Array:
        """Compute the log odds of one track from the features of each pair."""
        return log_odds(self.features, weights.pair_hidden, weights.pair_output)


def log_odds(features: Float32Array, hidden: Float32Array, output: Float32Array) -> Float32Array:
    """Apply a network with one ReLU layer; the last row of `hidden` and the last value of `output` are the biases."""
    units = np.maximum(features @ hidden[:-1] + hidden[-1], 0)
    return np.asarray(units @ output[:-1] + output[-1], np.float32)


def find_pairs(slices: SliceFeatures, weights: Weights, tick: Callable[[int], None] | None = None) -> Pairs:
    """Find candidate pairs among slices of one label (with centred `place`), and compute their features.

    Each slice is paired with its best continuations at the cut and with the most similar slices. `tick` is called with
    the number of processed slices.
    """
    n = len(slices.place)
    columns = continuation_columns()
    next_slices, _ = find_nearest(slices.ends[:, columns], slices.starts[:, columns], N_CONTINUATIONS, tick)
    similar, similarity = find_nearest(slices.place, slices.place, _NEIGHBOURS)
    rows = np.concatenate([np.repeat(np.arange(n), near.shape[1]) for near in (next_slices, similar)])
    others = np.concatenate([next_slices.ravel(), similar.ravel()])
    keys = np.unique(np.minimum(rows, others) * n + np.maximum(rows, others))
    first, second = keys // max(n, 1), keys % max(n, 1)
    density = similarity[:, :DENSITY_NEIGHBOURS].mean(axis=1) if similarity.size else np.zeros(n, np.float32)
    return Pairs(first, second, _pair_features(slices, first, second, density, weights))


def continuation_columns() -> Int64Array:
    """Return the columns of the profiles that rank continuations: the column at the cut, and its context.

    Extrapolations and means enter the features of candidate pairs only.
    """
    profiles = [profile for profile in range(CONTINUITY) if profile % _PROFILES in (0, 3)]
    return np.concatenate([np.arange(SIDE_WIDTH)[_profile_slice(profile)] for profile in profiles])


def _profile_slice(profile: int) -> slice:
    """Return the slice of one of the ten unit vectors in the profiles."""
    start = profile * _BINS[0] if profile < _PROFILES else _PROFILES * _BINS[0] + (profile - _PROFILES) * _BINS[1]
    return slice(start, start + _BINS[profile // _PROFILES])


def find_nearest(
    left: Float32Array, right: Float32Array, count: int, tick: Callable[[int], None] | None = None
) -> tuple[Int64Array, Float32Array]:
    """Find, for each row of `left`, the `count` other rows of `right` with the greatest inner products, in order."""
    n = len(left)
    count = max(0, min(count, n - 1))
    neighbours, products = np.zeros((n, count), np.int64), np.zeros((n, count), np.float32)
    for start in range(0, n if count else 0, _BLOCK):
        block = left[start : start + _BLOCK] @ right.T
        rows = np.arange(len(block))
        block[rows, start + rows] = -np.inf
        candidates = np.argpartition(block, n - count, axis=1)[:, n - count :]
        values = np.take_along_axis(block, candidates, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        neighbours[start : start + len(block)] = np.take_along_axis(candidates, order, axis=1)
        products[start : start + len(block)] = np.take_along_axis(values, order, axis=1)
        if tick is not None:
            tick(len(block))
    return neighbours, products


def _pair_features(
    slices: SliceFeatures, first: Int64Array, second: Int64Array, density: Float32Array, weights: Weights
) -> Float32Array:
    """Compute pair features: continuity, its log share among competitors, similarity, relative similarity, rhythm."""
    forward, backward = continuity(slices, first, second), continuity(slices, second, first)
    earlier, later = np.concatenate([first, second]), np.concatenate([second, first])
    scores = np.concatenate([forward, backward]) @ weights.cut
    by_end, by_start = (
        log_softmax_by_owner(scores, earlier, len(density)),
        log_softmax_by_owner(scores, later, len(density)),
    )
    m = len(first)
    is_forward = (by_end + by_start)[:m] >= (by_end + by_start)[m:]
    similarity = inner_products(slices.place, slices.place, first, second)
    rhythm = inner_products(slices.rhythm, slices.rhythm, first, second)
    return np.column_stack(
        [
            np.where(is_forward[:, None], forward, backward),
            np.where(is_forward, by_end[:m], by_end[m:]),
            np.where(is_forward, by_start[:m], by_start[m:]),
            similarity,
            similarity - (density[first] + density[second]) / 2,
            rhythm,
        ]
    ).astype(np.float32)


def continuity(slices: SliceFeatures, earlier: Int64Array, later: Int64Array) -> Float32Array:
    """Compute the continuity of pairs, shape (pairs, CONTINUITY): -log(1.02 - correlation)."""
    correlations = np.empty((len(earlier), CONTINUITY), np.float32)
    for profile in range(CONTINUITY):
        cut = _profile_slice(profile)
        correlations[:, profile] = inner_products(slices.ends[:, cut], slices.starts[:, cut], earlier, later)
    return np.asarray(-np.log(_MAX_CORRELATION - correlations), np.float32)


def inner_products(left: Float32Array, right: Float32Array, rows: Int64Array, others: Int64Array) -> Float32Array:
    """Compute inner products of selected rows, in blocks to bound memory."""
    products = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), 1 << 16):
        part = slice(start, start + (1 << 16))
        products[part] = np.einsum("ij,ij->i", left[rows[part]], right[others[part]])
    return products


def log_softmax_by_owner(scores: Float32Array, owners: Int64Array, n: int) -> Float32Array:
    """Compute the log softmax of each score among the scores of its owner."""
    maximum = np.full(n, -np.inf)
    np.maximum.at(maximum, owners, scores)
    total = np.bincount(owners, np.exp(scores - maximum[owners]), n)
    return np.asarray(scores - maximum[owners] - np.log(total[owners]), np.float32)
