"""The same recording in two tracks, wherever it begins in each: landmarks of peaks, and a vote on the offset.

After Wang (2003), "An industrial-strength audio search algorithm": peaks of the spectrogram outlive encoding, level and
noise; a few of them together, with their bins and the times between them, name a place in a recording; and where many
such names of two tracks agree on one offset, the tracks share sound. Three peaks make a landmark instead of two: here
time and frequency are coarse (51 ms and a semitone, as in the stored images), so that two say too little. Pairs with
enough votes are laid on each other and compared in detail, window by window, and only that decides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genretree.arrays import Float32Array, Int64Array, UInt8Array
from genretree.audit.alignment import agreement, detail
from genretree.audit.fingerprints import Fingerprints
from genretree.corpus.store import Store
from genretree.files import release_pages
from genretree.progress import progress_bar

CORRELATION = 0.5  # of a window's details above which it is the same sound
OVERLAP_SECONDS = 5.0  # that must agree at least
VOTES = 5  # for one offset that make two tracks a candidate
_FAN = 4  # peaks after the first from which the other two are taken
_REACH = 62  # columns within which the three lie
_STEP = 2  # columns that count as one in the times between them
_REPEATS = 4  # times a landmark counts in one track: loops say the same over and over
_MOST_COINCIDENCES = 20_000_000  # pairs of equal landmarks that are voted on; the commonest ones are left out first
_SOME = (
    1_000_000  # landmarks, or coincidences, that are worked on at a time: copies of all would take most of the memory
)
_MOST_CANDIDATES = 2000
_WINDOW_SECONDS = 2.5
_MAX_SLICES = 120  # of a track that are read for the comparison: 23 minutes


@dataclass(frozen=True)
class SharedRecording:
    """Two tracks that share sound.

    Parameters
    ----------
    track, other : int
    seconds : float
        How long the windows that agree are together.
    offset : float
        Seconds by which the shared sound comes later in `track` than in `other`, both measured from the file's start.
    correlation : float
        Median of the windows that agree.
    votes : int
        Landmarks that agree on the offset.
    row, other_row : int
        Slices in which a window that agrees lies.
    """

    track: int
    other: int
    seconds: float
    offset: float
    correlation: float
    votes: int
    row: int
    other_row: int


def find_repeats(
    store: Store, fingerprints: Fingerprints, known: Iterable[tuple[int, int]] = (), progress: bool = False
) -> list[SharedRecording]:
    """Find pairs of tracks that share sound.

    Parameters
    ----------
    store : Store
    fingerprints : Fingerprints
    known : pairs of tracks, the smaller first
        Those that need not be looked at again.
    progress : bool
    """
    skip = set(known)
    peaks = fingerprints.peaks
    tracks = store.slice_tracks[peaks.rows]
    columns = np.round(store.starts[peaks.rows] / column_seconds(store)).astype(np.int64) + peaks.columns
    votes = count_votes(name_landmarks(tracks, columns, peaks.bins), tracks, columns)
    votes = [vote for vote in votes if (vote.track, vote.other) not in skip]
    found = []
    votes = votes[:_MOST_CANDIDATES]
    with progress_bar(len(votes), "compare tracks", "pair", progress and len(votes) > 0) as tick:
        for vote in votes:
            repeat = _compare(store, vote)
            if repeat is not None:
                found.append(repeat)
            release_pages(store.images)
            tick()
    return found


@dataclass(frozen=True)
class Vote:
    """Landmarks of two tracks that agree on an offset in columns."""

    track: int
    other: int
    offset: int
    votes: int


def column_seconds(store: Store) -> float:
    """Length of an image's column in seconds: 51 ms."""
    from genretree.settings import HOP_LENGTH, SAMPLE_RATE

    return store.settings.slice_frames * HOP_LENGTH / SAMPLE_RATE / store.settings.size


