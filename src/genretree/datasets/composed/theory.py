"""Keys, scales, chords and voicings.

Pitches are MIDI note numbers (60 is middle C); pitch classes are 0 to 11 from C.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

KEY_NAMES = ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")

SCALES: dict[str, tuple[int, ...]] = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
}
# Harmony of each mode: that of major or of minor.
FAMILY = {"major": "major", "mixolydian": "major", "minor": "minor", "dorian": "minor"}

_NUMERALS = ("i", "ii", "iii", "iv", "v", "vi", "vii")
_CHORD = re.compile(r"(?P<flat>b?)(?P<numeral>[iv]+|[IV]+)(?P<dim>o?)(?P<suffix>[a-z0-9]*)(?:/(?P<of>b?[ivIV]+))?")
_SUFFIXES: dict[str, tuple[tuple[int, ...] | None, int]] = {
    # intervals in place of the triad's third and above (None: the plain triad), and the inversion
    "": (None, 0),
    "6": (None, 1),
    "64": (None, 2),
    "5": ((0, 7), 0),
    "sus2": ((0, 2, 7), 0),
    "sus4": ((0, 5, 7), 0),
    "7sus4": ((0, 5, 7, 10), 0),
}
_SEVENTHS = {"7": (10, 0), "maj7": (11, 0), "65": (10, 1), "43": (10, 2), "42": (10, 3), "add9": (14, 0)}


@dataclass(frozen=True)
class Chord:
    """A chord in semitones above the tonic.

    Parameters
    ----------
    root : int
        0 to 11.
    intervals : tuple of int
        Chord tones above the root, the root's 0 first.
    bass : int
        Lowest note above the tonic, 0 to 11.
    """

    root: int
    intervals: tuple[int, ...]
    bass: int

    def pitch_classes(self, tonic: int) -> tuple[int, ...]:
        """Pitch classes in the key of `tonic`, root first."""
        return tuple((tonic + self.root + interval) % 12 for interval in self.intervals)


@lru_cache(maxsize=1024)
def parse_chord(text: str, family: str) -> Chord:
    """Parse a Roman numeral such as `ii65`, `bVII`, `V7/ii` or `viio7/V`.

    Parameters
    ----------
    family : {"major", "minor"}
        Scale of unaltered degrees. In minor, `V` is major and so has the raised leading note, and `viio` is built on
        the raised seventh.

    Raises
    ------
    ValueError
        If the text is not a Roman numeral.
    """
    match = _CHORD.fullmatch(text)
    if match is None or match["numeral"].lower() not in _NUMERALS:
        raise ValueError(f"'{text}' is not a chord")
    root = _degree(match["numeral"], match["flat"], family)
    if match["of"]:
        goal = _degree(match["of"].lstrip("b"), "b" if match["of"].startswith("b") else "", family)
        root = goal + SCALES["major"][_NUMERALS.index(match["numeral"].lower())]
    elif family == "minor" and match["numeral"] == "vii" and match["dim"]:
        root = 11
    intervals, inversion = _intervals(text, match["numeral"], match["dim"], match["suffix"])
    bass = intervals[min(inversion, len(intervals) - 1)]
    return Chord(root % 12, intervals, (root + bass) % 12)


def _degree(numeral: str, flat: str, family: str) -> int:
    return SCALES[family][_NUMERALS.index(numeral.lower())] - len(flat)


def _intervals(text: str, numeral: str, dim: str, suffix: str) -> tuple[tuple[int, ...], int]:
    third = 4 if numeral.isupper() else 3
    triad = (0, 3, 6) if dim else (0, third, 7)
    if suffix in _SUFFIXES:
        fixed, inversion = _SUFFIXES[suffix]
        return fixed or triad, inversion
    if suffix not in _SEVENTHS:
        raise ValueError(f"'{text}' is not a chord")
    top, inversion = _SEVENTHS[suffix]
    if dim and top == 10:
        top = 9 if numeral == "vii" else 10
    return (*triad, top), inversion


def nearest(pitch: float, pitch_classes: tuple[int, ...], low: int, high: int) -> int:
    """Find the pitch nearest to `pitch` that has one of the pitch classes, within [low, high] if possible."""
    best = min((p for p in range(low, high + 1) if p % 12 in pitch_classes), key=lambda p: abs(p - pitch), default=None)
    return best if best is not None else round(pitch)


def voicing(pitch_classes: tuple[int, ...], centre: int) -> list[int]:
    """Place each pitch class in the octave around `centre`, which gives small steps between chords."""
    return sorted(centre - 6 + (pc - centre + 6) % 12 for pc in dict.fromkeys(pitch_classes))
