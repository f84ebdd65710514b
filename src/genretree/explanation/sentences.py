"""Explanations in plain words: a table over bands and aspects of sound, filled in with measured relevance.

A sentence is written only if the mean relevance over the slices exceeds four times the noise of its measurement,
changes the odds by 5 % or more, and is a tenth or more of the relevance of all bands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genretree.arrays import Float32Array
from genretree.explanation.bands import VIEWS, Aspect, Band, BandRelevance, band_hertz, band_rows
from genretree.explanation.coordinates import IMAGES, STEPS, View, frequency_axis
from genretree.explanation.slices import TrackSlices
from genretree.vocabulary import tag_names

# Subject, and whether it is plural. Edges in Hz and notes are those of the bands.
PHRASES: Mapping[tuple[Aspect, Band], tuple[str, bool]] = {
    ("sound", "bass"): ("the deep sound (bass and kick drum, below about 420 Hz)", False),
    ("sound", "low mids"): ("the warmth of the sound (its lower middle, about 420 to 830 Hz)", False),
    ("sound", "voice range"): ("the body of the sound (its upper middle, about 830 Hz to 2 kHz)", False),
    ("sound", "presence"): ("the brightness of the sound (its clear and sharp part, about 2 to 4.7 kHz)", False),
    ("sound", "cymbals and hiss"): ("the top of the sound (cymbals, breath and hiss, above 4.7 kHz)", False),
    ("notes", "bass"): ("the bass notes (more than an octave below middle C)", True),
    ("notes", "low mids"): ("the notes in the octave below middle C", True),
    ("notes", "voice range"): ("the notes in the two octaves above middle C", True),
    ("notes", "presence"): ("the high notes (more than two octaves above middle C)", True),
    ("harmony", "all"): ("the choice of notes (in any octave)", False),
    ("onsets", "all"): ("the drum hits, plucks and other sudden starts of sounds", True),
}
# Quartiles of each band's loudness, in dB below the peak of the track, and of its fluctuation (10th to 90th percentile
# over time, in dB), over the 185 training tracks of Emotify: python benchmarks/explain.py levels.
LEVELS: Mapping[tuple[Aspect, Band], tuple[tuple[float, float], tuple[float, float]]] = {
    ("sound", "bass"): ((-27, -19), (9, 17)),
    ("sound", "low mids"): ((-33, -26), (10, 17)),
    ("sound", "voice range"): ((-40, -31), (11, 19)),
    ("sound", "presence"): ((-47, -36), (12, 21)),
    ("sound", "cymbals and hiss"): ((-56, -41), (14, 26)),
    ("notes", "bass"): ((-36, -19), (11, 23)),
    ("notes", "low mids"): ((-29, -21), (11, 20)),
    ("notes", "voice range"): ((-35, -27), (9, 16)),
    ("notes", "presence"): ((-46, -37), (12, 20)),
}
_MIN_NOISE = 4.0  # standard deviations of the noise: eleven bands are tested for each node
_MIN_SHARE = 0.1  # of the relevance of all bands
_MIN_LOG_ODDS = 0.05  # a change of the odds by 5 %
_MIN_SLICES = 3
_PARTS = 0.7  # of the slices
_MAX_FOR, _MAX_AGAINST = 3, 2
_PASSAGE_STEPS = 20  # 4 s of a slice of 11.4 s
_MIN_TAG = 0.2
_SURE_TAG = 0.5
_MAX_TAGS = 2
_GENERIC_TAGS = ("Musical instrument", "Plucked string instrument", "Keyboard (musical)", "Percussion")


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """A reason in plain words, and the measurement that it rests on.

    Parameters
    ----------
    text : str
    aspect : "sound", "notes", "harmony", "onsets" or "tags"
    band : str
        Name of the band, or `all`.
    supports : bool
        Whether it is evidence for the node, or against it.
    relevance : float
        Decrease of the log odds without the band: mean of the slices. Tags have the figures of the sentence before
        them, which they comment on: their own effect is not measured.
    noise : float
        Standard deviation of `relevance` that inaudible noise causes.
    consistency : float
        Share of the slices in which the relevance has the same sign: 0 to 1.
    share : float
        `relevance`, without its sign, as a share of the relevance of all bands: 0 to 1.
    hertz : (float, float), optional
        Edges of the band. None for the harmony and onsets.
    passage : (float, float), optional
        Start and end, in seconds, of the passage in which the evidence is strongest.
    loudness, fluctuation : float, optional
        Of the band: 90th percentile over time, in dB relative to the peak of the track, and distance from the 10th.
        None without levels in dB.
    tags : mapping of str to float
        Tags of mn04 in the passage, with their probability.
    """

    text: str
    aspect: str
    band: str
    supports: bool
    relevance: float
    noise: float
    consistency: float
    share: float
    hertz: tuple[float, float] | None = None
    passage: tuple[float, float] | None = None
    loudness: float | None = None
    fluctuation: float | None = None
    tags: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return JSON-serialisable values."""
        passage = None if self.passage is None else {"start": self.passage[0], "end": self.passage[1]}
        return {
            "text": self.text,
            "aspect": self.aspect,
            "band": self.band,
            "supports": self.supports,
            "relevance": round(self.relevance, 4),
            "noise": round(self.noise, 4),
            "consistency": round(self.consistency, 4),
            "share": round(self.share, 4),
            "hertz": None if self.hertz is None else [round(edge, 1) for edge in self.hertz],
            "passage": passage,
            "loudness": None if self.loudness is None else round(self.loudness, 1),
            "fluctuation": None if self.fluctuation is None else round(self.fluctuation, 1),
            "tags": {name: round(probability, 4) for name, probability in self.tags.items()},
        }


