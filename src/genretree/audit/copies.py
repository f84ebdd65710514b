"""Findings about copies: one per pair of tracks, under the strictest criterion that holds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from genretree.audit.duplicates import NearDuplicate, near_pixels, same_pixels
from genretree.audit.findings import Finding, Locator
from genretree.audit.fingerprints import Fingerprints
from genretree.audit.landmarks import SharedRecording, find_shared_recordings
from genretree.corpus.store import Store

Pair = tuple[int, int]


def find_copies(store: Store, fingerprints: Fingerprints, locator: Locator, progress: bool = False) -> list[Finding]:
    """Find copies by file, by equal pixels, by near-equal images and by recording; each pair counts once."""
    tracks = store.slice_tracks
    files = same_files(store.tracks["sha256"])
    exact = same_pixels(fingerprints, tracks)
    near = near_pixels(store, fingerprints, exact, progress)
    by_image = {"same_image": _by_tracks(exact, store), "near_image": _by_tracks(near, store)}
    known = {*files, *by_image["same_image"], *by_image["near_image"]}
    repeats = find_shared_recordings(store, fingerprints, known, progress)
    findings = [_file_finding(pair, locator) for pair in files]
    paired = set(files)
    for kind, pairs in by_image.items():
        findings += [
            _image_finding(kind, pair, matches, locator) for pair, matches in pairs.items() if pair not in paired
        ]
        paired |= set(pairs)
    return findings + [_sound_finding(repeat, locator) for repeat in repeats]


def same_files(checksums: Sequence[str]) -> list[Pair]:
    """Pair every track with the first track that has the same checksum."""
    first: dict[str, int] = {}
    pairs = []
    for track, checksum in enumerate(checksums):
        if not checksum:
            continue
        origin = first.setdefault(checksum, track)
        if origin != track:
            pairs.append((origin, track))
    return pairs


def _by_tracks(matches: Iterable[NearDuplicate], store: Store) -> dict[Pair, list[NearDuplicate]]:
    """Group matches by pair of tracks, the best match first."""
    pairs = defaultdict(list)
    for match in matches:
        one, other = int(store.slice_tracks[match.row]), int(store.slice_tracks[match.other])
        pairs[min(one, other), max(one, other)].append(match)
    return {pair: sorted(own_matches, key=lambda match: -match.correlation) for pair, own_matches in pairs.items()}


def _file_finding(pair: Pair, locator: Locator) -> Finding:
    rows = [int(locator.store.slice_tracks.searchsorted(track)) for track in pair]
    return _finding("same_file", pair, rows, "the same file", locator, 1.0)


def _image_finding(kind: str, pair: Pair, matches: list[NearDuplicate], locator: Locator) -> Finding:
    best = matches[0]
    n_slices_text = f"{len(matches)} pair{'s' if len(matches) > 1 else ''} of slices"
    offset = None
    if kind == "same_image":
        text = f"{n_slices_text} with the same pixels"
    else:
        text = f"{n_slices_text} nearly equal (correlation {best.correlation:.2f})"
        seconds = best.shift / locator.store.settings.size * locator.store.settings.slice_seconds
        starts = locator.store.starts
        offset = round(float(starts[best.row] - starts[best.other] + seconds), 2)
    return _finding(
        kind, pair, [best.row, best.other], text, locator, best.correlation, slices=len(matches), offset=offset
    )


def _sound_finding(repeat: SharedRecording, locator: Locator) -> Finding:
    text = f"{repeat.seconds:.0f} s of the same recording, {abs(repeat.offset):.1f} s apart"
    return _finding(
        "same_sound",
        (repeat.track, repeat.other),
        [repeat.row, repeat.other_row],
        text,
        locator,
        repeat.correlation,
        seconds=repeat.seconds,
        offset=repeat.offset,
    )


def _finding(
    kind: str,
    pair: Pair,
    rows: list[int],
    text: str,
    locator: Locator,
    similarity: float,
    slices: int = 0,
    seconds: float | None = None,
    offset: float | None = None,
) -> Finding:
    leaves = locator.store.track_leaves
    leak, conflict = locator.leaks(*pair), bool(leaves[pair[0]] != leaves[pair[1]])
    return Finding(
        kind=kind,
        severity="error" if leak or conflict else "warning",
        text=text,
        places=tuple(locator.slice(row) for row in rows),
        similarity=round(similarity, 3),
        slices=slices,
        seconds=seconds,
        offset=offset,
        leak=leak,
        conflict=conflict,
    )
