"""Cached librosa filters: importing librosa takes longer than processing most tracks."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from genretree.arrays import Float32Array
from genretree.files import atomic_path, cache_folder
from genretree.settings import (
    CHROMA_BINS,
    CQT_BINS,
    MEL_16K_BANDS,
    MEL_16K_FFT,
    MEL_16K_RATE,
    N_FFT,
    N_MELS,
    SAMPLE_RATE,
)

TUNINGS = 100  # steps from half a semitone below to half a semitone above, librosa's resolution
OCTAVE = 12
_SPARSITY = 0.01  # share of each filter's spectrum that librosa.cqt drops
_FILTERS_VERSION = 1  # increase it to invalidate cached filters


@lru_cache(maxsize=1)
def read_filters() -> dict[str, Float32Array]:
    """Read the filters from the user's cache, or compute them with librosa and cache them.

    Returns
    -------
    dict of float32 arrays
        mel : shape (128, 1025), `librosa.filters.mel` at 22,050 Hz
        mel_16k : shape (96, 257), the same at 16 kHz
        chroma : shape (100, 12, 1025), `librosa.filters.chroma` for tunings from -0.5 in steps of 0.01 semitones
        cqt : shape (24, width), filters of the highest octave of `librosa.cqt` in the time domain: real, then imaginary
        cqt_scales : shape (84,), scale of each bin's power
    """
    path = cache_folder() / f"filters-{_FILTERS_VERSION}-librosa-{version('librosa')}.safetensors"
    cached = _read(path)
    if cached is not None:
        return cached
    filters = _compute_filters()
    try:
        with atomic_path(path) as temporary:
            save_file(filters, temporary, {"digest": _digest(filters)})
    except OSError:  # the cache is not writable: compute them each time
        pass
    return filters


def _read(path: Path) -> dict[str, Float32Array] | None:
    """Read the cached filters; None if they are missing or damaged."""
    try:
        with safe_open(path, "np") as stored:
            arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (not a mapping)
            digest = (stored.metadata() or {}).get("digest")
    except (OSError, SafetensorError):
        return None
    return arrays if digest == _digest(arrays) else None


def _digest(arrays: dict[str, Float32Array]) -> str:
    content = hashlib.sha256()
    for name in sorted(arrays):
        content.update(json.dumps([name, arrays[name].shape, str(arrays[name].dtype)]).encode())
        content.update(np.ascontiguousarray(arrays[name]).data)
    return content.hexdigest()


def _compute_filters() -> dict[str, Float32Array]:
    import librosa

    kernels, scales = _cqt_kernels()
    tunings = np.linspace(-0.5, 0.5, TUNINGS + 1)[:-1]
    chroma = [
        librosa.filters.chroma(sr=SAMPLE_RATE, n_fft=N_FFT, tuning=tuning, n_chroma=CHROMA_BINS) for tuning in tunings
    ]
    arrays = {
        "mel": librosa.filters.mel(sr=SAMPLE_RATE, n_fft=N_FFT, n_mels=N_MELS),
        "mel_16k": librosa.filters.mel(sr=MEL_16K_RATE, n_fft=MEL_16K_FFT, n_mels=MEL_16K_BANDS),
        "chroma": np.stack(chroma),
        "cqt": kernels,
        "cqt_scales": scales,
    }
    return {name: np.ascontiguousarray(values, np.float32) for name, values in arrays.items()}


def _cqt_kernels() -> tuple[Float32Array, Float32Array]:
    """Return the filters of an octave in the time domain, and the scale of each bin's power.

    Each octave is computed at half the sample rate of the one above, so the same filters apply to all.
    """
    import librosa

    lowest = float(librosa.note_to_hz("C1"))
    top = librosa.cqt_frequencies(n_bins=CQT_BINS, fmin=lowest)[-OCTAVE:]
    # The bandwidth of every filter, which librosa derives from its neighbours, here from the ratio of the scale.
    filters, lengths = librosa.filters.wavelet(freqs=top, sr=SAMPLE_RATE, pad_fft=True, alpha=_bandwidth())
    width = filters.shape[1]
    spectra = np.fft.fft(filters * (lengths[:, None] / width), axis=1)[:, : width // 2 + 1]
    cached = librosa.util.sparsify_rows(spectra, quantile=_SPARSITY, dtype=np.complex64).toarray()
    inverse_dft = np.exp(-2j * np.pi * np.outer(np.arange(width // 2 + 1), np.arange(width)) / width)
    kernels = cached @ inverse_dft
    both = np.concatenate([kernels.real, kernels.imag])
    # For each lower octave, librosa doubles the power for the halved rate and divides it by the doubled filter length.
    return both, np.tile(1 / lengths, CQT_BINS // OCTAVE)


def _bandwidth() -> float:
    """Return the relative bandwidth of a filter in equal temperament."""
    ratio = 2 ** (2 / OCTAVE)
    return (ratio - 1) / (ratio + 1)
