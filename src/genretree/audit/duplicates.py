"""Slices that are the same picture: pixel by pixel, or after JPEG, a change of level, noise or a small shift in time.

Near-duplicates are sought in the spirit of perceptual hashing (Zauner 2010): small thumbnails, whitened by principal
components so that no common shape dominates, are compared all with all by matrix products; what comes near is then laid
on each other in full detail.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from genretree.arrays import Float16Array, Float32Array, Int64Array
from genretree.audit.alignment import detail, similarity_score
from genretree.audit.fingerprints import COLUMNS, Fingerprints
from genretree.corpus.store import Store
from genretree.files import release_pages
from genretree.progress import progress_bar

LIKENESS = 0.6  # cosine of whitened thumbnails above which two slices are compared in detail
CORRELATION = 0.5  # median over the fifths of two slices above which they are the same
_SHIFTS = 3  # columns of a thumbnail, each 1/32 of a slice, by which slices may be shifted: about a second
_COMPONENTS = 96
_SAMPLE = 4000  # slices from which the components are learned
_NEIGHBOURS = 8  # a slice is compared in detail with so many at most
_MOST_CANDIDATES = 20_000  # pairs that are compared in detail, the likeliest
_BLOCK = 1024


@dataclass(frozen=True)
class NearDuplicate:
    """Two slices, by row, that show the same; `shift` in columns of the stored images, NaN-free."""

    row: int
    other: int
    correlation: float
    shift: int


def same_pixels(fingerprints: Fingerprints, tracks: Int64Array) -> list[NearDuplicate]:
    """Pair every slice with the first of another track that has the very same pixels; flat ones are left out."""
    rows = np.flatnonzero(~fingerprints.flat)
    _, first, inverse = np.unique(fingerprints.checksums[rows], return_index=True, return_inverse=True)
    origin = rows[first[inverse]]
    # NumPy's unique gives the first place, so an original always comes before its copies.
    again = (origin != rows) & (tracks[origin] != tracks[rows])
    pairs = zip(origin[again].tolist(), rows[again].tolist(), strict=True)
    return [NearDuplicate(row, other, 1.0, 0) for row, other in pairs]


def near_pixels(
    store: Store, fingerprints: Fingerprints, known: Sequence[NearDuplicate] = (), progress: bool = False
) -> list[NearDuplicate]:
    """Find slices of different tracks that are the same but for small changes.

    Parameters
    ----------
    store : Store
    fingerprints : Fingerprints
    known : sequence of NearDuplicate
        Pairs that are not to be given again.

    Returns
    -------
    list of Match
        Slices of one track are never paired: music repeats itself.
    """
    skip = {(match.row, match.other) for match in known}
    # A copy of the very same pixels has the same neighbours as its original.
    copies = {match.other for match in known}
    rows = np.array([row for row in np.flatnonzero(~fingerprints.flat) if row not in copies], dtype=np.int64)
    candidates = [
        pair for pair in find_alike(fingerprints.thumbnails, rows, store.slice_tracks, progress) if pair not in skip
    ]
    most = round(store.settings.size * _SHIFTS / COLUMNS)
    found = []
    with progress_bar(len(candidates), "compare slices", "pair", progress and len(candidates) > 0) as tick:
        for row, other in candidates:
            pieces = detail(np.asarray(store.images[[row, other]]))
            correlation, shift = similarity_score(pieces[0], pieces[1], most)
            if correlation >= CORRELATION:
                found.append(NearDuplicate(row, other, correlation, shift))
            release_pages(store.images)
            tick()
    return found


def find_alike(
    thumbnails: Float16Array, rows: Int64Array, tracks: Int64Array, progress: bool = False
) -> list[tuple[int, int]]:
    """List pairs of slices of different tracks whose thumbnails are alike, each once, the smaller row first."""
    if len(rows) < 2:
        return []
    whiten = _whitening(thumbnails, rows)
    middle = _describe(thumbnails, rows, whiten, 0)
    pairs: dict[tuple[int, int], float] = {}
    with progress_bar(len(rows), "compare thumbnails", "slice", progress) as tick:
        for start in range(0, len(rows), _BLOCK):
            some = rows[start : start + _BLOCK]
            shifted = [_describe(thumbnails, some, whiten, shift) for shift in range(-_SHIFTS, _SHIFTS + 1)]
            for one, other, cosine in _neighbours(shifted, middle, tracks[some], tracks[rows]):
                pair = (min(int(some[one]), int(rows[other])), max(int(some[one]), int(rows[other])))
                pairs[pair] = max(cosine, pairs.get(pair, 0))
            if len(pairs) > 4 * _MOST_CANDIDATES:
                pairs = _likeliest(pairs)
            tick(len(some))
    return sorted(_likeliest(pairs))


def _likeliest(pairs: dict[tuple[int, int], float]) -> dict[tuple[int, int], float]:
    best = sorted(pairs, key=lambda pair: -pairs[pair])[:_MOST_CANDIDATES]
    return {pair: pairs[pair] for pair in best}


def _neighbours(
    shifted: Sequence[Float32Array], middle: Float32Array, own: Int64Array, tracks: Int64Array
) -> Iterator[tuple[int, int, float]]:
    """Yield the nearest slices of other tracks, those above the limit, as positions, with their cosine."""
    parts = []
    for start in range(0, len(middle), _BLOCK):
        some = middle[start : start + _BLOCK].T
        cosines = shifted[0] @ some
        for view in shifted[1:]:
            np.maximum(cosines, view @ some, out=cosines)
        near, found = np.nonzero((cosines > LIKENESS) & (own[:, None] != tracks[start : start + _BLOCK]))
        parts.append((near, found + start, cosines[near, found]))
    near, found, values = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.lexsort((-values, near))
    near, found, values = near[order], found[order], values[order]
    nearest = np.arange(len(near)) - np.searchsorted(near, near) < _NEIGHBOURS
    yield from zip(near[nearest].tolist(), found[nearest].tolist(), values[nearest].tolist(), strict=True)


def _cut(thumbnails: Float16Array, shift: int) -> Float32Array:
    """Cut the middle out of thumbnails, shifted by so many columns: shape (n, features)."""
    pieces = thumbnails[:, :, _SHIFTS + shift : thumbnails.shape[2] - _SHIFTS + shift].astype(np.float32)
    return pieces.reshape(len(pieces), -1)


def _whitening(thumbnails: Float16Array, rows: Int64Array) -> tuple[Float32Array, Float32Array]:
    """Mean and matrix that whiten thumbnails, learned from a sample."""
    sample = np.random.default_rng(0).permutation(rows)[:_SAMPLE]
    pieces = _cut(thumbnails[np.sort(sample)], 0)
    mean = pieces.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(pieces.T).astype(np.float64))
    values, vectors = values[::-1][:_COMPONENTS], vectors[:, ::-1][:, :_COMPONENTS]
    # Half way to white: what hardly varies is mostly noise and must not count as much as the rest.
    return mean, (vectors / np.maximum(values, values.max() * 1e-4) ** 0.25).astype(np.float32)


def _describe(
    thumbnails: Float16Array, rows: Int64Array, whiten: tuple[Float32Array, Float32Array], shift: int
) -> Float32Array:
    """Describe slices by vectors of length 1, some rows at a time."""
    mean, matrix = whiten
    pieces = [
        (_cut(thumbnails[rows[start : start + _BLOCK]], shift) - mean) @ matrix for start in range(0, len(rows), _BLOCK)
    ]
    vectors = np.concatenate(pieces)
    unit: Float32Array = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
    return unit
