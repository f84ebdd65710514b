"""Rendering of single notes of the soundfont, with level, attack, decay and release."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from genretree.datasets.composed.soundfont import DRUM_BANK, soundfont

_LEVEL = 0.16  # RMS of a note at full velocity, full scale 1.0
_MAX_SECONDS = 8.0  # seconds

# attack, decay time (0: sustained) and release in seconds, by General MIDI family of eight programs
_ENVELOPES: tuple[tuple[float, float, float], ...] = (
    (0.0, 1.6, 0.16),  # pianos
    (0.0, 0.9, 0.5),  # bells and mallets
    (0.01, 0.0, 0.06),  # organs
    (0.0, 1.5, 0.09),  # guitars
    (0.0, 1.8, 0.06),  # basses
    (0.05, 0.0, 0.16),  # solo strings
    (0.08, 0.0, 0.28),  # ensembles and choirs
    (0.02, 0.0, 0.1),  # brass
    (0.02, 0.0, 0.08),  # reeds
    (0.03, 0.0, 0.09),  # pipes
    (0.005, 0.0, 0.07),  # synth leads
    (0.12, 0.0, 0.5),  # synth pads
    (0.04, 0.0, 0.4),  # synth effects
    (0.0, 0.8, 0.12),  # plucked folk instruments
    (0.0, 0.6, 0.1),  # percussion
    (0.0, 0.0, 0.1),  # noises
)
_EXCEPTIONS = {
    29: (0.0, 0.0, 0.08),  # overdriven and distorted guitars sustain
    30: (0.0, 0.0, 0.08),
    38: (0.0, 0.0, 0.05),  # synth basses sustain
    39: (0.0, 0.0, 0.05),
    45: (0.0, 0.25, 0.15),  # pizzicato
    46: (0.0, 1.1, 0.7),  # harp
    47: (0.0, 0.9, 0.4),  # timpani
}
_DRUM_SECONDS = {49: 2.2, 57: 2.2, 51: 0.9, 46: 0.45, 54: 0.3, 82: 0.2, 42: 0.15, 39: 0.35}


class Sampler:
    """Renderer of single notes, with a cache.

    Parameters
    ----------
    rate : int
        Sample rate in Hz.
    cents : float
        Tuning relative to A = 440 Hz; drums are not tuned.
    """

    def __init__(self, rate: int, cents: float = 0.0) -> None:
        self.rate = rate
        self._cents = cents
        self._notes: dict[tuple[int, int, float], NDArray[np.float32]] = {}
        self._strokes: dict[tuple[int, int], NDArray[np.float32]] = {}
        self._fades: dict[float, NDArray[np.float32]] = {}
        self._gains: dict[int, float] = {}

    def note(self, program: int, pitch: int, seconds: float) -> NDArray[np.float32]:
        """Render a note at full velocity; the release extends it beyond `seconds`."""
        _, _, release = _envelope(program)
        seconds = min(seconds, _MAX_SECONDS - release)
        enveloped = self._shaped(program, pitch, seconds + release)
        fade = self._fade(release)
        n_sustained = round(seconds * self.rate)
        note = enveloped[: n_sustained + len(fade)].copy()
        note[n_sustained:] *= fade[: len(note) - n_sustained]
        return note

    def drum(self, kit: int, pitch: int) -> NDArray[np.float32]:
        """Render a stroke of a drum kit (General MIDI percussion map) at full velocity."""
        if (kit, pitch) not in self._strokes:
            seconds = _DRUM_SECONDS.get(pitch, 0.5)
            samples = self._raw(kit, True, pitch, seconds)[: round(seconds * self.rate)] * np.float32(0.55)
            fade = max(1, len(samples) // 3)
            samples[-fade:] *= np.linspace(1.0, 0.0, len(samples[-fade:]), dtype=np.float32)
            self._strokes[kit, pitch] = samples
        return self._strokes[kit, pitch].copy()

    def _shaped(self, program: int, pitch: int, seconds: float) -> NDArray[np.float32]:
        """Return a long note with attack and decay from the cache."""
        length = _round_up(seconds)
        key = (program, pitch, length)
        if key not in self._notes:
            attack, decay, _ = _envelope(program)
            samples = self._raw(program, False, pitch, length) * self._gain(program)
            if decay:
                # Low strings ring longer than high ones.
                ring = decay * 2.0 ** ((60 - pitch) / 24.0)
                samples *= np.exp(np.arange(len(samples), dtype=np.float32) * np.float32(-1.0 / (ring * self.rate)))
            rise = min(round(attack * self.rate), len(samples) // 2)
            if rise:
                samples[:rise] *= np.linspace(0.0, 1.0, rise, dtype=np.float32)
            self._notes[key] = samples
        return self._notes[key]

    def _fade(self, release: float) -> NDArray[np.float32]:
        if release not in self._fades:
            self._fades[release] = np.linspace(1.0, 0.0, round(release * self.rate), dtype=np.float32) ** 3
        return self._fades[release]

    def _gain(self, program: int) -> np.float32:
        """Compute the gain that normalises middle C; programs of the soundfont differ by up to 20 dB."""
        if program not in self._gains:
            middle = self._raw(program, False, 60 if program // 8 != 4 else 36, 1.0)[: self.rate // 2]
            rms = float(np.sqrt(np.mean(middle**2))) if len(middle) else 0.0
            self._gains[program] = _LEVEL / max(rms, 0.02)
        return np.float32(self._gains[program])

    def _raw(self, program: int, drum: bool, pitch: int, seconds: float) -> NDArray[np.float32]:
        bank, cents = (DRUM_BANK, 0.0) if drum else (0, self._cents)
        return soundfont().play(bank, program, pitch, seconds, self.rate, cents)


def _envelope(program: int) -> tuple[float, float, float]:
    return _EXCEPTIONS.get(program, _ENVELOPES[program // 8])


def _round_up(seconds: float) -> float:
    """Round up to half a second times a power of two, which keeps the number of cached lengths small."""
    return 0.5 * 2.0 ** math.ceil(math.log2(max(seconds, 0.5) / 0.5))


@lru_cache(maxsize=2)
def tuned_sampler(rate: int, cents: float) -> Sampler:
    """Return the sampler of a tuning, cached because the tracks of an artist share it."""
    return Sampler(rate, cents)
