"""The sound of an explanation: passages, and what is left of them in the frequencies that decided."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from genretree.arrays import Float32Array
from genretree.explain.result import Explanation, Passage, Reason
from genretree.files import atomic_path
from genretree.settings import CHROMA_BINS, RATE

_COVERED = 0.5  # share of the relevance for the node that the chosen bands hold
_WINDOW = 2048  # samples
_FADE = 0.02  # seconds, so that a clip neither begins nor ends with a click
_SMOOTHING = 1.0  # bins of the filter's edges

_CLIP = re.compile(r"(un)?typical-\d+(-relevant)?\.flac")


def write_clips(explanation: Explanation, samples: Float32Array, folder: str | Path, rate: int = RATE) -> list[Path]:
    """Write the most and least typical passages of the node asked for last, and each in its relevant frequencies.

    Parameters
    ----------
    explanation : Explanation
    samples : float32 array, shape (samples,)
        The whole track, mono, as the model heard it.
    folder : path
    rate : int
        In Hz.

    Returns
    -------
    list of Path
        `typical-1.flac`, `typical-1-relevant.flac`, ..., `untypical-1.flac`, ... A passage in which nothing speaks for
        the node has no relevant frequencies.
    """
    folder = Path(folder)
    line, reason = explanation.line, explanation.reasons[-1]
    for old in folder.glob("*typical-*.flac"):  # of another question
        if _CLIP.fullmatch(old.name):
            old.unlink()
    written = []
    for kind, passages in (("typical", line.typical), ("untypical", line.untypical)):
        for number, passage in enumerate(passages, start=1):
            sound = cut_passage(samples, passage, rate)
            written.append(write_sound(folder / f"{kind}-{number}.flac", sound, rate))
            row = int(np.abs(explanation.pieces.starts - passage.start).argmin())
            bands = relevant_bands(reason, row)
            if bands:
                kept = keep_bands(sound, bands, rate)
                written.append(write_sound(folder / f"{kind}-{number}-relevant.flac", kept, rate))
    return written


def cut_passage(samples: Float32Array, passage: Passage, rate: int = RATE) -> Float32Array:
    """Cut a passage out, faded in and out within 20 ms."""
    start, end = round(passage.start * rate), min(round(passage.end * rate), len(samples))
    sound = samples[start:end].copy()
    fade = min(round(_FADE * rate), len(sound) // 2)
    if fade:
        ramp = np.linspace(0, 1, fade, dtype=np.float32)
        sound[:fade] *= ramp
        sound[-fade:] *= ramp[::-1]
    return sound


def relevant_bands(reason: Reason, row: int | None = None) -> list[tuple[float, float]]:
    """Give the bands, in Hz, that hold half of what speaks for the node in a slice (in all, if none is named).

    A pitch class stands for its semitones in all octaves of the CQT.
    """
    found: list[tuple[float, float, float]] = []  # relevance, low, high
    for relevance in reason.maps:
        values = relevance.values.sum(axis=0) if row is None else relevance.values[row]
        axis = relevance.axis
        for place, value in enumerate(values.sum(axis=1).tolist()):
            if axis.in_hertz:
                found.append((value, float(axis.edges[place]), float(axis.edges[place + 1])))
            else:
                octaves = _class_bands(place)
                found += [(value / len(octaves), low, high) for low, high in octaves]
    speaking = sorted((item for item in found if item[0] > 0), reverse=True)
    if not speaking:
        return []
    covered = np.cumsum([value for value, _, _ in speaking])
    enough = int(np.searchsorted(covered, _COVERED * covered[-1])) + 1
    return _join_bands([(low, high) for _, low, high in speaking[:enough]])


def _class_bands(number: int) -> list[tuple[float, float]]:
    """Give the semitones of a pitch class in the seven octaves from C1, in Hz."""
    notes = 24 + number + CHROMA_BINS * np.arange(7)
    return [(440 * 2 ** ((note - 69.5) / 12), 440 * 2 ** ((note - 68.5) / 12)) for note in notes.tolist()]


def _join_bands(bands: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    joined: list[tuple[float, float]] = []
    for low, high in sorted(bands):
        if joined and low <= joined[-1][1] * 1.001:
            joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
        else:
            joined.append((low, high))
    return joined


def keep_bands(samples: Float32Array, bands: Sequence[tuple[float, float]], rate: int = RATE) -> Float32Array:
    """Filter sound to some bands, without moving it in time: a mask on its short-time Fourier transform."""
    from scipy.ndimage import gaussian_filter1d
    from scipy.signal import ShortTimeFFT
    from scipy.signal.windows import hann

    if len(samples) < _WINDOW:
        samples = np.pad(samples, (0, _WINDOW - len(samples)))
    transform = ShortTimeFFT(hann(_WINDOW, sym=False), hop=_WINDOW // 4, fs=rate)
    middle = transform.f
    width = rate / _WINDOW / 2
    mask = np.zeros(len(middle))
    for low, high in bands:
        mask[(middle + width > low) & (middle - width < high)] = 1  # no band is too narrow to be heard
    mask = gaussian_filter1d(mask, _SMOOTHING)
    kept: Float32Array = transform.istft(transform.stft(samples) * mask[:, None], k1=len(samples)).astype(np.float32)
    return kept


def write_sound(path: Path, samples: Float32Array, rate: int = RATE) -> Path:
    """Write mono sound; the suffix says the format."""
    import soundfile

    with atomic_path(path) as temporary:
        soundfile.write(temporary, samples, rate, format=path.suffix[1:].upper())
    return path
