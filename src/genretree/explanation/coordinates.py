"""Frequency and time axes of relevance maps, and conversion between pixels and the cells of a map.

An image of `size` pixels shows a slice from its lowest band, in the bottom row, to its highest, in row 0; each pixel is
the mean of the bands and frames under it (`genretree.sound.slices.render_image`). Row r of mel therefore spans the
bands from `128 * (size - 1 - r) / size` to `128 * (size - r) / size`, column c the seconds from `seconds * c / size` to
`seconds * (c + 1) / size` of the slice. Relevance is stored per band rather than per pixel: the relevance of a pixel is
divided by area among the bands that the pixel averages, which preserves sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from genretree.arrays import Float32Array, Float64Array
from genretree.settings import CHROMA_BINS, CQT_BINS, MEL_16K_BANDS, MEL_16K_RATE, N_MELS, SAMPLE_RATE
from genretree.sound.mel_scale import mel_frequencies
from genretree.sound.slices import overlaps

View = Literal["mel", "cqt", "chroma", "mel_16k"]
IMAGES: tuple[View, ...] = ("mel", "cqt", "chroma")
SOUND: View = "mel_16k"
STEPS = 57  # columns of a map in one slice: 0.2 s each at 11.4 s
_MEL_TOGETHER = 2  # mel bands per row of a map
_LOWEST_NOTE = 24  # C1, in MIDI numbers
_A4_HZ, _A4_MIDI = 440.0, 69
_NAMES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")


@dataclass(frozen=True)
class FrequencyAxis:
    """Rows of a map, the lowest first.

    Parameters
    ----------
    view : "mel", "cqt", "chroma" or "mel_16k"
    edges : array, shape (rows + 1,)
        In Hz. Chroma has no frequencies; its edges are 0 to 12.
    names : tuple of str
        Name of each row: a note (`A4`), a pitch class (`A`), or its centre (`440 Hz`).
    """

    view: View
    edges: Float64Array
    names: tuple[str, ...]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.names)

    @property
    def in_hertz(self) -> bool:
        """Whether the edges are frequencies."""
        return self.view != "chroma"


@lru_cache(maxsize=8)
def frequency_axis(view: View) -> FrequencyAxis:
    """Return the frequency axis of the maps of a view.

    Mel bands extend half way to the centres of their neighbours (librosa's Slaney scale: 0 to 11,025 Hz in 128 bands,
    to 8,000 Hz in 96 for mel_16k), semitones of the CQT half a semitone to either side of A4 = 440 Hz tuning.
    """
    if view == "chroma":
        return FrequencyAxis(view, np.arange(CHROMA_BINS + 1, dtype=float), _NAMES)
    if view == "cqt":
        notes = _LOWEST_NOTE + np.arange(CQT_BINS + 1)
        edges = _A4_HZ * 2 ** ((notes - 0.5 - _A4_MIDI) / 12)
        return FrequencyAxis(view, edges, tuple(note_name(int(note)) for note in notes[:-1]))
    bands, highest = (N_MELS, SAMPLE_RATE / 2) if view == "mel" else (MEL_16K_BANDS, MEL_16K_RATE / 2)
    centres = mel_frequencies(bands + 2, highest)
    edges = (centres[:-1] + centres[1:])[::_MEL_TOGETHER] / 2
    return FrequencyAxis(view, edges, tuple(f"{hertz:.0f} Hz" for hertz in (edges[:-1] + edges[1:]) / 2))


def note_name(midi: int) -> str:
    """Return the name of a MIDI note number: 69 is A4."""
    return f"{_NAMES[midi % 12]}{midi // 12 - 1}"


def spread_mask(mask: Float32Array, size: int) -> Float32Array:
    """Resample a mask from rows and steps to pixels.

    Parameters
    ----------
    mask : array, shape (..., rows, steps)
        0 to 1, the lowest row first.
    size : int
        Height and width of the image in pixels.

    Returns
    -------
    array, shape (..., size, size)
        Row 0 is the highest frequency. A pixel that several rows share has their mean.
    """
    rows, steps = mask.shape[-2:]
    return np.asarray(overlaps(rows, size) @ mask[..., ::-1, :] @ overlaps(steps, size).T, np.float32)


def gather_pixels(pixels: Float32Array, view: View) -> Float32Array:
    """Sum relevance from pixels, (..., size, size), to rows and steps, (..., rows, steps); preserves the total."""
    size = pixels.shape[-1]
    gathered = overlaps(frequency_axis(view).rows, size).T @ pixels @ overlaps(STEPS, size)
    return np.asarray(gathered[..., ::-1, :], np.float32)


def stretch_mask(mask: Float32Array, frames: int, bands: int) -> Float32Array:
    """Resample a mask, (..., rows, steps), to mel power at 16 kHz, (..., frames, bands)."""
    rows, steps = mask.shape[-2:]
    return np.asarray(overlaps(steps, frames) @ np.swapaxes(mask, -1, -2) @ overlaps(rows, bands).T, np.float32)
