"""Findings from the tables of a store: owners in several parts of a split, and labels that contradict the tree."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from genretree.audit.findings import Finding, Locator
from genretree.corpus.names import join_by_name
from genretree.corpus.store import Store
from genretree.errors import TaxonomyError
from genretree.taxonomy import format_path

_MAX_LISTED = 20  # names and places per finding
_OWNER_COLUMNS = ("artist", "album")  # checked whatever the store is grouped by


def find_shared(store: Store, locator: Locator) -> list[Finding]:
    """Find tracks, groups, artists and albums in several parts of the split; one finding per kind of owner."""
    columns: dict[str, Sequence[object]] = {"track": range(store.n_tracks)}
    group_by = store.metadata.group_by
    if group_by not in ("track", "slice"):
        columns[group_by] = store.tracks["group"]
    for name in _OWNER_COLUMNS:
        if name not in columns and any(store.tracks.get(name, ())):
            columns[name] = join_by_name([str(value or "") for value in store.tracks[name]], name)
    findings = []
    for name, values in columns.items():
        finding = _find_shared(store, locator, name, values, name in ("track", "artist", group_by))
        findings += [finding] if finding else []
    return findings


def _find_shared(store: Store, locator: Locator, name: str, values: Sequence[object], is_error: bool) -> Finding | None:
    parts = np.array(locator.parts)
    owner = [values[track] for track in store.slice_tracks.tolist()]
    parts_by_owner = defaultdict(set)
    for value, part in zip(owner, locator.parts, strict=True):
        parts_by_owner[value].add(str(part))
    split_up = [value for value, owner_parts in parts_by_owner.items() if value != "" and len(owner_parts) > 1]
    if not split_up:
        return None
    shares = {}
    for part in ("validation", "test"):
        rows = np.flatnonzero(parts == part).tolist()
        in_training = [owner[row] != "" and "train" in parts_by_owner[owner[row]] for row in rows]
        shares[part] = sum(in_training) / len(rows) if rows else 0.0
    names = [store.tracks["path"][value] if name == "track" else str(value) for value in split_up]
    text = (
        f"{len(split_up)} {name}s are in several parts: {shares['test']:.1%} of the test slices and "
        f"{shares['validation']:.1%} of the validation slices belong to {name}s that are also in training"
    )
    shown = set(split_up[:_MAX_LISTED])
    first = [track for track in range(store.n_tracks) if values[track] in shown][:_MAX_LISTED]
    return Finding(
        kind="shared",
        severity="error" if is_error else "warning",
        text=text,
        places=tuple(locator.track(track) for track in first),
        leak=True,
        details={"column": name, "count": len(split_up), "names": names[:_MAX_LISTED], "shares_in_training": shares},
    )


def find_contradictions(store: Store, locator: Locator) -> list[Finding]:
    """Find tracks whose genre and leaf disagree, and the rows that `prepare` rejected for their labels."""
    findings = []
    for track, (genre, leaf) in enumerate(zip(store.tracks["genre"], store.track_leaves.tolist(), strict=True)):
        problem = _contradiction(store, str(genre), leaf)
        if problem:
            findings.append(
                Finding(kind="tree", severity="error", text=problem, places=(locator.track(track),), conflict=True)
            )
    for kind in ("parent", "label"):
        rejected = [failure for failure in store.failures if failure.kind == kind]
        if rejected:
            messages = [failure.message for failure in rejected]
            text = f"{len(rejected)} rows were skipped when the store was prepared; the first: {messages[0]}"
            details = {"count": len(rejected), "rows": [failure.path for failure in rejected], "messages": messages}
            findings.append(Finding(kind=kind, severity="warning", text=text, details=details))
    return findings


def _contradiction(store: Store, genre: str, leaf: int) -> str | None:
    leaves = store.taxonomy.leaves
    if not 0 <= leaf < len(leaves):
        return f"leaf {leaf} is not in the tree, which has {len(leaves)} leaves"
    try:
        named = store.taxonomy.find_leaf(genre)
    except TaxonomyError as error:
        return str(error)
    if named == leaf:
        return None
    return f"the genre is '{genre}', but the leaf is '{format_path(leaves[leaf])}'"


def find_several_leaves(store: Store) -> list[Finding]:
    """Count the artists or groups with music under several leaves, which is often correct, sometimes a label error."""
    column = "artist" if any(store.tracks.get("artist", ())) else "group"
    if column == "group" and store.metadata.group_by in ("track", "slice"):
        return []
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for name, genre in zip(store.tracks[column], store.tracks["genre"], strict=True):
        if name:
            counts[str(name)][str(genre)] += 1
    several = {name: dict(genres) for name, genres in counts.items() if len(genres) > 1}
    if not several:
        return []
    owners = "artists" if column == "artist" else f"groups ({store.metadata.group_by})"
    text = f"{len(several)} of {len(counts)} {owners} have music under several leaves"
    return [
        Finding(
            kind="several_leaves",
            severity="note",
            text=text,
            details={"count": len(several), "of": len(counts), "names": several},
        )
    ]
