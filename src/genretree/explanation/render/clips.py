"""The sound of an explanation: passages, and what is left of them in the frequencies that decided."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from genretree.arrays import Float32Array
from genretree.explanation.result import Explanation, NodeExplanation, Passage
from genretree.files import atomic_path
from genretree.settings import CHROMA_BINS, SAMPLE_RATE

_COVERED = 0.5  # share of the relevance for the node that the chosen bands hold
_WINDOW = 2048  # samples
_FADE = 0.02  # seconds, so that a clip neither begins nor ends with a click
_SMOOTHING = 1.0  # bins of the filter's edges

_CLIP = re.compile(r"(un)?typical-\d+(-relevant)?\.flac")


def write_clips(explanation: Explanation, y: Float32Array, folder: str | Path, sr: int = SAMPLE_RATE) -> list[Path]:
    """Write the most and least typical passages of the node asked for last, and each in its relevant frequencies.

    Parameters
    ----------
    explanation : Explanation
    y : float32 array, shape (samples,)
        The whole track, mono, as the model heard it.
    folder : path
    sr : int
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
            sound = cut_passage(y, passage, sr)
            written.append(write_sound(folder / f"{kind}-{number}.flac", sound, sr))
            row = int(np.abs(explanation.track_slices.starts - passage.start).argmin())
            bands = relevant_bands(reason, row)
            if bands:
                kept = keep_bands(sound, bands, sr)
                written.append(write_sound(folder / f"{kind}-{number}-relevant.flac", kept, sr))
    return written


def cut_passage(y: Float32Array, passage: Passage, sr: int = SAMPLE_RATE) -> Float32Array:
    """Cut a passage out, faded in and out within 20 ms."""
    start, end = round(passage.start * sr), min(round(passage.end * sr), len(y))
    sound = y[start:end].copy()
    fade = min(round(_FADE * sr), len(sound) // 2)
    if fade:
        ramp = np.linspace(0, 1, fade, dtype=np.float32)
        sound[:fade] *= ramp
        sound[-fade:] *= ramp[::-1]
    return sound


def relevant_bands(reason: NodeExplanation, row: int | None = None) -> list[tuple[float, float]]:
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


def keep_bands(y: Float32Array, bands: Sequence[tuple[float, float]], sr: int = SAMPLE_RATE) -> Float32Array:
    """Filter sound to some bands, without moving it in time: a mask on its short-time Fourier transform."""
    from scipy.ndimage import gaussian_filter1d
    from scipy.signal import ShortTimeFFT
    from scipy.signal.windows import hann

    if len(y) < _WINDOW:
        y = np.pad(y, (0, _WINDOW - len(y)))
    transform = ShortTimeFFT(hann(_WINDOW, sym=False), hop=_WINDOW // 4, fs=sr)
    middle = transform.f
    width = sr / _WINDOW / 2
    mask = np.zeros(len(middle))
    for low, high in bands:
        mask[(middle + width > low) & (middle - width < high)] = 1  # no band is too narrow to be heard
    mask = gaussian_filter1d(mask, _SMOOTHING)
    kept: Float32Array = transform.istft(transform.stft(y) * mask[:, None], k1=len(y)).astype(np.float32)
    return kept


def write_sound(path: Path, y: Float32Array, sr: int = SAMPLE_RATE) -> Path:
    """Write mono sound; the suffix says the format."""
    import soundfile

    with atomic_path(path) as temporary:
        soundfile.write(temporary, y, sr, format=path.suffix[1:].upper())
    return path
