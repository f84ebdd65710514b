"""Accompaniment from step patterns: chords, arpeggios, bass, drums and timpani."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from genretree.datasets.composed.artists import Artist, Player
from genretree.datasets.composed.melody import Note, chord_at, loudness
from genretree.datasets.composed.plan import Bar, Plan
from genretree.datasets.composed.styles import style_book
from genretree.datasets.composed.theory import Chord, nearest, voicing

_STROKES = {"X": 14.0, "x": 0.0, "g": -32.0}  # MIDI velocity relative to the section
_TOMS = (50, 47, 45, 41)
_PIECES = {
    "stick": 37,
    "clap": 39,
    "hat": 42,
    "open_hat": 46,
    "crash_hat": 49,
    "ride": 51,
    "shaker": 82,
    "tambourine": 54,
}
# Bowed and wind instruments play two notes of a chord; keyboards, harps and sections play all.
_FEW_VOICED = frozenset(range(40, 44)) | frozenset({56, 57, 58}) | frozenset(range(64, 80))
_STRUMMED = frozenset(range(24, 32)) | {46}
_BUSY = 0.7  # intensity from which a part plays its second pattern


def write_chords(artist: Artist, player: Player, plan: Plan, bars: list[tuple[int, Bar]]) -> list[Note]:
    """Write chords in the rhythm of the player, in close position with small voice leading."""
    low, high = player.role.register_
    notes: list[Note] = []
    for index, bar in bars:
        loud = loudness(artist, bar.intensity) - 6.0
        pattern = "x" if bar.final else style_book().chords[_pattern(player, bar)]
        for step, length, chord in _strokes(pattern, plan, bar, "x"):
            pitches = voicing(chord.pitch_classes(bar.tonic), (low + high) // 2)
            if player.program in _FEW_VOICED:
                pitches = pitches[-2:]
            accent = 4.0 if step == 0 else 0.0
            start = index * plan.beats_per_bar + step / plan.steps_per_beat
            spread = 0.018 if player.program in _STRUMMED else 0.0  # beats between strings
            for i, pitch in enumerate(pitches):
                notes.append(Note(start + spread * i, length / plan.steps_per_beat, pitch, loud + accent))
    return notes


def write_arp(artist: Artist, player: Player, plan: Plan, bars: list[tuple[int, Bar]]) -> list[Note]:
    """Write arpeggios in the figure of the player."""
    low, high = player.role.register_
    notes: list[Note] = []
    steps = plan.beats_per_bar * plan.steps_per_beat
    for index, bar in bars:
        loud = loudness(artist, bar.intensity) - 9.0
        figure = style_book().arps[_pattern(player, bar)]
        # Continuous sixteenths are unplayable at high tempo.
        every = max(figure.every, 2) if plan.bpm > 118 or plan.steps_per_beat == 6 else figure.every
        for nth, step in enumerate(range(0, steps, every)):
            chord = chord_at(bar, step / steps)
            pitches = voicing(chord.pitch_classes(bar.tonic), (low + high) // 2 - 2)
            ladder = [p for p in (*pitches, *(p + 12 for p in pitches)) if low <= p <= high] or pitches
            pitch = ladder[figure.order[nth % len(figure.order)] % len(ladder)]
            start = index * plan.beats_per_bar + step / plan.steps_per_beat
            length = (steps if bar.final else every) / plan.steps_per_beat
            notes.append(Note(start, length, pitch, loud + (6.0 if step % (2 * plan.steps_per_beat) == 0 else 0.0)))
            if bar.final and nth >= len(pitches):
                break
    return notes


def write_bass(artist: Artist, player: Player, plan: Plan, bars: list[tuple[int, Bar]]) -> list[Note]:
    """Write a bass in the pattern of the player: roots (or inversions), fifths, octaves and approach notes."""
    low, high = player.role.register_
    before = float((low + high) // 2)
    notes: list[Note] = []
    bars_by_index = dict(bars)
    for index, bar in bars:
        loud = loudness(artist, bar.intensity)
        pattern = "r" if bar.final else style_book().basses[_pattern(player, bar)]
        next_bar = bars_by_index.get(index + 1, bar)
        for step, length, chord in _strokes(pattern, plan, bar, "rtfoa"):
            char = pattern[step % len(pattern)]
            root = nearest(before, ((bar.tonic + chord.bass) % 12,), low, min(high, low + 13))
            if char == "a":
                root = nearest(root, ((next_bar.tonic + next_bar.chords[0].bass) % 12,), low, high) - 1
            pitch = _colour(char, root, chord, bar.tonic, low, high)
            before = 0.5 * root + 0.25 * (low + high)
            start = index * plan.beats_per_bar + step / plan.steps_per_beat
            notes.append(Note(start, length / plan.steps_per_beat, pitch, loud + (6.0 if step == 0 else 0.0)))
    return notes


def write_drums(artist: Artist, plan: Plan, bars: list[tuple[int, Bar]], rng: np.random.Generator) -> list[Note]:
    """Write drums: the groove of the artist with ghost notes, fills at phrase ends and crashes at phrase starts."""
    if artist.style.harmony == "grammar":
        return _orchestral_percussion(artist, plan, bars)
    book = style_book()
    steps = plan.beats_per_bar * plan.steps_per_beat
    fitting = [g for g in artist.grooves if _fits(len(next(iter(book.grooves[g].values()))), steps)]
    notes: list[Note] = []
    for index, bar in bars:
        groove = book.grooves[fitting[-1 if bar.intensity >= _BUSY else 0]]
        loud = loudness(artist, bar.intensity)
        at = float(index * plan.beats_per_bar)
        fill = bar.closes and bar.place % 8 != 3 and bar.intensity > 0.45 and steps >= 12
        stop = steps - plan.steps_per_beat if fill else steps
        for piece, text in groove.items():
            if bar.intensity < 0.5 and piece in ("snare", "clap", "tom"):
                continue  # quiet sections have timekeeping only
            for step in range(stop):
                stroke = text[step % len(text)]
                if stroke == "." or (stroke == "g" and rng.random() < 0.25):
                    continue
                pitch = _drum(artist, piece, step)
                notes.append(Note(at + step / plan.steps_per_beat, 0.5, pitch, loud + _STROKES[stroke]))
        if fill:
            for i in range(plan.steps_per_beat):
                tom = _TOMS[min(i, 3)] if rng.random() < 0.6 else artist.snare
                notes.append(Note(at + (stop + i) / plan.steps_per_beat, 0.5, tom, loud + 3.0 * i - 8.0))
        if bar.place == 0 and bar.intensity > _BUSY:
            notes.append(Note(at, 4.0, 49, loud))
    return notes


def write_timpani(artist: Artist, player: Player, plan: Plan, bars: list[tuple[int, Bar]]) -> list[Note]:
    """Write timpani: tonic and dominant on strong beats, and crescendo rolls into the next phrase."""
    low, high = player.role.register_
    notes: list[Note] = []
    for index, bar in bars:
        at = float(index * plan.beats_per_bar)
        pitch = nearest(low + 5, (bar.tonic, (bar.tonic + 7) % 12), low, high)
        loud = loudness(artist, bar.intensity)
        notes.append(Note(at, 1.0, pitch, loud))
        if not bar.closes or bar.final:
            continue
        count = 8
        for i in range(count):
            notes.append(Note(at + plan.beats_per_bar - 1 + i / count, 0.3, pitch, loud - 40.0 + 40.0 * i / count))
    return notes


def _pattern(player: Player, bar: Bar) -> str:
    return player.patterns[-1 if bar.intensity >= _BUSY else 0]


def _strokes(pattern: str, plan: Plan, bar: Bar, marks: str) -> Iterator[tuple[int, int, Chord]]:
    """Yield step, length and chord of each stroke in a bar; held chords repeat when the harmony changes."""
    steps = plan.beats_per_bar * plan.steps_per_beat
    if bar.final:
        yield 0, steps, bar.chords[0]
        return
    changes = {round(i * steps / len(bar.chords)) for i in range(1, len(bar.chords))}
    sounding = False
    starts: list[int] = []
    ends: dict[int, int] = {}
    for step in range(steps):
        char = pattern[step % len(pattern)]
        struck = char in marks or (sounding and step in changes and char == "-")
        if (struck or char == ".") and sounding:
            ends[starts[-1]] = step
        if struck:
            starts.append(step)
        sounding = struck or (sounding and char == "-")
    for start in starts:
        yield start, ends.get(start, steps) - start, chord_at(bar, start / steps)


def _colour(char: str, root: int, chord: Chord, tonic: int, low: int, high: int) -> int:
    tones = chord.pitch_classes(tonic)
    if char == "t" and len(tones) > 1:
        return nearest(root + 3, (tones[1],), low, high + 4)
    if char == "f":
        fifth = tones[2] if len(tones) > 2 else tones[-1]
        return nearest(root + 3, (fifth,), low, high + 4)
    if char == "o":
        return root + 12
    return root


def _drum(artist: Artist, piece: str, step: int) -> int:
    if piece == "kick":
        return artist.kick
    if piece == "snare":
        return artist.snare
    if piece == "tom":
        return _TOMS[step // 4 % 4]
    return _PIECES[piece]


def _orchestral_percussion(artist: Artist, plan: Plan, bars: list[tuple[int, Bar]]) -> list[Note]:
    notes: list[Note] = []
    for index, bar in bars:
        at = float(index * plan.beats_per_bar)
        if bar.place % 4 == 0:
            notes.append(Note(at, 4.0, 49, loudness(artist, bar.intensity)))
            notes.append(Note(at, 1.0, 35, loudness(artist, bar.intensity)))
    return notes


def _fits(length: int, steps: int) -> bool:
    return length == steps or (steps == 8 and length == 16)
