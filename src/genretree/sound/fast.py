"""Fast mel, CQT and chroma, equal to librosa's up to rounding.

Only the order of the computation differs. Mel and chroma share one short-time Fourier transform in single precision,
a few hundred frames at a time, so that it stays in the processor's cache. Mel bands are summed over the few bins they
cover. Peaks for the tuning are searched only where librosa would keep them. The constant-Q transform, which librosa
computes octave by octave from Fourier transforms of short frames (Schoerkhuber and Klapuri 2010), is a product of the
same frames with its filters in the time domain.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from genretree.arrays import Float32Array
from genretree.settings import CHROMA_BINS, CQT_BINS, HOP_LENGTH, N_FFT, N_MELS, SAMPLE_RATE
from genretree.sound.engines import Powers, compute_powers_librosa
from genretree.sound.filters import OCTAVE, TUNINGS, chroma_filters, read_filters

_CHUNK = 256  # frames: their power takes 1 MB
_MEL_GROUP = 16  # bands summed in one matrix product
_PITCH_RANGE = (150.0, 4000.0)  # Hz: the default range of librosa.piptrack
_PEAK_THRESHOLD = np.float32(0.1)  # share of a frame's maximum: the default threshold of librosa.piptrack
_A0_HZ = np.float32(27.5)  # Hz


def compute_powers_fast(y: Float32Array, sr: int, tuning: float | None) -> Powers:
    """Compute the power of mel, CQT and chroma with the fast engine.

    Parameters
    ----------
    y : ndarray, float32, shape (samples,)
        Mono, at least 2,048 samples.
    sr : int
        Sample rate in Hz. Only 22,050 Hz is fast; other rates are computed with librosa.
    tuning : float or None
        Deviation of the chroma's reference from A440 in fractions of a semitone; None to estimate it.

    Notes
    -----
    Differs from librosa only by rounding; `tests/sound/test_fast.py` states by how much.
    """
    if sr != SAMPLE_RATE:
        return compute_powers_librosa(y, sr, tuning)
    stream = FastStream()
    stream.add(y)
    return stream.finish(tuning)


class FastStream:
    """The fast engine for audio that arrives block by block, at 22,050 Hz: computes while blocks arrive.

    The result is bit-identical to `compute_powers_fast` of all blocks together.
    """

    def __init__(self) -> None:
        self.n_samples = 0
        self._blocks: list[Float32Array] = []
        self._pending = np.zeros(N_FFT // 2, np.float32)  # frames are centred
        self._mel: list[Float32Array] = []
        self._power: list[Float32Array] = []
        self._peaks: list[_Peaks] = []

    def add(self, y: Float32Array) -> None:
        """Add the next block, shape (n_samples,)."""
        self.n_samples += len(y)
        self._blocks.append(y)
        self._pending = np.concatenate([self._pending, y])
        while len(self._pending) >= (_CHUNK - 1) * HOP_LENGTH + N_FFT:
            self._transform(_CHUNK)

    def samples(self) -> Float32Array:
        """Return all samples, shape (n_samples,)."""
        whole = self._blocks[0] if len(self._blocks) == 1 else np.concatenate([np.zeros(0, np.float32), *self._blocks])
        self._blocks = [whole]
        return whole

    def tuning(self) -> float:
        """Estimate the tuning of all blocks as `engines.estimate_tuning`; no more blocks may be added."""
        n_left = 1 + self.n_samples // HOP_LENGTH - sum(map(len, self._power))
        if n_left:
            self._pending = np.concatenate([self._pending, np.zeros(N_FFT, np.float32)])
            self._transform(n_left)
        return _tuning(self._peaks)

    def finish(self, tuning: float | None) -> Powers:
        """Return the power of all blocks; None to estimate the tuning."""
        estimated = self.tuning()
        if tuning is None:
            tuning = estimated
        with ThreadPoolExecutor(1) as pool:
            cqt = pool.submit(_cqt, self.samples())
            filters = chroma_filters(tuning)
            chroma = np.concatenate([filters @ block_power.T for block_power in self._power], axis=1)
            frame_max = chroma.max(axis=0)
            frame_max[frame_max < np.finfo(np.float32).tiny] = 1
            chroma /= frame_max
            return Powers(np.concatenate(self._mel, axis=1), cqt.result(), np.square(chroma), tuning)

    def _transform(self, count: int) -> None:
        """Transform the next `count` frames."""
        power = np.empty((count, 1 + N_FFT // 2), np.float32)
        windows = np.lib.stride_tricks.sliding_window_view(self._pending, N_FFT)[: count * HOP_LENGTH : HOP_LENGTH]
        frame_powers(windows, power)
        mel = np.empty((N_MELS, count), np.float32)
        for group in _mel_filters():
            np.matmul(group.weights, power[:, group.bins].T, out=mel[group.bands])
        self._mel.append(mel)
        self._power.append(power)
        self._peaks.append(_find_spectral_peaks(power))
        self._pending = self._pending[count * HOP_LENGTH :]


# ---------------------------------------------------------------------------------------------------------------------
# Short-time Fourier transform


def _frames(y: Float32Array, width: int, hop_length: int, count: int) -> Float32Array:
    """Return frames centred on every `hop_length`-th sample, zero-padded: a view, shape (count, width)."""
    needed = (count - 1) * hop_length + width
    padded = np.zeros(max(needed, len(y) + width), np.float32)
    padded[width // 2 : width // 2 + len(y)] = y
    return np.lib.stride_tricks.sliding_window_view(padded, width)[: needed - width + 1 : hop_length]


def frame_powers(windows: Float32Array, out: Float32Array) -> None:
    """Write the power of Hann-windowed frames, shape (n, width), into an array of shape (n, 1 + width // 2)."""
    from scipy import fft

    spectrum = fft.rfft(windows * _hann(windows.shape[1]), axis=1).view(np.float32)
    np.square(spectrum, out=spectrum)
    np.add(spectrum[:, ::2], spectrum[:, 1::2], out=out)


@lru_cache(maxsize=4)
def _hann(width: int) -> Float32Array:
    return np.asarray(np.hanning(width + 1)[:-1], np.float32)  # periodic


# ---------------------------------------------------------------------------------------------------------------------
# Mel and chroma


class _MelGroup(NamedTuple):
    """Adjacent mel bands and the bins that they cover."""

    bands: slice
    bins: slice
    weights: Float32Array


@lru_cache(maxsize=1)
def _mel_filters() -> tuple[_MelGroup, ...]:
    weights = read_filters()["mel"]
    groups = []
    for first in range(0, N_MELS, _MEL_GROUP):
        bands = slice(first, first + _MEL_GROUP)
        used = np.flatnonzero(weights[bands].any(axis=0))
        bins = slice(int(used[0]), int(used[-1]) + 1)
        groups.append(_MelGroup(bands, bins, np.ascontiguousarray(weights[bands, bins])))
    return tuple(groups)


class _Peaks(NamedTuple):
    """Peaks of a spectrum: their pitches in Hz and their power."""

    pitches: Float32Array
    magnitudes: Float32Array


def _find_spectral_peaks(power: Float32Array) -> _Peaks:
    """Find the peaks of frames, shape (frames, 1025), by parabolic interpolation as librosa.piptrack does."""
    low, high = (int(np.ceil(hertz * N_FFT / SAMPLE_RATE)) for hertz in _PITCH_RANGE)
    n_left, middle, right = power[:, low - 1 : high - 1], power[:, low:high], power[:, low + 1 : high + 1]
    is_peak = middle > _PEAK_THRESHOLD * power.max(axis=1, keepdims=True)
    is_peak &= middle > n_left
    is_peak &= middle >= right
    frame, position = np.nonzero(is_peak)
    before, here, after = n_left[frame, position], middle[frame, position], right[frame, position]
    curvature, slope = after + before - 2 * here, (after - before) / 2
    is_interior = np.abs(slope) < np.abs(curvature)
    shift = np.where(is_interior, -slope / np.where(is_interior, curvature, 1), 0)
    pitches = (low + position + shift) * (SAMPLE_RATE / N_FFT)
    return _Peaks(np.asarray(pitches, np.float32), np.asarray(here + slope * shift / 2, np.float32))


def _tuning(peaks: list[_Peaks]) -> float:
    pitches, magnitudes = (np.concatenate(parts) for parts in zip(*peaks, strict=True))
    if not len(pitches):
        return 0.0
    return pitch_tuning(pitches[magnitudes >= np.median(magnitudes)])


def pitch_tuning(pitches: Float32Array) -> float:
    """Return the most frequent deviation of pitches in Hz from A440, as `librosa.pitch_tuning`: -0.5 to 0.49."""
    deviation = np.mod(CHROMA_BINS * np.log2(pitches / _A0_HZ), 1)
    deviation[deviation >= 0.5] -= 1
    counts, edges = np.histogram(deviation, np.linspace(-0.5, 0.5, TUNINGS + 1))
    return float(edges[counts.argmax()])


# ---------------------------------------------------------------------------------------------------------------------
# Constant-Q transform


def _cqt(y: Float32Array) -> Float32Array:
    """Compute the power of librosa.cqt with its default arguments, shape (84, frames)."""
    import soxr

    filters = read_filters()
    kernels, scales = filters["cqt"], filters["cqt_scales"]
    hop_length = HOP_LENGTH
    with ThreadPoolExecutor(1) as pool:  # filters an octave while the next one is resampled
        futures = [pool.submit(_octave, y, kernels, hop_length)]
        for _ in range(1, CQT_BINS // OCTAVE):
            halved = soxr.resample(y, 2, 1, quality="soxr_hq")
            n_halved = (len(y) + 1) // 2
            y = np.zeros(n_halved, np.float32)
            y[: len(halved)] = halved[:n_halved]
            y *= np.float32(np.sqrt(2))
            hop_length //= 2
            futures.append(pool.submit(_octave, y, kernels, hop_length))
        octaves = [future.result() for future in futures]
    shortest = min(part.shape[1] for part in octaves)
    return np.concatenate([part[:, :shortest] for part in reversed(octaves)]) * scales[:, None]


def _octave(y: Float32Array, kernels: Float32Array, hop_length: int) -> Float32Array:
    """Compute the power of an octave's bins, shape (12, frames)."""
    frames = _frames(y, kernels.shape[1], hop_length, 1 + len(y) // hop_length)
    power = np.empty((OCTAVE, len(frames)), np.float32)
    for start in range(0, len(frames), _CHUNK):
        # A contiguous copy of the overlapping frames makes the product fast.
        parts = kernels @ np.ascontiguousarray(frames[start : start + _CHUNK]).T
        np.square(parts, out=parts)
        np.add(parts[:OCTAVE], parts[OCTAVE:], out=power[:, start : start + _CHUNK])
    return power
