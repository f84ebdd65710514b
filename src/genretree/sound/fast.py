"""Mel, CQT and chroma as librosa computes them, in a fraction of its time.

What is different is only the order of the work: mel and chroma share one short-time Fourier transform in single
precision, a few hundred frames at a time, so that it stays in the processor's cache; mel bands are summed over the few
bins that they cover; peaks for the tuning are looked for only where librosa would keep them; and the constant-Q
transform, which librosa takes octave by octave through Fourier transforms of short frames (Schoerkhuber and Klapuri
2010), is a product of those very frames with its filters in time.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from genretree.arrays import Float32Array
from genretree.settings import CHROMA_BINS, CQT_BINS, HOP_LENGTH, N_FFT, N_MELS, SAMPLE_RATE
from genretree.sound.engines import Powers, librosa_powers
from genretree.sound.filters import OCTAVE, TUNINGS, read_filters

_CHUNK = 256  # frames: their powers take 1 MB
_MEL_GROUP = 16  # bands that are summed by one product
_PITCHES = (150.0, 4000.0)  # Hz: where librosa.piptrack looks for the tuning
_PEAK = np.float32(0.1)  # of a frame's maximum: what counts as a peak there
_LOWEST_A = np.float32(27.5)  # Hz
_SAME = 1e-4  # steps between tunings that count as the same


def fast_powers(y: Float32Array, sr: int, tuning: float | None) -> Powers:
    """Compute the three: the fast engine.

    Parameters
    ----------
    y : ndarray, float32, shape (samples,)
        Mono, at least 2,048 samples.
    sr : int
        In Hz. Only 22,050 is computed fast; other rates go to librosa.
    tuning : float or None
        Deviation of the chroma's reference from A440 in fractions of a semitone; None to estimate it.

    Notes
    -----
    Differs from librosa by rounding alone; `tests/sound/test_fast.py` says by how much.
    """
    if sr != SAMPLE_RATE:
        return librosa_powers(y, sr, tuning)
    stream = FastStream()
    stream.add(y)
    return stream.finish(tuning)


class FastStream:
    """The fast engine for sound that comes piece by piece, at 22,050 Hz: most of it is done when the last piece comes.

    Gives to the last digit what `fast_powers` gives of all pieces together.
    """

    def __init__(self) -> None:
        self.y = 0
        self._pieces: list[Float32Array] = []
        self._waiting = np.zeros(N_FFT // 2, np.float32)  # frames are centred
        self._mel: list[Float32Array] = []
        self._power: list[Float32Array] = []
        self._peaks: list[_Peaks] = []

    def add(self, y: Float32Array) -> None:
        """Take the next piece, shape (samples,)."""
        self.y += len(y)
        self._pieces.append(y)
        self._waiting = np.concatenate([self._waiting, y])
        while len(self._waiting) >= (_CHUNK - 1) * HOP_LENGTH + N_FFT:
            self._transform(_CHUNK)

    def take(self) -> Float32Array:
        """Give all samples back, shape (samples,)."""
        whole = self._pieces[0] if len(self._pieces) == 1 else np.concatenate([np.zeros(0, np.float32), *self._pieces])
        self._pieces = [whole]
        return whole

    def tuning(self) -> float:
        """Estimate the tuning of all that was taken, as `genretree.sound.engines.estimate_tuning`; no more may come."""
        left = 1 + self.y // HOP_LENGTH - sum(map(len, self._power))
        if left:
            self._waiting = np.concatenate([self._waiting, np.zeros(N_FFT, np.float32)])
            self._transform(left)
        return _tuning(self._peaks)

    def finish(self, tuning: float | None) -> Powers:
        """Give the powers of all that was taken; None to estimate the tuning."""
        estimated = self.tuning()
        if tuning is None:
            tuning = estimated
        with ThreadPoolExecutor(1) as pool:
            cqt = pool.submit(_cqt, self.take())
            filters = _chroma_filters(tuning)
            chroma = np.concatenate([filters @ piece.T for piece in self._power], axis=1)
            highest = chroma.max(axis=0)
            highest[highest < np.finfo(np.float32).tiny] = 1
            chroma /= highest
            return Powers(np.concatenate(self._mel, axis=1), cqt.result(), np.square(chroma), tuning)

    def _transform(self, count: int) -> None:
        """Work off so many frames."""
        power = np.empty((count, 1 + N_FFT // 2), np.float32)
        windows = np.lib.stride_tricks.sliding_window_view(self._waiting, N_FFT)[: count * HOP_LENGTH : HOP_LENGTH]
        frame_powers(windows, power)
        mel = np.empty((N_MELS, count), np.float32)
        for group in _mel_filters():
            np.matmul(group.weights, power[:, group.bins].T, out=mel[group.bands])
        self._mel.append(mel)
        self._power.append(power)
        self._peaks.append(_find_peaks(power))
        self._waiting = self._waiting[count * HOP_LENGTH :]


# ---------------------------------------------------------------------------------------------------------------------
# Short-time Fourier transform


def _frames(y: Float32Array, width: int, hop_length: int, count: int) -> Float32Array:
    """Give frames centred on every `hop_length`-th sample, zeros beyond the ends: a view, shape (count, width)."""
    needed = (count - 1) * hop_length + width
    padded = np.zeros(max(needed, len(y) + width), np.float32)
    padded[width // 2 : width // 2 + len(y)] = y
    return np.lib.stride_tricks.sliding_window_view(padded, width)[: needed - width + 1 : hop_length]


def frame_powers(windows: Float32Array, out: Float32Array) -> None:
    """Write the powers of frames, shape (n, width), under a Hann window into an array of shape (n, 1 + width // 2)."""
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
    """Neighbouring mel bands and the bins that they cover."""

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


def _chroma_filters(tuning: float) -> Float32Array:
    place = (tuning + 0.5) * TUNINGS
    if abs(place - round(place)) < _SAME and 0 <= round(place) < TUNINGS:
        kept: Float32Array = read_filters()["chroma"][round(place)]
        return kept
    import librosa

    found: Float32Array = librosa.filters.chroma(sr=SAMPLE_RATE, n_fft=N_FFT, tuning=tuning, n_chroma=CHROMA_BINS)
    return found


class _Peaks(NamedTuple):
    """Peaks of a spectrum: their pitches in Hz and their powers."""

    pitches: Float32Array
    strengths: Float32Array


def _find_peaks(power: Float32Array) -> _Peaks:
    """Find the peaks of frames, shape (frames, 1025), as librosa.piptrack does: by a parabola through three bins."""
    low, high = (int(np.ceil(hertz * N_FFT / SAMPLE_RATE)) for hertz in _PITCHES)
    left, middle, right = power[:, low - 1 : high - 1], power[:, low:high], power[:, low + 1 : high + 1]
    found = middle > _PEAK * power.max(axis=1, keepdims=True)
    found &= middle > left
    found &= middle >= right
    frame, place = np.nonzero(found)
    before, here, after = left[frame, place], middle[frame, place], right[frame, place]
    curve, slope = after + before - 2 * here, (after - before) / 2
    inside = np.abs(slope) < np.abs(curve)
    shift = np.where(inside, -slope / np.where(inside, curve, 1), 0)
    pitches = (low + place + shift) * (SAMPLE_RATE / N_FFT)
    return _Peaks(np.asarray(pitches, np.float32), np.asarray(here + slope * shift / 2, np.float32))


def _tuning(peaks: list[_Peaks]) -> float:
    pitches, strengths = (np.concatenate(parts) for parts in zip(*peaks, strict=True))
    if not len(pitches):
        return 0.0
    return pitch_tuning(pitches[strengths >= np.median(strengths)])


def pitch_tuning(pitches: Float32Array) -> float:
    """Give the deviation from A440 that most pitches in Hz share, as `librosa.pitch_tuning`: -0.5 to 0.49 semitones."""
    above = np.mod(CHROMA_BINS * np.log2(pitches / _LOWEST_A), 1)
    above[above >= 0.5] -= 1
    counts, edges = np.histogram(above, np.linspace(-0.5, 0.5, TUNINGS + 1))
    return float(edges[counts.argmax()])


# ---------------------------------------------------------------------------------------------------------------------
# Constant-Q transform


def _cqt(y: Float32Array) -> Float32Array:
    """Compute the powers of librosa.cqt with its default arguments, shape (84, frames)."""
    import soxr

    filters = read_filters()
    kernels, scales = filters["cqt"], filters["cqt_scales"]
    hop_length = HOP_LENGTH
    with ThreadPoolExecutor(1) as pool:  # filters an octave while the next one is resampled
        futures = [pool.submit(_octave, y, kernels, hop_length)]
        for _ in range(1, CQT_BINS // OCTAVE):
            halved = soxr.resample(y, 2, 1, quality="soxr_hq")
            wanted = (len(y) + 1) // 2
            y = np.zeros(wanted, np.float32)
            y[: len(halved)] = halved[:wanted]
            y *= np.float32(np.sqrt(2))
            hop_length //= 2
            futures.append(pool.submit(_octave, y, kernels, hop_length))
        octaves = [future.result() for future in futures]
    shortest = min(part.shape[1] for part in octaves)
    return np.concatenate([part[:, :shortest] for part in reversed(octaves)]) * scales[:, None]


def _octave(y: Float32Array, kernels: Float32Array, hop_length: int) -> Float32Array:
    """Compute the powers of an octave's bins, shape (12, frames)."""
    frames = _frames(y, kernels.shape[1], hop_length, 1 + len(y) // hop_length)
    power = np.empty((OCTAVE, len(frames)), np.float32)
    for start in range(0, len(frames), _CHUNK):
        # Overlapping frames must be laid out apart for a fast product.
        parts = kernels @ np.ascontiguousarray(frames[start : start + _CHUNK]).T
        np.square(parts, out=parts)
        np.add(parts[:OCTAVE], parts[OCTAVE:], out=power[:, start : start + _CHUNK])
    return power
