"""A track's spectrograms and relevance laid out on one axis of time, for pictures and pages."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from genretree.arrays import Float32Array
from genretree.explanation.coordinates import IMAGES, SOUND, View
from genretree.explanation.result import Relevance
from genretree.explanation.slices import TrackSlices
from genretree.sound.mel_16k import compress
from genretree.sound.slices import overlaps

MOST_COLUMNS = 1536
TITLES: dict[View, str] = {
    "mel": "mel spectrogram",
    "cqt": "constant-Q transform",
    "chroma": "chroma",
    "mel_16k": "mel power at 16 kHz",
}


@dataclass(frozen=True)
class Canvas:
    """One view of a track.

    Parameters
    ----------
    view : str
    shown : array, shape (rows, columns)
        The spectrogram, the highest frequency first: in dB if `decibels`, else 0 to 1 of each slice's range; nan where
        nothing was explained.
    relevance : array, shape (map rows, columns)
        -1 to 1, the highest frequency first; 0 where nothing was explained.
    seconds : (float, float)
        Where the first column begins and the last ends.
    decibels : bool
    """

    view: View
    shown: Float32Array
    relevance: Float32Array
    seconds: tuple[float, float]
    decibels: bool


def build_canvas(track_slices: TrackSlices, relevance: Relevance, strength: float, end: float | None = None) -> Canvas:
    """Put slices and their map where they belong in time, from 0 to `end` seconds (by default of the last slice).

    `strength` is the relevance, times rows, that becomes 1.
    """
    view = relevance.view
    last = max(float(track_slices.starts[-1] + track_slices.seconds), end or 0.0)
    a_slice = int(np.clip(MOST_COLUMNS * track_slices.seconds / last, 4, track_slices.images.shape[-1]))
    columns = max(a_slice, round(last / track_slices.seconds * a_slice))
    shown, decibels = _shown(track_slices, view)
    shown = shown @ overlaps(shown.shape[-1], a_slice).T
    mapped = relevance.values[:, ::-1] @ overlaps(relevance.values.shape[-1], a_slice).T
    canvas = np.full((shown.shape[1], columns), np.nan, np.float32)
    painted = np.zeros((mapped.shape[1], columns), np.float32)
    for row, start in enumerate(track_slices.starts):
        at = min(round(float(start) / last * columns), columns - a_slice)
        canvas[:, at : at + a_slice] = shown[row]
        painted[:, at : at + a_slice] = np.clip(mapped[row] * mapped.shape[1] / strength, -1, 1)
    return Canvas(view, canvas, painted, (0.0, last), decibels)


def _shown(track_slices: TrackSlices, view: View) -> tuple[Float32Array, bool]:
    """Give what is seen of each slice, (n, rows, columns), and whether that is in dB."""
    if view == SOUND:
        assert track_slices.mel_16k is not None
        heard = compress(track_slices.mel_16k)
        loudest = np.float32(max(float(heard.max()), 1e-6))
        power: Float32Array = (np.swapaxes(heard, 1, 2)[:, ::-1] / loudest).astype(np.float32)
        return power, False
    number = IMAGES.index(view)
    grey: Float32Array = (track_slices.images[:, number] / np.float32(255)).astype(np.float32)
    if track_slices.decibels is None:
        return grey, False
    low, high = (track_slices.decibels[:, number, side, None, None] for side in (0, 1))
    decibels: Float32Array = (low + grey * (high - low)).astype(np.float32)
    return decibels, True
