"""What an audit says: findings, doubts about labels, and all of it as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from genretree.corpus.store import Store

Severity = Literal["error", "warning", "note"]

# What each kind of finding says; the order is that of the report.
KINDS = {
    "shared": "the same track, artist or album stands in several parts of the split",
    "same_file": "two tracks are the same file, byte by byte",
    "same_image": "slices of two tracks have the same pixels",
    "near_image": "slices of two tracks show the same but for small changes",
    "same_sound": "two tracks hold the same recording, though it begins elsewhere in each",
    "tree": "a track's genre and leaf don't agree, or aren't of the tree",
    "parent": "rows left out, because their labels contradict the tree",
    "label": "rows left out, because they have no label of the tree",
    "several_leaves": "one artist or group has music under several leaves",
}
COPIES = ("same_file", "same_image", "near_image", "same_sound")


@dataclass(frozen=True)
class Place:
    """A track, or one slice of it, that a finding is about.

    Parameters
    ----------
    track : int
        Row of tracks.parquet.
    path : str
    genre : str
        Path of its leaf in the tree.
    group : str
    part : str or None
        Part of the split the slice, or the track, lies in; None if the track's slices lie in several.
    row : int or None
        The slice; None for the whole track.
    start : float or None
        Where the slice begins in the track, in seconds.
    """

    track: int
    path: str
    genre: str
    group: str
    part: str | None
    row: int | None = None
    start: float | None = None


@dataclass(frozen=True)
class Finding:
    """One thing that makes figures untrustworthy, or that is worth knowing.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    severity : "error", "warning" or "note"
        Errors are what leaks from one part of the split into another, and labels that contradict each other.
    text : str
        For people.
    places : tuple of Place
    similarity : float or None
        0 to 1: 1 for the same bytes or pixels, else the correlation of the images' details.
    slices : int
        How many pairs of slices are alike.
    seconds : float or None
        How much sound is shared.
    offset : float or None
        Seconds by which the shared sound comes later in the first track than in the second.
    leak, conflict : bool
        Whether the places lie in different parts of the split, or have different leaves.
    details : mapping
        Counts and names, by kind.
    """

    kind: str
    severity: Severity
    text: str
    places: tuple[Place, ...] = ()
    similarity: float | None = None
    slices: int = 0
    seconds: float | None = None
    offset: float | None = None
    leak: bool = False
    conflict: bool = False
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LabelIssue:
    """How far a classifier that never heard a track's group believes its label.

    Parameters
    ----------
    track : int
    path, genre, group : str
    part : str or None
    probability : float
        Of the given leaf.
    suggested : str
        Path of the likeliest other leaf.
    suggested_probability : float
    margin : float
        `probability - suggested_probability`; the smaller, the more doubtful.
    level : str
        The first level, from the top, on which the two differ.
    flagged : bool
        Whether the other leaf is believed as firmly as tracks of that leaf are on the average, and this one isn't.
    """

    track: int
    path: str
    genre: str
    group: str
    part: str | None
    probability: float
    suggested: str
    suggested_probability: float
    margin: float
    level: str
    flagged: bool


@dataclass(frozen=True)
class Audit:
    """Everything an audit found.

    Parameters
    ----------
    store : str
    split : str
    protocol : str
        What the split's protocol means.
    tracks, slices : int
    findings : tuple of Finding
        By severity, then by kind.
    doubts : tuple of LabelIssue or None
        The most doubtful label first; None if labels were not checked.
    thresholds : mapping
        What counted as the same.
    version : str
    digest : str
        The store's, which says what it was made from.
    """

    store: str
    split: str
    protocol: str
    tracks: int
    slices: int
    findings: tuple[Finding, ...]
    doubts: tuple[LabelIssue, ...] | None
    thresholds: Mapping[str, float]
    version: str
    digest: str = ""

    @property
    def failed(self) -> bool:
        """Whether anything leaks or contradicts itself."""
        return any(finding.severity == "error" for finding in self.findings)

    @property
    def summary(self) -> dict[str, Any]:
        """Counts: of findings by kind and severity, of leaks and conflicts among copies, and of doubtful labels."""
        copies = [finding for finding in self.findings if finding.kind in COPIES]
        return {
            "kinds": dict(Counter(item.kind for item in self.findings)),
            "severities": dict(Counter(item.severity for item in self.findings)),
            "shared": sum(item.details["count"] for item in self.findings if item.kind == "shared"),
            "pairs": len(copies),
            "leaking_pairs": sum(item.leak for item in copies),
            "conflicting_pairs": sum(item.conflict for item in copies),
            "flagged_labels": None if self.doubts is None else sum(doubt.flagged for doubt in self.doubts),
        }

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        content = {**asdict(self), "summary": self.summary}
        for finding in content["findings"]:
            finding["places"] = list(finding["places"])
        first = ("store", "split", "protocol", "tracks", "slices", "version", "digest", "summary", "thresholds")
        return {name: content[name] for name in (*first, "findings", "doubts")}


class Locator:
    """Names tracks and slices of a store.

    Parameters
    ----------
    store : Store
    parts : sequence of str
        The part of every slice.
    """

    def __init__(self, store: Store, parts: Sequence[str]) -> None:
        self.store = store
        self.parts = parts
        self._track_parts: list[set[str]] = [set() for _ in range(store.n_tracks)]
        for track, part in zip(store.slice_tracks.tolist(), parts, strict=True):
            self._track_parts[track].add(str(part))

    def track(self, track: int) -> Place:
        """Name a whole track."""
        tracks = self.store.tracks
        found = self._track_parts[track]
        part = next(iter(found)) if len(found) == 1 else None
        return Place(track, tracks["path"][track], tracks["genre"][track], tracks["group"][track], part)

    def slice(self, row: int) -> Place:
        """Name a slice."""
        track = int(self.store.slice_tracks[row])
        tracks = self.store.tracks
        start = round(float(self.store.starts[row]), 3)
        part = str(self.parts[row])
        return Place(track, tracks["path"][track], tracks["genre"][track], tracks["group"][track], part, row, start)

    def leaks(self, *tracks: int) -> bool:
        """Whether tracks lie in more than one part, taken together."""
        return len(set().union(*(self._track_parts[track] for track in tracks))) > 1
