"""librosa's filters without librosa, whose import takes longer than processing most tracks.

The filters of mel and CQT are a file of the package, which `benchmarks/sound_filters.py` writes with librosa; the tests
compare it with the installed librosa.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import resources

import numpy as np

from genretree.arrays import Float32Array
from genretree.settings import CHROMA_BINS, N_FFT, SAMPLE_RATE

TUNINGS = 100  # steps from half a semitone below to half a semitone above, librosa's resolution
OCTAVE = 12
FILE = "filters.npz"
_A0_HZ = 27.5
_CENTRE, _WIDTH = 5.0, 2.0  # octaves above A0: centre and standard deviation of the weights of `chroma_filters`


@lru_cache(maxsize=1)
def read_filters() -> dict[str, Float32Array]:
    """Read the filters of mel and CQT.

    Returns
    -------
    dict of float32 arrays
        mel : shape (128, 1025), `librosa.filters.mel` at 22,050 Hz
        mel_16k : shape (96, 257), the same at 16 kHz
        cqt : shape (24, width), filters of the highest octave of `librosa.cqt` in the time domain: real, then imaginary
        cqt_scales : shape (84,), scale of each bin's power
    """
    with resources.files("genretree.sound").joinpath(FILE).open("rb") as stream, np.load(stream) as stored:
        return {name: stored[name] for name in stored.files}


@lru_cache(maxsize=TUNINGS)
def chroma_filters(tuning: float) -> Float32Array:
    """Compute `librosa.filters.chroma` (Ellis 2007) at 22,050 Hz for a tuning.

    Parameters
    ----------
    tuning : float
        Deviation from A440 in semitones.

    Returns
    -------
    float32 array, shape (12, 1025)
    """
    hertz = np.arange(1, N_FFT) * (SAMPLE_RATE / N_FFT)
    bins = CHROMA_BINS * np.log2(hertz / (_A0_HZ * 2.0 ** (tuning / CHROMA_BINS)))
    bins = np.concatenate([[bins[0] - 1.5 * CHROMA_BINS], bins])  # the constant: far from all notes
    widths = np.concatenate([np.maximum(np.diff(bins), 1.0), [1.0]])
    kept = N_FFT // 2 + 1
    bins, widths = bins[:kept], widths[:kept]
    half = CHROMA_BINS // 2
    distances = np.remainder(bins - np.arange(CHROMA_BINS)[:, None] + half + 10 * CHROMA_BINS, CHROMA_BINS) - half
    weights = np.exp(-0.5 * (2 * distances / widths) ** 2)
    weights /= np.sqrt((weights**2).sum(axis=0))
    weights *= np.exp(-0.5 * ((bins / CHROMA_BINS - _CENTRE) / _WIDTH) ** 2)
    filters: Float32Array = np.ascontiguousarray(np.roll(weights, -3 * (CHROMA_BINS // 12), axis=0), np.float32)
    filters.setflags(write=False)
    return filters