def name_landmarks(tracks: Int64Array, columns: Int64Array, bins: UInt8Array) -> NDArray[np.uint64]:
    """Name the landmarks of peaks, three at a time: their bins and the times between them.

    Parameters
    ----------
    tracks, columns : int64 arrays, shape (n,)
        Of each peak: its track, and its column from the beginning of the track's file.
    bins : uint8 array, shape (n,)

    Returns
    -------
    uint64 array
        Sorted: the name above, the place of its first peak in the lower 32 bits.
    """
    n = len(columns)
    found = np.empty(_FAN * (_FAN - 1) // 2 * n, np.uint64)
    done = 0
    for first in range(1, _FAN):
        for second in range(first + 1, _FAN + 1):
            for start in range(0, n - second, _SOME):
                here = np.arange(start, min(start + _SOME, n - second))
                one, two = columns[here + first] - columns[here], columns[here + second] - columns[here]
                good = (tracks[here] == tracks[here + second]) & (two <= _REACH) & (one >= 0) & (two > 0)
                places = here[good]
                numbers = [bins[places + step].astype(np.uint64) for step in (0, first, second)]
                times = [(item[good] // _STEP).astype(np.uint64) for item in (one, two)]
                names = numbers[0] << 24 | numbers[1] << 17 | numbers[2] << 10 | times[0] << 5 | times[1]
                found[done : done + len(places)] = names << 32 | places.astype(np.uint64)
                done += len(places)
    landmarks = found[:done]
    landmarks.sort()
    return landmarks


def count_votes(landmarks: NDArray[np.uint64], tracks: Int64Array, columns: Int64Array) -> list[Vote]:
    """Let equal landmarks of different tracks vote on the offset; the pairs of tracks with most votes come first.

    Parameters
    ----------
    landmarks : uint64 array
        As `name_landmarks` gives them.
    tracks, columns : int64 arrays, shape (n,)
        Of each peak.
    """
    most, pairs = _limit(_repeated(landmarks, tracks, columns))
    keys = np.empty(pairs, np.int64)  # as many as there can be at most
    done = 0
    for names, own, when in _repeated(landmarks, tracks, columns):
        for some in _coincidences(names, own, when, most):
            keys[done : done + len(some)] = some
            done += len(some)
    return _best_offsets(keys[:done])


def _repeated(
    landmarks: NDArray[np.uint64], tracks: Int64Array, columns: Int64Array
) -> Iterator[tuple[Int64Array, Int64Array, Int64Array]]:
    """Yield the names, tracks and columns of landmarks that occur again, sorted; some at a time, a name's together."""
    start = 0
    while start < len(landmarks):
        last = landmarks[min(start + _SOME, len(landmarks)) - 1] >> 32
        stop = int(np.searchsorted(landmarks, (last + 1) << 32))
        names = (landmarks[start:stop] >> 32).astype(np.int64)
        same = names[1:] == names[:-1]
        again = np.append(False, same) | np.append(same, False)
        names, places = names[again], (landmarks[start:stop][again] & 0xFFFFFFFF).astype(np.int64)
        start = stop
        # Peaks lie in the order of tracks and columns, and so do equal landmarks.
        own = tracks[places]
        keep = _first_of_each(names, own)
        yield names[keep], own[keep], columns[places[keep]]


def _first_of_each(names: Int64Array, tracks: Int64Array) -> Int64Array:
    """Keep the first few of each name in each track; both are sorted by name, then track."""
    new = np.append(True, (names[1:] != names[:-1]) | (tracks[1:] != tracks[:-1]))
    began = np.maximum.accumulate(np.where(new, np.arange(len(names)), 0))
    return np.flatnonzero(np.arange(len(names)) - began < _REPEATS)


def _limit(blocks: Iterable[tuple[Int64Array, Int64Array, Int64Array]]) -> tuple[int, int]:
    """How often a name may occur so that all pairs together are not too many, and how many pairs that makes."""
    sizes: Counter[int] = Counter()
    for names, _, _ in blocks:
        counts, times = np.unique(np.unique(names, return_counts=True)[1], return_counts=True)
        sizes.update(dict(zip(counts.tolist(), times.tolist(), strict=True)))
    most = pairs = 0
    for size in sorted(sizes):
        more = sizes[size] * size * (size - 1) // 2
        if pairs + more > _MOST_COINCIDENCES:
            break
        most, pairs = size, pairs + more
    return most, pairs


def _coincidences(names: Int64Array, tracks: Int64Array, columns: Int64Array, most: int) -> Iterator[Int64Array]:
    """Yield pairs of equal landmarks of two tracks, each as one number: both tracks and the offset."""
    _, inverse, counts = np.unique(names, return_inverse=True, return_counts=True)
    rare = np.flatnonzero(counts[inverse] <= most)
    names, tracks, columns = names[rare], tracks[rare], columns[rare]
    here = np.arange(len(names))
    for step in range(1, most):
        here = here[here + step < len(names)]
        here = here[names[here] == names[here + step]]
        if len(here) == 0:
            return
        one = here[tracks[here] != tracks[here + step]]  # equal names lie in the order of their tracks
        offset = columns[one] - columns[one + step]
        # Tracks of up to 2^21 and offsets of up to 2^20 columns (15 hours) either way fit into 63 bits.
        yield (tracks[one] << 42 | tracks[one + step] << 21) + offset + (1 << 20)


def _best_offsets(keys: Int64Array) -> list[Vote]:
    """Count the votes for each offset and its neighbours, and take the best of each pair of tracks; sorts `keys`."""
    keys.sort()
    found = []
    start = 0
    while start < len(keys):
        # Some at a time, but those of a pair of tracks together.
        last = min(start + _SOME, len(keys)) - 1
        stop = int(np.searchsorted(keys, ((keys[last] >> 21) + 1) << 21))
        found += _best_of_each(keys[start:stop])
        start = stop
    return sorted(found, key=lambda vote: (-vote.votes, vote.track, vote.other))


def _best_of_each(keys: Int64Array) -> list[Vote]:
    """Take the offset with most votes, if enough, of each pair of tracks; `keys` are sorted."""
    values, counts = np.unique(keys, return_counts=True)
    total = counts.copy()
    near = np.flatnonzero(np.diff(values) == 1)
    total[near] += counts[near + 1]
    total[near + 1] += counts[near]
    enough = total >= VOTES
    values, total = values[enough], total[enough]
    order = np.lexsort((-total, values >> 21))
    values, total = values[order], total[order]
    _, best = np.unique(values >> 21, return_index=True)
    return [
        Vote(int(value >> 42), int(value >> 21) & 0x1FFFFF, int(value & 0x1FFFFF) - (1 << 20), int(count))
        for value, count in zip(values[best].tolist(), total[best].tolist(), strict=True)
    ]


def _compare(store: Store, vote: Vote) -> SharedRecording | None:
    """Lay two tracks on each other at the offset that was voted for; None if they don't agree long enough."""
    seconds = column_seconds(store)
    window = max(8, round(_WINDOW_SECONDS / seconds))
    (one, rows, begin), (other, other_rows, other_begin) = (_join(store, track) for track in (vote.track, vote.other))
    best: tuple[float, int, Float32Array] | None = None
    for shift in range(-2, 3):
        # Columns are counted from the file's start; the joined images begin with the first slice.
        lag = vote.offset + shift + other_begin - begin
        windows = agreement(one, other, lag, window)
        good = float(windows[windows >= CORRELATION].sum())  # NaN is not
        if best is None or good > best[0]:
            best = (good, lag, windows)
    assert best is not None
    _, lag, windows = best
    agreeing = np.flatnonzero(windows >= CORRELATION)
    # Sound shorter than this that agrees all through is as much as there can be.
    if len(agreeing) * window * seconds < min(OVERLAP_SECONDS, 0.8 * len(rows) * store.settings.slice_seconds):
        return None
    low, high = max(lag, 0), min(one.shape[1], other.shape[1] + lag)
    middle = low + (high - low - len(windows) * window) // 2 + int(agreeing[len(agreeing) // 2]) * window + window // 2
    size = store.settings.size
    return SharedRecording(
        vote.track,
        vote.other,
        round(len(agreeing) * window * seconds, 1),
        round((lag + begin - other_begin) * seconds, 2),
        float(np.median(windows[agreeing])),
        vote.votes,
        int(rows[middle // size]),
        int(other_rows[(middle - lag) // size]),
    )


def _join(store: Store, track: int) -> tuple[Float32Array, Int64Array, int]:
    """Give a track's details side by side, the slices they are of, and the column at which they begin."""
    rows = np.flatnonzero(store.slice_tracks == track)[:_MAX_SLICES]
    pieces = detail(np.asarray(store.images[rows[0] : rows[-1] + 1]))
    begin = round(float(store.starts[rows[0]]) / column_seconds(store))
    return np.concatenate(list(pieces), axis=1), rows, begin
