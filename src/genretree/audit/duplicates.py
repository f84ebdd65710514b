"""Duplicate slices: equal pixels, or equal up to JPEG, level, noise or a small time shift.

The search for near-duplicates follows perceptual hashing (Zauner 2010). Thumbnails are whitened by principal
components, so that no common shape dominates, and compared all with all by matrix products. Candidates are then aligned
and compared in full detail.
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

MIN_COSINE = 0.6  # of whitened thumbnails; more similar pairs are compared in detail
CORRELATION = 0.5  # median over fifths; slices are duplicates at or above it
_MAX_SHIFT = 3  # in thumbnail columns of 1/32 slice: about a second
_COMPONENTS = 96
_SAMPLE = 4000  # slices for fitting the components
_NEIGHBOURS = 8  # maximum number of detailed comparisons per slice
_MAX_CANDIDATES = 20_000  # pairs for detailed comparison, the most similar first
_BLOCK = 1024


@dataclass(frozen=True)
class NearDuplicate:
    """Two duplicate slices, by row, and their time shift in columns of the stored images."""

    row: int
    other: int
    correlation: float
    shift: int


def same_pixels(fingerprints: Fingerprints, tracks: Int64Array) -> list[NearDuplicate]:
    """Pair every slice with the first slice of another track that has equal pixels; skips flat slices."""
    rows = np.flatnonzero(~fingerprints.flat)
    _, first, inverse = np.unique(fingerprints.checksums[rows], return_index=True, return_inverse=True)
    origin = rows[first[inverse]]
    # np.unique returns the first index, so an original always comes before its copies.
    is_copy = (origin != rows) & (tracks[origin] != tracks[rows])
    pairs = zip(origin[is_copy].tolist(), rows[is_copy].tolist(), strict=True)
    return [NearDuplicate(row, other, 1.0, 0) for row, other in pairs]


def near_pixels(
    store: Store, fingerprints: Fingerprints, known: Sequence[NearDuplicate] = (), progress: bool = False
) -> list[NearDuplicate]:
    """Find slices of different tracks that are equal up to small changes.

    Parameters
    ----------
    store : Store
    fingerprints : Fingerprints
    known : sequence of NearDuplicate
        Pairs to skip.
    progress : bool
        Show progress bars on standard error.

    Returns
    -------
    list of NearDuplicate
        Slices of one track are never paired, because music repeats itself.
    """
    skip = {(match.row, match.other) for match in known}
    # A copy with equal pixels has the same neighbours as its original.
    copies = {match.other for match in known}
    rows = np.array([row for row in np.flatnonzero(~fingerprints.flat) if row not in copies], dtype=np.int64)
    candidates = [
        pair for pair in find_similar(fingerprints.thumbnails, rows, store.slice_tracks, progress) if pair not in skip
    ]
    max_shift = round(store.settings.size * _MAX_SHIFT / COLUMNS)
    duplicates = []
    with progress_bar(len(candidates), "compare slices", "pair", progress and len(candidates) > 0) as tick:
        for row, other in candidates:
            details = detail(np.asarray(store.images[[row, other]]))
            correlation, shift = similarity_score(details[0], details[1], max_shift)
            if correlation >= CORRELATION:
                duplicates.append(NearDuplicate(row, other, correlation, shift))
            release_pages(store.images)
            tick()
    return duplicates


def find_similar(
    thumbnails: Float16Array, rows: Int64Array, tracks: Int64Array, progress: bool = False
) -> list[tuple[int, int]]:
    """List pairs of slices of different tracks with similar thumbnails, each once, the smaller row first."""
    if len(rows) < 2:
        return []
    whitening = _whitening(thumbnails, rows)
    unshifted = _embed(thumbnails, rows, whitening, 0)
    pairs: dict[tuple[int, int], float] = {}
    with progress_bar(len(rows), "compare thumbnails", "slice", progress) as tick:
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK]
            shifted = [_embed(thumbnails, block, whitening, shift) for shift in range(-_MAX_SHIFT, _MAX_SHIFT + 1)]
            for one, other, cosine in _neighbours(shifted, unshifted, tracks[block], tracks[rows]):
                pair = (min(int(block[one]), int(rows[other])), max(int(block[one]), int(rows[other])))
                pairs[pair] = max(cosine, pairs.get(pair, 0))
            if len(pairs) > 4 * _MAX_CANDIDATES:
                pairs = _most_similar(pairs)
            tick(len(block))
    return sorted(_most_similar(pairs))


def _most_similar(pairs: dict[tuple[int, int], float]) -> dict[tuple[int, int], float]:
    best = sorted(pairs, key=lambda pair: -pairs[pair])[:_MAX_CANDIDATES]
    return {pair: pairs[pair] for pair in best}


def _neighbours(
    shifted: Sequence[Float32Array], middle: Float32Array, own: Int64Array, tracks: Int64Array
) -> Iterator[tuple[int, int, float]]:
    """Yield the nearest slices of other tracks above the threshold: both positions, and the cosine."""
    candidates = []
    for start in range(0, len(middle), _BLOCK):
        block = middle[start : start + _BLOCK].T
        cosines = shifted[0] @ block
        for view in shifted[1:]:
            np.maximum(cosines, view @ block, out=cosines)
        rows, columns = np.nonzero((cosines > MIN_COSINE) & (own[:, None] != tracks[start : start + _BLOCK]))
        candidates.append((rows, columns + start, cosines[rows, columns]))
    rows, columns, values = (np.concatenate(part) for part in zip(*candidates, strict=True))
    order = np.lexsort((-values, rows))
    rows, columns, values = rows[order], columns[order], values[order]
    nearest = np.arange(len(rows)) - np.searchsorted(rows, rows) < _NEIGHBOURS
    yield from zip(rows[nearest].tolist(), columns[nearest].tolist(), values[nearest].tolist(), strict=True)


def _crop(thumbnails: Float16Array, shift: int) -> Float32Array:
    """Crop the middle of thumbnails at a shift in columns, shape (n, features)."""
    middles = thumbnails[:, :, _MAX_SHIFT + shift : thumbnails.shape[2] - _MAX_SHIFT + shift].astype(np.float32)
    return middles.reshape(len(middles), -1)


def _whitening(thumbnails: Float16Array, rows: Int64Array) -> tuple[Float32Array, Float32Array]:
    """Fit the mean and the whitening matrix of thumbnails on a sample."""
    sample = np.random.default_rng(0).permutation(rows)[:_SAMPLE]
    middles = _crop(thumbnails[np.sort(sample)], 0)
    mean = middles.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(middles.T).astype(np.float64))
    values, vectors = values[::-1][:_COMPONENTS], vectors[:, ::-1][:, :_COMPONENTS]
    # Partial whitening: components of low variance are mostly noise and get less weight.
    return mean, (vectors / np.maximum(values, values.max() * 1e-4) ** 0.25).astype(np.float32)


def _embed(
    thumbnails: Float16Array, rows: Int64Array, whitening: tuple[Float32Array, Float32Array], shift: int
) -> Float32Array:
    """Compute unit embeddings of slices in blocks."""
    mean, matrix = whitening
    projected = [
        (_crop(thumbnails[rows[start : start + _BLOCK]], shift) - mean) @ matrix
        for start in range(0, len(rows), _BLOCK)
    ]
    vectors = np.concatenate(projected)
    unit: Float32Array = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
    return unit
