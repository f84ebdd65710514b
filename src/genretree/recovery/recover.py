"""Which slices were cut from one piece, where a data set doesn't tell: guessed from the images, with a confidence."""

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
from genretree.recovery.groups import Groups, rate_tracks
from genretree.recovery.pairs import (
    SliceFeatures,
    Weights,
    centre_places,
    describe_images,
    find_pairs,
    load_default_weights,
)

LARGEST = 0.05  # share of all slices that no group exceeds
LARGEST_OF_LABEL = 0.125  # share of its label that a block of several tracks does not exceed, so that it can be split
ALWAYS = 40  # slices that a group may have in any case: a piece of 7.6 minutes
_CHUNK = 64


@dataclass(frozen=True)
class Recovery:
    """Slices grouped by the piece they seem to be cut from.

    Parameters
    ----------
    tracks : ndarray, int64, shape (n,)
        Number of each slice's track, counted from 0 in the order of the rows.
    confidence : ndarray, float64, shape (n,)
        Of the slice's track, 0 to 1: the mean probability that a slice of it belongs to the others of it; for a track
        of one slice, the probability that it belongs to no other. 0 where an image shows nothing.
    blocks : ndarray, int64, shape (n,)
        Tracks that might be one are in one block: what to keep together when the slices are split.
    """

    tracks: Int64Array
    confidence: Float64Array
    blocks: Int64Array


def recover_tracks(
    images: UInt8Array, leaves: Int64Array, *, progress: bool = False, weights: Weights | None = None
) -> Recovery:
    """Group the slices that were cut from one piece.

    Parameters
    ----------
    images : uint8 array, shape (n, 3, size, size)
        mel, CQT and chroma of each slice, as in a store; may be mapped into memory.
    leaves : array, shape (n,)
        Label of each slice; slices of different labels are never grouped.
    progress : bool
        Show a bar on standard error.
    weights : Weights, optional
        Others than those that come with the package.

    Returns
    -------
    Recovery
        The same whatever the order of the rows and the numbers of the labels.

    Raises
    ------
    CorpusError
        If the images are of another shape or type, or there is not one label for each.

    Notes
    -----
    Pairs of slices are scored by continuity at the cut, likeness, and rhythm, and then joined greedily, the likeliest
    groups first (agglomerative clustering), by the log-odds that a small network gives two groups from the likeness of
    their centres, their best links and their sizes. See docs/recovery.md.
    """
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != np.uint8:
        raise CorpusError(f"expected uint8 images of shape (n, 3, size, size); got {images.dtype} {images.shape}")
    leaves = np.asarray(leaves)
    if leaves.shape != images.shape[:1]:
        raise CorpusError(f"expected a label for each of {len(images)} slices; got shape {leaves.shape}")
    weights = weights or load_default_weights()
    described, digests, empty = _extract_all(images, weights, progress)
    tracks, confidence, blocks = np.full(len(images), -1), np.zeros(len(images)), np.full(len(images), -1)
    taken = 0
    with progress_bar(len(images), "group slices", "slice", progress) as tick:
        for leaf in np.unique(leaves):
            members = np.flatnonzero((leaves == leaf) & ~empty)
            # In the order of their content, equal ones as one: nothing depends on the order of the rows.
            _, kept, copies = np.unique(digests[members], return_index=True, return_inverse=True)
            rows = members[kept]
            counts = np.bincount(copies, minlength=len(rows))
            found = group_slices(described.take(rows), weights, counts, len(images), tick)
            for into, part in ((tracks, found.tracks), (blocks, found.blocks)):
                into[members] = taken + part[copies]
            confidence[members] = found.confidence[copies]
            taken += len(rows)
            looked_at = len(rows) if len(rows) > 1 else 0
            tick(int((leaves == leaf).sum()) - looked_at)
    tracks[empty] = blocks[empty] = taken + np.arange(int(empty.sum()))
    return Recovery(_renumber(tracks), confidence, _renumber(blocks))


def _renumber(groups: Int64Array) -> Int64Array:
    """Count groups from 0 in the order in which they come up."""
    _, first, numbers = np.unique(groups, return_index=True, return_inverse=True)
    place = np.empty(len(first), np.int64)
    place[np.argsort(first)] = np.arange(len(first))
    return place[numbers]


def _extract_all(
    images: UInt8Array, weights: Weights, progress: bool
) -> tuple[SliceFeatures, NDArray[np.bytes_], NDArray[np.bool_]]:
    """Describe all slices, with a digest of each, and whether its mel image shows nothing."""
    parts: list[SliceFeatures] = []
    digests, empty = np.zeros(len(images), "S32"), np.zeros(len(images), bool)
    with progress_bar(len(images), "describe slices", "slice", progress) as tick:
        # Of no slices at all one empty chunk is described, for its shape.
        for start in range(0, max(1, len(images)), _CHUNK):
            chunk = np.ascontiguousarray(images[start : start + _CHUNK])
            found = describe_images(chunk)
            # One by one: a product of matrices rounds a row in another way with other rows beside it.
            place = np.zeros((len(chunk), weights.projection.shape[1]), np.float32)
            for i, row in enumerate(found.place - weights.center):
                place[i] = row @ weights.projection
            parts.append(SliceFeatures(found.ends, found.starts, place, found.rhythm))
            for i, piece in enumerate(chunk):
                # In hex, for NumPy's strings drop zero bytes at the end.
                digests[start + i] = hashlib.blake2b(piece.data, digest_size=16).hexdigest().encode()
                empty[start + i] = piece[0].max() == piece[0].min()
            tick(len(chunk))
            if start // _CHUNK % 16 == 15:
                release_pages(images)
    return join_slice_features(parts), digests, empty


def join_slice_features(parts: list[SliceFeatures]) -> SliceFeatures:
    """Put descriptions one after the other."""
    names = ("ends", "starts", "place", "rhythm")
    return SliceFeatures(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


# -- one label -----------------------------------------------------------------------------------------------


def group_slices(
    slices: SliceFeatures, weights: Weights, counts: Int64Array, in_all: int, tick: Callable[[int], None] | None = None
) -> Recovery:
    """Group described slices of one label, `counts` copies of each, out of so many slices in all."""
    n = len(slices.place)
    if n == 0:
        return Recovery(np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.int64))
    slices = SliceFeatures(slices.ends, slices.starts, centre_places(slices.place), slices.rhythm)
    pairs = find_pairs(slices, weights, tick)
    links = pairs.log_odds(weights)
    groups = Groups(slices, pairs, links, counts, weights)
    tracks = groups.join(float(weights.thresholds[0]), largest_track(in_all))
    confidence = rate_tracks(slices, pairs, links, tracks, weights)
    largest = largest_block(int(counts.sum()), in_all)
    return Recovery(tracks, confidence, groups.join(float(weights.thresholds[1]), largest))


def largest_track(in_all: int) -> int:
    """Slices that a track may have."""
    return max(ALWAYS, int(LARGEST * in_all))


def largest_block(in_label: int, in_all: int) -> int:
    """Slices that a block of several tracks may have: never all of its label, or none of it could be held out."""
    return max(1, min(ALWAYS, in_label // 2), int(min(LARGEST * in_all, LARGEST_OF_LABEL * in_label)))
