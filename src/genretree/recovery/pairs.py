"""What tells that two slices were cut from one piece, read off their images alone.

A slice ends where the next one of its piece begins, so that the last column of one image and the first of the other
show adjacent moments, whose frames overlap by three quarters. Slices of one piece also share mastering, instruments
and tempo. Every image is scaled to its own minimum and maximum; nothing that is compared here depends on that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from genretree.arrays import Float32Array, Int64Array, UInt8Array
from genretree.sound.slices import overlaps

WEIGHTS_FILE = Path(__file__).with_name("recover.safetensors")

_BANDS = (128, 84, 12)  # bins behind the rows of mel, CQT and chroma
_CUTS = (slice(0, 128), slice(128, 212), slice(212, 224))
_COLUMNS = 224  # in which the weights were learned; other images are brought to it
_CONTEXT = 32  # columns beside the cut whose mean is compared, 1.6 s
_CEPSTRUM = 20
_ONSET_BANDS = 4
_LAGS = slice(3, 80)  # of the onsets' autocorrelation: 0.15 to 4 s
_SIDES = 5  # what is compared of each side of a cut, of mel and of CQT
SIDE_WIDTH = _SIDES * (_BANDS[0] + _BANDS[1])
CONTINUITY = 2 * _SIDES
STATISTICS = 3 * sum(_BANDS) + _CEPSTRUM + _CEPSTRUM * (_CEPSTRUM - 1) // 2
RHYTHM = _ONSET_BANDS * (_LAGS.stop - _LAGS.start)
PAIR_FEATURES = CONTINUITY + 5
_LINKS, _NEIGHBOURS = 12, 24  # candidates of a slice by continuity and by likeness
_NEAR = 10  # neighbours that tell how close slices lie to each other here
_BLOCK = 512
_SMALLEST = 1e-3
_PERFECT = 1.02  # a little more than the highest correlation


@dataclass(frozen=True)
class Weights:
    """Numbers learned from slices of known tracks by `benchmarks/recover_tracks.py`.

    Parameters
    ----------
    center, projection : ndarray, float32, shapes (STATISTICS,) and (STATISTICS, dimensions)
        From a slice's statistics to where slices of one track lie close together.
    cut : ndarray, float32, shape (CONTINUITY,)
        Of the correlations at a cut, for the sum by which continuations compete.
    pair_hidden, pair_output : ndarray, float32, shapes (PAIR_FEATURES + 1, units) and (units + 1,)
        Log-odds that two slices are of one track, from a pair's features; see `log_odds`.
    merge_hidden, merge_output : ndarray, float32
        The same of two groups of slices; see `genretree.recovery.groups`.
    thresholds : ndarray, float32, shape (2,)
        Least probability of one track at which groups are joined: to tracks, and to blocks.
    """

    center: Float32Array
    projection: Float32Array
    cut: Float32Array
    pair_hidden: Float32Array
    pair_output: Float32Array
    merge_hidden: Float32Array
    merge_output: Float32Array
    thresholds: Float32Array


@cache
def load_default_weights() -> Weights:
    """Read the weights that come with the package."""
    from safetensors.numpy import load_file

    return Weights(**load_file(WEIGHTS_FILE))


@dataclass(frozen=True)
class SliceFeatures:
    """Slices described for comparison.

    Parameters
    ----------
    ends, starts : ndarray, float32, shape (n, SIDE_WIDTH)
        The last and the first moments: ten unit vectors side by side.
    place : ndarray, float32, shape (n, dimensions)
        The statistics, projected; for fitting, the statistics themselves.
    rhythm : ndarray, float32, shape (n, RHYTHM)
        Unit vectors: autocorrelation of the onsets.
    """

    ends: Float32Array
    starts: Float32Array
    place: Float32Array
    rhythm: Float32Array

    def take(self, rows: Int64Array) -> SliceFeatures:
        """Select slices."""
        return SliceFeatures(self.ends[rows], self.starts[rows], self.place[rows], self.rhythm[rows])


# -- one slice -----------------------------------------------------------------------------------------------


def describe_images(images: UInt8Array) -> SliceFeatures:
    """Describe slices by their images, shape (n, 3, size, size); `place` holds the statistics as they are."""
    bands = _read_bands(images)
    mean, std = bands.mean(axis=2), bands.std(axis=2)
    ends = _side(bands[:, :, ::-1], mean)
    starts = _side(bands, mean)
    return SliceFeatures(ends, starts, _statistics(bands, mean, std), _rhythm(bands[:, _CUTS[0]]))


def _read_bands(images: UInt8Array) -> Float32Array:
    """Mean of each bin in each column, shape (n, 224, columns), 0 to 1."""
    size = images.shape[-1]
    grey = np.asarray(images, np.float32) / np.float32(255)
    bands = np.concatenate([overlaps(size, count) @ grey[:, i] for i, count in enumerate(_BANDS)], axis=1)
    return bands if size == _COLUMNS else np.asarray(bands @ overlaps(size, _COLUMNS).T)


def _side(bands: Float32Array, mean: Float32Array) -> Float32Array:
    """Describe the side where the columns begin: the column, what is peculiar to it, its trend, its surroundings."""
    first, second = bands[:, :, 0], bands[:, :, 1]
    near = bands[:, :, :_CONTEXT].mean(axis=2)
    kinds = (first, first - mean, 1.5 * first - 0.5 * second - mean, near, mean)
    return np.concatenate([_directions(kind[:, cut]) for cut in _CUTS[:2] for kind in kinds], axis=1)


def _directions(values: Float32Array) -> Float32Array:
    """Vectors of length 1 whose inner products are correlations; short ones, without a shape, stay shorter."""
    centred = values - values.mean(axis=1, keepdims=True)
    return np.asarray(centred / (np.linalg.norm(centred, axis=1, keepdims=True) + _SMALLEST), np.float32)


def _statistics(bands: Float32Array, mean: Float32Array, std: Float32Array) -> Float32Array:
    """Mean, spread and step in time of each bin, and how the cepstrum spreads, in units of the whole image's spread."""
    from scipy.fft import dct

    step = np.abs(np.diff(bands, axis=2)).mean(axis=2)
    centre, scale = np.zeros_like(mean), np.zeros_like(mean)
    for cut in _CUTS:
        centre[:, cut] = mean[:, cut].mean(axis=1, keepdims=True)
        power = (mean[:, cut] ** 2 + std[:, cut] ** 2).mean(axis=1, keepdims=True)
        scale[:, cut] = np.sqrt(np.maximum(power - centre[:, cut][:, :1] ** 2, _SMALLEST**2))
    cepstrum = dct(bands[:, _CUTS[0]], axis=1, norm="ortho")[:, :_CEPSTRUM]
    cepstrum -= cepstrum.mean(axis=2, keepdims=True)
    covariance = cepstrum @ cepstrum.transpose(0, 2, 1) / cepstrum.shape[2]
    spread = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2)) + _SMALLEST
    upper = np.triu_indices(_CEPSTRUM, 1)
    together = (covariance / spread[:, :, None] / spread[:, None, :])[:, upper[0], upper[1]]
    parts = ((mean - centre) / scale, std / scale, step / scale, together, np.log(spread / scale[:, :1]))
    return np.concatenate(parts, axis=1).astype(np.float32)


