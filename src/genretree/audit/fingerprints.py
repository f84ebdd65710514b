"""One pass over a store's images: for each slice a checksum, a thumbnail and the peaks of its CQT image."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genretree.arrays import Float16Array, Float32Array, UInt8Array
from genretree.corpus.store import Store
from genretree.files import release_pages
from genretree.progress import progress_bar
from genretree.settings import CQT_BINS
from genretree.sound.slices import overlaps

BATCH = 128  # slices read at a time: 19 MB of images
MEL_ROWS, CQT_ROWS, COLUMNS = 16, 14, 32  # of a thumbnail
_FLAT = 2.0  # an image that spreads less than this, of 255, shows nothing to know it by
_SAMPLED = 3  # every third pixel tells that
_AROUND = (3, 4)  # rows and columns on each side in which a peak is the highest
_PROMINENCE = 1.5  # of a peak, in standard deviations of its slice


@dataclass(frozen=True)
class Peaks:
    """Peaks of the CQT images, in the order of the slices: arrays of shape (n,)."""

    rows: NDArray[np.int32]  # slice
    bins: UInt8Array  # 0 the lowest
    columns: NDArray[np.uint16]  # of the slice's image


@dataclass(frozen=True)
class Fingerprints:
    """What is known of each slice after the pass.

    Parameters
    ----------
    checksums : bytes array, shape (n,)
        Of the pixels of all three images.
    flat : bool array, shape (n,)
        Silent or of one colour: like any other of its kind, so no sign of anything.
    thumbnails : float16 array, shape (n, 30, 32)
        Mel above CQT, each with the means of rows and columns taken out, its spread 1.
    peaks : Peaks
    """

    checksums: NDArray[np.bytes_]
    flat: NDArray[np.bool_]
    thumbnails: Float16Array
    peaks: Peaks


def compute_fingerprints(store: Store, progress: bool = False) -> Fingerprints:
    """Read every image of a store once, in batches."""
    n = store.n_slices
    checksums = np.zeros(n, "S16")
    flat = store.silent.copy()
    thumbnails = np.zeros((n, MEL_ROWS + CQT_ROWS, COLUMNS), np.float16)
    peaks: list[tuple[NDArray[np.int32], UInt8Array, NDArray[np.uint16]]] = []
    with progress_bar(n, "look", "slice", progress) as tick:
        for start in range(0, n, BATCH):
            images = np.asarray(store.images[start : start + BATCH])
            stop = start + len(images)
            # In hex: NumPy cuts zero bytes off the end of a byte string.
            checksums[start:stop] = [hashlib.blake2b(piece.data, digest_size=8).hexdigest() for piece in images]
            sample = images[:, :2, ::_SAMPLED, ::_SAMPLED].astype(np.float32)
            flat[start:stop] |= sample.std(axis=(2, 3)).min(axis=1) < _FLAT
            thumbnails[start:stop] = draw_thumbnails(images)
            found = find_peaks(images[:, 1])
            keep = ~flat[start:stop][found[0]]
            peaks.append(((found[0] + start)[keep], found[1][keep], found[2][keep]))
            release_pages(store.images)
            tick(len(images))
    rows, bins, columns = (np.concatenate(parts) for parts in zip(*peaks, strict=True))
    return Fingerprints(checksums, flat, thumbnails, Peaks(rows, bins, columns))


def draw_thumbnails(images: UInt8Array) -> Float16Array:
    """Shrink mel and CQT to thumbnails that level and equalisation hardly change: shape (n, 30, 32)."""
    parts = [centre(reduce_rows(images[:, number], rows, COLUMNS)) for number, rows in enumerate((MEL_ROWS, CQT_ROWS))]
    # Smooth in time: a shift of half a column would change sharp ones too much.
    whole = np.pad(np.concatenate(parts, axis=1), ((0, 0), (0, 0), (1, 1)), mode="edge")
    smooth: Float16Array = ((whole[..., :-2] + 2 * whole[..., 1:-1] + whole[..., 2:]) / 4).astype(np.float16)
    return smooth


def reduce_rows(images: UInt8Array, rows: int, columns: int | None = None) -> Float32Array:
    """Average images of shape (n, size, size) over areas: (n, rows, columns), or all columns where not given."""
    size = images.shape[-1]
    shrunk: Float32Array = overlaps(size, min(rows, size)) @ images.astype(np.float32)
    return shrunk if columns is None else shrunk @ overlaps(size, min(columns, size)).T


def centre(images: Float32Array) -> Float32Array:
    """Take out the means of rows and columns, so that neither timbre nor a common beat is left, and scale to spread 1.

    What is left says which band sounds when; that is of one recording only.
    """
    moving = images - images.mean(axis=-1, keepdims=True)
    moving -= moving.mean(axis=-2, keepdims=True)
    spread: Float32Array = moving.std(axis=(-2, -1), keepdims=True)
    scaled: Float32Array = moving / np.maximum(spread, 1e-3)
    return scaled


def find_peaks(cqt: UInt8Array) -> tuple[NDArray[np.int32], UInt8Array, NDArray[np.uint16]]:
    """Find where CQT images, shape (n, size, size), stand above all around.

    Returns
    -------
    slices, bins, columns : arrays, shape (n_peaks,)
        In the order of slices and time.
    """
    from scipy.ndimage import maximum_filter

    detail = centre(reduce_rows(cqt, CQT_BINS))
    detail = 0.5 * (detail + np.roll(detail, 1, axis=2))  # two columns at a time: peaks move less with the grid
    around = (1, 2 * _AROUND[0] + 1, 2 * _AROUND[1] + 1)
    slices, rows, columns = np.nonzero((detail == maximum_filter(detail, around)) & (detail > _PROMINENCE))
    order = np.lexsort((rows, columns, slices))
    bins = detail.shape[1] - 1 - rows
    return slices[order].astype(np.int32), bins[order].astype(np.uint8), columns[order].astype(np.uint16)
