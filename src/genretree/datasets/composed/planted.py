"""Two genres that one instrument alone tells apart: music for finding out whether explanations point to it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from genretree.arrays import Float32Array
from genretree.datasets.composed.artists import Purpose, generator
from genretree.datasets.composed.compose import ComposeSettings, compose_score
from genretree.datasets.composed.render import render_piece
from genretree.datasets.composed.sampler import tuned_sampler
from genretree.datasets.composed.styles import leaves

_LEAF = "Chamber"  # music without drums
_HI_HAT, _EVERY = 42, 0.1  # General MIDI percussion; seconds between strokes
_LOUDNESS = 1.0  # of the strokes, over the root mean square of the music


def compose_planted(
    number: int, settings: ComposeSettings, cycle: float, burst: float, leaf: str = _LEAF
) -> tuple[Float32Array, Float32Array]:
    """Compose a piece of chamber music, and a hi-hat that can be added to it.

    Parameters
    ----------
    number : int
        Of the piece; each is by an artist of its own.
    settings : ComposeSettings
        `seed`, `seconds` and `rate` matter.
    cycle, burst : float
        In every `cycle` seconds the hi-hat is struck for `burst` seconds, from a moment drawn anew each time.
    leaf : str
        Style of the music.

    Returns
    -------
    music, instrument : float32 arrays, shape (samples,)
        Mono. One genre is the music, the other their sum: nothing else differs.
    """
    piece = compose_score(leaf, number, 0, settings)
    quiet = tuple(part for part in piece.parts if part.player.role.job != "drums")
    rng = generator(settings.seed, leaves().index(piece.artist.leaf), number, 0, Purpose.SOUND)
    music = render_piece(replace(piece, parts=quiet), settings, rng)[0] * np.float32(0.7)
    stroke = tuned_sampler(settings.rate, 0.0).drum(0, _HI_HAT)
    stroke *= np.float32(_LOUDNESS * np.sqrt(np.mean(music**2)) / max(float(np.sqrt(np.mean(stroke**2))), 1e-6))
    instrument = np.zeros_like(music)
    for begin in np.arange(0, settings.seconds, cycle):
        start = begin + rng.uniform(0, cycle - burst)
        for moment in np.arange(start, start + burst, _EVERY):
            at = round(moment * settings.rate)
            part = stroke[: max(0, len(instrument) - at)]
            instrument[at : at + len(part)] += part
    return music, instrument
