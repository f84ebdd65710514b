"""Mel spectrogram at 32 kHz, the input of the audio tagger mn04 (Schmid, Koutini and Widmer 2023).

Pre-emphasis y[t] - 0.97 y[t - 1], STFT (n_fft 1024, symmetric Hann window of 800, hop_length 320, centred), power, 128
Kaldi mel bands from 0 to 15,000 Hz, ln(x + 1e-5), then (x + 4.5) / 5. The level of the audio is preserved.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from genretree.arrays import Float32Array
from genretree.settings import HOP_LENGTH, SAMPLE_RATE, ImageSettings

MEL_32K_RATE = 32000  # Hz
MEL_32K_BANDS = 128
_N_FFT = 1024
_WIN_LENGTH = 800
_HOP_LENGTH = 320
_FMAX = 15000.0  # Hz
_PREEMPHASIS = 0.97
_FRAMES_AT_A_TIME = 2048


def mel_32k_frames(settings: ImageSettings) -> int:
    """Return the number of frames of a slice: 1,141 for 11.4 s."""
    n_samples = round((settings.slice_frames - 1) * HOP_LENGTH * MEL_32K_RATE / SAMPLE_RATE)
    return 1 + (n_samples - 1) // _HOP_LENGTH


def compute_mel_32k(y: Float32Array, sr: int = MEL_32K_RATE) -> Float32Array:
    """Compute the mel spectrogram of samples in memory.

    Parameters
    ----------
    y : float32 array, shape (n_samples,)
        Mono, at least 514 samples.
    sr : int
        Sample rate, 32,000 Hz.

    Returns
    -------
    float32 array, shape (128, 1 + (n_samples - 1) // 320)
        1,000 frames for 10 s.

    Raises
    ------
    ValueError
        If there are fewer samples, or for another sample rate.

    Examples
    --------
    >>> import numpy as np
    >>> from genretree.sound.mel_32k import compute_mel_32k
    >>> compute_mel_32k(np.zeros(320000, np.float32)).shape
    (128, 1000)
    """
    if sr != MEL_32K_RATE:
        raise ValueError(f"sr must be {MEL_32K_RATE} Hz, got {sr}; resample the audio first")
    if len(y) < _N_FFT // 2 + 2:
        raise ValueError(f"mn04 needs at least {_N_FFT // 2 + 2} samples, got {len(y)}")
    from scipy import fft  # imported here, since importing this module must stay fast

    emphasised = y[1:] - np.float32(_PREEMPHASIS) * y[:-1]
    padded = np.pad(emphasised, _N_FFT // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, _N_FFT)[::_HOP_LENGTH]
    window, filters = _window(), _mel_filters()
    mel = np.empty((len(frames), MEL_32K_BANDS), np.float32)
    for start in range(0, len(frames), _FRAMES_AT_A_TIME):
        spectrum = fft.rfft(frames[start : start + _FRAMES_AT_A_TIME] * window, axis=1)[:, :-1]
        power = np.square(spectrum.real) + np.square(spectrum.imag)
        mel[start : start + len(power)] = power @ filters
    normalised: Float32Array = (np.log(mel + np.float32(1e-5)) + np.float32(4.5)) / np.float32(5)
    return normalised.T


@lru_cache(maxsize=1)
def _window() -> Float32Array:
    """A symmetric Hann window of 800 samples in the middle of 1,024."""
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_WIN_LENGTH) / (_WIN_LENGTH - 1))
    left = (_N_FFT - _WIN_LENGTH) // 2
    return np.pad(hann, (left, _N_FFT - _WIN_LENGTH - left)).astype(np.float32)


@lru_cache(maxsize=1)
def _mel_filters() -> Float32Array:
    """Kaldi's mel filters, triangles in mel = 1127 ln(1 + f / 700), without the Nyquist bin: shape (512, 128)."""
    mel = 1127 * np.log1p(np.arange(_N_FFT // 2) * (MEL_32K_RATE / _N_FFT) / 700)
    edges = np.linspace(0, 1127 * np.log1p(_FMAX / 700), MEL_32K_BANDS + 2)
    rise = (mel[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - mel[:, None]) / (edges[2:] - edges[1:-1])
    filters: Float32Array = np.maximum(0, np.minimum(rise, fall)).astype(np.float32)
    return filters
