"""Minimal renderer of SoundFont 2 files, one note at a time.

symusic 0.5.8 cannot render this soundfont: it ignores the root key that an instrument sets instead of its sample's (its
piano is up to 20 semitones off, differently from zone to zone), hangs on some high notes, and supports neither velocity
nor release. This module implements the parts of the SoundFont 2.04 specification (sections 7 and 8) that sustained
notes need: zones, tuning, loops and attenuation.
"""

from __future__ import annotations

import importlib.util
import itertools
import struct
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from genretree.errors import CorpusError, MissingExtraError

FILE = "TimGM6mb.sf2"
DRUM_BANK = 128
_VELOCITY = 100  # selects the velocity layer of an instrument

# Numbers of the generators in use (specification, section 8.1.2).
_OFFSETS = {"start": (0, 4), "end": (1, 12), "loop_start": (2, 45), "loop_end": (3, 50)}
_INSTRUMENT, _KEYS, _VELOCITIES, _ATTENUATION, _COARSE, _FINE = 41, 43, 44, 48, 51, 52
_SAMPLE, _MODES, _SCALE, _ROOT = 53, 54, 56, 58

_Generators = dict[int, int]


class Zone(NamedTuple):
    """A sample and the keys that play it."""

    low: int
    high: int
    start: int  # in sample points, like the next three
    end: int
    loop_start: int
    loop_end: int
    looped: bool
    rate: int  # Hz
    root: int
    cents: float  # tuning in addition to the distance from the root key
    scale: float  # cents from key to key
    gain: float


