"""Composing: an artist and a track number become parts with notes in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from genretree.datasets.composed.accompaniment import write_arp, write_bass, write_chords, write_drums, write_timpani
from genretree.datasets.composed.artists import Artist, Player, Purpose, draw_artist, generator
from genretree.datasets.composed.melody import Note, write_counter, write_double, write_melody
from genretree.datasets.composed.names import track_title
from genretree.datasets.composed.plan import Bar, Plan, plan_track
from genretree.datasets.composed.styles import find_style, leaves
from genretree.datasets.composed.theory import KEY_NAMES
from genretree.settings import SAMPLE_RATE, Settings

_ALONE = ("solo", "riff_intro", "drop")  # sections where a second melody instrument takes over


class ComposeSettings(Settings):
    """What the composed corpus holds."""

    seed: int = Field(0, ge=0, lt=2**32, description="all that is composed follows from it")
    artists: int = Field(6, ge=1, le=300, description="artists in each leaf")
    tracks: int = Field(2, ge=1, le=1000, description="tracks by each artist")
    seconds: float = Field(36.0, ge=12.0, le=600.0, description="length of a track in seconds")
    rate: int = Field(SAMPLE_RATE, ge=8000, le=48000, description="sampling rate in Hz")
    format: Literal["flac", "wav", "ogg"] = Field("flac", description="kind of audio file")
    channels: int = Field(1, ge=1, le=2, description="1 for mono, 2 for stereo")


@dataclass(frozen=True)
class TrackFacts:
    """What is known of a composed track."""

    leaf: str
    artist: str
    album: str
    title: str
    bpm: float
    metre: str
    mode: str
    key: str  # such as "Eb minor"
    seconds: float
    seed: int


@dataclass(frozen=True)
class Part:
    """The notes of one player, in order of time.

    Parameters
    ----------
    player : Player
    starts, lengths : array, shape (n_notes,)
        Seconds.
    pitches, velocities : array, shape (n_notes,)
        MIDI, 0 to 127 and 1 to 127.
    """

    player: Player
    starts: NDArray[np.float64]
    lengths: NDArray[np.float64]
    pitches: NDArray[np.int64]
    velocities: NDArray[np.int64]


@dataclass(frozen=True)
class Piece:
    """A composed track, before it is rendered."""

    artist: Artist
    facts: TrackFacts
    parts: tuple[Part, ...]
    fade: bool  # whether it fades out instead of ending


def compose_score(leaf: str, artist: int, track: int, settings: ComposeSettings | None = None) -> Piece:
    """Compose a track without rendering it.

    Parameters
    ----------
    leaf : str
        Name of a leaf of the ccmusic tree.
    artist, track : int
        Numbers from 0; the settings' counts don't bound them.
    settings : ComposeSettings, optional
        Only `seed` and `seconds` matter here.

    Returns
    -------
    Piece
        Its notes start within [0, seconds); the first within half a second.

    Raises
    ------
    TaxonomyError
        If the tree has no such leaf.
    """
    settings = settings or ComposeSettings.build()
    signature = _artist(settings.seed, leaves()[find_style(leaf)[0]], artist)
    index = leaves().index(signature.leaf)
    plan = plan_track(signature, generator(settings.seed, index, artist, track, Purpose.PLAN), settings.seconds)
    rng = generator(settings.seed, index, artist, track, Purpose.NOTES)
    parts = _timed(signature, plan, _write_parts(signature, plan, rng), rng, settings.seconds)
    facts = _facts(signature, plan, settings, generator(settings.seed, index, artist, track, Purpose.NAME))
    return Piece(signature, facts, parts, fade=signature.style.ending == "fade")


@lru_cache(maxsize=64)
def _artist(seed: int, leaf: str, number: int) -> Artist:
    return draw_artist(seed, leaf, number)


def _facts(artist: Artist, plan: Plan, settings: ComposeSettings, rng: np.random.Generator) -> TrackFacts:
    key = f"{KEY_NAMES[plan.tonic]} {plan.mode}"
    return TrackFacts(
        leaf=artist.leaf,
        artist=artist.name,
        album=artist.albums[rng.integers(len(artist.albums))],
        title=track_title(rng, artist.leaf, key),
        bpm=round(plan.bpm, 1),
        metre=plan.metre,
        mode=plan.mode,
        key=key,
        seconds=settings.seconds,
        seed=settings.seed,
    )


def _write_parts(artist: Artist, plan: Plan, rng: np.random.Generator) -> list[tuple[Player, list[Note]]]:
    playing = [p for p in artist.players if not p.optional or rng.random() < 0.5]
    leads = [p for p in playing if p.role.job == "melody"]
    # Somebody has to play from the first bar on, however quiet it is.
    floor = min(p.role.enter for p in playing)
    parts: list[tuple[Player, list[Note]]] = []
    tune: list[Note] = []
    for nth, lead in enumerate(leads):
        own = [(i, bar) for i, bar in _enters(lead, plan, floor) if _sings(bar, nth, len(leads))]
        notes = write_melody(artist, lead, plan, own, rng)
        parts.append((lead, notes))
        tune = sorted([*tune, *notes])
    for player in playing:
        job = player.role.job
        bars = _enters(player, plan, floor)
        if job == "double":
            parts.append((player, write_double(player, plan, dict(bars), tune, rng)))
        elif job == "counter":
            parts.append((player, write_counter(player, plan, dict(bars), tune, rng)))
        elif job == "chords":
            parts.append((player, write_chords(artist, player, plan, bars)))
        elif job == "arp":
            parts.append((player, write_arp(artist, player, plan, bars)))
        elif job == "bass":
            parts.append((player, write_bass(artist, player, plan, bars)))
        elif job == "drums":
            parts.append((player, write_drums(artist, plan, bars, rng)))
        elif job == "timpani":
            parts.append((player, write_timpani(artist, player, plan, bars)))
    return [(player, notes) for player, notes in parts if notes]


def _enters(player: Player, plan: Plan, floor: float) -> list[tuple[int, Bar]]:
    """Bars in which a player plays, each with its index."""
    enter = player.role.enter
    return [(i, bar) for i, bar in enumerate(plan.bars) if bar.final or max(bar.intensity, floor) >= enter]


def _sings(bar: Bar, nth: int, leads: int) -> bool:
    """Whether a melody instrument has the tune in a bar: the first has it, but others take over where it rests."""
    alone = bar.section in _ALONE
    if nth == 0:
        return bar.melody and not (alone and leads > 1)
    return alone


def _timed(
    artist: Artist, plan: Plan, written: list[tuple[Player, list[Note]]], rng: np.random.Generator, seconds: float
) -> tuple[Part, ...]:
    """Put notes on the clock, swung and a little off the grid, as people play."""
    first = min(note.start for _, notes in written for note in notes)
    # A pick-up rest at the start isn't worth keeping: the track starts with its music.
    delay = 0.1 - max(0.0, float(plan.seconds(first)) - 0.25)
    parts = []
    for player, notes in written:
        notes = sorted(notes)
        begin = np.array([note.start for note in notes])
        end = begin + np.array([note.beats for note in notes]) * player.length
        pitches = np.array([note.pitch for note in notes], dtype=np.int64)
        loud = np.array([note.velocity for note in notes]) + rng.normal(0.0, 3.0, len(notes))
        starts = plan.seconds(_swing(begin, plan, artist.swing)) + rng.normal(0.0, artist.timing, len(notes)) + delay
        lengths = np.maximum(plan.seconds(end) - plan.seconds(begin), 0.06)
        keep = (starts < seconds - 0.05) & (pitches >= 0) & (pitches <= 127)
        velocities = np.clip(np.rint(loud), 1, 127).astype(np.int64)
        starts = np.maximum(starts, 0.0)
        kept = np.flatnonzero(keep)
        order = kept[np.argsort(starts[kept], kind="stable")]
        parts.append(Part(player, starts[order], lengths[order], pitches[order], velocities[order]))
    return tuple(part for part in parts if len(part.starts))


def _swing(beats: NDArray[np.float64], plan: Plan, amount: float) -> NDArray[np.float64]:
    """Delay every second quaver (semiquaver in slow music): at amount 1 the pair divides 2:1."""
    if amount == 0.0 or plan.steps_per_beat == 6:
        return beats
    pair = 1.0 if plan.bpm > 100 else 0.5
    whole = np.floor(beats / pair) * pair
    place = (beats - whole) / pair
    turn = 0.5 + amount / 6.0
    return whole + pair * np.interp(place, [0.0, 0.5, 1.0], [0.0, turn, 1.0])