def write_sentences(
    node: str,
    measured: Sequence[BandRelevance],
    target: int,
    maps: Mapping[View, Float32Array],
    track_slices: TrackSlices,
    tags: Float32Array | None = None,
    *,
    alternative: str | None = None,
    log_odds: float = 0.0,
) -> tuple[Sentence, ...]:
    """Describe the relevance of bands in sentences: the strongest evidence first, and what spoke against last.

    Parameters
    ----------
    node : str
        Name of the explained node.
    measured : sequence of BandRelevance
    target : int
        Column of the node in `measured`.
    maps : mapping of view to array, shape (n_slices, rows, STEPS)
        Relevance maps of the node, which locate the strongest passage.
    track_slices : TrackSlices
    tags : array, shape (n_slices, 527), optional
        Tag probabilities of mn04.
    alternative : str, optional
        Name of the node that `node` is contrasted with, if there is only one: evidence against `node` suggests it.
    log_odds : float, default 0
        Mean log odds of the node over the slices, to tell whether it is favoured in spite of stronger evidence against.

    Returns
    -------
    tuple of Sentence
        Empty if no relevance is distinguishable from noise.
    """
    total = sum(abs(float(band.values[:, target].mean())) for band in measured)
    found = [
        (float(band.values[:, target].mean()), band)
        for band in measured
        if is_distinguishable(band, target)
        and abs(float(band.values[:, target].mean())) >= max(_MIN_LOG_ODDS, _MIN_SHARE * total)
    ]
    ordered = sorted(found, key=lambda item: -abs(item[0]))
    evidence_for = [item for item in ordered if item[0] > 0][:_MAX_FOR]
    evidence_against = [item for item in ordered if item[0] < 0][:_MAX_AGAINST]
    sentences: list[Sentence] = []
    outweighed = bool(evidence_for and evidence_against) and ordered[0][0] < 0 < log_odds
    for relevance, band in (*evidence_for, *evidence_against):
        passage = find_passage(band, target, maps, track_slices, relevance > 0)
        loudness, fluctuation = measure_level(band.aspect, band.band, track_slices) or (None, None)
        consistency = float((band.values[:, target] * relevance > 0).mean())
        level = describe_level(band.aspect, band.band, loudness, fluctuation)
        where = describe_consistency(consistency, len(track_slices))
        subject, plural = _write_subject(band, relevance > 0, maps)
        text = _write(
            subject,
            plural,
            node if relevance > 0 else None,
            f"suggest{'' if plural else 's'} {alternative} instead"
            if alternative
            else f"speak{'' if plural else 's'} against {node}",
            not sentences,
            passage,
            level,
            where,
        )
        if outweighed and band is ordered[0][1]:
            text += f" It is the strongest single clue, but all clues together favour {node}."
        sentences.append(
            Sentence(
                text=text,
                aspect=band.aspect,
                band=band.band,
                supports=relevance > 0,
                relevance=relevance,
                noise=float(band.noise[target]),
                consistency=consistency,
                share=abs(relevance) / total,
                hertz=band_hertz(band.aspect, band.band),
                passage=passage,
                loudness=loudness,
                fluctuation=fluctuation,
            )
        )
    if evidence_for and tags is not None:
        sentences[1:1] = _write_tags(sentences[0], track_slices, tags)
    return tuple(sentences)


