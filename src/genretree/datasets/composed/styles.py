"""Style rules of the leaves: schema, loading and validation of styles.yaml."""

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
    """Role of a part in an ensemble; styles.yaml documents the fields."""

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
    """Section of a form, with its initial and final intensity (0 to 1)."""

    start: float = Field(alias="from", ge=0.0, le=1.0)
    end: float = Field(alias="to", ge=0.0, le=1.0)
    key: int = 0  # semitones from the home key
    melody: bool = True


class MixRanges(Settings):
    """Ranges of the mixing parameters of the artists of a style."""

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
    """Rules of one leaf; styles.yaml documents the fields."""

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
    """Arpeggio: chord tones in playing order, one every `every` steps."""

    order: tuple[int, ...]
    every: int = Field(ge=1)


class StyleBook(Settings):
    """Contents of styles.yaml."""

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
    """Load the rules of the package (once per process).

    Raises
    ------
    CorpusError
        If the file refers to an unknown name, which only an edit of the package can cause.
    """
    text = (resources.files("genretree.datasets.composed") / "styles.yaml").read_text(encoding="utf-8")
    book = StyleBook.build(_load_yaml(text))
    for name, style in book.styles.items():
        _check_style(name, style, book)
    return book


@lru_cache(maxsize=1)
def leaves() -> tuple[str, ...]:
    """Return the names of the leaves of the tree, in index order."""
    return tuple(path[-1] for path in Taxonomy.builtin(TREE).leaves)


def find_style(leaf: str) -> tuple[int, Style]:
    """Return the index of a leaf in the tree, and its style.

    Raises
    ------
    TaxonomyError
        If the tree has no such leaf.
    """
    index = Taxonomy.builtin(TREE).find_leaf(leaf)
    name = leaves()[index]
    if name not in style_book().styles:
        raise TaxonomyError(f"styles.yaml has no rules for the leaf '{name}'")
    return index, style_book().styles[name]


def role_names(ensemble: tuple[str, ...]) -> list[tuple[str, bool]]:
    """Split the entries of an ensemble into role names and whether the part is optional (`name?`)."""
    return [(entry.removesuffix("?"), entry.endswith("?")) for entry in ensemble]


def _load_yaml(text: str) -> Mapping[str, Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml is ten times as fast
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
    """List the grooves that fit a bar of `steps` steps: of equal length or, for 2/4, of twice the length."""
    lengths = {name: len(next(iter(book.grooves[name].values()))) for name in names}
    return [name for name in names if lengths[name] == steps or (steps == 8 and lengths[name] == 16)]


def _check_known(owner: str, names: set[str], known: set[str]) -> None:
    unknown = sorted(names - known)
    if unknown:
        raise CorpusError(f"styles.yaml: {owner}: unknown names {unknown}")
