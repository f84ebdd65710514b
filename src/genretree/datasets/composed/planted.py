"""Pairs of tracks that differ by one instrument, as ground truth for explanations."""

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
_HI_HAT, _EVERY = 42, 0.1  # General MIDI percussion; interval in seconds
_LOUDNESS = 1.0  # RMS of a stroke relative to the RMS of the music


def compose_planted(
    number: int, settings: ComposeSettings, cycle: float, burst: float, leaf: str = _LEAF
) -> tuple[Float32Array, Float32Array]:
    """Compose chamber music, and a separate hi-hat stem.

    Parameters
    ----------
    number : int
        Number of the artist.
    settings : ComposeSettings
        Only `seed`, `seconds` and `rate` are used.
    cycle, burst : float
        The hi-hat plays for `burst` seconds at a random time in every `cycle` seconds.
    leaf : str
        Style of the music.

    Returns
    -------
    music, instrument : float32 arrays, shape (samples,)
        Mono. One genre is the music, the other is the sum of both.
    """
    piece = compose_score(leaf, number, 0, settings)
    without_drums = tuple(part for part in piece.parts if part.player.role.job != "drums")
    rng = generator(settings.seed, leaves().index(piece.artist.leaf), number, 0, Purpose.SOUND)
    music = render_piece(replace(piece, parts=without_drums), settings, rng)[0] * np.float32(0.7)
    stroke = tuned_sampler(settings.rate, 0.0).drum(0, _HI_HAT)
    stroke *= np.float32(_LOUDNESS * np.sqrt(np.mean(music**2)) / max(float(np.sqrt(np.mean(stroke**2))), 1e-6))
    instrument = np.zeros_like(music)
    for cycle_start in np.arange(0, settings.seconds, cycle):
        start = cycle_start + rng.uniform(0, cycle - burst)
        for moment in np.arange(start, start + burst, _EVERY):
            position = round(moment * settings.rate)
            part = stroke[: max(0, len(instrument) - position)]
            instrument[position : position + len(part)] += part
    return music, instrument