def is_distinguishable(band: BandRelevance, target: int) -> bool:
    """Return whether the mean relevance exceeds four times the noise of its measurement."""
    return abs(float(band.values[:, target].mean())) > _MIN_NOISE * float(band.noise[target])


def find_passage(
    band: BandRelevance,
    target: int,
    maps: Mapping[View, Float32Array],
    track_slices: TrackSlices,
    supports: bool,
) -> tuple[float, float] | None:
    """Find where the evidence is strongest, in seconds: 4 s of a slice, or for onsets a whole slice.

    Returns None if the map has no relevance of that sign in the band.
    """
    sign = 1 if supports else -1
    if band.aspect == "onsets":
        row, first, last = int((sign * band.values[:, target]).argmax()), 0, STEPS
    else:
        parts = [maps[view][:, band_rows(view, band.band)].sum(axis=1) for view in VIEWS[band.aspect] if view in maps]
        if not parts:
            return None
        width = min(STEPS, _PASSAGE_STEPS)
        sums = np.cumsum(np.pad(sign * np.sum(parts, axis=0), ((0, 0), (1, 0))), axis=1)
        windows = sums[:, width:] - sums[:, :-width]
        row, first = (int(index) for index in np.unravel_index(windows.argmax(), windows.shape))
        if windows[row, first] <= 0:
            return None
        last = first + width
    start, step = float(track_slices.starts[row]), track_slices.seconds / STEPS
    return round(start + first * step, 1), round(start + last * step, 1)


def measure_level(aspect: Aspect, band: Band, track_slices: TrackSlices) -> tuple[float, float] | None:
    """Measure loudness and fluctuation of a band in dB; None for the harmony and onsets, or without levels in dB."""
    if aspect not in ("sound", "notes") or track_slices.decibels is None:
        return None
    view = VIEWS[aspect][0]
    number, rows = IMAGES.index(view), band_rows(view, band)
    size, n_rows = track_slices.images.shape[-1], frequency_axis(view).rows
    top, bottom = size - round(size * rows.stop / n_rows), size - round(size * rows.start / n_rows)
    grey = track_slices.images[:, number, top : max(bottom, top + 1)].astype(np.float32).mean(axis=1) / 255
    low, high = track_slices.decibels[:, number, :1], track_slices.decibels[:, number, 1:]
    quiet, loud = np.percentile(low + grey * (high - low), (10, 90))
    return float(loud), float(loud - quiet)


def _write_subject(band: BandRelevance, supports: bool, maps: Mapping[View, Float32Array]) -> tuple[str, bool]:
    """Return the subject of a sentence, and whether it is plural; the harmony names its strongest notes."""
    if band.aspect == "harmony" and "chroma" in maps and (notes := _strongest_notes(maps["chroma"], supports)):
        return f"the note{'s' * (len(notes) > 1)} {' and '.join(notes)} (in any octave)", len(notes) > 1
    return PHRASES[band.aspect, band.band]


