"""Recovery of tracks from images: groups of slices that were probably cut from one track, with a confidence."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genretree.arrays import Float64Array, Int64Array, UInt8Array
from genretree.errors import CorpusError
from genretree.files import release_pages
from genretree.progress import progress_bar
from genretree.recovery.chains import find_chains
from genretree.recovery.groups import Groups, compute_confidence
from genretree.recovery.pairs import SliceFeatures, centre_places, extract_slice_features, find_pairs
from genretree.recovery.weights import Weights, load_default_weights

MAX_SHARE = 0.05  # maximum share of all slices in a group
MAX_SHARE_OF_LABEL = 0.125  # maximum share of a label in a block of several tracks, so that it can be split
MAX_SHARE_OF_ARTIST = 0.75  # maximum share of a label in a block of pieces that can't be told apart
MIN_LIMIT = 40  # lower bound of the size limit: a track of 7.6 minutes
_CHUNK = 64


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """Recovered tracks and blocks of slices.

    Parameters
    ----------
    tracks : ndarray, int64, shape (n,)
        Track of each slice, numbered from 0 in order of the rows.
    confidence : ndarray, float64, shape (n,)
        Confidence of the track, 0 to 1: the mean probability that a slice belongs with the other slices of the track;
        for a track of one slice, the probability that it belongs to no other track. 0 for constant images.
    blocks : ndarray, int64, shape (n,)
        Block of each slice. A block holds tracks that may be one track, and must not be split. Where the tracks of an
        artist can't be told apart, it holds all of them.
    """

    tracks: Int64Array
    confidence: Float64Array
    blocks: Int64Array


def recover_tracks(
    images: UInt8Array, leaves: Int64Array, *, progress: bool = False, weights: Weights | None = None
) -> Recovery:
    """Group slices that were probably cut from one track.

    Parameters
    ----------
    images : uint8 array, shape (n, 3, size, size)
        Mel, CQT and chroma of each slice, as in a store; may be memory-mapped.
    leaves : array, shape (n,)
        Label of each slice. Slices of different labels are never grouped.
    progress : bool, default False
        Show progress bars on standard error.
    weights : Weights, optional
        By default, the weights of the package.

    Returns
    -------
    Recovery
        Independent of the order of the rows and of the numbering of the labels.

    Raises
    ------
    CorpusError
        If the images have another shape or dtype, or `leaves` another length.

    See Also
    --------
    genretree.recovery.regroup.regroup_store : Add recovered tracks and a split to a store.

    Notes
    -----
    Slices that follow each other are linked into chains (a path cover by assignment). Pairs of slices are scored by
    continuity at the cut, similarity and rhythm, and the chains are then merged greedily (agglomerative clustering) by
    the log odds that a small network predicts for two groups from the similarity of their centres, their best links and
    their sizes. Where the tracks of an artist can't be told apart, a block holds all of them, up to three quarters of
    the label. See docs/recovery.md.

    Examples
    --------
    >>> import numpy as np
    >>> from genretree.recovery.recover import recover_tracks
    >>> images = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), dtype=np.uint8)
    >>> recovery = recover_tracks(images[[0, 1, 0]], np.array([0, 1, 0]))
    >>> recovery.tracks
    array([0, 1, 0])
    """
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != np.uint8:
        raise CorpusError(f"expected uint8 images of shape (n, 3, size, size); got {images.dtype} {images.shape}")
    leaves = np.asarray(leaves)
    if leaves.shape != images.shape[:1]:
        raise CorpusError(f"expected a label for each of {len(images)} slices; got shape {leaves.shape}")
    weights = weights or load_default_weights()
    features, digests, empty = _extract_all(images, weights, progress)
    tracks, confidence, blocks = np.full(len(images), -1), np.zeros(len(images)), np.full(len(images), -1)
    n_assigned = 0
    with progress_bar(len(images), "group slices", "slice", progress) as tick:
        for leaf in np.unique(leaves):
            members = np.flatnonzero((leaves == leaf) & ~empty)
            # Sorted by content, with duplicates merged, so that the result is independent of the order of the rows.
            _, first_rows, copies = np.unique(digests[members], return_index=True, return_inverse=True)
            rows = members[first_rows]
            counts = np.bincount(copies, minlength=len(rows))
            group = group_slices(features.take(rows), weights, counts, len(images), tick)
            for into, numbers in ((tracks, group.tracks), (blocks, group.blocks)):
                into[members] = n_assigned + numbers[copies]
            confidence[members] = group.confidence[copies]
            n_assigned += len(rows)
            n_ticked = len(rows) if len(rows) > 1 else 0
            tick(int((leaves == leaf).sum()) - n_ticked)
    tracks[empty] = blocks[empty] = n_assigned + np.arange(int(empty.sum()))
    return Recovery(tracks=_renumber(tracks), confidence=confidence, blocks=_renumber(blocks))


def _renumber(groups: Int64Array) -> Int64Array:
    """Renumber groups from 0 in order of first occurrence."""
    _, first, numbers = np.unique(groups, return_index=True, return_inverse=True)
    place = np.empty(len(first), np.int64)
    place[np.argsort(first)] = np.arange(len(first))
    return place[numbers]


def _extract_all(
    images: UInt8Array, weights: Weights, progress: bool
) -> tuple[SliceFeatures, NDArray[np.bytes_], NDArray[np.bool_]]:
    """Extract features and digests of all slices, and whether their mel image is constant."""
    parts: list[SliceFeatures] = []
    digests, empty = np.zeros(len(images), "S32"), np.zeros(len(images), bool)
    with progress_bar(len(images), "extract features", "slice", progress) as tick:
        # Without slices, one empty chunk provides the shapes.
        for start in range(0, max(1, len(images)), _CHUNK):
            chunk = np.ascontiguousarray(images[start : start + _CHUNK])
            chunk_features = extract_slice_features(chunk)
            # Row by row: the rounding of a matrix product depends on the other rows.
            place = np.zeros((len(chunk), weights.projection.shape[1]), np.float32)
            for i, row in enumerate(chunk_features.place - weights.center):
                place[i] = row @ weights.projection
            parts.append(SliceFeatures(chunk_features.ends, chunk_features.starts, place, chunk_features.rhythm))
            for i, slice_images in enumerate(chunk):
                # In hexadecimal: NumPy strips trailing zero bytes from byte strings.
                digests[start + i] = hashlib.blake2b(slice_images.data, digest_size=16).hexdigest().encode()
                empty[start + i] = slice_images[0].max() == slice_images[0].min()
            tick(len(chunk))
            if start // _CHUNK % 16 == 15:
                release_pages(images)
    return join_slice_features(parts), digests, empty


def join_slice_features(parts: list[SliceFeatures]) -> SliceFeatures:
    """Concatenate features."""
    names = ("ends", "starts", "place", "rhythm")
    return SliceFeatures(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


# -- one label -----------------------------------------------------------------------------------------------


def group_slices(
    slices: SliceFeatures, weights: Weights, counts: Int64Array, n_total: int, tick: Callable[[int], None] | None = None
) -> Recovery:
    """Group the slices of one label, with `counts` copies of each, out of `n_total` slices."""
    n = len(slices.place)
    if n == 0:
        return Recovery(tracks=np.zeros(0, np.int64), confidence=np.zeros(0), blocks=np.zeros(0, np.int64))
    slices = SliceFeatures(slices.ends, slices.starts, centre_places(slices.place), slices.rhythm)
    pairs = find_pairs(slices, weights, tick)
    links = pairs.log_odds(weights)
    groups = Groups(slices, pairs, links, counts, weights, find_chains(slices, weights))
    tracks = groups.join(weights.min_track, max_track_size(n_total))
    confidence = compute_confidence(slices, pairs, links, tracks, weights)
    return Recovery(
        tracks=tracks, confidence=confidence, blocks=join_blocks(groups, weights, int(counts.sum()), n_total)
    )


def join_blocks(groups: Groups, weights: Weights, n_label: int, n_total: int) -> Int64Array:
    """Merge the groups of one label of `n_label` slices into blocks.

    Groups that can't be told apart are merged whatever their size, up to a whole artist; others up to a limit.
    """
    if weights.min_artist is not None:
        groups.join(weights.min_artist, max_artist_size(n_label))
    return groups.join(weights.min_block, max_block_size(n_label, n_total))


def max_track_size(n_total: int) -> int:
    """Return the maximum number of slices of a track."""
    return max(MIN_LIMIT, int(MAX_SHARE * n_total))


def max_block_size(n_label: int, n_total: int) -> int:
    """Return the maximum number of slices of a block of probable tracks; at most half of a label."""
    return max(1, min(MIN_LIMIT, n_label // 2), int(min(MAX_SHARE * n_total, MAX_SHARE_OF_LABEL * n_label)))


def max_artist_size(n_label: int) -> int:
    """Return the maximum number of slices of a block of an artist, so that some of the label can be held out."""
    return max(1, int(MAX_SHARE_OF_ARTIST * n_label))