def _rhythm(mel: Float32Array) -> Float32Array:
    """Autocorrelation of rises in each of four parts of the spectrum."""
    rises = np.maximum(np.diff(mel, axis=2), 0)
    onsets = np.stack([part.mean(axis=1) for part in np.array_split(rises, _ONSET_BANDS, axis=1)], axis=1)
    onsets -= onsets.mean(axis=2, keepdims=True)
    spectrum = np.abs(np.fft.rfft(onsets, 2 * _COLUMNS, axis=2)) ** 2
    lags = np.fft.irfft(spectrum, axis=2)
    shares = np.asarray(lags[:, :, _LAGS] / (lags[:, :, :1] + _SMALLEST**2), np.float32)
    return _directions(shares.reshape(len(mel), RHYTHM))


def centre_places(place: Float32Array) -> Float32Array:
    """Take from slices of one label what they have in common, and make the rest unit vectors.

    With few slices only a part is taken, for their mean says more of themselves than of the label.
    """
    common = place.sum(axis=0) / (len(place) + 2 * _NEAR)
    moved = place - common
    return np.asarray(moved / (np.linalg.norm(moved, axis=1, keepdims=True) + _SMALLEST), np.float32)


# -- pairs of slices -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pairs:
    """Pairs of slices that may be of one track.

    Parameters
    ----------
    first, second : ndarray, int64, shape (pairs,)
        Rows, the lower first; no pair comes twice.
    features : ndarray, float32, shape (pairs, PAIR_FEATURES)
    """

    first: Int64Array
    second: Int64Array
    features: Float32Array

    def log_odds(self, weights: Weights) -> Float32Array:
        """Log-odds of one track, from what is seen of the two alone."""
        return log_odds(self.features, weights.pair_hidden, weights.pair_output)


def log_odds(features: Float32Array, hidden: Float32Array, output: Float32Array) -> Float32Array:
    """Log-odds from a layer of rectified units; the last row of `hidden` and number of `output` are the constants."""
    units = np.maximum(features @ hidden[:-1] + hidden[-1], 0)
    return np.asarray(units @ output[:-1] + output[-1], np.float32)


