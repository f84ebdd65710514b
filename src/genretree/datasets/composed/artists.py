"""Artists: signatures that are sampled from a style and shared by all tracks of the artist.

The signature makes a split by artist harder than a split by slice: tracks of one artist share instruments, room,
equalisation, tempo and playing style, which differ between artists of the same genre.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from genretree.datasets.composed.names import album_name, artist_name
from genretree.datasets.composed.styles import (
    METRES,
    Role,
    Span,
    Style,
    find_style,
    grooves_for,
    leaves,
    role_names,
    style_book,
)


class Purpose(IntEnum):
    """Separate random streams, so that a change to one use does not affect the others."""

    ARTIST = 0
    PLAN = 1
    NOTES = 2
    SOUND = 3
    NAME = 4


def generator(seed: int, leaf: int, artist: int, track: int, purpose: Purpose) -> np.random.Generator:
    """Create the generator of one purpose of one track, independent of the number of artists and tracks."""
    return np.random.default_rng([seed, leaf, artist, track, int(purpose)])


@dataclass(frozen=True)
class Player:
    """One part of an artist's ensemble."""

    name: str
    role: Role
    program: int  # General MIDI, from 0
    patterns: tuple[str, ...]
    optional: bool
    level: float  # dB
    pan: float  # -1 (left) to 1
    length: float  # sounding share of the note value
    vibrato: float  # cents


@dataclass(frozen=True)
class Mix:
    """Mixing and mastering parameters of an artist."""

    tilt: float  # dB an octave, about 1 kHz
    bumps: tuple[tuple[float, float, float], ...]  # Hz, dB, width in octaves
    low_cut: float  # Hz
    high_cut: float  # Hz
    reverb: float  # seconds to -60 dB
    wet: float
    drive: float
    compress: float
    duck: float
    noise: float  # dB
    peak: float
    cents: float  # tuning against A = 440 Hz


@dataclass(frozen=True)
class Artist:
    """An artist's signature."""

    leaf: str
    number: int
    name: str
    albums: tuple[str, ...]
    style: Style
    tempo: Span  # beats a minute
    metres: tuple[str, ...]
    modes: tuple[str, ...]
    tonics: tuple[int, ...]  # pitch classes
    loops: dict[str, tuple[str, ...]]  # family -> names
    forms: tuple[str, ...]
    players: tuple[Player, ...]
    grooves: tuple[str, ...]
    kick: int
    snare: int
    density: float
    syncopation: float
    swing: float
    rubato: float
    timing: float  # seconds
    dynamics: Span  # MIDI velocity
    vibrato_rate: float  # Hz
    mix: Mix


def sample_artist(seed: int, leaf: str, number: int) -> Artist:
    """Sample the signature of one artist.

    Parameters
    ----------
    seed : int
        Seed of the corpus.
    leaf : str
        Name of a leaf of the ccmusic tree.
    number : int
        Number of the artist in the leaf, from 0; independent of the number of artists.

    Raises
    ------
    TaxonomyError
        If the tree has no such leaf.
    """
    index, style = find_style(leaf)
    leaf = leaves()[index]
    rng = generator(seed, index, number, 0, Purpose.ARTIST)
    low, high = style.tempo
    centre = low + (high - low) * rng.beta(1.6, 1.6)
    metres = _sample_weighted(rng, style.metres, 2)
    dynamics = _sample_subrange(rng, (float(style.dynamics[0]), float(style.dynamics[1])), 0.75)
    return Artist(
        leaf=leaf,
        number=number,
        name=artist_name(seed, leaf, index, number),
        albums=tuple(album_name(rng, leaf) for _ in range(rng.integers(1, 3))),
        style=style,
        tempo=(max(low, centre * 0.95), min(high, centre * 1.05)),
        metres=metres,
        modes=_sample_weighted(rng, style.modes, 2),
        tonics=tuple(int(t) for t in rng.choice(12, 4, replace=False)),
        loops=_choose_loops(rng, style),
        forms=tuple(_sample_names(rng, style.forms, 2)),
        players=_choose_players(rng, style),
        grooves=_choose_grooves(rng, style, metres),
        kick=int(rng.choice([35, 36])),
        snare=int(rng.choice([38, 38, 40])),
        density=rng.uniform(*style.density),
        syncopation=rng.uniform(*style.syncopation),
        swing=rng.uniform(*style.swing),
        rubato=rng.uniform(*style.rubato),
        timing=rng.uniform(0.001, 0.014) if style.rubato[1] > 0 else rng.uniform(0.0, 0.006),
        dynamics=dynamics,
        vibrato_rate=rng.uniform(4.6, 6.4),
        mix=_sample_mix(rng, style),
    )


