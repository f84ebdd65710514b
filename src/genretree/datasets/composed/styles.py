"""The style rules as data: reads and checks styles.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from typing import Any, Literal

import yaml
from pydantic import Field

from genretree.datasets.composed.theory import SCALES, parse_chord
from genretree.errors import CorpusError, TaxonomyError
from genretree.settings import Settings
from genretree.taxonomy import Taxonomy

Span = tuple[float, float]
Job = Literal["melody", "double", "counter", "chords", "arp", "bass", "drums", "timpani"]
TREE = "ccmusic"
# beats in a bar, steps in a beat
METRES: dict[str, tuple[int, int]] = {"4/4": (4, 4), "3/4": (3, 4), "2/4": (2, 4), "6/8": (2, 6)}


class Role(Settings):
    """What one part does in the ensemble; see styles.yaml for the meaning of each field."""

    job: Job
    programs: tuple[int, ...]
    same_as: str | None = None
    register_: tuple[int, int] = Field(alias="register")
    enter: float = Field(ge=0.0, le=1.0)
    level: float  # dB
    length: float = Field(gt=0.0, le=2.0)
    patterns: tuple[str, ...] = ()
    vibrato: Span = (0.0, 0.0)  # cents


class Section(Settings):
    """A stretch of a form, with the intensity (0 to 1) it starts and ends at."""

    start: float = Field(alias="from", ge=0.0, le=1.0)
    end: float = Field(alias="to", ge=0.0, le=1.0)
    key: int = 0  # semitones from the home key
    melody: bool = True


class MixRanges(Settings):
    """Between which values the artists of a style choose their sound."""

    tilt: Span  # dB an octave, about 1 kHz
    drive: Span
    compress: Span
    reverb: Span  # seconds to -60 dB
    wet: Span
    noise: Span  # dB below full scale
    high_cut: Span  # Hz
    peak: Span
    duck: Span


class Style(Settings):
    """The rules of one leaf; see styles.yaml for the meaning of each field."""

    tempo: tuple[float, float]  # beats a minute; in 6/8 a beat is a dotted crotchet
    metres: dict[str, float]
    modes: dict[str, float]
    harmony: Literal["grammar"] | tuple[str, ...]
    ensembles: tuple[tuple[str, ...], ...]
    forms: tuple[str, ...]
    grooves: tuple[str, ...]
    density: Span
    syncopation: Span
    swing: Span
    rubato: Span
    dynamics: tuple[int, int]  # MIDI velocity
    ending: Literal["fade", "cadence"]
    mix: MixRanges


class Arp(Settings):
    """Chord tones in the order they are played, one every so many steps."""

    order: tuple[int, ...]
    every: int = Field(ge=1)


class StyleBook(Settings):
    """All of styles.yaml."""

    chords: dict[str, str]
    arps: dict[str, Arp]
    basses: dict[str, str]
    grooves: dict[str, dict[str, str]]
    roles: dict[str, Role]
    loops: dict[str, dict[str, str]]
    phrases: dict[str, dict[str, tuple[str, ...]]]
    sections: dict[str, Section]
    styles: dict[str, Style]


@lru_cache(maxsize=1)
def style_book() -> StyleBook:
    """Read the rules that ship with the package (once in a process).

    Raises
    ------
    CorpusError
        If a name in the file points nowhere; the file is part of the package, so this is for whoever edits it.
    """
    text = (resources.files("genretree.datasets.composed") / "styles.yaml").read_text(encoding="utf-8")
    book = StyleBook.build(_load_yaml(text))
    for name, style in book.styles.items():
        _check_style(name, style, book)
    return book


@lru_cache(maxsize=1)
def leaves() -> tuple[str, ...]:
    """Names of the tree's leaves, in index order."""
    return tuple(path[-1] for path in Taxonomy.builtin(TREE).leaves)


def find_style(leaf: str) -> tuple[int, Style]:
    """Find a leaf's index in the tree and its style.

    Raises
    ------
    TaxonomyError
        If the tree has no such leaf.
    """
    index = Taxonomy.builtin(TREE).find_leaf(leaf)
    name = leaves()[index]
    if name not in style_book().styles:
        raise TaxonomyError(f"no rules are written for the leaf '{name}'")
    return index, style_book().styles[name]


def role_names(ensemble: tuple[str, ...]) -> list[tuple[str, bool]]:
    """Split an ensemble's entries into role name and whether the part may be left out (`name?`)."""
    return [(entry.removesuffix("?"), entry.endswith("?")) for entry in ensemble]


def _load_yaml(text: str) -> Mapping[str, Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times the speed where libyaml is there
    content: Mapping[str, Any] = yaml.load(text, Loader=loader)
    return content


def _check_style(name: str, style: Style, book: StyleBook) -> None:
    used = {role for ensemble in style.ensembles for role, _ in role_names(ensemble)}
    _check_known(name, used, set(book.roles))
    _check_known(name, set(style.grooves), set(book.grooves))
    _check_known(name, set(style.metres), set(METRES))
    _check_known(name, set(style.modes), set(SCALES))
    for role in used:
        _check_known(role, set(book.roles[role].patterns), {*book.chords, *book.arps, *book.basses})
    for form in style.forms:
        _check_known(name, {part.split(":")[0] for part in form.split()}, set(book.sections))
    if style.harmony != "grammar":
        _check_known(name, set(style.harmony), {loop for family in book.loops.values() for loop in family})
    for metre in style.metres:
        steps = METRES[metre][0] * METRES[metre][1]
        if not grooves_for(style.grooves, steps, book):
            raise CorpusError(f"styles.yaml: {name}: no groove fits {metre}")
    for family, texts in (("major", book.loops["major"]), ("minor", book.loops["minor"])):
        for bars in texts.values():
            for chord in bars.replace(",", " ").split():
                parse_chord(chord, family)


def grooves_for(names: tuple[str, ...], steps: int, book: StyleBook) -> list[str]:
    """Names of the grooves that fit a bar of so many steps: as long as it, or (for 2/4) twice as long."""
    lengths = {name: len(next(iter(book.grooves[name].values()))) for name in names}
    return [name for name in names if lengths[name] == steps or (steps == 8 and lengths[name] == 16)]


def _check_known(where: str, names: set[str], known: set[str]) -> None:
    unknown = sorted(names - known)
    if unknown:
        raise CorpusError(f"styles.yaml: {where}: unknown names {unknown}")
