"""Fingerprints of slices: checksums, thumbnails and CQT peaks, computed in one pass over a store."""

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

BATCH = 128  # slices per read: 19 MB of images
MEL_ROWS, CQT_ROWS, COLUMNS = 16, 14, 32  # of a thumbnail
_MIN_SPREAD = 2.0  # standard deviation in grey levels; flatter images cannot be identified
_PIXEL_STEP = 3  # pixels sampled for the spread
_PEAK_RADIUS = (3, 4)  # rows and columns on each side of a local maximum
_PROMINENCE = 1.5  # minimum height of a peak in standard deviations of its slice


@dataclass(frozen=True)
class Peaks:
    """Peaks of the CQT images, in the order of the slices: arrays of shape (n,)."""

    rows: NDArray[np.int32]  # slice
    bins: UInt8Array  # 0 the lowest
    columns: NDArray[np.uint16]  # of the slice's image


@dataclass(frozen=True)
class Fingerprints:
    """Fingerprints of all slices of a store.

    Parameters
    ----------
    checksums : bytes array, shape (n,)
        Checksums of the pixels of all three images.
    flat : bool array, shape (n,)
        Whether the slice is silent or nearly constant; such slices look alike and are not evidence of a copy.
    thumbnails : float16 array, shape (n, 30, 32)
        Mel above CQT, each without row and column means, with standard deviation 1.
    peaks : Peaks
    """

    checksums: NDArray[np.bytes_]
    flat: NDArray[np.bool_]
    thumbnails: Float16Array
    peaks: Peaks


def compute_fingerprints(store: Store, progress: bool = False) -> Fingerprints:
    """Compute the fingerprints of a store in batches."""
    n = store.n_slices
    checksums = np.zeros(n, "S16")
    flat = store.silent.copy()
    thumbnails = np.zeros((n, MEL_ROWS + CQT_ROWS, COLUMNS), np.float16)
    peaks: list[tuple[NDArray[np.int32], UInt8Array, NDArray[np.uint16]]] = []
    with progress_bar(n, "fingerprint", "slice", progress) as tick:
        for start in range(0, n, BATCH):
            images = np.asarray(store.images[start : start + BATCH])
            stop = start + len(images)
            # In hexadecimal: NumPy strips trailing zero bytes from byte strings.
            checksums[start:stop] = [
                hashlib.blake2b(slice_images.data, digest_size=8).hexdigest() for slice_images in images
            ]
            sample = images[:, :2, ::_PIXEL_STEP, ::_PIXEL_STEP].astype(np.float32)
            flat[start:stop] |= sample.std(axis=(2, 3)).min(axis=1) < _MIN_SPREAD
            thumbnails[start:stop] = compute_thumbnails(images)
            batch_peaks = find_peaks(images[:, 1])
            keep = ~flat[start:stop][batch_peaks[0]]
            peaks.append(((batch_peaks[0] + start)[keep], batch_peaks[1][keep], batch_peaks[2][keep]))
            release_pages(store.images)
            tick(len(images))
    rows, bins, columns = (np.concatenate(parts) for parts in zip(*peaks, strict=True))
    return Fingerprints(checksums, flat, thumbnails, Peaks(rows, bins, columns))


def compute_thumbnails(images: UInt8Array) -> Float16Array:
    """Compute thumbnails of mel and CQT that are nearly invariant to level and equalisation, shape (n, 30, 32)."""
    parts = [centre(reduce_rows(images[:, number], rows, COLUMNS)) for number, rows in enumerate((MEL_ROWS, CQT_ROWS))]
    # Smooth over time: a shift of half a column would change unsmoothed thumbnails too much.
    whole = np.pad(np.concatenate(parts, axis=1), ((0, 0), (0, 0), (1, 1)), mode="edge")
    smooth: Float16Array = ((whole[..., :-2] + 2 * whole[..., 1:-1] + whole[..., 2:]) / 4).astype(np.float16)
    return smooth


def reduce_rows(images: UInt8Array, rows: int, columns: int | None = None) -> Float32Array:
    """Average images, (n, size, size), over areas to (n, rows, columns); keeps all columns if None."""
    size = images.shape[-1]
    shrunk: Float32Array = overlaps(size, min(rows, size)) @ images.astype(np.float32)
    return shrunk if columns is None else shrunk @ overlaps(size, min(columns, size)).T


def centre(images: Float32Array) -> Float32Array:
    """Subtract row and column means, which removes timbre and a common beat, and scale to standard deviation 1.

    The residual shows which band is active when, which is specific to a recording.
    """
    residual = images - images.mean(axis=-1, keepdims=True)
    residual -= residual.mean(axis=-2, keepdims=True)
    spread: Float32Array = residual.std(axis=(-2, -1), keepdims=True)
    scaled: Float32Array = residual / np.maximum(spread, 1e-3)
    return scaled


def find_peaks(cqt: UInt8Array) -> tuple[NDArray[np.int32], UInt8Array, NDArray[np.uint16]]:
    """Find the local maxima of CQT images, shape (n, size, size).

    Returns
    -------
    slices, bins, columns : arrays, shape (n_peaks,)
        Sorted by slice and time.
    """
    from scipy.ndimage import maximum_filter

    detail = centre(reduce_rows(cqt, CQT_BINS))
    detail = 0.5 * (detail + np.roll(detail, 1, axis=2))  # mean of two columns: peaks depend less on the column grid
    around = (1, 2 * _PEAK_RADIUS[0] + 1, 2 * _PEAK_RADIUS[1] + 1)
    slices, rows, columns = np.nonzero((detail == maximum_filter(detail, around)) & (detail > _PROMINENCE))
    order = np.lexsort((rows, columns, slices))
    bins = detail.shape[1] - 1 - rows
    return slices[order].astype(np.int32), bins[order].astype(np.uint8), columns[order].astype(np.uint16)
