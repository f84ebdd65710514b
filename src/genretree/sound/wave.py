"""Samples of slices as 16-bit integers at 16 and 48 kHz, the input of networks that take a waveform."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from genretree.arrays import Array, Float32Array
from genretree.settings import HOP_LENGTH, SAMPLE_RATE, ImageSettings

_FULL_SCALE = 32767


def wave_16k_shape(settings: ImageSettings) -> tuple[int, ...]:
    """Return the shape of a slice's samples at 16,000 Hz: 182,044 for 11.4 s."""
    return (_n_samples(settings, 16000),)


def wave_48k_shape(settings: ImageSettings) -> tuple[int, ...]:
    """Return the shape of a slice's samples at 48,000 Hz: 546,133 for 11.4 s."""
    return (_n_samples(settings, 48000),)


def _n_samples(settings: ImageSettings, sr: int) -> int:
    return round((settings.slice_frames - 1) * HOP_LENGTH * sr / SAMPLE_RATE)


def compute_wave(y: Float32Array, sr: int) -> NDArray[np.int16]:
    """Round samples to 16 bits, as on an audio CD; peaks above full scale are clipped.

    Parameters
    ----------
    y : float32 array, shape (n_samples,)
        Mono, nominally in [-1, 1].
    sr : int
        Sample rate in Hz; samples are not resampled.

    Returns
    -------
    int16 array, shape (n_samples,)
    """
    return np.rint(np.clip(y, -1, 1) * _FULL_SCALE).astype(np.int16)


def wave_to_float(wave: Array) -> Float32Array:
    """Convert 16-bit samples to float32 in [-1, 1], of the same shape."""
    return np.asarray(wave, np.float32) / np.float32(_FULL_SCALE)
