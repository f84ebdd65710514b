"""librosa's filters, worked out once and kept: to import librosa takes longer than to read and draw most tracks."""

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

TUNINGS = 100  # steps between half a semitone below and above; what librosa tells apart
OCTAVE = 12
_SPARSITY = 0.01  # share of each filter's spectrum that librosa.cqt leaves out
_KIND = 1  # another number, other filters: those that were kept are worked out anew


@lru_cache(maxsize=1)
def read_filters() -> dict[str, Float32Array]:
    """Read the filters from the user's cache, or work them out by librosa and keep them there.

    Returns
    -------
    dict of float32 arrays
        mel : shape (128, 1025), `librosa.filters.mel` at 22,050 Hz
        mel_16k : shape (96, 257), the same at 16 kHz
        chroma : shape (100, 12, 1025), `librosa.filters.chroma` for tunings from -0.5 in steps of 0.01 semitones
        cqt : shape (24, width), `librosa.cqt`'s filters of its highest octave in time: real parts, then imaginary ones
        cqt_scales : shape (84,), what scales each bin's power
    """
    path = cache_folder() / f"filters-{_KIND}-librosa-{version('librosa')}.safetensors"
    kept = _read(path)
    if kept is not None:
        return kept
    made = _work_out()
    try:
        with atomic_path(path) as temporary:
            save_file(made, temporary, {"digest": _digest(made)})
    except OSError:  # no place to keep them: they are worked out each time
        pass
    return made


def _read(path: Path) -> dict[str, Float32Array] | None:
    """Read what was kept; None if it isn't there or not what was written."""
    try:
        with safe_open(path, "np") as stored:
            found = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (no mapping)
            digest = (stored.metadata() or {}).get("digest")
    except (OSError, SafetensorError):
        return None
    return found if digest == _digest(found) else None


def _digest(arrays: dict[str, Float32Array]) -> str:
    content = hashlib.sha256()
    for name in sorted(arrays):
        content.update(json.dumps([name, arrays[name].shape, str(arrays[name].dtype)]).encode())
        content.update(np.ascontiguousarray(arrays[name]).data)
    return content.hexdigest()


def _work_out() -> dict[str, Float32Array]:
    import librosa

    kernels, scales = _cqt_kernels()
    tunings = np.linspace(-0.5, 0.5, TUNINGS + 1)[:-1]
    chroma = [
        librosa.filters.chroma(sr=SAMPLE_RATE, n_fft=N_FFT, tuning=tuning, n_chroma=CHROMA_BINS) for tuning in tunings
    ]
    found = {
        "mel": librosa.filters.mel(sr=SAMPLE_RATE, n_fft=N_FFT, n_mels=N_MELS),
        "mel_16k": librosa.filters.mel(sr=MEL_16K_RATE, n_fft=MEL_16K_FFT, n_mels=MEL_16K_BANDS),
        "chroma": np.stack(chroma),
        "cqt": kernels,
        "cqt_scales": scales,
    }
    return {name: np.ascontiguousarray(values, np.float32) for name, values in found.items()}


def _cqt_kernels() -> tuple[Float32Array, Float32Array]:
    """Give the filters of an octave in time, and what scales each bin's power.

    Every octave is taken at half the rate of the one above, so the same filters serve all of them.
    """
    import librosa

    lowest = float(librosa.note_to_hz("C1"))
    top = librosa.cqt_frequencies(n_bins=CQT_BINS, fmin=lowest)[-OCTAVE:]
    # The width of every filter's band, which librosa works out from its neighbours, here from the whole scale's ratio.
    filters, lengths = librosa.filters.wavelet(freqs=top, sr=SAMPLE_RATE, pad_fft=True, alpha=_bandwidth())
    width = filters.shape[1]
    spectra = np.fft.fft(filters * (lengths[:, None] / width), axis=1)[:, : width // 2 + 1]
    kept = librosa.util.sparsify_rows(spectra, quantile=_SPARSITY, dtype=np.complex64).toarray()
    turns = np.exp(-2j * np.pi * np.outer(np.arange(width // 2 + 1), np.arange(width)) / width)
    kernels = kept @ turns
    both = np.concatenate([kernels.real, kernels.imag])
    # An octave down librosa doubles the power for the halved rate, and divides it by the doubled length of the filter.
    return both, np.tile(1 / lengths, CQT_BINS // OCTAVE)


def _bandwidth() -> float:
    """Give the relative bandwidth of a filter in equal temperament."""
    ratio = 2 ** (2 / OCTAVE)
    return (ratio - 1) / (ratio + 1)
