"""Audio clips of an explanation: typical passages, and the same passages filtered to the relevant bands."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from genretree.arrays import Float32Array
from genretree.explanation.result import Explanation, NodeExplanation
from genretree.files import atomic_path
from genretree.settings import CHROMA_BINS, SAMPLE_RATE

_COVERED_SHARE = 0.5  # share of the positive relevance that the selected bands cover
_WINDOW = 2048  # samples
_FADE = 0.02  # seconds; avoids clicks at the start and end of a clip
_SMOOTHING = 1.0  # standard deviation of the filter edges in bins

_CLIP = re.compile(r"(un)?typical-\d+(-relevant)?\.flac")


def write_clips(explanation: Explanation, y: Float32Array, folder: str | Path, sr: int = SAMPLE_RATE) -> list[Path]:
    """Write the most and least typical passages of the last explained node, each also filtered to its relevant bands.

    Parameters
    ----------
    explanation : Explanation
    y : float32 array, shape (samples,)
        The whole track in mono, at the sample rate of the model.
    folder : path
    sr : int
        Sample rate in Hz.

    Returns
    -------
    list of Path
        `typical-1.flac`, `typical-1-relevant.flac`, ..., `untypical-1.flac`, ... A passage without positive relevance
        has no filtered clip.
    """
    folder = Path(folder)
    timeline, explained_node = explanation.line, explanation.reasons[-1]
    for stale in folder.glob("*typical-*.flac"):  # from an earlier explanation
        if _CLIP.fullmatch(stale.name):
            stale.unlink()
    written = []
    for label, passages in (("typical", timeline.typical), ("untypical", timeline.untypical)):
        for rank, passage in enumerate(passages, start=1):
            clip = cut_passage(y, passage.start, passage.end, sr)
            written.append(write_sound(folder / f"{label}-{rank}.flac", clip, sr))
            row = int(np.abs(explanation.track_slices.starts - passage.start).argmin())
            bands = relevant_bands(explained_node, row)
            if bands:
                filtered = keep_bands(clip, bands, sr)
                written.append(write_sound(folder / f"{label}-{rank}-relevant.flac", filtered, sr))
    return written


def cut_passage(y: Float32Array, start: float, end: float, sr: int = SAMPLE_RATE) -> Float32Array:
    """Cut out a passage, from `start` to `end` in seconds, with fades of 20 ms."""
    clip = y[round(start * sr) : min(round(end * sr), len(y))].copy()
    fade = min(round(_FADE * sr), len(clip) // 2)
    if fade:
        ramp = np.linspace(0, 1, fade, dtype=np.float32)
        clip[:fade] *= ramp
        clip[-fade:] *= ramp[::-1]
    return clip


def relevant_bands(reason: NodeExplanation, row: int | None = None) -> list[tuple[float, float]]:
    """Return the bands, in Hz, that cover half of the positive relevance of slice `row`, or of all slices if None.

    A pitch class covers its semitones in all octaves of the CQT.
    """
    weighted_bands: list[tuple[float, float, float]] = []  # relevance, low, high
    for relevance in reason.maps:
        values = relevance.values.sum(axis=0) if row is None else relevance.values[row]
        axis = relevance.axis
        for index, value in enumerate(values.sum(axis=1).tolist()):
            if axis.in_hertz:
                weighted_bands.append((value, float(axis.edges[index]), float(axis.edges[index + 1])))
            else:
                octaves = _class_bands(index)
                weighted_bands += [(value / len(octaves), low, high) for low, high in octaves]
    positive = sorted((item for item in weighted_bands if item[0] > 0), reverse=True)
    if not positive:
        return []
    covered = np.cumsum([value for value, _, _ in positive])
    n_bands = int(np.searchsorted(covered, _COVERED_SHARE * covered[-1])) + 1
    return _join_bands([(low, high) for _, low, high in positive[:n_bands]])


def _class_bands(number: int) -> list[tuple[float, float]]:
    """Return the semitone bands of a pitch class in the seven octaves from C1, in Hz."""
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
    """Filter audio to the given bands with a linear-phase filter, without a time shift."""
    from scipy.fft import irfft, next_fast_len, rfft
    from scipy.ndimage import gaussian_filter1d

    frequencies = np.fft.rfftfreq(_WINDOW, 1 / sr)
    width = sr / _WINDOW / 2
    mask = np.zeros(len(frequencies))
    for low, high in bands:
        mask[(frequencies + width > low) & (frequencies - width < high)] = 1  # at least one bin per band
    # Designed by frequency sampling: the impulse response of the mask, centred and windowed.
    response = np.roll(irfft(gaussian_filter1d(mask, _SMOOTHING)), _WINDOW // 2) * np.hanning(_WINDOW + 1)[:-1]
    size = next_fast_len(len(y) + _WINDOW, real=True)
    whole = irfft(rfft(y, size) * rfft(response, size), size)
    filtered: Float32Array = whole[_WINDOW // 2 :][: len(y)].astype(np.float32)
    return filtered


def write_sound(path: Path, y: Float32Array, sr: int = SAMPLE_RATE) -> Path:
    """Write mono audio in the format of the suffix."""
    import soundfile

    with atomic_path(path) as temporary:
        soundfile.write(temporary, y, sr, format=path.suffix[1:].upper())
    return path