class SoundFont:
    """Instruments of a SoundFont 2 file.

    Parameters
    ----------
    path : Path

    Raises
    ------
    CorpusError
        If the file is not a SoundFont 2 file.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._chunks = _read_chunks(path.read_bytes())
            self._points = np.frombuffer(self._chunks["smpl"], dtype="<i2")
            self._zones = self._read_presets()
        except (OSError, KeyError, ValueError, IndexError, struct.error) as error:
            raise CorpusError(f"{path}: not a readable SoundFont 2 file ({error})") from error
        self._halved: dict[tuple[int, int, int], NDArray[np.float32]] = {}

    def play(
        self, bank: int, program: int, key: int, seconds: float, rate: int, cents: float = 0.0
    ) -> NDArray[np.float32]:
        """Render one note without an envelope.

        Parameters
        ----------
        bank, program : int
            Bank 0 holds General MIDI's programs (from 0), bank 128 its drum kits.
        key : int
            MIDI note number.
        seconds : float
        rate : int
            Hz.
        cents : float
            Tuning.

        Returns
        -------
        float32 array, shape (seconds * rate,)
            Sum of the layers; silence if no zone has the key.
        """
        total = np.zeros(round(seconds * rate), dtype=np.float32)
        zones = self._zones.get((bank, program)) or self._zones.get((bank, 0), [])
        fitting = [zone for zone in zones if zone.low <= key <= zone.high]
        for zone in fitting:
            shift = (key - zone.root) * zone.scale + zone.cents + cents
            self._add(total, zone, zone.rate / rate * 2.0 ** (shift / 1200.0))
        return total / np.float32(max(1, len(fitting)) ** 0.5)

    def _add(self, total: NDArray[np.float32], zone: Zone, step: float) -> None:
        """Add the sample of a zone, resampled with `step` points per output sample."""
        octaves = max(0, round(np.log2(step))) if step > 1.0 else 0
        points = self._thinned(zone, octaves)
        step, shrink = step / 2**octaves, 2**octaves
        at = np.arange(len(total)) * step
        first, last = (zone.loop_start - zone.start) / shrink, (zone.loop_end - zone.start) / shrink
        if zone.looped and last - first >= 1.0:
            loop_from = int(np.searchsorted(at, last))
            at[loop_from:] = first + (at[loop_from:] - first) % (last - first)
        at = at[: int(np.searchsorted(at, len(points) - 1))] if not zone.looped else np.minimum(at, len(points) - 1.001)
        whole = at.astype(np.int32)
        share = (at - whole).astype(np.float32)
        interpolated = points[whole] * (1.0 - share) + points[np.minimum(whole + 1, len(points) - 1)] * share
        total[: len(interpolated)] += interpolated * np.float32(zone.gain)

    def _thinned(self, zone: Zone, octaves: int) -> NDArray[np.float32]:
        """Return the points of a sample, decimated by two `octaves` times with an anti-aliasing filter."""
        key = (zone.start, zone.end, octaves)
        if key not in self._halved:
            points = self._points[zone.start : zone.end].astype(np.float32) / np.float32(32768.0)
            for _ in range(octaves):
                points = np.convolve(points, _half_band(), mode="same")[::2]
            self._halved[key] = points
        return self._halved[key]

    def _read_presets(self) -> dict[tuple[int, int], list[Zone]]:
        presets = list(struct.iter_unpack("<20sHHHIII", self._chunks["phdr"]))
        instruments = list(struct.iter_unpack("<20sH", self._chunks["inst"]))
        samples = list(struct.iter_unpack("<20sIIIIIBbHH", self._chunks["shdr"]))
        above = _bags(self._chunks["pbag"], self._chunks["pgen"])
        below = _bags(self._chunks["ibag"], self._chunks["igen"])
        zones_by_program: dict[tuple[int, int], list[Zone]] = {}
        for i in range(len(presets) - 1):
            _, program, bank, first = presets[i][:4]
            zones: list[Zone] = []
            for preset in _with_globals(above[first : presets[i + 1][3]], _INSTRUMENT):
                which = preset[_INSTRUMENT]
                inner = below[instruments[which][1] : instruments[which + 1][1]]
                for generators in _with_globals(inner, _SAMPLE):
                    zone = _zone(generators, preset, samples[generators[_SAMPLE]])
                    if zone is not None:
                        zones.append(zone)
            zones_by_program[bank, program] = zones
        return zones_by_program


@lru_cache(maxsize=1)
def soundfont() -> SoundFont:
    """Load the soundfont of the pretty_midi package (once per process).

    Raises
    ------
    MissingExtraError
        If pretty_midi is not installed.
    CorpusError
        If the package does not contain the soundfont.
    """
    spec = importlib.util.find_spec("pretty_midi")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError("pretty_midi", "compose")
    for folder in spec.submodule_search_locations:
        path = Path(folder) / FILE
        if path.is_file():
            return SoundFont(path)
    raise CorpusError(f"pretty_midi is installed without {FILE}; install pretty_midi 0.2.10 or 0.2.11")


def _read_chunks(content: bytes) -> dict[str, bytes]:
    """Return the bodies of all RIFF chunks by name, including those inside lists."""
    chunks: dict[str, bytes] = {}
    at = 12
    while at + 8 <= len(content):
        name, size = struct.unpack_from("<4sI", content, at)
        if name == b"LIST":
            at += 12
            continue
        chunks[name.decode("latin-1")] = content[at + 8 : at + 8 + size]
        at += 8 + size + size % 2
    return chunks


def _bags(bags: bytes, generators: bytes) -> list[_Generators]:
    """Return the generators of each zone, as raw amounts by number."""
    starts = [row[0] for row in struct.iter_unpack("<HH", bags)]
    rows = list(struct.iter_unpack("<HH", generators))
    return [dict(rows[a:b]) for a, b in itertools.pairwise(starts)]


def _with_globals(zones: list[_Generators], needed: int) -> list[_Generators]:
    """Merge the global zone (a first zone without `needed`) into each zone that has `needed`."""
    shared = zones[0] if zones and needed not in zones[0] else {}
    return [{**shared, **zone} for zone in zones if needed in zone]


def _zone(
    own: _Generators, preset: _Generators, sample: tuple[bytes, int, int, int, int, int, int, int, int, int]
) -> Zone | None:
    low, high = _overlap(own.get(_KEYS), preset.get(_KEYS))
    soft, loud = _overlap(own.get(_VELOCITIES), preset.get(_VELOCITIES))
    if low > high or not soft <= _VELOCITY <= loud:
        return None
    _, start, end, loop_start, loop_end, rate, root, correction = sample[:8]
    ends = dict(zip(_OFFSETS, (start, end, loop_start, loop_end), strict=True))
    for name, (fine, coarse) in _OFFSETS.items():
        ends[name] += _signed(own.get(fine, 0)) + 32768 * _signed(own.get(coarse, 0))
    both = [own, preset]
    cents = sum(100 * _signed(g.get(_COARSE, 0)) + _signed(g.get(_FINE, 0)) for g in both) + correction
    # Attenuation is in centibels; players apply 0.4 of it, like the hardware that defined the format.
    centibels = 0.4 * sum(_signed(g.get(_ATTENUATION, 0)) for g in both)
    return Zone(
        low=low, high=high, **ends, looped=own.get(_MODES, 0) % 2 == 1, rate=rate, root=own.get(_ROOT, root),
        cents=float(cents), scale=float(own.get(_SCALE, 100)), gain=10.0 ** (-centibels / 200.0),
    )  # fmt: skip


def _overlap(one: int | None, other: int | None) -> tuple[int, int]:
    """Intersect two ranges, each encoded as the low end in one byte and the high end in the next."""
    spans = [(0, 127) if raw is None else (raw & 255, raw >> 8) for raw in (one, other)]
    return max(low for low, _ in spans), min(high for _, high in spans)


def _signed(raw: int) -> int:
    return raw - 65536 if raw > 32767 else raw


@lru_cache(maxsize=1)
def _half_band() -> NDArray[np.float32]:
    """Return a half-band low-pass filter for decimation by two, shape (31,)."""
    taps = np.sinc(np.arange(-15, 16) / 2.2) * np.hamming(31)
    return np.asarray(taps / taps.sum(), dtype=np.float32)
