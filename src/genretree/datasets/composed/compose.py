"""Composition of a track: parts with notes in seconds, from an artist and a track number."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from genretree.datasets.composed.accompaniment import write_arp, write_bass, write_chords, write_drums, write_timpani
from genretree.datasets.composed.artists import Artist, Player, Purpose, generator, sample_artist
from genretree.datasets.composed.melody import Note, write_counter, write_double, write_melody
from genretree.datasets.composed.names import track_title
from genretree.datasets.composed.plan import Bar, Plan, plan_track
from genretree.datasets.composed.styles import find_style, leaves
from genretree.datasets.composed.theory import KEY_NAMES
from genretree.settings import SAMPLE_RATE, Settings

_ALONE = ("solo", "riff_intro", "drop")  # sections in which a second melody instrument plays the melody


class ComposeSettings(Settings):
    """Settings of the composed corpus."""

    seed: int = Field(0, ge=0, lt=2**32, description="seed of the corpus")
    artists: int = Field(6, ge=1, le=300, description="number of artists per leaf")
    tracks: int = Field(2, ge=1, le=1000, description="number of tracks per artist")
    seconds: float = Field(36.0, ge=12.0, le=600.0, description="length of a track in seconds")
    rate: int = Field(SAMPLE_RATE, ge=8000, le=48000, description="sample rate in Hz")
    format: Literal["flac", "wav", "ogg"] = Field("flac", description="audio file format")
    channels: int = Field(1, ge=1, le=2, description="1 for mono, 2 for stereo")


@dataclass(frozen=True)
class TrackMetadata:
    """Metadata of a composed track."""

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
    """Notes of one player, sorted by time.

    Parameters
    ----------
    player : Player
    starts, lengths : array, shape (n_notes,)
        Start times and durations in seconds.
    pitches, velocities : array, shape (n_notes,)
        MIDI values, 0 to 127 and 1 to 127.
    """

    player: Player
    starts: NDArray[np.float64]
    lengths: NDArray[np.float64]
    pitches: NDArray[np.int64]
    velocities: NDArray[np.int64]


@dataclass(frozen=True)
class Piece:
    """A composed track before rendering."""

    artist: Artist
    metadata: TrackMetadata
    parts: tuple[Part, ...]
    fade: bool  # whether the track fades out


def compose_score(leaf: str, artist: int, track: int, settings: ComposeSettings | None = None) -> Piece:
    """Compose a track without rendering it.

    Parameters
    ----------
    leaf : str
        Name of a leaf of the ccmusic tree.
    artist, track : int
        Numbers from 0; not limited by the counts in `settings`.
    settings : ComposeSettings, optional
        Only `seed` and `seconds` are used.

    Returns
    -------
    Piece
        Notes start in [0, seconds), the first one within half a second.

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
    parts = _to_seconds(signature, plan, _write_parts(signature, plan, rng), rng, settings.seconds)
    metadata = _metadata(signature, plan, settings, generator(settings.seed, index, artist, track, Purpose.NAME))
    return Piece(signature, metadata, parts, fade=signature.style.ending == "fade")


@lru_cache(maxsize=64)
def _artist(seed: int, leaf: str, number: int) -> Artist:
    return sample_artist(seed, leaf, number)


def _metadata(artist: Artist, plan: Plan, settings: ComposeSettings, rng: np.random.Generator) -> TrackMetadata:
    key = f"{KEY_NAMES[plan.tonic]} {plan.mode}"
    return TrackMetadata(
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
    # At least one player must play from the first bar on, even at low intensity.
    floor = min(p.role.enter for p in playing)
    parts: list[tuple[Player, list[Note]]] = []
    tune: list[Note] = []
    for nth, lead in enumerate(leads):
        own = [(i, bar) for i, bar in _bars_of_player(lead, plan, floor) if _plays_melody(bar, nth, len(leads))]
        notes = write_melody(artist, lead, plan, own, rng)
        parts.append((lead, notes))
        tune = sorted([*tune, *notes])
    for player in playing:
        job = player.role.job
        bars = _bars_of_player(player, plan, floor)
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


def _bars_of_player(player: Player, plan: Plan, floor: float) -> list[tuple[int, Bar]]:
    """List the bars in which a player plays, with their indices."""
    enter = player.role.enter
    return [(i, bar) for i, bar in enumerate(plan.bars) if bar.final or max(bar.intensity, floor) >= enter]


def _plays_melody(bar: Bar, nth: int, leads: int) -> bool:
    """Whether a melody instrument plays in a bar: the first by default, the others in sections where it rests."""
    alone = bar.section in _ALONE
    if nth == 0:
        return bar.melody and not (alone and leads > 1)
    return alone


def _to_seconds(
    artist: Artist, plan: Plan, written: list[tuple[Player, list[Note]]], rng: np.random.Generator, seconds: float
) -> tuple[Part, ...]:
    """Convert beats to seconds, with swing and random timing deviations."""
    first = min(note.start for _, notes in written for note in notes)
    # Remove initial silence.
    delay = 0.1 - max(0.0, float(plan.seconds(first)) - 0.25)
    parts = []
    for player, notes in written:
        notes = sorted(notes)
        start_beats = np.array([note.start for note in notes])
        end_beats = start_beats + np.array([note.beats for note in notes]) * player.length
        pitches = np.array([note.pitch for note in notes], dtype=np.int64)
        velocity_values = np.array([note.velocity for note in notes]) + rng.normal(0.0, 3.0, len(notes))
        starts = (
            plan.seconds(_swing(start_beats, plan, artist.swing)) + rng.normal(0.0, artist.timing, len(notes)) + delay
        )
        lengths = np.maximum(plan.seconds(end_beats) - plan.seconds(start_beats), 0.06)
        is_valid = (starts < seconds - 0.05) & (pitches >= 0) & (pitches <= 127)
        velocities = np.clip(np.rint(velocity_values), 1, 127).astype(np.int64)
        starts = np.maximum(starts, 0.0)
        valid_rows = np.flatnonzero(is_valid)
        order = valid_rows[np.argsort(starts[valid_rows], kind="stable")]
        parts.append(Part(player, starts[order], lengths[order], pitches[order], velocities[order]))
    return tuple(part for part in parts if len(part.starts))


def _swing(beats: NDArray[np.float64], plan: Plan, amount: float) -> NDArray[np.float64]:
    """Delay every second quaver (semiquaver in slow music): at amount 1 the pair divides 2:1."""
    if amount == 0.0 or plan.steps_per_beat == 6:
        return beats
    pair = 1.0 if plan.bpm > 100 else 0.5
    whole = np.floor(beats / pair) * pair
    place = (beats - whole) / pair
    middle = 0.5 + amount / 6.0
    return whole + pair * np.interp(place, [0.0, 0.5, 1.0], [0.0, middle, 1.0])
