"""Bands that a listener can check by ear, in words and in rows of the maps, and their relevance.

The edges are those of the parts that occlusion uses, eighths of the mel scale and octaves of the CQT, so that a band
is never finer than what was measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from genretree.arrays import Float64Array
from genretree.explanation.coordinates import SOUND, View, frequency_axis

Aspect = Literal["sound", "notes", "harmony", "onsets"]
Band = Literal["bass", "low mids", "voice range", "presence", "cymbals and hiss", "all"]

VIEWS: dict[Aspect, tuple[View, ...]] = {"sound": ("mel", SOUND), "notes": ("cqt",), "harmony": ("chroma",)}
# End of each band, as a share of the rows of a view.
SOUND_BANDS: tuple[tuple[Band, float], ...] = (
    ("bass", 1 / 8),
    ("low mids", 2 / 8),
    ("voice range", 4 / 8),
    ("presence", 6 / 8),
    ("cymbals and hiss", 1),
)
NOTE_BANDS: tuple[tuple[Band, float], ...] = (
    ("bass", 2 / 7),
    ("low mids", 3 / 7),
    ("voice range", 5 / 7),
    ("presence", 1),
)


@dataclass(frozen=True, kw_only=True)
class BandRelevance:
    """Decrease of the log odds without one band, without the harmony, or without onsets.

    Parameters
    ----------
    aspect : "sound", "notes", "harmony" or "onsets"
        Mel spectrogram; constant-Q transform; chroma; changes over time in all of them but chroma.
    band : str
        Name of the band, or `all`.
    values : array, shape (n_slices, n_targets)
    noise : array, shape (n_targets,)
        Standard deviation of the mean of `values` over slices that inaudible noise causes.
    """

    aspect: Aspect
    band: Band
    values: Float64Array
    noise: Float64Array


def band_rows(view: View, band: Band) -> slice:
    """Return the rows of a band in the maps of a view; all rows for `all`."""
    rows = frequency_axis(view).rows
    start = 0
    for name, share in NOTE_BANDS if view == "cqt" else SOUND_BANDS:
        stop = round(rows * share)
        if name == band:
            return slice(start, stop)
        start = stop
    return slice(0, rows)


def band_hertz(aspect: Aspect, band: Band) -> tuple[float, float] | None:
    """Return the edges of a band in Hz; None for the harmony and onsets."""
    if aspect not in ("sound", "notes"):
        return None
    view = VIEWS[aspect][0]
    rows, edges = band_rows(view, band), frequency_axis(view).edges
    return float(edges[rows.start]), float(edges[rows.stop])
