"""Melodies from motifs of rhythm and contour, and parts that double or imitate a melody."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from genretree.datasets.composed.artists import Artist, Player
from genretree.datasets.composed.plan import Bar, Plan
from genretree.datasets.composed.theory import SCALES, Chord, nearest

# Note values that fill one or two beats, from sparse to dense.
_CELLS: tuple[tuple[float, ...], ...] = ((2.0,), (1.0,), (0.75, 0.25), (0.5, 0.5), (0.5, 0.25, 0.25), (0.25,) * 4)
_COMPOUND_CELLS: tuple[tuple[float, ...], ...] = (
    (2.0,),
    (1.0,),
    (2 / 3, 1 / 3),
    (1 / 3,) * 3,
    (0.5, 1 / 6, 1 / 3),
    (1 / 6,) * 6,
)
_PHRASE = "abac"  # motif of each bar in a four-bar phrase


class Note(NamedTuple):
    """A notated note: start and length in beats, MIDI pitch and velocity."""

    start: float
    beats: float
    pitch: int
    velocity: float


class Motif(NamedTuple):
    """Melody of one bar without harmony: onsets and lengths in beats, and scale steps."""

    onsets: tuple[float, ...]
    lengths: tuple[float, ...]
    steps: tuple[int, ...]


def loudness(artist: Artist, intensity: float) -> float:
    """Return the MIDI velocity at an intensity of 0 to 1."""
    low, high = artist.dynamics
    return low + (high - low) * intensity


def chord_at(bar: Bar, share: float) -> Chord:
    """Return the chord at a relative position (0 to 1) in the bar."""
    return bar.chords[min(int(share * len(bar.chords) + 1e-9), len(bar.chords) - 1)]


def local_scale(chord: Chord, tonic: int, mode: str) -> tuple[int, ...]:
    """Return the pitch classes of the key, altered by the chord: V7/V raises the fourth degree."""
    tones = chord.pitch_classes(tonic)
    scale = {(tonic + degree) % 12 for degree in SCALES[mode]}
    for tone in set(tones) - scale:
        scale -= {(tone - 1) % 12, (tone + 1) % 12} - set(tones)
        scale.add(tone)
    return tuple(sorted(scale))


def write_melody(
    artist: Artist, player: Player, plan: Plan, bars: list[tuple[int, Bar]], rng: np.random.Generator
) -> list[Note]:
    """Write a melody over the given bars.

    Parameters
    ----------
    bars : list of (index in the plan, bar)
        Bars in which the part plays.

    Returns
    -------
    list of Note
        Within the register of the player, sorted by time.
    """
    motifs: dict[tuple[str, str], Motif] = {}
    low, high = player.role.register_
    pitch = float(rng.integers(low + (high - low) // 3, high - (high - low) // 3 + 1))
    notes: list[Note] = []
    for index, bar in bars:
        motif_name = _PHRASE[bar.place % 4] if not bar.closes else "c"
        key = (bar.section, motif_name)
        if key not in motifs:
            motifs[key] = _create_motif(artist, plan, rng, bar.section)
        motif = motifs[key]
        if bar.place >= 4 and rng.random() < 0.3:
            motif = _vary_motif(motif, rng)
        written = _set_bar(player, plan, bar, motif, pitch, loudness(artist, bar.intensity))
        if written:
            pitch = written[-1].pitch
        offset = index * plan.beats_per_bar
        notes += [note._replace(start=note.start + offset) for note in written]
    return notes


def write_double(
    player: Player, plan: Plan, bars: dict[int, Bar], melody: list[Note], rng: np.random.Generator
) -> list[Note]:
    """Double the melody at a third, a sixth or an octave, within the register of the player."""
    low, high = player.role.register_
    interval = int(rng.choice([-3, -8, -12, 4]))
    notes = []
    for note in melody:
        bar = bars.get(int(note.start // plan.beats_per_bar))
        if bar is None:
            continue
        chord = chord_at(bar, note.start / plan.beats_per_bar % 1.0)
        scale = local_scale(chord, bar.tonic, plan.mode)
        target = _fold_into(note.pitch + interval, low, high)
        notes.append(note._replace(pitch=nearest(target, scale, low, high), velocity=note.velocity - 8.0))
    return notes


def write_counter(
    player: Player, plan: Plan, bars: dict[int, Bar], melody: list[Note], rng: np.random.Generator
) -> list[Note]:
    """Imitate the melody half a bar to two bars later, adapted to the current harmony."""
    low, high = player.role.register_
    delay = plan.beats_per_bar * float(rng.choice([0.5, 1.0, 1.0, 2.0]))
    thin = rng.uniform(0.0, 0.5)
    notes = []
    for note in melody:
        start = note.start + delay
        bar = bars.get(int(start // plan.beats_per_bar))
        if bar is None or (start % 1.0 and rng.random() < thin):
            continue
        chord = chord_at(bar, start / plan.beats_per_bar % 1.0)
        tones = chord.pitch_classes(bar.tonic) if start % 1.0 == 0 else local_scale(chord, bar.tonic, plan.mode)
        target = _fold_into(note.pitch - 5, low, high)
        notes.append(Note(start, note.beats, nearest(target, tones, low, high), note.velocity - 4.0))
    return notes


def _create_motif(artist: Artist, plan: Plan, rng: np.random.Generator, section: str) -> Motif:
    speech = section == "recitative"
    density = 0.75 if speech else float(np.clip(artist.density + rng.normal(0.0, 0.08), 0.05, 1.0))
    onsets, lengths = _rhythm(plan, rng, density, artist.syncopation)
    shape = [0.5, 0.2, 0.15, 0.1, 0.05] if speech else [0.16, 0.38, 0.24, 0.14, 0.08]
    sizes = rng.choice(5, len(onsets), p=shape)
    # One direction per bar, so that melodies have contours.
    lean = 1 if rng.random() < 0.5 else -1
    signs = np.where(rng.random(len(onsets)) < 0.7, lean, -lean)
    return Motif(tuple(onsets), tuple(lengths), tuple(int(step) for step in sizes * signs))


def _rhythm(plan: Plan, rng: np.random.Generator, d: float, syncopation: float) -> tuple[list[float], list[float]]:
    cells = _COMPOUND_CELLS if plan.steps_per_beat == 6 else _CELLS
    weights = np.array([1.4 * (1 - d) ** 2, 1.0 - 0.5 * d, 0.35, 0.2 + 1.2 * d, 0.6 * d**1.5, 1.2 * d**3])
    onsets: list[float] = []
    lengths: list[float] = []
    at = 0.0
    while at < plan.beats_per_bar - 1e-6:
        cell = cells[rng.choice(len(cells), p=weights / weights.sum())]
        rest = rng.random() < 0.1
        for value in cell:
            value = min(value, plan.beats_per_bar - at)
            if value > 1e-6 and not rest:
                onsets.append(at)
                lengths.append(value)
            at += value
    for i in range(1, len(onsets)):
        on_beat = onsets[i] % 1.0 == 0.0 and lengths[i - 1] >= 1.0 and plan.steps_per_beat == 4
        if on_beat and rng.random() < syncopation:  # anticipate by half a beat
            onsets[i] -= 0.5
            lengths[i] += 0.5
            lengths[i - 1] -= 0.5
    return (onsets, lengths) if onsets else ([0.0], [float(plan.beats_per_bar)])


def _vary_motif(motif: Motif, rng: np.random.Generator) -> Motif:
    steps = list(motif.steps)
    steps[rng.integers(len(steps))] *= -1
    return motif._replace(steps=tuple(steps))


def _set_bar(player: Player, plan: Plan, bar: Bar, motif: Motif, pitch: float, loud: float) -> list[Note]:
    low, high = player.role.register_
    beats = plan.beats_per_bar
    if bar.final:
        tone = nearest(pitch, (bar.tonic,), low, high)
        return [Note(0.0, float(beats), tone, loud)]
    notes = []
    for onset, length, step in zip(motif.onsets, motif.lengths, motif.steps, strict=True):
        if bar.closes and onset > 0.55 * beats:
            break  # rest at the end of a phrase
        chord = chord_at(bar, onset / beats)
        strong = onset == 0.0 or onset * 2 == beats
        step = -step if (pitch > high - 3 and step > 0) or (pitch < low + 3 and step < 0) else step
        if strong or (bar.closes and onset + length > 0.5 * beats):
            pitch = nearest(pitch + 1.8 * step, chord.pitch_classes(bar.tonic), low, high)
        else:
            pitch = _walk(pitch, step, local_scale(chord, bar.tonic, plan.mode), low, high)
        notes.append(Note(onset, length, int(pitch), loud + (5.0 if strong else 0.0) + 0.25 * (pitch - low)))
    if bar.closes and notes:
        last = notes[-1]
        notes[-1] = last._replace(beats=max(last.beats, 0.75 * beats - last.start))
    return notes


def _walk(pitch: float, step: int, scale: tuple[int, ...], low: int, high: int) -> int:
    """Move by scale steps from a pitch."""
    at = round(pitch)
    direction = 1 if step > 0 else -1
    for _ in range(abs(step)):
        at += direction
        while at % 12 not in scale:
            at += direction
    return nearest(at, scale, low, high)


def _fold_into(pitch: int, low: int, high: int) -> int:
    while pitch > high:
        pitch -= 12
    while pitch < low:
        pitch += 12
    return pitch
