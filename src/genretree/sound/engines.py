"""Spectral engines, which compute the power of mel, CQT and chroma: the librosa reference, and their interface."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from getpass import getuser
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from genretree.arrays import Float32Array
from genretree.settings import CHROMA_BINS, CQT_BINS, HOP_LENGTH, N_FFT, N_MELS, SAMPLE_RATE

_CHUNK_FRAMES = 1024
_COMPILED = ("util", "core.audio", "core.spectrum", "core.pitch", "core.constantq")  # librosa's modules with numba code
_COMPILE_SECONDS = 120.0  # far more than compiling takes


class Powers(NamedTuple):
    """Result of an engine: power before the logarithm, each of shape (bins, frames), and the tuning used."""

    mel: Float32Array
    cqt: Float32Array
    chroma: Float32Array
    tuning: float


Engine = Callable[[Float32Array, int, float | None], Powers]


@lru_cache(maxsize=1)
def import_librosa() -> Any:
    """Import librosa and its compiled functions, in one process at a time.

    Processes that compile them at the same time, as after an installation, can leave a cache that crashes every
    process (https://github.com/numba/numba/issues/10128).

    Returns
    -------
    module
        librosa.
    """
    from filelock import FileLock

    # Not in genretree's cache, which `GENRETREE_CACHE` moves: numba's cache stays where it is.
    owner = os.getuid() if hasattr(os, "getuid") else getuser()
    lock = FileLock(Path(tempfile.gettempdir()) / f"genretree-librosa-{owner}.lock", timeout=_COMPILE_SECONDS)
    with suppress(OSError):  # a lock that can't be had, as on a read-only disk, where numba has no cache either
        lock.acquire()
    try:
        for module in _COMPILED:
            import_module(f"librosa.{module}")
        return import_module("librosa")
    finally:
        lock.release()


def compute_powers_librosa(y: Float32Array, sr: int, tuning: float | None) -> Powers:
    """Compute the power of mel, CQT and chroma with librosa, the reference.

    Parameters
    ----------
    y : ndarray, float32, shape (samples,)
        Mono, at least 2,048 samples.
    sr : int
        Sample rate in Hz.
    tuning : float or None
        Deviation of the chroma's reference from A440 in fractions of a semitone; None to estimate it.

    Notes
    -----
    `melspectrogram`, `cqt` and `chroma_stft` with their default arguments; the first and last share one STFT.
    """
    librosa = import_librosa()
    power = np.abs(librosa.stft(y, n_fft=N_FFT, hop_length=HOP_LENGTH)) ** 2
    if tuning is None:
        chunks = (power[:, at : at + _CHUNK_FRAMES] for at in range(0, power.shape[1], _CHUNK_FRAMES))
        tuning = _tuning_of_powers(chunks, sr)
    mel = librosa.feature.melspectrogram(S=power, sr=sr, n_mels=N_MELS)
    chroma = librosa.feature.chroma_stft(S=power, sr=sr, n_chroma=CHROMA_BINS, tuning=tuning)
    del power
    cqt = librosa.cqt(y, sr=sr, hop_length=HOP_LENGTH, n_bins=CQT_BINS)
    return Powers(mel, np.abs(cqt) ** 2, np.abs(chroma) ** 2, tuning)


def estimate_tuning(y: Float32Array, sr: int = SAMPLE_RATE) -> float:
    """Estimate the tuning of a track as `librosa.feature.chroma_stft` does, in bounded memory.

    Parameters
    ----------
    y : ndarray, float32, shape (samples,)
        Mono and finite, at least 2,048 samples.
    sr : int
        Sample rate in Hz.

    Returns
    -------
    float
        Deviation from A440 in fractions of a semitone, -0.5 to 0.5.
    """
    return _tuning_of_powers(_power_chunks(y), sr)


def _power_chunks(y: Float32Array) -> Iterator[Float32Array]:
    """Yield the power of the STFT, shape (1025, up to 1024 frames) at a time."""
    librosa = import_librosa()
    n_frames = 1 + len(y) // HOP_LENGTH
    context_frames = N_FFT // HOP_LENGTH
    for start in range(0, n_frames, _CHUNK_FRAMES):
        n_before = min(start, context_frames)
        segment = y[(start - n_before) * HOP_LENGTH : (start + _CHUNK_FRAMES + context_frames) * HOP_LENGTH]
        power = np.abs(librosa.stft(segment, n_fft=N_FFT, hop_length=HOP_LENGTH)) ** 2
        yield power[:, n_before : n_before + min(_CHUNK_FRAMES, n_frames - start)]


def _tuning_of_powers(chunks: Iterable[Float32Array], sr: int) -> float:
    """Estimate the tuning as `librosa.estimate_tuning`, which needs several times the spectrogram's memory."""
    librosa = import_librosa()
    pitches, magnitudes = [np.zeros(0, np.float32)], [np.zeros(0, np.float32)]
    for power in chunks:
        pitch, magnitude = librosa.piptrack(S=power, sr=sr)
        is_pitched = pitch > 0
        pitches.append(pitch[is_pitched])
        magnitudes.append(magnitude[is_pitched])
    pitch, magnitude = np.concatenate(pitches), np.concatenate(magnitudes)
    if len(pitch):
        pitch = pitch[magnitude >= np.median(magnitude)]
    return float(librosa.pitch_tuning(pitch, bins_per_octave=CHROMA_BINS))