def _sample_mix(rng: np.random.Generator, style: Style) -> Mix:
    ranges = style.mix
    bumps = tuple(
        (float(120.0 * 2 ** rng.uniform(0.0, 5.8)), float(rng.uniform(-4.5, 4.5)), float(rng.uniform(0.3, 0.9)))
        for _ in range(3)
    )
    return Mix(
        tilt=rng.uniform(*ranges.tilt),
        bumps=bumps,
        low_cut=rng.uniform(25.0, 75.0),
        high_cut=rng.uniform(*ranges.high_cut),
        reverb=rng.uniform(*ranges.reverb),
        wet=rng.uniform(*ranges.wet),
        drive=rng.uniform(*ranges.drive),
        compress=rng.uniform(*ranges.compress),
        duck=rng.uniform(*ranges.duck),
        noise=rng.uniform(*ranges.noise),
        peak=rng.uniform(*ranges.peak),
        cents=rng.uniform(-30.0, 30.0),
    )


def _choose_players(rng: np.random.Generator, style: Style) -> tuple[Player, ...]:
    book = style_book()
    ensemble = style.ensembles[rng.integers(len(style.ensembles))]
    players: list[Player] = []
    programs: dict[str, int] = {}
    for name, optional in role_names(ensemble):
        role = book.roles[name]
        program = int(rng.choice(role.programs)) if role.programs else 0
        programs[name] = programs[role.same_as] if role.same_as else program
        # Most artists have an optional part on all tracks or on none.
        habit = rng.random()
        if optional and habit < 0.4:
            continue
        players.append(
            Player(
                name=name,
                role=role,
                program=programs[name],
                patterns=tuple(_sample_names(rng, role.patterns, 2)),
                optional=optional and habit < 0.6,
                level=role.level + float(rng.normal(0.0, 2.0)),
                pan=float(rng.uniform(-0.6, 0.6)) if role.job not in ("melody", "bass", "drums") else 0.0,
                length=role.length * rng.uniform(0.85, 1.05),
                vibrato=rng.uniform(*role.vibrato),
            )
        )
    return tuple(players)


def _choose_loops(rng: np.random.Generator, style: Style) -> dict[str, tuple[str, ...]]:
    if style.harmony == "grammar":
        return {}
    loops = style_book().loops
    selected = {}
    for family, loops_of_family in loops.items():
        fitting = tuple(name for name in style.harmony if name in loops_of_family) or tuple(loops_of_family)
        selected[family] = tuple(_sample_names(rng, fitting, 3))
    return selected


def _choose_grooves(rng: np.random.Generator, style: Style, metres: tuple[str, ...]) -> tuple[str, ...]:
    selected: list[str] = []
    for metre in metres:
        beats, steps = METRES[metre]
        selected += _sample_names(rng, tuple(grooves_for(style.grooves, beats * steps, style_book())), 2)
    return tuple(dict.fromkeys(selected))


def _sample_weighted(rng: np.random.Generator, weights: dict[str, float], count: int) -> tuple[str, ...]:
    names = list(weights)
    shares = np.array([weights[name] for name in names])
    count = min(count, len(names))
    return tuple(str(name) for name in rng.choice(names, count, replace=False, p=shares / shares.sum()))


def _sample_names(rng: np.random.Generator, names: tuple[str, ...], count: int) -> list[str]:
    picks = rng.permutation(len(names))[:count]
    return [names[i] for i in picks]


def _sample_subrange(rng: np.random.Generator, span: Span, share: float) -> Span:
    width = (span[1] - span[0]) * share
    low = rng.uniform(span[0], span[1] - width)
    return low, low + width
