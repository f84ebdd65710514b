"""Slaney's mel scale as in librosa, without the two seconds that importing librosa takes."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from genretree.arrays import Float64Array

_LINEAR_HZ = 200 / 3  # for each mel below 1 kHz
_LOG_START_HZ = 1000.0
_LOG_START_MEL = _LOG_START_HZ / _LINEAR_HZ
_LOG_STEP = np.log(6.4) / 27  # for each mel above 1 kHz


def hz_to_mel(hertz: ArrayLike) -> Float64Array:
    """Convert frequencies in Hz to mel, as `librosa.hz_to_mel` does."""
    values = np.asarray(hertz, dtype=np.float64)
    log = _LOG_START_MEL + np.log(np.maximum(values, _LOG_START_HZ) / _LOG_START_HZ) / _LOG_STEP
    return np.where(values >= _LOG_START_HZ, log, values / _LINEAR_HZ)


def mel_to_hz(mels: ArrayLike) -> Float64Array:
    """Convert mel to frequencies in Hz, as `librosa.mel_to_hz` does."""
    values = np.asarray(mels, dtype=np.float64)
    log = _LOG_START_HZ * np.exp(_LOG_STEP * (values - _LOG_START_MEL))
    return np.where(values >= _LOG_START_MEL, log, _LINEAR_HZ * values)


def mel_frequencies(n: int, fmax: float) -> Float64Array:
    """Return `n` frequencies in Hz from 0 to `fmax` that are evenly spaced in mel, as `librosa.mel_frequencies`."""
    return mel_to_hz(np.linspace(0.0, hz_to_mel(fmax), n))