def find_pairs(slices: SliceFeatures, weights: Weights, tick: Callable[[int], None] | None = None) -> Pairs:
    """Find the pairs worth a look among slices of one label (`place` centred), and measure them.

    Each slice is paired with those that continue it best at the cut and with those most like it. `tick` is called with
    the number of slices that were looked at.
    """
    n = len(slices.place)
    # By the column itself and its surroundings; trends and means are looked at in the chosen pairs only.
    chosen = [kind for kind in range(CONTINUITY) if kind % _SIDES in (0, 3)]
    columns = np.concatenate([np.arange(SIDE_WIDTH)[_side_cut(kind)] for kind in chosen])
    following, _ = _nearest(slices.ends[:, columns], slices.starts[:, columns], _LINKS, tick)
    alike, likeness = _nearest(slices.place, slices.place, _NEIGHBOURS)
    rows = np.concatenate([np.repeat(np.arange(n), near.shape[1]) for near in (following, alike)])
    others = np.concatenate([following.ravel(), alike.ravel()])
    keys = np.unique(np.minimum(rows, others) * n + np.maximum(rows, others))
    first, second = keys // max(n, 1), keys % max(n, 1)
    crowd = likeness[:, :_NEAR].mean(axis=1) if likeness.size else np.zeros(n, np.float32)
    return Pairs(first, second, _measure(slices, first, second, crowd, weights))


def _side_cut(kind: int) -> slice:
    """Where one of the ten unit vectors lies in a side."""
    start = kind * _BANDS[0] if kind < _SIDES else _SIDES * _BANDS[0] + (kind - _SIDES) * _BANDS[1]
    return slice(start, start + _BANDS[kind // _SIDES])


def _nearest(
    left: Float32Array, right: Float32Array, count: int, tick: Callable[[int], None] | None = None
) -> tuple[Int64Array, Float32Array]:
    """For each row of `left` the `count` other rows of `right` with the greatest inner products, greatest first."""
    n = len(left)
    count = max(0, min(count, n - 1))
    found, products = np.zeros((n, count), np.int64), np.zeros((n, count), np.float32)
    for start in range(0, n if count else 0, _BLOCK):
        block = left[start : start + _BLOCK] @ right.T
        here = np.arange(len(block))
        block[here, start + here] = -np.inf
        best = np.argpartition(block, n - count, axis=1)[:, n - count :]
        values = np.take_along_axis(block, best, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        found[start : start + len(block)] = np.take_along_axis(best, order, axis=1)
        products[start : start + len(block)] = np.take_along_axis(values, order, axis=1)
        if tick is not None:
            tick(len(block))
    return found, products


def _measure(
    slices: SliceFeatures, first: Int64Array, second: Int64Array, crowd: Float32Array, weights: Weights
) -> Float32Array:
    """Features of pairs: continuity, its rank among competitors, likeness, likeness in this crowd, rhythm."""
    forth, back = continuity(slices, first, second), continuity(slices, second, first)
    earlier, later = np.concatenate([first, second]), np.concatenate([second, first])
    scores = np.concatenate([forth, back]) @ weights.cut
    by_end, by_start = _compete(scores, earlier, len(crowd)), _compete(scores, later, len(crowd))
    m = len(first)
    forwards = (by_end + by_start)[:m] >= (by_end + by_start)[m:]
    likeness = _inner(slices.place, slices.place, first, second)
    rhythm = _inner(slices.rhythm, slices.rhythm, first, second)
    return np.column_stack(
        [
            np.where(forwards[:, None], forth, back),
            np.where(forwards, by_end[:m], by_end[m:]),
            np.where(forwards, by_start[:m], by_start[m:]),
            likeness,
            likeness - (crowd[first] + crowd[second]) / 2,
            rhythm,
        ]
    ).astype(np.float32)


def continuity(slices: SliceFeatures, earlier: Int64Array, later: Int64Array) -> Float32Array:
    """How well slices go on in others, shape (pairs, CONTINUITY): minus the log of what is missing to correlation 1."""
    found = np.empty((len(earlier), CONTINUITY), np.float32)
    for kind in range(CONTINUITY):
        cut = _side_cut(kind)
        found[:, kind] = _inner(slices.ends[:, cut], slices.starts[:, cut], earlier, later)
    return np.asarray(-np.log(_PERFECT - found), np.float32)


def _inner(left: Float32Array, right: Float32Array, rows: Int64Array, others: Int64Array) -> Float32Array:
    """Inner products of chosen rows, some at a time so that memory stays bounded."""
    found = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), 1 << 16):
        part = slice(start, start + (1 << 16))
        found[part] = np.einsum("ij,ij->i", left[rows[part]], right[others[part]])
    return found


def _compete(scores: Float32Array, owners: Int64Array, n: int) -> Float32Array:
    """Log of each score's share (softmax) among all scores of its owner."""
    most = np.full(n, -np.inf)
    np.maximum.at(most, owners, scores)
    total = np.bincount(owners, np.exp(scores - most[owners]), n)
    return np.asarray(scores - most[owners] - np.log(total[owners]), np.float32)
