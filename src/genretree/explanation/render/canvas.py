"""Spectrograms and relevance of a track on a common time axis."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from genretree.arrays import Float32Array
from genretree.explanation.coordinates import IMAGES, SOUND, View
from genretree.explanation.result import Relevance
from genretree.explanation.slices import TrackSlices
from genretree.sound.mel_16k import compress
from genretree.sound.slices import overlaps

MAX_COLUMNS = 1536
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
        Spectrogram, the highest frequency first: in dB if `decibels`, otherwise 0 to 1 of the range of each slice. NaN
        where there is no slice.
    relevance : array, shape (map rows, columns)
        -1 to 1, the highest frequency first; 0 where there is no slice.
    seconds : (float, float)
        Start of the first column and end of the last.
    decibels : bool
        Whether `shown` is in dB.
    """

    view: View
    shown: Float32Array
    relevance: Float32Array
    seconds: tuple[float, float]
    decibels: bool


def build_canvas(track_slices: TrackSlices, relevance: Relevance, scale: float, end: float | None = None) -> Canvas:
    """Place slices and their maps on a time axis from 0 to `end` seconds (by default the end of the last slice).

    `scale` is the relevance, times the number of rows, that maps to 1.
    """
    view = relevance.view
    last = max(float(track_slices.starts[-1] + track_slices.seconds), end or 0.0)
    slice_columns = int(np.clip(MAX_COLUMNS * track_slices.seconds / last, 4, track_slices.images.shape[-1]))
    columns = max(slice_columns, round(last / track_slices.seconds * slice_columns))
    spectrograms, decibels = _shown(track_slices, view)
    spectrograms = spectrograms @ overlaps(spectrograms.shape[-1], slice_columns).T
    relevance_maps = relevance.values[:, ::-1] @ overlaps(relevance.values.shape[-1], slice_columns).T
    canvas = np.full((spectrograms.shape[1], columns), np.nan, np.float32)
    relevance_canvas = np.zeros((relevance_maps.shape[1], columns), np.float32)
    for row, start in enumerate(track_slices.starts):
        at = min(round(float(start) / last * columns), columns - slice_columns)
        canvas[:, at : at + slice_columns] = spectrograms[row]
        relevance_canvas[:, at : at + slice_columns] = np.clip(
            relevance_maps[row] * relevance_maps.shape[1] / scale, -1, 1
        )
    return Canvas(view, canvas, relevance_canvas, (0.0, last), decibels)


def _shown(track_slices: TrackSlices, view: View) -> tuple[Float32Array, bool]:
    """Give what is seen of each slice, (n, rows, columns), and whether that is in dB."""
    if view == SOUND:
        assert track_slices.mel_16k is not None
        compressed = compress(track_slices.mel_16k)
        loudest = np.float32(max(float(compressed.max()), 1e-6))
        power: Float32Array = (np.swapaxes(compressed, 1, 2)[:, ::-1] / loudest).astype(np.float32)
        return power, False
    number = IMAGES.index(view)
    grey: Float32Array = (track_slices.images[:, number] / np.float32(255)).astype(np.float32)
    if track_slices.decibels is None:
        return grey, False
    low, high = (track_slices.decibels[:, number, side, None, None] for side in (0, 1))
    decibels: Float32Array = (low + grey * (high - low)).astype(np.float32)
    return decibels, True
