"""Shared recordings at any offset: landmarks of spectrogram peaks, voting on offsets, and detailed comparison.

After Wang (2003), "An industrial-strength audio search algorithm". Spectrogram peaks survive encoding, level changes
and noise. A landmark is a tuple of nearby peaks, identified by their bins and the time between them. Two tracks share
audio if many equal landmarks agree on one offset. Landmarks have three peaks rather than two, because the stored images
resolve 51 ms and a semitone only. Pairs with enough votes are aligned and compared window by window, which decides.
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

CORRELATION = 0.5  # of the details of a window; windows at or above it match
OVERLAP_SECONDS = 5.0  # minimum total length of matching windows
MIN_VOTES = 5  # for one offset, to make two tracks a candidate
_FAN = 4  # following peaks among which the other two are chosen
_MAX_SPAN = 62  # columns between first and last peak
_TIME_QUANTUM = 2  # columns per unit of time differences
_MAX_REPEATS = 4  # occurrences of a landmark counted per track: loops repeat landmarks
_MAX_COINCIDENCES = 20_000_000  # pairs of equal landmarks; the most common landmarks are skipped first
_CHUNK = 1_000_000  # landmarks or pairs per chunk; temporary copies of all would dominate memory use
_MAX_CANDIDATES = 2000
_WINDOW_SECONDS = 2.5
_MAX_SLICES = 120  # per track in the comparison: 23 minutes


@dataclass(frozen=True)
class SharedRecording:
    """Two tracks that share audio.

    Parameters
    ----------
    track, other : int
    seconds : float
        Total length of the matching windows.
    offset : float
        Start of the shared audio in `track` minus its start in `other`, in seconds from the start of the file.
    correlation : float
        Median over the matching windows.
    votes : int
        Landmarks that agree on the offset.
    row, other_row : int
        Slices that contain a matching window.
    """

    track: int
    other: int
    seconds: float
    offset: float
    correlation: float
    votes: int
    row: int
    other_row: int


def find_shared_recordings(
    store: Store, fingerprints: Fingerprints, known: Iterable[tuple[int, int]] = (), progress: bool = False
) -> list[SharedRecording]:
    """Find pairs of tracks that share audio.

    Parameters
    ----------
    store : Store
    fingerprints : Fingerprints
    known : pairs of tracks, the smaller first
        Pairs to skip.
    progress : bool
        Show a progress bar on standard error.
    """
    skip = set(known)
    peaks = fingerprints.peaks
    tracks = store.slice_tracks[peaks.rows]
    columns = np.round(store.starts[peaks.rows] / column_seconds(store)).astype(np.int64) + peaks.columns
    votes = count_votes(compute_landmarks(tracks, columns, peaks.bins), tracks, columns)
    votes = [vote for vote in votes if (vote.track, vote.other) not in skip]
    repeats = []
    votes = votes[:_MAX_CANDIDATES]
    with progress_bar(len(votes), "compare tracks", "pair", progress and len(votes) > 0) as tick:
        for vote in votes:
            repeat = _compare(store, vote)
            if repeat is not None:
                repeats.append(repeat)
            release_pages(store.images)
            tick()
    return repeats


@dataclass(frozen=True)
class Vote:
    """Landmarks of two tracks that agree on an offset in columns."""

    track: int
    other: int
    offset: int
    votes: int


def column_seconds(store: Store) -> float:
    """Length of an image column in seconds: 51 ms by default."""
    from genretree.settings import HOP_LENGTH, SAMPLE_RATE

    return store.settings.slice_frames * HOP_LENGTH / SAMPLE_RATE / store.settings.size


def compute_landmarks(tracks: Int64Array, columns: Int64Array, bins: UInt8Array) -> NDArray[np.uint64]:
    """Compute landmarks: hashes of three peaks from their bins and the time between them.

    Parameters
    ----------
    tracks, columns : int64 arrays, shape (n,)
        Track of each peak, and its column from the start of the file.
    bins : uint8 array, shape (n,)

    Returns
    -------
    uint64 array
        Sorted; the hash in the upper 32 bits, the index of the first peak in the lower 32 bits.
    """
    n = len(columns)
    landmarks_buffer = np.empty(_FAN * (_FAN - 1) // 2 * n, np.uint64)
    n_landmarks = 0
    for first in range(1, _FAN):
        for second in range(first + 1, _FAN + 1):
            for start in range(0, n - second, _CHUNK):
                anchors = np.arange(start, min(start + _CHUNK, n - second))
                first_gap, second_gap = (
                    columns[anchors + first] - columns[anchors],
                    columns[anchors + second] - columns[anchors],
                )
                valid = (
                    (tracks[anchors] == tracks[anchors + second])
                    & (second_gap <= _MAX_SPAN)
                    & (first_gap >= 0)
                    & (second_gap > 0)
                )
                places = anchors[valid]
                numbers = [bins[places + step].astype(np.uint64) for step in (0, first, second)]
                times = [(item[valid] // _TIME_QUANTUM).astype(np.uint64) for item in (first_gap, second_gap)]
                names = numbers[0] << 24 | numbers[1] << 17 | numbers[2] << 10 | times[0] << 5 | times[1]
                landmarks_buffer[n_landmarks : n_landmarks + len(places)] = names << 32 | places.astype(np.uint64)
                n_landmarks += len(places)
    landmarks = landmarks_buffer[:n_landmarks]
    landmarks.sort()
    return landmarks


def count_votes(landmarks: NDArray[np.uint64], tracks: Int64Array, columns: Int64Array) -> list[Vote]:
    """Count votes of equal landmarks of different tracks for their offset; most votes first.

    Parameters
    ----------
    landmarks : uint64 array
        From `compute_landmarks`.
    tracks, columns : int64 arrays, shape (n,)
        Track and column of each peak.
    """
    max_occurrences, n_pairs = _limit(_repeated(landmarks, tracks, columns))
    keys = np.empty(n_pairs, np.int64)  # upper bound
    n_keys = 0
    for names, landmark_tracks, landmark_columns in _repeated(landmarks, tracks, columns):
        for coincidences in _coincidences(names, landmark_tracks, landmark_columns, max_occurrences):
            keys[n_keys : n_keys + len(coincidences)] = coincidences
            n_keys += len(coincidences)
    return _best_offsets(keys[:n_keys])


def _repeated(
    landmarks: NDArray[np.uint64], tracks: Int64Array, columns: Int64Array
) -> Iterator[tuple[Int64Array, Int64Array, Int64Array]]:
    """Yield hashes, tracks and columns of repeated landmarks, sorted, in chunks that keep equal hashes together."""
    start = 0
    while start < len(landmarks):
        last = landmarks[min(start + _CHUNK, len(landmarks)) - 1] >> 32
        stop = int(np.searchsorted(landmarks, (last + 1) << 32))
        names = (landmarks[start:stop] >> 32).astype(np.int64)
        same = names[1:] == names[:-1]
        is_repeated = np.append(False, same) | np.append(same, False)
        names, places = names[is_repeated], (landmarks[start:stop][is_repeated] & 0xFFFFFFFF).astype(np.int64)
        start = stop
        # Peaks are sorted by track and column, and so are equal landmarks.
        landmark_tracks = tracks[places]
        first_rows = _first_of_each(names, landmark_tracks)
        yield names[first_rows], landmark_tracks[first_rows], columns[places[first_rows]]


def _first_of_each(names: Int64Array, tracks: Int64Array) -> Int64Array:
    """Return the rows of the first few occurrences of each hash in each track; both are sorted by hash, then track."""
    new = np.append(True, (names[1:] != names[:-1]) | (tracks[1:] != tracks[:-1]))
    began = np.maximum.accumulate(np.where(new, np.arange(len(names)), 0))
    return np.flatnonzero(np.arange(len(names)) - began < _MAX_REPEATS)


def _limit(blocks: Iterable[tuple[Int64Array, Int64Array, Int64Array]]) -> tuple[int, int]:
    """Compute the maximum occurrences of a hash that bound the total number of pairs, and that number."""
    sizes: Counter[int] = Counter()
    for names, _, _ in blocks:
        counts, times = np.unique(np.unique(names, return_counts=True)[1], return_counts=True)
        sizes.update(dict(zip(counts.tolist(), times.tolist(), strict=True)))
    max_occurrences = n_pairs = 0
    for size in sorted(sizes):
        n_more = sizes[size] * size * (size - 1) // 2
        if n_pairs + n_more > _MAX_COINCIDENCES:
            break
        max_occurrences, n_pairs = size, n_pairs + n_more
    return max_occurrences, n_pairs


def _coincidences(
    names: Int64Array, tracks: Int64Array, columns: Int64Array, max_occurrences: int
) -> Iterator[Int64Array]:
    """Yield pairs of equal landmarks of two tracks, packed as one integer: both tracks and the offset."""
    _, inverse, counts = np.unique(names, return_inverse=True, return_counts=True)
    rare = np.flatnonzero(counts[inverse] <= max_occurrences)
    names, tracks, columns = names[rare], tracks[rare], columns[rare]
    positions = np.arange(len(names))
    for step in range(1, max_occurrences):
        positions = positions[positions + step < len(names)]
        positions = positions[names[positions] == names[positions + step]]
        if len(positions) == 0:
            return
        different = positions[tracks[positions] != tracks[positions + step]]  # equal hashes are sorted by track
        offset = columns[different] - columns[different + step]
        # Up to 2^21 tracks and offsets of up to 2^20 columns (15 hours) in either direction fit into 63 bits.
        yield (tracks[different] << 42 | tracks[different + step] << 21) + offset + (1 << 20)


def _best_offsets(keys: Int64Array) -> list[Vote]:
    """Count the votes for each offset and its neighbours, and select the best per pair of tracks; sorts `keys`."""
    keys.sort()
    votes = []
    start = 0
    while start < len(keys):
        # In chunks that keep the keys of a pair of tracks together.
        last = min(start + _CHUNK, len(keys)) - 1
        stop = int(np.searchsorted(keys, ((keys[last] >> 21) + 1) << 21))
        votes += _best_of_each(keys[start:stop])
        start = stop
    return sorted(votes, key=lambda vote: (-vote.votes, vote.track, vote.other))


def _best_of_each(keys: Int64Array) -> list[Vote]:
    """Select the offset with the most votes of each pair of tracks, if there are enough; `keys` are sorted."""
    values, counts = np.unique(keys, return_counts=True)
    total = counts.copy()
    near = np.flatnonzero(np.diff(values) == 1)
    total[near] += counts[near + 1]
    total[near + 1] += counts[near]
    enough = total >= MIN_VOTES
    values, total = values[enough], total[enough]
    order = np.lexsort((-total, values >> 21))
    values, total = values[order], total[order]
    _, best = np.unique(values >> 21, return_index=True)
    return [
        Vote(int(value >> 42), int(value >> 21) & 0x1FFFFF, int(value & 0x1FFFFF) - (1 << 20), int(count))
        for value, count in zip(values[best].tolist(), total[best].tolist(), strict=True)
    ]


def _compare(store: Store, vote: Vote) -> SharedRecording | None:
    """Align two tracks at the voted offset and compare them; None if the match is too short."""
    seconds = column_seconds(store)
    window = max(8, round(_WINDOW_SECONDS / seconds))
    (one, rows, start), (other, other_rows, other_start) = (_join(store, track) for track in (vote.track, vote.other))
    best: tuple[float, int, Float32Array] | None = None
    for shift in range(-2, 3):
        # Columns count from the start of the file; the joined images start at the first slice.
        lag = vote.offset + shift + other_start - start
        windows = agreement(one, other, lag, window)
        agreement_sum = float(windows[windows >= CORRELATION].sum())  # NaN compares false
        if best is None or agreement_sum > best[0]:
            best = (agreement_sum, lag, windows)
    assert best is not None
    _, lag, windows = best
    agreeing = np.flatnonzero(windows >= CORRELATION)
    # For short tracks, a match over most of the track is sufficient.
    if len(agreeing) * window * seconds < min(OVERLAP_SECONDS, 0.8 * len(rows) * store.settings.slice_seconds):
        return None
    low, high = max(lag, 0), min(one.shape[1], other.shape[1] + lag)
    middle = low + (high - low - len(windows) * window) // 2 + int(agreeing[len(agreeing) // 2]) * window + window // 2
    size = store.settings.size
    return SharedRecording(
        vote.track,
        vote.other,
        round(len(agreeing) * window * seconds, 1),
        round((lag + start - other_start) * seconds, 2),
        float(np.median(windows[agreeing])),
        vote.votes,
        int(rows[middle // size]),
        int(other_rows[(middle - lag) // size]),
    )


def _join(store: Store, track: int) -> tuple[Float32Array, Int64Array, int]:
    """Concatenate the details of a track over time; return them with the rows of the slices and the start column."""
    rows = np.flatnonzero(store.slice_tracks == track)[:_MAX_SLICES]
    details = detail(np.asarray(store.images[rows[0] : rows[-1] + 1]))
    start = round(float(store.starts[rows[0]]) / column_seconds(store))
    return np.concatenate(list(details), axis=1), rows, start
