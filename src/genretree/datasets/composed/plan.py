"""Plan of a track: bars with harmony, key and intensity, and the time of each beat."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from genretree.datasets.composed.artists import Artist
from genretree.datasets.composed.styles import METRES, style_book
from genretree.datasets.composed.theory import FAMILY, Chord, parse_chord


@dataclass(frozen=True)
class Bar:
    """One bar.

    Parameters
    ----------
    chords : tuple of Chord
        Chords of equal length.
    section : str
        Name of the section.
    place : int
        Index within the section, from 0.
    intensity : float
        0 to 1; determines which parts play, and their level.
    tonic : int
        Pitch class of the key.
    closes : bool
        Whether a phrase ends here.
    melody : bool
        Whether the section has a melody.
    final : bool
        Whether the piece ends here, on a held chord.
    """

    chords: tuple[Chord, ...]
    section: str
    place: int
    intensity: float
    tonic: int
    closes: bool
    melody: bool
    final: bool = False


@dataclass(frozen=True)
class Plan:
    """Metre, key, tempo and bars of a track."""

    metre: str
    mode: str
    tonic: int
    bpm: float
    bars: tuple[Bar, ...]
    clock: NDArray[np.float64]  # time of each beat in seconds, and of the end

    @property
    def beats_per_bar(self) -> int:
        """Beats in a bar (two in 6/8)."""
        return METRES[self.metre][0]

    @property
    def steps_per_beat(self) -> int:
        """Steps in a beat: four, or six in compound metre."""
        return METRES[self.metre][1]

    def seconds(self, beats: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """Convert positions in beats to seconds; positions after the last beat map to its time."""
        return np.asarray(np.interp(beats, np.arange(len(self.clock)), self.clock))


def plan_track(artist: Artist, rng: np.random.Generator, seconds: float) -> Plan:
    """Sample metre, key, tempo and form, and lay out bars that fill `seconds` or end within them on a cadence."""
    metre = artist.metres[0 if rng.random() < 0.7 else -1]
    mode = artist.modes[0 if rng.random() < 0.7 else -1]
    tonic = artist.tonics[rng.integers(len(artist.tonics))]
    bpm = rng.uniform(*artist.tempo)
    beats = METRES[metre][0]
    bar_seconds = beats * 60.0 / bpm
    cadence = artist.style.ending == "cadence"
    # A cadence must fit with its reverberation; a fade-out needs music up to the end.
    count = max(2, int((seconds - 0.8) / bar_seconds)) if cadence else math.ceil(seconds / bar_seconds) + 1
    bars = _lay_out(artist, rng, mode, tonic, count)
    if cadence:
        home = parse_chord("I" if FAMILY[mode] == "major" else "i", FAMILY[mode])
        bars[-1] = replace(bars[-1], chords=(home,), tonic=tonic, closes=True, final=True)
    clock = _clock(artist, rng, bpm, beats, bars)
    limit = seconds - 0.6
    if cadence and clock[-1] > limit:
        clock *= limit / clock[-1]  # rubato can lengthen the track
    return Plan(metre, mode, tonic, float(bpm), tuple(bars), clock)


def _lay_out(artist: Artist, rng: np.random.Generator, mode: str, tonic: int, count: int) -> list[Bar]:
    sections = style_book().sections
    form = [part.split(":") for part in artist.forms[rng.integers(len(artist.forms))].split()]
    start = int(rng.integers(1, len(form))) if rng.random() < 0.3 else 0  # some tracks start in the middle of a form
    family = FAMILY[mode]
    harmony: dict[str, list[tuple[Chord, ...]]] = {}
    bars: list[Bar] = []
    turn = start
    while len(bars) < count:
        name, length = form[turn % len(form)][0], int(form[turn % len(form)][1])
        section = sections[name]
        if name not in harmony:
            harmony[name] = _harmonise(artist, rng, family, length, len(harmony))
        shift = section.key if artist.style.harmony == "grammar" else 0
        key = tonic + (3 if shift == 7 and family == "minor" else shift)
        chords = harmony[name]
        for place in range(length):
            ratio = place / max(1, length - 1)
            intensity = section.start + (section.end - section.start) * ratio
            closes = place % 4 == 3 or place == length - 1
            bars.append(Bar(chords[place % len(chords)], name, place, intensity, key % 12, closes, section.melody))
        turn += 1
    return bars[:count]


def _harmonise(artist: Artist, rng: np.random.Generator, family: str, length: int, nth: int) -> list[tuple[Chord, ...]]:
    if artist.style.harmony == "grammar":
        return _write_phrases(rng, family, length)
    names = artist.loops[family]
    which = min(nth, len(names) - 1) if rng.random() < 0.6 else int(rng.integers(len(names)))
    return _read_bars(style_book().loops[family][names[which]], family)


def _write_phrases(rng: np.random.Generator, family: str, length: int) -> list[tuple[Chord, ...]]:
    """Write periods: an opening, an optional middle, then a half or (at the end) a perfect cadence."""
    stock = style_book().phrases[family]
    bars: list[tuple[Chord, ...]] = []
    while len(bars) < length:
        text = _choice(rng, stock["openings"])
        if length - len(bars) >= 8 and rng.random() < 0.6:
            text += " " + _choice(rng, stock["middles"])
        last = len(bars) + len(text.split()) + 2 >= length
        text += " " + _choice(rng, stock["perfect" if last or rng.random() < 0.3 else "half"])
        bars += _read_bars(text, family)
    return bars[:length]


def _read_bars(text: str, family: str) -> list[tuple[Chord, ...]]:
    return [tuple(parse_chord(chord, family) for chord in bar.split(",")) for bar in text.split()]


def _clock(artist: Artist, rng: np.random.Generator, bpm: float, beats: int, bars: list[Bar]) -> NDArray[np.float64]:
    """Compute the time of each beat: smooth tempo variation, with a ritardando at phrase ends."""
    n = len(bars) * beats
    wander = np.cumsum(rng.normal(0.0, 1.0, n))
    wander -= np.convolve(np.pad(wander, 8, mode="edge"), np.ones(17) / 17, mode="valid")
    wander = np.clip(wander / (np.abs(wander).max() + 1e-9), -1.0, 1.0)
    lengths = 60.0 / bpm * (1.0 + artist.rubato * wander)
    for i, bar in enumerate(bars):
        stop = (i + 1) * beats
        if bar.closes:
            lengths[stop - 1] *= 1.0 + 1.5 * artist.rubato
        if bar.section == "recitative":  # free speech rhythm
            lengths[stop - beats : stop] *= rng.uniform(0.85, 1.25)
    return np.concatenate([[0.0], np.cumsum(lengths)])


def _choice(rng: np.random.Generator, texts: tuple[str, ...]) -> str:
    return texts[rng.integers(len(texts))]
