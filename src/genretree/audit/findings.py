"""Result classes of audits: findings, label issues, and their JSON form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from genretree.corpus.store import Store

Severity = Literal["error", "warning", "note"]

# Description of each kind of finding, in the order of the report.
KINDS = {
    "shared": "the same track, artist or album is in several parts of the split",
    "same_file": "two tracks have the same bytes",
    "same_image": "slices of two tracks have the same pixels",
    "near_image": "slices of two tracks are equal up to small changes",
    "same_sound": "two tracks contain the same recording at different offsets",
    "tree": "genre and leaf of a track disagree, or are not in the tree",
    "parent": "rows skipped because their labels contradict the tree",
    "label": "rows skipped because they have no label of the tree",
    "several_leaves": "an artist or group has music under several leaves",
}
COPIES = ("same_file", "same_image", "near_image", "same_sound")


@dataclass(frozen=True)
class Place:
    """A track, or one of its slices, that a finding refers to.

    Parameters
    ----------
    track : int
        Row of tracks.parquet.
    path : str
    genre : str
        Path of the leaf in the tree.
    group : str
    part : str or None
        Part of the split; None if the slices of the track are in several parts.
    row : int or None
        Row of the slice; None for the whole track.
    start : float or None
        Start of the slice in the track, in seconds.
    """

    track: int
    path: str
    genre: str
    group: str
    part: str | None
    row: int | None = None
    start: float | None = None


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One finding of an audit.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    severity : "error", "warning" or "note"
        Errors are leakage between parts of the split, and contradictory labels.
    text : str
        Message for the report.
    places : tuple of Place
    similarity : float or None
        0 to 1: 1 for equal bytes or pixels, otherwise the correlation of image details.
    slices : int
        Number of duplicate pairs of slices.
    seconds : float or None
        Duration of the shared audio.
    offset : float or None
        Start of the shared audio in the first track minus its start in the second, in seconds.
    leak, conflict : bool
        Whether the places are in different parts of the split, or have different leaves.
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


@dataclass(frozen=True, kw_only=True)
class LabelIssue:
    """Out-of-fold probability of the label of a track, from a classifier trained without its group.

    Parameters
    ----------
    track : int
    path, genre, group : str
    part : str or None
    probability : float
        Probability of the given leaf.
    suggested : str
        Path of the most probable other leaf.
    suggested_probability : float
    margin : float
        `probability - suggested_probability`; lower values are more doubtful.
    level : str
        Highest level on which the two leaves differ.
    flagged : bool
        Whether confident learning assigns the track to the suggested leaf: its probability reaches the mean
        probability of that leaf over tracks with that label.
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


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Result of an audit.

    Parameters
    ----------
    store : str
    split : str
    protocol : str
        Description of the protocol of the split.
    tracks, slices : int
    findings : tuple of Finding
        By severity, then by kind.
    doubts : tuple of LabelIssue or None
        Label issues, the most doubtful first; None if labels were not checked.
    thresholds : mapping
        Thresholds for copies.
    version : str
        Version of genretree.
    digest : str
        Digest of the contents of the store.
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
        """Whether any finding is an error."""
        return any(finding.severity == "error" for finding in self.findings)

    @property
    def summary(self) -> dict[str, Any]:
        """Counts of findings by kind and severity, of leaking and conflicting copies, and of flagged labels."""
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
        """Return the JSON-serialisable content of `audit.json`."""
        content = {**asdict(self), "summary": self.summary}
        for finding in content["findings"]:
            finding["places"] = list(finding["places"])
        first = ("store", "split", "protocol", "tracks", "slices", "version", "digest", "summary", "thresholds")
        return {name: content[name] for name in (*first, "findings", "doubts")}


class Locator:
    """Lookup of the places of tracks and slices in a store.

    Parameters
    ----------
    store : Store
    parts : sequence of str
        Part of each slice.
    """

    def __init__(self, store: Store, parts: Sequence[str]) -> None:
        self.store = store
        self.parts = parts
        self._track_parts: list[set[str]] = [set() for _ in range(store.n_tracks)]
        for track, part in zip(store.slice_tracks.tolist(), parts, strict=True):
            self._track_parts[track].add(str(part))

    def track(self, track: int) -> Place:
        """Return the place of a whole track."""
        tracks = self.store.tracks
        parts = self._track_parts[track]
        part = next(iter(parts)) if len(parts) == 1 else None
        return Place(track, tracks["path"][track], tracks["genre"][track], tracks["group"][track], part)

    def slice(self, row: int) -> Place:
        """Return the place of a slice."""
        track = int(self.store.slice_tracks[row])
        tracks = self.store.tracks
        start = round(float(self.store.starts[row]), 3)
        part = str(self.parts[row])
        return Place(track, tracks["path"][track], tracks["genre"][track], tracks["group"][track], part, row, start)

    def leaks(self, *tracks: int) -> bool:
        """Whether the tracks together are in more than one part."""
        return len(set().union(*(self._track_parts[track] for track in tracks))) > 1
