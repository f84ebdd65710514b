from __future__ import annotations

import shutil

import numpy as np
import pytest
from numpy.typing import NDArray

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")


def make_song(seconds: float, sr: int, seed: int = 0) -> NDArray[np.float32]:
    """Synthesise chords with overtones, a drum on each beat and a little noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * sr)) / sr
    song = 0.002 * rng.standard_normal(len(time))
    beat = 0.5
    for index in range(int(seconds / beat) + 1):
        here = slice(int(index * beat * sr), int((index + 1) * beat * sr))
        t = time[here] - index * beat
        root = 48 + [0, 5, 7, 9, 2, 4][index // 4 % 6]
        for interval in (0, 4, 7, 12, 19):
            frequency = 440 * 2 ** ((root + interval - 69) / 12)
            for overtone in (1, 2, 3, 5):
                song[here] += 0.05 / overtone * np.sin(2 * np.pi * overtone * frequency * t) * np.exp(-4 * t)
        song[here] += 0.2 * rng.standard_normal(len(t)) * np.exp(-60 * t)
    return song.astype(np.float32)