def _write(
    subject: str,
    plural: bool,
    node: str | None,
    contrary: str,
    first: bool,
    passage: tuple[float, float] | None,
    level: str,
    where: str,
) -> str:
    """Write a sentence: evidence for `node`, or with None `contrary` evidence, which is a predicate."""
    clause = f", which {'are' if plural else 'is'} {level} than in most music" if level else ""
    ended = f"{subject}{clause}{',' if clause else ''}"
    when = "" if passage is None else f"from {format_time(passage[0])} to {format_time(passage[1])}"
    if first and node is not None:
        counts = "They count" if plural else "It counts"
        strongest = f" {counts} {where}most {when}." if when else ""
        return f"The strongest evidence for {node}: {subject}{clause}.{strongest}"
    verb = contrary if node is None else f"also suggest{'' if plural else 's'} {node}"
    most = f", {where}most clearly {when}" if when else ""
    whole = f"{ended} {verb}{most}."
    return whole[0].upper() + whole[1:]


def describe_consistency(consistency: float, n_slices: int) -> str:
    """Describe in how much of the track the relevance has the same sign; nothing for fewer than three slices."""
    if n_slices < _MIN_SLICES:
        return ""
    return "throughout the track, " if consistency == 1 else "in parts of the track, " if consistency < _PARTS else ""


def describe_level(aspect: Aspect, band: Band, loudness: float | None, fluctuation: float | None) -> str:
    """Compare loudness and fluctuation outside the middle half of music: `louder and steadier`, or ``."""
    if loudness is None or fluctuation is None or (aspect, band) not in LEVELS:
        return ""
    (quiet, loud), (steady, unsteady) = LEVELS[aspect, band]
    words = ["louder"] * (loudness >= loud) + ["quieter"] * (loudness <= quiet)
    words += ["steadier"] * (fluctuation <= steady) + ["more changeable"] * (fluctuation >= unsteady)
    return " and ".join(words)


def _strongest_notes(chroma: NDArray[np.floating], supports: bool) -> list[str]:
    """Name at most two pitch classes with at least half of the greatest relevance."""
    values = (1 if supports else -1) * chroma.sum(axis=2).mean(axis=0)
    order = np.argsort(-values)[:2]
    names = frequency_axis("chroma").names
    return [names[row] for row in order if values[row] > 0 and values[row] >= 0.5 * values.max()]


def _write_tags(strongest: Sentence, track_slices: TrackSlices, tags: Float32Array) -> list[Sentence]:
    """Describe the instruments and voices that mn04 detects in the passage of the strongest evidence."""
    if strongest.passage is None:
        return []
    row = int(np.flatnonzero(track_slices.starts <= strongest.passage[0] + 0.05)[-1])
    names = tag_names("mn04")
    start, stop = names.index("Musical instrument"), names.index("Pop music")
    voices = range(names.index("Singing"), names.index("Humming") + 1)
    candidates = [index for index in (*range(start, stop), *voices) if names[index] not in _GENERIC_TAGS]
    best = sorted(candidates, key=lambda index: -float(tags[row, index]))[:_MAX_TAGS]
    detected = {names[index]: float(tags[row, index]) for index in best if tags[row, index] >= _MIN_TAG}
    if not detected:
        return []
    listed = " and ".join(f"{name.partition(',')[0].lower()} ({share:.0%})" for name, share in detected.items())
    verb = "detects" if max(detected.values()) >= _SURE_TAG else "suggests"
    when = format_time(strongest.passage[0])
    text = f"There, around {when}, a second model, which names instruments, {verb} {listed}."
    return [
        Sentence(
            text=text,
            aspect="tags",
            band="all",
            supports=True,
            relevance=strongest.relevance,
            noise=strongest.noise,
            consistency=strongest.consistency,
            share=strongest.share,
            passage=strongest.passage,
            tags=detected,
        )
    ]


def format_time(seconds: float) -> str:
    """Format a position as minutes and seconds: `0:52`."""
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02d}"
